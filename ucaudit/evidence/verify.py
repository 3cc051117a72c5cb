"""Offline verification of a bundle, in an order that never believes a byte before its signature held.

Signature → payload, statement and predicate type → strict JSON → model → trusted times, ledger → key, validity,
revocation → artefacts by digest → claims re-derived from the per-token files → plan → endorsements with their
roles → closing statement.
Malformed input raises an InputError; a finding becomes a failed :class:`Check`, and all findings are listed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ucaudit.core.digest import sha256_file
from ucaudit.core.errors import (
    DigestMismatchError,
    LedgerInconsistentError,
    MalformedRecordError,
    VerificationError,
)
from ucaudit.core.records import Attestation, BundleClosing, Plan
from ucaudit.core.records.base import PREDICATE_PREFIX
from ucaudit.evidence import bundle as names
from ucaudit.evidence.authentic import find_signers, judge_keys
from ucaudit.evidence.bundle import OpenBundle
from ucaudit.evidence.checks import Check, Verification
from ucaudit.evidence.contents import check_closing, check_contents
from ucaudit.evidence.endorsements import check_endorsements
from ucaudit.evidence.ledger import LedgerEntry, VerifiedProof, verify_proof
from ucaudit.evidence.plan import deviations
from ucaudit.evidence.signing import Envelope, read_statement
from ucaudit.evidence.stamps import collect_times
from ucaudit.evidence.trust import Trust, trusted_ledgers

__all__ = ["Check", "Verification", "check_report", "verify_bundle", "verify_envelope"]

_PROOFS: Final = {
    "attestation": ("ledger", names.LEDGER_PROOF, names.LEDGER_ENTRY),
    "plan": ("plan-ledger", names.PLAN_PROOF, names.PLAN_ENTRY),
}


def verify_bundle(
    bundle: OpenBundle,
    trust: Trust,
) -> Verification:
    """Check a bundle against a trust file. (A pack is compared by :mod:`ucaudit.packs.compare`.)

    Args:
        bundle: from :func:`ucaudit.evidence.bundle.open_bundle`.
        trust: the verifier's own trust file.

    Raises:
        InputError: something is malformed, so that nothing can be said.
    """
    result = Verification(envelope_digest=bundle.attestation.digest)
    signers = find_signers(bundle.attestation, trust, result, "attestation")
    if not signers:
        return result
    statement = bundle.statement
    record = result.record = bundle.record
    collect_times(bundle, trust, result)
    placed = _ledger(bundle, bundle.attestation.digest, "attestation", trust, result)
    result.signers = judge_keys(signers, bundle.attestation, trust, "attestation", record.created, result)
    check_contents(bundle, statement, record, result)
    planned = _plan(bundle, record, trust, result)
    _order(planned, placed, result)
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


def _plan(bundle: OpenBundle, record: Attestation, trust: Trust, result: Verification) -> VerifiedProof | None:
    if record.plan is None:
        result.remark("plan", "warn", "pre-registration", "the measurement was not planned in a ledger beforehand")
        return None
    envelope = bundle.envelope(names.PLAN)
    if envelope is None:
        return None
    signers = find_signers(envelope, trust, result, "plan")
    if not signers:
        return None
    statement = read_statement(envelope)
    if not isinstance(statement.predicate, Plan):
        raise MalformedRecordError(f"holds a {statement.predicate_type}, not a plan", subject=names.PLAN)
    proven = _ledger(bundle, envelope.digest, "plan", trust, result)
    judge_keys(signers, envelope, trust, "plan", statement.predicate.created, result)
    found = deviations(statement.predicate, record)
    hidden = sorted(set(found) - set(record.plan.deviations))
    problem = VerificationError(f"undeclared deviation: {hidden[0]}", subject="plan") if hidden else None
    result.add("plan", "plan against what was measured", problem, "as planned" if not found else "; ".join(found))
    return proven


def _ledger(bundle: OpenBundle, digest: str, kind: str, trust: Trust, result: Verification) -> VerifiedProof | None:
    slug, proof, entry = _PROOFS[kind]
    what = f"{kind} entry in the ledger"
    if not bundle.has(proof) or not bundle.has(entry):
        result.remark(slug, "warn", what, "no ledger proof in the bundle")
        return None
    ledgers = trusted_ledgers(trust)
    if not ledgers:
        result.remark(slug, "not-checked", what, "the trust file names no ledger")
        return None
    leaf = bundle.read(entry, 1 << 16)
    parsed = LedgerEntry.parse(leaf, subject=entry)
    problem: VerificationError | None = None
    detail = ""
    proven: VerifiedProof | None = None
    if parsed.envelope_sha256 != digest or parsed.kind != kind:
        problem = LedgerInconsistentError(f"the proven entry is not about this {kind}", subject=entry)
    else:
        for ledger in ledgers:
            try:
                proven = verify_proof(bundle.read(proof, 1 << 20), leaf, ledger.vkey)
            except VerificationError as error:
                problem = error
            else:
                detail = f"index {proven.index} of {proven.size} in {proven.origin}"
                problem = None
                break
    result.add(slug, what, problem, detail)
    return proven if problem is None else None


def _order(planned: VerifiedProof | None, placed: VerifiedProof | None, result: Verification) -> None:
    """A plan counts as one only if the ledger had it before the result."""
    if planned is None or placed is None:
        return
    what = "the plan's ledger entry against the result's"
    problem = None
    if planned.origin != placed.origin:
        problem = LedgerInconsistentError(f"plan in {planned.origin}, result in {placed.origin}", subject="plan")
    elif planned.index >= placed.index:
        late = f"the plan is entry {planned.index}, the result {placed.index}: planned after the fact"
        problem = LedgerInconsistentError(late, subject="plan")
    result.add("plan-order", what, problem, f"{planned.index} before {placed.index}")


def _closing(bundle: OpenBundle, trust: Trust, result: Verification) -> None:
    envelope = bundle.closing
    if envelope is None:
        unclosed = VerificationError("the bundle was never closed", subject=names.CLOSING)
        result.add("closing", "every file against the closing statement", unclosed, "")
        return
    signers = find_signers(envelope, trust, result, "bundle")
    if not signers:
        return
    statement = read_statement(envelope)
    predicate = statement.predicate
    if not isinstance(predicate, BundleClosing):
        raise MalformedRecordError(f"holds a {statement.predicate_type}, not a closing", subject=names.CLOSING)
    judge_keys(signers, envelope, trust, "bundle", predicate.created, result)
    check_closing(bundle, statement, predicate.files, predicate.attestation_digest, result)


def check_report(bundle: OpenBundle, report: Path, result: Verification) -> None:
    """Compare a rendering with the digest in the bundle's closing statement: an edited word shows here.

    Raises:
        NotFoundError: there is no such file.
    """
    what = f"{report.name} against the closing statement"
    found = sha256_file(report)
    closing = bundle.closing
    subjects = read_statement(closing).subjects if closing else ()
    match = next((item.name for item in subjects if item.sha256 == found), None)
    problem = (
        None
        if match
        else DigestMismatchError(
            f"sha-256 {found[:16]}… is not in the closed bundle",
            subject=report.name,
            hint="the report was edited, or was rendered elsewhere; the signed record governs",
        )
    )
    result.add("report", what, problem, f"is {match}")
