"""Bootstrap-t over windows, defined so that anyone can redo it in any language.

With d_1 … d_n the windows' values in ascending window order, m their mean, s their standard deviation (n − 1):

1. u_1, u_2, … are the outputs of MT19937 seeded by ``init_by_array([seed])``, two 32-bit words each, 53 bits:
   (a >> 5, b >> 6) ↦ ((a >> 5)·2²⁶ + (b >> 6)) / 2⁵³. That is Python's ``random.Random(seed).random()``.
2. Resample r (from 0) holds d_j, j = floor(u·n) counted from 0, for the n numbers u_{rn+1} … u_{rn+n}.
3. With x = d − m, S = Σx and Q = Σx² over the resample (exact sums of doubles, rounded once), its statistic is
   t* = (S/n) / sqrt((Q − S²/n) / (n − 1) / n). If Q − S²/n ≤ 1e-12 · (n − 1)·s² the resample has no spread of its
   own, and t* is +∞, −∞ or 0 by the sign of S.
4. Of the sorted B statistics, t_lo has rank k = floor(α·(B + 1)) counted from 1, and t_hi rank B + 1 − k, with α
   half of 1 − confidence. The interval is [m − t_hi·s/√n, m − t_lo·s/√n].

Where windows are grouped by document, n is the number of documents, in the order in which they first appear, and a
resample takes whole ones. If all hold equally many windows, d_1 … d_n are their means and the above holds as it is.
Otherwise document j has the total y_j and x_j windows, m = Σy/Σx, z = y − m·x, and steps 3 and 4 become:

3. With Z = Σz, X = Σx, r = Z/X and Q = Σz² − 2r·Σzx + r²·Σx² over the resample, its statistic is
   t* = Z / sqrt(n/(n − 1)·Q). If Q ≤ 1e-12 · Σz² of all documents, the resample has no spread.
4. As above, with the linearised standard error of m (see ``sample``) for s/√n.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice, repeat
from operator import mul
from random import Random
from typing import Final

from ucaudit.core.errors import InputError
from ucaudit.core.stats.estimates import UNBOUNDED, Interval, one_sided_alpha
from ucaudit.core.stats.sample import Sample, Values, as_sample, require_two, spread

RESAMPLES: Final = 10_000
_NO_SPREAD: Final = 1e-12
_BLOCK: Final = 1 << 21


def bootstrap_t_interval(values: Values, confidence: float, *, seed: int, resamples: int = RESAMPLES) -> Interval:
    """Bootstrap-t interval of the mean over windows (Efron & Tibshirani 1993, §12.5).

    Args:
        values: one a window, nats, ascending by window; or a sample of units, which are resampled whole.
        confidence: two-sided.
        seed: of the resampling; declared beforehand, like everything that can be chosen.
        resamples: B.

    Returns:
        The interval; a point if all values are equal. An end that the resamples leave open (too many of them have
        no spread: few windows, or few that differ) lies at ±:data:`UNBOUNDED`, and the method says so.

    Raises:
        InputError: fewer than two units, a negative seed, or too few resamples for this confidence.
    """
    sample = as_sample(values)
    require_two(sample)
    if seed < 0:
        raise InputError(f"a bootstrap seed is at least 0, found {seed}")
    rank = math.floor(one_sided_alpha(confidence) * (resamples + 1))
    if rank < 1:
        raise InputError(
            f"{resamples} resamples cannot resolve a confidence of {confidence!r}",
            hint="a confidence of 0.999 is the most that this interval serves",
        )
    method = f"bootstrap-t over {sample.unit}, {resamples} resamples"
    centre, error = sample.mean, sample.error
    if error == 0.0:
        return Interval(centre, centre, centre, confidence, method)
    if sample.even is not None:
        centred = [value - centre for value in sample.even]
        statistics = sorted(_statistics(centred, spread(sample.even), seed, resamples))
    else:
        statistics = sorted(_weighted_statistics(sample, seed, resamples))
    lower = centre - statistics[resamples - rank] * error
    upper = centre - statistics[rank - 1] * error
    if not (lower > -UNBOUNDED and upper < UNBOUNDED):
        method += ", unbounded"
        lower, upper = max(lower, -UNBOUNDED), min(upper, UNBOUNDED)
    return Interval(centre, lower, upper, confidence, method)


def _statistics(centred: list[float], deviation: float, seed: int, resamples: int) -> list[float]:
    n = len(centred)
    squares = [value * value for value in centred]
    floor = _NO_SPREAD * (n - 1) * deviation * deviation
    result = []
    for block in _index_blocks(n, seed, resamples):
        for total, square_total in zip(_sums(centred, block, n), _sums(squares, block, n), strict=True):
            left = square_total - total * total / n
            if left > floor:
                result.append(total / n / math.sqrt(left / (n - 1) / n))
            else:
                result.append(math.copysign(math.inf, total) if total else 0.0)
    return result


def _weighted_statistics(sample: Sample, seed: int, resamples: int) -> list[float]:
    n, z, x = sample.n, sample.residuals, list(sample.weights)
    columns = (z, x, [a * a for a in z], [a * b for a, b in zip(z, x, strict=True)], [b * b for b in x])
    floor = _NO_SPREAD * math.fsum(columns[2])
    result = []
    for block in _index_blocks(n, seed, resamples):
        for total, weight, zz, zx, xx in zip(*(_sums(column, block, n) for column in columns), strict=True):
            ratio = total / weight
            left = zz - 2 * ratio * zx + ratio * ratio * xx
            if left > floor:
                result.append(total / math.sqrt(n / (n - 1) * left))
            else:
                result.append(math.copysign(math.inf, total) if total else 0.0)
    return result


def _sums(column: list[float], block: list[int], n: int) -> Iterator[float]:
    """The exact sum of every resample of a block."""
    # One iterator n times over: zip then deals out whole resamples. Such loops in C take half the time.
    return map(math.fsum, zip(*[map(column.__getitem__, block)] * n, strict=True))


def _index_blocks(n: int, seed: int, resamples: int) -> Iterator[list[int]]:
    """The drawn indexes, whole resamples at a time, in bounded memory."""
    if n * resamples <= _BLOCK:
        yield _all_indexes(n, seed, resamples)
        return
    uniforms = _uniforms(seed)
    step = max(_BLOCK // n, 1)
    for start in range(0, resamples, step):
        yield _indexes(uniforms, n, min(step, resamples - start))


@lru_cache(maxsize=1)
def _all_indexes(n: int, seed: int, resamples: int) -> list[int]:
    """Kept, because the ratio and the KL divergence are resampled alike and drawing is the slowest part."""
    return _indexes(_uniforms(seed), n, resamples)


def _uniforms(seed: int) -> Iterator[float]:
    return iter(Random(seed).random, None)  # noqa: S311 - a reproducible draw, not a secret


def _indexes(uniforms: Iterator[float], n: int, resamples: int) -> list[int]:
    return list(map(int, map(mul, islice(uniforms, n * resamples), repeat(float(n)))))
