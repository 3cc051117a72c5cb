"""A pack that is opened and hashed once for everybody who asks, beginning while other work goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
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
        self._pool: ThreadPoolExecutor | None = None
        self._begun: tuple[tuple[str, ...], Future[FileManifest]] | None = None
        self._stopped = False

    def opened(self, excludes: Sequence[str] = ()) -> OpenedPack:
        """The pack without ``excludes``. Raises as :func:`ucaudit.packs.opened.open_pack`."""
        key = tuple(excludes)
        if key not in self._opened:
            self._opened[key] = open_pack(self.path, excludes=key, memo=self._memo)
        return self._opened[key]

    def begin(self, excludes: Sequence[str] = ()) -> None:
        """Open the pack, and start hashing it in the background. Raises as :meth:`opened`."""
        opened = self.opened(excludes)
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._begun = (tuple(excludes), self._pool.submit(self._hash, opened))

    def manifest(self, excludes: Sequence[str] = ()) -> FileManifest:
        """The digests of all files without ``excludes``; waits for them.

        Raises:
            InputError: a file changed while it was hashed; or as :meth:`opened`.
        """
        key = tuple(excludes)
        if key in self._manifests:
            return self._manifests[key]
        if self._begun is not None:
            begun, future = self._begun
            self._begun = None
            self._manifests[begun] = future.result()
        if key not in self._manifests:
            self._manifests[key] = self._hash(self.opened(key))
        return self._manifests[key]

    def close(self) -> None:
        """Stop what is still being hashed."""
        self._stopped = True
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hash(self, opened: OpenedPack) -> FileManifest:
        self._progress.start(opened.total_bytes, "bytes", "hashing the pack")
        with _short_turns():
            result = opened.file_manifest(progress=self._advance(), threads=self._threads)
        self._progress.finish()
        return result

    def _advance(self) -> Callable[[int], None]:
        def advance(amount: int) -> None:
            if self._stopped:
                raise CancelledError
            self._progress.advance(amount)

        return advance


@contextmanager
def _short_turns() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SWITCH_SECONDS))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
