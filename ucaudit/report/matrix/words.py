"""A row in words: what Markdown and the page print alike."""

from __future__ import annotations

from ucaudit.core.records import Interval
from ucaudit.core.records.benchmarks import ClaimedFigure, Row
from ucaudit.report.formatting import confidence_text, exact, interval_decimals, number, significant

NONE = "–"
_CLAIMS = {
    "ppl-ratio": "ratio",
    "mean-kl": "KL",
    "top1-agreement": "top-1",
    "bits-per-weight": "bits",
}
_SIGNS = {"<=": "≤", ">=": "≥", "==": "="}


def figure(interval: Interval | None) -> tuple[str, str]:
    """The estimate, and its interval, with the digits that the interval supports; two dashes without one."""
    if interval is None:
        return NONE, NONE
    decimals = min(interval_decimals(interval.lower, interval.upper), 6)
    lower, estimate, upper = (number(x, decimals) for x in (interval.lower, interval.estimate, interval.upper))
    return estimate, f"{lower} to {upper}"


def judged(row: Row) -> str:
    """What the row was judged by."""
    if row.floor is not None:
        metric = "ln ratio" if row.floor.metric == "pplRatio" else "KL"
        tried = f"{len(row.floor.attempts)} attempts, {row.floor.seeds} seeds"
        return f"δ = {exact(row.floor.margin)} of {metric}, {tried}"
    parts = []
    for item in row.bounds:
        if item.comparator != "==":
            parts.append(f"{_CLAIMS.get(item.claim, item.claim)} {_SIGNS[item.comparator]} {exact(item.threshold)}")
        elif item.verdict != "pass":
            parts.append(f"{item.claim}: {item.verdict}")
    return "; ".join(parts) or NONE


def bits(row: Row) -> str:
    """Bits a compressed weight, counted on the files."""
    return NONE if row.bits_on_disk is None else significant(row.bits_on_disk, 4)


def claimed(row: Row) -> str:
    """A published figure, and how the measured one compares."""
    if row.claimed is None:
        return NONE
    return f"{row.claimed.figure.ratio}: {row.claimed.outcome}"


def claimed_reason(row: Row) -> str:
    """Why, and for which model, where it is another's."""
    if row.claimed is None:
        return ""
    return f"{row.claimed.figure.model}: {row.claimed.reason}"


def place(row: Row) -> str:
    """Its entry in the ledger."""
    return NONE if row.ledger is None else f"{row.ledger.index}"


def level(row: Row) -> str:
    """``95%``, or nothing."""
    return "" if row.ratio is None else confidence_text(row.ratio.confidence)


def unmatched(figure: ClaimedFigure) -> str:
    """A published figure that no evidence here is about."""
    sample = f", n = {figure.windows}" if figure.windows is not None else ""
    return f"{figure.model}: {figure.ratio}{sample}{' (published as a floor)' if figure.floor else ''}"
