"""The C2SP tlog-tiles layout on a local file system.

``tile/<L>/<N>`` holds 256 consecutive hashes of tree level 8·L; ``tile/entries/<N>`` the 256 entries of level-0
tile N, each with a big-endian 16-bit length. The rightmost ones are partial: ``<N>.p/<W>`` with W of them. N is
written in groups of three digits, all but the last marked with an x: 1234067 is ``x001/x234/067``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ucaudit.core.errors import LedgerInconsistentError, MalformedRecordError, NotFoundError
from ucaudit.core.files import read_limited
from ucaudit.evidence.ledger.merkle import HASH_BYTES, fold

TILE_WIDTH: Final = 256
TILE_HEIGHT: Final = 8
MAX_ENTRY_BYTES: Final = 0xFFFF
_MAX_BUNDLE_BYTES: Final = TILE_WIDTH * (2 + MAX_ENTRY_BYTES)
ENTRIES: Final = "entries"


def tile_path(level: int | str, index: int, width: int = TILE_WIDTH) -> str:
    """The relative path of a tile, or of an entry bundle if ``level`` is :data:`ENTRIES`."""
    groups = [f"{index % 1000:03d}"]
    while index := index // 1000:
        groups.insert(0, f"x{index % 1000:03d}")
    suffix = "" if width == TILE_WIDTH else f".p/{width}"
    return f"tile/{level}/{'/'.join(groups)}{suffix}"


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Entries with 16-bit length prefixes; each at most :data:`MAX_ENTRY_BYTES`."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def decode_bundle(data: bytes, width: int, *, subject: str) -> list[bytes]:
    """Exactly ``width`` entries and nothing after them. Raises MalformedRecordError."""
    entries = []
    position = 0
    for number in range(width):
        start = position + 2
        end = start + int.from_bytes(data[position:start], "big")
        if start > len(data) or end > len(data):
            raise MalformedRecordError(f"entry {number} of {width} is cut off", subject=subject)
        entries.append(data[start:end])
        position = end
    if position != len(data):
        raise MalformedRecordError(f"{len(data) - position} bytes after the last entry", subject=subject)
    return entries


def _split_tile(data: bytes, width: int, *, subject: str) -> list[bytes]:
    """Exactly ``width`` hashes. Raises MalformedRecordError."""
    if len(data) != width * HASH_BYTES:
        raise MalformedRecordError(f"{len(data)} bytes, expected {width * HASH_BYTES}", subject=subject)
    return [data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES)]


class Tiles:
    """The stored hashes and entries of a tree of ``size`` entries. Tiles are read once and kept."""

    def __init__(self, root: Path, size: int) -> None:
        self.root = root
        self.size = size
        self._tiles: dict[tuple[int, int], list[bytes]] = {}

    def width(self, level: int, index: int) -> int:
        """How many hashes tile ``index`` of ``level`` has in a tree of this size."""
        return max(0, min(TILE_WIDTH, (self.size >> TILE_HEIGHT * level) - index * TILE_WIDTH))

    def put(self, level: int, index: int, hashes: list[bytes]) -> None:
        """Remember a tile that is being written."""
        self._tiles[level, index] = hashes

    @staticmethod
    def partial(root: Path, kind: int | str, index: int, width: int) -> list[bytes]:
        """The hashes or entries of one partial file, whatever the size of the tree.

        Raises:
            NotFoundError: there is no such file.
            MalformedRecordError: it does not hold ``width`` of them.
        """
        name = tile_path(kind, index, width)
        subject = str(root / name)
        if kind == ENTRIES:
            return decode_bundle(read_limited(root / name, _MAX_BUNDLE_BYTES), width, subject=subject)
        return _split_tile(read_limited(root / name, TILE_WIDTH * HASH_BYTES), width, subject=subject)

    def tile(self, level: int, index: int) -> list[bytes]:
        """The hashes of a tile, as stored.

        Raises:
            LedgerInconsistentError: the file is missing though the tree has it.
            MalformedRecordError: it has another length.
        """
        if (level, index) not in self._tiles:
            data, width, name = self._read(level, index, TILE_WIDTH * HASH_BYTES)
            hashes = _split_tile(data, width, subject=str(self.root / name))
            self._tiles[level, index] = hashes[: self.width(level, index)]
        return self._tiles[level, index]

    def bundle(self, index: int) -> list[bytes]:
        """The entries of a bundle, as stored. Raises as :meth:`tile`."""
        data, width, name = self._read(ENTRIES, index, _MAX_BUNDLE_BYTES)
        return decode_bundle(data, width, subject=str(self.root / name))[: self.width(0, index)]

    def bundle_contains(self, index: int, needle: bytes) -> bool:
        """Whether a bundle's file contains some bytes: spares parsing most of a large log."""
        return needle in self._read(ENTRIES, index, _MAX_BUNDLE_BYTES)[0]

    def hash(self, level: int, index: int) -> bytes:
        """The hash of a complete subtree: a :data:`~ucaudit.evidence.ledger.merkle.HashReader`."""
        tile_level, above = divmod(level, TILE_HEIGHT)
        first = index << above
        tile = self.tile(tile_level, first // TILE_WIDTH)
        start = first % TILE_WIDTH
        return fold(tile[start : start + (1 << above)])

    def _read(self, level: int | str, index: int, limit: int) -> tuple[bytes, int, str]:
        """File content, how many items it must hold, and its relative name.

        A partial file may have been removed once the full one existed, so that is the second place to look.
        """
        width = self.width(0 if level == ENTRIES else int(level), index)
        wanted = tile_path(level, index, width)
        for name, held in ((wanted, width), (tile_path(level, index), TILE_WIDTH)):
            try:
                return read_limited(self.root / name, limit), held, name
            except NotFoundError:
                continue
        raise LedgerInconsistentError(
            f"missing, though the checkpoint covers {self.size} entries", subject=str(self.root / wanted)
        )
