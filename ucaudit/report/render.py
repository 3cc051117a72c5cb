"""From the view to one HTML file, and from that to an archival, accessible PDF.

PDF/A-3a and PDF/UA-1 in one file: WeasyPrint writes the first; the second needs its identifier in the metadata
and, because PDF/A allows only announced schemas there, the announcement (ISO 19005-3, 6.6.2.3; ISO 14289-1, 5).
Every byte depends on the record and on library versions only: times come from the record, fonts from the package.
"""

from __future__ import annotations

import base64
import os
import re
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final, Literal

from ucaudit.core.errors import InputError, UnavailableError, missing_extra
from ucaudit.core.records import parse_time
from ucaudit.core.resources import resource_root
from ucaudit.report.formatting import grouped, shortened
from ucaudit.report.profiles import ANCHORS
from ucaudit.report.svg import qr_svg
from ucaudit.report.view import ReportView

PAPERS: Final[dict[str, str]] = {"a4": "A4", "letter": "letter"}
ATTACHMENT: Final = "attestation.dsse.json"
APT_LINE: Final = "apt-get install libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0"
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
        ),
        strict=True,
    )
)
_FONTS: Final = (
    ("IBM Plex Sans", 400, "IBMPlexSans-Regular.woff2"),
    ("IBM Plex Sans", 600, "IBMPlexSans-SemiBold.woff2"),
    ("IBM Plex Mono", 400, "IBMPlexMono-Regular.woff2"),
)
# Controls and directional overrides: in a record they serve only to make a page say what it does not hold.
_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")
_PDFUA: Final = b"""\
<rdf:Description rdf:about="" xmlns:pdfuaid="http://www.aiim.org/pdfua/ns/id/">\
<pdfuaid:part>1</pdfuaid:part></rdf:Description>\
<rdf:Description rdf:about="" xmlns:pdfaExtension="http://www.aiim.org/pdfa/ns/extension/" \
xmlns:pdfaSchema="http://www.aiim.org/pdfa/ns/schema#" \
xmlns:pdfaProperty="http://www.aiim.org/pdfa/ns/property#">\
<pdfaExtension:schemas><rdf:Bag><rdf:li rdf:parseType="Resource">\
<pdfaSchema:schema>PDF/UA identification</pdfaSchema:schema>\
<pdfaSchema:namespaceURI>http://www.aiim.org/pdfua/ns/id/</pdfaSchema:namespaceURI>\
<pdfaSchema:prefix>pdfuaid</pdfaSchema:prefix>\
<pdfaSchema:property><rdf:Seq><rdf:li rdf:parseType="Resource">\
<pdfaProperty:name>part</pdfaProperty:name><pdfaProperty:valueType>Integer</pdfaProperty:valueType>\
<pdfaProperty:category>internal</pdfaProperty:category>\
<pdfaProperty:description>Part of ISO 14289 that the file follows</pdfaProperty:description>\
</rdf:li></rdf:Seq></pdfaSchema:property></rdf:li></rdf:Bag></pdfaExtension:schemas></rdf:Description>"""
_EPOCH_LOCK: Final = threading.Lock()


def require_jinja() -> None:
    """Fail early if an HTML report cannot be rendered here. Raises MissingExtraError."""
    for module in ("jinja2", "segno"):
        try:
            __import__(module)
        except ImportError as error:
            raise missing_extra("report", module) from error


def require_weasyprint() -> None:
    """Fail early if a PDF cannot be rendered here.

    Raises:
        MissingExtraError: the report extra is not installed.
        UnavailableError: WeasyPrint is, but the system libraries it draws with are not.
    """
    require_jinja()
    try:
        import weasyprint  # noqa: F401
    except ImportError as error:
        raise missing_extra("report", "weasyprint") from error
    except OSError as error:
        raise UnavailableError(
            "weasyprint cannot load pango, which draws the pdf",
            hint=f"{APT_LINE}; or choose an output that ends in .html",
        ) from error


def render_html(view: ReportView, *, paper: str = "a4") -> str:
    """The report as one self-contained file: no script, no network, fonts inside.

    Raises:
        MissingExtraError: jinja2 or segno is not installed.
        InputError: there is no such paper.
    """
    require_jinja()
    return _UNPRINTABLE.sub(_code_point, _html(view, paper, "html"))


def render_pdf(view: ReportView, *, paper: str = "a4", attach: bytes | None = None) -> bytes:
    """The report as PDF: PDF/A-3a with PDF/UA-1, or what the profile says.

    Args:
        view: what to print.
        paper: ``a4`` or ``letter``.
        attach: the envelope's bytes, attached with AFRelationship Source; only in profiles that attach it.

    Raises:
        MissingExtraError, UnavailableError: as :func:`require_weasyprint`.
        InputError: ``attach`` contradicts the profile, or there is no such paper.
    """
    require_weasyprint()
    import weasyprint
    from weasyprint.text.fonts import FontConfiguration

    if (attach is not None) != view.profile.attach_record:
        wants = "carries" if view.profile.attach_record else "may not carry"
        raise InputError(f"a report of this profile {wants} the record", subject=view.profile.slug)
    when = parse_time(view.created)
    options: dict[str, Any] = {
        "pdf_variant": view.profile.pdf_variant,
        "pdf_tags": True,
        "pdf_identifier": bytes.fromhex(view.fingerprint)[:16],
    }
    if attach is not None:
        options["attachments"] = [
            weasyprint.Attachment(
                string=attach,
                name=ATTACHMENT,
                description="The signed record (DSSE envelope)",
                relationship="Source",
                created=when,
                modified=when,
            )
        ]
    html = _only_covered(_html(view, paper, "pdf"))
    fetcher = weasyprint.urls.URLFetcher(allowed_protocols={"data"})
    with _source_date(int(when.timestamp())):
        document = weasyprint.HTML(string=html, url_fetcher=fetcher).render(
            font_config=FontConfiguration(), **options
        )
        plain = document.metadata.generate_rdf_metadata

        def with_pdfua(*arguments: Any) -> bytes:  # noqa: ANN401 - passed through
            return bytes(plain(*arguments)).replace(b"</rdf:RDF>", _PDFUA + b"</rdf:RDF>")

        document.metadata.generate_rdf_metadata = with_pdfua
        return bytes(document.write_pdf(**options))


def _html(view: ReportView, paper: str, kind: Literal["pdf", "html"]) -> str:
    import jinja2
    from markupsafe import Markup

    if paper not in PAPERS:
        raise InputError(f"paper is one of {', '.join(PAPERS)}", subject=paper)
    root = resource_root("templates")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(root), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["grouped"] = grouped
    environment.filters["drawing"] = Markup
    stylesheet = (root / "report" / "report.css").read_text(encoding="utf-8")
    glossary = tomllib.loads((root / "report" / "glossary.toml").read_text(encoding="utf-8"))["terms"]
    qr = qr_svg(view.fingerprint, title=f"QR code of the fingerprint {view.fingerprint}")
    text = environment.get_template("report/base.html.j2").render(
        view=view,
        paper=PAPERS[paper],
        kind=kind,
        attached=kind == "pdf" and view.profile.attach_record,
        stylesheet=Markup(stylesheet),  # noqa: S704 - a file of the package
        font_faces=Markup(_font_faces()),  # noqa: S704 - a file of the package
        glossary=glossary,
        qr=Markup(qr),  # noqa: S704 - drawn from hex digits
        running_title=shortened(view.profile.title, 52),
        section_names={anchor: _pointer(name) for anchor, name in SECTIONS.items()},
        contents=list(SECTIONS.items()),
    )
    return text.lstrip()


def _pointer(heading: str) -> str:
    """``section 4`` or ``appendix A``."""
    return (
        f"section {heading.split(maxsplit=1)[0]}" if heading[0].isdigit() else f"a{heading.partition(':')[0][1:]}"
    )


@lru_cache(maxsize=1)
def _font_faces() -> str:
    root = resource_root("templates") / "fonts"
    rules = []
    for family, weight, name in _FONTS:
        data = base64.b64encode((root / name).read_bytes()).decode("ascii")
        rules.append(
            f'@font-face {{ font-family: "{family}"; font-weight: {weight}; font-style: normal; '
            f'src: url("data:font/woff2;base64,{data}") format("woff2"); }}'
        )
    return "\n".join(rules)


@lru_cache(maxsize=1)
def _coverage() -> frozenset[int]:
    """The code points that every weight of the sans can print (the mono falls back on it)."""
    from fontTools.ttLib import TTFont  # type: ignore[import-untyped, unused-ignore]

    root = resource_root("templates") / "fonts"
    maps = [set(TTFont(root / name).getBestCmap()) for family, _, name in _FONTS if family == "IBM Plex Sans"]
    return frozenset(set.intersection(*maps) | {0x09, 0x0A})


def _only_covered(html: str) -> str:
    """Replace what the bundled fonts cannot print by its code point: no box, no font of the machine."""
    covered = _coverage()
    html = _UNPRINTABLE.sub(_code_point, html)
    return "".join(
        character if ord(character) < 0x7F or ord(character) in covered else f"[U+{ord(character):04X}]"
        for character in html
    )


def _code_point(match: re.Match[str]) -> str:
    return f"[U+{ord(match[0]):04X}]"


@contextmanager
def _source_date(seconds: int) -> Iterator[None]:
    """SOURCE_DATE_EPOCH for the libraries below, which stamp embedded fonts with the time."""
    with _EPOCH_LOCK:
        before = os.environ.get("SOURCE_DATE_EPOCH")
        os.environ["SOURCE_DATE_EPOCH"] = str(seconds)
        try:
            yield
        finally:
            if before is None:
                del os.environ["SOURCE_DATE_EPOCH"]
            else:
                os.environ["SOURCE_DATE_EPOCH"] = before
