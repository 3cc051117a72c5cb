"""Self-contained proofs: the text format, and proofs that must be refused."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ucaudit.core.errors import LedgerInconsistentError, MalformedKeyError, MalformedRecordError
from ucaudit.evidence.keys import FileSigner, PublicKey
from ucaudit.evidence.ledger import (
    Ledger,
    LedgerProof,
    VerifierKey,
    ledger_entry,
    verify_envelope_proof,
    verify_proof,
)

ENVELOPE = "1" * 64
LEAF = ledger_entry("plan", ENVELOPE, "urn:ucaudit:predicate:plan:v1", "2026-03-01T12:00:00Z", pack_digest="2" * 64)


def make_signer(seed: bytes) -> FileSigner:
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed).digest())
    return FileSigner(key, PublicKey.from_raw_ed25519(key.public_key().public_bytes_raw()))


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    signer = make_signer(b"proof tests")
    made = Ledger.init(tmp_path_factory.mktemp("proofs") / "ledger", "example.com/evidence", signer)
    made.append([b"entry 0", b"entry 1", LEAF, b"entry 3", b"entry 4"], signer)
    return made


def test_the_text(ledger: Ledger) -> None:
    lines = ledger.prove(2).decode("utf-8").split("\n")
    assert lines[:3] == ["c2sp.org/tlog-proof@v1", f"extra {base64.b64encode(LEAF).decode()}", "index 2"]
    assert [len(base64.b64decode(line)) for line in lines[3:6]] == [32, 32, 32]
    assert lines[6] == ""
    assert "\n".join(lines[7:]).encode() == ledger.checkpoint()


def test_what_it_shows(ledger: Ledger) -> None:
    shown = verify_proof(ledger.prove(2), LEAF, ledger.vkey)
    assert (shown.origin, shown.size, shown.index, shown.leaf) == ("example.com/evidence", 5, 2, LEAF)
    assert shown.root == ledger.head().root
    shown, entry = verify_envelope_proof(ledger.prove(2), ENVELOPE, ledger.vkey)
    assert (shown.index, entry.kind) == (2, "plan")
    with pytest.raises(LedgerInconsistentError, match=r"about envelope 1{16}…, expected 3{16}…"):
        verify_envelope_proof(ledger.prove(2), "3" * 64, ledger.vkey)
    with pytest.raises(MalformedRecordError, match="entry 0"):
        verify_envelope_proof(ledger.prove(0), ENVELOPE, ledger.vkey)


def test_a_proof_without_the_entry(ledger: Ledger) -> None:
    """As other C2SP tools write them: no extra line."""
    parsed = LedgerProof.parse(ledger.prove(2))
    bare = LedgerProof(parsed.index, parsed.hashes, parsed.checkpoint).to_bytes()
    assert b"extra" not in bare
    assert verify_proof(bare, LEAF, ledger.vkey).index == 2
    with pytest.raises(MalformedRecordError, match="no copy of the entry"):
        verify_proof(bare, None, ledger.vkey)


def test_another_ledgers_proof(ledger: Ledger) -> None:
    stranger = VerifierKey.of("example.com/evidence", make_signer(b"stranger").public_key)
    with pytest.raises(LedgerInconsistentError, match="no signature by"):
        verify_proof(ledger.prove(2), LEAF, stranger.encode())
    renamed = VerifierKey.of("example.com/other", ledger.key.public)
    with pytest.raises(LedgerInconsistentError, match="no signature by"):
        verify_proof(ledger.prove(2), LEAF, renamed.encode())
    with pytest.raises(MalformedKeyError):
        verify_proof(ledger.prove(2), LEAF, "example.com/evidence")


def with_line(number: int, text: str) -> Callable[[bytes], bytes]:
    def change(proof: bytes) -> bytes:
        lines = proof.split(b"\n")
        lines[number] = text.encode()
        return b"\n".join(lines)

    return change


ZEROS = base64.b64encode(bytes(32)).decode()
MALFORMED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda proof: b"",
    "another version": with_line(0, "c2sp.org/tlog-proof@v2"),
    "no index": lambda proof: proof.replace(b"index 2\n", b""),
    "leading zero": with_line(2, "index 02"),
    "negative index": with_line(2, "index -2"),
    "index too large": with_line(2, f"index {2**63}"),
    "index without number": with_line(2, "index "),
    "trailing space": with_line(2, "index 2 "),
    "hash of 31 bytes": with_line(3, base64.b64encode(bytes(31)).decode()),
    "hash in hex": with_line(3, "00" * 32),
    "hash not canonical": with_line(3, ZEROS[:-2] + "B="),
    "carriage return": lambda proof: proof.replace(b"index 2\n", b"index 2\r\n"),
    "not ascii": with_line(3, "\N{EM DASH}"),
    "extra twice": lambda proof: proof.replace(b"\nindex", b"\nextra AAAA\nindex"),
    "extra after index": lambda proof: proof.replace(b"index 2\n", b"index 2\nextra AAAA\n"),
    "extra not base64": with_line(1, "extra !"),
    "64 hashes": lambda proof: proof.replace(b"index 2\n", b"index 2\n" + (ZEROS + "\n").encode() * 61),
    "no checkpoint": lambda proof: proof.partition(b"\n\n")[0],
    "no signature": lambda proof: proof.rpartition(b"\n\n")[0] + b"\n",
    "endless": lambda proof: proof + b"x" * (1 << 20),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(ledger: Ledger, case: str) -> None:
    changed = MALFORMED[case](ledger.prove(2))
    assert changed != ledger.prove(2)
    with pytest.raises(MalformedRecordError):
        verify_proof(changed, LEAF, ledger.vkey)


FALSE: dict[str, Callable[[bytes], bytes]] = {
    "another index": with_line(2, "index 3"),
    "index beyond the tree": with_line(2, "index 5"),
    "a zero hash": with_line(3, ZEROS),
    "one hash more": lambda proof: proof.replace(b"index 2\n", b"index 2\n" + ZEROS.encode() + b"\n"),
    "another entry": with_line(1, "extra " + base64.b64encode(b"entry 3").decode()),
    "an empty entry": with_line(1, "extra "),
}


@pytest.mark.parametrize("leaf", [LEAF, None], ids=["given", "carried"])
@pytest.mark.parametrize("case", FALSE)
def test_false(ledger: Ledger, case: str, leaf: bytes | None) -> None:
    with pytest.raises(LedgerInconsistentError):
        verify_proof(FALSE[case](ledger.prove(2)), leaf, ledger.vkey)


def test_an_inner_node_is_no_entry(ledger: Ledger) -> None:
    """Without the leaf prefix, two hashes could be passed off as an entry one level up."""
    parsed = LedgerProof.parse(ledger.prove(0))
    inner = hashlib.sha256(b"\x00entry 0").digest() + parsed.hashes[0]
    forged = LedgerProof(0, parsed.hashes[1:], parsed.checkpoint, inner)
    with pytest.raises(LedgerInconsistentError):
        verify_proof(forged.to_bytes(), None, ledger.vkey)


def test_a_proof_needs_no_ledger(ledger: Ledger, tmp_path: Path) -> None:
    place = tmp_path / "ledger-proof"
    place.write_bytes(ledger.prove(4))
    assert verify_proof(place.read_bytes(), b"entry 4", ledger.vkey).index == 4
