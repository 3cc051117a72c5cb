"""A bundle as one ``.zip``, in one form alone: the same files always give the same bytes.

Nothing is compressed; names are ASCII and in order; times, permissions and versions are fixed; there are no extra
fields, comments or gaps (APPNOTE 6.3, sections 4.3.7, 4.3.12 and 4.3.16). A reader that accepts anything else can
be shown one archive that two programs read differently (a name twice, a directory entry that contradicts the data),
or a path outside, a link, or zeros that fill a disk. Such archives are refused here; whoever has one may unpack it.
"""

from __future__ import annotations

import binascii
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from ucaudit.core.errors import MalformedRecordError, NotFoundError, OutputError, RefusedError
from ucaudit.core.files import atomic_open, open_regular
from ucaudit.evidence.bundle import ATTESTATION, MAX_FILES, OpenBundle, check_member

SUFFIX: Final = ".zip"
MAX_BYTES: Final = 2**32 - 1
"""The archive's own limit: without the 64-bit extension, offsets and sizes have 32 bits."""
_CHUNK: Final = 1 << 20
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_END: Final = struct.Struct("<4s4H2LH")
_VERSION: Final = 20
_MAKER: Final = 3 << 8 | _VERSION
"""Made on Unix: the upper half of the external attributes is a file mode."""
_DATE: Final = 1 << 5 | 1
"""1 January 1980, the first day that the format knows."""
_MODE: Final = 0o100644


def is_archive(path: Path) -> bool:
    """Whether evidence at ``path`` is to be read as an archive: by its name, and only if it is a file."""
    return path.suffix.lower() == SUFFIX and path.is_file()


def write_archive(bundle: OpenBundle, out: Path) -> None:
    """Write a bundle's files as one archive.

    Args:
        bundle: opened.
        out: the file to write; replaced in one step.

    Raises:
        RefusedError: a name that is not printable ASCII, or more bytes than the form can hold.
        OutputError: it cannot be written.
    """
    directory: list[bytes] = []
    with atomic_open(out) as target:
        for name in bundle.files:
            if not (name.isascii() and name.isprintable()):
                raise RefusedError("a name that is not ascii", subject=name, hint="give the directory instead")
            with open_regular(bundle.path / name) as source:
                size, crc = _measure(source)
                source.seek(0)
                offset = target.tell()
                if offset + size + (64 << 10) > MAX_BYTES:
                    hint = "give the directory instead"
                    raise RefusedError("larger than a .zip of 4 GB", subject=str(bundle.path), hint=hint)
                target.write(_local(name, size, crc))
                shutil.copyfileobj(source, target, _CHUNK)
                directory.append(_central(name, size, crc, offset))
        target.write(_tail(directory, target.tell()))


@contextmanager
def bundle_directory(path: Path) -> Iterator[Path]:
    """The directory to read evidence from: ``path`` itself, or what an archive holds, unpacked for the while.

    Raises:
        MalformedRecordError: the archive is not in the one form, or has files that no bundle has.
        UnsafePathError: a name with control characters.
        OutputError: there is no room to unpack it.
    """
    if not is_archive(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="ucaudit-") as place:
        target = Path(place) / path.name
        target.mkdir()
        with open_regular(path) as source:
            _unpack(source, target, str(path))
        yield target


def _unpack(source: BinaryIO, target: Path, subject: str) -> None:
    """One pass over the archive: each header must be the one that we would write, and so must what follows."""
    directory: list[bytes] = []
    previous = ""
    offset = 0
    while (head := source.read(_LOCAL.size))[:4] == b"PK\x03\x04" and len(head) == _LOCAL.size:
        if len(directory) == MAX_FILES:
            raise MalformedRecordError(f"more than {MAX_FILES} files", subject=subject)
        *_, crc, size, _, name_length, _ = _LOCAL.unpack(head)
        raw = source.read(name_length)
        try:
            name = raw.decode("ascii")
        except UnicodeDecodeError as error:
            raise _other_form(subject) from error
        check_member(name, size, subject=subject)
        if head + raw != _local(name, size, crc) or name <= previous:
            raise _other_form(subject)
        try:
            with (target / name).open("xb") as out:
                if _copy(source, out, size) != crc:
                    raise MalformedRecordError("damaged: its checksum does not fit", subject=f"{subject}: {name}")
        except OSError as error:
            raise OutputError(f"cannot unpack: {error.strerror}", subject=subject) from error
        directory.append(_central(name, size, crc, offset))
        offset += len(head) + len(raw) + size
        previous = name
    rest = _tail(directory, offset)
    if head + source.read(len(rest)) != rest:
        raise _other_form(subject)
    if not (target / ATTESTATION).exists():
        raise NotFoundError(f"no {ATTESTATION} in it", subject=subject, hint="give the archive of a bundle")


def _other_form(subject: str) -> MalformedRecordError:
    hint = "unpack it, and give the directory"
    return MalformedRecordError("not a .zip as ucaudit archive writes it", subject=subject, hint=hint)


def _local(name: str, size: int, crc: int) -> bytes:
    fixed = (b"PK\x03\x04", _VERSION, 0, 0, 0, _DATE, crc, size, size, len(name), 0)
    return _LOCAL.pack(*fixed) + name.encode("ascii")


def _central(name: str, size: int, crc: int, offset: int) -> bytes:
    head = b"PK\x01\x02" + struct.pack("<H", _MAKER) + _local("", size, crc)[4:-4]
    rest = struct.pack("<5H2L", len(name), 0, 0, 0, 0, _MODE << 16, offset)
    return head + rest + name.encode("ascii")


def _tail(directory: list[bytes], offset: int) -> bytes:
    whole = b"".join(directory)
    count = len(directory)
    return whole + _END.pack(b"PK\x05\x06", 0, 0, count, count, len(whole), offset, 0)


def _measure(source: BinaryIO) -> tuple[int, int]:
    size = crc = 0
    while data := source.read(_CHUNK):
        size += len(data)
        crc = binascii.crc32(data, crc)
    return size, crc


def _copy(source: BinaryIO, out: BinaryIO, size: int) -> int:
    """Copy ``size`` bytes, fewer if there are fewer; the checksum of what was copied."""
    crc = 0
    while size and (data := source.read(min(size, _CHUNK))):
        out.write(data)
        crc = binascii.crc32(data, crc)
        size -= len(data)
    return crc
