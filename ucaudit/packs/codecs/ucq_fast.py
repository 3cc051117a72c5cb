"""The ``ucq`` decoder compiled: the arithmetic of :mod:`ucaudit.packs.codecs.ucq_math`, row by row (numba, CPU).

The sums of the overlay are integers below 2^24, exact in any order; everything else is done in the order of the
plain decoder. :mod:`ucaudit.packs.codecs.compiled` says why the bytes are the same and when this serves.
"""

from __future__ import annotations

from typing import Final

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from ucaudit.core.errors import MalformedPackError
from ucaudit.packs.codecs import compiled, ucq_math
from ucaudit.packs.codecs.ucq_math import StoredRows

Floats = NDArray[np.float32]
_GOOD, _PADDING, _NOT_FINITE = 0, 1, 2
_FIRST_ROWS: Final = 64
_MOST_BITS_OF_PAIRS: Final = 6  # whose table, 32 kB, still fits the nearest cache
_TOP: Final = 0x80000000
_BF16_INFINITE: Final = 0x7F7F8000  # magnitudes from here on round to infinity


def decode_rows(stored: StoredRows) -> torch.Tensor:
    """As :func:`ucaudit.packs.codecs.ucq_math.decode_rows`, for tensors on the CPU."""
    ways = stored.bits, stored.zeros is not None, stored.overlay is not None
    serves = compiled.serves(
        f"ucq {ways}",
        lambda: decode_compiled(ucq_math.first_rows(stored, _FIRST_ROWS)),
        lambda: ucq_math.decode_rows(ucq_math.first_rows(stored, _FIRST_ROWS)),
    )
    return decode_compiled(stored) if serves else ucq_math.decode_rows(stored)


def decode_compiled(stored: StoredRows) -> torch.Tensor:
    """The compiled decoder itself.

    Raises:
        MalformedPackError: a padding code that is not zero, or a weight that does not fit bfloat16.
    """
    out = np.empty((len(stored.codes), stored.columns), np.uint16)
    none, empty = np.zeros((0, 0), np.float32), np.zeros(0, np.float32)
    u, v, factors, cols = none, none, empty, empty
    if stored.overlay is not None:
        u, v = stored.overlay.u.numpy(), stored.overlay.v.numpy()
        factors, cols = stored.overlay.rows.reshape(-1).numpy(), stored.overlay.cols.reshape(-1).numpy()
    levels = stored.levels.float().numpy()
    status = _decode(
        stored.codes.numpy(),
        stored.bits,
        levels,
        _pairs(levels, stored.bits) if stored.bits <= _MOST_BITS_OF_PAIRS else np.zeros(0, np.int64),
        stored.scales.numpy(),
        none if stored.zeros is None else stored.zeros.numpy(),
        stored.group,
        u,
        v,
        factors,
        cols,
        out,
    )
    if status == _PADDING:
        raise MalformedPackError("a padding code at the end of a row is not zero")
    if status == _NOT_FINITE:
        raise MalformedPackError("a weight is too large for bfloat16, or not finite")
    return torch.from_numpy(out.view(np.int16)).view(torch.bfloat16)


def _pairs(levels: Floats, bits: int) -> NDArray[np.int64]:
    """The levels of two codes that follow one another: two float32 in an int64, the first one lower."""
    codes = np.arange(1 << (2 * bits))
    return np.stack((levels[codes & ((1 << bits) - 1)], levels[codes >> bits]), axis=1).view(np.int64)[:, 0]


@numba.njit(**compiled.KERNEL)  # type: ignore[untyped-decorator,unused-ignore]
def _decode(
    codes: NDArray[np.uint8],
    bits: int,
    levels: Floats,
    pairs: NDArray[np.int64],
    scales: Floats,
    zeros: Floats,
    group: int,
    u: Floats,
    v: Floats,
    factors: Floats,
    cols: Floats,
    out: NDArray[np.uint16],
) -> int:
    rows, columns = out.shape
    rank = u.shape[1]
    # Buffers of one row; codes with room for the word behind the last one.
    stage = np.zeros((codes.shape[1] + 15) // 8 * 8, np.uint8)
    values = np.empty((columns + 7) // 8 * 8, np.float32)
    patterns = values.view(np.uint32)
    corrections = np.empty((2, columns), np.float32)
    above = np.uint32(0)
    for row in range(rows):
        for byte in range(codes.shape[1]):
            stage[byte] = codes[row, byte]
        if not _look_up(stage.view(np.uint64), bits, columns, levels, pairs, values):
            return _PADDING
        for part in range(scales.shape[1]):
            scale = scales[row, part]
            zero = zeros[row, part] if zeros.shape[0] else np.float32(0)
            few = values[part * group : min((part + 1) * group, columns)]
            for column in range(few.shape[0]):
                few[column] = (few[column] - zero) * scale
        if rank:
            if row % 2 == 0:
                _correct(u[row], u[min(row + 1, rows - 1)], v, corrections[0], corrections[1])
            correction, factor = corrections[row % 2], factors[row]
            for column in range(columns):
                scaled = correction[column] * factor
                values[column] = values[column] + scaled * cols[column]
        for column in range(columns):
            pattern = patterns[column]
            above |= np.uint32((pattern & np.uint32(0x7FFFFFFF)) + np.uint32(_TOP - _BF16_INFINITE))
            even = (pattern >> np.uint32(16)) & np.uint32(1)
            out[row, column] = (pattern + np.uint32(0x7FFF) + even) >> np.uint32(16)
    return _NOT_FINITE if above >= np.uint32(_TOP) else _GOOD


@numba.njit(**compiled.KERNEL)  # type: ignore[untyped-decorator,unused-ignore]
def _look_up(
    words: NDArray[np.uint64], bits: int, columns: int, levels: Floats, pairs: NDArray[np.int64], values: Floats
) -> bool:
    """The levels of one row's codes, eight codes at a time. Returns whether the codes behind the last are zero."""
    both = values.view(np.int64)
    blocks, rest = (columns + 7) // 8, columns % 8
    keep = ~np.uint64(0) >> np.uint64(64 - 8 * bits)
    word = np.uint64(0)
    for block in range(blocks):
        byte = block * bits
        place, shift = byte >> 3, np.uint64(byte % 8 * 8)
        word = (words[place] >> shift | words[place + 1] << np.uint64(1) << (np.uint64(63) - shift)) & keep
        if pairs.shape[0]:
            mask = np.uint64(pairs.shape[0] - 1)
            for index in range(4):
                both[4 * block + index] = pairs[(word >> np.uint64(2 * bits * index)) & mask]
        else:
            mask = np.uint64(levels.shape[0] - 1)
            for index in range(8):
                values[8 * block + index] = levels[(word >> np.uint64(bits * index)) & mask]
    return rest == 0 or word >> np.uint64(bits * rest) == 0


@numba.njit(**compiled.KERNEL)  # type: ignore[untyped-decorator,unused-ignore]
def _correct(first: Floats, second: Floats, v: Floats, out: Floats, also: Floats) -> None:
    """Two rows of U times V. Sums of integers: two rows and four ranks at a time read V least often."""
    rank, columns = v.shape
    out[:] = np.float32(0)
    also[:] = np.float32(0)
    for index in range(0, rank - 3, 4):
        a, b, c, d = first[index], first[index + 1], first[index + 2], first[index + 3]
        e, f, g, h = second[index], second[index + 1], second[index + 2], second[index + 3]
        va, vb, vc, vd = v[index], v[index + 1], v[index + 2], v[index + 3]
        for column in range(columns):
            out[column] += a * va[column] + b * vb[column] + c * vc[column] + d * vd[column]
            also[column] += e * va[column] + f * vb[column] + g * vc[column] + h * vd[column]
    for index in range(rank - rank % 4, rank):
        a, e, va = first[index], second[index], v[index]
        for column in range(columns):
            out[column] += a * va[column]
            also[column] += e * va[column]
