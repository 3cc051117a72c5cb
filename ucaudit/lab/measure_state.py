"""Finished windows of an unfinished measurement.

One small file a window, so an interruption costs at most one. A file counts only if it was written by a run with
the same inputs and settings and is undamaged: it begins with a SHA-256 over the run's key, the window's index and
token ids, and the values. Anything else is measured again. This guards against accidents and mix-ups. It is no
defence against the person who runs the measurement, who could change the program as well.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ucaudit.core import strictjson
from ucaudit.core.digest import sha256_hex
from ucaudit.core.errors import InputError
from ucaudit.core.files import make_directory, read_limited, remove_leftovers, write_bytes

FORMAT: Final = "ucaudit-measure-state/1"
HIDDEN_SUFFIX: Final = ".hidden"
"""Of the files of :mod:`ucaudit.lab.hidden_states`, which lie in the same directory."""

_PREFIX: Final = "window-"
_SUFFIX: Final = ".values"
_KEY: Final = re.compile(r"[0-9a-f]{16}")
_DIGEST_BYTES: Final = 32
VALUE_BYTES: Final = 4 + 4 + 4 + 1
"""Bytes a token: two log-probabilities and a KL in fp32, one byte of top-1 agreement."""


def state_key(parts: Mapping[str, object]) -> str:
    """SHA-256 of everything that decides a window's values, as JSON with sorted keys."""
    return sha256_hex(strictjson.dumps({"format": FORMAT, **parts}))


@dataclass(frozen=True)
class StateDirectory:
    """Where finished windows lie: ``ROOT/KEY[:16]/window-INDEX.values``.

    Attributes:
        root: the directory that the caller names and removes.
        key: see :func:`state_key`.
        scored: values a window.
    """

    root: Path
    key: str
    scored: int

    @property
    def path(self) -> Path:
        """The directory of this key."""
        return self.root / self.key[:16]

    def prepare(self) -> None:
        """Make the directory, and drop half-written files of a killed run. Raises OutputError."""
        remove_leftovers(make_directory(self.path))

    def save(self, window: int, token_bytes: bytes, payload: bytes) -> None:
        """Keep one window, durably. Raises OutputError."""
        write_bytes(self._file(window), self._digest(window, token_bytes, payload) + payload)

    def load(self, window: int, token_bytes: bytes) -> tuple[bytes | None, bool]:
        """One window's values, if they are there and undamaged.

        Returns:
            The payload or None, and whether there was a file that had to be set aside.
        """
        if not self._file(window).exists():
            return None, False
        size = _DIGEST_BYTES + self.scored * VALUE_BYTES
        try:
            data = read_limited(self._file(window), size)
        except InputError:
            return None, True
        payload = data[_DIGEST_BYTES:]
        if len(data) != size or data[:_DIGEST_BYTES] != self._digest(window, token_bytes, payload):
            return None, True
        return payload, False

    def _file(self, window: int) -> Path:
        return self.path / f"{_PREFIX}{window:08d}{_SUFFIX}"

    def _digest(self, window: int, token_bytes: bytes, payload: bytes) -> bytes:
        head = f"{FORMAT}\n{self.key}\n{window}\n{sha256_hex(token_bytes)}\n".encode("ascii")
        return hashlib.sha256(head + payload).digest()


def discard_state(root: Path) -> None:
    """Remove all saved windows and hidden states below ``root``, and ``root`` itself if nothing else is in it."""
    if not root.is_dir() or root.is_symlink():
        return
    for directory in sorted(root.iterdir()):
        if directory.is_symlink() or not directory.is_dir() or not _KEY.fullmatch(directory.name):
            continue
        remove_leftovers(directory)
        for file in (*directory.glob(f"{_PREFIX}*{_SUFFIX}"), *directory.glob(f"*{HIDDEN_SUFFIX}")):
            file.unlink(missing_ok=True)
        if not any(directory.iterdir()):
            directory.rmdir()
    if not any(root.iterdir()):
        root.rmdir()
