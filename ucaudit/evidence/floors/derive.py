"""From per-token values to a floor's figures and verdict. Used to make records and to check them.

The tests are those of :mod:`ucaudit.core.stats.floor`. Nothing here reads a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ucaudit.core.errors import InputError
from ucaudit.core.records import (
    Deciding,
    Determination,
    FloorAttempt,
    FloorConfirmation,
    FloorLevel,
    FloorProtocol,
    FloorResults,
    Interval,
    PublishedComparison,
)
from ucaudit.core.records.floor import FloorVerdictName
from ucaudit.core.stats import (
    AttemptResult,
    FloorVerdict,
    Improvement,
    arm_level,
    decisive,
    improvement,
    judge_floor,
    numerical_tolerance,
    place_published,
    prediction_half_width,
)
from ucaudit.core.stats import Interval as Estimate
from ucaudit.core.stats.estimates import one_sided_alpha
from ucaudit.core.tokenvalues import TokenValues
from ucaudit.evidence.claims import window_differences, window_means
from ucaudit.evidence.floors.protocol import BASELINE

Values = Mapping[tuple[str, int], TokenValues]
"""(arm, seed) → what was measured; every run on the same windows."""
States = Mapping[tuple[str, int], str]
"""(arm, seed) → digest of the reconstructed state."""
_NAMES: dict[str, FloorVerdictName] = {"floor supported": "supported", "refuted": "refuted"}
DETERMINATIONS: dict[FloorVerdictName, Determination] = {
    "supported": "pass",
    "refuted": "fail",
    "inconclusive": "inconclusive",
}
"""Verdict → what the ledger and the exit code say."""


@dataclass(frozen=True)
class _Windows:
    """The windows of a set of runs, and every arm's values on them, by metric."""

    windows: int
    tokens: int
    documents: tuple[int, ...] | None
    by_metric: dict[str, dict[str, list[list[float]]]]


def derive(protocol: FloorProtocol, values: Values, states: States, fresh: Values | None = None) -> FloorResults:
    """Figures and verdict.

    Args:
        protocol: what was declared.
        values: of every arm and seed.
        states: of the same: an attempt whose every state is the baseline's own changed nothing.
        fresh: of the baseline and the winners, on windows that no attempt was measured on before.

    Raises:
        InputError: a run is missing, or runs are not on the same windows.
    """
    first = _arms(protocol, [BASELINE, *(item.name for item in protocol.perturbations)], values)
    tolerance = _tolerance(protocol, first)
    alpha = one_sided_alpha(protocol.confidence)
    own = {item.name: _against(first, item.name, protocol.metric) for item in protocol.perturbations}
    again = None
    confirmation = None
    if fresh is not None:
        named = [item.name for item in protocol.perturbations if (item.name, protocol.seeds[0]) in fresh]
        second = _arms(protocol, [BASELINE, *named], fresh)
        again = {name: _against(second, name, protocol.metric) for name in named}
        # Another number of tokens has another tolerance in bf16; the larger one counts for both.
        tolerance = max(tolerance, _tolerance(protocol, second))
    found = judge_floor(own, protocol.margin, alpha=alpha, tolerance=tolerance, confirmed=again)
    same = {
        item.name: sum(states[item.name, seed] == states[BASELINE, seed] for seed in protocol.seeds)
        for item in protocol.perturbations
    }
    found = _without_idle(found, [name for name, count in same.items() if count == len(protocol.seeds)])
    attempts = _attempts(protocol, found, same, tolerance)
    if fresh is not None and again is not None:
        judged = judge_floor(again, protocol.margin, alpha=alpha, tolerance=tolerance)
        confirmation = FloorConfirmation(
            windows=second.windows,
            levels=_levels(protocol, second),
            attempts=_attempts(protocol, judged, same, tolerance),
        )
    verdict = _NAMES.get(found.decision, "inconclusive")
    levels = _levels(protocol, first)
    return FloorResults(
        windows=first.windows,
        documents=None if first.documents is None else len(set(first.documents)),
        tokens=first.tokens,
        tolerance=tolerance,
        levels=levels,
        attempts=attempts,
        confirmation=confirmation,
        verdict=verdict,
        reason=found.reason,
        deciding=_deciding(protocol, verdict, found, own, again, tolerance),
        floor=_floor(protocol, verdict, levels, confirmation),
    )


def winners(results: FloorResults) -> tuple[str, ...]:
    """The attempts that improved by more than the margin and must be confirmed on fresh windows."""
    return tuple(item.name for item in results.attempts if item.outcome == "won")


def compare_published(
    protocol: FloorProtocol, results: FloorResults, values: Values, fresh: Values | None
) -> PublishedComparison | None:
    """The published floor beside the level that this protocol ended at; None if none was declared."""
    published = protocol.published
    if published is None:
        return None
    reason = None
    if not published.same_model:
        reason = f"it was published for {published.model}, and nothing says that this is the same reference"
    elif not published.same_text:
        reason = "nothing says that it was measured on this text"
    elif published.seq_len is not None and published.seq_len != protocol.seq_len:
        reason = f"it was measured on windows of {published.seq_len} tokens, this on {protocol.seq_len}"
    elif protocol.metric != "pplRatio":
        reason = "a floor of the ratio was published, this protocol's is one of the mean KL divergence"
    if reason is not None:
        return PublishedComparison(outcome="not comparable", reason=reason, lower=None, upper=None)
    arm = results.floor.arm if results.floor is not None else BASELINE
    runs = fresh if fresh is not None and results.verdict == "refuted" else values
    measured = _arms(protocol, [arm], runs)
    rows = measured.by_metric["pplRatio"][arm]
    half = prediction_half_width(rows, protocol.confidence, windows=published.windows, documents=measured.documents)
    centre = arm_level(rows, protocol.confidence, documents=measured.documents).estimate
    decimals = len(published.ratio.partition(".")[2])
    found = place_published(centre, half, float(published.ratio), decimals=decimals)
    return PublishedComparison(outcome=found.outcome, reason=found.reason, lower=found.lower, upper=found.upper)


def _arms(protocol: FloorProtocol, names: Sequence[str], values: Values) -> _Windows:
    """Every arm's values by window. Raises InputError if a run is missing, or lies on other windows."""
    by_metric: dict[str, dict[str, list[list[float]]]] = {"pplRatio": {}, "meanKl": {}}
    shape: tuple[tuple[int, ...], int, tuple[int, ...] | None] | None = None
    for name in names:
        runs = []
        for seed in protocol.seeds:
            run = values.get((name, seed))
            if run is None:
                raise InputError(f"{name} with seed {seed} was not measured", subject=protocol.name)
            where = (run.windows, run.tokens, run.documents)
            if shape is not None and where != shape:
                raise InputError(f"{name} with seed {seed} lies on other windows", subject=protocol.name)
            shape = where
            runs.append(run)
        by_metric["pplRatio"][name] = [window_differences(run) for run in runs]
        by_metric["meanKl"][name] = [window_means(run, run.rows(run.kl)) for run in runs]
    assert shape is not None
    return _Windows(len(shape[0]), shape[1], shape[2], by_metric)


def _against(arms: _Windows, name: str, metric: str) -> Improvement:
    rows = arms.by_metric[metric]
    return improvement(rows[BASELINE], rows[name], documents=arms.documents)


def _tolerance(protocol: FloorProtocol, arms: _Windows) -> float:
    """Both arms may come out otherwise elsewhere, each by the numerical tolerance."""
    return 2 * numerical_tolerance(protocol.dtype, arms.windows * arms.tokens)


def _without_idle(found: FloorVerdict, idle: Sequence[str]) -> FloorVerdict:
    """An attempt that made the baseline's own packs attempted nothing, and supports nothing."""
    if not idle or found.decision != "floor supported":
        return found
    reason = f"{', '.join(idle)} changed nothing: the encoder made the baseline's own states for every seed"
    return replace(found, decision="inconclusive", reason=reason)


def _attempts(
    protocol: FloorProtocol, found: FloorVerdict, same: Mapping[str, int], tolerance: float
) -> tuple[FloorAttempt, ...]:
    alpha = one_sided_alpha(protocol.confidence)
    directions = {item.name: item.direction for item in protocol.perturbations}
    return tuple(
        FloorAttempt(
            name=item.name,
            direction=directions[item.name],
            improvement=item.improvement.estimate,
            error=item.improvement.error,
            df=item.improvement.df if item.improvement.error else None,
            from_windows=item.improvement.parts[0],
            from_seeds=item.improvement.parts[1] + item.improvement.parts[2],
            lower=item.improvement.lower(alpha),
            upper=item.upper,
            p_no_gain=item.p_below,
            p_gain=item.p_above,
            outcome=_outcome(item, protocol, same[item.name], alpha, tolerance),
            same_states=same[item.name],
        )
        for item in found.attempts
    )


def _outcome(
    item: AttemptResult, protocol: FloorProtocol, same: int, alpha: float, tolerance: float
) -> Literal["no improvement", "within the margin", "open", "won", "changed nothing"]:
    if same == len(protocol.seeds):
        return "changed nothing"
    if item.p_above <= alpha:
        return "won"
    if item.upper + tolerance >= protocol.margin:
        return "open"
    return "within the margin" if item.better else "no improvement"


def _levels(protocol: FloorProtocol, arms: _Windows) -> tuple[FloorLevel, ...]:
    def interval(metric: str, name: str) -> Estimate:
        return arm_level(arms.by_metric[metric][name], protocol.confidence, documents=arms.documents)

    return tuple(
        FloorLevel(arm=name, ratio=_record(interval("pplRatio", name).exp()), kl=_record(interval("meanKl", name)))
        for name in arms.by_metric["pplRatio"]
    )


def _record(found: Estimate) -> Interval:
    return Interval(
        estimate=found.estimate,
        lower=found.lower,
        upper=found.upper,
        confidence=found.confidence,
        method=found.method,
    )


def _floor(
    protocol: FloorProtocol,
    verdict: FloorVerdictName,
    levels: Sequence[FloorLevel],
    confirmation: FloorConfirmation | None,
) -> FloorLevel | None:
    """The level to publish: the baseline's, or the best confirmed winner's on the windows that confirmed it."""
    if verdict == "supported":
        return levels[0]
    if verdict == "inconclusive" or confirmation is None:
        return None
    held = [item.name for item in confirmation.attempts if item.outcome == "won"]
    there = [level for level in confirmation.levels if level.arm in held]
    return min(there, key=lambda level: (level.ratio if protocol.metric == "pplRatio" else level.kl).estimate)


def _deciding(
    protocol: FloorProtocol,
    verdict: FloorVerdictName,
    found: FloorVerdict,
    own: Mapping[str, Improvement],
    again: Mapping[str, Improvement] | None,
    tolerance: float,
) -> Deciding | None:
    if verdict != "inconclusive":
        return None
    alpha = one_sided_alpha(protocol.confidence)
    windows = protocol.n
    won = [item.name for item in found.attempts if item.p_above <= alpha]
    if won and again:
        undecided, windows = [again[name] for name in won], protocol.confirm_n
    else:
        undecided = [own[item.name] for item in found.attempts if item.upper + tolerance >= protocol.margin]
    if not undecided:
        return None
    most = decisive(
        undecided,
        protocol.margin,
        windows=windows,
        seeds=len(protocol.seeds),
        alpha=alpha,
        tolerance=tolerance,
    )
    return Deciding(windows=most.windows, seeds=most.seeds, both=most.both)
