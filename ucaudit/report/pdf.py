"""One HTML text to one archival, accessible PDF.

PDF/A-3a and PDF/UA-1 in one file: WeasyPrint writes the first; the second needs its identifier in the metadata
and, because PDF/A allows only announced schemas there, the announcement (ISO 19005-3, 6.6.2.3; ISO 14289-1, 5).
Every byte depends on the text and on library versions only: times come from the record, fonts from the package.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from ucaudit.core.errors import UnavailableError, missing_extra
from ucaudit.report.fonts import font_faces, only_covered

APT_LINE: Final = "apt-get install libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0"
Variant = Literal["pdf/a-2a", "pdf/a-3a"]
Kind = Literal["pdf", "html"]
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


@dataclass(frozen=True, slots=True)
class Attached:
    """A file inside the PDF. ``relationship`` is the AFRelationship of ISO 19005-3: Source, Data, Supplement."""

    name: str
    content: bytes
    description: str
    relationship: Literal["Source", "Data", "Supplement"]


def require_jinja() -> None:
    """Fail early if an HTML report cannot be rendered here. Raises MissingExtraError."""
    for module in ("jinja2", "segno"):
        try:
            __import__(module)
        except ImportError as error:
            raise missing_extra("report", module) from error


def require_weasyprint() -> None:
    """Fail early if a PDF report cannot be made here.

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


def require_renderer(kind: Kind) -> None:
    """Fail early if a report of this kind cannot be made here. Raises as :func:`require_weasyprint`."""
    if kind == "pdf":
        require_weasyprint()
    else:
        require_jinja()


def write_pdf(
    html: str, *, variant: Variant, when: datetime, identifier: bytes, attached: Sequence[Attached]
) -> bytes:
    """Lay out and write one file.

    Args:
        html: self-contained, without ``@font-face`` rules; characters that the bundled fonts lack are replaced.
        variant: PDF/A part and level; PDF/UA-1 comes with both.
        when: the only time in the file.
        identifier: 16 bytes, the file identifier.
        attached: files to embed; PDF/A-2 allows none.

    Raises:
        MissingExtraError, UnavailableError: as :func:`require_weasyprint`.
    """
    require_weasyprint()
    import weasyprint
    from weasyprint.text.fonts import FontConfiguration

    options: dict[str, Any] = {"pdf_variant": variant, "pdf_tags": True, "pdf_identifier": identifier}
    if attached:
        options["attachments"] = [
            weasyprint.Attachment(
                string=item.content,
                name=item.name,
                description=item.description,
                relationship=item.relationship,
                created=when,
                modified=when,
            )
            for item in attached
        ]
    fetcher = weasyprint.urls.URLFetcher(allowed_protocols={"data"})
    fonts = FontConfiguration()
    with _source_date(int(when.timestamp())):
        faces = weasyprint.CSS(string=font_faces("ttf"), font_config=fonts, url_fetcher=fetcher)
        document = weasyprint.HTML(string=only_covered(html), url_fetcher=fetcher).render(
            font_config=fonts, stylesheets=[faces], **options
        )
        plain = document.metadata.generate_rdf_metadata

        def with_pdfua(*arguments: Any) -> bytes:  # noqa: ANN401 - passed through
            return bytes(plain(*arguments)).replace(b"</rdf:RDF>", _PDFUA + b"</rdf:RDF>")

        document.metadata.generate_rdf_metadata = with_pdfua
        return bytes(document.write_pdf(**options))


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
