"""A pack that is opened and hashed once for everybody who asks, beginning while other work goes on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ucaudit.core.digest import FileManifest
from ucaudit.core.progress import SILENT, Progress
from ucaudit.packs.memo import DigestMemo
from ucaudit.packs.opened import OpenedPack, open_pack

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
    """

    def __init__(
        self,
        path: Path,
        *,
        memo: DigestMemo | None = None,
        progress: Progress = SILENT,
        threads: int | None = None,
    ) -> None:
        self.path = path
        self._memo = memo if memo is not None else DigestMemo()
        self._progress = progress
        self._threads = threads
        self._opened: dict[tuple[str, ...], OpenedPack] = {}
        self._manifests: dict[tuple[str, ...], FileManifest] = {}
        self._begun: _Begun | None = None

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
        opened, stop = self.opened(key), threading.Event()
        pool = ThreadPoolExecutor(max_workers=1)
        self._begun = _Begun(key, stop, pool, pool.submit(self._hash, opened, stop))

    def manifest(self, excludes: Sequence[str] = ()) -> FileManifest:
        """The digests of all files without ``excludes``; waits for them.

        Raises:
            InputError: a file changed while it was hashed; or as :meth:`opened`.
        """
        key = tuple(excludes)
        if key not in self._manifests and self._begun is not None:
            self._manifests[self._begun.key] = self._begun.result.result()
            self.close()
        if key not in self._manifests:
            self._manifests[key] = self._hash(self.opened(key), threading.Event())
        return self._manifests[key]

    def close(self) -> None:
        """Stop what is still being hashed."""
        if self._begun is not None:
            self._begun.stop.set()
            self._begun.pool.shutdown(cancel_futures=True)
            self._begun = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hash(self, opened: OpenedPack, stop: threading.Event) -> FileManifest:
        def advance(amount: int) -> None:
            if stop.is_set():
                raise CancelledError
            self._progress.advance(amount)

        self._progress.start(opened.total_bytes, "bytes", "hashing the pack")
        with _short_turns():
            result = opened.file_manifest(progress=advance, threads=self._threads)
        self._progress.finish()
        return result


@dataclass(frozen=True, slots=True)
class _Begun:
    """Hashing in the background: what is left out, how to stop it, and what comes out."""

    key: tuple[str, ...]
    stop: threading.Event
    pool: ThreadPoolExecutor
    result: Future[FileManifest]


def begin_early(path: Path, *, progress: Progress = SILENT, threads: int | None = None) -> PackReading:
    """A pack that is being hashed already, before anything is known of it or of what to leave out.

    An error, whichever, waits until somebody asks: ``begin`` or ``manifest`` meet it again.
    """
    reading = PackReading(path, progress=progress, threads=threads)
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
