"""DSSE envelopes: the published vector, canonical base64, and every kind of tampering."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ucaudit.core.errors import InputError, MalformedRecordError, UcauditError, UnsupportedSchemaError
from ucaudit.core.records.statement import parse_statement
from ucaudit.evidence.keys import generate, load_signer
from ucaudit.evidence.signing import PAYLOAD_TYPE, Envelope, pae, sign, sigstore_bundle


@pytest.fixture(scope="module")
def signer(tmp_path_factory):
    private, _, _ = generate(tmp_path_factory.mktemp("keys"), "k", password=None)
    return load_signer(str(private))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    private, _, _ = generate(tmp_path_factory.mktemp("keys"), "other", password=None)
    return load_signer(str(private))


def test_pae_of_the_specification():
    # The example of the DSSE protocol description.
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


def test_sign_and_find_the_signer(signer, other):
    envelope = sign(b'{"a":1}', signer)
    assert envelope.signers([other.public_key, signer.public_key]) == (signer.public_key,)
    assert envelope.signers([other.public_key]) == ()
    assert envelope.statement() == {"a": 1}
    assert Envelope.parse(envelope.raw, subject="t").digest == envelope.digest


def test_sigstore_form_holds_the_same_record(signer):
    envelope = sign(b'{"a":1}', signer)
    again = Envelope.parse(sigstore_bundle(envelope, signer.public_key), subject="t")
    assert again.payload == envelope.payload
    assert again.signers([signer.public_key])


def test_a_hint_is_never_believed(signer, other):
    document = json.loads(sign(b"{}", other).raw)
    document["signatures"][0]["keyid"] = signer.public_key.key_id
    envelope = Envelope.parse(json.dumps(document).encode(), subject="t")
    keys = [signer.public_key, other.public_key]
    assert envelope.signers(keys) == (other.public_key,)
    assert envelope.wrong_hints(keys) == (signer.public_key.key_id,)


def test_a_second_invalid_signature_does_not_hide_behind_a_valid_one(signer, other):
    document = json.loads(sign(b"{}", signer).raw)
    document["signatures"].append({"sig": base64.b64encode(b"\0" * 64).decode(), "keyid": other.public_key.key_id})
    envelope = Envelope.parse(json.dumps(document).encode(), subject="t")
    assert envelope.signers([other.public_key]) == ()


def test_payload_type_is_signed_and_exact(signer):
    document = json.loads(sign(b"{}", signer).raw)
    document["payloadType"] = "application/vnd.in-toto+json; charset=utf-8"
    envelope = Envelope.parse(json.dumps(document).encode(), subject="t")
    assert envelope.signers([signer.public_key]) == ()
    with pytest.raises(UnsupportedSchemaError, match="payload type"):
        envelope.statement()


def good(signer):
    return json.loads(sign(b'{"a":1}', signer).raw)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda d: d.pop("payload"), "not a dsse envelope"),
        (lambda d: d.update(extra=1), "not a dsse envelope"),
        (lambda d: d.update(payload=1), "wrong type"),
        (lambda d: d.update(signatures=[]), "0 signatures"),
        (lambda d: d.update(signatures=d["signatures"] * 17), "17 signatures"),
        (lambda d: d["signatures"][0].pop("sig"), "malformed dsse signature"),
        (lambda d: d["signatures"][0].update(cert="x"), "malformed dsse signature"),
        (lambda d: d.update(payload="e30"), "not base64"),
        (lambda d: d.update(payload="e3\n0="), "not base64"),
        (lambda d: d.update(payload="e31="), "not canonical"),
    ],
)
def test_malformed_envelopes(signer, change, error):
    document = good(signer)
    change(document)
    with pytest.raises(MalformedRecordError, match=error):
        Envelope.parse(json.dumps(document).encode(), subject="t")


def test_url_safe_base64_is_read(signer):
    document = good(signer)
    raw = base64.b64decode(document["signatures"][0]["sig"])
    document["signatures"][0]["sig"] = base64.urlsafe_b64encode(raw).decode()
    assert Envelope.parse(json.dumps(document).encode(), subject="t").signers([signer.public_key])


def test_of_sixteen_spellings_of_a_signature_one_is_accepted(signer):
    document = good(signer)
    text = document["signatures"][0]["sig"]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    accepted = 0
    first = alphabet.index(text[-3]) & ~15
    for index in range(first, first + 16):
        document["signatures"][0]["sig"] = text[:-3] + alphabet[index] + "=="
        try:
            Envelope.parse(json.dumps(document).encode(), subject="t")
            accepted += 1
        except MalformedRecordError:
            pass
    assert accepted == 1


def test_other_sigstore_versions(signer):
    bundle = json.loads(sigstore_bundle(sign(b"{}", signer), signer.public_key))
    bundle["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.1"
    with pytest.raises(UnsupportedSchemaError):
        Envelope.parse(json.dumps(bundle).encode(), subject="t")
    bundle["mediaType"] = "application/vnd.dev.sigstore.bundle.v0.3+json"
    del bundle["dsseEnvelope"]
    with pytest.raises(MalformedRecordError):
        Envelope.parse(json.dumps(bundle).encode(), subject="t")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda d: d.update(extra=1), "missing or unknown members"),
        (lambda d: d.pop("verificationMaterial"), "missing or unknown members"),
        (lambda d: d["verificationMaterial"].update(certificate={"rawBytes": "AAAA"}), "other material"),
        (lambda d: d["verificationMaterial"].update(tlogEntries=[{}]), "other material"),
        (lambda d: d["verificationMaterial"].update(timestampVerificationData={}), "other material"),
        (lambda d: d["verificationMaterial"].pop("publicKey"), "other material"),
        (lambda d: d["verificationMaterial"]["publicKey"].update(rawBytes="AAAA"), "no hint"),
        (lambda d: d["verificationMaterial"].update(publicKey={"hint": 1}), "no hint"),
        (lambda d: d["verificationMaterial"].update(publicKey={"hint": "%"}), "not base64"),
        (lambda d: d["dsseEnvelope"]["signatures"].append(d["dsseEnvelope"]["signatures"][0]), "one signature"),
        (lambda d: d["dsseEnvelope"].update(signatures=[]), "one signature"),
        (lambda d: d.update(dsseEnvelope=[]), "one signature"),
        (lambda d: d.update(dsseEnvelope={"signatures": [{}]}), "not a dsse envelope"),
    ],
)
def test_sigstore_forms_that_we_do_not_write(signer, change, error):
    bundle = json.loads(sigstore_bundle(sign(b"{}", signer), signer.public_key))
    change(bundle)
    with pytest.raises(InputError, match=error):
        Envelope.parse(json.dumps(bundle).encode(), subject="t")


def test_the_sigstore_hint_is_checked_like_a_key_id(signer, other):
    envelope = sign(b"{}", other)
    right = Envelope.parse(sigstore_bundle(envelope, other.public_key), subject="t")
    assert right.wrong_hints([signer.public_key, other.public_key]) == ()
    assert right.signatures[0].key_hint == other.public_key.key_id
    wrong = Envelope.parse(sigstore_bundle(envelope, signer.public_key), subject="t")
    assert wrong.wrong_hints([signer.public_key, other.public_key]) == (signer.public_key.key_id,)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_flipped_bit_is_accepted(signer, data):
    envelope = sign(b'{"predicate":{"determination":"fail"}}', signer)
    position = data.draw(st.integers(0, len(envelope.raw) * 8 - 1))
    raw = bytearray(envelope.raw)
    raw[position // 8] ^= 1 << position % 8
    try:
        changed = Envelope.parse(bytes(raw), subject="t")
    except InputError:
        return
    except UcauditError as error:  # pragma: no cover - would be a finding
        raise AssertionError from error
    if changed.signers([signer.public_key]):
        # Only the unauthenticated key hint may differ in an envelope that still verifies.
        assert changed.payload == envelope.payload
        assert changed.payload_type == PAYLOAD_TYPE


@pytest.mark.parametrize(
    ("created", "message"),
    [
        ("2026-01-01T00:00:00", "predicate.created: not a utc time like 2027-01-01T00:00:00Z"),
        (7, "predicate.created: input should be a valid string"),
    ],
)
def test_a_predicate_that_does_not_fit_says_where_and_what_is_wanted(created, message):
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "n", "digest": {"sha256": "0" * 64}}],
        "predicateType": "urn:ucaudit:predicate:endorsement:v1",
        "predicate": {"created": created},
    }
    with pytest.raises(MalformedRecordError) as caught:
        parse_statement(json.dumps(statement).encode(), subject="s")
    assert caught.value.message == message
