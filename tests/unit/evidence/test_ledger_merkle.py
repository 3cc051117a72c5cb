"""The published vectors for trees and tile paths."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ucaudit.core.errors import LedgerInconsistentError, MalformedRecordError
from ucaudit.evidence.ledger.merkle import EMPTY_ROOT, check_consistency, check_inclusion, hash_leaf, tree_root
from ucaudit.evidence.ledger.tiles import ENTRIES, decode_bundle, encode_bundle, tile_path

VECTORS = Path(__file__).parents[2] / "vectors" / "ledger"


def naive(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1 by recursion, apart from the code under test."""
    import hashlib

    if len(leaves) < 2:
        return hashlib.sha256(b"\x00" + leaves[0] if leaves else b"").digest()
    k = max(1 << bit for bit in range(len(leaves).bit_length()) if 1 << bit < len(leaves))
    return hashlib.sha256(b"\x01" + naive(leaves[:k]) + naive(leaves[k:])).digest()


def test_the_reference_tree() -> None:
    vectors = json.loads((VECTORS / "rfc6962-trees.json").read_text())
    leaves = [bytes.fromhex(text) for text in vectors["leaves"]]
    assert len(vectors["roots"]) == 9
    for size, expected in enumerate(vectors["roots"]):
        assert naive(leaves[:size]).hex() == expected
        assert tree_root(size, lambda level, i: naive(leaves[i << level : (i + 1) << level])).hex() == expected


@pytest.mark.parametrize(
    ("level", "index", "width", "expected"),
    [
        (0, 0, 256, "tile/0/000"),
        (0, 5, 1, "tile/0/005.p/1"),
        (2, 999, 256, "tile/2/999"),
        (1, 1000, 255, "tile/1/x001/000.p/255"),
        (0, 1234067, 256, "tile/0/x001/x234/067"),
        (ENTRIES, 1234067, 12, "tile/entries/x001/x234/067.p/12"),
    ],
)
def test_tile_paths(level: int | str, index: int, width: int, expected: str) -> None:
    assert tile_path(level, index, width) == expected


def test_a_bundle_is_length_prefixed() -> None:
    entries = [b"", b"abc", b"x" * 65_535]
    data = encode_bundle(entries)
    assert data.startswith(b"\x00\x00\x00\x03abc\xff\xffxx")
    assert decode_bundle(data, 3, subject="b") == entries
    for bad, message in ((data[:-1], "cut off"), (data + b"!", "1 bytes after"), (data[:1], "cut off")):
        with pytest.raises(MalformedRecordError, match=message):
            decode_bundle(bad, 3, subject="b")


def test_the_limits_of_proofs() -> None:
    leaf = hash_leaf(b"only")
    check_inclusion(0, 1, leaf, [], leaf)
    check_consistency(0, 1, EMPTY_ROOT, leaf, [])
    check_consistency(1, 1, leaf, leaf, [])
    for index, size in ((1, 1), (-1, 1), (0, 0)):
        with pytest.raises(LedgerInconsistentError, match="outside"):
            check_inclusion(index, size, leaf, [], leaf)
    with pytest.raises(LedgerInconsistentError, match="two different trees"):
        check_consistency(1, 1, leaf, EMPTY_ROOT, [])
    with pytest.raises(LedgerInconsistentError, match="two different trees"):
        check_consistency(0, 1, leaf, leaf, [])
    with pytest.raises(LedgerInconsistentError, match="should be empty"):
        check_consistency(1, 1, leaf, leaf, [leaf])
    with pytest.raises(LedgerInconsistentError, match="too short"):
        check_consistency(3, 7, leaf, leaf, [])
