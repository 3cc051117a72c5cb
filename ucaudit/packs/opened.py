"""A pack's files, opened so that nothing outside the pack is ever read.

The tree is walked with directory descriptors: each step opens one name below an open directory without
following links, so a link swapped in after the walk cannot lead anywhere else. Every file is listed, hidden
and unclaimed ones too: what a manifest does not mention is exactly what an attacker would add.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

from ucaudit.core import strictjson
from ucaudit.core.digest import FileEntry, FileManifest, check_name, sha256_stream
from ucaudit.core.errors import (
    InputError,
    MalformedPackError,
    MalformedRecordError,
    NotFoundError,
    UnsafeFileError,
    UnsafePathError,
    unreadable,
)
from ucaudit.packs.memo import DigestMemo, Kind
from ucaudit.packs.sniff import has_pickle_suffix, pickle_reason

if TYPE_CHECKING:
    from ucaudit.packs.children import Children

MAX_FILES: Final = 100_000
MAX_DEPTH: Final = 32
MAX_JSON_BYTES: Final = 64 << 20
_BLOB: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class PackFile:
    """One file: its path relative to the pack with ``/`` separators, and its size in bytes."""

    path: str
    size: int
    identity: tuple[int, ...] = field(default=(), repr=False, compare=False)
    blob: str | None = field(default=None, repr=False, compare=False)


class OpenedPack:
    """The result of :func:`open_pack`.

    Attributes:
        root: the directory that holds the files, links resolved.
        name: the last part of the path that was given.
        files: every file, sorted bytewise by path.
        excludes: the exclusions that were asked for, as given.
        single_file: whether one file was given instead of a directory.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        files: tuple[PackFile, ...],
        excludes: tuple[str, ...],
        *,
        single_file: bool,
        memo: DigestMemo | None = None,
    ) -> None:
        self.root = root
        self.name = name
        self.files = files
        self.excludes = excludes
        self.single_file = single_file
        self._by_path = {file.path: file for file in files}
        self._memo = memo

    @property
    def total_bytes(self) -> int:
        """The size of all files together."""
        return sum(file.size for file in self.files)

    def has(self, path: str) -> bool:
        """Whether the pack holds a file of this relative path."""
        return path in self._by_path

    def size(self, path: str) -> int:
        """A file's size in bytes. Raises NotFoundError."""
        return self._file(path).size

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading, unbuffered; it must be the very file that the walk saw.

        Args:
            path: a path of :attr:`files`.

        Raises:
            NotFoundError: the pack has no such file.
            UnsafePathError: a part of the path has become a link.
            InputError: it may not be read, or was replaced or changed since the pack was opened.
        """
        file = self._file(path)
        try:
            descriptor = _open_below(*_location(self.root, file))
        except FileNotFoundError as error:
            raise InputError("removed while it was being read", subject=f"{self.name}/{path}") from error
        except PermissionError as error:
            raise unreadable(f"{self.name}/{path}", error) from error
        except OSError as error:
            raise UnsafePathError(
                f"cannot be opened without following links: {error.strerror}", subject=f"{self.name}/{path}"
            ) from error
        handle = os.fdopen(descriptor, "rb", buffering=0)
        try:
            self.check_unchanged(path, handle)
        except InputError:
            handle.close()
            raise
        return handle

    def check_unchanged(self, path: str, handle: BinaryIO) -> None:
        """Whether an open handle still is the file of the walk, of the same size and times. Raises InputError."""
        if identity_of(os.fstat(handle.fileno())) != self._file(path).identity:
            raise InputError(
                "replaced or changed while it was being read",
                subject=f"{self.name}/{path}",
                hint="copy the pack to a place where nothing writes to it",
            )

    def read(self, path: str, *, limit: int = MAX_JSON_BYTES) -> bytes:
        """A whole small file. Raises as :meth:`open`, and MalformedPackError if it is larger than ``limit``."""
        if self._file(path).size > limit:
            raise MalformedPackError(
                f"{self._file(path).size} bytes, at most {limit} are allowed", subject=f"{self.name}/{path}"
            )
        with self.open(path) as handle:
            return handle.read(limit)

    def read_json(self, path: str) -> Any:  # noqa: ANN401 - a JSON value is any of six types
        """A whole JSON file, parsed strictly. Raises as :meth:`read`, and MalformedPackError."""
        try:
            return strictjson.loads(self.read(path), subject=f"{self.name}/{path}")
        except MalformedRecordError as error:
            raise MalformedPackError(error.message, subject=error.subject) from error

    def hash_file(self, file: PackFile, *, progress: Callable[[int], None] | None = None) -> FileEntry:
        """Hash one of :attr:`files`.

        Args:
            progress: called with the number of bytes of each chunk; what it raises ends the work.

        Raises:
            InputError: it changed since the pack was opened, or while it was hashed.
        """
        with self.open(file.path) as handle:
            digest, size = sha256_stream(handle, progress=progress)
            self.check_unchanged(file.path, handle)
        return FileEntry(file.path, digest, size)

    def unknown(self) -> list[PackFile]:
        """The files that must be hashed since their digests are not known, the largest first."""
        memo = self._memo
        files = [file for file in self.files if memo is None or memo.digest(file.identity) is None]
        return sorted(files, key=lambda file: -file.size)

    def file_manifest(
        self,
        *,
        progress: Callable[[int], None] | None = None,
        threads: int | None = None,
        children: Children | None = None,
    ) -> FileManifest:
        """Hash every file that is not known by its identity: see :mod:`ucaudit.packs.memo`.

        Args:
            progress: called with the number of bytes of each chunk, never from two threads at once; what it raises
                ends the work.
            threads: files hashed at a time; by default the number of usable cores, at most 8.
            children: processes that are hashing this pack's files already; they are waited for, and whatever they
                did not deliver is hashed here.

        Raises:
            InputError: a file changed while it was hashed.
        """
        lock = threading.Lock()

        def report(count: int) -> None:
            if progress is not None:
                with lock:
                    progress(count)

        found: dict[str, FileEntry] = {}

        def add(file: PackFile, entry: FileEntry) -> None:
            found[file.path] = entry
            if self._memo is not None:
                self._memo.add_digest(file.identity, entry.digest)

        def one(file: PackFile) -> None:
            add(file, self.hash_file(file, progress=report))

        for file in self.files:
            known = self._memo.digest(file.identity) if self._memo is not None else None
            if known is not None:
                found[file.path] = FileEntry(file.path, known, file.size)
                report(file.size)
        if children is not None:
            for file, digest in children.digests(report):
                add(file, FileEntry(file.path, digest, file.size))
        left = [file for file in self.unknown() if file.path not in found]
        if left:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(
                max_workers=max(1, threads if threads is not None else default_workers())
            ) as pool:
                for _ in pool.map(one, left):
                    pass
        return FileManifest.build(found.values())

    def close(self) -> None:
        """Nothing is held open between calls; this is here for callers that hold a pack as a resource."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _file(self, path: str) -> PackFile:
        try:
            return self._by_path[path]
        except KeyError as error:
            raise NotFoundError("no such file in the pack", subject=f"{self.name}/{path[:200]}") from error


def usable_cores() -> int:
    """The cores this process may use; all of them where the system does not say (macOS)."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def default_workers() -> int:
    """How many files are hashed at a time."""
    return min(8, usable_cores())


def open_pack(path: Path, *, excludes: Sequence[str] = (), memo: DigestMemo | None = None) -> OpenedPack:
    """Open a pack: a directory, or one ``.gguf`` file.

    Args:
        path: what to open; it may itself be a link, its content may not (but see below).
        excludes: directories (``.git/``) or files (``notes.txt``) at the pack's top level to leave out. They
            are kept in :attr:`OpenedPack.excludes`, to be recorded.
        memo: what is known of files already; it learns what is found out. Without one, every file is read.

    A link inside a snapshot of a Hugging Face cache may point to a file of the same repository's ``blobs``
    directory. Every other link is refused.

    Raises:
        NotFoundError: nothing there, or an empty directory.
        UnsafePathError: a link, a special file, a name with control characters, a tree too deep.
        UnsafeFileError: a pickle, by its suffix or by its content.
        InputError: a file that is not ``.gguf``, too many files, a file without read permission.
    """
    path = Path(path)
    for item in excludes:
        _check_exclude(item)
    try:
        root = Path(os.path.realpath(path, strict=True))
        found = os.lstat(root)
    except OSError as error:
        raise NotFoundError(
            "no such file or directory",
            subject=str(path),
            hint="give the directory of a pack or model, or a .gguf file",
        ) from error
    name = path.name or root.name
    if stat.S_ISDIR(found.st_mode):
        files = list(_walk(root, name, excludes))
    elif stat.S_ISREG(found.st_mode) and (path.suffix == ".gguf" or root.suffix == ".gguf"):
        files = [PackFile(root.name, found.st_size, identity_of(found))]
        root = root.parent
    else:
        raise InputError(
            "not a pack: expected a directory or a .gguf file",
            subject=str(path),
            hint="give the directory it lies in",
        )
    if not files:
        raise NotFoundError(
            "the directory holds no files",
            subject=str(path),
            hint="was the download or copy finished? give the directory that holds the tensor files",
        )
    files.sort(key=lambda file: file.path.encode())
    single = not stat.S_ISDIR(found.st_mode)
    pack = OpenedPack(root, name, tuple(files), tuple(excludes), single_file=single, memo=memo)
    for file in files:
        # What a name alone gives away is seen at every walk, what the content does only once.
        kind: Kind = "container" if file.path.lower().endswith(".safetensors") else "plain"
        if memo is not None and memo.is_harmless(file.identity, kind) and not has_pickle_suffix(file.path):
            continue
        with pack.open(file.path) as handle:
            reason = pickle_reason(file.path, handle)
        if reason is None and memo is not None:
            memo.add_harmless(file.identity, kind)
        if reason is not None:
            raise UnsafeFileError(
                reason,
                subject=f"{name}/{file.path}",
                hint="remove it from the pack; weights belong into safetensors or gguf files",
            )
    return pack


def _check_exclude(item: str) -> None:
    parts = item.removesuffix("/").split("/")
    if not item or any(part in ("", ".", "..") for part in parts):
        raise InputError(f"an exclusion must be a plain relative path such as .git/, found {item[:80]!r}")


def _walk(root: Path, name: str, excludes: Sequence[str]) -> Iterator[PackFile]:
    skipped_directories = {item.removesuffix("/") for item in excludes if item.endswith("/")}
    skipped_files = {item for item in excludes if not item.endswith("/")}
    count = 0
    pending: list[tuple[str, ...]] = [()]
    while pending:
        parts = pending.pop()
        if len(parts) > MAX_DEPTH:
            raise UnsafePathError(f"directories nested deeper than {MAX_DEPTH}", subject=name)
        for entry_name, status, target in _list_directory(root, parts, name):
            relative = "/".join((*parts, entry_name))
            check_name(relative, subject=name)
            subject = f"{name}/{relative}"
            if stat.S_ISDIR(status.st_mode):
                if relative not in skipped_directories:
                    pending.append((*parts, entry_name))
                continue
            if relative in skipped_files:
                continue
            count += 1
            if count > MAX_FILES:
                raise InputError(f"more than {MAX_FILES} files", subject=name)
            if target is not None:
                yield _cache_link(root, relative, target, subject)
            elif stat.S_ISREG(status.st_mode):
                yield PackFile(relative, status.st_size, identity_of(status))
            else:
                raise UnsafePathError("neither a regular file nor a directory", subject=subject)


def _list_directory(root: Path, parts: tuple[str, ...], name: str) -> list[tuple[str, os.stat_result, str | None]]:
    """Names, status and link targets of one directory, which is opened without following links."""
    subject = "/".join((name, *parts))
    try:
        descriptor = _open_below(root, parts, _DIRECTORY_FLAGS)
    except PermissionError as error:
        raise unreadable(subject, error, what="cannot be listed") from error
    except OSError as error:
        raise InputError(f"cannot be listed: {error.strerror}", subject=subject) from error
    try:
        result: list[tuple[str, os.stat_result, str | None]] = []
        for entry_name in os.listdir(descriptor):  # noqa: PTH208 - pathlib cannot list a descriptor
            if len(result) > MAX_FILES:
                raise InputError(f"more than {MAX_FILES} files", subject=name)
            status = os.stat(entry_name, dir_fd=descriptor, follow_symlinks=False)
            target = os.readlink(entry_name, dir_fd=descriptor) if stat.S_ISLNK(status.st_mode) else None
            result.append((entry_name, status, target))
        return result
    except OSError as error:
        raise InputError(f"cannot be listed: {error.strerror}", subject=subject) from error
    finally:
        os.close(descriptor)


def _cache_link(root: Path, relative: str, target: str, subject: str) -> PackFile:
    """A link of a Hugging Face cache snapshot: ``snapshots/<revision>/… -> ../../blobs/<hash>``, nothing else."""
    repository = root.parent.parent
    expected = "../" * (2 + relative.count("/")) + "blobs/"
    blob = target.removeprefix(expected)
    if root.parent.name != "snapshots" or blob == target or not _BLOB.fullmatch(blob):
        raise UnsafePathError(
            f"a link to {target[:200]!r}", subject=subject, hint="replace the link by the file it stands for"
        )
    try:
        descriptor = _open_below(repository, ("blobs", blob))
    except OSError as error:
        raise UnsafePathError(f"a link to {target[:200]!r}, which cannot be opened", subject=subject) from error
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise UnsafePathError(f"a link to {target[:200]!r}, which is not a regular file", subject=subject)
    return PackFile(relative, status.st_size, identity_of(status), blob)


def _location(root: Path, file: PackFile) -> tuple[Path, tuple[str, ...]]:
    """Where a file's bytes lie: below the pack, or in the blobs of the cache repository around it."""
    if file.blob is not None:
        return root.parent.parent, ("blobs", file.blob)
    return root, tuple(file.path.split("/"))


def _open_below(root: Path, parts: tuple[str, ...], flags: int = _FILE_FLAGS) -> int:
    """Open ``parts`` below ``root`` one name at a time, following no link. Raises OSError."""
    descriptor = os.open(root, _DIRECTORY_FLAGS)
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        try:
            below = os.open(part, flags if last else _DIRECTORY_FLAGS, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def identity_of(status: os.stat_result) -> tuple[int, ...]:
    """What must not change between walk, hash and decode. The change time cannot be set back by its owner."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
