"""The period report: the whole population of a ledger's period, for a sample that somebody draws from it.

Every entry is a row, good or bad. What an entry alone does not say (the pack's name, who excused what) comes from
bundles, where they are given: a bundle counts only if its envelope is the very file that the ledger names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ucaudit.core import strictjson
from ucaudit.core.digest import sha256_hex
from ucaudit.core.errors import NotFoundError
from ucaudit.core.records import Attestation, parse_time
from ucaudit.evidence.bundle import holds_bundle, open_bundle
from ucaudit.evidence.ledger import Export, to_csv
from ucaudit.evidence.ledger.population import PopulationRow
from ucaudit.report.facts import Fact
from ucaudit.report.fonts import without_controls
from ucaudit.report.formatting import NOT_ASSESSED, determination_words, grouped, shortened
from ucaudit.report.history import PLANS, population_counts
from ucaudit.report.house import Look
from ucaudit.report.pdf import Attached, Kind, require_renderer, write_pdf
from ucaudit.report.render import common_variables, environment
from ucaudit.report.view import ExceptionRow, exception_rows

TITLE: Final = "Evidence ledger: population of a period"
CLASSIFICATION: Final = "Confidential"
MAX_ROWS: Final = 2000
"""Entries that are printed; a longer list is whole in the attached CSV."""
POPULATION_JSON: Final = "population.json"
POPULATION_CSV: Final = "population.csv"


@dataclass(frozen=True, slots=True)
class EntryRow:
    """One ledger entry as a row."""

    index: int
    recorded: str
    kind: str
    outcome: str
    pack: str
    pack_digest: str
    envelope: str
    notes: str


@dataclass(frozen=True, slots=True)
class PeriodView:
    """One period report, ready to print."""

    origin: str
    span: str
    drawn: str
    statement: str
    counts: tuple[tuple[str, int], ...]
    source: tuple[Fact, ...]
    adverse: tuple[EntryRow, ...]
    excuses: tuple[tuple[int, ExceptionRow], ...]
    unexplained: int
    plans: tuple[EntryRow, ...]
    rows: tuple[EntryRow, ...]
    total: int
    fingerprint: str
    ends: tuple[Fact, ...]
    key_checked: bool
    key_note: str
    json: bytes
    csv: bytes

    @property
    def fingerprint_groups(self) -> str:
        """The fingerprint as pages print it."""
        return grouped(self.fingerprint)


def period_view(made: Export, *, drawn: str, evidence: Path | None = None, key_checked: bool = False) -> PeriodView:
    """Collect what a period report prints.

    Args:
        made: the checked ledger's export.
        drawn: when the list was drawn, RFC 3339 UTC.
        evidence: a folder of bundles (not deeper) of the period's records.
        key_checked: whether the ledger's key is one of the trust file's.

    Raises:
        NotFoundError: ``evidence`` is no folder.
        InputError: a bundle in it cannot be read.
    """
    records = _records(evidence) if evidence is not None else {}
    complete = made.completeness
    rows = tuple(_row(row, records) for row in made.rows)
    kept = [(row, shown) for row, shown in zip(made.rows, rows, strict=True) if row.entry is not None]
    results = [(row, shown) for row, shown in kept if row.entry and row.entry.kind in ("attestation", "floor")]
    excused = [shown for row, shown in results if row.entry and row.entry.determination == "pass-with-exceptions"]
    document = strictjson.dumps(made.to_document())
    excuses = tuple(item for row, _ in results for item in _excuses(row, records))
    explained = {index for index, _ in excuses}
    return PeriodView(
        origin=made.origin,
        span=f"{complete['from'] or 'the first entry'} to {complete['to'] or 'the last entry'}",
        drawn=drawn,
        statement=str(complete["statement"]),
        counts=population_counts(made.rows),
        source=_source(made, drawn, key_checked=key_checked),
        adverse=tuple(
            shown
            for row, shown in results
            if row.entry and row.entry.determination in ("fail", "inconclusive") and not row.carried_over
        ),
        excuses=excuses,
        unexplained=sum(shown.index not in explained for shown in excused),
        plans=tuple(
            shown
            for row, shown in kept
            if row.entry and row.entry.kind in PLANS and row.status in ("open", "abandoned")
        ),
        rows=rows[:MAX_ROWS],
        total=len(rows),
        fingerprint=sha256_hex(document),
        ends=_ends(complete),
        key_checked=key_checked,
        key_note="ledger's key checked" if key_checked else "ledger's key not checked",
        json=document,
        csv=to_csv(made.rows, made.origin).encode("utf-8"),
    )


def render_period(view: PeriodView, *, paper: str = "a4", kind: Kind = "pdf") -> bytes:
    """The period report as a file: PDF/A-3a with PDF/UA-1 and the list attached as JSON and CSV, or one HTML file.

    Raises:
        MissingExtraError, UnavailableError: something it is drawn with is not installed.
        InputError: there is no such paper.
    """
    require_renderer(kind)
    text: str = (
        environment()
        .get_template("report/period.html.j2")
        .render(**common_variables(paper, kind, Look()), view=view, title=TITLE, classification=CLASSIFICATION)
    )
    html = text.lstrip()
    if kind == "html":
        return without_controls(html).encode("utf-8")
    return write_pdf(
        html,
        variant="pdf/a-3a",
        when=parse_time(view.drawn),
        identifier=bytes.fromhex(view.fingerprint)[:16],
        attached=(
            Attached(POPULATION_JSON, view.json, "The population and its completeness statement", "Source"),
            Attached(POPULATION_CSV, view.csv, "The population as a table", "Data"),
        ),
    )


def _records(evidence: Path) -> dict[str, Attestation]:
    """The records of a folder's bundles about a pack, by the digest of their envelopes."""
    if not evidence.is_dir():
        raise NotFoundError("no such folder of bundles", subject=str(evidence))
    places: Iterable[Path] = [evidence] if holds_bundle(evidence) else sorted(evidence.iterdir())
    found = {}
    for place in places:
        if place.is_dir() and holds_bundle(place):
            bundle = open_bundle(place)
            if not bundle.is_floor:
                found[bundle.attestation.digest] = bundle.record
    return found


def _row(row: PopulationRow, records: dict[str, Attestation]) -> EntryRow:
    entry = row.entry
    if entry is None:
        return EntryRow(row.index, "unknown", "unreadable", "unreadable", "unknown", "", "", "; ".join(row.notes))
    outcome = determination_words(entry.determination) if entry.determination else row.status
    if entry.determination and row.status != "recorded":
        outcome += f", {row.status}"
    record = records.get(entry.envelope_sha256)
    related = f"with entry {row.related}" if row.related is not None else ""
    notes = "; ".join(
        part for part in (related, "from before the period" if row.carried_over else "", *row.notes) if part
    )
    return EntryRow(
        row.index,
        entry.recorded_at,
        entry.kind,
        outcome,
        shortened(record.pack.name, 60) if record is not None else "",
        grouped(entry.pack_digest) if entry.pack_digest else "",
        grouped(entry.envelope_sha256),
        notes,
    )


def _excuses(row: PopulationRow, records: dict[str, Attestation]) -> Sequence[tuple[int, ExceptionRow]]:
    """The exceptions that an entry's record carries, each with the entry's index."""
    record = records.get(row.entry.envelope_sha256) if row.entry else None
    return [(row.index, item) for item in exception_rows(record)] if record is not None else []


def _source(made: Export, drawn: str, *, key_checked: bool) -> tuple[Fact, ...]:
    complete = made.completeness
    witnessed = complete["witnessed"]
    latest = max(witnessed, key=lambda item: int(item["size"])) if witnessed else None
    return (
        Fact("Source system", f"the ledger {made.origin}"),
        Fact("Verifier key of the ledger", str(complete["vkey"]), "code"),
        Fact(
            "Check of that key",
            "it is the trust file's" if key_checked else f"{NOT_ASSESSED}: no trust file names it",
        ),
        Fact("List drawn at (UTC)", drawn),
        Fact("List drawn by", "not recorded by the tool: whoever hands this file over states it"),
        Fact(
            "Period, by the times that the keeper entered",
            f"{complete['from'] or 'open'} to {complete['to'] or 'open'}",
        ),
        Fact("How it was drawn", "the whole ledger was read, every hash recomputed and every checkpoint compared"),
        Fact(
            "Outside witness",
            f"{latest['witness']} saw {int(latest['size']):,} entries at {latest['time']}"
            if latest
            else f"{NOT_ASSESSED}: no trusted witness was given, so times are the keeper's own word",
        ),
    )


def _ends(complete: dict[str, Any]) -> tuple[Fact, ...]:
    return (
        Fact("Entries before the period", f"{complete['sizeAtStart']:,}"),
        Fact("Root before the period", grouped(complete["rootAtStart"]), "digest"),
        Fact("Entries at its end", f"{complete['sizeAtEnd']:,}"),
        Fact("Root at its end", grouped(complete["rootAtEnd"]), "digest"),
        Fact("Entries in the ledger", f"{complete['treeSize']:,}"),
        Fact("Root of the ledger", grouped(complete["treeRoot"]), "digest"),
        Fact("Indexes without a row", ", ".join(str(index) for index in complete["gaps"]) or "none"),
    )
