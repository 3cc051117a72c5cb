"""The plan that a measurement belongs to, read before anything is measured, and the seed that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ucaudit.core.errors import InputError, RefusedError
from ucaudit.core.files import read_limited
from ucaudit.core.records import Attestation, Plan, PlanReference, SeedContribution
from ucaudit.evidence.keys import Signer
from ucaudit.evidence.plan import deviations
from ucaudit.evidence.registration import Registered, find_entry, first_seed
from ucaudit.evidence.seed import planned_seed, read_contribution, seed_reference
from ucaudit.evidence.signing import MAX_ENVELOPE_BYTES, Envelope, read_statement

if TYPE_CHECKING:
    from ucaudit.lab.attest import Request


@dataclass(frozen=True)
class Contributed:
    """An outside party's part in the seed, as it was entered in the ledger."""

    envelope: Envelope
    said: SeedContribution
    placed: Registered


@dataclass(frozen=True)
class Planned:
    """A plan that is in the ledger."""

    envelope: Envelope
    plan: Plan
    placed: Registered
    contribution: Contributed | None

    @property
    def seed(self) -> int | None:
        """The seed of the windows: the outside party's if the plan waits for one, None if that did not come."""
        found = self.contribution
        reference = None if found is None else seed_reference(found.envelope, found.said, found.placed.index)
        return planned_seed(self.plan, self.envelope.digest, reference)

    def reference(self, record: Attestation) -> PlanReference:
        """How the record refers to the plan, with everything that was done otherwise."""
        found = self.contribution
        return PlanReference(
            envelope_digest=self.envelope.digest,
            ledger_origin=self.placed.origin,
            ledger_index=self.placed.index,
            deviations=deviations(self.plan, record, seed=self.seed),
            seed=None if found is None else seed_reference(found.envelope, found.said, found.placed.index),
        )


def require_plan(request: Request) -> Planned | None:
    """The request's plan, found in its ledger, with the outside party's seed; None without a plan.

    A plan that waits for a seed which never came is not refused here, only without ``seed``: the measurement then
    uses the policy's seed, and the record shows that as a deviation.

    Raises:
        InputError: the plan is not one, was signed by another key, or is in no ledger; the seed is for another
            plan, is not in the ledger, or is not the first that was entered.
        VerificationError: the contribution is for another plan.
    """
    if request.plan is None:
        if request.seed is not None:
            raise InputError("a seed belongs to a plan", subject=str(request.seed), hint="--plan")
        return None
    envelope, plan = _read_plan(request.plan, request.signer)
    if request.ledger is None:
        raise InputError("a plan needs the ledger it was committed to", subject=str(request.plan), hint="--ledger")
    placed = find_entry(request.ledger, envelope.digest)
    if placed is None:
        raise InputError("the ledger has no entry for this plan", subject=str(request.plan), hint="ucaudit plan")
    return Planned(envelope, plan, placed, _contribution(request, envelope, plan, request.ledger))


def _contribution(request: Request, envelope: Envelope, plan: Plan, ledger: Path) -> Contributed | None:
    entered = first_seed(ledger, envelope.digest) if plan.outside_seed else None
    if request.seed is None:
        if entered is not None:
            raise InputError(
                f"the plan's seed was contributed, entry {entered.index}, and is not given",
                subject=str(request.plan),
                hint="give the contribution's file: --seed",
            )
        return None
    if not plan.outside_seed:
        raise RefusedError("the plan fixed its own seed and takes no other", subject=str(request.seed))
    given = Envelope.parse(read_limited(request.seed, MAX_ENVELOPE_BYTES), subject=str(request.seed))
    said = read_contribution(given, envelope.digest)
    placed = find_entry(ledger, given.digest)
    if placed is None or entered is None:
        raise InputError(
            "the seed is not in the ledger yet", subject=str(request.seed), hint="enter it: ucaudit ledger append"
        )
    if placed.index != entered.index:
        raise RefusedError(
            f"entry {entered.index} is this plan's seed; the first one counts", subject=str(request.seed)
        )
    return Contributed(given, said, placed)


def _read_plan(path: Path, signer: Signer) -> tuple[Envelope, Plan]:
    """A plan signed by the same key that will sign the result. Raises InputError."""
    envelope = Envelope.parse(read_limited(path, MAX_ENVELOPE_BYTES), subject=str(path))
    if not envelope.signers([signer.public_key]):
        raise InputError("the plan was signed by another key than --key", subject=str(path))
    statement = read_statement(envelope)
    if not isinstance(statement.predicate, Plan):
        raise InputError("not a plan", subject=str(path))
    return envelope, statement.predicate
