"""From the view to one HTML file, and from that to a PDF."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

from ucaudit.core.errors import InputError
from ucaudit.core.records import parse_time
from ucaudit.core.resources import resource_root
from ucaudit.report import house
from ucaudit.report.fonts import font_faces, without_controls
from ucaudit.report.formatting import grouped, shortened
from ucaudit.report.frameworks import other_frameworks
from ucaudit.report.pdf import Attached, require_jinja, require_weasyprint, write_pdf
from ucaudit.report.profiles import ANCHORS
from ucaudit.report.svg import ACCENT, BAND, qr_svg
from ucaudit.report.view import ReportView

PAPERS: Final[dict[str, str]] = {"a4": "A4", "letter": "letter"}
ATTACHMENT: Final = "attestation.dsse.json"
SECTIONS: Final = dict(
    zip(
        ANCHORS,
        (
            "1 Determination",
            "2 Scope and limitations",
            "3 Identification",
            "4 Results against policy",
            "5 Charts",
            "6 Exceptions",
            "7 Change since the previous attestation",
            "8 Control mapping",
            "9 Sign-off",
            "Appendix A: checking offline",
            "Appendix B: digests",
            "Appendix C: the record",
            "Appendix D: glossary",
            "Appendix E: other frameworks",
        ),
        strict=True,
    )
)


@dataclass(frozen=True, slots=True)
class _Extra:
    """A rendered section of the profile's own."""

    anchor: str
    title: str
    html: Any


def render_html(view: ReportView, *, paper: str = "a4") -> str:
    """The report as one self-contained file: no script, no network, fonts inside.

    Raises:
        MissingExtraError: jinja2 or segno is not installed.
        InputError: there is no such paper; a section of the profile's own cannot be rendered.
    """
    require_jinja()
    return without_controls(_html(view, paper, "html"))


def render_pdf(
    view: ReportView, *, paper: str = "a4", attach: bytes | None = None, state: bytes | None = None
) -> bytes:
    """The report as PDF: PDF/A-3a with PDF/UA-1, or what the profile says.

    Args:
        view: what to print.
        paper: ``a4`` or ``letter``.
        attach: the envelope's bytes, attached with AFRelationship Source; only in profiles that attach it.
        state: the ``STATE`` text, attached as well, for states with more tensors than the appendix lists.

    Raises:
        MissingExtraError, UnavailableError: as :func:`require_weasyprint`.
        InputError: ``attach`` contradicts the profile, there is no such paper, or a section of the profile's own
            cannot be rendered.
    """
    require_weasyprint()
    if (attach is not None) != view.profile.attach_record or (state is not None and attach is None):
        wants = "carries" if view.profile.attach_record else "may not carry"
        raise InputError(f"a report of this profile {wants} the record", subject=view.profile.slug)
    attached = []
    if attach is not None:
        attached.append(Attached(ATTACHMENT, attach, "The signed record (DSSE envelope)", "Source"))
    if state is not None:
        attached.append(Attached("STATE", state, "The digest of every reconstructed tensor", "Data"))
    return write_pdf(
        _html(view, paper, "pdf"),
        variant=view.profile.pdf_variant,
        when=parse_time(view.created),
        identifier=bytes.fromhex(view.fingerprint)[:16],
        attached=attached,
    )


def page_size(paper: str) -> str:
    """The CSS page size of a paper. Raises InputError."""
    if paper not in PAPERS:
        raise InputError(f"paper is one of {', '.join(PAPERS)}", subject=paper)
    return PAPERS[paper]


def environment() -> Any:  # noqa: ANN401 - jinja2 is imported late
    """Our own templates: everything that is printed is escaped, and an unknown name is an error."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(resource_root("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    made.filters["grouped"] = grouped
    return made


def common_variables(paper: str, kind: Literal["pdf", "html"], look: house.Look) -> dict[str, Any]:
    """What every document needs: page, style and fonts. Raises InputError."""
    from markupsafe import Markup

    style = (resource_root("templates") / "report" / "report.css").read_text(encoding="utf-8")
    return {
        "paper": page_size(paper),
        "kind": kind,
        "stylesheet": Markup(style.replace(ACCENT, look.accent)),  # noqa: S704 - ours, and a checked colour
        # write_pdf brings the fonts in another form
        "font_faces": Markup(font_faces("woff2")) if kind == "html" else "",  # noqa: S704 - files of the package
    }


def accented(look: house.Look) -> Callable[[str], Any]:
    """The filter that puts our own drawings into a page, in the profile's colours."""
    from markupsafe import Markup

    band = look.tint if look.accent != ACCENT else BAND

    def filtered(svg: str) -> Any:  # noqa: ANN401 - markupsafe is imported late
        return Markup(svg.replace(ACCENT, look.accent).replace(BAND, band))  # noqa: S704 - charts escape

    return filtered


def _html(view: ReportView, paper: str, kind: Literal["pdf", "html"]) -> str:
    from markupsafe import Markup

    look = view.profile.look
    made = environment()
    made.filters["drawing"] = accented(look)
    extras = _extras(view)
    contents: list[tuple[str, str]] = []
    for anchor, name in SECTIONS.items():
        contents.append((anchor, name))
        contents += [(extra.anchor, extra.title) for extra in extras.get(anchor, ())]
    qr = qr_svg(view.fingerprint, title=f"QR code of the fingerprint {view.fingerprint}")
    text: str = made.get_template("report/base.html.j2").render(
        **common_variables(paper, kind, look),
        view=view,
        attached=kind == "pdf" and view.profile.attach_record,
        glossary=_glossary(),
        frameworks=other_frameworks(),
        extras=extras,
        qr=Markup(qr),  # noqa: S704 - drawn from hex digits
        running_title=shortened(view.profile.title, 52),
        section_names={anchor: _pointer(name) for anchor, name in SECTIONS.items()},
        contents=contents,
    )
    return text.lstrip()


def _extras(view: ReportView) -> dict[str, list[_Extra]]:
    """The profile's own sections, by the section that they follow."""
    from markupsafe import Markup

    result: dict[str, list[_Extra]] = {}
    variables = {"view": view, "record": view.record.model_dump(mode="json", by_alias=True)}
    for number, item in enumerate(view.profile.extra, start=1):
        html = house.render_template(item.template, view.profile.template(item), variables)
        extra = _Extra(f"extra-{number}", item.title, Markup(html))  # noqa: S704 - sandboxed, escaped and checked
        result.setdefault(item.after, []).append(extra)
    return result


@lru_cache(maxsize=1)
def _glossary() -> list[list[str]]:
    path = resource_root("templates") / "report" / "glossary.toml"
    terms: list[list[str]] = tomllib.loads(path.read_text(encoding="utf-8"))["terms"]
    return terms


def _pointer(heading: str) -> str:
    """``section 4`` or ``appendix A``."""
    return (
        f"section {heading.split(maxsplit=1)[0]}" if heading[0].isdigit() else f"a{heading.partition(':')[0][1:]}"
    )
