"""A small SVG pen: shapes as strings, the same bytes for the same input, text in the report's own font.

Units are about a typographic point: a drawing is :data:`WIDTH` wide and is scaled to the text column. Colours are
one accent and greys, and no meaning hangs on colour alone. A drawing's text alternative is its ``<title>``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from ucaudit.report.formatting import MINUS

WIDTH: Final = 480.0
ACCENT: Final = "#1f4e79"
INK: Final = "#1a1a1a"
MUTED: Final = "#595959"
RULE: Final = "#bdbdbd"
BAND: Final = "#dfe6ee"
FONT: Final = "'IBM Plex Sans'"


def _n(value: float) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


class Drawing:
    """Collects shapes; :meth:`to_svg` closes it."""

    def __init__(self, height: float, alternative: str) -> None:
        self.height = height
        self.alternative = alternative
        self._parts: list[str] = []

    def line(
        self, x1: float, y1: float, x2: float, y2: float, *, colour: str = INK, width: float = 0.8, dash: str = ""
    ) -> None:
        """A straight line; ``dash`` like ``3 2``."""
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(
            f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" stroke="{colour}" '
            f'stroke-width="{_n(width)}"{dashed}/>'
        )

    def rect(self, x: float, y: float, width: float, height: float, *, fill: str) -> None:
        """A filled rectangle without an outline."""
        self._parts.append(
            f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(max(width, 0))}" '
            f'height="{_n(max(height, 0))}" fill="{fill}"/>'
        )

    def dot(self, x: float, y: float, radius: float, *, fill: str = ACCENT) -> None:
        """A filled circle with a white rim, so that overlapping dots can be told apart."""
        self._parts.append(
            f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}" fill="{fill}" '
            f'stroke="#ffffff" stroke-width="0.4"/>'
        )

    def text(
        self, x: float, y: float, words: str, *, anchor: str = "start", size: float = 8, bold: bool = False,
        colour: str = INK,
    ) -> None:  # fmt: skip
        """One line of text; ``anchor`` is start, middle or end."""
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text x="{_n(x)}" y="{_n(y)}" font-family="{FONT}" font-size="{_n(size)}" '
            f'text-anchor="{anchor}" fill="{colour}"{weight}>{escape(words)}</text>'
        )

    def to_svg(self) -> str:
        """The whole drawing."""
        title = escape(self.alternative)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{title}" '
            f'viewBox="0 0 {_n(WIDTH)} {_n(self.height)}" width="{_n(WIDTH)}" height="{_n(self.height)}">'
            f"<title>{title}</title>{''.join(self._parts)}</svg>"
        )


class Scale:
    """A linear map from data to the drawing, with round tick values."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        if not high > low:
            low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        """Where ``value`` lies; values outside go to the nearest end."""
        clipped = min(max(value, self.low), self.high)
        return self.start + (clipped - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round values inside the scale, ``about`` so many."""
        raw = (self.high - self.low) / about
        magnitude = 10.0 ** math.floor(math.log10(raw))
        step = next(m for m in (1, 2, 5, 10) if raw <= m * magnitude * (1 + 1e-9)) * magnitude
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(index * step, 14) for index in range(first, last + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """The ticks with just the decimals that tell them apart."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else (abs(ticks[0]) if ticks else 1.0) or 1.0
    decimals = min(max(-math.floor(math.log10(step) + 1e-9), 0), 9)
    return [f"{tick:,.{decimals}f}".replace("-", MINUS) for tick in ticks]


def padded(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    """The range of finite values with some air on both sides."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    air = (high - low) * share or (abs(high) * share or 1.0)
    return low - air, high + air


def qr_svg(text: str, *, title: str) -> str:
    """``text`` as a QR code (error correction M), one path, drawn from segno's matrix."""
    import segno

    matrix = segno.make(text, error="m", micro=False, boost_error=False).matrix
    size = len(matrix) + 8
    path = []
    for y, row in enumerate(matrix):
        x = 0
        while x < len(row):
            length = 0
            while x + length < len(row) and row[x + length]:
                length += 1
            if length:
                path.append(f"M{x + 4} {y + 4}h{length}v1h-{length}z")
            x += length or 1
    label = escape(title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{label}" viewBox="0 0 {size} {size}" '
        f'width="{size}" height="{size}"><title>{label}</title>'
        f'<rect width="{size}" height="{size}" fill="#ffffff"/><path d="{"".join(path)}" fill="#000000"/></svg>'
    )
