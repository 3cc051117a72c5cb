"""The report's fonts: ours only, and a legible stand-in for what they cannot print."""

from __future__ import annotations

import base64
import io
import re
from functools import lru_cache
from typing import Final, Literal

from ucaudit.core.resources import resource_root

_FONTS: Final = (
    ("IBM Plex Sans", 400, "IBMPlexSans-Regular.woff2"),
    ("IBM Plex Sans", 600, "IBMPlexSans-SemiBold.woff2"),
    ("IBM Plex Mono", 400, "IBMPlexMono-Regular.woff2"),
)
# Controls and directional overrides: in a record they serve only to make a page say what it does not hold.
_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")


@lru_cache(maxsize=2)
def font_faces(form: Literal["woff2", "ttf"]) -> str:
    """The ``@font-face`` rules, with the fonts inside.

    Args:
        form: ``woff2`` for browsers; ``ttf`` for WeasyPrint, which would unpack every font again for every file.
    """
    rules = []
    for family, weight, name in _FONTS:
        data = (resource_root("templates") / "fonts" / name).read_bytes()
        kind, content = ("woff2", data) if form == "woff2" else ("truetype", _unpacked(data))
        rules.append(
            f'@font-face {{ font-family: "{family}"; font-weight: {weight}; font-style: normal; '
            f'src: url("data:font/{form};base64,{base64.b64encode(content).decode("ascii")}") format("{kind}"); }}'
        )
    return "\n".join(rules)


def _unpacked(woff2: bytes) -> bytes:
    from fontTools.ttLib import TTFont  # type: ignore[import-untyped, unused-ignore]

    font = TTFont(io.BytesIO(woff2), recalcTimestamp=False)
    font.flavor = None
    result = io.BytesIO()
    font.save(result)
    return result.getvalue()


@lru_cache(maxsize=1)
def _coverage() -> frozenset[int]:
    """The code points that every weight of the sans can print (the mono falls back on it)."""
    from fontTools.ttLib import TTFont

    root = resource_root("templates") / "fonts"
    maps = [set(TTFont(root / name).getBestCmap()) for family, _, name in _FONTS if family == "IBM Plex Sans"]
    return frozenset(set.intersection(*maps) | {0x09, 0x0A})


def only_covered(text: str) -> str:
    """Replace what the bundled fonts cannot print by its code point: no box, no font of the machine."""
    covered = _coverage()
    return "".join(
        character if ord(character) < 0x7F or ord(character) in covered else f"[U+{ord(character):04X}]"
        for character in without_controls(text)
    )


def without_controls(text: str) -> str:
    """Replace control characters and directional overrides by their code points."""
    return _UNPRINTABLE.sub(lambda match: f"[U+{ord(match[0]):04X}]", text)
