"""The ``ucq`` decoder compiled: the arithmetic of :mod:`ucaudit.packs.codecs.ucq_math`, row by row (numba, CPU).

The sums of the overlay are integers below 2^24, exact in any order; everything else is done in the order of the
plain decoder. :mod:`ucaudit.packs.codecs.compiled` says why the bytes are the same and when this serves.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from ucaudit.core.errors import MalformedPackError
from ucaudit.packs.codecs import compiled, ucq_math
from ucaudit.packs.codecs.tensors import raw_bytes
from ucaudit.packs.codecs.ucq_parts import Bytes, Patterns, SmallIntegers, StoredRows

Floats = NDArray[np.float32]
_GOOD, _PADDING, _NOT_FINITE = 0, 1, 2
_FIRST_ROWS: Final = 64
_MOST_BITS_OF_PAIRS: Final = 6  # whose table, 32 kB, still fits the nearest cache
_TOGETHER: Final = 4  # rows whose overlays are summed at a time
_TOP: Final = 0x80000000
_BF16_INFINITE: Final = 0x7F7F8000  # magnitudes from here on round to infinity
_F16_BIAS: Final = 2.0**112  # what the exponents of float16 and float32 differ by
_NO_INTEGERS: Final = np.zeros((0, 0), np.int8)
_NO_PATTERNS: Final = np.zeros(0, np.int16)


def decode_rows(stored: StoredRows) -> memoryview:
    """The bytes of :func:`ucaudit.packs.codecs.ucq_math.decode_rows`, on the CPU."""
    ways = stored.bits, stored.zeros is not None, stored.overlay is not None
    serves = compiled.serves(
        f"ucq {ways}",
        lambda: torch.from_numpy(decode_compiled(stored.first(_FIRST_ROWS)).view(np.int16)),
        lambda: ucq_math.decode_rows(stored.first(_FIRST_ROWS)).view(torch.int16),
    )
    if not serves:
        return raw_bytes(ucq_math.decode_rows(stored))
    return decode_compiled(stored).data.cast("B")


def decode_compiled(stored: StoredRows) -> NDArray[np.uint16]:
    """The compiled decoder itself: bfloat16 patterns [rows, columns].

    Raises:
        MalformedPackError: a padding code that is not zero, or a weight that does not fit bfloat16.
    """
    out = np.empty((len(stored.codes), stored.columns), np.uint16)
    overlay = stored.overlay
    status = _decode(
        stored.codes,
        stored.bits,
        *_tables(stored.levels.tobytes(), stored.bits),
        stored.scales,
        _NO_INTEGERS if stored.zeros is None else stored.zeros,
        stored.group,
        _NO_INTEGERS if overlay is None else overlay.u,
        _NO_INTEGERS if overlay is None else overlay.shared.v,
        _NO_PATTERNS if overlay is None else overlay.rows,
        _NO_PATTERNS if overlay is None else overlay.shared.cols,
        out,
    )
    if status == _PADDING:
        raise MalformedPackError("a padding code at the end of a row is not zero")
    if status == _NOT_FINITE:
        raise MalformedPackError("a weight is too large for bfloat16, or not finite")
    return out


@lru_cache(maxsize=64)
def _tables(stored: bytes, bits: int) -> tuple[Floats, NDArray[np.int64]]:
    """The levels as float32; and those of two codes that follow one another, in an int64, the first one lower."""
    levels = np.frombuffer(stored, np.int8).astype(np.float32)
    if bits > _MOST_BITS_OF_PAIRS:
        return levels, np.zeros(0, np.int64)
    codes = np.arange(1 << (2 * bits))
    pairs = np.stack((levels[codes & ((1 << bits) - 1)], levels[codes >> bits]), axis=1)
    return levels, pairs.view(np.int64)[:, 0].copy()


@numba.njit(**compiled.KERNEL)  # type: ignore[untyped-decorator,unused-ignore]
def _decode(
    codes: Bytes,
    bits: int,
    levels: Floats,
    pairs: NDArray[np.int64],
    scales: Patterns,
    zeros: SmallIntegers,
    group: int,
    small_u: SmallIntegers,
    small_v: SmallIntegers,
    row_factors: Patterns,
    column_factors: Patterns,
    out: NDArray[np.uint16],
) -> int:
    rows, columns = out.shape
    rank, groups = small_u.shape[1], scales.shape[1]
    # Buffers of one row; codes with room for the word behind the last one.
    stage = np.zeros((codes.shape[1] + 15) // 8 * 8, np.uint8)
    values = np.empty((columns + 7) // 8 * 8, np.float32)
    patterns = values.view(np.uint32)
    widened = np.empty(groups, np.uint32)
    row_scales = widened.view(np.float32)
    v, cols, factors = _floats(small_v), _bf16(column_factors), _bf16(row_factors)
    u = np.empty((_TOGETHER, rank), np.float32)
    corrections = np.empty((_TOGETHER, columns), np.float32)
    above = np.uint32(0)
    for row in range(rows):
        for byte in range(codes.shape[1]):
            stage[byte] = codes[row, byte]
        if not _look_up(stage.view(np.uint64), bits, columns, levels, pairs, values):
            return _PADDING
        for part in range(groups):
            widened[part] = np.uint32(scales[row, part]) << np.uint32(13)
        for part in range(groups):
            scale = row_scales[part] * np.float32(_F16_BIAS)
            zero = np.float32(zeros[row, part]) if zeros.shape[0] else np.float32(0)
            few = values[part * group : min((part + 1) * group, columns)]
            for column in range(few.shape[0]):
                few[column] = (few[column] - zero) * scale
        if rank:
            if row % _TOGETHER == 0:
                for near in range(_TOGETHER):
                    for index in range(rank):
                        u[near, index] = np.float32(small_u[min(row + near, rows - 1), index])
                _correct(u, v, corrections)
            correction, factor = corrections[row % _TOGETHER], factors[row]
            for column in range(columns):
                scaled = correction[column] * factor
                values[column] = values[column] + scaled * cols[column]
        for column in range(columns):
            pattern = patterns[column]
            magnitude = pattern & np.uint32(0x7FFFFFFF)
            above = np.uint32(above | np.uint32(magnitude + np.uint32(_TOP - _BF16_INFINITE)))
            even = (pattern >> np.uint32(16)) & np.uint32(1)
            out[row, column] = (pattern + np.uint32(0x7FFF) + even) >> np.uint32(16)
    return _NOT_FINITE if above >= np.uint32(_TOP) else _GOOD


@numba.njit(**compiled.KERNEL)  # type: ignore[untyped-decorator,unused-ignore]
def _floats(integers: SmallIntegers) -> Floats:
    out = np.empty(integers.shape, np.float32)
    for row in range(integers.shape[0]):
        for column in range(integers.shape[1]):
            out[row, column] = np.float32(integers[row, column])
    return out


@numba.njit(**compiled.KERNEL)  # type: ignore[untyped-decorator,unused-ignore]
def _bf16(stored: Patterns) -> Floats:
    out = np.empty(stored.shape[0], np.uint32)
    for index in range(stored.shape[0]):
        out[index] = np.uint32(stored[index]) << np.uint32(16)
    return out.view(np.float32)


@numba.njit(**compiled.KERNEL)  # type: ignore[untyped-decorator,unused-ignore]
def _look_up(
    words: NDArray[np.uint64], bits: int, columns: int, levels: Floats, pairs: NDArray[np.int64], values: Floats
) -> bool:
    """The levels of one row's codes, eight codes at a time. Returns whether the codes behind the last are zero.

    Places are unsigned: what may be negative is tested for it, since it would count from the end.
    """
    both = values.view(np.int64)
    blocks, rest = (columns + 7) // 8, columns % 8
    step, three, last = np.uint64(bits), np.uint64(3), np.uint64(63)
    keep = ~np.uint64(0) >> (last + np.uint64(1) - np.uint64(8) * step)
    mask = np.uint64(max(pairs.shape[0], levels.shape[0]) - 1)
    word = np.uint64(0)
    for block in range(blocks):
        byte = np.uint64(block) * step
        place, shift = byte >> three, (byte & np.uint64(7)) << three
        word = (words[place] >> shift | words[place + np.uint64(1)] << np.uint64(1) << (last - shift)) & keep
        if pairs.shape[0]:
            for index in range(4):
                pair = (word >> (np.uint64(2 * index) * step)) & mask
                both[np.uint64(4 * block + index)] = pairs[pair]
        else:
            for index in range(8):
                code = (word >> (np.uint64(index) * step)) & mask
                values[np.uint64(8 * block + index)] = levels[code]
    return rest == 0 or word >> (step * np.uint64(rest)) == 0


@numba.njit(**compiled.KERNEL)  # type: ignore[untyped-decorator,unused-ignore]
def _correct(u: Floats, v: Floats, out: Floats) -> None:
    """Four rows of U times V. Sums of integers; four rows and four ranks at a time read V, which no nearest cache
    holds, least often."""
    rank, columns = v.shape
    first, second, third, fourth = out[0], out[1], out[2], out[3]
    out[:] = np.float32(0)
    for index in range(0, rank - 3, 4):
        a, b, c, d = v[index], v[index + 1], v[index + 2], v[index + 3]
        a1, b1, c1, d1 = u[0, index], u[0, index + 1], u[0, index + 2], u[0, index + 3]
        a2, b2, c2, d2 = u[1, index], u[1, index + 1], u[1, index + 2], u[1, index + 3]
        a3, b3, c3, d3 = u[2, index], u[2, index + 1], u[2, index + 2], u[2, index + 3]
        a4, b4, c4, d4 = u[3, index], u[3, index + 1], u[3, index + 2], u[3, index + 3]
        for column in range(columns):
            w, x, y, z = a[column], b[column], c[column], d[column]
            first[column] += a1 * w + b1 * x + c1 * y + d1 * z
            second[column] += a2 * w + b2 * x + c2 * y + d2 * z
            third[column] += a3 * w + b3 * x + c3 * y + d3 * z
            fourth[column] += a4 * w + b4 * x + c4 * y + d4 * z
    for index in range(rank - rank % 4, rank):
        a = v[index]
        a1, a2, a3, a4 = u[0, index], u[1, index], u[2, index], u[3, index]
        for column in range(columns):
            first[column] += a1 * a[column]
            second[column] += a2 * a[column]
            third[column] += a3 * a[column]
            fourth[column] += a4 * a[column]
