"""The full check of a stored ledger: every byte is read again, every hash computed anew, every signature checked.

What is compared: entries with their tiles, tiles with the levels above, the tree with the checkpoint, with every
checkpoint in ``history``, with every checkpoint that a witness cosigned and with one that the caller kept; and the
files of partial tiles that older checkpoints left with the tree.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ucaudit.core.errors import LedgerInconsistentError, NotFoundError
from ucaudit.core.files import is_temporary, read_limited
from ucaudit.evidence.ledger.cosignature import WitnessedTime, WitnessKey, witnessed_times
from ucaudit.evidence.ledger.history import HISTORY_NAME
from ucaudit.evidence.ledger.merkle import EMPTY_ROOT, Frontier, fold, hash_leaf
from ucaudit.evidence.ledger.note import MAX_NOTE_BYTES, Checkpoint, SignedNote
from ucaudit.evidence.ledger.settings import SETTINGS_NAME
from ucaudit.evidence.ledger.tiles import ENTRIES, TILE_WIDTH, Tiles, tile_path
from ucaudit.evidence.ledger.writing import (
    CHECKPOINT_NAME,
    COSIGNED_NAME,
    LOCK_NAME,
    REPAIR_HINT,
    cosigned_sizes,
    undisturbed,
)

if TYPE_CHECKING:
    from ucaudit.evidence.ledger.store import Ledger

EntrySink = Callable[[list[bytes]], object]
_TILE_NAME: Final = re.compile(r"tile/(0|[1-7]|entries)/((?:x\d{3}/)*\d{3})(?:\.p/([1-9]\d{0,2}))?", re.ASCII)
_KNOWN: Final = (SETTINGS_NAME, CHECKPOINT_NAME, HISTORY_NAME, LOCK_NAME)


@dataclass(frozen=True, slots=True)
class LedgerSummary:
    """What a full check found to hold."""

    origin: str
    size: int
    root: bytes
    vkey: str
    pinned: bool
    """Whether the caller gave the verifier key; else it is the one the ledger names itself."""
    since: int | None
    """The size of the earlier checkpoint that this ledger was found to extend, if one was given."""
    checkpoints: int = 0
    """How many checkpoints its history holds, each signed and extended by the next."""
    witnessed: tuple[WitnessedTime, ...] = ()
    """The cosignatures of the given witnesses, all kept checkpoints together."""
    unchecked_cosignatures: int = 0
    """Cosignatures of keys that were not given; nothing is said about them."""
    leftovers: tuple[str, ...] = ()
    """Files that belong to no checkpoint: an append that never committed, or somebody else's. They are ignored."""


def audit(
    ledger: Ledger, *, since: bytes | None, pinned: bool, witnesses: Sequence[WitnessKey], sink: EntrySink | None
) -> LedgerSummary:
    """See :meth:`ucaudit.evidence.ledger.store.Ledger.verify`."""
    earlier = ledger.key.open(since, subject="earlier checkpoint") if since is not None else None
    with undisturbed(ledger.path):
        note = ledger.checkpoint()
        head = ledger.key.open(note, subject=str(ledger.path / CHECKPOINT_NAME))
        past = [checkpoint for _, checkpoint in ledger.history.checkpoints()]
        cosigned = _cosigned(ledger)
        files = _files(ledger.path)
    _check_ends(ledger.path, head, past)
    if earlier is not None and earlier.size > head.size:
        raise LedgerInconsistentError(
            f"the ledger has {head.size} entries, the earlier checkpoint {earlier.size}: entries were removed",
            subject=str(ledger.path),
        )
    tiles = Tiles(ledger.path, head.size)
    wanted = {item.size for item in (*past, *(item for _, item in cosigned), *([earlier] if earlier else []))}
    roots = check_tree(tiles, head.root, sink, wanted)
    for checkpoint in past:
        _check_root(checkpoint, roots, str(ledger.history.path))
    for _, checkpoint in cosigned:
        _check_root(checkpoint, roots, str(ledger.path / COSIGNED_NAME / str(checkpoint.size)))
    if earlier is not None and roots[earlier.size] != earlier.root:
        raise LedgerInconsistentError(
            f"two different trees of {earlier.size} entries: history was rewritten since the earlier checkpoint",
            subject=str(ledger.path),
            hint="keep both checkpoints: together they prove it",
        )
    leftovers = [name for name in files if not _belongs(ledger.path, name, tiles)]
    times, unknown = _witnessed(ledger, [note, *(note for note, _ in cosigned)], witnesses)
    return LedgerSummary(
        origin=ledger.origin,
        size=head.size,
        root=head.root,
        vkey=ledger.vkey,
        pinned=pinned,
        since=earlier.size if earlier is not None else None,
        checkpoints=len(past),
        witnessed=times,
        unchecked_cosignatures=unknown,
        leftovers=tuple(sorted(leftovers)),
    )


def check_tree(
    tiles: Tiles, root: bytes, sink: EntrySink | None = None, sizes: Iterable[int] = ()
) -> dict[int, bytes]:
    """Entries → level-0 tiles → the levels above → root, each compared with what is stored.

    Args:
        tiles: the stored tree.
        root: what it must lead to.
        sink: receives each bundle's entries after they fit their tile, before the root is known to fit.
        sizes: of earlier trees whose roots are wanted.

    Returns:
        The root of the tree at each of ``sizes`` that it has reached.

    Raises:
        LedgerInconsistentError: a file is missing, or two contradict each other.
        MalformedRecordError: a file cannot be read as a tile or bundle.
    """
    wanted = set(sizes)
    roots = {0: EMPTY_ROOT}
    frontier = Frontier()
    parents: list[bytes] = []
    for number in range(-(-tiles.size // TILE_WIDTH)):
        entries = tiles.bundle(number)
        hashes = [hash_leaf(entry) for entry in entries]
        stored = tiles.tile(0, number)
        if hashes != stored:
            wrong = next(i for i, (a, b) in enumerate(zip(hashes, stored, strict=True)) if a != b)
            raise LedgerInconsistentError(
                f"entry {number * TILE_WIDTH + wrong} does not have the hash in its tile",
                subject=str(tiles.root / tile_path(ENTRIES, number, len(hashes))),
                hint=REPAIR_HINT,
            )
        for leaf in hashes:
            frontier.push(leaf)
            if frontier.size in wanted:
                roots[frontier.size] = frontier.root()
        if len(hashes) == TILE_WIDTH:
            parents.append(fold(hashes))
        if sink is not None:
            sink(entries)
    level = 1
    while parents:
        row, parents = parents, []
        for number, start in enumerate(range(0, len(row), TILE_WIDTH)):
            chunk = row[start : start + TILE_WIDTH]
            if chunk != tiles.tile(level, number):
                raise LedgerInconsistentError(
                    "the tile does not have the hashes of the tiles below it",
                    subject=str(tiles.root / tile_path(level, number, len(chunk))),
                    hint=REPAIR_HINT,
                )
            if len(chunk) == TILE_WIDTH:
                parents.append(fold(chunk))
        level += 1
    if frontier.root() != root:
        raise LedgerInconsistentError("the entries do not lead to the checkpoint's root", subject=str(tiles.root))
    return roots


def _check_ends(path: Path, head: Checkpoint, past: Sequence[Checkpoint]) -> None:
    """The history's last line and the published checkpoint must be the same tree."""
    last = past[-1] if past else None
    if last is None or last.size < head.size:
        have = "nothing" if last is None else f"{last.size} entries"
        raise LedgerInconsistentError(
            f"ends at {have}, the checkpoint has {head.size}", subject=str(path / HISTORY_NAME), hint=REPAIR_HINT
        )
    if last.size > head.size:
        raise LedgerInconsistentError(
            f"the checkpoint has {head.size} entries, the signed history {last.size}: an append was interrupted, "
            "or an older checkpoint was put back",
            subject=str(path / CHECKPOINT_NAME),
            hint="the next append, or ucaudit ledger repair, publishes the later one",
        )


def _check_root(checkpoint: Checkpoint, roots: dict[int, bytes], subject: str) -> None:
    found = roots.get(checkpoint.size)
    if found is None:
        raise LedgerInconsistentError(
            f"a checkpoint of {checkpoint.size} entries, which the ledger does not have", subject=subject
        )
    if found != checkpoint.root:
        raise LedgerInconsistentError(
            f"the first {checkpoint.size} entries do not lead to the root of the checkpoint signed then",
            subject=subject,
            hint="keep it: it proves that history was rewritten",
        )


def _cosigned(ledger: Ledger) -> list[tuple[bytes, Checkpoint]]:
    found = []
    for size in cosigned_sizes(ledger.path):
        place = ledger.path / COSIGNED_NAME / str(size)
        note = read_limited(place, MAX_NOTE_BYTES)
        checkpoint = ledger.key.open(note, subject=str(place))
        if checkpoint.size != size:
            raise LedgerInconsistentError(f"holds a checkpoint of {checkpoint.size} entries", subject=str(place))
        found.append((note, checkpoint))
    return found


def _witnessed(
    ledger: Ledger, notes: Sequence[bytes], witnesses: Sequence[WitnessKey]
) -> tuple[tuple[WitnessedTime, ...], int]:
    """The verified cosignatures, and how many lines are neither those nor the ledger's own."""
    known = {(ledger.key.name, ledger.key.key_id), *((item.name, item.key_id) for item in witnesses)}
    times: set[WitnessedTime] = set()
    unknown = set()
    for note in notes:
        times.update(witnessed_times(note, ledger.key, witnesses, subject=f"{ledger.path}/{COSIGNED_NAME}"))
        for line in SignedNote.parse(note, subject=str(ledger.path)).signatures:
            if (line.name, line.key_id) not in known:
                unknown.add(line)
    return tuple(sorted(times, key=lambda item: (item.seconds, item.witness, item.size))), len(unknown)


def _files(path: Path) -> list[str]:
    """Every file below a directory, by relative name with ``/``."""
    found = []
    for folder, _, names in os.walk(path):
        found += [(Path(folder) / name).relative_to(path).as_posix() for name in names]
    return found


def _belongs(path: Path, name: str, tiles: Tiles) -> bool:
    """Whether a file is part of the ledger as checked. An old partial tile is compared with the tree.

    Raises:
        LedgerInconsistentError: a partial tile that is not the beginning of the one the tree has.
    """
    if name in _KNOWN:
        return True
    if name.startswith(f"{COSIGNED_NAME}/"):
        return not is_temporary(name.rpartition("/")[2]) and name.count("/") == 1 and name[9:].isdecimal()
    match = _TILE_NAME.fullmatch(name)
    if match is None:
        return False
    level = 0 if match[1] == ENTRIES else int(match[1])
    number = int(match[2].replace("x", "").replace("/", ""))
    width = int(match[3]) if match[3] else TILE_WIDTH
    kind: int | str = ENTRIES if match[1] == ENTRIES else level
    if width > tiles.width(level, number) or tile_path(kind, number, width) != name:
        return False
    if match[3]:
        _check_partial(path, name, kind, number, width, tiles)
    return True


def _check_partial(path: Path, name: str, kind: int | str, number: int, width: int, tiles: Tiles) -> None:
    if width == tiles.width(0 if kind == ENTRIES else int(kind), number):
        return  # read and compared with the tree already
    try:
        stored = Tiles.partial(path, kind, number, width)
    except NotFoundError:  # an append has just replaced it by the full one
        return
    whole = tiles.bundle(number) if kind == ENTRIES else tiles.tile(int(kind), number)
    if stored != whole[:width]:
        raise LedgerInconsistentError(
            "an older partial tile is not the beginning of what the tree has there", subject=str(path / name)
        )
