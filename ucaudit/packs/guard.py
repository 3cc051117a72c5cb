"""A pack that was checked, and nothing else: what a program opens after the gate is what the gate read.

Two ways. *Handles*: every file stays open, and is read through the handle that is known to hold what was hashed; a
file that somebody puts in its place is never seen, and a write into the same file is noticed at the next read.
*A private copy*: the files are copied first, into a directory that only this user can enter, and the copy is
checked; what happens to the original afterwards does not matter. Only a copy protects what is mapped into memory.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from ucaudit.core.digest import FileManifest
from ucaudit.core.errors import InconclusiveError, InputError, NotAdmittedError, NotFoundError, OutputError
from ucaudit.core.files import output_error, require_space
from ucaudit.evidence.checks import Check
from ucaudit.evidence.policy import LoadedPolicy, load_policy
from ucaudit.evidence.trust import load_trust
from ucaudit.packs.judging import Judged, evidence_beside, judge_pack
from ucaudit.packs.memo import SETTLED_NS, DigestMemo
from ucaudit.packs.opened import OpenedPack, identity_of, open_pack

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from ucaudit.core.records import Attestation

_SPARE_HANDLES: Final = 64
_CHUNK: Final = 4 << 20
_PREFIX: Final = "ucaudit-guard-"


class GuardedFile(io.RawIOBase):
    """One file of a checked pack, open for reading at a position of its own. Closing it closes nothing else."""

    def __init__(self, pack: GuardedPack, path: str) -> None:
        super().__init__()
        self._pack = pack
        self._path = path
        self._position = 0
        self.name = path

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """The descriptor of the checked file, which other readers share: do not close it or move its position."""
        return self._pack.descriptor(self._path)

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position, in bytes. Raises ValueError before the file's start."""
        base = {
            os.SEEK_SET: 0,
            os.SEEK_CUR: self._position,
            os.SEEK_END: os.fstat(self.fileno()).st_size,
        }[whence]
        if base + offset < 0:
            raise ValueError("before the start of the file")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read what the gate checked. Raises InputError if the file was changed."""
        while True:
            self._pack.check(self._path)
            count = os.preadv(self.fileno(), [buffer], self._position)
            if self._pack.is_untouched(self._path):
                self._position += count
                return count


class GuardedPack(Mapping[str, int]):
    """An admitted pack: path → size in bytes of every file that the gate checked. Use it as a context manager.

    Attributes:
        directory: the private copy; None without one.
        judged: every check that was made.
    """

    def __init__(self, opened: OpenedPack, judged: Judged, directory: Path | None, handles: dict[str, int]) -> None:
        self._opened = opened
        assert judged.files is not None  # an admitted pack was hashed
        self._sizes = {file.path: file.size for file in opened.files}
        self._digests = judged.files.by_path()
        self._handles = handles
        self._known = {path: identity_of(os.fstat(descriptor)) for path, descriptor in handles.items()}
        self.judged = judged
        self.directory = directory

    @property
    def record(self) -> Attestation:
        """The signed record."""
        record = self.judged.result.record
        assert record is not None  # an admitted pack has one
        return record

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every check."""
        return tuple(self.judged.result.checks)

    def __getitem__(self, path: str) -> int:
        return self._sizes[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def open(self, path: str) -> io.BufferedReader:
        """A file for reading, from its start. Several may be open at once, in several threads.

        Raises:
            NotFoundError: the gate saw no such file. A file that came later is no part of the pack.
        """
        self.descriptor(path)
        return io.BufferedReader(GuardedFile(self, path))

    def read(self, path: str) -> bytes:
        """A whole file. Raises as :meth:`open`, and InputError if it was changed."""
        with self.open(path) as handle:
            return handle.read()

    def file_path(self, path: str) -> Path:
        """A path for libraries that want one: in the private copy, or of the open handle (``/dev/fd/7``).

        Raises:
            NotFoundError: the gate saw no such file.
        """
        if self.directory is not None:
            self.descriptor(path)
            return self.directory / path
        return Path(f"/dev/fd/{self.descriptor(path)}")

    def descriptor(self, path: str) -> int:
        """The open descriptor of a file. Raises NotFoundError; ValueError once the pack is closed."""
        if path not in self._sizes:
            raise NotFoundError("no file of the pack that was checked", subject=f"{self._opened.name}/{path[:200]}")
        if path not in self._handles:
            raise ValueError("the guarded pack is closed")
        return self._handles[path]

    def is_untouched(self, path: str) -> bool:
        """Whether nothing at all happened to a file since it was last known to hold what was checked."""
        return identity_of(os.fstat(self.descriptor(path))) == self._known[path]

    def check(self, path: str | None = None) -> None:
        """See that one file, or every file, still holds what was checked.

        A file that was renamed, linked or removed shows other times. Then it is hashed again, through its handle.

        Raises:
            InputError: it was changed.
        """
        for name in self._sizes if path is None else (path,):
            while not self.is_untouched(name):
                descriptor = self.descriptor(name)
                before = identity_of(os.fstat(descriptor))
                if _digest(descriptor) != self._digests[name]:
                    raise InputError(
                        "changed after it was checked",
                        subject=f"{self._opened.name}/{name}",
                        hint="guard a private copy: copy=True",
                    )
                self._known[name] = before

    def close(self) -> None:
        """Close every handle and remove the private copy."""
        handles, self._handles = self._handles, {}
        for descriptor in handles.values():
            with suppress(OSError):
                os.close(descriptor)
        if self.directory is not None:
            remove_copy(self.directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and self.directory is None:
                self.check()
        finally:
            self.close()


def guard(
    path: str | os.PathLike[str],
    policy: str | os.PathLike[str] | LoadedPolicy,
    trust: str | os.PathLike[str],
    *,
    evidence: str | os.PathLike[str] | None = None,
    copy: bool = False,
    copy_to: str | os.PathLike[str] | None = None,
) -> GuardedPack:
    """Check a pack as ``ucaudit gate`` does, and hand on exactly the bytes that were checked.

    Args:
        path: the pack: a directory, or a ``.gguf`` file.
        policy: the gate's policy file.
        trust: the gate's trust file.
        evidence: a bundle, its ``.zip`` or a directory of bundles; ``PATH.evidence`` by default.
        copy: make a private copy first, and check that. It needs room for the whole pack.
        copy_to: where the copy's directory shall be made; the system's place for temporary files by default.

    Returns:
        The open pack. Leaving its ``with`` block looks once more whether any file was changed, and raises if so.

    Raises:
        NotAdmittedError: the gate refuses the pack; ``error.checks`` lists every check.
        InconclusiveError: only a claim that could not be decided stands in its way.
        InputError: pack, evidence, policy or trust file is malformed, or a file was changed meanwhile.
        OutputError: there is no room for a copy, or the system allows too few open files for handles.
    """
    pack, given = Path(path), Path(evidence) if evidence is not None else None
    loaded = policy if isinstance(policy, LoadedPolicy) else load_policy(Path(policy))
    trusted = load_trust(Path(trust))
    given = given if given is not None else _beside(pack)
    directory, subject = None, pack
    if copy or copy_to is not None:
        subject = _copied(pack, loaded.policy.gate.exclude, Path(copy_to) if copy_to is not None else None)
        directory = subject.parent if subject.is_file() else subject
    handles: dict[str, int] = {}
    memo = DigestMemo()
    # Nobody else writes into a private copy: it need not lie still for a while first.
    settled = time.time_ns() - SETTLED_NS if directory is None else time.time_ns() + SETTLED_NS
    try:
        judged = judge_pack(subject, given, loaded.policy, trusted, memo=memo)
        _require_admitted(judged, pack.name)
        assert judged.files is not None and judged.result.record is not None
        opened = open_pack(subject, excludes=judged.result.record.pack.excluded)
        _hold(opened, handles)
        _require_same(opened, judged.files, handles, memo, settled)
        return GuardedPack(opened, judged, directory, handles)
    except BaseException:
        for descriptor in handles.values():
            os.close(descriptor)
        if directory is not None:
            remove_copy(directory)
        raise


def _beside(pack: Path) -> Path | None:
    """The evidence beside the original: a copy has none beside it. None leaves the finding to the gate."""
    place = evidence_beside(pack)
    return place if place.exists() else None


def _require_admitted(judged: Judged, name: str) -> None:
    failures = judged.result.failures
    if not failures:
        return
    first = failures[0]
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    kind = InconclusiveError if judged.result.exit_code == InconclusiveError.exit_code else NotAdmittedError
    error = kind(
        f"refused by the gate: {first.what}: {first.detail}{more}",
        subject=name,
        hint=first.error.hint if first.error else None,
        reason=first.slug,
    )
    error.checks = tuple(judged.result.checks)
    raise error


def _hold(opened: OpenedPack, handles: dict[str, int]) -> None:
    """Open every file, each once. Raises OutputError if the system allows too few."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(opened.files) + _SPARE_HANDLES
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise OutputError(
                f"{len(opened.files)} files, and this system allows {hard} open ones",
                subject=opened.name,
                hint="raise the limit (ulimit -n)",
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    for file in opened.files:
        with opened.open(file.path) as handle:
            handles[file.path] = os.dup(handle.fileno())


def _require_same(
    opened: OpenedPack, checked: FileManifest, handles: Mapping[str, int], memo: DigestMemo, settled_ns: int
) -> None:
    """The open files must be those that were hashed.

    A handle on the very file that was hashed, by inode and times, has its digest. Where the times do not tell (the
    file was written in the moment before it was hashed), it is hashed again, through the handle that is handed on.
    """
    expected = checked.by_path()
    if expected.keys() != handles.keys():
        raise InputError("files came or went while the pack was checked", subject=opened.name)
    for path, descriptor in handles.items():
        identity = identity_of(os.fstat(descriptor))
        digest = memo.digest(identity)
        if digest is None or max(identity[3:5]) >= settled_ns:
            digest = _digest(descriptor)
        if digest != expected[path]:
            raise InputError("replaced or changed while it was being checked", subject=f"{opened.name}/{path}")


def _digest(descriptor: int) -> str:
    """SHA-256 of a whole open file, without moving its position."""
    hasher, buffer, position = hashlib.sha256(), bytearray(_CHUNK), 0
    view = memoryview(buffer)
    while count := os.preadv(descriptor, [buffer], position):
        hasher.update(view[:count])
        position += count
    return hasher.hexdigest()


def _copied(pack: Path, excludes: tuple[str, ...], place: Path | None) -> Path:
    """A copy of every file of a pack, below a new directory that only this user can enter.

    Returns:
        The copy: a directory of the pack's name, or its one file.

    Raises:
        InputError: as :func:`ucaudit.packs.opened.open_pack`, or a file changes while it is copied.
        OutputError: there is no room for it.
    """
    opened = open_pack(pack, excludes=excludes)
    try:
        target = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))  # mode 0700
    except OSError as error:
        raise output_error(place or Path(tempfile.gettempdir()), error) from error
    try:
        require_space(target, opened.total_bytes, hint="copy_to= names a directory on another disk")
        # The pack keeps its name, one level below a directory that is nobody else's.
        copied = target if opened.single_file else target / opened.name
        for file in opened.files:
            out = copied / file.path
            out.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(file.path) as source, out.open("xb") as sink:
                shutil.copyfileobj(source, sink, _CHUNK)
                opened.check_unchanged(file.path, source)
            out.chmod(stat.S_IRUSR)
    except OSError as error:
        remove_copy(target)
        raise output_error(target, error) from error
    except BaseException:
        remove_copy(target)
        raise
    return copied / opened.files[0].path if opened.single_file else copied


def remove_copy(directory: Path) -> None:
    """Remove a private copy, and the directory that was made for it; a copy that is gone already is fine."""
    made = directory if directory.name.startswith(_PREFIX) else directory.parent
    if made.name.startswith(_PREFIX):  # nothing else is ever removed
        shutil.rmtree(made, ignore_errors=True)
