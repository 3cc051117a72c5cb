"""Witness cosignatures: the bytes they are made of, what a witness refuses, and the times they show."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from ledgers import ORIGIN, SIGNER, grow, leaves, make_signer

from ucaudit.core.errors import (
    InputError,
    LedgerInconsistentError,
    MalformedKeyError,
    MalformedRecordError,
    NotFoundError,
    RefusedError,
    SignatureInvalidError,
)
from ucaudit.evidence.ledger import (
    ConsistencyProof,
    Ledger,
    VerifierKey,
    Witness,
    WitnessedTime,
    WitnessKey,
    attach_cosignature,
    earliest_by,
    proof_witnessed_times,
    witnessed_times,
)
from ucaudit.evidence.ledger.note import SignedNote

NAME = "witness.example.com/w1"
WITNESS = make_signer(b"a witness")
NOON = 1_772_366_400
"""2026-03-01T12:00:00Z"""
KEY = WitnessKey.of(NAME, WITNESS.public_key)


@dataclass
class Parties:
    """A keeper and a witness, each with a directory of their own."""

    ledger: Ledger
    witness: Witness

    def cosign(self, *, seconds: int = NOON, new: int | None = None) -> bytes:
        known = self.witness.ledgers.get(ORIGIN)
        request = self.ledger.prove_consistency(known.size if known else 0, new)
        return self.witness.cosign(request, WITNESS, ledger_vkey=self.ledger.vkey, seconds=seconds).note

    def attach(self, *, seconds: int = NOON) -> None:
        attach_cosignature(self.ledger, self.cosign(seconds=seconds), [KEY])


@pytest.fixture
def parties(tmp_path: Path) -> Parties:
    ledger = Ledger.init(tmp_path / "ledger", ORIGIN, SIGNER)
    grow(ledger, 3)
    return Parties(ledger, Witness.init(tmp_path / "witness", NAME, WITNESS))


# --- bytes --------------------------------------------------------------------------------------------
def test_the_bytes_of_a_cosignature(parties: Parties) -> None:
    """Checked with hashlib and the raw key, by the words of C2SP tlog-cosignature."""
    text, _, lines = parties.cosign().decode().partition("\n\n")
    [line] = [line for line in lines.splitlines() if line.startswith(f"— {NAME} ")]
    blob = base64.b64decode(line.split(" ")[2])
    raw = WITNESS.public_key.raw
    assert blob[:4] == hashlib.sha256(NAME.encode() + b"\n\x04" + raw).digest()[:4]
    assert int.from_bytes(blob[4:12], "big") == NOON
    message = f"cosignature/v1\ntime {NOON}\n{text}\n".encode()
    Ed25519PublicKey.from_public_bytes(raw).verify(blob[12:], message)
    assert len(blob) == 4 + 8 + 64


def test_a_verifier_key_of_a_witness() -> None:
    name, key_id, encoded = KEY.encode().split("+", 2)
    assert (name, base64.b64decode(encoded)) == (NAME, b"\x04" + WITNESS.public_key.raw)
    assert key_id == KEY.key_id.hex()
    assert WitnessKey.parse(KEY.encode()) == KEY
    ledgers = VerifierKey.of(NAME, WITNESS.public_key).encode()
    with pytest.raises(MalformedKeyError, match=r"type 4, 32 bytes\), found type 1"):
        WitnessKey.parse(ledgers)
    with pytest.raises(MalformedKeyError, match="found type 4"):
        VerifierKey.parse(KEY.encode())


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "x" * 256])
def test_a_name_that_no_witness_may_have(name: str) -> None:
    with pytest.raises(MalformedRecordError, match="not usable as a witness's name"):
        WitnessKey.of(name, WITNESS.public_key)


def test_every_changed_byte_of_a_cosignature_is_seen(parties: Parties) -> None:
    note = parties.cosign()
    key = parties.ledger.key
    start = note.rindex("— ".encode())
    for place in range(start, len(note)):
        for flip in (1, 2, 0x20, 0x80):
            changed = bytearray(note)
            changed[place] ^= flip
            try:
                found = witnessed_times(bytes(changed), key, [KEY])
            except (LedgerInconsistentError, MalformedRecordError):
                continue
            assert found == ()  # another name or key id: a line of somebody unknown


def test_a_cosignature_of_another_tree_does_not_count(parties: Parties, tmp_path: Path) -> None:
    note = parties.cosign()
    line = note.decode().splitlines(keepends=True)[-1]
    grow(parties.ledger, 4)
    moved = parties.ledger.checkpoint() + line.encode()
    with pytest.raises(LedgerInconsistentError, match="does not fit the checkpoint"):
        witnessed_times(moved, parties.ledger.key, [KEY])


@pytest.mark.parametrize("seconds", [253_402_300_800, 2**63 - 1, 2**64 - 1])
def test_a_time_in_no_calendar(parties: Parties, seconds: int) -> None:
    note = SignedNote.parse(parties.ledger.checkpoint(), subject="checkpoint")
    signed = note.with_signatures([KEY.sign(note.text, seconds, WITNESS)])
    with pytest.raises(LedgerInconsistentError):
        witnessed_times(signed, parties.ledger.key, [KEY])


def test_a_short_or_long_cosignature(parties: Parties) -> None:
    note = SignedNote.parse(parties.ledger.checkpoint(), subject="checkpoint")
    whole = KEY.sign(note.text, NOON, WITNESS)
    for blob in (whole.signature[:-1], whole.signature + b"\0", whole.signature[8:], b"\0"):
        with pytest.raises(LedgerInconsistentError):
            witnessed_times(note.with_signatures([replace(whole, signature=blob)]), parties.ledger.key, [KEY])


def test_a_ledger_is_no_witness_of_itself(parties: Parties) -> None:
    own = WitnessKey.of(NAME, SIGNER.public_key)
    note = SignedNote.parse(parties.ledger.checkpoint(), subject="checkpoint")
    signed = note.with_signatures([own.sign(note.text, NOON, SIGNER)])
    with pytest.raises(LedgerInconsistentError, match="no outside witness"):
        witnessed_times(signed, parties.ledger.key, [own])


def test_a_broken_signer_gives_no_cosignature(parties: Parties) -> None:
    @dataclass
    class Broken:
        public_key = WITNESS.public_key

        def sign(self, data: bytes) -> bytes:
            return bytes(64)

    request = parties.ledger.prove_consistency(0)
    with pytest.raises(SignatureInvalidError):
        parties.witness.cosign(request, Broken(), ledger_vkey=parties.ledger.vkey)
    assert parties.witness.ledgers == {}


# --- what a witness does ------------------------------------------------------------------------------
def test_it_follows_a_growing_ledger(parties: Parties) -> None:
    for size in (3, 4, 255, 256, 300):
        grow(parties.ledger, size)
        note = parties.cosign(seconds=NOON + size)
        [found] = witnessed_times(note, parties.ledger.key, [KEY])
        assert (found.witness, found.origin, found.size, found.seconds) == (NAME, ORIGIN, size, NOON + size)
        assert parties.witness.ledgers[ORIGIN].root == parties.ledger.head().root
        assert Witness.open(parties.witness.path).ledgers == parties.witness.ledgers


def test_the_same_checkpoint_gets_the_same_cosignature(parties: Parties) -> None:
    """So nobody can have one tree cosigned until the signature, and with it a seed, pleases."""
    first = parties.cosign()
    again = parties.witness.cosign(parties.ledger.prove_consistency(3), WITNESS, seconds=NOON + 999)
    assert (again.note, again.repeated, again.time.seconds) == (first, True, NOON)


def test_it_knows_where_it_stands(parties: Parties) -> None:
    parties.cosign()
    grow(parties.ledger, 10)
    for old in (0, 2, 9, 10):
        with pytest.raises(RefusedError, match=f"starts at {old} entries, this witness has seen 3") as caught:
            parties.witness.cosign(parties.ledger.prove_consistency(old), WITNESS)
        assert caught.value.hint == "ucaudit ledger prove --old-size 3"


def fork(parties: Parties, tmp_path: Path, entries: list[bytes]) -> Ledger:
    forged = Ledger.init(tmp_path / "forged", ORIGIN, SIGNER)
    forged.append(entries, SIGNER)
    return forged


def test_it_never_cosigns_a_rewritten_ledger(parties: Parties, tmp_path: Path) -> None:
    grow(parties.ledger, 20)
    parties.cosign()
    state = (parties.witness.path / "witness.json").read_bytes()
    forged = fork(parties, tmp_path, [*leaves(0, 7), b"a better result", *leaves(8, 40)])
    honest = parties.ledger
    good = ConsistencyProof.parse(honest.prove_consistency(20))
    requests = [
        forged.prove_consistency(20),
        ConsistencyProof(20, (), forged.checkpoint()).to_bytes(),
        ConsistencyProof(20, good.hashes, forged.checkpoint()).to_bytes(),
    ]
    for request in requests:
        with pytest.raises(LedgerInconsistentError, match="not cosigned"):
            parties.witness.cosign(request, WITNESS)
    same_size = Ledger.init(tmp_path / "same", ORIGIN, SIGNER)
    same_size.append([*leaves(0, 19), b"another"], SIGNER)
    with pytest.raises(LedgerInconsistentError, match="two different trees of 20 entries"):
        parties.witness.cosign(same_size.prove_consistency(20), WITNESS)
    shorter = Ledger.init(tmp_path / "shorter", ORIGIN, SIGNER)
    shorter.append(leaves(0, 12), SIGNER)
    with pytest.raises(LedgerInconsistentError, match="the later tree has 12 entries, the earlier one 20"):
        parties.witness.cosign(ConsistencyProof(20, (), shorter.checkpoint()).to_bytes(), WITNESS)
    assert (parties.witness.path / "witness.json").read_bytes() == state


def test_who_it_does_not_know(parties: Parties, tmp_path: Path) -> None:
    request = parties.ledger.prove_consistency(0)
    with pytest.raises(RefusedError, match="does not know the ledger"):
        parties.witness.cosign(request, WITNESS)
    with pytest.raises(RefusedError, match=r"is example.com/other's"):
        other = VerifierKey.of("example.com/other", SIGNER.public_key).encode()
        parties.witness.cosign(request, WITNESS, ledger_vkey=other)
    with pytest.raises(LedgerInconsistentError, match="no signature by"):
        parties.witness.cosign(
            request, WITNESS, ledger_vkey=VerifierKey.of(ORIGIN, make_signer(b"else").public_key).encode()
        )
    with pytest.raises(RefusedError, match="not this witness's"):
        parties.witness.cosign(request, SIGNER, ledger_vkey=parties.ledger.vkey)
    parties.cosign()
    with pytest.raises(RefusedError, match="knows the ledger by another key"):
        key = VerifierKey.of(ORIGIN, make_signer(b"else").public_key).encode()
        parties.witness.cosign(parties.ledger.prove_consistency(3), WITNESS, ledger_vkey=key)
    own = Witness.init(tmp_path / "own", "witness.example.com/own", SIGNER)
    with pytest.raises(RefusedError, match="no outside witness"):
        own.cosign(request, SIGNER, ledger_vkey=parties.ledger.vkey)


def test_a_clock_that_went_backwards(parties: Parties) -> None:
    parties.cosign(seconds=NOON)
    grow(parties.ledger, 4)
    with pytest.raises(RefusedError, match="clock"):
        parties.cosign(seconds=NOON - 1)
    assert parties.witness.ledgers[ORIGIN].size == 3


def test_it_starts_once(parties: Parties, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="not empty"):
        Witness.init(parties.witness.path, NAME, WITNESS)
    with pytest.raises(NotFoundError, match="not a witness's directory"):
        Witness.open(tmp_path / "nothing")


STATES: dict[str, Callable[[dict[str, object]], object]] = {
    "another format": lambda s: {**s, "format": "diary"},
    "another version": lambda s: {**s, "version": 2},
    "an unknown member": lambda s: {**s, "more": 1},
    "a list": lambda s: [s],
    "no key": lambda s: {k: v for k, v in s.items() if k != "vkey"},
    "a ledger's key": lambda s: {**s, "vkey": VerifierKey.of(NAME, WITNESS.public_key).encode()},
    "ledgers that are none": lambda s: {**s, "ledgers": []},
    "a ledger that is none": lambda s: {**s, "ledgers": {ORIGIN: 1}},
    "a size that is none": lambda s: changed(s, size=-1),
    "a size that is true": lambda s: changed(s, size=True),
    "a root that is none": lambda s: changed(s, root="zz"),
    "a short root": lambda s: changed(s, root="00"),
    "another ledger's key": lambda s: changed(s, vkey=VerifierKey.of("other", SIGNER.public_key).encode()),
    "a cosignature that is none": lambda s: changed(s, cosignature="hello"),
}


def changed(state: dict[str, object], **change: object) -> dict[str, object]:
    ledgers = json.loads(json.dumps(state["ledgers"]))
    ledgers[ORIGIN] |= change
    return {**state, "ledgers": ledgers}


@pytest.mark.parametrize("case", STATES)
def test_a_state_that_is_none(parties: Parties, case: str) -> None:
    parties.cosign()
    place = parties.witness.path / "witness.json"
    place.write_text(json.dumps(STATES[case](json.loads(place.read_text()))))
    with pytest.raises(InputError):
        Witness.open(parties.witness.path)
    with pytest.raises(InputError):
        parties.witness.cosign(parties.ledger.prove_consistency(3), WITNESS)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"old 3",
        b"old 3\n",
        b"old -1\n\nx",
        b"old 03\n\nx",
        b"new 3\n\nx",
        b"old 3\nnot base64\n\nx",
        b"\xff\n\nx",
    ],
)
def test_a_request_that_is_none(parties: Parties, request_bytes: bytes) -> None:
    with pytest.raises(MalformedRecordError, match="request"):
        parties.witness.cosign(request_bytes, WITNESS, ledger_vkey=parties.ledger.vkey)


# --- what the keeper does with it ---------------------------------------------------------------------
def test_cosignatures_stay_with_their_checkpoints(parties: Parties) -> None:
    ledger = parties.ledger
    parties.attach()
    assert witnessed_times(ledger.checkpoint(), ledger.key, [KEY])[0].size == 3
    grow(ledger, 5)
    assert witnessed_times(ledger.checkpoint(), ledger.key, [KEY]) == ()
    parties.attach(seconds=NOON + 60)
    found = ledger.verify(witnesses=[KEY]).witnessed
    assert [(item.size, item.text) for item in found] == [
        (3, "2026-03-01T12:00:00Z"),
        (5, "2026-03-01T12:01:00Z"),
    ]
    blind = ledger.verify()
    assert (blind.witnessed, blind.unchecked_cosignatures, blind.leftovers) == ((), 2, ())


def test_the_earliest_witnessed_time_of_an_entry(parties: Parties) -> None:
    ledger = parties.ledger
    parties.attach()
    grow(ledger, 5)
    parties.attach(seconds=NOON + 60)
    grow(ledger, 7)
    for index, seconds in ((0, NOON), (2, NOON), (3, NOON + 60), (4, NOON + 60)):
        for proof in (ledger.prove_witnessed(index, [KEY]), ledger.prove_cosigned(index)):
            shown, times = proof_witnessed_times(proof, b"entry %d" % index, ledger.vkey, [KEY.encode()])
            assert (shown.index, times[0].seconds) == (index, seconds)
    with pytest.raises(RefusedError, match="no given witness has cosigned a checkpoint with entry 5"):
        ledger.prove_witnessed(5, [KEY])
    assert proof_witnessed_times(ledger.prove_cosigned(5), None, ledger.vkey, [KEY.encode()])[1] == ()
    stranger = WitnessKey.of("witness.example.com/other", make_signer(b"other").public_key)
    with pytest.raises(RefusedError):
        ledger.prove_witnessed(0, [stranger])


def test_bare_lines_find_their_checkpoint(parties: Parties) -> None:
    line = parties.cosign().decode().splitlines(keepends=True)[-1].encode()
    grow(parties.ledger, 4, 5, 6)
    [found] = attach_cosignature(parties.ledger, line, [KEY])
    assert (found.size, found.seconds) == (3, NOON)
    grow(parties.ledger, *range(7, 80))
    (parties.ledger.path / "cosigned" / "3").unlink()
    with pytest.raises(LedgerInconsistentError, match="fits none of the last 64 checkpoints"):
        attach_cosignature(parties.ledger, line, [KEY])


def test_what_is_not_attached(parties: Parties, tmp_path: Path) -> None:
    note = parties.cosign()
    other = WitnessKey.of(NAME, make_signer(b"other").public_key)
    with pytest.raises(LedgerInconsistentError, match="no cosignature by the given witness"):
        attach_cosignature(parties.ledger, note, [other])
    with pytest.raises(LedgerInconsistentError, match="no cosignature by the given witness"):
        attach_cosignature(parties.ledger, parties.ledger.checkpoint(), [KEY])
    for rubbish in (b"", b"hello", "— hello\n".encode(), "— ".encode() + b"\xff"):
        with pytest.raises((MalformedRecordError, LedgerInconsistentError)):
            attach_cosignature(parties.ledger, rubbish, [KEY])
    forged = fork(parties, tmp_path, [b"other", *leaves(1, 3)])
    with pytest.raises(LedgerInconsistentError, match="does not extend"):
        attach_cosignature(forged, note, [KEY])
    assert not (forged.path / "cosigned").exists()
    assert not (parties.ledger.path / "cosigned").exists()


def test_a_witness_contradicts_a_rewritten_ledger(parties: Parties, tmp_path: Path) -> None:
    """The kept cosigned checkpoint lies in the ledger itself; removing it is all a forger can do."""
    parties.attach()
    forged = fork(parties, tmp_path, [b"other", *leaves(1, 3)])
    shutil.copytree(parties.ledger.path / "cosigned", forged.path / "cosigned")
    with pytest.raises(LedgerInconsistentError, match="do not lead to the root of the checkpoint signed then"):
        forged.verify(witnesses=[KEY])


def test_two_witnesses_and_a_quorum(parties: Parties, tmp_path: Path) -> None:
    second = make_signer(b"second")
    key = WitnessKey.of("witness.example.com/w2", second.public_key)
    other = Witness.init(tmp_path / "second", key.name, second)
    parties.attach()
    given = other.cosign(
        parties.ledger.prove_consistency(0), second, ledger_vkey=parties.ledger.vkey, seconds=NOON + 500
    )
    attach_cosignature(parties.ledger, given.note, [key])
    times = witnessed_times(parties.ledger.checkpoint(), parties.ledger.key, [KEY, key])
    assert [item.witness for item in times] == [NAME, key.name]
    assert earliest_by(times) == times[0]
    assert earliest_by(times, 2) == times[1]
    assert earliest_by(times, 3) is None
    assert earliest_by((), 1) is None
    assert earliest_by([times[0], times[0]], 2) is None


def test_a_witnessed_time_in_words() -> None:
    item = WitnessedTime(NAME, ORIGIN, 3, NOON, "0" * 64)
    assert item.text == "2026-03-01T12:00:00Z"
    assert item.time.isoformat() == "2026-03-01T12:00:00+00:00"
