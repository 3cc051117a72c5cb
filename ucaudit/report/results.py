"""Claims and figures as table rows: name, value, interval, unit, verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from ucaudit.core.records import Attestation, Claim, Interval
from ucaudit.report.formatting import (
    NOT_ASSESSED,
    confidence_text,
    decimals_for,
    estimate_text,
    exact,
    interval_decimals,
    interval_text,
    number,
    significant,
)

COMPARATORS: Final = {"<=": "≤", ">=": "≥", "==": "="}
LEVELS: Final = {
    "recorded-only": "recorded only",
    "re-derivable": "re-derivable",
    "re-measured": "re-measured",
}


@dataclass(frozen=True, slots=True)
class MetricWords:
    """How a metric is printed: its name, its unit, and the factor that brings a value to that unit."""

    name: str
    unit: str
    scale: float = 1.0


_METRICS: Final = {
    "pplRatio": MetricWords("Perplexity ratio, pack to reference", ""),
    "meanKl": MetricWords("Mean KL divergence", " nats per token"),
    "top1Agreement": MetricWords("Top-1 agreement", "%", 100.0),
    "bitsPerWeight": MetricWords("Storage", " bits per weight"),
    "contradictedFiles": MetricWords("Files that contradict the pack's manifest", " files"),
    "driftedTensors": MetricWords("Tensors that differ from the published state", " tensors"),
}


def metric_words(metric: str) -> MetricWords:
    """The words for a metric; an unknown one is printed by its own name."""
    return _METRICS.get(metric, MetricWords(metric, ""))


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """One claim of the policy."""

    id: str
    name: str
    text: str
    limit: str
    observed: str
    interval: str
    verdict: str
    level: str
    reason: str
    sample: str
    deciding: str | None


def claim_row(claim: Claim, *, published: bool = True) -> ClaimRow:
    """A claim in words. The limit is printed as declared; value and interval agree with each other and with it.

    Args:
        claim: from the record.
        published: whether the pack publishes a state; if not, there was nothing to compare tensors with.
    """
    words = metric_words(claim.metric)
    scale, unit = words.scale, words.unit
    if claim.interval is not None:
        observed = estimate_text(claim.interval, scale=scale, unit=unit, limit=claim.threshold)
        interval = (
            f"{interval_text(claim.interval, scale=scale, unit=unit, limit=claim.threshold)} "
            f"({confidence_text(claim.interval.confidence)})"
        )
    else:
        observed = f"{_counted(claim.observed * scale, claim.threshold * scale)}{unit}"
        interval = "none: counted, not estimated"
    if claim.metric == "driftedTensors" and not published:
        observed = NOT_ASSESSED
    deciding = None if claim.deciding_n is None else f"about {claim.deciding_n:,} windows would decide"
    return ClaimRow(
        id=claim.id,
        name=words.name,
        text=claim.text,
        limit=f"{COMPARATORS[claim.comparator]} {exact(claim.threshold * scale)}{unit}",
        observed=observed,
        interval=interval,
        verdict=claim.verdict.upper(),
        level=LEVELS[claim.level],
        reason=claim.reason,
        sample=f"{claim.sample_size:,} windows" if claim.sample_size else "the whole pack",
        deciding=deciding,
    )


def _counted(value: float, limit: float) -> str:
    """A counted value to 4 significant digits, or more where rounding would move it across the limit."""
    if value == int(value):
        return number(value, 0)
    for digits in range(4, 13):
        text = significant(value, digits)
        if (round(value, decimals_for(value, digits)) > limit) == (value > limit):
            return text
    return exact(value)


@dataclass(frozen=True, slots=True)
class FigureRow:
    """One measured figure."""

    name: str
    value: str
    interval: str
    unit: str
    meaning: str


def figure_rows(record: Attestation) -> tuple[FigureRow, ...]:
    """Every figure of the record's results."""
    results = record.results
    ratio = results.ratio
    difference = Interval(
        estimate=results.mean_difference,
        lower=math.log(ratio.lower),
        upper=math.log(ratio.upper),
        confidence=ratio.confidence,
        method=ratio.method,
    )
    no_interval = f"{NOT_ASSESSED} (descriptive)"
    rows = [
        _interval_row("Perplexity ratio", ratio, "1", "by Student's t over windows"),
        _interval_row("Perplexity ratio", results.ratio_bootstrap, "1", "by bootstrap-t over windows"),
        _interval_row("Mean difference in NLL", difference, "nats per token", "natural logarithm of the ratio"),
        FigureRow(
            "Perplexity, reference", significant(results.ppl_reference, 4), no_interval, "1",
            "depends on text and tokenizer; compare only within this record",
        ),
        FigureRow("Perplexity, pack", significant(results.ppl_pack, 4), no_interval, "1", "on the same tokens"),
        FigureRow(
            "Spread of the window differences", significant(results.sd_difference), no_interval, "nats per token",
            "standard deviation over windows",
        ),
        FigureRow(
            "Design effect", _optional(results.design_effect), no_interval, "1",
            "how much tokens of one window repeat each other; 1 would be not at all",
        ),
        _interval_row("Mean KL divergence", results.kl, "nats per token", "by Student's t over windows"),
        _interval_row("Mean KL divergence", results.kl_bootstrap, "nats per token", "by bootstrap-t over windows"),
        _interval_row("Top-1 agreement", results.top1, "%", "tokens with the same most likely successor", 100.0),
        FigureRow(
            "Root mean square change of probability", significant(results.rms_delta_p * 100), no_interval,
            "percentage points", "of the probability given to the true token",
        ),
        FigureRow(
            "Bound on mean total variation", significant(results.tv_bound), no_interval, "1",
            "from the mean KL divergence (Pinsker); a point value",
        ),
        FigureRow(
            "Smallest drift this sample would have shown",
            NOT_ASSESSED
            if results.minimum_detectable_drift is None
            else significant(results.minimum_detectable_drift * 100, 2),
            no_interval, "%", "told from none with power 0.9",
        ),
    ]  # fmt: skip
    return tuple(rows)


def percentile_text(record: Attestation) -> str:
    """The observed KL percentiles in one line."""
    items = [
        f"{'maximum' if item.percent == 100 else f'{item.percent:g}%'} {significant(item.value)}"
        for item in record.results.kl_percentiles
    ]
    return ", ".join(items) if items else NOT_ASSESSED


def _interval_row(name: str, interval: Interval, unit: str, meaning: str, scale: float = 1.0) -> FigureRow:
    decimals = interval_decimals(interval.lower * scale, interval.upper * scale)
    return FigureRow(
        name,
        number(interval.estimate * scale, decimals),
        f"{interval_text(interval, scale=scale)} ({confidence_text(interval.confidence)})",
        unit,
        meaning,
    )


def _optional(value: float | None) -> str:
    return NOT_ASSESSED if value is None else significant(value, 2)
