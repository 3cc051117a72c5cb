"""``ucaudit ledger export``: the population of a period, as a list and as a report."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ucaudit.cli.cmd_ledger_witness import ledger_option, ledger_vkeys, witness_keys, witness_options
from ucaudit.cli.cmd_report import report_kind
from ucaudit.cli.common import Output, new_file, output_options
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_PASS

if TYPE_CHECKING:
    from ucaudit.evidence.ledger import Export

_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_TIME: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z", re.ASCII)


@click.command()
@ledger_option
@click.option("--from", "start", help="First day or UTC time, like 2026-01-01 or 2026-01-01T09:00:00Z.")
@click.option("--to", "end", help="Last day or UTC time, inclusive.")
@click.option("--format", "form", type=click.Choice(["csv", "json"]), default="csv", show_default=True)
@click.option("--out", "target", type=PATH, help="Write the list here.")
@click.option("--report", "report", type=PATH, help="Write a report: FILE.pdf or FILE.html.")
@click.option("--paper", type=click.Choice(["a4", "letter"]), default="a4", show_default=True)
@click.option("--evidence", type=PATH, help="Bundles from which the report takes names and exceptions.")
@witness_options
@output_options
def export(
    directory: Path,
    start: str | None,
    end: str | None,
    form: str,
    target: Path | None,
    report: Path | None,
    paper: str,
    evidence: Path | None,
    witnesses: tuple[str, ...],
    trust_file: Path | None,
    out: Output,
) -> int:
    """List every entry of a period: good, bad, open and abandoned.

    The ledger is checked first. Plans from before the period that were still
    open when it began are listed too. The completeness statement is part of the
    JSON form; beside a CSV file it is written as FILE.completeness.json.

    --report renders the population for an auditor, with the list attached.
    """
    from ucaudit.core.files import write_text
    from ucaudit.core.strictjson import dumps
    from ucaudit.evidence.ledger import Ledger, export_period, to_csv

    if evidence is not None and report is None:
        raise click.UsageError("--evidence is for --report")
    if report is not None:
        _preflight(report)
    if target is not None:
        new_file(target)
    first = _moment(start, "T00:00:00Z", "--from")
    last = _moment(end, "T23:59:59Z", "--to")
    if first is not None and last is not None and first > last:
        raise click.UsageError("--from is later than --to")
    keys = witness_keys(witnesses, trust_file)
    opened = Ledger.open(directory)
    vkey = next((text for text in ledger_vkeys(None, trust_file) if text.startswith(f"{opened.origin}+")), None)
    entries: list[bytes] = []
    summary = opened.verify(sink=entries.extend, witnesses=keys, vkey=vkey)
    made = export_period(opened, summary, entries, first, last)
    document = made.to_document()
    text = to_csv(made.rows, made.origin) if form == "csv" else dumps(document).decode("utf-8") + "\n"
    complete = made.completeness
    plans = complete["plans"]
    out.status(
        f"{len(made.rows)} of {summary.size} entries; plans: {plans['open']} open, {plans['closed']} closed, "
        f"{plans['abandoned']} abandoned; unreadable: {complete['unreadable']}"
    )
    out.status(f"complete: {complete['statement']}")
    if target is not None:
        write_text(target, text)
        if form == "csv":
            write_text(Path(f"{target}.completeness.json"), dumps(complete).decode("utf-8") + "\n")
        document["path"] = str(target)
    if report is not None:
        _write(report, made, paper, evidence, key_checked=summary.pinned)
        document["report"] = str(report)
    written = [str(path) for path in (target, report) if path is not None]
    out.result(document, "\n".join(written) if written else text.removesuffix("\n"))
    return EXIT_PASS


def _preflight(report: Path) -> None:
    from ucaudit.core.files import require_writable_directory
    from ucaudit.report.pdf import require_renderer

    kind = report_kind(report, "--report")
    new_file(report)
    require_writable_directory(report.parent)
    require_renderer(kind)


def _write(report: Path, made: Export, paper: str, evidence: Path | None, *, key_checked: bool) -> None:
    from ucaudit.core.files import make_directory, write_bytes
    from ucaudit.core.records import now
    from ucaudit.report.period import period_view, render_period

    view = period_view(made, drawn=now(), evidence=evidence, key_checked=key_checked)
    make_directory(report.parent)
    write_bytes(report, render_period(view, paper=paper, kind=report_kind(report, "--report")))


def _moment(text: str | None, rest_of_day: str, option: str) -> str | None:
    """A day or time from the command line as a record's time."""
    from ucaudit.core.records import parse_time

    if text is None:
        return None
    whole = text + rest_of_day if _DATE.fullmatch(text) else text
    try:
        if not _TIME.fullmatch(whole):
            raise ValueError
        parse_time(whole)
    except ValueError as error:
        raise click.BadParameter(
            "not a day like 2026-01-31 or a time like 2026-01-31T09:00:00Z", param_hint=option
        ) from error
    return whole
