"""A pack that is opened and hashed once for everybody who asks, beginning while other work goes on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ucaudit.core.digest import FileManifest
from ucaudit.core.progress import SILENT, Progress
from ucaudit.packs.children import Children
from ucaudit.packs.memo import DigestMemo
from ucaudit.packs.opened import OpenedPack, default_workers, open_pack

SWITCH_SECONDS: Final = 0.0005
"""How often threads take turns while a pack is hashed beside other work. Hashing gives up its turn after each
chunk of half a millisecond; waiting Python's usual 5 ms for the next one would make it ten times slower."""


class PackReading:
    """A pack on disk, with what was found out about its files. Use it as a context manager.

    Args:
        path: the pack's directory, or its ``.gguf`` file.
        memo: what is known of files already.
        progress: told about hashed bytes.
        threads: files hashed at a time; by default the usable cores, at most 8.
        fork: hash in child processes where that is safe.
    """

    def __init__(
        self,
        path: Path,
        *,
        memo: DigestMemo | None = None,
        progress: Progress = SILENT,
        threads: int | None = None,
        fork: bool = False,
    ) -> None:
        self.path = path
        self._memo = memo if memo is not None else DigestMemo()
        self._progress = progress
        self._threads = threads
        self._opened: dict[tuple[str, ...], OpenedPack] = {}
        self._manifests: dict[tuple[str, ...], FileManifest] = {}
        self._begun: _Begun | None = None
        self._fork = fork

    def opened(self, excludes: Sequence[str] = ()) -> OpenedPack:
        """The pack without ``excludes``. Raises as :func:`ucaudit.packs.opened.open_pack`."""
        key = tuple(excludes)
        if key not in self._opened:
            self._opened[key] = open_pack(self.path, excludes=key, memo=self._memo)
        return self._opened[key]

    def begin(self, excludes: Sequence[str] = ()) -> None:
        """Open the pack, and start hashing it in the background. Raises as :meth:`opened`.

        May be called again, once it is known what to leave out: what was begun goes on if it is the same, and
        is stopped otherwise; digests found so far are kept.
        """
        key = tuple(excludes)
        if key in self._manifests or (self._begun is not None and self._begun.key == key):
            return
        self.close()
        opened = self.opened(key)
        children = None
        if self._fork and Children.possible():
            children = Children(opened, opened.unknown(), self._threads or default_workers())
        try:
            self._begun = _Begun(key, children, lambda stop: self._hash(opened, stop, children))
        except BaseException:  # no more threads
            if children is not None:
                children.close()
            raise

    def manifest(self, excludes: Sequence[str] = ()) -> FileManifest:
        """The digests of all files without ``excludes``; waits for them.

        Raises:
            InputError: a file changed while it was hashed; or as :meth:`opened`.
        """
        key = tuple(excludes)
        if key not in self._manifests and self._begun is not None:
            self._manifests[self._begun.key] = self._begun.result()
            self.close()
        if key not in self._manifests:
            self._manifests[key] = self._hash(self.opened(key), threading.Event(), None)
        return self._manifests[key]

    def close(self) -> None:
        """Stop what is still being hashed."""
        if self._begun is not None:
            self._begun.end()
            self._begun = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hash(self, opened: OpenedPack, stop: threading.Event, children: Children | None) -> FileManifest:
        def advance(amount: int) -> None:
            if stop.is_set():
                raise _StoppedError
            self._progress.advance(amount)

        self._progress.start(opened.total_bytes, "bytes", "hashing the pack")
        with _short_turns() if children is None else nullcontext():
            result = opened.file_manifest(progress=advance, threads=self._threads, children=children)
        self._progress.finish()
        return result


class _StoppedError(Exception):
    """Nobody wants to know the digests any more."""


class _Begun(threading.Thread):
    """Hashing in the background: what is left out, how to stop it, and what comes out.

    A thread and not a pool of one, whose module takes longer to load than a small pack to hash.
    """

    def __init__(
        self, key: tuple[str, ...], children: Children | None, work: Callable[[threading.Event], FileManifest]
    ) -> None:
        super().__init__(name="hashing a pack")
        self.key = key
        self.stop = threading.Event()
        self._children = children
        self._work = work
        self._found: FileManifest | None = None
        self._problem: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Of the thread."""
        try:
            self._found = self._work(self.stop)
        except BaseException as error:  # noqa: BLE001 - said where the result is asked for
            self._problem = error
        finally:
            if self._children is not None:
                self._children.close()

    def result(self) -> FileManifest:
        """Wait for the digests. Raises what kept them from being found."""
        self.join()
        if self._found is None:
            raise self._problem or _StoppedError
        return self._found

    def end(self) -> None:
        """Stop, and wait until it has stopped."""
        self.stop.set()
        if self._children is not None:
            self._children.close()
        self.join()


def begin_early(path: Path, *, progress: Progress = SILENT, threads: int | None = None) -> PackReading:
    """A pack that is being hashed already, before anything is known of it or of what to leave out.

    Meant for a program that has hardly started: where that is safe, child processes do the hashing. An error,
    whichever, waits until somebody asks: ``begin`` or ``manifest`` meet it again.
    """
    reading = PackReading(path, progress=progress, threads=threads, fork=True)
    with suppress(Exception):
        reading.begin()
    return reading


@contextmanager
def _short_turns() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SWITCH_SECONDS))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
