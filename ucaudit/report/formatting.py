"""Numbers, digests and names as people read them. Never more digits than the interval supports."""

from __future__ import annotations

import math
from typing import Final

from ucaudit.core.records import Interval

NOT_ASSESSED: Final = "not assessed"
MINUS: Final = "−"
_MAX_DECIMALS: Final = 12


def determination_words(determination: str) -> str:
    """``PASS WITH EXCEPTIONS``."""
    return determination.replace("-", " ").upper()


def grouped(digest: str, size: int = 8) -> str:
    """A hex digest in groups of ``size`` characters, whole."""
    return " ".join(digest[start : start + size] for start in range(0, len(digest), size))


def number(value: float, decimals: int) -> str:
    """A fixed-point number with thousands separators and a real minus sign; huge or non-finite ones too."""
    if not math.isfinite(value) or abs(value) >= 1e12:
        return f"{value:.3g}".replace("-", MINUS)
    text = f"{value:,.{decimals}f}"
    if text.startswith("-") and not any(digit in text for digit in "123456789"):
        text = text[1:]
    return text.replace("-", MINUS)


def significant(value: float, digits: int = 3) -> str:
    """A number to so many significant digits, fixed-point where that is readable."""
    if value == 0:
        return "0"
    if not math.isfinite(value) or not 1e-5 <= abs(value) < 1e9:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    return number(value, decimals_for(value, digits))


def exact(value: float) -> str:
    """A limit as it was declared: all its digits and no more."""
    return f"{value:.12g}".replace("-", MINUS)


def decimals_for(value: float, digits: int) -> int:
    """How many decimals show ``digits`` significant digits of ``value``."""
    if value == 0 or not math.isfinite(value):
        return 0
    return min(max(digits - 1 - math.floor(math.log10(abs(value))), 0), _MAX_DECIMALS)


def interval_decimals(lower: float, upper: float, limit: float | None = None) -> int:
    """Decimals that an interval supports: two significant digits of its half-width.

    Where rounding would put an end on the other side of ``limit``, or on it, digits are added until the printed
    numbers tell the same story as the real ones.
    """
    half = (upper - lower) / 2
    decimals = decimals_for(half, 2) if half > 0 else 4
    if limit is None:
        return decimals
    ends = [end for end in (lower, upper) if math.isfinite(end)]
    for more in range(decimals, min(decimals + 4, _MAX_DECIMALS) + 1):
        if all(_side(round(end, more), limit) == _side(end, limit) for end in ends):
            return more
    return decimals


def _side(value: float, limit: float) -> int:
    return (value > limit) - (value < limit)


def interval_text(interval: Interval, *, scale: float = 1.0, unit: str = "", limit: float | None = None) -> str:
    """``1.0041 to 1.0083``, in units of ``1/scale``."""
    decimals = interval_decimals(
        interval.lower * scale, interval.upper * scale, None if limit is None else limit * scale
    )
    lower, upper = (number(end * scale, decimals) for end in (interval.lower, interval.upper))
    return f"{lower} to {upper}{unit}"


def estimate_text(interval: Interval, *, scale: float = 1.0, unit: str = "", limit: float | None = None) -> str:
    """The estimate with as many digits as its interval has."""
    decimals = interval_decimals(
        interval.lower * scale, interval.upper * scale, None if limit is None else limit * scale
    )
    return f"{number(interval.estimate * scale, decimals)}{unit}"


def confidence_text(confidence: float) -> str:
    """``95%``, ``99.5%``."""
    return f"{confidence * 100:.6g}%"


def bytes_text(count: int) -> str:
    """``104,857,600 bytes (100.0 MiB)``."""
    value = float(count)
    for unit in ("", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{count:,} bytes" + (f" ({value:,.1f} {unit})" if unit else "")
        value /= 1024
    raise AssertionError("unreachable")


def shortened(text: str, limit: int) -> str:
    """``text`` on one line, cut with an ellipsis: for the cover and running heads, never the only place."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"
