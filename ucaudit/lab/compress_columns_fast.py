"""The loops of :mod:`ucaudit.lab.compress_columns` compiled (numba, CPU): the same operations in the same order.

Rows do not depend on one another, so they are taken in tiles that the nearest cache holds together with a block's
columns. Places are unsigned where they are an index: what may be negative is tested for it, since it would count
from the end.
"""

from __future__ import annotations

from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from ucaudit.lab.compress_columns import PLACES, ZERO
from ucaudit.packs.codecs.compiled import KERNEL

Floats = NDArray[np.float32]
_TILE: Final = 128
_LAST: Final = PLACES - 1


@numba.njit(**KERNEL)  # type: ignore[untyped-decorator,unused-ignore]
def feed_back(
    wanted: Floats, half: Floats, finer: Floats, places: Floats, errors: Floats, factor: Floats, landings: Floats
) -> None:
    """As :func:`ucaudit.lab.compress_columns.feed_back`, in place."""
    columns, rows = wanted.shape
    near = np.empty(_TILE, np.int64)
    for begin in range(0, rows, _TILE):
        end = min(begin + _TILE, rows)
        for column in range(columns):
            weight, size, fine = wanted[column, begin:end], half[column, begin:end], finer[column, begin:end]
            place, error = places[column, begin:end], errors[column, begin:end]
            share = np.float32(1) / factor[column, column]
            for row in range(end - begin):
                near[row] = _place(fine[row] * weight[row] + np.float32(ZERO))
            for row in range(end - begin):
                place[row] = landings[np.uint64(near[row])]
            for row in range(end - begin):
                error[row] = (weight[row] - (place[row] - np.float32(ZERO)) * size[row]) * share
            _hand_on(error, factor[column], wanted[:, begin:end], column + 1)


@numba.njit(**KERNEL)  # type: ignore[untyped-decorator,unused-ignore]
def descend(
    places: Floats, slope: Floats, reach: Floats, half: Floats, moved: Floats, moment: Floats, landings: Floats
) -> None:
    """As :func:`ucaudit.lab.compress_columns.descend`, in place."""
    columns, rows = places.shape
    near = np.empty(_TILE, np.int64)
    for begin in range(0, rows, _TILE):
        end = min(begin + _TILE, rows)
        for column in range(columns):
            downhill, far, size = slope[column, begin:end], reach[column, begin:end], half[column, begin:end]
            place, change = places[column, begin:end], moved[column, begin:end]
            for row in range(end - begin):
                near[row] = _place(downhill[row] * far[row] + place[row])
            for row in range(end - begin):
                best = landings[np.uint64(near[row])]
                change[row] = (best - place[row]) * size[row]
                place[row] = best
            _hand_on(change, moment[column], slope[:, begin:end], column + 1)


@numba.njit(**KERNEL)  # type: ignore[untyped-decorator,unused-ignore]
def _place(exact: np.float32) -> np.int64:
    positive = exact if exact > np.float32(0) else np.float32(0)  # not a number is zero
    return np.int64(positive if positive < np.float32(_LAST) else np.float32(_LAST))


@numba.njit(**KERNEL)  # type: ignore[untyped-decorator,unused-ignore]
def _hand_on(change: Floats, shares: Floats, left: Floats, first: int) -> None:
    for later in range(first, left.shape[0]):
        share, row = shares[later], left[later]
        for index in range(change.shape[0]):
            row[index] = row[index] - share * change[index]
