"""``ucaudit report``: the evidence report of a bundle, as PDF or HTML."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ucaudit.cli.common import Output, output_options
from ucaudit.core.errors import EXIT_PASS

if TYPE_CHECKING:
    from ucaudit.evidence.bundle import OpenBundle

_KINDS: dict[str, Literal["pdf", "html"]] = {".pdf": "pdf", ".html": "html", ".htm": "html"}


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--profile", required=True, help="soc2, sr-11-7 (or mrm), fda, or a profile's file or folder.")
@click.option("--out", "target", type=click.Path(path_type=Path), required=True, help="FILE.pdf or FILE.html.")
@click.option("--paper", type=click.Choice(["a4", "letter"]), default="a4", show_default=True)
@click.option(
    "--trust", "trust_file", type=click.Path(path_type=Path), help="Name the signer from this trust file."
)
@click.option(
    "--previous",
    "earlier",
    multiple=True,
    type=click.Path(path_type=Path),
    help="An earlier bundle to compare with, or a folder of bundles (repeatable).",
)
@click.option(
    "--ledger", "ledger_dir", type=click.Path(path_type=Path), help="Print this ledger's population and history."
)
@output_options
def report(
    bundle: Path,
    profile: str,
    target: Path,
    paper: str,
    trust_file: Path | None,
    earlier: tuple[Path, ...],
    ledger_dir: Path | None,
    out: Output,
) -> int:
    """Render the evidence report of BUNDLE from its signed record.

    Refuses when a file that the record cites is not the one that was signed, or
    when a figure or verdict does not follow from the per-token files. With
    --trust it refuses whatever ucaudit verify refuses; without it the report
    says that no key was checked. A report made here is not part of
    the closed bundle: ucaudit verify knows only the reports inside it.
    """
    from ucaudit.cli.common import new_file
    from ucaudit.core.files import require_writable_directory
    from ucaudit.evidence.archive import bundle_directory
    from ucaudit.evidence.bundle import open_bundle
    from ucaudit.evidence.trust import load_trust
    from ucaudit.report import load_profile, render_bundle
    from ucaudit.report.floors import is_floor, render_floor
    from ucaudit.report.pdf import require_jinja, require_weasyprint
    from ucaudit.report.previous import previous_bundles

    kind = report_kind(target, "--out")
    new_file(target)
    require_writable_directory(target.parent)
    chosen = load_profile(profile)
    if kind == "pdf":
        require_weasyprint()
    else:
        require_jinja()
    trust = load_trust(trust_file) if trust_file is not None else None
    with bundle_directory(bundle) as directory:
        opened = open_bundle(directory)
        if is_floor(opened):
            if earlier or ledger_dir is not None:
                raise click.UsageError(
                    "--previous and --ledger are for the report of a pack; this bundle holds a floor"
                )
            out.status("rendering a floor")
            data = render_floor(opened, profile, paper=paper, trust=trust, kind=kind)
            return _written(target, data, opened, chosen.slug, out, key_checked=trust is not None)
        with previous_bundles(earlier, opened) as previous:
            out.status(f"rendering {chosen.title}")
            data = render_bundle(
                opened, profile, paper=paper, trust=trust, kind=kind, previous=previous, ledger=ledger_dir
            )
    return _written(target, data, opened, chosen.slug, out, key_checked=trust is not None)


def _written(target: Path, data: bytes, opened: OpenBundle, profile: str, out: Output, *, key_checked: bool) -> int:
    from ucaudit.core.digest import sha256_hex
    from ucaudit.core.files import make_directory, write_bytes
    from ucaudit.evidence.signing import read_statement

    make_directory(target.parent)
    write_bytes(target, data)
    document = {
        "path": str(target),
        "profile": profile,
        "determination": getattr(read_statement(opened.attestation).predicate, "determination", None),
        "envelopeDigest": opened.attestation.digest,
        "keyChecked": key_checked,
        "sha256": sha256_hex(data),
        "exitCode": EXIT_PASS,
    }
    out.result(document, str(target))
    return EXIT_PASS


def report_kind(target: Path, option: str) -> Literal["pdf", "html"]:
    """What a file name asks for. Raises UsageError."""
    kind = _KINDS.get(target.suffix.lower())
    if kind is None:
        raise click.UsageError(f"{option} ends in .pdf or .html, found {target.name!r}")
    return kind
