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
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import starmap
from typing import Final

from ucaudit.core.errors import InputError
from ucaudit.core.stats.estimates import UNBOUNDED, Interval, one_sided_alpha
from ucaudit.core.stats.resampling import resample_blocks
from ucaudit.core.stats.sample import Sample, Values, as_sample, require_two, spread

RESAMPLES: Final = 10_000
_NO_SPREAD: Final = 1e-12
_ULP: Final = 2.0**-52
_PAIRED: Final = 128
"""Up to so many units two bytes are looked up at once: beyond, the table takes longer to make than it saves."""


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
    plain = _even(sample.even) if sample.even is not None else _weighted(sample)
    low, high = _of_ranks(plain, (rank, resamples + 1 - rank), seed, resamples)
    lower, upper = centre - high * error, centre - low * error
    if not (lower > -UNBOUNDED and upper < UNBOUNDED):
        method += ", unbounded"
        lower, upper = max(lower, -UNBOUNDED), min(upper, UNBOUNDED)
    return Interval(centre, lower, upper, confidence, method)


@dataclass(frozen=True)
class _Statistic:
    """How t* follows from the sums over a resample.

    Attributes:
        columns: what is summed: one list a sum, one number a unit.
        of: t* of the exact sums.
        quick: t* of plain sums, which takes half the time and is off by at most ``margin``; NaN where it might be
            off by more. None if there is no such bound.
        margin: see ``quick``.
    """

    columns: tuple[list[float], ...]
    of: Callable[..., float]
    quick: Callable[[float, float], float] | None = None
    margin: float = 0.0

    @property
    def n(self) -> int:
        """Units."""
        return len(self.columns[0])

    @cached_property
    def pairs(self) -> list[list[float]] | None:
        """The columns' sums of two units i and j at i + 256·j, if resamples can be read as pairs of bytes."""
        if self.n > _PAIRED or self.n % 2:
            return None
        tables = []
        for column in self.columns:
            table = [0.0] * (256 * self.n)
            for place, second in enumerate(column):
                table[256 * place : 256 * place + self.n] = [first + second for first in column]
            tables.append(table)
        return tables

    def exact(self, block: Sequence[int]) -> list[float]:
        """t* of each resample of a block."""
        return [self.of(*sums) for sums in _sums(math.fsum, self.columns, block, self.n)]

    def approximate(self, block: Sequence[int]) -> list[float]:
        """The same, at most ``margin`` away."""
        if self.quick is None:
            return self.exact(block)
        if self.pairs is not None:
            sums = _sums(sum, self.pairs, array("H", block), self.n // 2)
        else:
            sums = _sums(sum, self.columns, block, self.n)
        result = list(starmap(self.quick, sums))
        if math.isnan(sum(result)):
            for number in [number for number, value in enumerate(result) if math.isnan(value)]:
                result[number : number + 1] = self.exact(block[number * self.n : (number + 1) * self.n])
        return result


def _sums(
    add: Callable[[Iterable[float]], float], columns: Sequence[list[float]], keys: Sequence[int], length: int
) -> Iterator[tuple[float, ...]]:
    """The sums of each column over every ``length`` keys."""
    # One iterator ``length`` times over: zip then deals out whole resamples. Such loops in C take half the time.
    return zip(
        *(map(add, zip(*[map(column.__getitem__, keys)] * length, strict=True)) for column in columns), strict=True
    )


def _of_ranks(statistic: _Statistic, ranks: Sequence[int], seed: int, resamples: int) -> list[float]:
    """The statistics of these ranks, counted from 1, of all resamples: exact, though most are only approximated.

    A statistic of rank k lies within the margin of the k-th approximation. So its resample is among those whose
    approximation lies within two margins of that; what lies lower still is lower, and need not be exact.
    """
    n, margin = statistic.n, statistic.margin
    found: list[float] = []
    for block in resample_blocks(n, seed, resamples):
        found += statistic.approximate(block)
    if statistic.quick is None:
        found.sort()
        return [found[rank - 1] for rank in ranks]
    in_order = sorted(found)
    reach = []
    for rank in ranks:
        middle = in_order[rank - 1]
        low, high = middle - 2 * margin, middle + 2 * margin
        # An infinite one is no approximation, and neither are those below it.
        close = [] if math.isinf(middle) else [at for at, value in enumerate(found) if low <= value <= high]
        reach.append((middle, close, rank - 1 - bisect_left(in_order, low)))
    wanted = {number for _, close, _ in reach for number in close}
    exact = dict(_exactly(statistic, wanted, seed, resamples))
    return [sorted(exact[at] for at in close)[place] if close else middle for middle, close, place in reach]


def _exactly(statistic: _Statistic, wanted: set[int], seed: int, resamples: int) -> Iterator[tuple[int, float]]:
    """The numbers of these resamples, each with its t*."""
    n, start = statistic.n, 0
    for block in resample_blocks(n, seed, resamples):
        for number in range(len(block) // n):
            if start + number in wanted:
                yield start + number, statistic.exact(block[number * n : (number + 1) * n])[0]
        start += len(block) // n


def _even(values: Sequence[float]) -> _Statistic:
    """Units of equal weight.

    The margin: with |x| ≤ M, a plain sum S of n numbers is off by less than e = n·ε·nM, and L = Q - S²/n by less
    than f = 4n·ε·nM². Where L ≥ l and f is small beside l, t* = (S/n)·sqrt(n(n - 1)/L) is off by less than
    (e + nM·f/l) / n · sqrt(n(n - 1)/l), which is doubled here for the roundings of the formula itself.
    """
    n, deviation = len(values), spread(values)
    centre = math.fsum(values) / n
    centred = [value - centre for value in values]
    squares = [value * value for value in centred]
    floor = _NO_SPREAD * (n - 1) * deviation * deviation

    def exact(total: float, square_total: float) -> float:
        left = square_total - total * total / n
        if left > floor:
            return total / n / math.sqrt(left / (n - 1) / n)
        return math.copysign(math.inf, total) if total else 0.0

    trusted = (n - 1) * deviation * deviation / 16
    most = n * max(map(abs, centred))
    of_total, of_left = n * _ULP * most, 4 * _ULP * most * most
    if not 1e-280 < trusted < 1e280 or of_left * 1024 > trusted:
        return _Statistic((centred, squares), exact)

    def quick(total: float, square_total: float) -> float:
        left = square_total - total * total / n
        return total / n / math.sqrt(left / (n - 1) / n) if left > trusted else math.nan

    margin = 2 * (of_total + most * (of_left / trusted)) / n * math.sqrt(n * (n - 1) / trusted)
    return _Statistic((centred, squares), exact, quick, margin)


def _weighted(sample: Sample) -> _Statistic:
    """Units of unequal weight."""
    n, z, x = sample.n, sample.residuals, list(sample.weights)
    columns = (z, x, [a * a for a in z], [a * b for a, b in zip(z, x, strict=True)], [b * b for b in x])
    floor = _NO_SPREAD * math.fsum(columns[2])

    def exact(total: float, weight: float, zz: float, zx: float, xx: float) -> float:
        ratio = total / weight
        left = zz - 2 * ratio * zx + ratio * ratio * xx
        if left > floor:
            return total / math.sqrt(n / (n - 1) * left)
        return math.copysign(math.inf, total) if total else 0.0

    return _Statistic(columns, exact)
