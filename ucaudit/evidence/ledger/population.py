"""All entries of a ledger, or of a period, with what became of every plan.

An auditor samples from a *complete* population: good and bad results, open and abandoned plans. Nothing is left
out; an entry that this release cannot read is a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from ucaudit.core.errors import MalformedRecordError
from ucaudit.evidence.ledger.leaf import PLANS, LedgerEntry

Status = Literal["open", "closed", "abandoned", "planned", "unplanned", "recorded", "unreadable"]

WAITING: Final = "waiting-for-seed"
"""The note of a plan whose seed an outside party has yet to fix."""

COLUMNS: Final = (
    "origin",
    "index",
    "recordedAt",
    "kind",
    "determination",
    "status",
    "relatedIndex",
    "packDigest",
    "envelopeSha256",
    "planSha256",
    "keyId",
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

    def to_document(self, origin: str = "") -> dict[str, str | int | bool | list[str] | None]:
        """The row with :data:`COLUMNS` as keys. ``origin`` is the ledger's name: the source system."""
        known = self.entry.model_dump(mode="json", by_alias=True) if self.entry is not None else {}
        own: dict[str, str | int | bool | list[str] | None] = {
            "origin": origin,
            "index": self.index,
            "status": self.status,
            "relatedIndex": self.related,
            "carriedOver": self.carried_over,
            "notes": list(self.notes),
        }
        return {column: own[column] if column in own else known.get(column) for column in COLUMNS}


def population_of(entries: Iterable[bytes]) -> list[PopulationRow]:
    """Every entry in order, with plans matched to their results.

    A result closes a plan only if the plan was entered before it and is about the same pack; otherwise the
    result counts as unplanned and its notes say why. A second result for one plan is noted, as are entry times
    that go backwards.
    """
    rows: list[PopulationRow] = []
    plans: dict[str, int] = {}
    seeded: set[int] = set()
    latest = ""
    for index, data in enumerate(entries):
        try:
            entry = LedgerEntry.parse(data, subject=f"entry {index}")
        except MalformedRecordError as error:
            rows.append(PopulationRow(index, None, "unreadable", notes=(error.message,)))
            continue
        row = PopulationRow(index, entry, "recorded")
        if entry.kind in PLANS:
            row = replace(row, status="open")
            if entry.envelope_sha256 in plans:
                row = replace(row, status="recorded", notes=("plan-entered-twice",))
            else:
                plans[entry.envelope_sha256] = index
                if entry.outside_seed:
                    row = replace(row, notes=(WAITING,))
        elif entry.kind == "seed":
            row = _seed(row, entry, rows, plans, seeded)
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
    if planned is not None and is_result and (entry.kind == "floor") != (planned.kind == "floorplan"):
        return replace(row, status=unmatched, notes=("plan-of-another-kind",))
    row = replace(row, status="planned" if is_result else "recorded", related=number)
    if is_result and WAITING in plan.notes:
        row = replace(row, notes=("seed-not-entered-before",))
    if plan.status == "open":
        rows[number] = replace(plan, status="closed" if is_result else "abandoned", related=row.index)
        return row
    return replace(row, notes=(*row.notes, f"plan-already-{plan.status}"))


def _seed(
    row: PopulationRow,
    entry: LedgerEntry,
    rows: list[PopulationRow],
    plans: dict[str, int],
    seeded: set[int],
) -> PopulationRow:
    """Match an outside party's seed with its plan, which no longer waits for it."""
    number = plans.get(entry.plan_sha256 or "")
    if number is None:
        return replace(row, notes=("plan-not-entered-before",))
    plan = rows[number]
    row = replace(row, related=number)
    if number in seeded:
        return replace(row, notes=("seed-entered-twice",))
    if WAITING not in plan.notes:
        return replace(row, notes=("plan-needs-no-seed",))
    if plan.status != "open":
        return replace(row, notes=(f"plan-already-{plan.status}",))
    seeded.add(number)
    rows[number] = replace(plan, notes=tuple(note for note in plan.notes if note != WAITING))
    return row
