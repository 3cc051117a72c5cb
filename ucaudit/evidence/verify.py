"""Offline verification of a bundle, in an order that never believes a byte before its signature held.

Signature → payload, statement and predicate type → strict JSON → model → trusted times, ledger → key, validity,
revocation → artefacts by digest → claims re-derived from the per-token files → plan → endorsements with their
roles → closing statement.
Malformed input raises an InputError; a finding becomes a failed :class:`Check`, and all findings are listed.
"""

from __future__ import annotations

from pathlib import Path

from ucaudit.core.digest import sha256_file
from ucaudit.core.errors import (
    DigestMismatchError,
    MalformedRecordError,
    VerificationError,
)
from ucaudit.core.records import Attestation, BundleClosing, Floor, Plan
from ucaudit.core.records.base import PREDICATE_PREFIX
from ucaudit.evidence import bundle as names
from ucaudit.evidence.authentic import find_signers, judge_keys
from ucaudit.evidence.bundle import OpenBundle
from ucaudit.evidence.checks import Check, Verification
from ucaudit.evidence.contents import check_closing, check_contents
from ucaudit.evidence.endorsements import check_endorsements
from ucaudit.evidence.plan import deviations
from ucaudit.evidence.registered import Placed, check_entry, check_order, check_seed
from ucaudit.evidence.signing import Envelope, read_statement
from ucaudit.evidence.stamps import collect_times
from ucaudit.evidence.trust import Trust

__all__ = ["Check", "Verification", "check_report", "verify_bundle", "verify_envelope"]


def verify_bundle(
    bundle: OpenBundle,
    trust: Trust,
    *,
    floors: bool = False,
) -> Verification:
    """Check a bundle against a trust file. (A pack is compared by :mod:`ucaudit.packs.compare`.)

    Args:
        bundle: from :func:`ucaudit.evidence.bundle.open_bundle`.
        trust: the verifier's own trust file.
        floors: take a floor's bundle too. Whoever asks about a pack must not: a floor has no ``record``, and a
            caller that expects one would find nothing to object to.

    Raises:
        InputError: something is malformed, so that nothing can be said; without ``floors`` also a floor.
    """
    result = Verification(envelope_digest=bundle.attestation.digest)
    signers = find_signers(bundle.attestation, trust, result, "attestation")
    if not signers:
        return result
    statement = read_statement(bundle.attestation)
    if floors and isinstance(statement.predicate, Floor):
        from ucaudit.evidence.floors.verify import verify_floor  # most bundles are about a pack

        verify_floor(bundle, statement, signers, trust, result)
        check_endorsements(bundle, trust, result)
        _closing(bundle, trust, result)
        return result
    statement = bundle.statement
    record = result.record = bundle.record
    collect_times(bundle, trust, result)
    placed = check_entry(bundle, bundle.attestation, "attestation", trust, result)
    result.signers = judge_keys(signers, bundle.attestation, trust, "attestation", record.created, result)
    check_contents(bundle, statement, record, result)
    planned, seeded = _plan(bundle, record, trust, result)
    check_order(planned, placed, ("plan", "result"), result)
    check_order(planned, seeded, ("plan", "seed"), result)
    check_order(seeded, placed, ("seed", "result"), result)
    check_endorsements(bundle, trust, result)
    _closing(bundle, trust, result)
    return result


def verify_envelope(envelope: Envelope, trust: Trust) -> Verification:
    """Check an envelope without its bundle: who signed it, and whether that key counts. Nothing is re-derived.

    Raises:
        InputError: it is malformed.
    """
    result = Verification(envelope_digest=envelope.digest)
    signers = find_signers(envelope, trust, result, "record")
    if not signers:
        return result
    statement = read_statement(envelope)
    kind = statement.predicate_type.removeprefix(PREDICATE_PREFIX).split(":")[0]
    if isinstance(statement.predicate, Attestation):
        result.record = statement.predicate
    result.signers = judge_keys(
        signers, envelope, trust, kind, str(getattr(statement.predicate, "created", "")), result
    )
    result.remark(
        "contents", "not-checked", f"the files that this {kind} cites", "not here: give the bundle's directory"
    )
    return result


def _plan(
    bundle: OpenBundle, record: Attestation, trust: Trust, result: Verification
) -> tuple[Placed | None, Placed | None]:
    """The plan and the outside party's seed: where each was entered."""
    if record.plan is None:
        result.remark("plan", "warn", "pre-registration", "the measurement was not planned in a ledger beforehand")
        return None, None
    envelope = bundle.envelope(names.PLAN)
    if envelope is None:
        return None, None
    signers = find_signers(envelope, trust, result, "plan")
    if not signers:
        return None, None
    statement = read_statement(envelope)
    if not isinstance(statement.predicate, Plan):
        raise MalformedRecordError(f"holds a {statement.predicate_type}, not a plan", subject=names.PLAN)
    proven = check_entry(bundle, envelope, "plan", trust, result)
    judge_keys(signers, envelope, trust, "plan", statement.predicate.created, result)
    plan = statement.predicate
    seed: int | None = plan.seed
    if plan.outside_seed:
        from ucaudit.evidence.seed import planned_seed

        seed = planned_seed(plan, envelope.digest, record.plan.seed)
    found = deviations(plan, record, seed=seed)
    hidden = sorted(set(found) - set(record.plan.deviations))
    problem = VerificationError(f"undeclared deviation: {hidden[0]}", subject="plan") if hidden else None
    result.add("plan", "plan against what was measured", problem, "as planned" if not found else "; ".join(found))
    return proven, check_seed(bundle, record, plan, envelope, proven, trust, result)


def _closing(bundle: OpenBundle, trust: Trust, result: Verification) -> None:
    envelope = bundle.closing
    if envelope is None:
        unclosed = VerificationError(
            "the bundle was never closed",
            subject=names.CLOSING,
            hint="it is unfinished, or its closing statement was removed: ask for the whole bundle",
        )
        result.add("closing", "every file against the closing statement", unclosed, "")
        return
    signers = find_signers(envelope, trust, result, "bundle")
    if not signers:
        return
    statement = read_statement(envelope)
    predicate = statement.predicate
    if not isinstance(predicate, BundleClosing):
        raise MalformedRecordError(f"holds a {statement.predicate_type}, not a closing", subject=names.CLOSING)
    result.closers = judge_keys(signers, envelope, trust, "bundle", predicate.created, result)
    hints = envelope.wrong_hints(signers)
    check_closing(bundle, statement, predicate.files, predicate.attestation_digest, result, wrong_hints=hints)


def check_report(bundle: OpenBundle, report: Path, result: Verification) -> None:
    """Compare a rendering with the reports in the bundle's closing statement: an edited word shows here.

    The closing is what binds a report, and every key that is trusted for ``bundle`` may close: who did is said, and
    a closer who did not make the record is remarked, for they may have put another report in.

    Raises:
        NotFoundError: there is no such file.
    """
    what = f"{report.name} against the closing statement"
    found = sha256_file(report)
    closing = bundle.closing
    subjects = read_statement(closing).subjects if closing and result.closers else ()
    reports = (item for item in subjects if item.name.startswith(names.REPORT_PREFIX))
    match = next((item.name for item in reports if item.sha256 == found), None)
    problem = (
        None
        if match
        else DigestMismatchError(
            f"sha-256 {found[:16]}… is no report of the closed bundle",
            subject=report.name,
            hint="the report was edited, or was rendered elsewhere; the signed record governs",
        )
    )
    closers = " and ".join(entry.principal for entry in result.closers)
    result.add("report", what, problem, f"is {match}, in the bundle as {closers} closed it")
    makers = {entry.person for entry in result.signers}
    if match and not makers & {entry.person for entry in result.closers}:
        detail = (
            f"{closers} closed the bundle and did not make the record: the wording is vouched for by them alone"
        )
        result.remark("report-closer", "warn", f"who vouches for {report.name}", detail)
