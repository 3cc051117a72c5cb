"""The forest plot of a floor protocol: every attempt's improvement with its interval, beside zero and the margin.

``forest_plot(record)`` is a :class:`~ucaudit.report.charts.Figure` like the other charts; ``floor_section(record)``
has the rows of its table. A report that includes them needs nothing else of a floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ucaudit.core.records import Floor, FloorAttempt, FloorLevel
from ucaudit.report.charts import Figure
from ucaudit.report.formatting import confidence_text, exact, interval_decimals, interval_text, number
from ucaudit.report.svg import ACCENT, BAND, INK, MUTED, RULE, WIDTH, Drawing, Scale, padded, tick_labels

_LEFT: Final = 112.0
_RIGHT: Final = WIDTH - 118
_ROW: Final = 24.0
_TOP: Final = 30.0
METRICS: Final = {"pplRatio": "ln ratio", "meanKl": "mean KL"}
UNIT: Final = "nats per token"
OUTCOMES: Final[dict[str, str]] = {
    "no improvement": "not better by δ",
    "within the margin": "better, but within δ",
    "open": "open",
    "won": "better by more than δ",
    "changed nothing": "changed nothing",
}
"""An attempt's outcome → what is printed. The first says that an improvement of δ or more is ruled out; the second
that it is better all the same, after Holm's adjustment."""
VERDICTS: Final = {
    "supported": "FLOOR SUPPORTED",
    "refuted": "FLOOR REFUTED",
    "inconclusive": "INCONCLUSIVE",
}


@dataclass(frozen=True, slots=True)
class FloorRow:
    """One line of a floor's table, as text."""

    name: str
    direction: str
    windows: str
    improvement: str
    interval: str
    outcome: str


@dataclass(frozen=True, slots=True)
class FloorSection:
    """What a report prints of a floor."""

    verdict: str
    reason: str
    margin: str
    metric: str
    rows: tuple[FloorRow, ...]
    levels: tuple[tuple[str, str, str], ...]
    """Arm, ratio with interval, mean KL with interval."""
    figure: Figure


def floor_section(record: Floor) -> FloorSection:
    """A floor in a report's words: verdict, table, levels and the forest plot."""
    results, protocol = record.results, record.protocol
    rows = [_row(record, item, f"{results.windows}") for item in results.attempts]
    if results.confirmation is not None:
        rows += [
            _row(record, item, f"{results.confirmation.windows} fresh") for item in results.confirmation.attempts
        ]
    return FloorSection(
        verdict=VERDICTS[results.verdict],
        reason=results.reason,
        margin=f"{exact(protocol.margin)} {UNIT}",
        metric=METRICS[protocol.metric],
        rows=tuple(rows),
        levels=tuple(_level(item) for item in results.levels),
        figure=forest_plot(record),
    )


def forest_plot(record: Floor) -> Figure:
    """Every attempt's improvement with its interval, beside zero and the margin; winners again on fresh windows."""
    results, protocol = record.results, record.protocol
    level = confidence_text(protocol.confidence)
    title = "Improvement of every attempt over the baseline"
    caption = (
        f"Dot: improvement in {METRICS[protocol.metric]}, {UNIT}; right of zero the attempt is better than the "
        f"baseline. Bar: its {level} interval over windows and encoder seeds. Dashed line: the margin δ that was "
        "declared; a floor is supported if every bar ends left of it. Nothing here is adjusted for the number of "
        "attempts; the verdict is."
    )
    lines: list[tuple[str, FloorAttempt]] = [(item.name, item) for item in results.attempts]
    if results.confirmation is not None:
        lines += [(f"{item.name}, fresh", item) for item in results.confirmation.attempts]
    words = []
    for name, item in lines:
        shown, interval = _texts(item, protocol.margin)
        words.append(f"{name}: {shown}, interval {interval}, {OUTCOMES[item.outcome]}.")
    alternative = (
        f"{VERDICTS[results.verdict]}, margin {exact(protocol.margin)} {UNIT} of {METRICS[protocol.metric]}. "
        + " ".join(words)
    )
    drawing = Drawing(_TOP + _ROW * len(lines) + 36, alternative)
    ends = [end for _, item in lines for end in (item.lower, item.upper)]
    x = Scale(*padded([0.0, protocol.margin, *ends], 0.08), _LEFT, _RIGHT)
    bottom = _TOP + _ROW * len(lines)
    drawing.rect(x(x.low), _TOP - 4, x(protocol.margin) - x(x.low), bottom - _TOP + 4, fill=BAND)
    ticks = x.ticks(5)
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        drawing.line(x(tick), bottom, x(tick), bottom + 3, colour=MUTED, width=0.6)
        drawing.text(x(tick), bottom + 12, label, anchor="middle", size=7.5, colour=MUTED)
    drawing.line(_LEFT, bottom, _RIGHT, bottom, colour=MUTED, width=0.6)
    drawing.line(x(0.0), _TOP - 4, x(0.0), bottom, colour=INK, width=0.8)
    drawing.line(x(protocol.margin), _TOP - 4, x(protocol.margin), bottom, colour=INK, width=1.2, dash="4 3")
    drawing.text(x(0.0), _TOP - 9, "0", anchor="end" if x(protocol.margin) - x(0.0) < 60 else "middle", size=8)
    drawing.text(x(protocol.margin), _TOP - 9, f"δ = {exact(protocol.margin)}", bold=True, size=8)
    drawing.text(6, _TOP - 9, "attempt", size=8, colour=MUTED)
    drawing.text(WIDTH - 6, _TOP - 9, "improvement", anchor="end", size=8, colour=MUTED)
    for index, (name, item) in enumerate(lines):
        _line(drawing, x, _TOP + _ROW * (index + 0.5), name, item, protocol.margin)
        if index:
            drawing.line(6, _TOP + _ROW * index, WIDTH - 6, _TOP + _ROW * index, colour=RULE, width=0.3)
    axis = f"improvement in {METRICS[protocol.metric]}, {UNIT} (better to the right)"
    drawing.text((_LEFT + _RIGHT) / 2, bottom + 25, axis, anchor="middle", colour=MUTED)
    return Figure(title, caption, drawing.to_svg())


def _line(drawing: Drawing, x: Scale, middle: float, name: str, item: FloorAttempt, margin: float) -> None:
    shown, interval = _texts(item, margin)
    drawing.text(6, middle - 1, name if len(name) <= 22 else f"{name[:21]}…", bold=True, size=8)
    drawing.text(6, middle + 8, item.direction, size=7, colour=MUTED)
    drawing.line(x(item.lower), middle, x(item.upper), middle, colour=ACCENT, width=2.4)
    drawing.dot(x(item.improvement), middle, 3.0)
    drawing.text(WIDTH - 6, middle - 1, f"{shown} [{interval}]", anchor="end", size=7.5)
    drawing.text(WIDTH - 6, middle + 8, OUTCOMES[item.outcome], anchor="end", size=7, colour=MUTED)


def _texts(item: FloorAttempt, margin: float) -> tuple[str, str]:
    """The improvement and its interval with the digits that the interval supports."""
    decimals = interval_decimals(item.lower, item.upper, margin)
    lower, upper = number(item.lower, decimals), number(item.upper, decimals)
    return number(item.improvement, decimals), f"{lower}, {upper}"


def _row(record: Floor, item: FloorAttempt, windows: str) -> FloorRow:
    shown, interval = _texts(item, record.protocol.margin)
    return FloorRow(item.name, item.direction, windows, shown, interval, OUTCOMES[item.outcome])


def _level(item: FloorLevel) -> tuple[str, str, str]:
    decimals = interval_decimals(item.ratio.lower, item.ratio.upper)
    kl = interval_decimals(item.kl.lower, item.kl.upper)
    return (
        item.arm,
        f"{number(item.ratio.estimate, decimals)} ({interval_text(item.ratio)})",
        f"{number(item.kl.estimate, kl)} ({interval_text(item.kl)})",
    )
