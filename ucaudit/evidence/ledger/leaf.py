"""What one ledger entry says: a compact JSON record that names an envelope by its SHA-256.

The envelope itself stays with the evidence. An entry is stored in one canonical spelling (sorted keys, no
spaces), so the same facts always give the same leaf hash.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from ucaudit.core import strictjson
from ucaudit.core.digest import is_hex_digest
from ucaudit.core.errors import MalformedRecordError, RefusedError
from ucaudit.core.records import (
    Abandonment,
    Attestation,
    Determination,
    Floor,
    Plan,
    SeedContribution,
    parse_statement,
    parse_time,
)
from ucaudit.core.records.base import PREDICATE_PREFIX, Record, Sha256, Timestamp
from ucaudit.evidence.signing import PAYLOAD_TYPE, Envelope

Kind = Literal["plan", "seed", "attestation", "abandonment", "endorsement", "floor", "floorplan"]
KINDS: Final = ("plan", "seed", "attestation", "abandonment", "endorsement", "floor", "floorplan")
PLANS: Final = ("plan", "floorplan")
"""What a result can close: the plan of a measurement, and that of a floor protocol."""
PredicateType = Annotated[str, StringConstraints(pattern=r"^urn:ucaudit:predicate:[a-z]{1,40}:v[1-9][0-9]{0,3}$")]


class LedgerEntry(Record):
    """One entry. ``recordedAt`` is what the ledger's keeper claims; only a witness or time stamp can confirm it."""

    kind: Kind
    envelope_sha256: Annotated[Sha256, Field(alias="envelopeSha256", description="SHA-256 of the envelope file")]
    predicate_type: PredicateType
    recorded_at: Timestamp
    pack_digest: Sha256 | None = None
    determination: Determination | None = None
    plan_sha256: Annotated[
        Sha256 | None, Field(alias="planSha256", description="SHA-256 of the envelope of the plan it belongs to")
    ] = None
    key_id: Annotated[
        Sha256 | None, Field(description="the key that the envelope names as its signer's; a hint, not a proof")
    ] = None
    outside_seed: Annotated[
        Literal[True] | None, Field(description="a plan that waits for an outside party's seed")
    ] = None

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        """Refuse entries whose parts contradict their kind."""
        parse_time(self.recorded_at)
        if not self.predicate_type.startswith(f"{PREDICATE_PREFIX}{self.kind}:"):
            raise ValueError(f"predicate type {self.predicate_type} is not that of a {self.kind}")
        if self.kind in ("plan", "attestation") and self.pack_digest is None:
            raise ValueError(f"{self.kind} without packDigest")
        if self.kind in ("attestation", "floor") and self.determination is None:
            raise ValueError(f"{self.kind} without determination")
        if self.determination is not None and self.kind not in ("attestation", "floor"):
            raise ValueError(f"{self.kind} with a determination")
        if self.kind in ("abandonment", "seed", "floor") and self.plan_sha256 is None:
            raise ValueError(f"{self.kind} without planSha256")
        if self.outside_seed and self.kind != "plan":
            raise ValueError(f"{self.kind} with outsideSeed")
        if self.plan_sha256 is not None and self.kind in (*PLANS, "endorsement"):
            raise ValueError(f"{self.kind} with planSha256")
        return self

    def to_bytes(self) -> bytes:
        """The entry as it is stored and hashed."""
        return strictjson.dumps(self.model_dump(mode="json", by_alias=True, exclude_none=True))

    @classmethod
    def parse(cls, data: bytes, *, subject: str) -> LedgerEntry:
        """Read an entry; it must be exactly the bytes that :meth:`to_bytes` writes.

        Raises:
            MalformedRecordError: not strict JSON, unknown or missing members, parts that contradict each
                other, or another spelling.
        """
        document = strictjson.loads(data, subject=subject)
        try:
            entry = cls.model_validate_json(strictjson.dumps(document))
        except ValidationError as error:
            raise _malformed(error, subject) from error
        if entry.to_bytes() != data:
            raise MalformedRecordError("the entry is not in its canonical spelling", subject=subject)
        return entry


def ledger_entry(
    kind: Kind,
    envelope_sha256: str,
    predicate_type: str,
    recorded_at: str,
    *,
    pack_digest: str | None = None,
    determination: Determination | None = None,
    plan_sha256: str | None = None,
    key_id: str | None = None,
    outside_seed: bool = False,
) -> bytes:
    """The bytes of an entry. Raises MalformedRecordError if its parts do not fit together."""
    try:
        entry = LedgerEntry(
            kind=kind,
            envelope_sha256=envelope_sha256,
            predicate_type=predicate_type,
            recorded_at=recorded_at,
            pack_digest=pack_digest,
            determination=determination,
            plan_sha256=plan_sha256,
            key_id=key_id,
            outside_seed=True if outside_seed else None,
        )
    except ValidationError as error:
        raise _malformed(error, "ledger entry") from error
    return entry.to_bytes()


def entry_for(envelope: Envelope, recorded_at: str) -> LedgerEntry:
    """The entry for an envelope's statement. The envelope's signature is not judged here.

    Args:
        envelope: a parsed DSSE envelope over an in-toto statement.
        recorded_at: the time to enter, RFC 3339 UTC with ``Z``.

    Raises:
        MalformedRecordError, UnsupportedSchemaError: the payload is not a statement this release knows.
        RefusedError: a statement of a type that is not entered (a bundle's closing statement).
    """
    if envelope.payload_type != PAYLOAD_TYPE:
        raise MalformedRecordError(
            f"payload type {envelope.payload_type[:80]!r}, expected {PAYLOAD_TYPE!r}", subject=envelope.subject
        )
    statement = parse_statement(envelope.payload, subject=envelope.subject)
    kind = statement.predicate_type.removeprefix(PREDICATE_PREFIX).partition(":")[0]
    if kind not in KINDS:
        raise RefusedError(
            f"a {kind} statement is not entered in a ledger",
            subject=envelope.subject,
            hint=f"a ledger holds: {', '.join(KINDS)}",
        )
    fields: dict[str, str | bool] = {
        "kind": kind,
        "envelopeSha256": envelope.digest,
        "predicateType": statement.predicate_type,
        "recordedAt": recorded_at,
    }
    if is_hex_digest(hint := envelope.signatures[0].key_hint):
        fields["keyId"] = hint
    match statement.predicate:
        case Attestation() as attestation:
            fields["packDigest"] = attestation.pack.pack_digest
            fields["determination"] = attestation.determination
            if attestation.plan is not None:
                fields["planSha256"] = attestation.plan.envelope_digest
        case Plan() as plan:
            fields["packDigest"] = plan.pack.pack_digest
            if plan.outside_seed:
                fields["outsideSeed"] = True
        case Floor() as floor:
            fields["determination"] = floor.determination
            fields["planSha256"] = floor.plan.envelope_digest
        case SeedContribution() as seed:
            fields["planSha256"] = seed.plan_digest
        case Abandonment() as abandonment:
            fields["planSha256"] = abandonment.plan_digest
    return LedgerEntry.parse(strictjson.dumps(fields), subject=envelope.subject)


def _malformed(error: ValidationError, subject: str) -> MalformedRecordError:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return MalformedRecordError(f"{place}: {message}" if place else message, subject=subject)
