"""Writing files so that a killed run leaves either the whole file or none, and reading with size limits."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ucaudit.core.errors import (
    InputError,
    MalformedRecordError,
    NotFoundError,
    OutputError,
    RefusedError,
    unreadable,
)

_TEMP_PREFIX = ".ucaudit-tmp-"
_RENAME_EXCHANGE = 2


def output_error(path: Path, error: OSError) -> OutputError:
    """The error for a write that failed, in words."""
    reason = {
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
        errno.EROFS: "read-only file system",
        errno.ENOSPC: "no space left on device",
        errno.EFBIG: "larger than the system allows",
        errno.EDQUOT: "disk quota exceeded",
        errno.ENOTDIR: "a parent is not a directory",
        errno.EISDIR: "is a directory",
        errno.EEXIST: "already exists",
        errno.ENOENT: "the directory does not exist",
    }.get(error.errno or 0, error.strerror or "input/output error")
    return OutputError(f"cannot write: {reason}", subject=str(path), hint="choose another output path")


@contextmanager
def atomic_open(path: Path, *, mode: int = 0o644, sync: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path``; on success fsync it and rename it to ``path``, else remove it.

    Args:
        path: the final name; its directory must exist.
        mode: permission bits of the new file (before the umask).
        sync: fsync the file and its directory before returning.

    Raises:
        OutputError: the file cannot be created, written or renamed.
    """
    path = Path(path)
    temporary = path.with_name(f"{_TEMP_PREFIX}{secrets.token_hex(6)}-{path.name}"[:250])
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as error:
        raise output_error(path, error) from error
    try:
        try:  # around the closing too: after a failed write it tries to write what is left once more
            with os.fdopen(descriptor, "wb") as handle:
                yield handle
                handle.flush()
                if sync:
                    os.fsync(handle.fileno())
        except OSError as error:
            raise output_error(path, error) from error
        try:
            temporary.replace(path)
            if sync:
                sync_directory(path.parent)
        except OSError as error:
            raise output_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write ``data`` to ``path`` atomically and durably. Raises OutputError."""
    with atomic_open(path, mode=mode) as handle:
        handle.write(data)


def write_text(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write UTF-8 text with ``\\n`` line ends, atomically and durably. Raises OutputError."""
    write_bytes(path, text.encode("utf-8"), mode=mode)


def make_directory(path: Path) -> Path:
    """Create ``path`` and its parents; an existing directory is fine. Raises OutputError."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        hint = "choose another directory, or move the file away"
        raise OutputError("cannot write: it is a file, not a directory", subject=str(path), hint=hint) from error
    except OSError as error:
        raise output_error(Path(path), error) from error
    return Path(path)


def exchange_directories(one: Path, other: Path) -> None:
    """Swap two directories of one file system in a single step: nobody ever sees one of the names missing.

    Linux's ``renameat2`` does it. Where the kernel or file system cannot, three renames do the same, and a kill
    between them can leave ``other`` under a temporary name beside it.

    Raises:
        OutputError: they cannot be renamed.
    """
    import ctypes  # only here: it would cost every command's start

    libc = ctypes.CDLL(None, use_errno=True)
    try:
        swap = libc.renameat2
    except AttributeError:
        swap = None
    if swap is not None:
        here = -100  # AT_FDCWD: relative to the working directory
        if swap(here, os.fsencode(one), here, os.fsencode(other), _RENAME_EXCHANGE) == 0:
            sync_directory(other.parent)
            return
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            raise output_error(other, OSError(code, os.strerror(code)))
    aside = other.with_name(f"{_TEMP_PREFIX}{secrets.token_hex(6)}-{other.name}"[:250])
    try:
        other.rename(aside)
        one.rename(other)
        aside.rename(one)
        sync_directory(other.parent)
    except OSError as error:
        raise output_error(other, error) from error


@contextmanager
def locked_directory(
    path: Path, *, make: bool = False, waiting: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold the one lock of a directory, so that two programs that replace it do so one after the other.

    Whoever waited finds the directory replaced, and locks the new one instead.

    Args:
        path: the directory.
        make: create it where it is missing, also if it went away while this waited.
        waiting: called before every wait for another program.

    Raises:
        NotFoundError: there is no such directory.
        OutputError: it cannot be created.
    """
    while True:
        if make:
            make_directory(path)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if make and error.errno == errno.ENOENT:
                continue  # whoever had it took it away in between
            raise NotFoundError("no such directory", subject=str(path)) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is not None:
                    waiting()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                same = os.path.samestat(os.fstat(descriptor), path.stat())
            except FileNotFoundError:
                same = False
            if same:
                yield
                return
        finally:
            os.close(descriptor)


def require_writable_directory(path: Path) -> None:
    """Preflight: fail now rather than after hours of work.

    Creates nothing: of a ``path`` that does not exist, the nearest directory above it is tried. Raises OutputError.
    """
    place = Path(path).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    probe = place / f"{_TEMP_PREFIX}{secrets.token_hex(6)}-probe"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise output_error(Path(path), error) from error


def require_space(path: Path, needed: int, *, hint: str) -> None:
    """Refuse to begin what will not fit.

    Args:
        path: where it will be written; it need not exist yet.
        needed: bytes, an estimate.
        hint: what to do otherwise.

    Raises:
        OutputError: fewer bytes are free.
    """
    import shutil  # loads the compression modules, which most commands never need

    place = path.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise OutputError(
            f"about {needed / 1e6:,.0f} MB will be written, {free / 1e6:,.0f} MB are free",
            subject=str(path),
            hint=hint,
        )


def require_unused(out: Path, *, hint: str) -> None:
    """Refuse an output directory that is a link, a file, or holds something. Raises RefusedError."""
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise RefusedError("exists already and is not empty", subject=str(out), hint=hint)


def require_outside(target: Path, *inputs: Path) -> None:
    """Refuse an output inside an input directory: writing it would change what is examined. Raises RefusedError."""
    place = Path(os.path.realpath(target))
    for given in inputs:
        if place.is_relative_to(os.path.realpath(given)):
            raise RefusedError(
                f"lies inside {given}, which is an input", subject=str(target), hint="choose another output path"
            )


def remove_empty(path: Path) -> None:
    """Remove a directory that holds nothing but empty directories; anything else stays as it is."""
    if not path.is_dir() or path.is_symlink():
        return
    for entry in path.iterdir():
        remove_empty(entry)
    with suppress(OSError):
        path.rmdir()


def sync_directory(path: Path) -> None:
    """Make renames inside ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(directory: Path) -> int:
    """Delete temporary files an interrupted run left in ``directory`` (not below). Returns how many."""
    count = 0
    for entry in Path(directory).iterdir():
        if entry.name.startswith(_TEMP_PREFIX) and entry.is_file() and not entry.is_symlink():
            entry.unlink(missing_ok=True)
            count += 1
    return count


def is_temporary(name: str) -> bool:
    """Whether a file name is one of ours that was never finished."""
    return name.startswith(_TEMP_PREFIX)


def is_directory(path: Path) -> bool:
    """Whether there is a directory of this name; InputError if a directory above it may not be looked into."""
    try:
        return path.is_dir()
    except OSError as error:
        raise unreadable(str(path), error) from error


def open_regular(path: Path) -> BinaryIO:
    """Open an existing regular file for reading, unbuffered; never a FIFO, device or directory.

    Raises:
        NotFoundError: there is no such file.
        InputError: it is not a regular file, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError("no such file", subject=str(path), hint="check the path") from error
    except OSError as error:
        raise unreadable(str(path), error) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        hint = (
            "it is a directory: name a file in it" if stat.S_ISDIR(mode) else "copy its content into a plain file"
        )
        raise InputError("not a regular file", subject=str(path), hint=hint)
    return os.fdopen(descriptor, "rb", buffering=0)


def read_limited(path: Path, limit: int) -> bytes:
    """Read a whole small file.

    Args:
        path: a regular file.
        limit: the most bytes it may hold; a larger file is refused before it is read (endless data).

    Raises:
        NotFoundError, InputError: as :func:`open_regular`.
        MalformedRecordError: the file is larger than ``limit``.
    """
    with open_regular(path) as handle:
        chunks: list[bytes] = []
        total = 0
        while chunk := handle.read(min(1 << 20, limit + 1 - total)):
            chunks.append(chunk)
            total += len(chunk)
            if total > limit:
                raise MalformedRecordError(
                    f"larger than the {limit} bytes allowed here",
                    subject=str(path),
                    hint="check that this is the file that was meant",
                )
        return b"".join(chunks)
