"""The figures of the report. Each has a text alternative with its main numbers, and reads in greyscale."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ucaudit.core.records import Attestation, Claim, LayerError
from ucaudit.core.stats import Sample, t_interval
from ucaudit.core.tokenvalues import TokenValues
from ucaudit.evidence.claims import window_differences
from ucaudit.report.formatting import (
    NOT_ASSESSED,
    confidence_text,
    significant,
)
from ucaudit.report.results import claim_row, metric_words
from ucaudit.report.svg import ACCENT, BAND, INK, MUTED, RULE, WIDTH, Drawing, Scale, padded, tick_labels

_LEFT: Final = 50.0
_RIGHT: Final = WIDTH - 6
_MARGIN: Final = 58.0
_TOP: Final = 18.0
_MAX_DOTS: Final = 600
_MAX_BINS: Final = 48
_MAX_BARS: Final = 160


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: its SVG, or the reason why there is none."""

    title: str
    caption: str
    svg: str | None
    missing: str | None = None


def figures(record: Attestation, values: TokenValues | None) -> tuple[Figure, ...]:
    """All figures of the report, in order."""
    return (
        claim_ladder(record.claims),
        window_chart(record, values),
        position_chart(record, values),
        layer_chart(record.reconstruction.layer_errors),
    )


def claim_ladder(claims: Sequence[Claim]) -> Figure:
    """Observed value, interval and limit of every claim that has a limit on a scale, each on its own scale."""
    title = "Claims: observed value, interval and limit"
    caption = (
        "Dot: observed value. Bar: its interval, where the claim has one. Vertical line: the limit, with the "
        "side that the claim allows shaded. Every claim has its own scale."
    )
    drawn = [claim for claim in claims if claim.comparator != "=="]
    if not drawn:
        return Figure(title, caption, None, f"{NOT_ASSESSED}: no claim has a limit on a scale")
    height = 54.0
    words = []
    for claim in drawn:
        row = claim_row(claim)
        within = f", interval {row.interval}" if claim.interval else ""
        words.append(f"{row.name}: observed {row.observed}{within}, limit {row.limit}, {row.verdict}.")
    drawing = Drawing(height * len(drawn), "Claims against their limits. " + " ".join(words))
    for index, claim in enumerate(drawn):
        _rung(drawing, claim, index * height)
    return Figure(title, caption, drawing.to_svg())


def _rung(drawing: Drawing, claim: Claim, top: float) -> None:
    row = claim_row(claim)
    factor = metric_words(claim.metric).scale
    observed, limit = claim.observed * factor, claim.threshold * factor
    ends = [claim.interval.lower * factor, claim.interval.upper * factor] if claim.interval else []
    scale = Scale(*padded([observed, limit, *ends], 0.12), 6, _RIGHT)
    axis = top + 32
    allowed = (scale.start, scale(limit)) if claim.comparator == "<=" else (scale(limit), scale.end)
    drawing.rect(allowed[0], axis - 11, allowed[1] - allowed[0], 11, fill=BAND)
    drawing.text(6, top + 13, row.name, bold=True, size=8.5)
    drawing.text(_RIGHT, top + 13, f"limit {row.limit} · {row.verdict}", anchor="end", bold=True, size=8.5)
    drawing.line(scale.start, axis, scale.end, axis, colour=MUTED, width=0.6)
    ticks = scale.ticks(6)
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        drawing.line(scale(tick), axis, scale(tick), axis + 3, colour=MUTED, width=0.6)
        drawing.text(scale(tick), axis + 11, label, anchor="middle", size=7.5, colour=MUTED)
    drawing.line(scale(limit), axis - 14, scale(limit), axis, width=1.6)
    if ends:
        drawing.line(scale(ends[0]), axis - 5.5, scale(ends[1]), axis - 5.5, colour=ACCENT, width=2.6)
    drawing.dot(scale(observed), axis - 5.5, 3.2)


def window_chart(record: Attestation, values: TokenValues | None) -> Figure:
    """The difference of every window, with the mean's interval and the bound ln(limit)."""
    title = "Difference in negative log-likelihood, window by window"
    caption = (
        "Each dot is one window: its mean NLL with the pack less its mean NLL with the reference, in nats per "
        "token; above zero the pack predicts worse. Solid line and band: mean and its interval. Dashed line: the "
        "limit on the mean, the logarithm of the limit on the ratio, if it lies in the drawing."
    )
    if values is None:
        return Figure(title, caption, None, f"{NOT_ASSESSED}: the per-token files were not given")
    points, size = _thinned(window_differences(values))
    if size > 1:
        caption += f" For legibility each dot is the mean of up to {size} consecutive windows."
    ratio = record.results.ratio
    mean, low, high = (math.log(end) for end in (ratio.estimate, ratio.lower, ratio.upper))
    bound = next((math.log(c.threshold) for c in record.claims if c.metric == "pplRatio" and c.threshold > 0), None)
    spread = max(points) - min(points)
    shown = [*points, low, high, 0.0]
    # A bound far away would press the data flat: it is then named at the edge.
    near = bound is not None and min(shown) - 2 * spread <= bound <= max(shown) + 2 * spread
    if near and bound is not None:
        shown.append(bound)
    above = sum(point > 0 for point in points)
    alternative = (
        f"{len(points)} dots for {values.n} windows, from {significant(min(points))} to {significant(max(points))} "
        f"nats per token; {above} lie above zero. Mean {significant(mean)}, {confidence_text(ratio.confidence)} "
        f"interval {significant(low)} to {significant(high)}."
        + (f" Limit on the mean {significant(bound)}." if bound is not None else " No limit on the ratio.")
    )
    drawing = Drawing(170, alternative)
    bottom, right = 142.0, _RIGHT - _MARGIN
    y = Scale(*padded(shown), bottom, _TOP)
    x = Scale(0.5, len(points) + 0.5, _LEFT, right)
    drawing.rect(_LEFT, y(high), right - _LEFT, y(low) - y(high), fill=BAND)
    _y_axis(drawing, y, "nats per token", bottom, right)
    drawing.line(_LEFT, y(0.0), right, y(0.0), colour=MUTED, width=0.6)
    drawing.line(_LEFT, y(mean), right, y(mean), colour=ACCENT, width=1.2)
    beside = y(mean)
    if bound is not None and near:
        drawing.line(_LEFT, y(bound), right, y(bound), width=1.1, dash="5 3")
        drawing.text(right + 4, y(bound) + 2.7, f"limit {significant(bound)}", bold=True)
        if abs(y(bound) - beside) < 10:
            beside = y(bound) + (10 if y(mean) >= y(bound) else -10)
    elif bound is not None:
        top = bound > mean
        edge = _TOP + 6 if top else bottom - 2
        drawing.text(right + 4, edge, f"limit {significant(bound)}", bold=True)
        drawing.text(
            right + 4, edge + (9 if top else -9), "beyond the " + ("top" if top else "bottom"), colour=MUTED
        )
    drawing.text(right + 4, beside + 2.7, f"mean {significant(mean)}", colour=ACCENT)
    for index, point in enumerate(points, start=1):
        drawing.dot(x(index), y(point), 2.4 if len(points) <= 150 else 1.4)
    step = max(1, round(len(points) / 10))
    for index in range(step if step > 1 else 1, len(points) + 1, step):
        drawing.text(x(index), bottom + 12, str(index), anchor="middle", size=7.5, colour=MUTED)
    what = "window, in the order of the text" if size == 1 else f"group of {size} windows, in the order of the text"
    drawing.text((_LEFT + right) / 2, bottom + 24, what, anchor="middle", colour=MUTED)
    return Figure(title, caption, drawing.to_svg())


def _thinned(points: list[float]) -> tuple[list[float], int]:
    size = math.ceil(len(points) / _MAX_DOTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [math.fsum(group) / len(group) for group in groups], size


def position_chart(record: Attestation, values: TokenValues | None) -> Figure:
    """The mean difference by position in the window, in bins, each with an interval over windows."""
    title = "Difference in negative log-likelihood, by position in the window"
    level = confidence_text(record.results.ratio.confidence)
    caption = (
        f"Mean over windows of NLL(pack) − NLL(reference) for groups of consecutive positions, in nats per token, "
        f"with a {level} interval over windows for each group on its own. A trend would mean that the difference "
        "grows or shrinks with context."
    )
    if values is None or values.n < 2:
        return Figure(title, caption, None, f"{NOT_ASSESSED}: the per-token files were not given")
    size = math.ceil(values.tokens / _MAX_BINS)
    rows = list(zip(values.rows(values.reference), values.rows(values.pack), strict=True))
    bins = []
    for start in range(0, values.tokens, size):
        end = min(start + size, values.tokens)
        means = [(math.fsum(ref[start:end]) - math.fsum(pack[start:end])) / (end - start) for ref, pack in rows]
        sample = Sample.of(means, values.documents)
        bins.append((start, end, t_interval(sample, record.results.ratio.confidence)))
    estimates = [item.estimate for _, _, item in bins]
    alternative = (
        f"{len(bins)} groups of {size} positions over {values.tokens} scored tokens; group means from "
        f"{significant(min(estimates))} to {significant(max(estimates))} nats per token, "
        f"first {significant(estimates[0])}, last {significant(estimates[-1])}."
    )
    drawing = Drawing(170, alternative)
    bottom = 142.0
    y = Scale(*padded([0.0, *(end for _, _, item in bins for end in (item.lower, item.upper))]), bottom, _TOP)
    x = Scale(0, values.tokens, _LEFT, _RIGHT)
    _y_axis(drawing, y, "nats per token", bottom)
    drawing.line(_LEFT, y(0.0), _RIGHT, y(0.0), colour=MUTED, width=0.6)
    for start, end, item in bins:
        centre = x((start + end) / 2)
        drawing.line(centre, y(item.lower), centre, y(item.upper), colour=ACCENT, width=1)
        drawing.dot(centre, y(item.estimate), 2.2)
    ticks = [tick for tick in x.ticks(8) if tick == int(tick)]
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        drawing.text(x(tick), bottom + 12, label, anchor="middle", size=7.5, colour=MUTED)
    axis = "scored token, counted from the start of the window"
    drawing.text((_LEFT + _RIGHT) / 2, bottom + 24, axis, anchor="middle", colour=MUTED)
    return Figure(title, caption, drawing.to_svg())


def layer_chart(errors: Sequence[LayerError]) -> Figure:
    """Relative reconstruction error, one bar a layer."""
    title = "Relative reconstruction error, layer by layer"
    caption = (
        "Frobenius norm of the difference between the reconstructed and the reference weights of a layer, divided "
        "by the norm of the reference weights, in percent. Counted exactly, so without an interval."
    )
    if not errors:
        return Figure(title, caption, None, f"{NOT_ASSESSED}: the record holds no per-layer errors")
    size = math.ceil(len(errors) / _MAX_BARS)
    groups = [errors[start : start + size] for start in range(0, len(errors), size)]
    drawn = [max(group, key=lambda item: item.relative_error) for group in groups]
    if size > 1:
        caption += f" The record names {len(errors)} layers: each bar is the largest of up to {size} in a row."
    percents = [item.relative_error * 100 for item in drawn]
    worst = max(drawn, key=lambda item: item.relative_error)
    alternative = (
        f"{len(drawn)} bars from {significant(min(percents))}% to {significant(max(percents))}%; the largest is "
        f"{worst.layer} with {significant(worst.relative_error * 100)}%."
    )
    drawing = Drawing(158, alternative)
    bottom = 130.0
    y = Scale(0, max(percents) * 1.08 or 1.0, bottom, _TOP)
    slot = (_RIGHT - _LEFT) / len(drawn)
    _y_axis(drawing, y, "percent", bottom)
    every = max(1, math.ceil(len(drawn) / 36))
    for index, (item, percent) in enumerate(zip(drawn, percents, strict=True)):
        left = _LEFT + index * slot
        drawing.rect(left + slot * 0.15, y(percent), slot * 0.7, bottom - y(percent), fill=ACCENT)
        label = _short(item.layer)
        crowded = slot < 22 and index + 1 < len(drawn) and _short(drawn[index + 1].layer) == "other"
        if label == "other" or (index % every == 0 and not crowded):
            drawing.text(left + slot / 2, bottom + 11, label, anchor="middle", size=7.5, colour=MUTED)
    drawing.line(_LEFT, bottom, _RIGHT, bottom, colour=INK, width=0.8)
    drawing.text((_LEFT + _RIGHT) / 2, bottom + 23, "layer", anchor="middle", colour=MUTED)
    return Figure(title, caption, drawing.to_svg())


def _short(layer: str) -> str:
    match = re.search(r"(\d+)$", layer)
    return match[1] if match else "other"


def _y_axis(drawing: Drawing, scale: Scale, unit: str, bottom: float, right: float = _RIGHT) -> None:
    ticks = scale.ticks(5)
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        drawing.line(_LEFT, scale(tick), right, scale(tick), colour=RULE, width=0.35)
        drawing.text(_LEFT - 5, scale(tick) + 2.7, label, anchor="end", size=7.5, colour=MUTED)
    drawing.line(_LEFT, _TOP, _LEFT, bottom, colour=MUTED, width=0.6)
    drawing.text(_LEFT - 5, 9, unit, colour=MUTED)
