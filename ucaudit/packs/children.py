"""Processes that hash a pack's files beside Python's own work.

Threads would do, were it not for the interpreter's lock: beside a thread that loads modules or computes, one that
hashes waits for its next turn longer than it hashes. A forked child needs no turns, and starts in a millisecond.

Children are help, not authority: whatever one did not deliver, because a file changed, or it was killed, or the
system has no memory left for it, is hashed by whoever asked for help, who then meets the error itself.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Never

if TYPE_CHECKING:
    from ucaudit.packs.opened import OpenedPack, PackFile

_NUMBER: Final = struct.Struct("=I")
_MESSAGE: Final = struct.Struct("=iQ32s")
"""A file's number, or -1; bytes hashed since the last message; the file's SHA-256, if it is done."""
_BATCHES: Final = 1024
"""At most this many numbers wait in a pipe: 4 kB, which even the smallest pipe holds."""
_BEAT_BYTES: Final = 64 << 20


class Children:
    """Children that hash ``files``. One thread reads what they find; :meth:`close` may be called from any.

    Args:
        opened: the pack.
        files: what to hash, the largest first.
        count: how many children.
    """

    def __init__(self, opened: OpenedPack, files: Sequence[PackFile], count: int) -> None:
        self._opened = opened
        batches = min(len(files), _BATCHES)
        self._batches = [files[number::batches] for number in range(batches)]
        self._files = [file for batch in self._batches for file in batch]
        self._pids: list[int] = []
        self._lock = threading.Lock()
        queue, to_queue = os.pipe()
        self._results, to_results = os.pipe()
        try:
            os.write(to_queue, b"".join(map(_NUMBER.pack, range(batches))))
            os.close(to_queue)
            to_queue = -1
            with suppress(OSError):  # no more processes, or no memory: fewer children
                for _ in range(min(count, batches)):
                    pid = os.fork()
                    if pid == 0:
                        self._serve(queue, to_results)
                    self._pids.append(pid)
        finally:
            for descriptor in (queue, to_queue, to_results):
                if descriptor >= 0:
                    os.close(descriptor)

    @staticmethod
    def possible() -> bool:
        """Whether this process may fork: it has one thread, so that no other holds a lock for ever in a child."""
        return sys.platform == "linux" and threading.active_count() == 1

    def digests(self, progress: Callable[[int], None]) -> Iterator[tuple[PackFile, str]]:
        """Files with their SHA-256, as they come, until every child has ended.

        Args:
            progress: called with numbers of bytes; what it raises ends the children.
        """
        try:
            while data := os.read(self._results, 512 * _MESSAGE.size):  # messages are written and read whole
                for number, count, digest in _MESSAGE.iter_unpack(data):
                    progress(count)
                    if number >= 0:
                        yield self._files[number], digest.hex()
        finally:
            self.close()
            os.close(self._results)

    def close(self) -> None:
        """End every child that has not ended; what was hashed until then may still be read."""
        with self._lock:  # so that no process is killed that has a former child's number
            for pid in self._pids:
                os.kill(pid, signal.SIGKILL)
            while self._pids:
                os.waitpid(self._pids.pop(), 0)

    def _serve(self, queue: int, results: int) -> Never:
        """A child's life. Nothing of its parent's is flushed, closed or printed, whatever happens."""
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.close(self._results)
            starts = [0]
            for batch in self._batches:
                starts.append(starts[-1] + len(batch))
            while record := os.read(queue, _NUMBER.size):
                (batch_number,) = _NUMBER.unpack(record)
                for number, file in enumerate(self._batches[batch_number], starts[batch_number]):
                    self._hash(number, file, results)
        finally:
            os._exit(0)

    def _hash(self, number: int, file: PackFile, results: int) -> None:
        pending = 0

        def advance(count: int) -> None:
            nonlocal pending
            pending += count
            if pending >= _BEAT_BYTES:
                # Also how a child learns that its parent is gone: nobody reads, and writing fails.
                os.write(results, _MESSAGE.pack(-1, pending, b""))
                pending = 0

        digest = self._opened.hash_file(file, progress=advance).digest
        os.write(results, _MESSAGE.pack(number, pending, bytes.fromhex(digest)))
