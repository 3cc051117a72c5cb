"""Estimates and intervals over windows, or over the documents they come from (:mod:`ucaudit.core.stats.sample`).

Windows are the sampling unit: tokens inside one window are correlated, so a token count is no sample size. The
estimand is the mean over the windows of *this* text. All sums are exact (``math.fsum``), so a recomputation
agrees whatever the order and the Python version (the built-in ``sum`` changed its rounding in 3.12).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ucaudit.core.errors import InputError
from ucaudit.core.stats.distributions import normal_quantile, t_quantile
from ucaudit.core.stats.sample import Sample, Values, as_sample, require_two, spread

UNBOUNDED: Final = 700.0
"""Nats. An end that the data cannot bound is written as ±700: exp(700) ≈ 1e304 is the last decade of a double."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its two-sided interval; each end is a one-sided bound at half of 1 − confidence."""

    estimate: float
    lower: float
    upper: float
    confidence: float
    method: str

    def exp(self) -> Interval:
        """The interval of exp(x), for x in nats; ends beyond ±:data:`UNBOUNDED` stay there, so all are finite."""
        lower, estimate, upper = (
            math.exp(min(max(x, -UNBOUNDED), UNBOUNDED)) for x in (self.lower, self.estimate, self.upper)
        )
        return Interval(estimate, lower, upper, self.confidence, self.method)


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean with an exact sum."""
    return math.fsum(values) / len(values)


def standard_deviation(values: Sequence[float]) -> float:
    """The sample standard deviation (n − 1); exactly 0 for equal values. Raises InputError below two values."""
    require_two(Sample.of(values))
    return spread(values)


def t_interval(values: Values, confidence: float) -> Interval:
    """Student t interval of the mean, with one degree of freedom less than there are units.

    Args:
        values: one a window, or a sample of units; a point if all are equal.
        confidence: two-sided.

    Raises:
        InputError: below two units, or ``confidence`` not in (0, 1).
    """
    sample = as_sample(values)
    require_two(sample)
    half = t_quantile(1 - one_sided_alpha(confidence), sample.df) * sample.error
    centre = sample.mean
    return Interval(centre, centre - half, centre + half, confidence, f"student-t over {sample.unit}")


def wilson_interval(
    successes: float, total: int, design_effect: float, confidence: float, *, unit: str = "windows"
) -> Interval:
    """Wilson score interval of a share with the effective sample size total / design effect.

    Args:
        successes: how many of ``total``.
        total: the nominal sample size.
        design_effect: variance of the clustered mean over that of a simple random sample, at least 1 here.
        confidence: two-sided.
        unit: what the design effect was estimated over.
    """
    share = successes / total
    effective = total / max(design_effect, 1.0)
    z = normal_quantile(1 - one_sided_alpha(confidence))
    centre = (share + z * z / (2 * effective)) / (1 + z * z / effective)
    half = z / (1 + z * z / effective) * math.sqrt(share * (1 - share) / effective + z * z / (4 * effective**2))
    # At a share of 0 or 1 the formula's end is the share itself, but for rounding.
    lower = 0.0 if share == 0.0 else max(centre - half, 0.0)
    upper = 1.0 if share == 1.0 else min(centre + half, 1.0)
    return Interval(share, lower, upper, confidence, f"wilson, effective n over {unit}")


def agreement_interval(
    shares: Sequence[float], tokens: int, confidence: float, documents: Sequence[int] | None = None
) -> Interval:
    """Wilson interval of the mean of per-window shares, with tokens counted as the windows allow.

    The effective sample size is p(1 − p)/SE², SE over the units, never more than the number of tokens. Where all
    tokens agree (or none does) SE is 0 and says nothing of how tokens cluster, so a whole unit counts as one
    observation.

    Args:
        shares: agreeing tokens / ``tokens`` of each window.
        tokens: scored tokens a window.
        confidence: two-sided.
        documents: the document each window comes from, if known.

    Raises:
        InputError: fewer than two windows.
    """
    sample = Sample.of(shares, documents)
    require_two(sample)
    total = len(shares) * tokens
    successes = math.fsum(round(share * tokens) for share in shares)
    share = successes / total
    unanimous = share in (0.0, 1.0)
    effect = total / sample.n if unanimous else sample.error**2 / (share * (1 - share) / total)
    return wilson_interval(successes, total, effect, confidence, unit=sample.unit)


def design_effect(window_means: Values, token_values: Sequence[float]) -> float | None:
    """Variance of the mean as the units show it / as it would be with independent tokens; None without spread.

    Args:
        window_means: one a window, or a sample of units.
        token_values: all tokens of all windows, in any order.
    """
    independent = standard_deviation(token_values) ** 2 / len(token_values)
    return as_sample(window_means).error ** 2 / independent if independent else None


def percentile(sorted_values: Sequence[float], percent: float) -> float:
    """The observed value at rank ceil(percent/100 · n), at least the first."""
    # 99.9 / 100 · 1000 is 999.0000000000001 in floating point; a rank is wanted, not its rounding error.
    rank = math.ceil(round(percent * len(sorted_values) / 100, 9))
    return sorted_values[max(rank - 1, 0)]


def one_sided_alpha(confidence: float) -> float:
    """(1 − confidence) / 2: the error of each end of a two-sided interval. Raises InputError outside (0, 1)."""
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence lies between 0 and 1, found {confidence!r}")
    return (1.0 - confidence) / 2.0
