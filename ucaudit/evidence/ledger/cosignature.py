"""Witness cosignatures: C2SP tlog-cosignature v1 (signature type 0x04), and the trusted time they give.

A witness signs ``cosignature/v1\\ntime N\\n`` and the checkpoint's text, where N is seconds since 1970 and the text
has its final newline. The signature line carries N as 64-bit big-endian number before the 64 bytes of Ed25519. It
says: at that time this was the largest consistent tree the witness had seen. Who trusts the witness's clock
therefore knows that every entry of the tree existed by then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from ucaudit.core.errors import (
    LedgerInconsistentError,
    MalformedKeyError,
    MalformedRecordError,
    SignatureInvalidError,
)
from ucaudit.evidence.keys import PublicKey, Signer
from ucaudit.evidence.ledger.note import (
    NoteSignature,
    SignedNote,
    VerifierKey,
    encode_vkey,
    is_key_name,
    key_id_of,
    parse_vkey,
)
from ucaudit.evidence.ledger.proof import LedgerProof, VerifiedProof, verify_proof

_COSIGNATURE: Final = b"\x04"
_TIME_BYTES: Final = 8
_BLOB_BYTES: Final = _TIME_BYTES + 64
_LAST_SECOND: Final = 253_402_300_799
"""9999-12-31T23:59:59Z; the format allows more, a calendar does not."""


@dataclass(frozen=True, slots=True)
class WitnessedTime:
    """A verified cosignature: ``witness`` had seen the ledger ``origin`` with ``size`` entries by ``seconds``."""

    witness: str
    origin: str
    size: int
    seconds: int
    """Since 1970-01-01T00:00:00Z."""
    digest: str
    """SHA-256 of the line's time and signature (72 bytes), hex."""

    @property
    def time(self) -> datetime:
        """The moment, in UTC."""
        return datetime.fromtimestamp(self.seconds, UTC)

    @property
    def text(self) -> str:
        """The moment as records spell it."""
        return self.time.strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """A witness's name and public key: trusted only if it came from the witness."""

    name: str
    public: PublicKey

    @classmethod
    def of(cls, name: str, public: PublicKey) -> WitnessKey:
        """Raises MalformedRecordError for an unusable name, MalformedKeyError unless the key is Ed25519."""
        if not is_key_name(name):
            raise MalformedRecordError(
                f"not usable as a witness's name: {name[:80]!r}",
                hint="use a name like witness.example.com/w1, without spaces or plus signs",
            )
        if public.algorithm != "ed25519":
            raise MalformedKeyError("a witness key is Ed25519", subject=name)
        return cls(name, public)

    @classmethod
    def parse(cls, text: str, *, subject: str = "witness vkey") -> WitnessKey:
        """Read ``name+hex(key id)+base64(0x04 ‖ public key)``. Raises MalformedKeyError."""
        return cls(*parse_vkey(text, _COSIGNATURE, "a witness's verifier key", subject=subject))

    def encode(self) -> str:
        """The vkey text."""
        return encode_vkey(self.name, _COSIGNATURE, self.public)

    @property
    def key_id(self) -> bytes:
        """The first 4 bytes of SHA-256(name ‖ 0x0A ‖ 0x04 ‖ public key)."""
        return key_id_of(self.name, _COSIGNATURE, self.public.raw)

    def sign(self, text: str, seconds: int, signer: Signer) -> NoteSignature:
        """The cosignature of a checkpoint's text. Raises SignatureInvalidError if the answer does not verify."""
        signature = signer.sign(_message(text, seconds))
        if not self.public.verify(signature, _message(text, seconds)):
            raise SignatureInvalidError("the signer returned a signature that does not verify", subject=self.name)
        return NoteSignature(self.name, self.key_id, seconds.to_bytes(_TIME_BYTES, "big") + signature)

    def times(self, note: SignedNote, *, subject: str) -> list[tuple[int, NoteSignature]]:
        """When this witness cosigned the note, each with its line; empty if it did not.

        Raises:
            LedgerInconsistentError: a line that names this key does not hold, or its time is in no calendar.
        """
        found = []
        for line in note.signatures:
            if (line.name, line.key_id) != (self.name, self.key_id):
                continue
            seconds = int.from_bytes(line.signature[:_TIME_BYTES], "big")
            if (
                len(line.signature) != _BLOB_BYTES
                or seconds > _LAST_SECOND
                or not self.public.verify(line.signature[_TIME_BYTES:], _message(note.text, seconds))
            ):
                raise LedgerInconsistentError(
                    f"the cosignature by {self.name}+{self.key_id.hex()} does not fit the checkpoint",
                    subject=subject,
                )
            found.append((seconds, line))
        return found


def _message(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def witnessed_times(
    note: bytes, ledger: VerifierKey, witnesses: Iterable[WitnessKey], *, subject: str = "checkpoint"
) -> tuple[WitnessedTime, ...]:
    """Every verified cosignature of a checkpoint, the earliest first. Lines of other keys are ignored.

    Args:
        note: the checkpoint with its signature lines.
        ledger: the ledger's key; its own signature is checked first.
        witnesses: the witnesses whose clock and care the caller trusts.
        subject: the file name for messages.

    Raises:
        MalformedRecordError: not a checkpoint.
        LedgerInconsistentError: the ledger's signature or a trusted witness's does not hold, or a "witness" has
            the ledger's own key, which would be nobody outside.
    """
    checkpoint = ledger.open(note, subject=subject)
    parsed = SignedNote.parse(note, subject=subject)
    found = []
    for witness in witnesses:
        times = witness.times(parsed, subject=subject)
        if times and witness.public.spki == ledger.public.spki:
            raise LedgerInconsistentError(
                f"the witness {witness.name} has the ledger's own key: that is no outside witness", subject=subject
            )
        found += [
            WitnessedTime(
                witness.name,
                checkpoint.origin,
                checkpoint.size,
                seconds,
                hashlib.sha256(line.signature).hexdigest(),
            )
            for seconds, line in times
        ]
    return tuple(sorted(set(found), key=lambda item: (item.seconds, item.witness)))


def proof_witnessed_times(
    proof: bytes, leaf: bytes | None, vkey: str, witness_vkeys: Sequence[str], *, subject: str = "ledger-proof"
) -> tuple[VerifiedProof, tuple[WitnessedTime, ...]]:
    """Check a ledger proof, and when trusted witnesses had seen the ledger with that entry in it.

    Args:
        proof: the text of a ledger proof.
        leaf: the entry's bytes; None takes the copy in the proof.
        vkey: the ledger's verifier key, from a source other than the proof.
        witness_vkeys: verifier keys of trusted witnesses.
        subject: the file name for messages.

    Returns:
        What the proof shows, and the witnessed times, the earliest first: from that moment on the entry was in
        the ledger. Empty if no trusted witness cosigned the proof's checkpoint.

    Raises:
        MalformedKeyError: a verifier key that is none.
        As :func:`~ucaudit.evidence.ledger.proof.verify_proof` and :func:`witnessed_times`.
    """
    keys = [WitnessKey.parse(text) for text in witness_vkeys]
    verified = verify_proof(proof, leaf, vkey, subject=subject)
    note = LedgerProof.parse(proof, subject=subject).checkpoint
    return verified, witnessed_times(note, VerifierKey.parse(vkey), keys, subject=subject)


def earliest_by(times: Iterable[WitnessedTime], quorum: int = 1) -> WitnessedTime | None:
    """The earliest time by which ``quorum`` different witnesses had seen it, or None if fewer did.

    With a quorum of k, up to k − 1 witnesses may lie about the time without moving it forward.
    """
    first: dict[str, WitnessedTime] = {}
    for item in sorted(times, key=lambda item: item.seconds):
        first.setdefault(item.witness, item)
    ordered = list(first.values())
    return ordered[quorum - 1] if 1 <= quorum <= len(ordered) else None
