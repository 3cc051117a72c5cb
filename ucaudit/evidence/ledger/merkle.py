"""Merkle trees as RFC 6962 section 2.1 defines them: hashes, roots, proofs and their verification.

Nothing here recomputes a whole tree. Whoever stores the tree offers a :data:`HashReader`, the hash of any
*complete* subtree; a root or proof then needs O(log n) of them. Verification is iterative and follows
RFC 9162 sections 2.1.3.2 (inclusion) and 2.1.4.2 (consistency).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

from ucaudit.core.errors import LedgerInconsistentError

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""The root of a tree without leaves."""

HashReader = Callable[[int, int], bytes]
"""``(level, index)`` → root of the complete subtree over leaves ``[index·2^level, (index+1)·2^level)``."""


def hash_leaf(data: bytes) -> bytes:
    """SHA-256(0x00 ‖ data)."""
    return hashlib.sha256(b"\x00" + data).digest()


def hash_node(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 ‖ left ‖ right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root of a complete subtree from 2^k hashes of one level."""
    row = list(hashes)
    while len(row) > 1:
        row = [hash_node(row[i], row[i + 1]) for i in range(0, len(row), 2)]
    return row[0]


class Frontier:
    """The roots of a growing tree, one leaf after the other; holds O(log n) hashes."""

    def __init__(self) -> None:
        self.size = 0
        self._complete: list[bytes] = []

    def push(self, leaf_hash: bytes) -> None:
        """Add the next leaf."""
        count = self.size
        while count & 1:
            leaf_hash = hash_node(self._complete.pop(), leaf_hash)
            count >>= 1
        self._complete.append(leaf_hash)
        self.size += 1

    def root(self) -> bytes:
        """MTH of the leaves so far."""
        if not self._complete:
            return EMPTY_ROOT
        root = self._complete[-1]
        for left in reversed(self._complete[:-1]):
            root = hash_node(left, root)
        return root


def tree_root(size: int, read: HashReader) -> bytes:
    """MTH(D[size])."""
    return EMPTY_ROOT if size == 0 else _range_root(0, size, read)


def inclusion_proof(index: int, size: int, read: HashReader) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962 section 2.1.1, from the leaf's sibling upwards; ``0 <= index < size``."""
    low, high = 0, size
    path = []
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(_range_root(middle, high, read))
            high = middle
        else:
            path.append(_range_root(low, middle, read))
            low = middle
    return path[::-1]


def consistency_proof(old: int, new: int, read: HashReader) -> list[bytes]:
    """PROOF(old, D[new]) of RFC 6962 section 2.1.2; empty if ``old`` is 0 or ``new``. ``0 <= old <= new``."""
    if old in (0, new):
        return []
    low, high = 0, new
    path = []
    while old != high:
        middle = low + _split(high - low)
        if old <= middle:
            path.append(_range_root(middle, high, read))
            high = middle
        else:
            path.append(_range_root(low, middle, read))
            low = middle
    if low > 0:  # else the remaining subtree is the old tree itself, whose root the verifier has
        path.append(_range_root(low, high, read))
    return path[::-1]


def check_inclusion(
    index: int, size: int, leaf_hash: bytes, proof: Sequence[bytes], root: bytes, *, subject: str | None = None
) -> None:
    """Check that a leaf is entry ``index`` of the tree of ``size`` leaves with ``root``.

    Raises:
        LedgerInconsistentError: it is not, or the proof has the wrong length.
    """
    if not 0 <= index < size:
        raise LedgerInconsistentError(f"entry {index} lies outside a tree of {size} entries", subject=subject)
    node, last = index, size - 1
    found = leaf_hash
    for sibling in proof:
        if last == 0:
            raise LedgerInconsistentError(
                f"the inclusion proof is longer than a tree of {size} entries allows", subject=subject
            )
        if node & 1 or node == last:
            found = hash_node(sibling, found)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            found = hash_node(found, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise LedgerInconsistentError(
            f"the inclusion proof is too short for a tree of {size} entries", subject=subject
        )
    if found != root:
        raise LedgerInconsistentError(
            f"the inclusion proof leads to root {found.hex()[:16]}…, the checkpoint has {root.hex()[:16]}…",
            subject=subject,
        )


def check_consistency(
    old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes], *, subject: str | None = None
) -> None:
    """Check that the tree of ``new`` leaves extends the tree of ``old`` leaves.

    Raises:
        LedgerInconsistentError: it does not, or the proof has the wrong length.
    """
    if old > new:
        raise LedgerInconsistentError(f"the later tree has {new} entries, the earlier one {old}", subject=subject)
    if old in (0, new):
        if proof:
            raise LedgerInconsistentError("the consistency proof should be empty", subject=subject)
        if old_root != (EMPTY_ROOT if old == 0 else new_root):
            raise LedgerInconsistentError(f"two different trees of {old} entries", subject=subject)
        return
    rest = list(proof)
    if old & (old - 1) == 0:  # the old tree is one complete subtree: its root stands in for the first hash
        rest.insert(0, old_root)
    if not rest:
        raise LedgerInconsistentError("the consistency proof is too short", subject=subject)
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    found_old = found_new = rest[0]
    for sibling in rest[1:]:
        if last == 0:
            raise LedgerInconsistentError("the consistency proof is too long", subject=subject)
        if node & 1 or node == last:
            found_old = hash_node(sibling, found_old)
            found_new = hash_node(sibling, found_new)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            found_new = hash_node(found_new, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise LedgerInconsistentError("the consistency proof is too short", subject=subject)
    if found_old != old_root or found_new != new_root:
        raise LedgerInconsistentError(
            f"the tree of {new} entries does not extend the tree of {old} entries", subject=subject
        )


def _split(count: int) -> int:
    """The largest power of two below ``count`` (RFC 6962's k); ``count >= 2``."""
    return 1 << (count - 1).bit_length() - 1


def _range_root(low: int, high: int, read: HashReader) -> bytes:
    """MTH of leaves [low, high), where low is a multiple of a power of two not below high - low."""
    parts = []
    while low < high:
        level = (high - low).bit_length() - 1
        parts.append(read(level, low >> level))
        low += 1 << level
    root = parts.pop()
    while parts:
        root = hash_node(parts.pop(), root)
    return root
