"""SHA-256 of files and states, and the two text manifests that bind every name.

``pack.SHA256SUMS``
    ``<hex>  <relative path>`` for every file of a pack: what ``sha256sum -c`` reads.
``STATE``
    ``<hex>  <dtype>  <shape>  <tensor name>`` for every tensor of a reconstructed checkpoint, where hex is the
    SHA-256 of the tensor's raw little-endian row-major bytes, dtype has safetensors' spelling, and shape looks
    like ``576x1536`` (``scalar`` for no dimensions).

Both are UTF-8, sorted bytewise by name, with ``\\n`` line ends. The pack digest is the SHA-256 of the first,
the state digest the SHA-256 of the second: names, dtypes and shapes are bound, not just contents.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ucaudit.core.errors import MalformedRecordError, UnsafePathError
from ucaudit.core.files import open_regular

PACK_MANIFEST_NAME: Final = "pack.SHA256SUMS"
STATE_MANIFEST_NAME: Final = "STATE"
CHUNK_BYTES: Final = 1 << 20
MAX_NAME_BYTES: Final = 4096
_RENAME: Final = "rename it: letters, digits, dots and hyphens read the same everywhere"
_HEX: Final = re.compile(r"[0-9a-f]{64}")
_DTYPE: Final = re.compile(r"[A-Z][A-Z0-9_]{1,15}")
_AMBIGUOUS: Final = re.compile("[\x00-\x1f\x7f-\x9f\\\\\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_SHAPE: Final = re.compile(r"scalar|(?:0|[1-9][0-9]{0,14})(?:x(?:0|[1-9][0-9]{0,14})){0,15}")


def sha256_hex(data: bytes | bytearray | memoryview) -> str:
    """SHA-256 of bytes in memory, as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_stream(handle: BinaryIO, *, progress: Callable[[int], None] | None = None) -> tuple[str, int]:
    """SHA-256 of what is left to read in ``handle``.

    Args:
        handle: open for reading in binary mode.
        progress: called with the number of bytes of each chunk.

    Returns:
        The hex digest and the number of bytes read.
    """
    hasher = hashlib.sha256()
    buffer = bytearray(CHUNK_BYTES)
    view = memoryview(buffer)
    total = 0
    while count := handle.readinto(buffer):  # type: ignore[attr-defined]
        hasher.update(view[:count])
        total += count
        if progress is not None:
            progress(count)
    return hasher.hexdigest(), total


def sha256_file(path: Path) -> str:
    """SHA-256 of a regular file. Raises NotFoundError or InputError."""
    with open_regular(path) as handle:
        return sha256_stream(handle)[0]


def is_hex_digest(text: str) -> bool:
    """Whether ``text`` is a SHA-256 as this project writes it: 64 lower-case hex digits."""
    return _HEX.fullmatch(text) is not None


def check_name(name: str, *, subject: str) -> str:
    """Refuse names that a manifest line, a terminal or a file system could read in two ways.

    Raises:
        UnsafePathError: empty, over-long, or with control characters, backslashes, line separators,
            directional overrides or lone surrogates.
    """
    try:
        encoded = name.encode("utf-8")
    except UnicodeEncodeError as error:
        what = f"a name that is not valid unicode: {name[:80]!a}"
        raise UnsafePathError(what, subject=subject, hint=_RENAME) from error
    if not encoded or len(encoded) > MAX_NAME_BYTES:
        raise UnsafePathError(f"a name of {len(encoded)} bytes", subject=subject, hint=_RENAME)
    found = _AMBIGUOUS.search(name)
    if found is not None:
        code = ord(found.group())
        what = f"a name with the character U+{code:04X}: {name[:80]!r}"
        raise UnsafePathError(what, subject=subject, hint=_RENAME)
    return name


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a pack: its path relative to the pack with ``/`` separators, digest, size in bytes."""

    path: str
    digest: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class FileManifest:
    """The files of a pack and their digests, sorted bytewise by path."""

    entries: tuple[FileEntry, ...]

    @classmethod
    def build(cls, entries: Iterable[FileEntry]) -> FileManifest:
        """Sort, and check names, digests and uniqueness. Raises UnsafePathError, MalformedRecordError."""
        result = tuple(sorted(entries, key=lambda entry: entry.path.encode("utf-8", "surrogateescape")))
        for entry in result:
            check_name(entry.path, subject=PACK_MANIFEST_NAME)
            _check_digest(entry.digest, PACK_MANIFEST_NAME)
        _check_unique([entry.path for entry in result], PACK_MANIFEST_NAME)
        return cls(result)

    @classmethod
    def parse(cls, data: bytes, *, subject: str = PACK_MANIFEST_NAME) -> FileManifest:
        """Read ``pack.SHA256SUMS``; it must be exactly the text that :meth:`to_bytes` writes.

        Raises:
            MalformedRecordError: not in that form, not sorted, or a name twice.
        """
        entries = []
        for line in _lines(data, subject):
            digest, separator, path = line[:64], line[64:66], line[66:]
            if separator != "  " or not path:
                raise MalformedRecordError(f"malformed line {line[:100]!r}", subject=subject)
            entries.append(FileEntry(path, digest))
        result = cls.build(entries)
        _check_canonical(data, result.to_bytes(), subject)
        return result

    def to_bytes(self) -> bytes:
        """The manifest's text, which ``sha256sum -c`` accepts inside the pack directory."""
        return "".join(f"{entry.digest}  {entry.path}\n" for entry in self.entries).encode("utf-8")

    @property
    def digest(self) -> str:
        """The pack digest: SHA-256 of the text."""
        return sha256_hex(self.to_bytes())

    def by_path(self) -> dict[str, str]:
        """Path → digest."""
        return {entry.path: entry.digest for entry in self.entries}


@dataclass(frozen=True, slots=True)
class StateEntry:
    """One reconstructed tensor: name, safetensors dtype, shape, SHA-256 of its raw little-endian bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: str

    @property
    def shape_text(self) -> str:
        """``576x1536``, or ``scalar``."""
        return "x".join(str(size) for size in self.shape) if self.shape else "scalar"

    @property
    def elements(self) -> int:
        """The number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, slots=True)
class StateManifest:
    """The tensors of a reconstructed checkpoint, sorted bytewise by name."""

    entries: tuple[StateEntry, ...]

    @classmethod
    def build(cls, entries: Iterable[StateEntry]) -> StateManifest:
        """Sort, and check names, digests and uniqueness. Raises UnsafePathError, MalformedRecordError."""
        result = tuple(sorted(entries, key=lambda entry: entry.name.encode("utf-8", "surrogateescape")))
        for entry in result:
            check_name(entry.name, subject=STATE_MANIFEST_NAME)
            _check_digest(entry.digest, STATE_MANIFEST_NAME)
        _check_unique([entry.name for entry in result], STATE_MANIFEST_NAME)
        return cls(result)

    @classmethod
    def parse(cls, data: bytes, *, subject: str = STATE_MANIFEST_NAME) -> StateManifest:
        """Read a ``STATE`` file; it must be exactly the text that :meth:`to_bytes` writes.

        Raises:
            MalformedRecordError: not in that form, not sorted, or a name twice.
        """
        entries = []
        for line in _lines(data, subject):
            fields = line.split("  ", 3)
            if len(fields) != 4 or not _DTYPE.fullmatch(fields[1]) or not _SHAPE.fullmatch(fields[2]):
                raise MalformedRecordError(f"malformed line {line[:100]!r}", subject=subject)
            digest, dtype, shape_text, name = fields
            shape = () if shape_text == "scalar" else tuple(int(size) for size in shape_text.split("x"))
            entries.append(StateEntry(name, dtype, shape, digest))
        result = cls.build(entries)
        _check_canonical(data, result.to_bytes(), subject)
        return result

    def to_bytes(self) -> bytes:
        """The manifest's text."""
        return "".join(
            f"{entry.digest}  {entry.dtype}  {entry.shape_text}  {entry.name}\n" for entry in self.entries
        ).encode("utf-8")

    @property
    def digest(self) -> str:
        """The state digest: SHA-256 of the text."""
        return sha256_hex(self.to_bytes())

    @property
    def parameters(self) -> int:
        """The number of elements in all tensors."""
        return sum(entry.elements for entry in self.entries)

    def drift_from(self, expected: StateManifest) -> list[str]:
        """Sentences that name each tensor that is missing, unexpected or different; empty if equal."""
        mine = {entry.name: entry for entry in self.entries}
        theirs = {entry.name: entry for entry in expected.entries}
        found = [f"{name}: missing" for name in theirs if name not in mine]
        found += [f"{name}: not in the expected state" for name in mine if name not in theirs]
        for name, entry in mine.items():
            other = theirs.get(name)
            if other is None or other == entry:
                continue
            if (other.dtype, other.shape) != (entry.dtype, entry.shape):
                found.append(
                    f"{name}: expected {other.dtype} {other.shape_text}, found {entry.dtype} {entry.shape_text}"
                )
            else:
                found.append(f"{name}: expected {other.digest[:16]}…, found {entry.digest[:16]}…")
        return found


def _lines(data: bytes, subject: str) -> list[str]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedRecordError(f"not utf-8 at byte {error.start}", subject=subject) from error
    if not text.endswith("\n"):
        raise MalformedRecordError("empty, or the last line has no end", subject=subject)
    return text[:-1].split("\n")


def _check_digest(digest: str, subject: str) -> None:
    if not is_hex_digest(digest):
        raise MalformedRecordError(f"not a sha-256 in lower-case hex: {digest[:80]!r}", subject=subject)


def _check_unique(names: list[str], subject: str) -> None:
    for first, second in itertools.pairwise(names):
        if first == second:
            raise MalformedRecordError(f"listed twice: {first[:100]!r}", subject=subject)


def _check_canonical(found: bytes, canonical: bytes, subject: str) -> None:
    if found != canonical:
        raise MalformedRecordError("not sorted bytewise by name", subject=subject)
