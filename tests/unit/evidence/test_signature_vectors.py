"""Wycheproof's Ed25519 and P-256 cases, and the examples of RFC 8032: every answer is the published one."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ucaudit.evidence.keys import PublicKey, load_signer
from ucaudit.evidence.signing import Envelope, sign

VECTORS = Path(__file__).parents[2] / "vectors" / "signatures"


def cases(name):
    return json.loads((VECTORS / name).read_text(encoding="ascii"))["cases"]


@pytest.fixture
def signer_of(monkeypatch):
    """The signer of a seed, read as a key file is."""

    def load(seed):
        private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
        pem = private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
        monkeypatch.setenv("VECTOR_KEY", pem.decode())
        return load_signer("env:VECTOR_KEY")

    return load


@pytest.mark.parametrize(("name", "count"), [("ed25519", 151), ("ecdsa-p256", 484)])
def test_wycheproof(name, count):
    found = cases(f"wycheproof-{name}.json")
    wrong = []
    for number, key, message, signature, expected, flags in found:
        public = PublicKey.from_spki(bytes.fromhex(key), subject="vector")
        assert public.algorithm == name
        if public.verify(bytes.fromhex(signature), bytes.fromhex(message)) is not (expected == "valid"):
            wrong.append((number, expected, flags))
    assert not wrong
    assert len(found) == count and {case[4] for case in found} == {"valid", "invalid"}


@pytest.mark.parametrize("case", cases("rfc8032.json"), ids=lambda case: case[0])
def test_rfc_8032(case, signer_of):
    _, seed, public, message, signature = case
    signer = signer_of(seed)
    assert signer.public_key.spki[-32:].hex() == public
    assert PublicKey.from_raw_ed25519(bytes.fromhex(public)) == signer.public_key
    assert signer.sign(bytes.fromhex(message)).hex() == signature
    assert signer.public_key.verify(bytes.fromhex(signature), bytes.fromhex(message))


def test_malleable_and_misformed_signatures_count_for_nothing_in_an_envelope(signer_of):
    """Every invalid Ed25519 signature of the collection in place of a good one: no signer, whatever its length."""
    signer = signer_of(cases("rfc8032.json")[0][1])
    envelope = json.loads(sign(b"{}", signer, subject="vector").raw)
    tried = 0
    for _, _, _, signature, expected, _ in cases("wycheproof-ed25519.json"):
        if expected == "invalid" and signature:
            envelope["signatures"] = [{"sig": base64.b64encode(bytes.fromhex(signature)).decode()}]
            parsed = Envelope.parse(json.dumps(envelope).encode(), subject="vector")
            assert parsed.signers([signer.public_key]) == ()
            tried += 1
    assert tried > 50
