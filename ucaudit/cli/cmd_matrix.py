"""``ucaudit matrix``: the public benchmark page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ucaudit.cli.common import Output, output_options, printable
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_FAIL, EXIT_PASS


@click.command()
@click.argument("evidence", type=PATH)
@click.option("--trust", "trust_file", type=PATH, required=True, help="Your trust file.")
@click.option("--ledger", "ledger_dir", type=PATH, help="The ledger: what is absent shows.")
@click.option("--packs", "packs_dir", type=PATH, help="Folder of packs, to compare their files.")
@click.option("--claimed", type=PATH, help="A registry of published figures, to show beside.")
@click.option("--claimed-corpus", metavar="SHA256", help="The text these were measured on, if you vouch for it.")
@click.option("--title", default="Benchmarks from signed evidence", show_default=True, help="Of the page.")
@click.option("--out", "directory", type=PATH, required=True, help="Directory to write into.")
@output_options
def matrix(
    evidence: Path,
    trust_file: Path,
    ledger_dir: Path | None,
    packs_dir: Path | None,
    claimed: Path | None,
    claimed_corpus: str | None,
    title: str,
    directory: Path,
    out: Output,
) -> int:
    """Make a public benchmark page from the bundles below EVIDENCE.

    Writes benchmarks.json, benchmarks.md and index.html, and replaces those of an
    earlier call. Every bundle is verified again; one that does not hold is a row
    that says so. With --ledger, so is every result and open plan that the ledger
    holds and nobody gave. Links and hidden names are passed over, with a warning.

    Exits 1 if evidence did not hold, else 0: a failed claim is a row like any other.
    """
    from ucaudit.core import strictjson
    from ucaudit.core.digest import is_hex_digest
    from ucaudit.core.files import make_directory, require_writable_directory, write_bytes, write_text
    from ucaudit.evidence.bundle import refuse_inside_bundle
    from ucaudit.interop.registry import read_registry
    from ucaudit.report.matrix.build import MatrixRequest, build_matrix
    from ucaudit.report.matrix.markdown import markdown, population_sentences
    from ucaudit.report.matrix.page import render_page

    if claimed_corpus is not None and not is_hex_digest(claimed_corpus):
        raise click.UsageError("--claimed-corpus is a SHA-256 in lower-case hex")
    if claimed_corpus is not None and claimed is None:
        raise click.UsageError("--claimed-corpus is for --claimed")
    refuse_inside_bundle(directory / "index.html")
    require_writable_directory(directory)
    figures = () if claimed is None else read_registry(claimed)
    request = MatrixRequest(
        evidence=evidence,
        trust=trust_file,
        ledger=ledger_dir,
        packs=packs_dir,
        claimed=figures,
        claimed_corpus=claimed_corpus,
    )
    passed: list[dict[str, str]] = []
    made = build_matrix(
        request,
        progress=out.progress,
        on_passed_over=lambda name, why: passed.append({"path": name, "why": why}),
    )
    make_directory(directory)
    document = made.model_dump(mode="json", by_alias=True)
    write_bytes(directory / "benchmarks.json", strictjson.dumps(document) + b"\n")
    write_text(directory / "benchmarks.md", markdown(made))
    write_text(directory / "index.html", render_page(made, title=title))
    counts: dict[str, int] = {}
    for row in made.rows:
        counts[row.status] = counts.get(row.status, 0) + 1
    refused = [row for row in made.rows if row.status == "not verified"]
    code = EXIT_FAIL if refused else EXIT_PASS
    if made.population is None:
        out.warn("no ledger was given: what is missing cannot be seen")
    elif made.population.absent:
        out.warn(" ".join(population_sentences(made)[:1]))
    for row in refused[:10]:
        out.warn(printable(f"{row.bundle}: not verified: {row.notes[0] if row.notes else ''}"))
    for item in passed[:10]:
        out.warn(printable(f"{item['path']}: passed over, and no row: {item['why']}"))
    if len(passed) > 10:
        out.warn(f"{len(passed) - 10} more were passed over: --json names them all")
    answer: dict[str, Any] = {
        "rows": len(made.rows),
        "byStatus": counts,
        "tables": len(made.tables),
        "population": None if made.population is None else made.population.model_dump(mode="json", by_alias=True),
        "claimedWithoutEvidence": len(made.claimed_without_evidence),
        "passedOver": passed,
        "out": str(directory),
        "exitCode": code,
    }
    listed = ", ".join(f"{count} {status}" for status, count in counts.items())
    out.result(answer, f"{len(made.rows)} rows in {len(made.tables)} tables: {listed}")
    return code
