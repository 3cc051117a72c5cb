"""Entering envelopes in a ledger, each once, and finding them again."""

from __future__ import annotations

from ucaudit.core.errors import MalformedRecordError, RefusedError
from ucaudit.core.records import now
from ucaudit.evidence.keys import Signer
from ucaudit.evidence.ledger.leaf import LedgerEntry, entry_for
from ucaudit.evidence.ledger.store import Ledger
from ucaudit.evidence.signing import Envelope


def find(ledger: Ledger, envelope_sha256: str) -> int | None:
    """The index of the first entry about an envelope, or None."""
    for index, entry in _mentioning(ledger, envelope_sha256):
        if entry.envelope_sha256 == envelope_sha256:
            return index
    return None


def find_seed(ledger: Ledger, plan_sha256: str) -> tuple[int, LedgerEntry] | None:
    """The first entry of an outside party's seed for a plan: the one that counts. None if none came yet."""
    for index, entry in _mentioning(ledger, plan_sha256):
        if entry.kind == "seed" and entry.plan_sha256 == plan_sha256:
            return index, entry
    return None


def register(ledger: Ledger, envelope: Envelope, signer: Signer, *, recorded_at: str | None = None) -> int:
    """Enter an envelope's statement, unless it is there already; several processes may try at once.

    Args:
        ledger: where.
        envelope: the envelope; its signature is not judged, only its digest and contents are entered.
        signer: the ledger's key.
        recorded_at: the time to enter; None is now.

    Returns:
        The index of its entry, new or old, so an interrupted run can simply be repeated.

    Raises:
        As :func:`~ucaudit.evidence.ledger.leaf.entry_for` and :meth:`Ledger.append`.
        RefusedError: an abandonment or a seed of a plan that is not in this ledger, a seed for a plan that needs
            none, or a second one.
    """
    entry_for(envelope, recorded_at or now())  # what cannot be entered is refused before anybody waits

    def decide() -> bytes | int:
        if (known := find(ledger, envelope.digest)) is not None:
            return known
        entry = entry_for(envelope, recorded_at or now())
        if entry.kind in ("abandonment", "seed"):
            _check_plan(ledger, entry)
        return entry.to_bytes()

    return ledger.append_unless(decide, signer)


def _check_plan(ledger: Ledger, entry: LedgerEntry) -> None:
    plan = entry.plan_sha256 or ""
    number = find(ledger, plan)
    if number is None:
        what = "abandoned plan" if entry.kind == "abandonment" else "seed's plan"
        raise RefusedError(f"the {what} {plan[:16]}… is not in this ledger", subject=str(ledger.path))
    if entry.kind == "abandonment":
        return
    planned = LedgerEntry.parse(ledger.entry(number), subject=f"entry {number}")
    if not planned.outside_seed:
        raise RefusedError(
            f"the plan {plan[:16]}… has fixed its own seed",
            subject=str(ledger.path),
            hint="plan with --outside-seed",
        )
    if (earlier := find_seed(ledger, plan)) is not None:
        raise RefusedError(
            f"the plan {plan[:16]}… has its seed already, entry {earlier[0]}: the first one counts",
            subject=str(ledger.path),
        )


def _mentioning(ledger: Ledger, digest: str) -> list[tuple[int, LedgerEntry]]:
    """Every readable entry whose bytes contain a digest, in order."""
    found = []
    for index, data in ledger.search(digest.encode("ascii")):
        try:
            found.append((index, LedgerEntry.parse(data, subject=f"entry {index}")))
        except MalformedRecordError:
            continue
    return found
