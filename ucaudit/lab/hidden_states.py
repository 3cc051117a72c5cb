"""Hidden states between two layers, kept on disk: what an interrupted run goes on from, and too much for memory.

One file holds the hidden states of all windows after a number of layers, ``NAME-LAYERS.hidden``: each window's
values in a row, then a SHA-256 over the run's key, the place, and the values. The next file takes over when it is
complete, so there is always one that counts. As with finished windows (:mod:`ucaudit.lab.measure_state`), this
guards against accidents, not against whoever runs the measurement.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import torch

from ucaudit.core.errors import InputError
from ucaudit.core.files import atomic_open, open_regular
from ucaudit.lab.measure_state import HIDDEN_SUFFIX
from ucaudit.packs.codecs.tensors import raw_bytes

FORMAT: Final = "ucaudit-hidden-states/1"
_DIGEST_BYTES: Final = 32
_BLOCK: Final = 1 << 20


@dataclass
class HiddenStates:
    """The hidden states of all windows of one model, layer after layer.

    Attributes:
        directory: an existing directory of this run alone.
        name: which model: a short file-name stem.
        key: of the run; see :func:`ucaudit.lab.measure_state.state_key`.
        windows: how many.
        shape: of one window's hidden states, (1, length, hidden).
        dtype: the compute dtype.
        in_memory: hold the current states in memory too; otherwise each window is read when it is needed.
    """

    directory: Path
    name: str
    key: str
    windows: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    in_memory: bool = True
    _memory: list[torch.Tensor] = field(default_factory=list, init=False, repr=False)
    _reader: BinaryIO | None = field(default=None, init=False, repr=False)

    @property
    def row_bytes(self) -> int:
        """Bytes of one window."""
        return int(torch.Size(self.shape).numel()) * self.dtype.itemsize

    def resume(self) -> tuple[int | None, bool]:
        """Take up the newest file that is whole and belongs to this run.

        Returns:
            How many layers its states have passed (None if there is none), and whether a damaged file was removed.
        """
        damaged = False
        for layers, path in sorted(self._files(), reverse=True):
            if self._is_sound(path, layers):
                self._take_over(layers, [])
                return layers, damaged
            path.unlink(missing_ok=True)
            damaged = True
        return None, damaged

    @contextmanager
    def passing(self, layers: int) -> Iterator[Callable[[torch.Tensor], None]]:
        """Write the states that have passed ``layers`` layers; they become the current ones at the end.

        Yields:
            What takes every window's states, [1, length, hidden], in order.

        Raises:
            OutputError: the disk is full, or cannot be written; the states before stay.
        """
        hasher = hashlib.sha256(self._head(layers))
        memory: list[torch.Tensor] = []
        with atomic_open(self._file(layers)) as handle:

            def append(hidden: torch.Tensor) -> None:
                data = raw_bytes(hidden)
                hasher.update(data)
                handle.write(data)
                if self.in_memory:
                    memory.append(hidden.cpu())

            yield append
            handle.write(hasher.digest())
        for before, path in self._files():
            if before != layers:
                path.unlink(missing_ok=True)
        self._take_over(layers, memory)

    def get(self, window: int) -> torch.Tensor:
        """One window's current states, [1, length, hidden], on the CPU.

        Raises:
            InputError: the file was cut short under a running measurement.
        """
        if self._memory:
            return self._memory[window]
        assert self._reader is not None, "neither resumed nor passed a layer"
        data = os.pread(self._reader.fileno(), self.row_bytes, window * self.row_bytes)
        if len(data) != self.row_bytes:
            raise InputError("hidden states were cut short while they were in use", subject=str(self.directory))
        return torch.frombuffer(bytearray(data), dtype=self.dtype).view(self.shape)

    def close(self) -> None:
        """Let go of the file and the memory; what is complete stays on disk."""
        if self._reader is not None:
            self._reader.close()
        self._reader, self._memory = None, []

    def _take_over(self, layers: int, memory: list[torch.Tensor]) -> None:
        self.close()
        self._reader = open_regular(self._file(layers))
        if self.in_memory:
            self._memory = memory or [self.get(window) for window in range(self.windows)]

    def _is_sound(self, path: Path, layers: int) -> bool:
        hasher = hashlib.sha256(self._head(layers))
        left = self.windows * self.row_bytes
        with open_regular(path) as handle:
            if os.fstat(handle.fileno()).st_size != left + _DIGEST_BYTES:
                return False
            while left:
                block = handle.read(min(left, _BLOCK))
                hasher.update(block)
                left -= len(block)
            return handle.read() == hasher.digest()

    def _files(self) -> list[tuple[int, Path]]:
        pattern = re.compile(re.escape(self.name) + r"-(\d{5})" + re.escape(HIDDEN_SUFFIX))
        found = ((pattern.fullmatch(path.name), path) for path in self.directory.iterdir())
        return [(int(match[1]), path) for match, path in found if match]

    def _file(self, layers: int) -> Path:
        return self.directory / f"{self.name}-{layers:05d}{HIDDEN_SUFFIX}"

    def _head(self, layers: int) -> bytes:
        place = f"{self.key}\n{self.name}\n{layers}\n{self.windows}\n{list(self.shape)}\n{self.dtype}\n"
        return f"{FORMAT}\n{place}".encode("ascii")
