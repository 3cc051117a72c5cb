"""The view model: everything the template prints, as text. Nothing is computed from it, and nothing is signed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ucaudit.core.digest import StateManifest
from ucaudit.core.errors import MalformedRecordError
from ucaudit.core.records import Attestation, Statement, parse_time
from ucaudit.core.tokenvalues import TokenValues
from ucaudit.evidence.examine import EndorsementFacts, LedgerFacts
from ucaudit.report import facts
from ucaudit.report.change import ChangeView, Previous, VersionRow, compare, in_order, version_rows
from ucaudit.report.charts import Figure, figures
from ucaudit.report.facts import Fact
from ucaudit.report.findings import Finding, findings
from ucaudit.report.formatting import confidence_text, determination_words, grouped, shortened
from ucaudit.report.history import History
from ucaudit.report.profiles import Profile, load_profile
from ucaudit.report.results import ClaimRow, FigureRow, claim_row, figure_rows, percentile_text
from ucaudit.report.signoff import (
    SignerView,
    endorsed_by_another,
    ledger_facts,
    separation_words,
    signer_view,
)

MAX_LISTED: Final = 2000
"""Rows of the digest appendix. More files are in ``pack.SHA256SUMS``, more tensors in ``STATE``; both digests are
printed, and ``STATE`` is then attached to a PDF that may carry it."""


@dataclass(frozen=True, slots=True)
class ExceptionRow:
    """An exception to a claim."""

    claim: str
    owner: str
    rationale: str
    expires: str
    state: str
    excuses: bool
    """Whether it was in force when the record was signed."""


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
    tensors: tuple[Fact, ...]
    tensors_total: int
    seeds: tuple[Fact, ...]
    context: tuple[Fact, ...]
    record_fields: tuple[Fact, ...]
    change: ChangeView | None
    versions: tuple[VersionRow, ...]
    history: History | None
    findings: tuple[Finding, ...]

    @property
    def key_note(self) -> str:
        """What every page says of the signature."""
        return self.signer.note

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
    state: StateManifest | None = None,
    previous: Sequence[Previous] = (),
    history: History | None = None,
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
        state: the reconstructed state's manifest, for the digest appendix.
        previous: earlier attestations; the latest is compared with this one.
        history: what a ledger says of the time before this record.

    Raises:
        NotFoundError, InputError: the profile; a previous attestation that is not an earlier one.
        MalformedRecordError: the statement is not an attestation, or holds a date that does not exist.
    """
    chosen = load_profile(profile)
    record = statement.predicate
    if not isinstance(record, Attestation):
        raise MalformedRecordError(f"holds a {statement.predicate_type}, not an attestation", subject="report")
    try:
        exceptions = exception_rows(record)
    except ValueError as error:
        raise MalformedRecordError(f"a date that does not exist: {error}", subject="report") from error
    published = record.reconstruction.matches_published != "none-published"
    claims = tuple(claim_row(claim, published=published) for claim in record.claims)
    files = [item for item in statement.subjects if item.name.startswith("pack/")]
    entries = state.entries if state is not None else ()
    earlier = in_order(record, envelope_digest, previous)
    applied = frozenset(row.claim for row in exceptions if row.excuses)
    classification = record.context.classification or chosen.classification
    return ReportView(
        profile=chosen,
        record=record,
        determination=determination_words(record.determination),
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
        plan=facts.plan_facts(record.plan),
        ledger=ledger_facts(ledger),
        signer=signer_view(record.created, signer_key_id, principal, roles, seen),
        endorsements=tuple(endorsements),
        separation=separation_words(signer_key_id, principal, endorsements),
        digests=facts.digest_facts(record, envelope_digest, payload_digest),
        files=tuple(
            Fact(item.name.removeprefix("pack/"), grouped(item.sha256), "digest") for item in files[:MAX_LISTED]
        ),
        files_total=record.pack.files,
        tensors=tuple(Fact(item.name, grouped(item.digest), "digest") for item in entries)
        if len(entries) <= MAX_LISTED
        else (),
        tensors_total=record.reconstruction.tensors,
        seeds=facts.seed_facts(record),
        context=facts.context_facts(record),
        record_fields=facts.record_facts(record, statement.predicate_type),
        change=compare(record, values, earlier[0]) if earlier else None,
        versions=version_rows(record, envelope_digest, principal, earlier),
        history=history,
        findings=findings(
            record,
            chosen.severity,
            excused=applied,
            key_checked=principal is not None,
            endorsed=endorsed_by_another(signer_key_id, principal, endorsements),
            trusted_time=seen is not None,
            in_ledger=ledger is not None or history is not None,
        ),
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


def exception_rows(record: Attestation) -> tuple[ExceptionRow, ...]:
    """The record's exceptions: in force or not, needed or not. Raises ValueError: a date that does not exist."""
    signed = parse_time(record.created)
    failing = {claim.id for claim in record.claims if claim.verdict != "pass"}
    rows = []
    for item in record.exceptions:
        in_force = parse_time(item.expires) >= signed
        state = "in force when signed" if in_force else "expired when signed"
        used = "applied" if item.claim in failing else "not needed: the claim held"
        rows.append(
            ExceptionRow(item.claim, item.owner, item.rationale, item.expires, f"{state}; {used}", excuses=in_force)
        )
    return tuple(rows)
