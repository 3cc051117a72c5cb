"""Which windows of a text are scored: drawn by hashing, so that anyone can redo the draw in any language."""

from __future__ import annotations

import hashlib
import heapq
from typing import Final

from ucaudit.core.digest import is_hex_digest
from ucaudit.core.errors import CorpusError, InputError

MAX_WINDOWS: Final = 1 << 24
"""Some twenty seconds of hashing. A text of 17 billion tokens has as many windows of 1,024."""


def draw(n_total: int, n: int, seed: int, corpus_sha256: str) -> tuple[int, ...]:
    """Draw ``n`` of the windows 0 … ``n_total`` − 1 without replacement.

    Window i has the rank of SHA-256 of the ASCII text ``SEED\\nCORPUS\\nI``: the seed in decimal (a minus sign in
    front if negative), the corpus's SHA-256 in lower-case hex, the index in decimal, separated by single newlines,
    with none at the end. The ``n`` smallest digests, compared as bytes, win.

    Returns:
        The drawn indexes, ascending.

    Raises:
        CorpusError: fewer than ``n`` windows, or more than :data:`MAX_WINDOWS`: nobody could be asked to redo it.
        InputError: ``n`` < 1, or a malformed digest.
    """
    if n < 1:
        raise InputError(f"n must be at least 1, found {n}")
    if not is_hex_digest(corpus_sha256):
        raise InputError(f"not a sha-256 in lower-case hex: {corpus_sha256[:80]!r}")
    if n > n_total:
        raise CorpusError(
            f"too short: {n} windows are asked for, {n_total} are there",
            hint="lower --n or --seq-len, or give a longer text",
        )

    if n_total > MAX_WINDOWS:
        raise CorpusError(
            f"too long: {n_total} windows to draw from, at most {MAX_WINDOWS}",
            hint="take fewer rows, or a shorter text",
        )
    front = hashlib.sha256(f"{seed}\n{corpus_sha256}\n".encode("ascii"))

    def rank(index: int) -> bytes:
        hasher = front.copy()
        hasher.update(b"%d" % index)
        return hasher.digest()

    return tuple(sorted(heapq.nsmallest(n, range(n_total), key=rank)))
