"""The full check of a stored tree: every byte is read again and every hash computed anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ucaudit.core.errors import LedgerInconsistentError
from ucaudit.evidence.ledger.merkle import check_consistency, consistency_proof, fold, hash_leaf, tree_root
from ucaudit.evidence.ledger.note import Checkpoint
from ucaudit.evidence.ledger.tiles import ENTRIES, TILE_WIDTH, Tiles, tile_path

EntrySink = Callable[[list[bytes]], object]


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


def check_tree(tiles: Tiles, root: bytes, sink: EntrySink | None = None) -> None:
    """Entries → level-0 tiles → the levels above → root, each compared with what is stored.

    Args:
        tiles: the stored tree.
        root: what it must lead to.
        sink: receives each bundle's entries after they fit their tile, before the root is known to fit.

    Raises:
        LedgerInconsistentError: a file is missing, or two contradict each other.
        MalformedRecordError: a file cannot be read as a tile or bundle.
    """
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
            )
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
                )
            if len(chunk) == TILE_WIDTH:
                parents.append(fold(chunk))
        level += 1
    if tree_root(tiles.size, tiles.hash) != root:
        raise LedgerInconsistentError("the entries do not lead to the checkpoint's root", subject=str(tiles.root))


def check_extends(earlier: Checkpoint, head: Checkpoint, tiles: Tiles) -> None:
    """Check that a tree, already checked, extends an earlier checkpoint. Raises LedgerInconsistentError."""
    if earlier.size > head.size:
        raise LedgerInconsistentError(
            f"the ledger has {head.size} entries, the earlier checkpoint {earlier.size}: entries were removed",
            subject=str(tiles.root),
        )
    proof = consistency_proof(earlier.size, head.size, tiles.hash)
    try:
        check_consistency(earlier.size, head.size, earlier.root, head.root, proof)
    except LedgerInconsistentError as error:
        raise LedgerInconsistentError(
            f"{error.message}: history was rewritten since the earlier checkpoint",
            subject=str(tiles.root),
            hint="keep both checkpoints: together they prove it",
        ) from error
