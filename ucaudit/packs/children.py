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
"""At most this many numbers wait in a pipe: 4 kB, which even the smallest pipe holds. With more files than that, a
number stands for every so-many-th file from it on."""
_BEAT_BYTES: Final = 64 << 20


class Children:
    """Children that hash ``files``. One thread reads what they find; :meth:`close` may be called from any.

    Args:
        opened: the pack.
        files: what to hash, the largest first.
        count: how many children.
    """

    def __init__(self, opened: OpenedPack, files: Sequence[PackFile], count: int) -> None:
        self._opened, self._files = opened, files
        self._batches = min(len(files), _BATCHES)
        self._pids: list[int] = []
        self._lock = threading.Lock()
        self._read = False
        self._results, to_results = os.pipe()
        try:
            queue = _queue(self._batches)
            try:
                with suppress(OSError):  # no more processes, or no memory: fewer children
                    for _ in range(min(count, self._batches)):
                        self._fork(queue, to_results)
            finally:
                os.close(queue)
        finally:
            os.close(to_results)

    def _fork(self, queue: int, results: int) -> None:
        """Start a child. An interrupt waits: it would make of the child a second parent, or lose the child."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            pid = os.fork()
            if pid == 0:
                self._serve(queue, results, mask)
            self._pids.append(pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    @staticmethod
    def possible() -> bool:
        """Whether this process may fork.

        It must have one thread, so that no other holds a lock for ever in a child; nothing like torch, which has
        threads that Python does not know of; and the signal that tells of a child's end must be left alone, since
        where it is ignored a child's number may be another process by the time it is asked for.
        """
        return (
            sys.platform == "linux"
            and threading.active_count() == 1
            and "torch" not in sys.modules
            and signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
        )

    def digests(self, progress: Callable[[int], None]) -> Iterator[tuple[PackFile, str]]:
        """Files with their SHA-256, as they come, until every child has ended.

        Args:
            progress: called with numbers of bytes; what it raises ends the children.
        """
        with self._lock:
            if self._read:
                return
            self._read = True
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
        """End every child that has not ended. Nothing is read from then on, unless it is being read already."""
        with self._lock:  # so that no process is killed that has a former child's number
            for pid in self._pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            while self._pids:
                with suppress(ChildProcessError):
                    os.waitpid(self._pids.pop(), 0)
            if not self._read:
                self._read = True
                os.close(self._results)

    def _serve(self, queue: int, results: int, mask: set[int]) -> Never:
        """A child's life. Nothing of its parent's is flushed, closed or printed, whatever happens."""
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(self._results)
            while record := os.read(queue, _NUMBER.size):
                (first,) = _NUMBER.unpack(record)
                for number in range(first, len(self._files), self._batches):
                    self._hash(number, results)
        finally:
            os._exit(0)

    def _hash(self, number: int, results: int) -> None:
        pending = 0

        def advance(count: int) -> None:
            nonlocal pending
            pending += count
            if pending >= _BEAT_BYTES:
                # Also how a child learns that its parent is gone: nobody reads, and writing fails.
                os.write(results, _MESSAGE.pack(-1, pending, b""))
                pending = 0

        digest = self._opened.hash_file(self._files[number], progress=advance).digest
        os.write(results, _MESSAGE.pack(number, pending, bytes.fromhex(digest)))


def _queue(count: int) -> int:
    """A pipe from which the numbers below ``count`` can be read, each once."""
    queue, end = os.pipe()
    try:
        os.write(end, b"".join(map(_NUMBER.pack, range(count))))
    finally:
        os.close(end)
    return queue
