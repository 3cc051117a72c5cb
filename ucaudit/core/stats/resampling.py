"""Which units each bootstrap resample holds: steps 1 and 2 of :mod:`ucaudit.core.stats.bootstrap`, in blocks.

Drawn one at a time, 400,000 indexes take longer than everything that is computed from them. Here a whole block is
drawn at once, as one long integer of 64-bit fields, and multiplied by n as one: the upper half of a field then is
⌊a·n / 2³²⌋, a being the first of its two words without the five bits that u does not take from it. That is ⌊u·n⌋,
unless what u takes from the second word carries into it. As u·2³² < a + 32, and u·n, rounded to a double, cannot
reach an integer that (a + 32)·n / 2³² does not reach, it cannot where adding 32·n to a field's lower half does not.
The few fields where that does (n of 134 million) are computed as they are defined.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from random import Random
from typing import Final

from ucaudit.core.errors import InputError

_BLOCK: Final = 1 << 15
_KEPT: Final = 1 << 23
_TOO_MANY: Final = 1 << 25
_FIRST_WORD: Final = b"\xe0\xff\xff\xff\x00\x00\x00\x00"
_LOWER_HALF: Final = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_32: Final = b"\x20\x00\x00\x00\x00\x00\x00\x00"
_CARRY: Final = b"\x00\x00\x00\x00\x01\x00\x00\x00"


def resample_blocks(n: int, seed: int, resamples: int) -> Sequence[Sequence[int]] | Iterator[Sequence[int]]:
    """The indexes of all resamples, whole resamples at a time, in bounded memory.

    Args:
        n: units, below 2²⁵; a resample holds as many indexes, each from 0 to n - 1.
        seed: of the draw.
        resamples: how many.

    Returns:
        Blocks of indexes. A resample's n lie side by side, and no block splits one.

    Raises:
        InputError: too many units.
    """
    if n >= _TOO_MANY:
        raise InputError(f"{n} units are too many to be resampled")
    if n * resamples <= _KEPT:
        return _kept_blocks(n, seed, resamples)
    return _blocks(n, seed, resamples)


@lru_cache(maxsize=1)
def _kept_blocks(n: int, seed: int, resamples: int) -> tuple[Sequence[int], ...]:
    """Kept, because the ratio and the KL divergence are resampled alike."""
    return tuple(_blocks(n, seed, resamples))


def _blocks(n: int, seed: int, resamples: int) -> Iterator[Sequence[int]]:
    stream = Random(seed)  # noqa: S311 - a reproducible draw, not a secret
    step = min(max(_BLOCK // n, 1), resamples)
    draw = _Draw(n, n * step)
    for start in range(0, resamples, step):
        yield draw.indexes(stream)[: n * (resamples - start)]


class _Draw:
    """Draws ``count`` indexes below ``n`` at a time."""

    def __init__(self, n: int, count: int) -> None:
        self._n, self._count = n, count
        self._first_word, self._lower_half, most, self._carry = (
            int.from_bytes(field * count, "little") for field in (_FIRST_WORD, _LOWER_HALF, _32, _CARRY)
        )
        self._most = most * n

    def indexes(self, stream: Random) -> Sequence[int]:
        """The next ones."""
        drawn = stream.getrandbits(64 * self._count)
        product = (drawn & self._first_word) * self._n
        result = self._upper_halves(product)
        if carries := ((product & self._lower_half) + self._most) & self._carry:
            words = drawn.to_bytes(8 * self._count, "little")
            for place, carry in enumerate(carries.to_bytes(8 * self._count, "little")[4::8]):
                if carry:
                    result[place] = int(_uniform(words[8 * place : 8 * place + 8]) * self._n)
        return result

    def _upper_halves(self, fields: int) -> bytearray | array[int]:
        """The upper 32 bits of every 64-bit field, all below n, in the smallest type: what is fastest to read."""
        data = fields.to_bytes(8 * self._count, "little")
        if self._n <= 1 << 8:
            return bytearray(data[4::8])
        result = array("H", data)[2::4] if self._n <= 1 << 16 else array("I", data)[1::2]
        if sys.byteorder == "big":
            result.byteswap()
        return result


def _uniform(field: bytes) -> float:
    """What ``random.random()`` makes of two 32-bit words: 53 bits, in [0, 1)."""
    first, second = int.from_bytes(field[:4], "little"), int.from_bytes(field[4:], "little")
    return ((first >> 5) * 67108864.0 + (second >> 6)) * (1.0 / 9007199254740992.0)
