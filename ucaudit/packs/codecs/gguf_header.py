"""A strict, light reader of GGUF headers (no numpy, no mmap), for files nobody vouches for.

Layout (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian): magic,
version, tensor count, metadata count; metadata pairs; for each tensor its name, axes (fastest first), type and
offset; padding; data. Every count is checked against the bytes that are left before anything is allocated.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO, Final

from ucaudit.core.digest import check_name
from ucaudit.core.errors import CodecUnavailableError, MalformedPackError, UnsafePathError

BLOCK_FORMS: Final[dict[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
}
"""ggml type number → name, elements a block, bytes a block."""

Scalar = int | float | bool | str
MAX_TENSORS: Final = 100_000
MAX_PAIRS: Final = 100_000
MAX_STRINGS: Final = 1 << 22
MAX_HEADER_BYTES: Final = 256 << 20
MAX_KEPT_ARRAY: Final = 1024
MAX_TEXT: Final = 16 << 20
_CHUNK: Final = 1 << 20
_STRING, _ARRAY = 8, 9
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor: shape slowest axis first (GGUF stores it reversed), place absolute in the file."""

    name: str
    type_name: str
    type_number: int
    block_elements: int
    block_bytes: int
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Array:
    """An array of the metadata: its length, and its items if they are few."""

    length: int
    items: tuple[Scalar, ...] | None


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """A checked header."""

    metadata: dict[str, Scalar | Array]
    tensors: dict[str, GgufTensor]
    file_size: int


class _Cursor:
    """Reads forward through a file, never more than the header's limit."""

    def __init__(self, handle: BinaryIO, subject: str) -> None:
        self._descriptor = handle.fileno()
        self.size = os.fstat(self._descriptor).st_size
        self.subject = subject
        self._buffer = b""
        self._start = 0
        self._at = 0

    @property
    def position(self) -> int:
        return self._start + self._at

    def fail(self, message: str) -> MalformedPackError:
        return MalformedPackError(f"{message} (at byte {self.position})", subject=self.subject)

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._buffer):
            self._fill(count)
            end = self._at + count
        part = self._buffer[self._at : end]
        self._at = end
        return part

    def skip(self, count: int) -> None:
        self._require(count)
        if self._at + count <= len(self._buffer):
            self._at += count
        else:
            self._start, self._at, self._buffer = self.position + count, 0, b""

    def _require(self, count: int) -> None:
        if count > self.size - self.position:
            raise self.fail(f"truncated: {count} bytes expected, {self.size - self.position} left")
        if self.position + count > MAX_HEADER_BYTES:
            raise self.fail(f"a gguf header of more than {MAX_HEADER_BYTES} bytes")

    def _fill(self, count: int) -> None:
        self._require(count)
        start = self.position
        parts = [self._buffer[self._at :]]
        have = len(parts[0])
        while have < count:
            part = os.pread(self._descriptor, max(_CHUNK, count - have), start + have)
            if not part:
                raise self.fail("truncated")
            parts.append(part)
            have += len(part)
        self._buffer, self._start, self._at = b"".join(parts), start, 0

    def number(self, form: str) -> int:
        """One integer of a struct format such as ``I`` or ``Q``."""
        return int(struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0])

    def text(self, limit: int = MAX_TEXT) -> str:
        length = self.number("Q")
        if length > limit:
            raise self.fail(f"a text of {length} bytes, at most {limit} are allowed")
        data = self.take(length)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fail("a text that is not utf-8") from error


def read_gguf_header(handle: BinaryIO, *, subject: str, allow_none: bool = False) -> GgufHeader:
    """Read and check the header of an open file.

    Args:
        handle: open for binary reading.
        subject: the file name for error messages.
        allow_none: whether a file without any tensor will do.

    Raises:
        MalformedPackError: anything but one well-formed little-endian GGUF container.
        CodecUnavailableError: a version, byte order or tensor type that is not read here.
    """
    cursor = _Cursor(handle, subject)
    if cursor.take(4) != b"GGUF":
        raise MalformedPackError("not a gguf file: the magic is missing", subject=subject)
    version = cursor.number("I")
    if version not in (2, 3):
        raise CodecUnavailableError(
            "a big-endian gguf file" if version & 0xFFFF == 0 else f"gguf version {version}, 2 and 3 are read",
            subject=subject,
        )
    tensor_count, pair_count = cursor.number("Q"), cursor.number("Q")
    if not (0 if allow_none else 1) <= tensor_count <= MAX_TENSORS:
        raise cursor.fail(f"{tensor_count} tensors, 1 to {MAX_TENSORS} are allowed")
    if pair_count > MAX_PAIRS:
        raise cursor.fail(f"{pair_count} metadata entries, at most {MAX_PAIRS} are allowed")
    metadata: dict[str, Scalar | Array] = {}
    for _ in range(pair_count):
        key = cursor.text(1 << 16)
        if key in metadata:
            raise cursor.fail(f"metadata key {key[:80]!r} twice")
        metadata[key] = _value(cursor, key)
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise cursor.fail(f"general.alignment is {str(alignment)[:40]}")
    raw = [_tensor(cursor) for _ in range(tensor_count)]
    start = -(-cursor.position // alignment) * alignment
    return GgufHeader(metadata, _place(raw, start, alignment, cursor), cursor.size)


def _value(cursor: _Cursor, key: str) -> Scalar | Array:
    kind = cursor.number("I")
    if kind != _ARRAY:
        return _scalar(cursor, kind, key)
    kind, length = cursor.number("I"), cursor.number("Q")
    left = cursor.size - cursor.position
    if kind == _STRING:
        if length > min(MAX_STRINGS, left // 8):
            raise cursor.fail(f"metadata {key[:80]!r}: an array of {length} texts")
        for _ in range(length):
            cursor.skip(cursor.number("Q"))
        return Array(length, None)
    if kind not in _SCALARS:
        raise cursor.fail(f"metadata {key[:80]!r}: an array of type {kind}")
    if length > left // struct.calcsize(_SCALARS[kind]):
        raise cursor.fail(f"truncated: metadata {key[:80]!r} is an array of {length} values")
    if length > MAX_KEPT_ARRAY:
        cursor.skip(length * struct.calcsize(_SCALARS[kind]))
        return Array(length, None)
    return Array(length, tuple(_scalar(cursor, kind, key) for _ in range(length)))


def _scalar(cursor: _Cursor, kind: int, key: str) -> Scalar:
    if kind == _STRING:
        return cursor.text()
    if kind not in _SCALARS:
        raise cursor.fail(f"metadata {key[:80]!r} has the unknown type {kind}")
    form = _SCALARS[kind]
    value: Scalar = struct.unpack(f"<{form}", cursor.take(struct.calcsize(f"<{form}")))[0]
    return value


def _tensor(cursor: _Cursor) -> tuple[str, int, tuple[int, ...], int]:
    try:
        name = check_name(cursor.text(1 << 16), subject=cursor.subject)
    except UnsafePathError as error:
        raise cursor.fail(f"tensor with {error.message}") from error
    axes = cursor.number("I")
    if not 1 <= axes <= 4:
        raise cursor.fail(f"tensor {name!r} has {axes} axes, 1 to 4 are allowed")
    sizes = tuple(cursor.number("Q") for _ in range(axes))
    if any(not 1 <= size < 2**40 for size in sizes):
        raise cursor.fail(f"tensor {name!r} has the axes {list(sizes)}")
    return name, cursor.number("I"), tuple(reversed(sizes)), cursor.number("Q")


def _place(
    raw: list[tuple[str, int, tuple[int, ...], int]], start: int, alignment: int, cursor: _Cursor
) -> dict[str, GgufTensor]:
    """The tensors must tile the data, each padded to the alignment: no overlap, no room for anything else."""
    result: dict[str, GgufTensor] = {}
    position = start
    for name, number, shape, offset in sorted(raw, key=lambda item: item[3]):
        if number not in BLOCK_FORMS:
            raise CodecUnavailableError(
                f"tensor {name!r} has ggml type {number}, not read here", subject=cursor.subject
            )
        type_name, elements, size = BLOCK_FORMS[number]
        count = 1
        for axis in shape:
            count *= axis
        if shape[-1] % elements:
            raise cursor.fail(f"tensor {name!r}: rows of {shape[-1]} are no whole {type_name} blocks")
        if name in result:
            raise cursor.fail(f"tensor {name!r} twice")
        begin, end = start + offset, start + offset + count // elements * size
        if begin != position:
            raise cursor.fail(f"tensor {name!r} starts at byte {begin}, expected {position}")
        if end > cursor.size:
            raise cursor.fail(f"truncated: tensor {name!r} ends at byte {end}, the file at {cursor.size}")
        result[name] = GgufTensor(name, type_name, number, elements, size, shape, begin, end)
        position = -(-end // alignment) * alignment
    if cursor.size > position and (raw or cursor.size - position >= alignment):
        raise cursor.fail(f"{cursor.size - position} bytes follow the last tensor")
    return result
