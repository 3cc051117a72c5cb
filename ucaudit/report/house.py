"""What an institution adds to a profile of its own: a logo, an accent colour, sections.

All of it is data from a folder that somebody chose on the command line. Templates run in Jinja's sandbox with
autoescape; their result may hold no script, no style and nothing that is loaded from elsewhere, so that the HTML
report stays one inert file and the PDF stays archival.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from ucaudit.core.errors import InputError, NotFoundError, RefusedError
from ucaudit.core.files import read_limited
from ucaudit.report.svg import ACCENT

MAX_ASSET: Final = 1 << 20
MIN_CONTRAST: Final = 4.5
"""Of text against white: WCAG 2.2, success criterion 1.4.3, level AA."""
_COLOUR = Annotated[str, StringConstraints(pattern=r"^#[0-9a-fA-F]{6}$")]
_FILE = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
_TAGS: Final = frozenset(
    (
        *(
            "a",
            "abbr",
            "b",
            "blockquote",
            "br",
            "caption",
            "code",
            "col",
            "colgroup",
            "dd",
            "dfn",
            "div",
            "dl",
            "dt",
        ),
        *("em", "figcaption", "figure", "h3", "h4", "hr", "i", "img", "li", "ol", "p", "pre", "q", "s", "small"),
        *("span", "strong", "sub", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "u", "ul", "var"),
    )
)
_ATTRIBUTES: Final = frozenset(
    ("alt", "class", "colspan", "height", "href", "id", "lang", "rowspan", "scope", "src", "title", "width")
)


class Look(BaseModel):
    """Colours and logo. The logo is an SVG (text as paths) or a PNG, and needs a text alternative."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accent: _COLOUR = ACCENT
    logo: _FILE | None = None
    logo_alt: Annotated[str, Field(min_length=1, max_length=200)] | None = None

    @field_validator("accent")
    @classmethod
    def _legible(cls, value: str) -> str:
        ratio = contrast_with_white(value)
        if ratio < MIN_CONTRAST:
            raise ValueError(f"{value} has a contrast of {ratio:.2f} against white, below {MIN_CONTRAST}")
        return value.lower()

    @model_validator(mode="after")
    def _described(self) -> Look:
        if (self.logo is None) != (self.logo_alt is None):
            raise ValueError("logo and logo_alt come together")
        return self

    @property
    def tint(self) -> str:
        """The accent at 14% on white, for bands in charts."""
        parts = (int(self.accent[at : at + 2], 16) for at in (1, 3, 5))
        return "#" + "".join(f"{round(255 - 0.14 * (255 - part)):02x}" for part in parts)


def contrast_with_white(colour: str) -> float:
    """The contrast ratio of ``#rrggbb`` with white, 1 to 21 (WCAG 2.2, relative luminance)."""

    def linear(part: str) -> float:
        value = int(part, 16) / 255
        return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(colour[at : at + 2]) for at in (1, 3, 5))
    return 1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)


def read_logo(folder: Path, name: str) -> str:
    """The logo as a ``data:`` address.

    Raises:
        NotFoundError: it is not in the folder.
        InputError: too large, neither PNG nor SVG, or an SVG with text (which would need a font of the machine),
            script, or anything loaded from elsewhere.
    """
    path = folder / name
    if not path.is_file():
        raise NotFoundError("the profile names this logo, and the folder lacks it", subject=str(path))
    data = read_limited(path, MAX_ASSET)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "data:image/png;base64," + base64.b64encode(data).decode("ascii")
    text = data.decode("utf-8", "replace")
    if "<svg" not in text[:4096]:
        raise InputError("a logo is a png or an svg", subject=str(path))
    for pattern, what in _UNWANTED:
        if re.search(pattern, text, re.IGNORECASE):
            raise InputError(f"the logo holds {what}", subject=str(path), hint="save it as plain paths")
    return "data:image/svg+xml;base64," + base64.b64encode(data).decode("ascii")


_UNWANTED: Final = (
    (r"<\s*(?:\w+:)?(?:text|tspan)\b", "text, which would be drawn in a font of the machine"),
    (r"<\s*(?:\w+:)?script\b|\son\w+\s*=", "script"),
    (r"<!ENTITY|<!DOCTYPE[^>]*\[", "entities"),
    (r"(?:href|src)\s*=\s*[\"']\s*(?!#|data:)|url\(\s*[\"']?\s*(?!#|data:)", "a link to something outside it"),
)


def read_template(folder: Path, name: str) -> str:
    """The text of an extra section's template. Raises NotFoundError, InputError."""
    path = folder / name
    if not path.is_file():
        raise NotFoundError("the profile names this template, and the folder lacks it", subject=str(path))
    try:
        return read_limited(path, MAX_ASSET).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError("not utf-8", subject=str(path)) from error


def render_template(name: str, text: str, variables: Mapping[str, Any]) -> str:
    """One extra section as HTML.

    Raises:
        InputError: the template has an error, uses a name that is not there, or its result holds more than text,
            tables, lists, links and pictures inside the file.
        RefusedError: it reaches for something that the sandbox keeps from it.
    """
    import jinja2
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    try:
        result = environment.from_string(text).render(variables)
    except SecurityError as error:
        raise RefusedError(f"a template may not do this: {error}", subject=name) from error
    except jinja2.TemplateSyntaxError as error:
        raise InputError(
            f"line {error.lineno}: {error.message}", subject=name, hint="see docs/report.md"
        ) from error
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise InputError(f"the template cannot be rendered: {error}", subject=name) from error
    reader = _Markup(name)
    reader.feed(result)
    reader.close()
    return result


class _Markup(HTMLParser):
    """Refuses what an evidence report may not hold."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _TAGS:
            raise InputError(f"<{tag}> is not allowed in a section", subject=self.name, hint="see docs/report.md")
        for key, value in attrs:
            target = (value or "").strip()
            inside = target.startswith("#") or (tag == "img" and target.startswith("data:image/"))
            if key not in _ATTRIBUTES or (key in ("href", "src") and not inside):
                raise InputError(
                    f"<{tag} {key}={target[:60]!r}> is not allowed in a section",
                    subject=self.name,
                    hint="links stay inside the report, pictures are data: addresses",
                )
        if tag == "img" and not any(key == "alt" and value for key, value in attrs):
            raise InputError("a picture without a text alternative (alt)", subject=self.name)

    def handle_decl(self, decl: str) -> None:
        raise InputError("declarations are not allowed in a section", subject=self.name)
