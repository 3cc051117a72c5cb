"""The complete population of a period, with what shows that it is complete.

An entry's index is its place in the tree, so a list of the entries from one tree size to another has no room for
one that was left out: it would leave a gap. The two sizes with their roots are what a period's list is checked by.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ucaudit.evidence.ledger.audit import LedgerSummary
from ucaudit.evidence.ledger.leaf import PLANS
from ucaudit.evidence.ledger.population import COLUMNS, PopulationRow, population_of
from ucaudit.evidence.ledger.store import Ledger

OUTSIDE: Final = "time-outside-period"
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Period:
    """The entries of a period, from index ``first`` up to but without ``end``, and what else belongs to it."""

    first: int
    end: int
    rows: tuple[PopulationRow, ...]

    @property
    def gaps(self) -> tuple[int, ...]:
        """Indexes inside the period of which no row was listed; always empty, and computed to show it."""
        listed = {row.index for row in self.rows}
        return tuple(index for index in range(self.first, self.end) if index not in listed)


def in_period(rows: Iterable[PopulationRow], start: str | None, end: str | None) -> Period:
    """The rows recorded from ``start`` to ``end``, both inclusive RFC 3339 UTC times; None leaves that side open.

    Every entry between the first and the last of the period is listed; one whose own time lies outside is noted.
    Plans from before the period that were still open when it began are included and marked, and so is every
    unreadable entry, whose time is unknown.
    """
    rows = list(rows)
    times = {row.index: row.entry.recorded_at for row in rows if row.entry is not None}
    first = min((i for i, time in times.items() if start is None or time >= start), default=len(rows))
    last = max((i for i, time in times.items() if end is None or time <= end), default=-1)
    if start is None:
        first = 0
    stop = max(first, len(rows) if end is None else last + 1)
    chosen = []
    for row in rows:
        if first <= row.index < stop:
            time = times.get(row.index)
            strays = time is not None and ((start is not None and time < start) or (end is not None and time > end))
            chosen.append(replace(row, notes=(*row.notes, OUTSIDE)) if strays else row)
        elif row.entry is None:
            chosen.append(row)
        elif row.index < first and start is not None and row.entry.kind in PLANS and row.status != "recorded":
            settled = times.get(row.related) if row.related is not None else None
            if settled is None or settled >= start:
                chosen.append(replace(row, carried_over=True))
    return Period(first, stop, tuple(chosen))


@dataclass(frozen=True, slots=True)
class Export:
    """A checked ledger's population of a period."""

    origin: str
    period: Period
    completeness: dict[str, Any]

    @property
    def rows(self) -> tuple[PopulationRow, ...]:
        """The rows, in order of their indexes."""
        return self.period.rows

    def to_document(self) -> dict[str, Any]:
        """Everything, for JSON."""
        rows = [row.to_document(self.origin) for row in self.rows]
        return {"completeness": self.completeness, "rows": rows}


def export_period(
    ledger: Ledger, summary: LedgerSummary, entries: Sequence[bytes], start: str | None, end: str | None
) -> Export:
    """List a period's population.

    Args:
        ledger: the ledger.
        summary: of its full check, which also delivered ``entries``.
        entries: all of them, in order.
        start, end: see :func:`in_period`.
    """
    period = in_period(population_of(entries), start, end)
    count = period.end - period.first
    states = [row.status for row in period.rows]
    kinds = [row.entry.determination for row in period.rows if row.entry is not None and not row.carried_over]
    if count:
        span = f"entries {period.first} to {period.end - 1} of {summary.size}, all {count} of them"
    else:
        span = f"none of the {summary.size} entries"
    return Export(
        summary.origin,
        period,
        {
            "statement": f"{span}; an entry has the index at which it was added, so one left out would leave a gap",
            "origin": summary.origin,
            "vkey": summary.vkey,
            "from": start,
            "to": end,
            "sizeAtStart": period.first,
            "rootAtStart": ledger.root_at(period.first).hex(),
            "sizeAtEnd": period.end,
            "rootAtEnd": ledger.root_at(period.end).hex(),
            "treeSize": summary.size,
            "treeRoot": summary.root.hex(),
            "entriesInPeriod": count,
            "gaps": list(period.gaps),
            "carriedOverPlans": sum(row.carried_over for row in period.rows),
            "plans": {state: states.count(state) for state in ("open", "closed", "abandoned")},
            "results": {
                state: kinds.count(state) for state in ("pass", "pass-with-exceptions", "fail", "inconclusive")
            },
            "unreadable": states.count("unreadable"),
            "checkpoint": ledger.checkpoint_at(summary.size).decode("utf-8"),
            "witnessed": [
                {"witness": item.witness, "size": item.size, "time": item.text} for item in summary.witnessed
            ],
        },
    )


def to_csv(rows: Iterable[PopulationRow], origin: str = "") -> str:
    """The rows as CSV (RFC 4180 quoting, ``\\n`` line ends) with a header line.

    A text that a spreadsheet would read as a formula gets an apostrophe in front.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        document = row.to_document(origin)
        document["notes"] = "; ".join(row.notes)
        document["carriedOver"] = "yes" if row.carried_over else "no"
        writer.writerow({key: "" if value is None else _inert(value) for key, value in document.items()})
    return buffer.getvalue()


def _inert(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value
