"""What an append does to the disk, in which order, and what a crash at any point leaves to be put right.

The order is: entries, tiles (level by level), the line in ``history``, ``checkpoint``, and last the removal of
partial files that are no longer needed. Each step is durable before the next. The line in ``history`` commits: a
crash before it leaves nothing that counts, a crash after it is brought to its end by :func:`recover`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ucaudit.core.errors import LedgerInconsistentError, OutputError
from ucaudit.core.files import is_temporary, make_directory, remove_leftovers, sync_directory, write_bytes
from ucaudit.evidence.ledger.history import History
from ucaudit.evidence.ledger.merkle import fold, hash_leaf, tree_root
from ucaudit.evidence.ledger.note import Checkpoint
from ucaudit.evidence.ledger.tiles import (
    ENTRIES,
    TILE_HEIGHT,
    TILE_WIDTH,
    Tiles,
    encode_bundle,
    tile_path,
)

CHECKPOINT_NAME: Final = "checkpoint"
COSIGNED_NAME: Final = "cosigned"
LOCK_NAME: Final = "ledger.lock"
REPAIR_HINT: Final = "ucaudit ledger repair puts right what can be derived from the entries"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process writes the ledger, and keep others out. Raises OutputError."""
    try:
        lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise OutputError(f"cannot lock the ledger: {error.strerror}", subject=str(path)) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextmanager
def undisturbed(path: Path) -> Iterator[None]:
    """Keep writers out while several files are read; on a copy without a lock file nobody writes anyway."""
    try:
        lock = os.open(path / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)


def recover(path: Path, head: Checkpoint, history: History) -> Checkpoint:
    """Bring a ledger to the state of its last committed checkpoint. Call with the lock held.

    Args:
        path: the ledger's directory.
        head: what ``checkpoint`` says, its signature checked.
        history: the ledger's.

    Returns:
        The checkpoint that is published now: ``head``, or the later one that was committed.

    Raises:
        LedgerInconsistentError: ``checkpoint`` and ``history`` contradict each other in a way no crash explains, or
            the tiles do not lead to the committed root.
        InputError: there is no readable history.
        OutputError: it cannot be written.
    """
    tail = history.tail()
    committed = history.key.open(tail.last, subject=str(history.path)) if tail.last is not None else None
    if committed is None or committed.size < head.size:
        have = "nothing" if committed is None else f"{committed.size} entries"
        raise LedgerInconsistentError(
            f"ends at {have}, the checkpoint has {head.size}", subject=str(history.path), hint=REPAIR_HINT
        )
    if committed.size == head.size and committed.root != head.root:
        raise LedgerInconsistentError(
            f"the checkpoint and the history have two different trees of {head.size} entries", subject=str(path)
        )
    if (beyond := largest_cosigned(path)) > committed.size:
        raise LedgerInconsistentError(
            f"a witness cosigned {beyond} entries, the checkpoint has {committed.size}: an older copy was restored",
            subject=str(path),
            hint="restore the newest copy; entries made since then would contradict what the witness saw",
        )
    if tail.rest:
        history.cut(tail.length)
    if committed.size > head.size:
        assert tail.last is not None
        checked_edge(Tiles(path, committed.size), committed)
        write_bytes(path / CHECKPOINT_NAME, tail.last)
    _clean(path, committed.size)
    return committed


def checked_edge(tiles: Tiles, head: Checkpoint) -> list[bytes]:
    """The entries of the last, partial bundle, once they and the tiles fit the signed root.

    Raises:
        LedgerInconsistentError, MalformedRecordError: the ledger is damaged.
    """
    if tree_root(head.size, tiles.hash) != head.root:
        raise LedgerInconsistentError(
            "the stored tiles do not lead to the checkpoint's root", subject=str(tiles.root), hint=REPAIR_HINT
        )
    last, width = divmod(head.size, TILE_WIDTH)
    edge = tiles.bundle(last) if width else []
    if edge and [hash_leaf(entry) for entry in edge] != tiles.tile(0, last):
        raise LedgerInconsistentError(
            "stored entries do not have the hashes in their tile",
            subject=str(tiles.root / tile_path(ENTRIES, last, width)),
        )
    return edge


def write_entries(before: Tiles, after: Tiles, edge: Sequence[bytes], entries: Sequence[bytes]) -> None:
    """Write every bundle and tile that ``entries``, new after ``edge``, change. Raises OutputError."""
    run = [*edge, *entries]
    for number, start in enumerate(range(0, len(run), TILE_WIDTH), before.size // TILE_WIDTH):
        chunk = run[start : start + TILE_WIDTH]
        _write(after.root / tile_path(ENTRIES, number, len(chunk)), encode_bundle(chunk))
    hashes = [hash_leaf(entry) for entry in entries]
    level = 0
    while hashes:  # full tiles give the level above its news
        first, width = divmod(before.size >> TILE_HEIGHT * level, TILE_WIDTH)
        row = [*(before.tile(level, first) if width else []), *hashes]
        hashes = []
        for number, start in enumerate(range(0, len(row), TILE_WIDTH), first):
            tile = row[start : start + TILE_WIDTH]
            after.put(level, number, tile)
            _write(after.root / tile_path(level, number, len(tile)), b"".join(tile))
            if len(tile) == TILE_WIDTH:
                hashes.append(fold(tile))
        level += 1


def prune(before: Tiles, after: Tiles) -> None:
    """Remove the partial files of tiles that are full now (tlog-tiles allows it; readers fall back)."""
    level = 0
    while (old := before.size >> TILE_HEIGHT * level) or level == 0:
        number = old // TILE_WIDTH
        if after.width(level, number) == TILE_WIDTH:
            for kind in (level, ENTRIES) if level == 0 else (level,):
                _remove_directory(after.root / f"{tile_path(kind, number)}.p")
        level += 1


def cosigned_sizes(path: Path) -> list[int]:
    """The sizes of which checkpoints with cosignatures are kept, ascending."""
    try:
        found = [item.name for item in (path / COSIGNED_NAME).iterdir()]
    except OSError:
        return []
    return sorted(int(name) for name in found if name.isascii() and name.isdecimal() and len(name) < 20)


def largest_cosigned(path: Path) -> int:
    """The size of the largest checkpoint that a witness cosigned, or -1."""
    return max(cosigned_sizes(path), default=-1)


def make_durable_directory(path: Path) -> None:
    """Create missing directories and make each one's name durable in its parent. Raises OutputError."""
    missing = [path]
    while not missing[-1].is_dir() and missing[-1].parent != missing[-1]:
        missing.append(missing[-1].parent)
    if len(missing) == 1:
        return
    make_directory(path)
    for directory in missing[1:]:
        try:
            sync_directory(directory)
        except OSError as error:
            raise OutputError(f"cannot write: {error.strerror}", subject=str(directory)) from error


def _write(path: Path, data: bytes) -> None:
    make_durable_directory(path.parent)
    write_bytes(path, data)


def _clean(path: Path, size: int) -> None:
    """Remove what an append that never committed left beyond the right edge. Best effort: it does no harm."""
    with suppress(OSError):
        remove_leftovers(path)
        if (path / COSIGNED_NAME).is_dir():
            remove_leftovers(path / COSIGNED_NAME)
    level = 0
    while True:
        kinds = (level, ENTRIES) if level == 0 else (level,)
        number, width = divmod(size >> TILE_HEIGHT * level, TILE_WIDTH)
        found = [_clean_edge(path, kind, number, width) for kind in kinds]
        if not any(found) and not size >> TILE_HEIGHT * level:
            return
        level += 1


def _clean_edge(path: Path, kind: int | str, number: int, width: int) -> bool:
    """Remove one level's files beyond its ``width`` hashes in tile ``number``; whether the level was there."""
    with suppress(OSError):
        remove_leftovers((path / tile_path(kind, number)).parent)
        for item in (path / f"{tile_path(kind, number)}.p").iterdir():
            if is_temporary(item.name) or not item.name.isdecimal() or int(item.name) > width:
                item.unlink()
    beyond = number
    while (path / tile_path(kind, beyond)).exists() or (
        (beyond > number or width == 0) and (path / f"{tile_path(kind, beyond)}.p").exists()
    ):
        beyond += 1
    for tile in range(beyond - 1, number - 1, -1):  # from the end: whoever is killed here leaves no hole
        with suppress(OSError):
            (path / tile_path(kind, tile)).unlink(missing_ok=True)
        if tile > number or width == 0:
            _remove_directory(path / f"{tile_path(kind, tile)}.p")
    return number > 0 or width > 0 or beyond > number


def _remove_directory(path: Path) -> None:
    """Best effort: what is left over does no harm."""
    with suppress(OSError):
        for item in path.iterdir():
            item.unlink()
        path.rmdir()
