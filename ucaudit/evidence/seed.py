"""The seed of the windows, with a part that an outside party adds after the plan is committed.

Whoever measures privately and plans afterwards knows which windows flatter the pack. If the windows follow from
something that did not exist when the plan was signed, they cannot have been tried. The protocol:

1. The plan says ``outsideSeed`` and is entered in the ledger.
2. An outside party contributes 32 bytes: a random number it draws and signs together with the plan's digest
   (``nonce``), or its cosignature of the checkpoint that ends with the plan (``witness``).
3. The contribution is entered in the ledger. The first one for a plan counts.
4. The seed is :func:`effective_seed` of the two; anyone can compute it again.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import Final

from ucaudit import __version__
from ucaudit.core.errors import MalformedRecordError, RefusedError, VerificationError
from ucaudit.core.records import (
    Plan,
    SeedContribution,
    SeedReference,
    SeedSource,
    Statement,
    Subject,
    Tool,
    make_statement,
    now,
)
from ucaudit.evidence.ledger import VerifiedProof, WitnessedTime
from ucaudit.evidence.signing import Envelope, read_statement

_PREFIX: Final = "ucaudit-seed-v1"
_HEX_DIGITS: Final = 13
"""52 bits: below 2^53, so every JSON reader holds the seed exactly."""


def effective_seed(plan_digest: str, value: str) -> int:
    """The first 13 hex digits, as a number, of the SHA-256 of the text ``ucaudit-seed-v1\\nPLAN\\nVALUE\\n``.

    Args:
        plan_digest: SHA-256 of the plan's envelope file, lower-case hex.
        value: the contribution, 64 lower-case hex digits.

    Returns:
        A number from 0 to 2^52 − 1.
    """
    text = f"{_PREFIX}\n{plan_digest}\n{value}\n"
    return int(hashlib.sha256(text.encode("ascii")).hexdigest()[:_HEX_DIGITS], 16)


def contribution_statement(
    plan_digest: str, contributor: str, *, source: SeedSource = "nonce", value: str | None = None
) -> Statement:
    """The statement by which a seed is contributed.

    Args:
        plan_digest: SHA-256 of the plan's envelope file, hex.
        contributor: printed name of the outside party, or the name of the witness.
        source: see :class:`~ucaudit.core.records.SeedContribution`.
        value: 64 hex digits; None draws 32 random bytes from the operating system.
    """
    predicate = SeedContribution(
        created=now(),
        tool=Tool(name="ucaudit", version=__version__),
        plan_digest=plan_digest,
        source=source,
        contributor=contributor,
        value=value if value is not None else secrets.token_hex(32),
    )
    return make_statement(predicate, [Subject("plan.dsse.json", plan_digest)])


def witness_contribution(proven: VerifiedProof, times: Sequence[WitnessedTime]) -> WitnessedTime:
    """The cosignature that a plan's seed may come from: the one of the checkpoint that ends with the plan.

    Only that checkpoint counts. If any later one did, the keeper could add entries and have the ledger cosigned
    again until the windows please.

    Args:
        proven: what the plan's ledger proof shows.
        times: the trusted witnesses' cosignatures of the checkpoint in that proof.

    Raises:
        RefusedError: the proof is against another checkpoint, or no trusted witness cosigned it.
    """
    if proven.size != proven.index + 1:
        raise RefusedError(
            f"the plan is entry {proven.index}, the cosigned checkpoint has {proven.size} entries: only the "
            f"checkpoint of {proven.index + 1} entries, which ends with the plan, gives a seed",
            subject="plan",
            hint="ask an outside party for a random number (ucaudit plan contribute), or plan anew",
        )
    if not times:
        raise RefusedError("no trusted witness cosigned the checkpoint that ends with the plan", subject="plan")
    return times[0]


def read_contribution(envelope: Envelope, plan_digest: str) -> SeedContribution:
    """A contribution to the seed of one particular plan. Its signature and source are not judged here.

    Raises:
        MalformedRecordError, UnsupportedSchemaError: not a contribution.
        VerificationError: it is for another plan.
    """
    statement = read_statement(envelope)
    if not isinstance(statement.predicate, SeedContribution):
        raise MalformedRecordError(f"holds a {statement.predicate_type}, not a seed", subject=envelope.subject)
    if statement.predicate.plan_digest != plan_digest:
        raise VerificationError(
            f"a seed for plan {statement.predicate.plan_digest[:16]}…, expected {plan_digest[:16]}…",
            subject=envelope.subject,
        )
    return statement.predicate


def seed_reference(envelope: Envelope, contribution: SeedContribution, ledger_index: int) -> SeedReference:
    """How a record refers to the contribution that it used."""
    return SeedReference(
        envelope_digest=envelope.digest,
        source=contribution.source,
        contributor=contribution.contributor,
        value=contribution.value,
        ledger_index=ledger_index,
    )


def planned_seed(plan: Plan, plan_digest: str, reference: SeedReference | None) -> int | None:
    """The seed that a plan demands: its own, or the one that follows from the contribution; None if none came."""
    if not plan.outside_seed:
        return plan.seed
    return None if reference is None else effective_seed(plan_digest, reference.value)
