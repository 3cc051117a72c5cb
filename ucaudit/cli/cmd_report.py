"""``ucaudit report``: the evidence report of a bundle, for people or for programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from click.core import ParameterSource

from ucaudit.cli.common import Output, output_options
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_PASS

if TYPE_CHECKING:
    from ucaudit.evidence.bundle import OpenBundle
    from ucaudit.evidence.trust import Trust
    from ucaudit.report import Profile

Kind = Literal["pdf", "html"]
Document = Literal["oscal", "cyclonedx", "model-index"]
_KINDS: dict[str, Kind] = {".pdf": "pdf", ".html": "html", ".htm": "html"}
_DOCUMENTS: dict[str, Document] = {
    ".oscal.json": "oscal",
    ".cdx.json": "cyclonedx",
    ".model-index.yaml": "model-index",
    ".model-index.yml": "model-index",
}
"""The documents for programs, by the end of their names."""
_PAGE_OPTIONS = ("paper", "earlier", "ledger_dir")


@click.command()
@click.argument("bundle", type=PATH)
@click.option(
    "--profile", help="soc2, sr-11-7 (or mrm), fda, or a profile's file or folder (pdf, html and oscal need one)."
)
@click.option(
    "--out",
    "target",
    type=PATH,
    required=True,
    help="FILE.pdf, FILE.html, FILE.oscal.json, FILE.cdx.json or FILE.model-index.yaml.",
)
@click.option("--paper", type=click.Choice(["a4", "letter"]), default="a4", show_default=True)
@click.option("--trust", "trust_file", type=PATH, help="Name the signer from this trust file.")
@click.option(
    "--previous",
    "earlier",
    multiple=True,
    type=PATH,
    help="An earlier bundle to compare with, or a folder of bundles (repeatable).",
)
@click.option("--ledger", "ledger_dir", type=PATH, help="Print this ledger's population and history.")
@output_options
def report(
    bundle: Path,
    profile: str | None,
    target: Path,
    paper: str,
    trust_file: Path | None,
    earlier: tuple[Path, ...],
    ledger_dir: Path | None,
    out: Output,
) -> int:
    """Render the evidence report of BUNDLE from its signed record.

    The name of --out chooses the form: PDF or HTML for people; OSCAL assessment
    results, a CycloneDX ML-BOM or a Hugging Face model-index for programs.

    Refuses when a file that the record cites is not the one that was signed, or
    when a figure or verdict does not follow from the per-token files. With
    --trust it refuses whatever ucaudit verify refuses; without it the report
    says that no key was checked. A report made here is not part of
    the closed bundle: ucaudit verify knows only the reports inside it.
    """
    from ucaudit.cli.common import new_file
    from ucaudit.core.digest import sha256_hex
    from ucaudit.core.files import make_directory, require_writable_directory, write_bytes
    from ucaudit.evidence.archive import bundle_directory
    from ucaudit.evidence.bundle import open_bundle
    from ucaudit.evidence.signing import read_statement
    from ucaudit.evidence.trust import load_trust
    from ucaudit.report import load_profile, render_bundle
    from ucaudit.report.floors import render_floor
    from ucaudit.report.pdf import require_renderer
    from ucaudit.report.previous import previous_bundles

    document_kind = next((kind for end, kind in _DOCUMENTS.items() if target.name.lower().endswith(end)), None)
    kind = _page_kind(target) if document_kind is None else None
    _check_usage(document_kind, profile)
    new_file(target)
    require_writable_directory(target.parent)
    chosen = load_profile(profile) if profile is not None else None
    if kind is not None:
        require_renderer(kind)
    trust = load_trust(trust_file) if trust_file is not None else None
    with bundle_directory(bundle) as directory:
        opened = open_bundle(directory)
        if kind is None:
            assert document_kind is not None, "one of both"
            out.status(f"writing {document_kind}")
            data = _document(document_kind, opened, trust, chosen)
        elif opened.is_floor:
            assert profile is not None, "asked for above"
            if earlier or ledger_dir is not None:
                raise click.UsageError(
                    "--previous and --ledger are for the report of a pack; this bundle holds a floor"
                )
            out.status("rendering a floor")
            data = render_floor(opened, profile, paper=paper, trust=trust, kind=kind)
        else:
            assert profile is not None and chosen is not None, "asked for above"
            with previous_bundles(earlier, opened) as previous:
                out.status(f"rendering {chosen.title}")
                data = render_bundle(
                    opened, profile, paper=paper, trust=trust, kind=kind, previous=previous, ledger=ledger_dir
                )
    make_directory(target.parent)
    write_bytes(target, data)
    document = {
        "path": str(target),
        "format": kind or document_kind,
        "profile": chosen.slug if chosen is not None else None,
        "determination": getattr(read_statement(opened.attestation).predicate, "determination", None),
        "envelopeDigest": opened.attestation.digest,
        "keyChecked": trust is not None,
        "sha256": sha256_hex(data),
        "exitCode": EXIT_PASS,
    }
    out.result(document, str(target))
    return EXIT_PASS


def _document(kind: Document, bundle: OpenBundle, trust: Trust | None, profile: Profile | None) -> bytes:
    from ucaudit.core.errors import InputError
    from ucaudit.evidence.examine import examine_bundle
    from ucaudit.interop.cyclonedx import cyclonedx_json
    from ucaudit.interop.model_index import model_index_yaml
    from ucaudit.interop.oscal import oscal_json

    if bundle.is_floor:
        raise InputError(
            f"holds a floor, which has no form as {kind}",
            subject=str(bundle.path),
            hint="--out FILE.pdf or FILE.html",
        )
    found = examine_bundle(bundle, trust)
    if kind == "oscal":
        assert profile is not None, "asked for above"
        return oscal_json(found, profile)
    return cyclonedx_json(found) if kind == "cyclonedx" else model_index_yaml(found)


def _check_usage(document_kind: str | None, profile: str | None) -> None:
    """No option is ignored in silence. Raises UsageError."""
    if document_kind in ("cyclonedx", "model-index"):
        if profile is not None:
            raise click.UsageError(f"--profile is not for {document_kind}: it has no control mapping")
    elif profile is None:
        raise click.UsageError("missing option --profile: soc2, sr-11-7, fda, or a profile's file or folder")
    if document_kind is not None:
        context = click.get_current_context()
        for name in _PAGE_OPTIONS:
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                option = {"earlier": "--previous", "ledger_dir": "--ledger"}.get(name, f"--{name}")
                raise click.UsageError(f"{option} is for pdf and html, not for {document_kind}")


def _page_kind(target: Path) -> Kind:
    """Of a report for people, or nothing that is known. Raises UsageError."""
    if target.suffix.lower() not in _KINDS:
        ends = ", ".join([".pdf", ".html", *list(_DOCUMENTS)[:2]])
        raise click.UsageError(f"--out ends in {ends} or .model-index.yaml, found {target.name!r}")
    return report_kind(target, "--out")


def report_kind(target: Path, option: str) -> Kind:
    """What a file name asks for. Raises UsageError."""
    kind = _KINDS.get(target.suffix.lower())
    if kind is None:
        raise click.UsageError(f"{option} ends in .pdf or .html, found {target.name!r}")
    return kind
