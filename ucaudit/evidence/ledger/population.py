"""All entries of a ledger, or of a period, with what became of every plan.

An auditor samples from a *complete* population: good and bad results, open and abandoned plans. Nothing is left
out; an entry that this release cannot read is a row of its own.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from ucaudit.core.errors import MalformedRecordError, RefusedError
from ucaudit.core.records import now
from ucaudit.evidence.keys import Signer
from ucaudit.evidence.ledger.leaf import LedgerEntry, entry_for
from ucaudit.evidence.ledger.store import Ledger
from ucaudit.evidence.signing import Envelope

Status = Literal["open", "closed", "abandoned", "planned", "unplanned", "recorded", "unreadable"]

COLUMNS: Final = (
    "index",
    "recordedAt",
    "kind",
    "determination",
    "status",
    "relatedIndex",
    "packDigest",
    "envelopeSha256",
    "planSha256",
    "predicateType",
    "carriedOver",
    "notes",
)


@dataclass(frozen=True, slots=True)
class PopulationRow:
    """One entry and its place among the others.

    ``status`` of a plan is open, closed or abandoned; of a result planned or unplanned; of anything else
    recorded. ``related`` is the plan's closing or abandoning entry, or the result's plan. ``carried_over``
    marks a plan from before the period that was still open when the period began.
    """

    index: int
    entry: LedgerEntry | None
    status: Status
    related: int | None = None
    carried_over: bool = False
    notes: tuple[str, ...] = ()

    def to_document(self) -> dict[str, str | int | bool | list[str] | None]:
        """The row with :data:`COLUMNS` as keys."""
        known = self.entry.model_dump(mode="json", by_alias=True) if self.entry is not None else {}
        own = {
            "index": self.index,
            "status": self.status,
            "relatedIndex": self.related,
            "carriedOver": self.carried_over,
            "notes": list(self.notes),
        }
        return {column: own[column] if column in own else known.get(column) for column in COLUMNS}


def population(entries: Iterable[bytes]) -> list[PopulationRow]:
    """Every entry in order, with plans matched to their results.

    A result closes a plan only if the plan was entered before it and is about the same pack; otherwise the
    result counts as unplanned and its notes say why. A second result for one plan is noted, as are entry times
    that go backwards.
    """
    rows: list[PopulationRow] = []
    plans: dict[str, int] = {}
    latest = ""
    for index, data in enumerate(entries):
        try:
            entry = LedgerEntry.parse(data, subject=f"entry {index}")
        except MalformedRecordError as error:
            rows.append(PopulationRow(index, None, "unreadable", notes=(error.message,)))
            continue
        row = PopulationRow(index, entry, "recorded")
        if entry.kind == "plan":
            row = replace(row, status="open")
            if entry.envelope_sha256 in plans:
                row = replace(row, status="recorded", notes=("plan-entered-twice",))
            else:
                plans[entry.envelope_sha256] = index
        elif entry.kind in ("attestation", "floor", "abandonment"):
            row = _settle(row, entry, rows, plans)
        if entry.recorded_at < latest:
            row = replace(row, notes=(*row.notes, "time-goes-backwards"))
        latest = max(latest, entry.recorded_at)
        rows.append(row)
    return rows


def _settle(
    row: PopulationRow, entry: LedgerEntry, rows: list[PopulationRow], plans: dict[str, int]
) -> PopulationRow:
    """Match a result or an abandonment with its plan, whose row is replaced in ``rows``."""
    is_result = entry.kind != "abandonment"
    unmatched: Status = "unplanned" if is_result else "recorded"
    if entry.plan_sha256 is None:
        return replace(row, status=unmatched)
    number = plans.get(entry.plan_sha256)
    if number is None:
        return replace(row, status=unmatched, notes=("plan-not-entered-before",))
    plan = rows[number]
    planned = plan.entry
    if planned is not None and entry.pack_digest not in (None, planned.pack_digest):
        return replace(row, status=unmatched, notes=("plan-of-another-pack",))
    row = replace(row, status="planned" if is_result else "recorded", related=number)
    if plan.status == "open":
        rows[number] = replace(plan, status="closed" if is_result else "abandoned", related=row.index)
        return row
    return replace(row, notes=(f"plan-already-{plan.status}",))


def in_period(rows: Iterable[PopulationRow], start: str | None, end: str | None) -> list[PopulationRow]:
    """The rows recorded from ``start`` to ``end``, both inclusive RFC 3339 UTC times; None leaves that side open.

    Plans from before the period that were still open when it began are included and marked, and so is every
    unreadable entry, whose time is unknown.
    """
    rows = list(rows)
    times = {row.index: row.entry.recorded_at for row in rows if row.entry is not None}
    chosen = []
    for row in rows:
        if row.entry is None:
            chosen.append(row)
        elif end is not None and row.entry.recorded_at > end:
            continue
        elif start is None or row.entry.recorded_at >= start:
            chosen.append(row)
        elif row.entry.kind == "plan" and row.status != "recorded":
            settled = times.get(row.related) if row.related is not None else None
            if settled is None or settled >= start:
                chosen.append(replace(row, carried_over=True))
    return chosen


def to_csv(rows: Iterable[PopulationRow]) -> str:
    """The rows as CSV (RFC 4180 quoting, ``\\n`` line ends) with a header line."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        document = row.to_document()
        document["notes"] = "; ".join(row.notes)
        document["carriedOver"] = "yes" if row.carried_over else "no"
        writer.writerow({key: "" if value is None else value for key, value in document.items()})
    return buffer.getvalue()


def find(ledger: Ledger, envelope_sha256: str) -> int | None:
    """The index of the first entry about an envelope, or None."""
    needle = envelope_sha256.encode("ascii")
    for index, data in enumerate(ledger.entries()):
        if needle not in data:  # spares parsing thousands of others
            continue
        try:
            entry = LedgerEntry.parse(data, subject=f"entry {index}")
        except MalformedRecordError:
            continue
        if entry.envelope_sha256 == envelope_sha256:
            return index
    return None


def register(ledger: Ledger, envelope: Envelope, signer: Signer, *, recorded_at: str | None = None) -> int:
    """Enter an envelope's statement, unless it is there already.

    Args:
        ledger: where.
        envelope: the envelope; its signature is not judged, only its digest and contents are entered.
        signer: the ledger's key.
        recorded_at: the time to enter; None is now.

    Returns:
        The index of its entry, new or old, so an interrupted run can simply be repeated.

    Raises:
        As :func:`~ucaudit.evidence.ledger.leaf.entry_for` and :meth:`Ledger.append`.
        RefusedError: an abandonment of a plan that is not in this ledger.
    """
    entry = entry_for(envelope, recorded_at or now())
    if (known := find(ledger, envelope.digest)) is not None:
        return known
    if entry.kind == "abandonment" and entry.plan_sha256 and find(ledger, entry.plan_sha256) is None:
        raise RefusedError(
            f"the abandoned plan {entry.plan_sha256[:16]}… is not in this ledger", subject=str(ledger.path)
        )
    return ledger.append([entry.to_bytes()], signer)[0]
