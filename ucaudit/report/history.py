"""What a ledger says of the time before a record: earlier results of the same pack, and the whole population."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ucaudit.core.errors import LedgerInconsistentError
from ucaudit.evidence.ledger import Checkpoint, Ledger, population_of
from ucaudit.evidence.ledger.population import PopulationRow
from ucaudit.report.formatting import determination_words, grouped

PLANS: Final = ("plan", "floorplan")
MAX_EARLIER: Final = 200
"""Earlier entries of the pack that are listed; the count is always whole."""


@dataclass(frozen=True, slots=True)
class EarlierEntry:
    """One earlier ledger entry about the same pack."""

    index: int
    recorded: str
    kind: str
    outcome: str
    envelope: str


@dataclass(frozen=True, slots=True)
class History:
    """A ledger at a size, and where this record stands in it.

    Attributes:
        checked: whether the ledger's key is the trust file's; else it is the one the ledger names itself.
        counts: words and numbers of the population, whole.
    """

    origin: str
    size: int
    index: int
    checked: bool
    earlier: tuple[EarlierEntry, ...]
    earlier_total: int
    counts: tuple[tuple[str, int], ...]


def read_history(directory: Path, envelope_digest: str, proven: Checkpoint | None, vkey: str | None) -> History:
    """Check the whole ledger and find the record in it.

    Args:
        directory: the ledger.
        envelope_digest: of the record that is rendered.
        proven: the checkpoint of the bundle's own proof; the ledger must contain the tree that it names.
        vkey: the verifier key of the trust file for this origin, None if there is none.

    Raises:
        LedgerInconsistentError: the ledger does not hold together, is another one than the proof's, or lacks the
            record.
        NotFoundError, MalformedRecordError: not a ledger.
    """
    ledger = Ledger.open(directory)
    entries: list[bytes] = []
    summary = ledger.verify(sink=entries.extend, vkey=vkey)
    if proven is not None:
        if proven.origin != summary.origin:
            raise LedgerInconsistentError(
                f"the record's proof is of ledger {proven.origin}, this one is {summary.origin}",
                subject=str(directory),
            )
        if proven.size > summary.size or ledger.root_at(proven.size) != proven.root:
            raise LedgerInconsistentError(
                "the ledger does not extend the tree of the record's proof", subject=str(directory)
            )
    rows = population_of(entries)
    index = next((row.index for row in rows if row.entry and row.entry.envelope_sha256 == envelope_digest), None)
    if index is None:
        raise LedgerInconsistentError("the record is not in this ledger", subject=str(directory))
    own = rows[index].entry
    earlier = [row for row in rows[:index] if row.entry and own and row.entry.pack_digest == own.pack_digest]
    return History(
        summary.origin,
        summary.size,
        index,
        summary.pinned,
        tuple(_earlier(row) for row in earlier[-MAX_EARLIER:]),
        len(earlier),
        population_counts(rows),
    )


def population_counts(rows: Sequence[PopulationRow]) -> tuple[tuple[str, int], ...]:
    """How many entries of each kind and outcome, in words; zeros are printed too."""
    entries = [row.entry for row in rows if row.entry is not None]
    results = [entry for entry in entries if entry.kind == "attestation"]

    def outcome(word: str) -> int:
        return sum(entry.determination == word for entry in results)

    def plans(status: str) -> int:
        return sum(row.status == status for row in rows if row.entry is not None and row.entry.kind in PLANS)

    return (
        ("Entries", len(rows)),
        ("Attestations", len(results)),
        ("of these PASS", outcome("pass")),
        ("of these PASS WITH EXCEPTIONS", outcome("pass-with-exceptions")),
        ("of these FAIL", outcome("fail")),
        ("of these INCONCLUSIVE", outcome("inconclusive")),
        ("Results without a plan before them", sum(row.status == "unplanned" for row in rows)),
        ("Plans closed by a result", plans("closed")),
        ("Plans abandoned with a reason", plans("abandoned")),
        ("Plans still open", plans("open")),
        ("Endorsements", sum(entry.kind == "endorsement" for entry in entries)),
        ("Floor results", sum(entry.kind == "floor" for entry in entries)),
        ("Entries that this release cannot read", sum(row.status == "unreadable" for row in rows)),
    )


def _earlier(row: PopulationRow) -> EarlierEntry:
    entry = row.entry
    assert entry is not None
    outcome = determination_words(entry.determination) if entry.determination else row.status
    return EarlierEntry(row.index, entry.recorded_at, entry.kind, outcome, grouped(entry.envelope_sha256))
