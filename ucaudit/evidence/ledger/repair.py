"""Putting a damaged ledger right as far as its entries and signatures allow. Nothing is ever signed here.

What can be derived is written again: tiles from the entries, ``checkpoint`` from ``history``, the end of
``history`` from ``checkpoint``. What cannot is reported: an entry that is lost or changed, and a root that nothing
leads to.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ucaudit.core.errors import LedgerInconsistentError, NotFoundError, UcauditError
from ucaudit.core.files import read_limited, write_bytes
from ucaudit.evidence.ledger.history import HISTORY_NAME
from ucaudit.evidence.ledger.merkle import Frontier, fold, hash_leaf
from ucaudit.evidence.ledger.note import MAX_NOTE_BYTES
from ucaudit.evidence.ledger.settings import read_settings
from ucaudit.evidence.ledger.store import Ledger
from ucaudit.evidence.ledger.tiles import TILE_WIDTH, Tiles, tile_path
from ucaudit.evidence.ledger.writing import (
    CHECKPOINT_NAME,
    COSIGNED_NAME,
    cosigned_sizes,
    locked,
    make_durable_directory,
    recover,
)


def repair_ledger(path: Path) -> list[str]:
    """Put right what a crash or damage left, and check the whole ledger afterwards.

    Args:
        path: the ledger's directory; its ``ledger.json`` must be whole.

    Returns:
        What was done, a sentence each; empty if nothing was wrong.

    Raises:
        LedgerInconsistentError: the entries do not lead to the newest signed checkpoint: restore them from a copy.
        UcauditError: what else cannot be put right.
    """
    ledger = Ledger(path, read_settings(path))
    done: list[str] = []
    with locked(path):
        note = _newest(ledger)
        head = ledger.key.open(note, subject=str(ledger.path))
        done += _tiles(ledger, head.size, head.root)
        done += _checkpoint(ledger, note, head.size)
        done += _history(ledger, note, head.size)
        recover(ledger.path, ledger.head(), ledger.history)
    ledger.verify()
    return done


def _newest(ledger: Ledger) -> bytes:
    """The signed checkpoint of the largest tree among ``checkpoint``, ``history`` and ``cosigned``."""
    notes = []
    with suppress(UcauditError):
        notes.append(ledger.checkpoint())
    with suppress(UcauditError):
        tail = ledger.history.tail().last
        notes += [tail] if tail is not None else []
    for size in cosigned_sizes(ledger.path):
        with suppress(UcauditError):
            notes.append(read_limited(ledger.path / COSIGNED_NAME / str(size), MAX_NOTE_BYTES))
    best: tuple[int, bytes] | None = None
    for note in notes:
        with suppress(UcauditError):
            size = ledger.key.open(note, subject="checkpoint").size
            if best is None or size > best[0]:
                best = (size, note)
    if best is None:
        raise NotFoundError(
            "no signed checkpoint is left", subject=str(ledger.path), hint="restore one from a copy"
        )
    return best[1]


def _tiles(ledger: Ledger, size: int, root: bytes) -> list[str]:
    """Write the tiles anew that do not follow from the entries, once these lead to the signed root."""
    tiles = Tiles(ledger.path, size)
    frontier = Frontier()
    rows: list[list[bytes]] = [[]]
    for number in range(-(-size // TILE_WIDTH)):
        for entry in tiles.bundle(number):
            rows[0].append(hash_leaf(entry))
            frontier.push(rows[0][-1])
    if frontier.root() != root:
        raise LedgerInconsistentError(
            f"the {size} stored entries do not lead to the newest signed checkpoint: one was changed",
            subject=str(ledger.path),
            hint="restore tile/entries from a copy; each file that was changed differs from it",
        )
    done = []
    while row := rows[-1]:
        level = len(rows) - 1
        parents = []
        for number, start in enumerate(range(0, len(row), TILE_WIDTH)):
            chunk = row[start : start + TILE_WIDTH]
            if not _stored(tiles, level, number, chunk):
                place = ledger.path / tile_path(level, number, len(chunk))
                make_durable_directory(place.parent)
                write_bytes(place, b"".join(chunk))
                done.append(f"{tile_path(level, number, len(chunk))}: computed anew from the entries")
            if len(chunk) == TILE_WIDTH:
                parents.append(fold(chunk))
        rows.append(parents)
    return done


def _stored(tiles: Tiles, level: int, number: int, chunk: list[bytes]) -> bool:
    try:
        return tiles.tile(level, number) == chunk
    except UcauditError:
        return False


def _checkpoint(ledger: Ledger, note: bytes, size: int) -> list[str]:
    try:
        published = ledger.head().size
    except UcauditError:
        published = -1
    if published == size:
        return []
    write_bytes(ledger.path / CHECKPOINT_NAME, note)
    was = "unreadable" if published < 0 else f"of {published} entries"
    return [f"{CHECKPOINT_NAME}: was {was}, now the signed one of {size} entries"]


def _history(ledger: Ledger, note: bytes, size: int) -> list[str]:
    """Drop lines that are no signed checkpoint, and add the newest checkpoint if it is missing.

    A line whose signature holds is never dropped, whatever it says: it may be the proof of a rewritten history.
    """
    done = []
    try:
        dropped = ledger.history.salvage()
    except NotFoundError:
        done.append(f"{HISTORY_NAME}: was missing, begins anew")
    else:
        if dropped:
            done.append(f"{HISTORY_NAME}: dropped {dropped} bytes that are no signed line")
    tail = ledger.history.tail() if ledger.history.path.exists() else None
    last = ledger.key.open(tail.last, subject=HISTORY_NAME).size if tail and tail.last is not None else -1
    if last < size:
        ledger.history.append(note)
        done.append(f"{HISTORY_NAME}: added the checkpoint of {size} entries")
    return done
