"""Tests for a floor: does any declared change of the encoder improve a pack by δ or more?

One *attempt* is a perturbation of the baseline, encoded with several seeds and measured on the baseline's windows.
Its improvement is I = mean d(baseline) − mean d(perturbed), in the unit of d (nats for ln ratio, nats for KL);
above 0 the perturbation is better.

**Standard error.** Encoding again with another seed moves the result for all windows at once, which no number of
windows averages away. With a_si = d of window i, perturbed, encoder seed s, and b_si likewise of the baseline:
SE² = s_w²/n + s_p²/k_p + s_b²/k_b, where s_w² is the variance over windows of the seed-averaged difference (over
documents, if known), and s_p², s_b² are the variances over seeds of the window-averaged d. Degrees of freedom by
Satterthwaite (1946): (Σv)² / Σ(v²/ν). The part of the windows' variance that comes with a seed is counted in two
of the terms: the error is slightly too large, never too small.

**Supported**: "none of the k attempts improves by δ or more" is an intersection–union test (Berger 1982). Each
"I ≥ δ" is rejected by its own one-sided test at α; all must be, so no correction is needed. **Refuted**: some
"I ≤ δ" is rejected after Holm's (1979) step-down adjustment for k attempts, and again on fresh windows, adjusted
for the number of winners: they were chosen on the old ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ucaudit.core.errors import InputError
from ucaudit.core.stats.distributions import t_cdf, t_quantile
from ucaudit.core.stats.estimates import mean
from ucaudit.core.stats.sample import Sample, spread
from ucaudit.core.stats.verdict import MINIMUM_WINDOWS

MINIMUM_SEEDS: Final = 5
"""Encodings of the baseline and of each perturbation that a verdict needs, unless encoding involves no chance."""

FloorDecision = Literal["floor supported", "refuted", "inconclusive"]
Runs = Sequence[Sequence[float]]
"""One row an encoder seed, one value a window; every row on the same windows in the same order."""


@dataclass(frozen=True, slots=True)
class Improvement:
    """How much better a perturbation is than the baseline.

    Attributes:
        estimate: I; above 0 the perturbation is better.
        error: its standard error.
        df: Satterthwaite's degrees of freedom; infinite where the error is 0.
        units: independent units: windows, or documents.
        seeds: the smaller number of seeds of the two arms.
        parts: the variance that comes from windows, from the perturbation's seeds, from the baseline's.
    """

    estimate: float
    error: float
    df: float
    units: int
    seeds: int
    parts: tuple[float, float, float]

    def upper(self, alpha: float) -> float:
        """The one-sided upper bound at level ``alpha``."""
        return self.estimate + self._half(alpha)

    def lower(self, alpha: float) -> float:
        """The one-sided lower bound at level ``alpha``."""
        return self.estimate - self._half(alpha)

    def p_below(self, delta: float) -> float:
        """p-value of "I ≥ δ" against "I < δ"."""
        return self._tail(self.estimate - delta)

    def p_above(self, delta: float) -> float:
        """p-value of "I ≤ δ" against "I > δ"."""
        return self._tail(delta - self.estimate)

    def _half(self, alpha: float) -> float:
        return t_quantile(1 - alpha, self.df) * self.error if self.error else 0.0

    def _tail(self, distance: float) -> float:
        """P(T ≤ distance / error): small where the estimate lies far on the side that the test asks about."""
        if self.error == 0.0:
            return 0.0 if distance < 0 else 1.0
        return t_cdf(distance / self.error, self.df)


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """One attempt against δ.

    Attributes:
        name: of the perturbation.
        improvement: with its error.
        upper: one-sided bound at α; below δ, this attempt's own test is passed.
        lower: one-sided bound at the level that Holm's procedure gives this attempt.
        p_below, p_above: p-values of "I ≥ δ" and of "I ≤ δ", the second Holm-adjusted.
        better: whether it improves on the baseline at all (lower bound for "I ≤ 0", Holm-adjusted), by whatever.
    """

    name: str
    improvement: Improvement
    upper: float
    lower: float
    p_below: float
    p_above: float
    better: bool


@dataclass(frozen=True, slots=True)
class FloorVerdict:
    """The joint verdict. ``reason`` never says more than the attempts do."""

    decision: FloorDecision
    reason: str
    attempts: tuple[AttemptResult, ...]


def improvement(baseline: Runs, perturbed: Runs, *, documents: Sequence[int] | None = None) -> Improvement:
    """The improvement of a perturbation, with the variance of windows and of encoder seeds.

    With one row the seed has no variance that could be seen, and none is counted: right for an encoder that uses no
    seed, and too small for every other. :func:`judge_floor` gives no verdict on that.

    Args:
        baseline, perturbed: differences d from the reference; equally many windows, as many seeds as there are.
        documents: the document each window comes from, if known.

    Raises:
        InputError: fewer than two windows, no seed, or rows of unequal length.
    """
    lengths = {len(row) for row in (*baseline, *perturbed)}
    if not baseline or not perturbed or len(lengths) != 1:
        raise InputError("baseline and perturbation need at least one encoding each, all on the same windows")
    sample = Sample.of(
        [one - other for one, other in zip(_over_seeds(baseline), _over_seeds(perturbed), strict=True)], documents
    )
    variance = sample.error**2
    parts = (variance, _seed_variance(perturbed), _seed_variance(baseline))
    freedoms = (sample.df, len(perturbed) - 1, len(baseline) - 1)
    total = math.fsum(parts)
    squares = math.fsum(part * part / df for part, df in zip(parts, freedoms, strict=True) if part)
    return Improvement(
        estimate=sample.mean,
        error=math.sqrt(total),
        df=total * total / squares if squares else math.inf,
        units=sample.n,
        seeds=min(len(perturbed), len(baseline)),
        parts=parts,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values, in the order given: max over j ≤ i of (k − j)·p_(j), at most 1."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min((len(p_values) - rank) * p_values[index], 1.0))
        adjusted[index] = largest
    return adjusted


def judge_floor(
    attempts: Mapping[str, Improvement],
    delta: float,
    *,
    alpha: float = 0.025,
    tolerance: float = 0.0,
    confirmed: Mapping[str, Improvement] | None = None,
    seedless: bool = False,
) -> FloorVerdict:
    """Judge "none of the attempts improves by δ or more", declared beforehand with δ, α and the attempts.

    Args:
        attempts: every pre-registered attempt by name, good or bad; at least one.
        delta: δ > 0, the improvement that would matter.
        alpha: one-sided.
        tolerance: how far computing elsewhere may move an improvement.
        confirmed: attempts measured again on windows that no attempt was measured on before.
        seedless: encoding involves no chance, so one encoding is all there is.

    Raises:
        InputError: no attempt, a margin that is not above 0, or an unknown name in ``confirmed``.
    """
    if not attempts:
        raise InputError("a floor needs at least one attempt")
    if not (delta > 0.0 and math.isfinite(delta)):
        raise InputError(f"a floor's margin is above 0, found {delta!r}")
    if not 0.0 < alpha < 0.5:
        raise InputError(f"alpha lies between 0 and 0.5, found {alpha!r}")
    again = dict(confirmed or {})
    unknown = sorted(again.keys() - attempts.keys())
    if unknown:
        raise InputError(f"{unknown[0]!r} was confirmed but never attempted")
    results = _results(attempts, delta, alpha, tolerance)
    seeds = min(item.seeds for item in (*attempts.values(), *again.values()))
    if not seedless and seeds < MINIMUM_SEEDS:
        reason = (
            f"{seeds} encoder seed(s) decide nothing: at least {MINIMUM_SEEDS} are needed, of the baseline and of "
            "every attempt"
        )
        return FloorVerdict("inconclusive", reason, results)
    winners = [result for result in results if result.p_above <= alpha]
    if winners:
        return _refutation(results, winners, again, delta, alpha, tolerance)
    if all(result.upper + tolerance < delta for result in results):
        units = min(item.units for item in attempts.values())
        if units < MINIMUM_WINDOWS:
            reason = f"{units} windows are too few to support a floor: at least {MINIMUM_WINDOWS} are needed"
            return FloorVerdict("inconclusive", reason, results)
        reason = f"no improvement of {delta:g} or more in {len(results)} attempt(s)"
        better = [result.name for result in results if result.better]
        if better:
            reason += f"; better, but within the margin: {', '.join(better)}"
        return FloorVerdict("floor supported", reason, results)
    left = [result.name for result in results if result.upper + tolerance >= delta]
    reason = f"an improvement of {delta:g} is not ruled out for: {', '.join(left)}"
    return FloorVerdict("inconclusive", reason, results)


def _results(
    attempts: Mapping[str, Improvement], delta: float, alpha: float, tolerance: float
) -> tuple[AttemptResult, ...]:
    above = holm([item.p_above(delta + tolerance) for item in attempts.values()])
    any_better = holm([item.p_above(tolerance) for item in attempts.values()])
    order = sorted(range(len(above)), key=lambda index: above[index])
    rank = {index: position for position, index in enumerate(order)}
    return tuple(
        AttemptResult(
            name=name,
            improvement=item,
            upper=item.upper(alpha),
            lower=item.lower(alpha / (len(attempts) - rank[index])),
            p_below=item.p_below(delta - tolerance),
            p_above=above[index],
            better=any_better[index] <= alpha,
        )
        for index, (name, item) in enumerate(attempts.items())
    )


def _refutation(
    results: tuple[AttemptResult, ...],
    winners: list[AttemptResult],
    again: Mapping[str, Improvement],
    delta: float,
    alpha: float,
    tolerance: float,
) -> FloorVerdict:
    names = ", ".join(winner.name for winner in winners)
    missing = [winner.name for winner in winners if winner.name not in again]
    adjusted = holm([again[winner.name].p_above(delta + tolerance) for winner in winners if winner.name in again])
    tested = [winner.name for winner in winners if winner.name in again]
    held = [name for name, p in zip(tested, adjusted, strict=True) if p <= alpha]
    if held:
        reason = f"improved by more than {delta:g}, and again on fresh windows: {', '.join(held)}"
        return FloorVerdict("refuted", reason, results)
    if missing:
        reason = f"improved by more than {delta:g}: {names}; to be confirmed on fresh windows"
    else:
        reason = f"improved by more than {delta:g}: {names}; not confirmed on fresh windows"
    return FloorVerdict("inconclusive", reason, results)


def _over_seeds(runs: Runs) -> list[float]:
    """Every window's mean over the seeds."""
    return [mean(column) for column in zip(*runs, strict=True)]


def _seed_variance(runs: Runs) -> float:
    """The variance of an arm's mean that comes from its seeds: s²/k; 0 with one seed."""
    return spread([mean(row) for row in runs]) ** 2 / len(runs) if len(runs) > 1 else 0.0
