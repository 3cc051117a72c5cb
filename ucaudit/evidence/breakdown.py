"""Where a difference sits: window by window, by position in the window, by how sure the reference was.

Every mean has its own interval over windows (or documents). Cells that windows fill unequally, as those of
confidence do, use the ratio estimator of :class:`ucaudit.core.stats.Sample`. These intervals describe; they are
not adjusted for looking at many cells, and no verdict rests on them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from ucaudit.core.stats import Interval, Sample, design_effect, t_interval
from ucaudit.core.tokenvalues import TokenValues
from ucaudit.evidence.claims import kl_sample, ratio_sample, window_differences, window_means

CONFIDENCE_EDGES: Final = (0.0, 0.01, 0.1, 0.5, 0.9, 1.0)
"""Bounds of the bins of the reference's probability of the true token; the last bin holds its upper bound."""

_GROWTH: Final = 4


@dataclass(frozen=True, slots=True)
class WindowRow:
    """One window: its place, and its own means (difference and KL in nats a token, top-1 agreement as a share)."""

    window: int
    document: int | None
    difference: float
    kl: float
    top1: float


@dataclass(frozen=True, slots=True)
class Cell:
    """The tokens between two bounds.

    Attributes:
        low, high: positions, from 1, both included; or probabilities, the upper one excluded but for 1.
        tokens: how many there are.
        difference: mean NLL(pack) − NLL(reference), nats a token; None where fewer than two windows hold any.
        kl: mean KL, nats a token; None likewise.
        top1: share of tokens whose most likely token agrees; None without tokens.
    """

    low: float
    high: float
    tokens: int
    difference: Interval | None
    kl: Interval | None
    top1: float | None


@dataclass(frozen=True, slots=True)
class Breakdown:
    """All of it.

    Attributes:
        windows: every window, in order.
        positions: cells that grow by a factor of four: 1, 2–4, 5–16, …; a late token has more context.
        confidence: cells of p = the reference's probability of the true token, see :data:`CONFIDENCE_EDGES`.
        skewness: of the units' differences, m₃/m₂^1.5; None without spread. Far above 0, t alone is too optimistic.
        kl_design_effect: the KL's own design effect; None without spread.
    """

    windows: tuple[WindowRow, ...]
    positions: tuple[Cell, ...]
    confidence: tuple[Cell, ...]
    skewness: float | None
    kl_design_effect: float | None

    def to_json(self) -> dict[str, Any]:
        """The breakdown as JSON has it."""
        return {
            "windows": [
                {
                    "window": row.window,
                    "document": row.document,
                    "difference": row.difference,
                    "kl": row.kl,
                    "top1": row.top1,
                }
                for row in self.windows
            ],
            "positions": [_cell(cell) for cell in self.positions],
            "referenceConfidence": [_cell(cell) for cell in self.confidence],
            "skewness": self.skewness,
            "klDesignEffect": self.kl_design_effect,
        }


def break_down(values: TokenValues, confidence: float) -> Breakdown:
    """Break the figures down.

    Args:
        values: of at least two windows.
        confidence: of the two-sided intervals.
    """
    return Breakdown(
        windows=by_window(values),
        positions=by_position(values, confidence),
        confidence=by_confidence(values, confidence),
        skewness=skewness(ratio_sample(values)),
        kl_design_effect=design_effect(kl_sample(values), values.kl),
    )


def by_window(values: TokenValues) -> tuple[WindowRow, ...]:
    """Every window's own means."""
    columns = (
        values.windows,
        values.documents or (None,) * values.n,
        window_differences(values),
        window_means(values, values.rows(values.kl)),
        window_means(values, values.rows(values.top1)),
    )
    return tuple(WindowRow(*row) for row in zip(*columns, strict=True))


def by_position(values: TokenValues, confidence: float) -> tuple[Cell, ...]:
    """Cells of the scored tokens' numbers in their window: 1, 2–4, 5–16, 17–64, …"""
    edges = [0, 1]
    while edges[-1] < values.tokens:
        edges.append(min(edges[-1] * _GROWTH, values.tokens))
    return tuple(
        _measure(values, confidence, low + 1, high, [range(low, high)] * values.n) for low, high in pairwise(edges)
    )


def by_confidence(values: TokenValues, confidence: float) -> tuple[Cell, ...]:
    """Cells of the reference's probability of the true token."""
    chosen: list[list[list[int]]] = [[[] for _ in range(values.n)] for _ in CONFIDENCE_EDGES[1:]]
    inner = [math.log(edge) for edge in CONFIDENCE_EDGES[1:-1]]
    for window, row in enumerate(values.rows(values.reference)):
        for position, logprob in enumerate(row):
            chosen[sum(logprob >= edge for edge in inner)][window].append(position)
    cells = zip(pairwise(CONFIDENCE_EDGES), chosen, strict=True)
    return tuple(_measure(values, confidence, low, high, rows) for (low, high), rows in cells)


def skewness(sample: Sample) -> float | None:
    """m₃/m₂^1.5 of the units' means; None without spread."""
    means = [y / x for y, x in zip(sample.totals, sample.weights, strict=True)]
    centre = math.fsum(means) / len(means)
    second = math.fsum([(value - centre) ** 2 for value in means]) / len(means)
    third = math.fsum([(value - centre) ** 3 for value in means]) / len(means)
    return third / second**1.5 if min(means) < max(means) and second > 0.0 else None


def _measure(
    values: TokenValues, confidence: float, low: float, high: float, positions: Sequence[Sequence[int]]
) -> Cell:
    """One cell: ``positions`` are the tokens of each window that belong to it."""
    counts: list[float] = []
    differences: list[float] = []
    divergences: list[float] = []
    agreeing = 0
    for window in range(values.n):
        taken = [window * values.tokens + position for position in positions[window]]
        counts.append(float(len(taken)))
        # −log p of the pack less that of the reference; exact in one sum of both.
        parts = [values.reference[index] for index in taken] + [-values.pack[index] for index in taken]
        differences.append(math.fsum(parts))
        divergences.append(math.fsum([values.kl[index] for index in taken]))
        agreeing += sum(values.top1[index] for index in taken)
    tokens = int(sum(counts))

    def interval(totals: list[float]) -> Interval | None:
        sample = Sample.weighted(totals, counts, values.documents)
        return t_interval(sample, confidence) if sample.n > 1 else None

    share = agreeing / tokens if tokens else None
    return Cell(low, high, tokens, interval(differences), interval(divergences), share)


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        "low": cell.low,
        "high": cell.high,
        "tokens": cell.tokens,
        "difference": _interval(cell.difference),
        "kl": _interval(cell.kl),
        "top1": cell.top1,
    }


def _interval(interval: Interval | None) -> dict[str, Any] | None:
    if interval is None:
        return None
    return {
        "estimate": interval.estimate,
        "lower": interval.lower,
        "upper": interval.upper,
        "confidence": interval.confidence,
        "method": interval.method,
    }
