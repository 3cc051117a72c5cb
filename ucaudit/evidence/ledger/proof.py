"""Self-contained proofs that an entry is in a ledger: the C2SP tlog-proof text format.

::

    c2sp.org/tlog-proof@v1
    extra <base64 of the entry>
    index 2
    <base64 hash, one a line, from the leaf's sibling upwards>

    <the checkpoint, verbatim>

The format's ``extra`` line carries the entry itself, so the proof can be checked without the ledger. On its own
it proves nothing: it counts only because its hash leads to the signed root.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ucaudit.core.errors import LedgerInconsistentError, MalformedRecordError
from ucaudit.evidence.ledger.leaf import LedgerEntry
from ucaudit.evidence.ledger.merkle import check_consistency, check_inclusion, hash_leaf
from ucaudit.evidence.ledger.note import (
    MAX_NOTE_BYTES,
    Checkpoint,
    VerifierKey,
    decode_base64,
    decode_hash,
    decode_number,
    encode_base64,
)

PROOF_HEADER: Final = "c2sp.org/tlog-proof@v1"
MAX_PROOF_HASHES: Final = 63
MAX_PROOF_BYTES: Final = MAX_NOTE_BYTES + (128 << 10)
_EXTRA: Final = "extra "
_INDEX: Final = "index "
_OLD: Final = "old "


@dataclass(frozen=True, slots=True)
class LedgerProof:
    """A parsed proof of which nothing has been checked."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def to_bytes(self) -> bytes:
        """The proof's text."""
        lines = [PROOF_HEADER]
        if self.extra is not None:
            lines.append(_EXTRA + encode_base64(self.extra))
        lines += [f"{_INDEX}{self.index}", *(encode_base64(item) for item in self.hashes), ""]
        return "".join(f"{line}\n" for line in lines).encode("ascii") + self.checkpoint

    @classmethod
    def parse(cls, data: bytes, *, subject: str = "ledger-proof") -> LedgerProof:
        """Read a proof. Raises MalformedRecordError."""
        lines, checkpoint = _head(data, subject)
        if lines.pop(0) != PROOF_HEADER:
            raise MalformedRecordError(f"the first line is not {PROOF_HEADER}", subject=subject)
        extra = None
        if lines and lines[0].startswith(_EXTRA):
            extra = decode_base64(lines.pop(0).removeprefix(_EXTRA), subject=subject)
        if not lines or not lines[0].startswith(_INDEX):
            raise MalformedRecordError("a proof without an index line", subject=subject)
        index = decode_number(lines.pop(0).removeprefix(_INDEX), subject=subject)
        return cls(index, _hashes(lines, subject), checkpoint, extra)


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """A parsed proof that a checkpoint extends an earlier tree, of which nothing has been checked.

    Its text is the body of C2SP tlog-witness's ``add-checkpoint`` request: ``old <size>``, the hashes in base64,
    one a line, an empty line, and the later checkpoint.
    """

    old: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes

    def to_bytes(self) -> bytes:
        """The proof's text."""
        lines = [f"{_OLD}{self.old}", *(encode_base64(item) for item in self.hashes), ""]
        return "".join(f"{line}\n" for line in lines).encode("ascii") + self.checkpoint

    @classmethod
    def parse(cls, data: bytes, *, subject: str = "consistency proof") -> ConsistencyProof:
        """Read a proof. Raises MalformedRecordError."""
        lines, checkpoint = _head(data, subject)
        if not lines[0].startswith(_OLD):
            raise MalformedRecordError("the first line is not like `old 12`", subject=subject)
        old = decode_number(lines.pop(0).removeprefix(_OLD), subject=subject)
        return cls(old, _hashes(lines, subject), checkpoint)

    def verify(self, key: VerifierKey, old_root: bytes, *, subject: str = "consistency proof") -> Checkpoint:
        """Check that the checkpoint is ``key``'s and extends the tree of ``old`` entries with ``old_root``.

        Raises:
            MalformedRecordError, LedgerInconsistentError: it is not, or does not.
        """
        head = key.open(self.checkpoint, subject=subject)
        check_consistency(self.old, head.size, old_root, head.root, self.hashes, subject=subject)
        return head


def _head(data: bytes, subject: str) -> tuple[list[str], bytes]:
    """The lines before the checkpoint, and the checkpoint. Raises MalformedRecordError."""
    if len(data) > MAX_PROOF_BYTES:
        raise MalformedRecordError(f"a proof larger than {MAX_PROOF_BYTES} bytes", subject=subject)
    head, separator, checkpoint = data.partition(b"\n\n")
    if not separator:
        raise MalformedRecordError("a proof without a checkpoint", subject=subject)
    try:
        return head.decode("ascii").split("\n"), checkpoint
    except UnicodeDecodeError as error:
        raise MalformedRecordError(f"not ascii at byte {error.start}", subject=subject) from error


def _hashes(lines: list[str], subject: str) -> tuple[bytes, ...]:
    if len(lines) > MAX_PROOF_HASHES:
        raise MalformedRecordError(f"a proof with more than {MAX_PROOF_HASHES} hashes", subject=subject)
    return tuple(decode_hash(line, subject=subject) for line in lines)


@dataclass(frozen=True, slots=True)
class VerifiedProof:
    """What a proof showed: ``leaf`` is entry ``index`` of the ledger ``origin`` when it had ``size`` entries."""

    origin: str
    size: int
    index: int
    root: bytes
    leaf: bytes


def verify_proof(proof: bytes, leaf: bytes | None, vkey: str, *, subject: str = "ledger-proof") -> VerifiedProof:
    """Check a proof against a ledger's verifier key.

    Args:
        proof: the proof's text.
        leaf: the entry's bytes; None takes the copy that the proof carries.
        vkey: the ledger's verifier key, from a source other than the proof.
        subject: the file name for messages.

    Raises:
        MalformedKeyError: ``vkey`` is not a verifier key.
        MalformedRecordError: the proof cannot be read, or carries no entry and ``leaf`` is None.
        LedgerInconsistentError: signature, origin, index, path or entry do not fit together.
    """
    key = VerifierKey.parse(vkey)
    parsed = LedgerProof.parse(proof, subject=subject)
    checkpoint = key.open(parsed.checkpoint, subject=subject)
    if leaf is None:
        if parsed.extra is None:
            raise MalformedRecordError("the proof carries no copy of the entry", subject=subject)
        leaf = parsed.extra
    elif parsed.extra is not None and parsed.extra != leaf:
        raise LedgerInconsistentError("the proof carries another entry than the one given", subject=subject)
    check_inclusion(parsed.index, checkpoint.size, hash_leaf(leaf), parsed.hashes, checkpoint.root, subject=subject)
    return VerifiedProof(checkpoint.origin, checkpoint.size, parsed.index, checkpoint.root, leaf)


def verify_envelope_proof(
    proof: bytes, envelope_sha256: str, vkey: str, *, subject: str = "ledger-proof"
) -> tuple[VerifiedProof, LedgerEntry]:
    """Check that a proof shows the entry of one particular envelope.

    Args:
        proof: the proof's text, with the entry in its ``extra`` line.
        envelope_sha256: SHA-256 of the envelope file, hex.
        vkey: the ledger's verifier key, from a source other than the proof.
        subject: the file name for messages.

    Raises:
        As :func:`verify_proof`, and LedgerInconsistentError if the entry is about another envelope.
    """
    verified = verify_proof(proof, None, vkey, subject=subject)
    entry = LedgerEntry.parse(verified.leaf, subject=f"{subject}: entry {verified.index}")
    if entry.envelope_sha256 != envelope_sha256:
        raise LedgerInconsistentError(
            f"the proof is about envelope {entry.envelope_sha256[:16]}…, expected {envelope_sha256[:16]}…",
            subject=subject,
        )
    return verified, entry
