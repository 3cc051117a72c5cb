"""The view model: everything the template prints, as text. Nothing is computed from it, and nothing is signed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ucaudit.core.errors import MalformedRecordError
from ucaudit.core.records import Attestation, Endorsement, Statement, parse_time
from ucaudit.core.tokenvalues import TokenValues
from ucaudit.evidence.checks import Endorsed
from ucaudit.evidence.trust import same_person
from ucaudit.report import facts
from ucaudit.report.charts import Figure, figures
from ucaudit.report.facts import Fact
from ucaudit.report.formatting import NOT_ASSESSED, confidence_text, grouped, shortened
from ucaudit.report.profiles import Profile, load_profile
from ucaudit.report.results import ClaimRow, FigureRow, claim_row, figure_rows, percentile_text

DETERMINATIONS: Final = {
    "pass": "PASS",
    "pass-with-exceptions": "PASS WITH EXCEPTIONS",
    "fail": "FAIL",
    "inconclusive": "INCONCLUSIVE",
}
MAX_LISTED: Final = 2000
"""Subjects listed in the digest appendix; a longer list is in ``pack.SHA256SUMS``, whose digest is printed."""


@dataclass(frozen=True, slots=True)
class LedgerFacts:
    """Where the record is in a ledger; ``checked`` if the proof held under a ledger key of the trust file."""

    origin: str
    index: int
    size: int
    checked: bool = False


@dataclass(frozen=True, slots=True)
class EndorsementFacts:
    """A countersignature: who, as what, when, meaning what, under which key.

    ``principal`` is the trust file's name for the key, None if the key was not checked.
    """

    printed_name: str
    role: str
    meaning: str
    created: str
    key_id: str
    principal: str | None = None
    seen: str | None = None
    """A trusted time of the endorsement, as a clause; None if there is none."""

    @classmethod
    def checked(cls, item: Endorsed) -> EndorsementFacts:
        """From an endorsement whose signature, key, role and binding held."""
        return cls(
            item.printed_name,
            item.role,
            item.meaning,
            item.created,
            item.entry.key.key_id,
            item.entry.principal,
            str(item.seen) if item.seen else None,
        )

    @classmethod
    def of(cls, predicate: Endorsement, key_id: str, principal: str | None) -> EndorsementFacts:
        """From a signed endorsement."""
        return cls(predicate.printed_name, predicate.role, predicate.meaning, predicate.created, key_id, principal)


@dataclass(frozen=True, slots=True)
class SignerView:
    """The key that signed the record, and whether anybody checked it."""

    key_id: str
    principal: str
    roles: str
    created: str
    seen: str
    check: str


@dataclass(frozen=True, slots=True)
class ExceptionRow:
    """An exception to a claim."""

    claim: str
    owner: str
    rationale: str
    expires: str
    state: str


@dataclass(frozen=True, slots=True)
class ReportView:
    """One report, ready to print."""

    profile: Profile
    record: Attestation
    determination: str
    summary: str
    headline: str
    fingerprint: str
    fingerprint_groups: str
    classification: str
    running_classification: str
    cover_classification: str
    cover: tuple[Fact, ...]
    pack: tuple[Fact, ...]
    reference: tuple[Fact, ...]
    measurement: tuple[Fact, ...]
    tool: tuple[Fact, ...]
    claims: tuple[ClaimRow, ...]
    figures_table: tuple[FigureRow, ...]
    percentiles: str
    confidence: str
    charts: tuple[Figure, ...]
    exceptions: tuple[ExceptionRow, ...]
    plan: tuple[Fact, ...]
    ledger: tuple[Fact, ...]
    signer: SignerView
    endorsements: tuple[EndorsementFacts, ...]
    separation: str
    digests: tuple[Fact, ...]
    files: tuple[Fact, ...]
    files_total: int
    seeds: tuple[Fact, ...]
    context: tuple[Fact, ...]
    record_fields: tuple[Fact, ...]

    @property
    def created(self) -> str:
        """The record's own time; the rendering has none."""
        return self.record.created


def build_view(
    statement: Statement,
    *,
    envelope_digest: str,
    signer_key_id: str,
    principal: str | None,
    endorsements: Sequence[EndorsementFacts],
    values: TokenValues | None,
    ledger: LedgerFacts | None,
    profile: str,
    roles: Sequence[str] = (),
    payload_digest: str | None = None,
    seen: str | None = None,
) -> ReportView:
    """Everything that a report prints.

    Args:
        statement: of an attestation whose signature was judged, or is said not to have been.
        envelope_digest: SHA-256 of the envelope file: the fingerprint.
        signer_key_id: the key that made the signature; without ``principal``, the one the envelope names.
        principal: the trust file's name for that key, None if it was not checked.
        endorsements: countersignatures.
        values: the per-token values, for the charts; None leaves the charts out, and says so.
        ledger: where the record is in a ledger, None if it is in none.
        profile: a profile's name, or the path of a profile file.
        roles: the trust file's roles of the key.
        payload_digest: SHA-256 of the signed payload.
        seen: a trusted time of the record, as a clause; None if there is none, or it was not checked.

    Raises:
        NotFoundError, InputError: the profile.
        MalformedRecordError: the statement is not an attestation, or holds a date that does not exist.
    """
    chosen = load_profile(profile)
    record = statement.predicate
    if not isinstance(record, Attestation):
        raise MalformedRecordError(f"holds a {statement.predicate_type}, not an attestation", subject="report")
    try:
        exceptions = _exceptions(record)
    except ValueError as error:
        raise MalformedRecordError(f"a date that does not exist: {error}", subject="report") from error
    published = record.reconstruction.matches_published != "none-published"
    claims = tuple(claim_row(claim, published=published) for claim in record.claims)
    files = [item for item in statement.subjects if item.name.startswith("pack/")]
    classification = record.context.classification or chosen.classification
    return ReportView(
        profile=chosen,
        record=record,
        determination=DETERMINATIONS[record.determination],
        summary=shortened(_summary(record), 240),
        headline=shortened(_headline(claims), 240),
        fingerprint=envelope_digest,
        fingerprint_groups=grouped(envelope_digest),
        classification=classification,
        running_classification=shortened(classification, 32),
        cover_classification=shortened(classification, 90),
        cover=facts.cover_facts(record, chosen, principal, signer_key_id),
        pack=facts.pack_facts(record),
        reference=facts.reference_facts(record),
        measurement=facts.measurement_facts(record),
        tool=facts.tool_facts(record),
        claims=claims,
        figures_table=figure_rows(record),
        percentiles=percentile_text(record),
        confidence=confidence_text(record.results.ratio.confidence),
        charts=figures(record, values),
        exceptions=exceptions,
        plan=facts.plan_facts(record),
        ledger=_ledger(ledger),
        signer=_signer(record, signer_key_id, principal, roles, seen),
        endorsements=tuple(endorsements),
        separation=_separation(signer_key_id, principal, endorsements),
        digests=facts.digest_facts(record, envelope_digest, payload_digest),
        files=tuple(
            Fact(item.name.removeprefix("pack/"), grouped(item.sha256), "digest") for item in files[:MAX_LISTED]
        ),
        files_total=record.pack.files,
        seeds=facts.seed_facts(record),
        context=facts.context_facts(record),
        record_fields=facts.record_facts(record, statement.predicate_type),
    )


def _summary(record: Attestation) -> str:
    failed = [claim.id for claim in record.claims if claim.verdict == "fail"]
    undecided = [claim.id for claim in record.claims if claim.verdict == "inconclusive"]
    count = f"{len(record.claims)} claim{'s' if len(record.claims) != 1 else ''}"
    parts = [f"failed: {', '.join(failed)}"] * bool(failed) + [f"undecided: {', '.join(undecided)}"] * bool(
        undecided
    )
    detail = "; ".join(parts)
    match record.determination:
        case "pass":
            return f"All {count} of the policy held in this measurement, with the limitations of section 2."
        case "pass-with-exceptions":
            return f"Of {count}, some did not hold ({detail}) and are excused by the exceptions in section 6."
        case "fail":
            return f"Of {count}, some did not hold and no exception in force excuses them ({detail})."
        case "inconclusive":
            return f"Of {count}, some could not be decided ({detail}): neither shown to hold nor shown to fail."


def _headline(claims: Sequence[ClaimRow]) -> str:
    first = claims[0]
    return f"{first.name}: {first.observed}, interval {first.interval}; limit {first.limit}."


def _exceptions(record: Attestation) -> tuple[ExceptionRow, ...]:
    signed = parse_time(record.created)
    failing = {claim.id for claim in record.claims if claim.verdict != "pass"}
    rows = []
    for item in record.exceptions:
        state = "in force when signed" if parse_time(item.expires) >= signed else "expired when signed"
        used = "applied" if item.claim in failing else "not needed: the claim held"
        rows.append(ExceptionRow(item.claim, item.owner, item.rationale, item.expires, f"{state}; {used}"))
    return tuple(rows)


def _signer(
    record: Attestation, key_id: str, principal: str | None, roles: Sequence[str], seen: str | None
) -> SignerView:
    trusted = seen or f"{NOT_ASSESSED}: no time stamp or witness was checked for this rendering"
    if principal is None:
        check = "key not checked against a trust file: the key id is the one that the envelope names"
        return SignerView(key_id or NOT_ASSESSED, NOT_ASSESSED, NOT_ASSESSED, record.created, trusted, check)
    check = "the signature holds under this key, and the trust file used for this rendering lists it"
    return SignerView(key_id, principal, ", ".join(roles) or "none listed", record.created, trusted, check)


def _separation(key_id: str, principal: str | None, endorsements: Sequence[EndorsementFacts]) -> str:
    if not endorsements:
        return f"{NOT_ASSESSED}: nobody has endorsed the record"
    others = [item for item in endorsements if item.key_id != key_id]
    if not others:
        return "every endorsement was made with the record's own key"
    named = [item.principal for item in others if item.principal is not None]
    who = ""
    if principal is not None and named:
        if all(same_person(name, principal) for name in named):
            return "every endorsement was made by the record's own principal, at least one of them with another key"
        who = " of another principal"
    return f"at least one endorsement was made with another key{who} than the record's"


def _ledger(ledger: LedgerFacts | None) -> tuple[Fact, ...]:
    if ledger is None:
        return (Fact("Ledger entry", f"{NOT_ASSESSED}: no ledger proof was given"),)
    check = (
        "the proof holds under the ledger key of the trust file"
        if ledger.checked
        else "proof not checked against a trust file"
    )
    return (
        Fact("Ledger", ledger.origin, "code"),
        Fact(
            "Entry", f"number {ledger.index:,} (counted from 0) of {ledger.size:,} entries at the time of the proof"
        ),
        Fact("Proof", check),
        Fact(
            "What it shows",
            "consistency with checkpoints that somebody else kept; without an outside witness, not the time",
        ),
    )
