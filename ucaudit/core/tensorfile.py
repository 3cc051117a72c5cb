"""A strict, light reader and writer of the safetensors container (no torch, no numpy, no mmap).

Layout (https://github.com/huggingface/safetensors, "Format"): eight bytes little-endian header length N, N bytes
of JSON ``{name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {str: str}}``, then the
tensors' raw little-endian row-major bytes. Offsets count from the end of the header, and the tensors must tile
the rest of the file exactly: a byte that belongs to no tensor could carry anything, and a byte that belongs to
two has no one owner.

Data are read with ``pread``: mapped pages count as resident memory, and a file that shrinks under a mapping kills
the process instead of raising an error.
"""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from ucaudit.core import strictjson
from ucaudit.core.digest import check_name
from ucaudit.core.errors import MalformedPackError, MalformedRecordError, UnsafePathError
from ucaudit.core.files import atomic_open

DTYPE_SIZES: Final[Mapping[str, int]] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}
"""Bytes per element, by safetensors' spelling. The sub-byte types are not here: their layout is not settled."""

MAX_HEADER_BYTES: Final = 100_000_000
MAX_TENSORS: Final = 500_000
# A JSON value costs far more memory than its two or three bytes of text; a tensor of two axes needs eight of these.
MAX_STRUCTURE: Final = 8 * MAX_TENSORS
MAX_AXES: Final = 16
MAX_AXIS: Final = 10**15 - 1
MAX_METADATA: Final = 10_000
_LENGTH: Final = struct.Struct("<Q")
_METADATA: Final = "__metadata__"
_ENTRY_KEYS: Final = frozenset({"dtype", "shape", "data_offsets"})
_CHUNK: Final = 1 << 20
_MOST_AT_ONCE: Final = 1 << 30

TRUNCATED_HINT: Final = "the file is not whole: download or copy it again"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies.

    Attributes:
        name: the tensor's name, safe to print and to put in a manifest line.
        dtype: a key of :data:`DTYPE_SIZES`.
        shape: sizes of the axes, slowest first; empty for a scalar.
        begin: offset of its first byte in the file.
        end: offset past its last byte in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """The tensor's size in bytes."""
        return self.end - self.begin

    @property
    def elements(self) -> int:
        """The number of elements (1 for a scalar)."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header.

    Attributes:
        tensors: name → place, in the order of their bytes in the file.
        metadata: the free text map; empty if there is none.
        data_start: offset of the first tensor byte.
        file_size: bytes in the file, all accounted for.
    """

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_start: int
    file_size: int


def read_header(handle: BinaryIO, *, subject: str) -> Header:
    """Read and check the header of an open file; the position of ``handle`` is not relied on.

    Args:
        handle: open for binary reading, seekable.
        subject: the file name for error messages.

    Raises:
        MalformedPackError: anything but exactly one well-formed safetensors container.
    """
    size = _file_size(handle)
    if size < _LENGTH.size:
        raise MalformedPackError(f"{size} bytes are too short for a safetensors file", subject=subject)
    (length,) = _LENGTH.unpack(_read(handle, 0, _LENGTH.size, subject))
    if length == 0:
        raise MalformedPackError("the safetensors header is empty", subject=subject)
    if length > MAX_HEADER_BYTES:
        raise MalformedPackError(
            f"a safetensors header of {length} bytes, at most {MAX_HEADER_BYTES} are allowed", subject=subject
        )
    if length > size - _LENGTH.size:
        raise MalformedPackError(
            f"truncated: the header should have {length} bytes, {size - _LENGTH.size} are left",
            subject=subject,
            hint=TRUNCATED_HINT,
        )
    start = _LENGTH.size + int(length)
    raw = _parse(_read(handle, _LENGTH.size, start, subject), subject)
    metadata = _metadata(raw.pop(_METADATA, None), subject) if _METADATA in raw else {}
    if len(raw) > MAX_TENSORS:
        raise MalformedPackError(f"{len(raw)} tensors, at most {MAX_TENSORS} are allowed", subject=subject)
    infos = [_tensor(name, entry, start, subject) for name, entry in raw.items()]
    # An empty tensor shares its offset with the next one, so the end settles the order, then the name.
    infos.sort(key=lambda info: (info.begin, info.end, info.name))
    _check_tiling(infos, start, size, subject)
    return Header({info.name: info for info in infos}, metadata, start, size)


def read_tensor(handle: BinaryIO, info: TensorInfo, *, subject: str) -> bytes:
    """All raw bytes of one tensor. Raises MalformedPackError if the file has shrunk since its header was read."""
    return _read(handle, info.begin, info.end, subject)


def read_into(handle: BinaryIO, begin: int, buffer: memoryview, *, subject: str) -> None:
    """Fill ``buffer`` (bytes) with the file's bytes from ``begin`` on. Raises as :func:`read_tensor`."""
    descriptor = _descriptor(handle)
    if descriptor is None or not hasattr(os, "preadv"):
        buffer[:] = _read(handle, begin, begin + len(buffer), subject)
        return
    position = 0
    while position < len(buffer):
        count = os.preadv(descriptor, [buffer[position : position + _MOST_AT_ONCE]], begin + position)
        if not count:
            raise _truncated(begin + len(buffer), subject)
        position += count


def read_chunks(handle: BinaryIO, info: TensorInfo, *, subject: str, chunk_bytes: int = _CHUNK) -> Iterator[bytes]:
    """One tensor's raw bytes in pieces of at most ``chunk_bytes``. Raises as :func:`read_tensor`."""
    for begin in range(info.begin, info.end, chunk_bytes):
        yield _read(handle, begin, min(begin + chunk_bytes, info.end), subject)


def write(target: Path | BinaryIO, tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """Write a safetensors file whose bytes depend on its content alone.

    Wide dtypes come first, then names bytewise, and the header is padded with spaces to a multiple of eight, so
    every tensor starts at a multiple of its element size.

    Args:
        target: a path (written atomically) or an open binary handle.
        tensors: name → (dtype, shape, raw little-endian bytes). No metadata is written.

    Raises:
        MalformedPackError: a dtype, shape, name or length that :func:`read_header` would refuse.
        OutputError: the path cannot be written.
    """
    subject = str(target) if isinstance(target, Path) else "safetensors"
    for name, (dtype, shape, data) in tensors.items():
        _check_tensor_name(name, subject)
        _check_length(name, dtype, shape, len(data), subject)
    order = sorted(tensors, key=lambda name: (-DTYPE_SIZES[tensors[name][0]], name.encode()))
    header: dict[str, object] = {}
    offset = 0
    for name in order:
        dtype, shape, data = tensors[name]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if isinstance(target, Path):
        with atomic_open(target) as handle:
            _write_parts(handle, text, [tensors[name][2] for name in order])
    else:
        _write_parts(target, text, [tensors[name][2] for name in order])


def _write_parts(handle: BinaryIO, header: bytes, parts: list[bytes]) -> None:
    handle.write(_LENGTH.pack(len(header)))
    handle.write(header)
    for part in parts:
        handle.write(part)


def _parse(text: bytes, subject: str) -> dict[str, Any]:
    if text[:1] != b"{":
        raise MalformedPackError("the safetensors header does not start with '{'", subject=subject)
    if text.count(b",") + text.count(b"{") + text.count(b"[") > MAX_STRUCTURE:
        raise MalformedPackError(f"the safetensors header has over {MAX_STRUCTURE} values", subject=subject)
    try:
        value = strictjson.loads(text.rstrip(b" "), subject=subject)
    except MalformedRecordError as error:
        raise MalformedPackError(f"safetensors header: {error.message}", subject=subject) from error
    return dict(value)  # starts with '{' and is one JSON document, hence an object


def _metadata(value: object, subject: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise MalformedPackError("safetensors metadata must map text to text", subject=subject)
    if len(value) > MAX_METADATA:
        raise MalformedPackError(f"{len(value)} metadata entries, at most {MAX_METADATA}", subject=subject)
    return value


def _tensor(name: str, entry: object, start: int, subject: str) -> TensorInfo:
    _check_tensor_name(name, subject)
    if not isinstance(entry, dict) or not entry.keys() >= _ENTRY_KEYS:
        raise MalformedPackError(f"tensor {name!r} lacks dtype, shape or data_offsets", subject=subject)
    extra = sorted(entry.keys() - _ENTRY_KEYS)
    if extra:
        raise MalformedPackError(f"tensor {name!r} has the unknown key {extra[0][:80]!r}", subject=subject)
    offsets = entry["data_offsets"]
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(item) is int for item in offsets):
        raise MalformedPackError(f"tensor {name!r}: data_offsets must be two integers", subject=subject)
    begin, end = offsets
    if not 0 <= begin <= end:
        raise MalformedPackError(f"tensor {name!r}: data_offsets are out of order: {begin}, {end}", subject=subject)
    shape = entry["shape"]
    if not isinstance(shape, list):
        raise MalformedPackError(f"tensor {name!r}: shape must be a list of integers", subject=subject)
    sizes = tuple(shape)
    _check_length(name, entry["dtype"], sizes, end - begin, subject)
    return TensorInfo(name, entry["dtype"], sizes, start + begin, start + end)


def _check_tensor_name(name: str, subject: str) -> None:
    if name == _METADATA:
        raise MalformedPackError(f"a tensor may not be called {_METADATA}", subject=subject)
    try:
        check_name(name, subject=subject)
    except UnsafePathError as error:
        raise MalformedPackError(f"tensor with {error.message}", subject=subject) from error


def _check_length(name: str, dtype: object, shape: tuple[object, ...], nbytes: int, subject: str) -> None:
    """Dtype known, shape sane, and bytes = product of shape × element size, in unbounded integers."""
    if not isinstance(dtype, str) or dtype not in DTYPE_SIZES:
        raise MalformedPackError(f"tensor {name!r} has the unknown dtype {str(dtype)[:40]!r}", subject=subject)
    if len(shape) > MAX_AXES:
        raise MalformedPackError(
            f"tensor {name!r} has {len(shape)} axes, at most {MAX_AXES} are allowed", subject=subject
        )
    expected = DTYPE_SIZES[dtype]
    for size in shape:
        if type(size) is not int or not 0 <= size <= MAX_AXIS:  # bool is an int, 2.0 equals 2: neither is a size
            raise MalformedPackError(f"tensor {name!r} has the axis size {str(size)[:40]}", subject=subject)
        expected *= size
    if expected != nbytes:
        raise MalformedPackError(
            f"tensor {name!r}: {dtype} of shape {list(shape)} takes {expected} bytes, found {nbytes}",
            subject=subject,
        )


def _check_tiling(infos: list[TensorInfo], start: int, size: int, subject: str) -> None:
    position = start
    for info in infos:
        if info.end > size:
            raise MalformedPackError(
                f"truncated: tensor {info.name!r} ends at byte {info.end}, the file at {size}",
                subject=subject,
                hint=TRUNCATED_HINT,
            )
        if info.begin < position:
            raise MalformedPackError(f"tensor {info.name!r} overlaps the one before it", subject=subject)
        if info.begin > position:
            raise MalformedPackError(
                f"a gap of {info.begin - position} bytes before tensor {info.name!r}", subject=subject
            )
        position = info.end
    if position != size:
        raise MalformedPackError(f"{size - position} bytes follow the last tensor", subject=subject)


def advise(handle: BinaryIO, info: TensorInfo) -> None:
    """Ask the system to read a tensor's bytes ahead, where it can."""
    descriptor = _descriptor(handle)
    if descriptor is not None and hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, info.begin, info.nbytes, os.POSIX_FADV_WILLNEED)


def _file_size(handle: BinaryIO) -> int:
    descriptor = _descriptor(handle)
    return handle.seek(0, io.SEEK_END) if descriptor is None else os.fstat(descriptor).st_size


def _descriptor(handle: BinaryIO) -> int | None:
    try:
        return handle.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return None  # bytes in memory


def _truncated(end: int, subject: str) -> MalformedPackError:
    return MalformedPackError(f"truncated: the file ends before byte {end}", subject=subject, hint=TRUNCATED_HINT)


def _read(handle: BinaryIO, begin: int, end: int, subject: str) -> bytes:
    """Exactly the bytes [begin, end). pread leaves the position alone, so threads may share the handle."""
    descriptor = _descriptor(handle)
    parts: list[bytes] = []
    position = begin
    while position < end:
        if descriptor is None:
            handle.seek(position)
            part = handle.read(end - position)
        else:
            part = os.pread(descriptor, min(end - position, _MOST_AT_ONCE), position)
        if not part:
            raise _truncated(end, subject)
        parts.append(part)
        position += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
