"""Signed checkpoints: C2SP signed-note and tlog-checkpoint, with Ed25519 keys (signature type 0x01).

A checkpoint is text, a blank line, then signature lines::

    example.com/evidence
    3
    <base64 root>

    — example.com/evidence <base64(key id ‖ signature)>

The key id is SHA-256(name ‖ 0x0A ‖ 0x01 ‖ 32-byte public key)[:4]: a hint, not a proof. Signature lines of
keys we do not know are kept and ignored, so a witness can add its cosignature without breaking anything.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ucaudit.core.errors import (
    LedgerInconsistentError,
    MalformedKeyError,
    MalformedRecordError,
    RefusedError,
    SignatureInvalidError,
)
from ucaudit.evidence.keys import PublicKey, Signer
from ucaudit.evidence.ledger.merkle import HASH_BYTES

MAX_NOTE_BYTES: Final = 256 << 10
MAX_SIGNATURES: Final = 64
MAX_NAME_BYTES: Final = 255
MAX_SIZE: Final = 2**63 - 1
_ED25519: Final = b"\x01"
_KEY_ID_BYTES: Final = 4
_DASH: Final = "\N{EM DASH} "
LINE_START: Final = _DASH.encode("utf-8")
"""How a signature line begins."""
_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_CONTROL: Final = re.compile("[\x00-\x09\x0b-\x1f]")
_VKEY_ID: Final = re.compile(r"[0-9a-f]{8}")


def decode_base64(text: str, *, subject: str) -> bytes:
    """Standard base64 with padding, in its one canonical spelling. Raises MalformedRecordError."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedRecordError(f"not base64: {text[:60]!r}", subject=subject) from error
    if base64.b64encode(data).decode("ascii") != text:
        raise MalformedRecordError(f"base64 in a spelling that is not canonical: {text[:60]!r}", subject=subject)
    return data


def decode_hash(text: str, *, subject: str) -> bytes:
    """A SHA-256 in base64. Raises MalformedRecordError."""
    data = decode_base64(text, subject=subject)
    if len(data) != HASH_BYTES:
        raise MalformedRecordError(f"a hash has {HASH_BYTES} bytes, found {len(data)}", subject=subject)
    return data


def decode_number(text: str, *, subject: str) -> int:
    """A decimal number below 2^63 without sign or leading zeros. Raises MalformedRecordError."""
    if not _DECIMAL.fullmatch(text) or int(text) > MAX_SIZE:
        raise MalformedRecordError(f"not a decimal number below 2^63: {text[:40]!r}", subject=subject)
    return int(text)


def encode_base64(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode("ascii")


def key_id_of(name: str, kind: bytes, raw: bytes) -> bytes:
    """The first 4 bytes of SHA-256(name ‖ 0x0A ‖ signature type ‖ public key)."""
    return hashlib.sha256(name.encode("utf-8") + b"\n" + kind + raw).digest()[:_KEY_ID_BYTES]


def parse_vkey(text: str, kind: bytes, what: str, *, subject: str) -> tuple[str, PublicKey]:
    """Name and Ed25519 key of ``name+hex(key id)+base64(signature type ‖ public key)``.

    Args:
        text: the verifier key.
        kind: the signature type it must have, one byte.
        what: what such a key is called, for messages.
        subject: where it came from, for messages.

    Raises:
        MalformedKeyError: not such a key, of another type, or with a wrong id.
    """
    parts = text.split("+", 2)  # base64 may itself contain a plus; a name may not
    if len(parts) != 3 or not is_key_name(parts[0]) or not _VKEY_ID.fullmatch(parts[1]):
        raise MalformedKeyError(
            f"not a verifier key: {text[:80]!r}", subject=subject, hint="it looks like name+1a2b3c4d+AbCd…="
        )
    try:
        blob = decode_base64(parts[2], subject=subject)
    except MalformedRecordError as error:
        raise MalformedKeyError(error.message, subject=subject) from error
    if blob[:1] != kind or len(blob) != 1 + HASH_BYTES:
        found = f", found type {blob[0]}" if blob and blob[:1] != kind else ""
        raise MalformedKeyError(f"not {what} (type {kind[0]}, 32 bytes){found}", subject=subject)
    expected = key_id_of(parts[0], kind, blob[1:]).hex()
    if expected != parts[1]:
        raise MalformedKeyError(
            f"the verifier key says id {parts[1]}, its name and key give {expected}", subject=subject
        )
    return parts[0], PublicKey.from_raw_ed25519(blob[1:])


def encode_vkey(name: str, kind: bytes, public: PublicKey) -> str:
    """The inverse of :func:`parse_vkey`."""
    return f"{name}+{key_id_of(name, kind, public.raw).hex()}+{encode_base64(kind + public.raw)}"


def is_key_name(name: str) -> bool:
    """Whether a note may carry ``name`` as a key name: non-empty, no spaces, no plus, no control characters."""
    if not name or "+" in name or _CONTROL.search(name) or any(character.isspace() for character in name):
        return False
    try:
        return len(name.encode("utf-8")) <= MAX_NAME_BYTES
    except UnicodeEncodeError:
        return False


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line."""

    name: str
    key_id: bytes
    """4 bytes."""
    signature: bytes

    def to_line(self) -> str:
        """The line, with its line end."""
        return f"{_DASH}{self.name} {encode_base64(self.key_id + self.signature)}\n"

    @classmethod
    def parse(cls, line: str, *, subject: str) -> NoteSignature:
        """Read one line, without its line end. Raises MalformedRecordError."""
        name, separator, encoded = line.removeprefix(_DASH).partition(" ")
        if not line.startswith(_DASH) or not separator or not is_key_name(name):
            raise MalformedRecordError(f"malformed signature line {line[:80]!r}", subject=subject)
        blob = decode_base64(encoded, subject=subject)
        if len(blob) <= _KEY_ID_BYTES:
            raise MalformedRecordError("a signature line without a signature", subject=subject)
        return cls(name, blob[:_KEY_ID_BYTES], blob[_KEY_ID_BYTES:])


@dataclass(frozen=True, slots=True)
class SignedNote:
    """Text and its signature lines, of which none has been checked."""

    text: str
    signatures: tuple[NoteSignature, ...]
    raw: bytes

    def with_signatures(self, more: Iterable[NoteSignature]) -> bytes:
        """The note with further signature lines; those that are there already are not repeated.

        Raises:
            RefusedError: more lines than a note may have.
        """
        lines = list(dict.fromkeys([*self.signatures, *more]))
        if len(lines) > MAX_SIGNATURES:
            raise RefusedError(f"{len(lines)} signature lines; a checkpoint may carry {MAX_SIGNATURES}")
        return f"{self.text}\n{''.join(line.to_line() for line in lines)}".encode()

    @classmethod
    def parse(cls, data: bytes, *, subject: str) -> SignedNote:
        """Read a signed note.

        Raises:
            MalformedRecordError: over-large, not UTF-8, a control character, no blank line before the
                signatures, no signature, too many, or a malformed signature line.
        """
        if len(data) > MAX_NOTE_BYTES:
            raise MalformedRecordError(f"a signed note larger than {MAX_NOTE_BYTES} bytes", subject=subject)
        try:
            whole = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedRecordError(f"not utf-8 at byte {error.start}", subject=subject) from error
        if _CONTROL.search(whole):
            raise MalformedRecordError("a control character in a signed note", subject=subject)
        text, separator, tail = whole.rpartition("\n\n")
        if not separator or not tail.endswith("\n"):
            raise MalformedRecordError("not a signed note: no signature lines after a blank line", subject=subject)
        lines = tail[:-1].split("\n")
        if len(lines) > MAX_SIGNATURES:
            raise MalformedRecordError(f"more than {MAX_SIGNATURES} signatures", subject=subject)
        return cls(text + "\n", tuple(NoteSignature.parse(line, subject=subject) for line in lines), data)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: whose log, how many entries, which root."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()
    """Further lines; opaque and never written by ucaudit."""

    def to_text(self) -> str:
        """The note text that is signed."""
        lines = (self.origin, str(self.size), encode_base64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)

    @classmethod
    def parse(cls, text: str, *, subject: str) -> Checkpoint:
        """Read a note's text. Raises MalformedRecordError."""
        lines = text.removesuffix("\n").split("\n")
        if len(lines) < 3 or not all(lines):
            raise MalformedRecordError("a checkpoint has an origin, a size and a root line", subject=subject)
        size = decode_number(lines[1], subject=subject)
        return cls(lines[0], size, decode_hash(lines[2], subject=subject), tuple(lines[3:]))


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A ledger's name and public key: what a verifier must have from somewhere other than the ledger."""

    name: str
    public: PublicKey

    @classmethod
    def of(cls, name: str, public: PublicKey) -> VerifierKey:
        """Raises MalformedRecordError for an unusable name, MalformedKeyError unless the key is Ed25519."""
        if not is_key_name(name):
            raise MalformedRecordError(
                f"not usable as a ledger's origin: {name[:80]!r}",
                hint="use a name like example.com/evidence, without spaces or plus signs",
            )
        if len(public.raw) != HASH_BYTES:
            raise MalformedKeyError("a ledger key is Ed25519", subject=name)
        return cls(name, public)

    @classmethod
    def parse(cls, text: str, *, subject: str = "vkey") -> VerifierKey:
        """Read ``name+hex(key id)+base64(0x01 ‖ public key)``. Raises MalformedKeyError."""
        return cls(*parse_vkey(text, _ED25519, "an Ed25519 verifier key", subject=subject))

    def encode(self) -> str:
        """The vkey text."""
        return encode_vkey(self.name, _ED25519, self.public)

    @property
    def key_id(self) -> bytes:
        """The first 4 bytes of SHA-256(name ‖ 0x0A ‖ 0x01 ‖ public key)."""
        return key_id_of(self.name, _ED25519, self.public.raw)

    def open(self, data: bytes, *, subject: str) -> Checkpoint:
        """Parse a checkpoint, check this key's signature and that the origin is this key's name.

        Raises:
            MalformedRecordError: not a checkpoint.
            LedgerInconsistentError: no signature of this key, one that does not hold, or another origin.
        """
        note = SignedNote.parse(data, subject=subject)
        mine = [item for item in note.signatures if (item.name, item.key_id) == (self.name, self.key_id)]
        if not mine:
            raise LedgerInconsistentError(f"no signature by {self.name}+{self.key_id.hex()}", subject=subject)
        message = note.text.encode("utf-8")
        if not all(self.public.verify(item.signature, message) for item in mine):
            raise LedgerInconsistentError(
                f"the signature by {self.name}+{self.key_id.hex()} does not fit the checkpoint", subject=subject
            )
        checkpoint = Checkpoint.parse(note.text, subject=subject)
        if checkpoint.origin != self.name:
            raise LedgerInconsistentError(
                f"origin {checkpoint.origin[:80]!r}, expected {self.name!r}", subject=subject
            )
        return checkpoint

    def sign(self, checkpoint: Checkpoint, signer: Signer) -> bytes:
        """The signed note of a checkpoint. Raises SignatureInvalidError if the signer's answer does not verify."""
        text = checkpoint.to_text()
        signature = signer.sign(text.encode("utf-8"))
        if not self.public.verify(signature, text.encode("utf-8")):
            raise SignatureInvalidError("the signer returned a signature that does not verify", subject=self.name)
        return f"{text}\n{NoteSignature(self.name, self.key_id, signature).to_line()}".encode()
