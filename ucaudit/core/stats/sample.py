"""A sample: the windows' values, grouped into the units that may be taken as independent of each other.

Windows cut from one document share its topic and its difficulty. Where the text says which document a window comes
from, the documents are the units; elsewhere every window is one. The mean is Σy / Σx over the units, y being a
unit's total and x its weight (how many windows, or tokens, it holds). Its standard error is that of a ratio
estimator, linearised (Cochran 1977, §2.11 and §9A; Liang & Zeger 1986): √(G/(G−1) · Σ(y − m·x)²) / Σx over the G
units. With one window a unit that is s/√n, to the last formula.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from ucaudit.core.errors import InputError

_ROUNDING: Final = 1e-15
Unit = Literal["windows", "documents"]


@dataclass(frozen=True)
class Sample:
    """Units with their totals and weights.

    Attributes:
        totals: y, the sum of a unit's values.
        weights: x, what the sum is over: windows, or tokens; above 0.
        windows: how many windows there are in all.
        unit: what a unit is.
    """

    totals: tuple[float, ...]
    weights: tuple[float, ...]
    windows: int
    unit: Unit = "windows"

    @classmethod
    def of(cls, values: Sequence[float], documents: Sequence[int] | None = None) -> Sample:
        """Windows' values of equal weight.

        Args:
            values: one a window.
            documents: the document each window comes from. If all come from one, it says nothing of how documents
                differ, and the windows are the units.
        """
        return cls.weighted(values, [1.0] * len(values), documents)

    @classmethod
    def weighted(
        cls, totals: Sequence[float], weights: Sequence[float], documents: Sequence[int] | None = None
    ) -> Sample:
        """Windows of unequal weight; those of weight 0 hold nothing and do not count.

        Args:
            totals: one a window, the sum of its values.
            weights: how many values each sum is over.
            documents: as in :meth:`of`.
        """
        held = [index for index, weight in enumerate(weights) if weight > 0]
        if documents is None or len({documents[index] for index in held}) < 2:
            return cls(tuple(totals[i] for i in held), tuple(weights[i] for i in held), len(held))
        groups: dict[int, list[int]] = {}
        for index in held:
            groups.setdefault(documents[index], []).append(index)
        return cls(
            tuple(math.fsum(totals[i] for i in group) for group in groups.values()),
            tuple(math.fsum(weights[i] for i in group) for group in groups.values()),
            len(held),
            "documents",
        )

    @property
    def n(self) -> int:
        """The number of independent units: the sample size."""
        return len(self.totals)

    @property
    def df(self) -> int:
        """Degrees of freedom of :attr:`error`: one less than there are units."""
        return self.n - 1

    @cached_property
    def even(self) -> tuple[float, ...] | None:
        """The units' own means, if all weights are equal: then everything is plain arithmetic on them."""
        if self.n == 0 or min(self.weights) != max(self.weights):
            return None
        weight = self.weights[0]
        return self.totals if weight == 1.0 else tuple(total / weight for total in self.totals)

    @cached_property
    def mean(self) -> float:
        """Σy / Σx, sums exact."""
        if self.even is not None:
            return math.fsum(self.even) / self.n
        return math.fsum(self.totals) / math.fsum(self.weights)

    @cached_property
    def residuals(self) -> list[float]:
        """y − m·x of every unit."""
        return [y - self.mean * x for y, x in zip(self.totals, self.weights, strict=True)]

    @cached_property
    def error(self) -> float:
        """The standard error of :attr:`mean`; exactly 0 for equal values. Raises InputError below two units."""
        require_two(self)
        if self.even is not None:
            return spread(self.even) / math.sqrt(self.n)
        means = [y / x for y, x in zip(self.totals, self.weights, strict=True)]
        if max(means) - min(means) <= _ROUNDING * max(map(abs, means)):
            return 0.0  # equal windows, summed over documents: what is left is rounding
        squares = math.fsum([z * z for z in self.residuals])
        return math.sqrt(self.n / self.df * squares) / math.fsum(self.weights)

    @property
    def deviation(self) -> float:
        """The spread that independent windows with this standard error would have: error · √windows."""
        if self.unit == "windows" and self.even is not None:
            require_two(self)
            return spread(self.even)
        return self.error * math.sqrt(self.windows)


Values = Sequence[float] | Sample
"""What estimators take: windows' values, or a sample of units."""


def as_sample(values: Values) -> Sample:
    """``values`` as they are, or every window a unit of its own."""
    return values if isinstance(values, Sample) else Sample.of(values)


def spread(values: Sequence[float]) -> float:
    """The standard deviation (n − 1) of at least two values; exactly 0 for equal ones."""
    if min(values) == max(values):
        return 0.0  # the rounded mean need not equal them, and a spread of 1e-17 is none
    centre = math.fsum(values) / len(values)
    return math.sqrt(math.fsum([(value - centre) ** 2 for value in values]) / (len(values) - 1))


def require_two(sample: Sample) -> None:
    """Raises InputError below two units."""
    if sample.n < 2:
        raise InputError(f"an interval needs at least 2 {sample.unit}, found {sample.n}")
