"""How many windows, or encoder seeds, would decide an open floor protocol, and where an arm's level lies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ucaudit.core.stats.distributions import normal_quantile, t_quantile
from ucaudit.core.stats.estimates import Interval, one_sided_alpha
from ucaudit.core.stats.floor import Improvement, Runs, improvement
from ucaudit.core.stats.verdict import MOST_WINDOWS, POWER

METHOD: Final = "t over windows and encoder seeds"


@dataclass(frozen=True, slots=True)
class Decisive:
    """Sample sizes with power 0.9; None where no number would do.

    Attributes:
        windows: with the seeds there are.
        seeds: with the windows there are.
        both: windows and seeds, both raised by one factor.
    """

    windows: int | None
    seeds: int | None
    both: tuple[int, int] | None


def decisive(
    undecided: Iterable[Improvement],
    delta: float,
    *,
    windows: int,
    seeds: int,
    alpha: float,
    tolerance: float = 0.0,
) -> Decisive:
    """What would decide every one of these attempts one way or the other, if they are what they seem.

    With D = |δ − I| − tolerance the error must come down to D / (z₁₋α + z₀.₉). The windows' part of its square
    falls with their number, the seeds' part with theirs: more windows alone cannot outweigh the seeds.

    Args:
        undecided: the attempts that are open.
        delta: the margin.
        windows, seeds: how many there are now, of each arm.
        alpha: one-sided.
        tolerance: as in :func:`~ucaudit.core.stats.floor.judge_floor`.
    """
    z = normal_quantile(1 - alpha) + normal_quantile(POWER)
    more_windows: list[float] = []
    more_seeds: list[float] = []
    more_of_both: list[float] = []
    for item in undecided:
        distance = abs(delta - item.estimate) - tolerance
        wanted = (distance / z) ** 2 if distance > 0 else 0.0
        of_windows, of_seeds = item.parts[0], item.parts[1] + item.parts[2]
        more_windows.append(_times(of_windows, wanted - of_seeds))
        more_seeds.append(_times(of_seeds, wanted - of_windows))
        more_of_both.append(_times(of_windows + of_seeds, wanted))
    both = [_count(windows, more_of_both), _count(seeds, more_of_both)]
    return Decisive(
        windows=_count(windows, more_windows),
        seeds=_count(seeds, more_seeds),
        both=None if both[0] is None or both[1] is None else (both[0], both[1]),
    )


def _times(part: float, room: float) -> float:
    return part / room if room > 0 else math.inf


def _count(now: int, factors: Sequence[float]) -> int | None:
    """At least one more than there are: t is wider than the normal quantile, and what is there did not do."""
    most = max(factors, default=math.inf)
    if not most * now <= MOST_WINDOWS:
        return None
    return max(math.ceil(most * now), now + 1)


def arm_level(runs: Runs, confidence: float, *, documents: Sequence[int] | None = None) -> Interval:
    """The mean of an arm over windows and seeds, with an interval that counts both.

    Args:
        runs: one row an encoder seed, one value a window.
        confidence: two-sided.
        documents: the document each window comes from, if known.

    Raises:
        InputError: as :func:`~ucaudit.core.stats.floor.improvement`.
    """
    found = improvement([[0.0] * len(runs[0])], runs, documents=documents)
    half = t_quantile(1 - one_sided_alpha(confidence), found.df) * found.error if found.error else 0.0
    return Interval(-found.estimate, -found.estimate - half, -found.estimate + half, confidence, METHOD)


def prediction_half_width(
    runs: Runs, confidence: float, *, windows: int, documents: Sequence[int] | None = None
) -> float:
    """Half the interval in which one encoding, measured on ``windows`` other windows, would come out.

    t · √(s_w²/n + s_w²/n_v + s_seed²/k + s_seed²): a publisher encoded once and measured on windows of its own.
    """
    found = improvement([[0.0] * len(runs[0])], runs, documents=documents)
    by_windows, by_seeds = found.parts[0], found.parts[1]
    total = by_windows * (1 + len(runs[0]) / windows) + by_seeds * (1 + len(runs))
    return t_quantile(1 - one_sided_alpha(confidence), found.df) * math.sqrt(total) if total else 0.0
