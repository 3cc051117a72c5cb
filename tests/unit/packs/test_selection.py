"""Which of several bundles a pack is judged by: no stranger and no damage decides it, and nothing goes unsaid."""

import json
import shutil

import pytest
from bundles import make_bundle, make_setting, make_values
from floors import make_floor
from people import person

from ucaudit.core.errors import (
    DigestMismatchError,
    InputError,
    MalformedRecordError,
    NotFoundError,
    SignatureInvalidError,
    VerificationError,
)
from ucaudit.evidence import bundle as names
from ucaudit.evidence.trust import add_key, load_trust, revoke
from ucaudit.packs.selection import select_bundle


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def other_setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("stranger"))


def at(moment, **pack):
    def change(record):
        return record.model_copy(update={"created": moment, "pack": record.pack.model_copy(update=pack)})

    return change


def made(setting, name, moment, *, drift=0.004, **pack):
    out = setting.root / "made" / name
    out.parent.mkdir(exist_ok=True)
    return make_bundle(setting, out, values=make_values(drift=drift), change_record=at(moment, **pack))


@pytest.fixture(scope="module")
def shelf(setting, other_setting):
    """One bundle of each kind."""
    return {
        "good": made(setting, "good", "2026-11-01T00:00:00Z"),
        "failed": made(setting, "failed", "2026-11-02T00:00:00Z", drift=0.1),
        "of-another-pack": made(setting, "of-another-pack", "2026-11-03T00:00:00Z", pack_digest="0" * 64),
        "strange": made(other_setting, "strange", "2099-01-01T00:00:00Z"),
    }


@pytest.fixture
def evidence(shelf, tmp_path):
    """Lays copies of bundles into a directory."""
    place = tmp_path / "evidence"
    place.mkdir()

    def lay(*wanted):
        for name in wanted:
            shutil.copytree(shelf[name], place / name)
        return place

    return lay


def choose(place, setting, trust=None):
    return select_bundle(place, setting.pack, load_trust(trust or setting.trust))


def chosen(place, setting):
    found = choose(place, setting)
    return found.bundle.path.name, {name for name, _ in found.passed_over}


def test_no_evidence_and_one_bundle(evidence, setting):
    with pytest.raises(NotFoundError, match="no evidence"):
        choose(evidence(), setting)
    place = evidence("strange")
    assert chosen(place, setting) == ("strange", set())
    assert choose(place / "strange", setting).bundle.path.name == "strange"


def test_the_newest_about_this_pack(evidence, setting, tmp_path):
    place = evidence("good", "failed", "of-another-pack")
    assert chosen(place, setting) == ("failed", set())
    shutil.rmtree(place / "failed")
    assert chosen(place, setting) == ("good", set())
    renamed = shutil.copytree(setting.pack, tmp_path / "renamed")
    assert select_bundle(place, renamed, load_trust(setting.trust)).bundle.path.name == "good"
    (renamed / "manifest.json").write_text("[]")
    drifted = select_bundle(place, renamed, load_trust(setting.trust))
    assert drifted.bundle.path.name == "of-another-pack"  # the newest: the drift is then named


def test_a_stranger_neither_counts_nor_blocks(evidence, setting):
    assert chosen(evidence("good", "strange"), setting) == ("good", {"strange"})


def test_only_strangers(evidence, setting):
    place = evidence("strange")
    shutil.copytree(place / "strange", place / "stranger")
    assert choose(place, setting).bundle.path.name == "strange"


def edit(path, **members):
    document = json.loads(path.read_bytes())
    document.update(members)
    path.write_text(json.dumps(document))


def rename_key(place):
    """The payload and the names of the keys changed, in every form but the closing: no stranger's work."""
    for name in (names.ATTESTATION, names.CHAIN):
        edit(place / name, payload="e30=", signatures=[{"keyid": "", "sig": "AAAA"}])
    (place / names.SIGSTORE).unlink()


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda place: edit(place / names.ATTESTATION, payload="e30="), SignatureInvalidError),
        (lambda place: (place / names.ATTESTATION).write_text("garbage"), MalformedRecordError),
        (lambda place: (place / names.ATTESTATION).unlink(), NotFoundError),
        (lambda place: (place / ".DS_Store").write_text("x"), MalformedRecordError),
        (rename_key, VerificationError),
    ],
)
def test_damage_does_not_hide_a_failure(evidence, setting, damage, error):
    """A newer failed record, damaged by somebody without a key, would leave the older good one to be found."""
    place = evidence("good", "failed")
    damage(place / "failed")
    with pytest.raises(error) as caught:
        choose(place, setting)
    assert "failed" in caught.value.subject
    assert "take it out of the directory" in caught.value.hint


@pytest.mark.parametrize(
    "damage",
    [
        lambda place: (place / names.ATTESTATION).write_text("garbage"),
        lambda place: (place / ".DS_Store").write_text("x"),
    ],
)
def test_damage_to_another_packs_bundle_blocks_nothing(evidence, setting, damage):
    place = evidence("good", "of-another-pack")
    damage(place / "of-another-pack")
    assert chosen(place, setting) == ("good", {"of-another-pack"})


def test_another_packs_record_in_the_place_of_a_failed_one(evidence, setting):
    place = evidence("good", "failed", "of-another-pack")
    shutil.copy(place / "of-another-pack" / names.ATTESTATION, place / "failed")
    with pytest.raises(DigestMismatchError, match="holds another record") as caught:
        choose(place, setting)
    assert "failed" in caught.value.subject


def test_a_short_name_is_named_as_well(evidence, setting):
    place = evidence("good", "failed")
    edit(place / "failed" / names.ATTESTATION, payload="e30=")
    (place / "failed").rename(place / "a")
    with pytest.raises(SignatureInvalidError) as caught:
        choose(place, setting)
    assert caught.value.subject == f"a/{names.ATTESTATION}"


def test_what_says_nothing_about_itself_is_refused(evidence, setting):
    place = evidence("good")
    (place / "half").mkdir()
    (place / "half" / names.ATTESTATION).write_text("garbage")
    with pytest.raises(InputError, match="half"):
        choose(place, setting)


def test_a_strangers_bundle_that_a_trusted_validator_closed(evidence, setting, other_setting, tmp_path):
    place = evidence("good", "strange")
    trust = tmp_path / "trust.toml"
    shutil.copy(setting.trust, trust)
    validator = person(setting, "validator", trust=trust)
    names.close_bundle(place / "strange", validator)
    assert choose(place, setting, trust).bundle.path.name == "good"
    # Edited after that, it cannot say any more whose it was.
    edit(place / "strange" / names.ATTESTATION, payload="e30=")
    with pytest.raises(VerificationError, match="strange"):
        choose(place, setting, trust)


def test_a_key_that_does_not_count(evidence, setting, other_setting, tmp_path):
    place = evidence("good", "strange")
    trust = tmp_path / "trust.toml"
    shutil.copy(setting.trust, trust)
    add_key(trust, other_setting.signer.public_key, "thief@tests.invalid", roles=("developer",))
    assert choose(place, setting, trust).bundle.path.name == "strange"
    revoke(trust, "key", 1, at="2026-11-01T00:00:00Z", reason="stolen")
    found = choose(place, setting, trust)
    assert found.bundle.path.name == "good"
    ((name, reason),) = found.passed_over
    assert name == "strange"
    assert "stolen" in reason


def test_excludes_of_the_record(evidence, setting, tmp_path):
    """A record is about this pack by its own excludes; whether they are allowed is judged later."""
    place = evidence("good", "failed")
    pack = shutil.copytree(setting.pack, tmp_path / "pack")
    (pack / ".git").mkdir()
    (pack / ".git" / "config").write_text("x")
    found = select_bundle(place, pack, load_trust(setting.trust), excludes=(".git/",))
    assert found.bundle.path.name == "failed"


# --- bundles of floors -----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def floor(setting):
    return make_floor(setting, setting.root / "made" / "floor")


def test_a_floor_beside_the_evidence_is_passed_over_and_listed(evidence, floor, setting):
    place = evidence("good")
    shutil.copytree(floor, place / "floor")
    assert chosen(place, setting) == ("good", {"floor"})


def test_a_floors_record_in_the_place_of_a_result_hides_nothing(evidence, floor, setting):
    """Somebody lays a floor's envelope over a failed result: the closing statement still names the other record."""
    place = evidence("good", "failed")
    for name in (names.ATTESTATION, names.SIGSTORE, names.CHAIN):
        shutil.copy(floor / name, place / "failed" / name)
    with pytest.raises(InputError, match="failed"):
        choose(place, setting)
