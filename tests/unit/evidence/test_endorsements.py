"""Countersignatures: made, listed, counted; and every way in which one does not count."""

import base64
import json
import shutil
import subprocess
import sys
import threading

import pytest
from bundles import make_bundle, make_setting, make_values
from people import add_signature, append_line, endorsement, failures, judged, person

from ucaudit.core.errors import (
    DigestMismatchError,
    InputError,
    MalformedRecordError,
    RefusedError,
    UnsupportedSchemaError,
    VerificationError,
)
from ucaudit.core.files import write_bytes
from ucaudit.evidence import amend
from ucaudit.evidence import bundle as names
from ucaudit.evidence.amend import countersign
from ucaudit.evidence.bundle import close_bundle, open_bundle
from ucaudit.evidence.signing import PAYLOAD_TYPE, Envelope, pae, sign
from ucaudit.evidence.trust import add_key, load_trust


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def honest(setting):
    return make_bundle(setting, setting.root / "honest")


@pytest.fixture(scope="module")
def stranger(setting):
    return person(setting, "stranger")


@pytest.fixture(scope="module")
def validator(setting):
    return person(setting, "validator")


@pytest.fixture
def copy(honest, tmp_path):
    return shutil.copytree(honest, tmp_path / "bundle")


@pytest.fixture
def trust(setting, validator, tmp_path):
    path = tmp_path / "trust.toml"
    shutil.copy(setting.trust, path)
    add_key(path, validator.public_key, "validator@tests.invalid", roles=["validator", "approver"])
    return path


def listed(path):
    return sorted(entry.name for entry in path.iterdir())


def contents(path):
    return {entry.name: entry.read_bytes() for entry in path.iterdir()}


def say(path, signer, **changes):
    arguments = {"printed_name": "Vera Lid", "role": "validator", "meaning": "approval"} | changes
    return countersign(path, signer, **arguments)


def test_a_countersignature_counts_and_is_listed(copy, trust, validator):
    before = {name: (copy / name).read_bytes() for name in open_bundle(copy).files}
    made = say(copy, validator, printed_name="  Vera\n Lid ", trust=load_trust(trust))
    assert not made.own_record
    result = judged(copy, trust)
    assert result.authentic, result.failures
    (found,) = result.endorsements
    assert (found.printed_name, found.role, found.meaning) == ("Vera Lid", "validator", "approval")
    assert found.digest == made.envelope.digest
    assert found.entry.principal == "validator@tests.invalid"
    lines = (copy / names.CHAIN).read_bytes().splitlines(keepends=True)
    assert lines == [before[names.ATTESTATION], made.envelope.raw]
    changed = {name for name in before if (copy / name).read_bytes() != before[name]}
    assert changed == {names.CHAIN, names.CLOSING}
    assert list(copy.parent.glob(".bundle*")) == []
    # A second one, of another meaning, by the same key and by the record's own.
    say(copy, validator, meaning="review", role="approver")
    assert [item.meaning for item in judged(copy, trust).endorsements] == ["approval", "review"]


def test_the_records_own_key_is_told(copy, setting):
    assert say(copy, setting.signer, role="developer", meaning="responsibility").own_record


def test_the_same_saying_twice_is_refused(copy, validator):
    say(copy, validator)
    with pytest.raises(RefusedError, match="endorsed the record already"):
        say(copy, validator, printed_name="V. L.")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"role": "Validator"}, "role"),
        ({"role": ""}, "role"),
        ({"printed_name": " "}, "name"),
        ({"printed_name": "a\x1b[2Kb"}, "control characters"),
        ({"printed_name": "x" * 501}, "name"),
    ],
)
def test_names_and_roles_that_no_endorsement_holds(copy, validator, changes, words):
    with pytest.raises(InputError, match=words):
        say(copy, validator, **changes)
    assert len(open_bundle(copy).chain()) == 1


def damage_value_file(path):
    data = bytearray((path / names.VALUE_FILES[0]).read_bytes())
    data[-2] ^= 1
    (path / names.VALUE_FILES[0]).write_bytes(data)


def damage_report(path):
    (path / names.report_name("soc2")).write_bytes(b"%PDF-1.7 other")


def unclose(path):
    (path / names.CLOSING).unlink()


def other_chain(path):
    (path / names.CHAIN).write_bytes((path / names.CLOSING).read_bytes())


@pytest.mark.parametrize("harm", [damage_value_file, damage_report, unclose, other_chain])
def test_nobody_endorses_what_does_not_hold_together(copy, validator, harm):
    harm(copy)
    before = contents(copy)
    with pytest.raises((VerificationError, InputError)):
        say(copy, validator)
    assert contents(copy) == before


def test_a_lie_in_the_figures_is_not_endorsed(setting, validator, tmp_path):
    def promote(record):
        claim = record.claims[0].model_copy(update={"verdict": "pass"})
        return record.model_copy(update={"claims": (claim, *record.claims[1:]), "determination": "pass"})

    path = make_bundle(setting, tmp_path / "b", values=make_values(drift=0.1), change_record=promote)
    with pytest.raises(VerificationError, match="re-derived"):
        say(path, validator)


def test_with_a_trust_file_signatures_are_checked_before_signing(copy, setting, validator, tmp_path):
    other = make_setting(tmp_path / "other")
    with pytest.raises(VerificationError):
        say(copy, validator, trust=load_trust(other.trust))
    say(copy, validator, trust=load_trust(setting.trust))


def test_the_working_directory_is_not_pulled_away(copy, validator, monkeypatch):
    monkeypatch.chdir(copy)
    with pytest.raises(RefusedError, match="working directory"):
        say(copy, validator)


# --- what does not count ------------------------------------------------------------------------------
def test_an_unknown_key(copy, trust, stranger, setting):
    append_line(copy, endorsement(open_bundle(copy).attestation.digest, stranger).raw, setting.signer)
    assert set(failures(copy, trust)) == {"endorsement-signature"}


def test_a_role_that_the_trust_file_does_not_give(copy, trust, setting, validator):
    say(copy, setting.signer, role="validator")
    found = failures(copy, trust)
    assert set(found) == {"endorsement-key"}
    assert "not trusted in the role validator (the trust file says developer)" in found["endorsement-key"]
    assert judged(copy, trust).endorsements == []


def test_a_key_that_is_not_trusted_for_endorsements(copy, setting, stranger, tmp_path):
    path = tmp_path / "narrow.toml"
    shutil.copy(setting.trust, path)
    add_key(path, stranger.public_key, "s", roles=["validator"], predicate_types=["bundle"])
    say(copy, stranger)
    found = failures(copy, path)
    assert found == {"endorsement-key": found["endorsement-key"]}
    assert "not trusted for a record of type endorsement" in found["endorsement-key"]


def test_a_key_that_may_not_close_bundles(copy, setting, stranger, tmp_path):
    path = tmp_path / "narrow.toml"
    shutil.copy(setting.trust, path)
    add_key(path, stranger.public_key, "s", roles=["validator"], predicate_types=["endorsement"])
    say(copy, stranger)
    assert set(failures(copy, path)) == {"bundle-key"}


def test_an_endorsement_of_another_record_replayed(copy, trust, setting, validator, tmp_path):
    other = make_bundle(setting, tmp_path / "other", values=make_values(seed=9))
    say(other, validator)
    append_line(copy, open_bundle(other).chain()[1].raw, setting.signer)
    found = failures(copy, trust)
    assert set(found) == {"endorsement"}
    assert "endorses another attestation" in found["endorsement"]
    with pytest.raises(DigestMismatchError, match="endorses another attestation"):
        say(copy, validator, meaning="review")


def test_the_same_record_signed_again_is_another_envelope(copy, trust, setting, validator):
    """An endorsement covers the envelope, not the payload: swapping the signature under it shows."""
    say(copy, validator)
    bundle = open_bundle(copy)
    document = json.loads(bundle.attestation.raw)
    document["signatures"][0]["keyid"] = ""
    raw = json.dumps(document).encode() + b"\n"
    write_bytes(copy / names.ATTESTATION, raw)
    write_bytes(copy / names.CHAIN, raw + bundle.chain()[1].raw)
    close_bundle(copy, setting.signer)
    assert {"endorsement", "ledger"} <= set(failures(copy, trust))


def test_subject_and_predicate_must_agree(copy, trust, setting, validator):
    digest = open_bundle(copy).attestation.digest
    append_line(copy, endorsement(digest, validator, subject_digest="0" * 64).raw, setting.signer)
    assert "disagree" in failures(copy, trust)["endorsement"]


def test_a_line_twice(copy, trust, setting, validator):
    say(copy, validator)
    append_line(copy, open_bundle(copy).chain()[1].raw, setting.signer)
    found = failures(copy, trust)
    assert found == {"endorsement": found["endorsement"]}
    assert "listed twice" in found["endorsement"]


def test_the_same_saying_in_two_envelopes_is_remarked(copy, trust, setting, validator):
    say(copy, validator)
    digest = open_bundle(copy).attestation.digest
    append_line(copy, endorsement(digest, validator, printed_name="Other Spelling").raw, setting.signer)
    result = judged(copy, trust)
    assert result.authentic
    assert any("counts once" in check.detail for check in result.checks if check.status == "warn")


def test_a_removed_line(copy, trust, validator):
    say(copy, validator)
    chain = (copy / names.CHAIN).read_bytes().splitlines(keepends=True)
    (copy / names.CHAIN).write_bytes(chain[0])
    found = failures(copy, trust)
    assert set(found) == {"closing"}
    assert names.CHAIN in found["closing"]


def test_the_first_line_is_the_record(copy, trust, setting, validator):
    say(copy, validator)
    chain = (copy / names.CHAIN).read_bytes().splitlines(keepends=True)
    write_bytes(copy / names.CHAIN, chain[1] + chain[0])
    close_bundle(copy, setting.signer)
    with pytest.raises(MalformedRecordError, match="not an endorsement"):
        judged(copy, trust)


def test_a_line_that_is_another_record(copy, trust, setting):
    append_line(copy, open_bundle(copy).closing.raw, setting.signer)
    with pytest.raises(MalformedRecordError, match="not an endorsement"):
        judged(copy, trust)


def test_a_payload_of_another_type(copy, trust, setting, validator):
    """The same bytes, signed as something else: a key that serves two protocols must not be turned against one."""
    body = endorsement(open_bundle(copy).attestation.digest, validator).payload
    kind = "application/json"
    signature = base64.b64encode(validator.sign(pae(kind, body))).decode()
    document = {
        "payload": base64.b64encode(body).decode(),
        "payloadType": kind,
        "signatures": [{"keyid": "", "sig": signature}],
    }
    append_line(copy, json.dumps(document).encode() + b"\n", setting.signer)
    with pytest.raises(UnsupportedSchemaError, match="payload type"):
        judged(copy, trust)
    document["payloadType"] = PAYLOAD_TYPE
    assert Envelope.parse(json.dumps(document).encode(), subject="t").signers([validator.public_key]) == ()


def test_two_signatures_under_one_printed_name(copy, trust, setting, validator):
    made = endorsement(open_bundle(copy).attestation.digest, validator)
    second = base64.b64encode(setting.signer.sign(pae(PAYLOAD_TYPE, made.payload))).decode()
    raw = add_signature(made, key_hint=setting.signer.public_key.key_id, signature=second)
    append_line(copy, raw, setting.signer)
    found = failures(copy, trust)
    assert {"endorsement", "endorsement-key"} == set(found)
    assert judged(copy, trust).endorsements == []


def test_a_second_signature_that_names_a_trusted_key(copy, trust, setting, validator):
    """Second-signature confusion: a good signature, and beside it one that only claims to be the validator's."""
    bundle = open_bundle(copy)
    raw = add_signature(
        bundle.attestation,
        key_hint=validator.public_key.key_id,
        signature=base64.b64encode(bytes(64)).decode(),
    )
    for name in (names.ATTESTATION, names.CHAIN):
        write_bytes(copy / name, raw)
    close_bundle(copy, setting.signer)
    found = failures(copy, trust)
    assert "names trusted key" in found["attestation-signature"]
    assert [entry.principal for entry in judged(copy, trust).signers] == ["signer@tests.invalid"]


def test_a_second_signature_of_nobody_counts_for_nothing(copy, trust, setting, stranger):
    bundle = open_bundle(copy)
    good = base64.b64encode(stranger.sign(pae(PAYLOAD_TYPE, bundle.attestation.payload))).decode()
    raw = add_signature(bundle.attestation, key_hint="", signature=good)
    for name in (names.ATTESTATION, names.CHAIN):
        write_bytes(copy / name, raw)
    close_bundle(copy, setting.signer)
    result = judged(copy, trust)
    assert len(result.signers) == 1
    assert any("counts for nothing" in check.detail for check in result.checks if check.status == "warn")


def test_key_confusion(copy, trust, setting, validator):
    """The hint says validator, the signature is the developer's: judged by the key that made it."""
    made = endorsement(open_bundle(copy).attestation.digest, setting.signer)
    document = json.loads(made.raw)
    document["signatures"][0]["keyid"] = validator.public_key.key_id
    append_line(copy, json.dumps(document).encode() + b"\n", setting.signer)
    result = judged(copy, trust)
    assert {check.slug for check in result.failures} == {"endorsement-key"}
    assert any(check.slug == "endorsement-key-hint" for check in result.checks)
    assert result.endorsements == []


def test_before_the_record(copy, trust, setting, validator):
    digest = open_bundle(copy).attestation.digest
    append_line(copy, endorsement(digest, validator, created="2020-01-01T00:00:00Z").raw, setting.signer)
    result = judged(copy, trust)
    assert any("one of the clocks is wrong" in check.detail for check in result.checks if check.status == "warn")


def test_too_many(copy, trust, setting, validator, monkeypatch):
    monkeypatch.setattr(amend, "MAX_ENDORSEMENTS", 1)
    say(copy, validator)
    with pytest.raises(RefusedError, match="1 endorsements already"):
        say(copy, validator, meaning="review")
    digest = open_bundle(copy).attestation.digest
    lines = b"".join(endorsement(digest, validator, printed_name=f"n{number}").raw for number in range(100))
    append_line(copy, lines, setting.signer)
    with pytest.raises(MalformedRecordError, match="more than 100"):
        judged(copy, trust)


# --- atomic -------------------------------------------------------------------------------------------
def test_nothing_changes_if_signing_fails(copy, setting, validator):
    class Broken:
        public_key = validator.public_key
        calls = 0

        def sign(self, data):
            self.calls += 1
            if self.calls > 1:
                raise OSError("the token was pulled out")
            return validator.sign(data)

    before = contents(copy)
    with pytest.raises(OSError, match="pulled out"):
        say(copy, Broken())
    assert contents(copy) == before
    assert listed(copy.parent) == ["bundle"]


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from ucaudit.core import files
from ucaudit.evidence import amend
from ucaudit.evidence.keys import load_signer
point = int(sys.argv[4])
count = 0
def trap(function):
    def run(*args, **options):
        global count
        count += 1
        if count == point:
            os.kill(os.getpid(), 9)
        return function(*args, **options)
    return run
amend.write_bytes = trap(amend.write_bytes)
amend.close_bundle = trap(amend.close_bundle)
amend.exchange_directories = trap(amend.exchange_directories)
amend.shutil.rmtree = trap(amend.shutil.rmtree)
amend.countersign(Path(sys.argv[1]), load_signer(sys.argv[2]), printed_name="V", role="validator", meaning="review")
"""


@pytest.mark.parametrize("point", [1, 2, 3, 4])
def test_killed_at_any_step_the_bundle_is_the_old_or_the_new_one(copy, trust, setting, validator, point):
    key = setting.root / "people" / "validator.pem"
    words = [sys.executable, "-c", KILLED, copy, key, "tests", str(point)]
    done = subprocess.run(words, capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    result = judged(copy, trust)
    assert result.authentic, result.failures
    assert len(result.endorsements) == (1 if point == 4 else 0)


def test_two_at_once_lose_nothing(copy, setting, trust):
    signers = [person(setting, f"racer{number}", trust=trust) for number in range(4)]
    threads = [threading.Thread(target=say, args=(copy, signer)) for signer in signers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = judged(copy, trust)
    assert result.authentic, result.failures
    assert {item.entry.principal for item in result.endorsements} == {
        f"racer{number}@tests.invalid" for number in range(4)
    }


def test_without_renameat2(copy, trust, validator, monkeypatch):
    import ctypes

    class NoSuchCall:
        def __init__(self, *words, **options):
            pass

    monkeypatch.setattr(ctypes, "CDLL", NoSuchCall)
    say(copy, validator)
    assert len(judged(copy, trust).endorsements) == 1
    assert listed(copy.parent) == ["bundle", "trust.toml"]


def test_a_hardware_signer_needs_only_the_interface(copy, trust, setting):
    """P-256 as tokens have it: the record verifies, though ucaudit itself signs Ed25519 only."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    from ucaudit.evidence.keys import PublicKey

    class Token:
        def __init__(self):
            self._key = ec.generate_private_key(ec.SECP256R1())
            spki = self._key.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            self.public_key = PublicKey.from_spki(spki, subject="token")

        def sign(self, data):
            return self._key.sign(data, ec.ECDSA(SHA256()))

    token = Token()
    add_key(trust, token.public_key, "token@tests.invalid", roles=["validator"])
    say(copy, token)
    result = judged(copy, trust)
    assert result.authentic, result.failures
    assert result.endorsements[0].entry.key.algorithm == "ecdsa-p256"
    data = bytearray((copy / names.CHAIN).read_bytes())
    data[-20] ^= 1
    write_bytes(copy / names.CHAIN, bytes(data))
    with pytest.raises((InputError, AssertionError)):
        assert judged(copy, trust).authentic


def test_a_signer_that_answers_wrongly_is_caught(copy, validator, stranger):
    class Confused:
        public_key = validator.public_key

        def sign(self, data):
            return stranger.sign(data)

    with pytest.raises(VerificationError, match="does not verify"):
        say(copy, Confused())
    assert sign(b"{}", validator).signers([validator.public_key])
