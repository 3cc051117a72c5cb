"""Signed notes and verifier keys: published examples, and notes that must be refused."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ucaudit.core.errors import MalformedKeyError, MalformedRecordError, SignatureInvalidError, UcauditError
from ucaudit.evidence.keys import FileSigner, PublicKey
from ucaudit.evidence.ledger.merkle import EMPTY_ROOT
from ucaudit.evidence.ledger.note import MAX_NOTE_BYTES, Checkpoint, SignedNote, VerifierKey

NOTES = json.loads((Path(__file__).parents[2] / "vectors" / "ledger" / "notes.json").read_text())
SUM_GOLANG_ORG = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"


def make_signer(seed: bytes = b"note tests") -> FileSigner:
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed).digest())
    return FileSigner(key, PublicKey.from_raw_ed25519(key.public_key().public_bytes_raw()))


def outcome(vector: dict[str, object]) -> str:
    """``ok`` or the error's slug."""
    data = str(vector["note"]).encode("utf-8")
    try:
        key = VerifierKey.parse(str(vector["vkey"]))
        if vector.get("text-only"):
            note = SignedNote.parse(data, subject="note")
            [signature] = note.signatures
            assert (signature.name, signature.key_id) == (key.name, key.key_id)
            assert key.public.verify(signature.signature, note.text.encode())
        else:
            key.open(data, subject="note")
    except UcauditError as error:
        assert str(error)[0].islower() and not str(error).endswith(".")
        assert str(error).startswith("note: ")
        return error.code
    return "ok"


@pytest.mark.parametrize("vector", NOTES, ids=[vector["name"] for vector in NOTES])
def test_vector(vector: dict[str, object]) -> None:
    assert outcome(vector) == vector["expect"]


def test_the_vectors_cover_every_outcome() -> None:
    assert {vector["expect"] for vector in NOTES} == {"ok", "ledger-inconsistent", "malformed-record"}


def test_an_over_large_note_is_not_read() -> None:
    with pytest.raises(MalformedRecordError, match="larger than"):
        SignedNote.parse(b"x" * (MAX_NOTE_BYTES + 1), subject="note")


def test_a_checkpoint_survives_its_own_signature() -> None:
    signer = make_signer()
    key = VerifierKey.of("example.com/evidence", signer.public_key)
    checkpoint = Checkpoint("example.com/evidence", 0, EMPTY_ROOT)
    note = key.sign(checkpoint, signer)
    empty = b"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    assert note.startswith(b"example.com/evidence\n0\n" + empty + b"\n\n\xe2\x80\x94 ")
    assert key.open(note, subject="note") == checkpoint


def test_a_published_verifier_key() -> None:
    key = VerifierKey.parse(SUM_GOLANG_ORG)
    assert (key.name, key.key_id.hex(), key.encode()) == ("sum.golang.org", "033de0ae", SUM_GOLANG_ORG)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sum.golang.org",
        SUM_GOLANG_ORG.replace("033de0ae", "033de0af"),
        SUM_GOLANG_ORG.replace("033de0ae", "033DE0AE"),
        SUM_GOLANG_ORG.replace("sum.", "sun."),
        SUM_GOLANG_ORG.replace("sum.", "sum "),
        SUM_GOLANG_ORG + "=",
        SUM_GOLANG_ORG[:-4],
        SUM_GOLANG_ORG[:-1] + "-",
        "a+00000000+" + base64.b64encode(b"\x04" + bytes(32)).decode(),
        "+00000000+" + base64.b64encode(b"\x01" + bytes(32)).decode(),
    ],
)
def test_a_verifier_key_that_is_none(text: str) -> None:
    with pytest.raises(MalformedKeyError):
        VerifierKey.parse(text)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\tb", "a\u2003b", "a\nb", "x" * 256, "\ud800"])
def test_a_name_that_no_ledger_may_have(name: str) -> None:
    with pytest.raises(MalformedRecordError, match="not usable as a ledger's origin"):
        VerifierKey.of(name, make_signer().public_key)


def test_a_ledger_key_is_ed25519() -> None:
    spki = ec.generate_private_key(ec.SECP256R1()).public_key()
    key = PublicKey.from_spki(spki.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), subject="p256")
    with pytest.raises(MalformedKeyError):
        VerifierKey.of("example.com/evidence", key)


@dataclass
class BrokenSigner:
    """A token that answers with rubbish."""

    public_key: PublicKey

    def sign(self, data: bytes) -> bytes:
        return bytes(64)


def test_a_signature_is_checked_before_it_is_published() -> None:
    key = VerifierKey.of("example.com/evidence", make_signer().public_key)
    with pytest.raises(SignatureInvalidError):
        key.sign(Checkpoint("example.com/evidence", 0, EMPTY_ROOT), BrokenSigner(key.public))
