"""What a record says of its measurement, held against the per-token files and the rules of measuring."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from bundles import PACK_FILES, make_bundle, make_setting, make_values, remeasured
from tinypack import tiny_pack, tiny_state

from ucaudit.core.digest import StateManifest
from ucaudit.core.errors import CodecUnavailableError, InputError
from ucaudit.core.records import BitsPerWeight
from ucaudit.core.windows import MAX_WINDOWS
from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.gate import apply_policy
from ucaudit.evidence.policy import ClaimRules, MeasurementRules, Policy
from ucaudit.evidence.trust import Validity, load_trust, parse_trust
from ucaudit.evidence.verify import verify_bundle
from ucaudit.packs.compare import check_files


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


def verify(path, setting):
    return verify_bundle(open_bundle(path), load_trust(setting.trust))


def failed(path, setting):
    return {check.slug for check in verify(path, setting).failures}


# --- the numerical tolerance ------------------------------------------------------------------------------
def test_a_tolerance_below_that_of_the_compute_type(setting, tmp_path):
    path = make_bundle(setting, tmp_path / "b", change_record=remeasured(tolerance=0.9e-5))
    assert failed(path, setting) == {"tolerance"}
    larger = make_bundle(setting, tmp_path / "c", change_record=remeasured(tolerance=2e-5))
    assert failed(larger, setting) == set()


def test_the_gate_judges_by_no_less_than_the_compute_type_calls_for(setting, tmp_path):
    """640 tokens in bf16: τ is 0.0077, more than ln 1.01 leaves above the interval."""
    path = make_bundle(setting, tmp_path / "b", change_record=remeasured(dtype="bf16", tolerance=0.0))
    result = verify(path, setting)
    assert "tolerance" in {check.slug for check in result.failures}
    policy = Policy(
        claims=ClaimRules(ppl_ratio_max=1.01), measurement=MeasurementRules(n=30, seq_len=8, dtype="bf16")
    )
    assert next(claim.verdict for claim in apply_policy(result, policy)) == "inconclusive"


# --- window length and text -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("corpus", "members", "slug"),
    [
        ({"tokens": 10 * 40 * 1024, "bytes": 10**7}, {"seq_len": 1024}, "sample-size"),
        ({}, {"bos": "prepended"}, "sample-size"),
        ({}, {"scored_tokens": 40 * 1023}, "sample-size"),
        ({"tokens": 9000}, {}, "corpus-size"),
        ({"tokens": 10 * 40 * 17 - 1}, {}, "corpus-size"),
        ({"bytes": 10 * 40 * 17 - 2}, {}, "corpus-size"),
    ],
)
def test_sizes_that_the_files_do_not_have(setting, tmp_path, corpus, members, slug):
    path = make_bundle(setting, tmp_path / "b", planned=False, change_record=remeasured(corpus, **members))
    assert failed(path, setting) == {slug}


def test_with_a_bos_token_in_front_every_token_of_the_text_is_scored(setting, tmp_path):
    change = remeasured({"tokens": 10 * 40 * 16}, bos="prepended", seq_len=16)
    assert failed(make_bundle(setting, tmp_path / "b", planned=False, change_record=change), setting) == set()


# --- documents --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("documents", "corpus"),
    [
        (None, {"documents": 3, "rows": "0:3", "text_column": "text"}),
        (None, {"documents": 3}),
        (range(40), {"documents": None}),
        (range(40), {"documents": 39}),
        (range(40), {"rows": "0:39"}),
        (range(40), {"rows": "1:41"}),
    ],
)
def test_documents_left_out_or_made_up(setting, tmp_path, documents, corpus):
    values = replace(make_values(), documents=tuple(documents) if documents else None)
    path = make_bundle(setting, tmp_path / "b", values=values, change_record=remeasured(corpus))
    assert failed(path, setting) == {"documents"}


def test_documents_as_the_text_has_them(setting, tmp_path):
    values = replace(make_values(), documents=tuple(range(40)))
    assert failed(make_bundle(setting, tmp_path / "b", values=values), setting) == set()


# --- the draw ---------------------------------------------------------------------------------------------
def test_however_many_windows_are_claimed_the_draw_is_checked(setting, tmp_path):
    for number, claimed in enumerate((1_000_001, MAX_WINDOWS + 1, 10**12)):
        change = remeasured({"windows_available": claimed, "tokens": claimed * 17, "bytes": claimed * 50})
        assert failed(make_bundle(setting, tmp_path / str(number), change_record=change), setting) == {"draw"}


# --- the ledger's window ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('valid-until = "2020-01-01T00:00:00Z"', "expired at 2020-01-01T00:00:00Z"),
        ('valid-from = "2999-01-01T00:00:00Z"', "not valid before 2999-01-01T00:00:00Z"),
        ('valid-from = "2020-01-01T00:00:00Z"\nvalid-until = "2999-01-01T00:00:00Z"', None),
    ],
)
def test_a_ledger_key_outside_its_window(setting, tmp_path, line, says):
    path = make_bundle(setting, tmp_path / "b")
    trust = setting.trust.read_text().replace("[[ledger]]", f"[[ledger]]\n{line}")
    result = verify_bundle(open_bundle(path), parse_trust(trust.encode(), subject="trust"))
    assert {check.slug for check in result.failures} == ({"ledger", "plan-ledger"} if says else set())
    assert all(says in check.detail for check in result.failures)


def test_a_window_is_judged_at_the_trusted_time():
    first, second, third = (datetime(2026, month, 1, tzinfo=UTC) for month in (1, 2, 3))
    assert Validity(valid_until=second).objection(first, third) == "expired at 2026-02-01T00:00:00Z"
    assert Validity(valid_until=second).objection(third, first) is None
    assert Validity(valid_from=second).objection(first, third) == "not valid before 2026-02-01T00:00:00Z"


# --- the pack in hand -------------------------------------------------------------------------------------
def with_pack(setting, tmp_path, part, files=None, **members):
    """Failed checks of a bundle with its pack: ``part`` of the record gets ``members``."""
    files = files or PACK_FILES

    def change(record):
        return record.model_copy(update={part: getattr(record, part).model_copy(update=members)})

    path = make_bundle(setting, tmp_path / "b", planned=False, change_record=change, pack_files=files)
    for name, data in files.items():
        (tmp_path / "pack" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pack" / name).write_bytes(data)
    result = verify(path, setting)
    check_files(open_bundle(path), result.record, tmp_path / "pack", result)
    return {check.slug for check in result.failures}, result


def test_an_honest_record_of_the_pack(setting, tmp_path):
    slugs, result = with_pack(setting, tmp_path, "pack")
    assert slugs == set()
    passed = {check.slug for check in result.checks if check.status == "pass"}
    assert {"pack-files", "pack-format", "pack-manifest", "published-state"} <= passed


@pytest.mark.parametrize(
    "members",
    [
        {"codec": "gguf"},
        {"codec_version": 2},
        {"arithmetic_profile": "ggml-f32-bf16/1"},
        {"bytes": 7},
        {"bits_per_weight": BitsPerWeight(nominal=5.0, compressed_on_disk=4.2, whole_on_disk=7.5)},
        {"bits_per_weight": BitsPerWeight(nominal=4.0, compressed_on_disk=5.5, whole_on_disk=7.5)},
    ],
)
def test_the_packs_format_is_not_the_signers_word(setting, tmp_path, members):
    assert with_pack(setting, tmp_path, "pack", **members)[0] == {"pack-format"}


def test_an_attested_pack_of_no_format_is_malformed(setting, tmp_path):
    with pytest.raises(InputError, match="no known pack format"):
        with_pack(setting, tmp_path, "pack", files=PACK_FILES | {"manifest.json": b"{}"})


@pytest.mark.parametrize("says", ["no", "none-published"])
def test_what_the_record_says_of_the_published_state(setting, tmp_path, says):
    slugs, _ = with_pack(setting, tmp_path, "reconstruction", matches_published=says)
    assert "published-state" in slugs


def test_a_pack_that_publishes_another_state(setting, tmp_path):
    wrong = StateManifest.build(
        [replace(entry, digest="a" * 64) if entry.name == "model.w" else entry for entry in tiny_state().entries]
    )
    files = tiny_pack(state=wrong)
    honest = {"bytes": sum(map(len, files.values()))}
    assert with_pack(setting, tmp_path / "lie", "pack", files, **honest)[0] == {"published-state"}


def test_the_gate_needs_the_codec(setting, tmp_path, monkeypatch):
    """Where no codec opens the pack, format and bits a weight would be the signer's word."""

    def absent(_):
        raise CodecUnavailableError("codec not available", subject="ucq")

    monkeypatch.setattr("ucaudit.packs.codecs.open_source", absent)
    slugs, result = with_pack(setting, tmp_path, "pack")
    assert slugs == set()
    apply_policy(
        result, Policy(claims=ClaimRules(ppl_ratio_max=2.0), measurement=MeasurementRules(n=30, seq_len=8))
    )
    assert "format-checked" in {check.slug for check in result.failures}
