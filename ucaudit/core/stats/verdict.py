"""The decision rule for "the mean is at most m", declared before the data are seen.

Non-inferiority with a margin: pass only if the upper bound of *both* methods, moved by the numerical tolerance,
lies at or below the margin, and there are at least 30 windows; fail only if both lower bounds, moved the other
way, lie above it. Everything else is inconclusive, and says how many windows would decide. Where windows are
grouped by document, 30 documents are needed: with fewer, an error that is robust to clusters is too uncertain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ucaudit.core.stats.distributions import normal_quantile
from ucaudit.core.stats.estimates import Interval, one_sided_alpha
from ucaudit.core.stats.sample import Sample, Values, as_sample

MINIMUM_WINDOWS: Final = 30
POWER: Final = 0.9
MOST_WINDOWS: Final = 10**9
Decision = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """A decision with its reason; ``deciding_n`` windows would decide an inconclusive case with power 0.9."""

    decision: Decision
    reason: str
    deciding_n: int | None


def judge_at_most(
    values: Values, margin: float, intervals: Sequence[Interval], *, tolerance: float = 0.0
) -> Judgement:
    """Judge "the mean of ``values`` is at most ``margin``".

    Args:
        values: one a window, or a sample of units.
        margin: in the unit of the values (ln ratio for a ratio).
        intervals: of the mean, one a method.
        tolerance: how far computing on other hardware may move the mean.
    """
    uppers = [interval.upper + tolerance for interval in intervals]
    sample = as_sample(values)
    n = sample.n
    if min(interval.lower for interval in intervals) - tolerance > margin:
        return Judgement("fail", "both lower bounds lie above the threshold", None)
    if max(uppers) <= margin:
        if n >= MINIMUM_WINDOWS:
            return Judgement("pass", "both upper bounds lie at or below the threshold", None)
        return Judgement(
            "inconclusive",
            f"{n} {sample.unit} are too few to pass: at least {MINIMUM_WINDOWS} are needed",
            _minimum(sample),
        )
    needed = windows_to_decide(sample, margin, intervals[0].confidence, tolerance=tolerance)
    if needed is None:
        return Judgement("inconclusive", "the mean lies on the threshold: no number of windows would decide", None)
    # The formula is that of the normal case; where it asks for no more than there are, skewness is what is left.
    needed = max(needed, sample.windows + 1)
    towards = "pass" if sample.mean < margin else "fail"
    cause = "the two methods disagree" if min(uppers) <= margin else "the interval spans the threshold"
    return Judgement(
        "inconclusive", f"{cause}; about {needed} windows would decide (as things stand: {towards})", needed
    )


def windows_to_decide(values: Values, margin: float, confidence: float, *, tolerance: float = 0.0) -> int | None:
    """n = ((z(1−α) + z(1−β)) · s / (|margin − mean| − tolerance))², at least 30.

    Below the margin that is the n for a pass, above it the n for a fail, each with power 0.9 if mean and spread are
    what they seem. With documents for units, s is their standard error times the root of the number of windows, and
    the 30 are documents with as many windows each as now. None if the mean lies on the margin to within the
    tolerance, or above 10⁹ windows.
    """
    sample = as_sample(values)
    distance = abs(margin - sample.mean) - tolerance
    if distance <= 0.0:
        return None
    needed = (_z(confidence) * sample.deviation / distance) ** 2
    return max(math.ceil(needed), _minimum(sample)) if needed <= MOST_WINDOWS else None


def minimum_detectable_drift(values: Values, confidence: float) -> float:
    """The smallest relative drift that this many windows tell from none: exp((z(1−α) + z(1−β))·SE) − 1, SE = s/√n.

    Power 0.9; equally, how far below the margin a true drift must lie to pass nine times in ten.
    """
    return math.expm1(min(_z(confidence) * as_sample(values).error, 700.0))


def _minimum(sample: Sample) -> int:
    """Windows that make :data:`MINIMUM_WINDOWS` units, if units go on holding as many windows as they do now."""
    return math.ceil(MINIMUM_WINDOWS * sample.windows / sample.n)


def _z(confidence: float) -> float:
    return normal_quantile(1 - one_sided_alpha(confidence)) + normal_quantile(POWER)
