"""The ``ucq`` decoder compiled: the arithmetic of :mod:`ucaudit.packs.codecs.ucq_math`, row by row (numba, CPU).

The plain decoder is the specification; this one gives the same bytes. Tests hold it to that, and so does its first
use in a process, on what it is given. How it is compiled excludes what could break it: without ``fastmath`` LLVM
may neither contract a multiplication and an addition nor reorder sums, and the sums of the overlay are integers
below 2^24, exact in any order. Nothing compiled is kept on disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from ucaudit.core.errors import MalformedPackError
from ucaudit.packs.codecs import ucq_math
from ucaudit.packs.codecs.ucq_math import StoredRows

Floats = NDArray[np.float32]
_GOOD, _PADDING, _NOT_FINITE = 0, 1, 2
_FIRST_ROWS: Final = 64
_LOCK: Final = threading.Lock()
_chosen: list[Callable[[StoredRows], torch.Tensor]] = []


def decode_rows(stored: StoredRows) -> torch.Tensor:
    """As :func:`ucaudit.packs.codecs.ucq_math.decode_rows`, for tensors on the CPU."""
    with _LOCK:
        if not _chosen:
            _chosen.append(compiled if _agrees(stored) else ucq_math.decode_rows)
    return _chosen[0](stored)


def compiled(stored: StoredRows) -> torch.Tensor:
    """The compiled decoder itself.

    Raises:
        MalformedPackError: a padding code that is not zero, or a weight that does not fit bfloat16.
    """
    rows = len(stored.codes)
    out = np.empty((rows, stored.columns), np.uint16)
    none, empty = np.zeros((0, 0), np.float32), np.zeros(0, np.float32)
    u, v, factors, cols = none, none, empty, empty
    if stored.overlay is not None:
        u, v = stored.overlay.u.numpy(), stored.overlay.v.numpy()
        factors, cols = stored.overlay.rows.reshape(-1).numpy(), stored.overlay.cols.reshape(-1).numpy()
    status = _kernel(
        stored.codes.numpy(),
        stored.bits,
        stored.levels.float().numpy(),
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


def _agrees(stored: StoredRows) -> bool:
    """Whether both decoders give the same for the first rows; malformed ones are the plain decoder's to judge."""
    first = ucq_math.first_rows(stored, _FIRST_ROWS)
    try:
        return torch.equal(compiled(first).view(torch.int16), ucq_math.decode_rows(first).view(torch.int16))
    except MalformedPackError:
        return False


@numba.njit(nogil=True, fastmath=False, error_model="numpy")  # type: ignore[untyped-decorator,unused-ignore]
def _kernel(
    codes: NDArray[np.uint8],
    bits: int,
    levels: Floats,
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
    padded = (columns + 7) // 8 * 8
    unpacked = np.empty(padded, np.uint8)
    values = np.empty(columns, np.float32)
    patterns = values.view(np.uint32)
    correction = np.empty(columns, np.float32)
    mask = np.uint64((1 << bits) - 1)
    worst = np.uint32(0)
    for row in range(rows):
        for block in range(padded // 8):
            word = np.uint64(0)
            for byte in range(bits):
                word |= np.uint64(codes[row, block * bits + byte]) << np.uint64(8 * byte)
            for index in range(8):
                unpacked[block * 8 + index] = (word >> np.uint64(bits * index)) & mask
        for column in range(columns, padded):
            if unpacked[column]:
                return _PADDING
        for part in range(scales.shape[1]):
            scale = scales[row, part]
            zero = zeros[row, part] if zeros.shape[0] else np.float32(0)
            for column in range(part * group, min((part + 1) * group, columns)):
                values[column] = (levels[unpacked[column]] - zero) * scale
        if rank:
            correction[:] = np.float32(0)
            for index in range(rank):
                factor = u[row, index]
                for column in range(columns):
                    correction[column] += factor * v[index, column]
            factor = factors[row]
            for column in range(columns):
                scaled = correction[column] * factor
                values[column] = values[column] + scaled * cols[column]
        for column in range(columns):
            pattern = patterns[column]
            worst = max(worst, pattern & np.uint32(0x7FFFFFFF))
            even = (pattern >> np.uint32(16)) & np.uint32(1)
            out[row, column] = (pattern + np.uint32(0x7FFF) + even) >> np.uint32(16)
    return _NOT_FINITE if worst >= np.uint32(0x7F7F8000) else _GOOD
