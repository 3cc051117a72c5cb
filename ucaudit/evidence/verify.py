"""Offline verification of a bundle, in an order that never believes a byte before its signature held.

Signature → payload, statement and predicate type → strict JSON → model → key, validity, revocation →
artefacts by digest → claims re-derived from the per-token files → plan → ledger → closing statement.
Malformed input raises an InputError; a finding becomes a failed :class:`Check`, and all findings are listed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from ucaudit.core.digest import sha256_file
from ucaudit.core.errors import (
    DigestMismatchError,
    LedgerInconsistentError,
    MalformedRecordError,
    SignatureInvalidError,
    UntrustedKeyError,
    VerificationError,
)
from ucaudit.core.records import Attestation, BundleClosing, Plan, Statement, parse_time
from ucaudit.core.records.statement import parse_statement
from ucaudit.evidence import bundle as names
from ucaudit.evidence.bundle import OpenBundle, cited, closing_differences
from ucaudit.evidence.claims import compute_results, determine, differences, judge_all
from ucaudit.evidence.keys import PublicKey
from ucaudit.evidence.ledger import LedgerEntry, VerifiedProof, entry_for, verify_proof
from ucaudit.evidence.plan import deviations
from ucaudit.evidence.signing import Envelope
from ucaudit.evidence.trust import Trust, TrustedKey

_PROOFS: Final = {
    "attestation": ("ledger", names.LEDGER_PROOF, names.LEDGER_ENTRY),
    "plan": ("plan-ledger", names.PLAN_PROOF, names.PLAN_ENTRY),
}
Status = Literal["pass", "fail", "warn", "not-checked"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was compared with one other thing."""

    slug: str
    status: Status
    what: str
    detail: str
    error: VerificationError | None = None

    def as_json(self) -> dict[str, Any]:
        """The check as ``--json`` prints it."""
        return {"slug": self.slug, "status": self.status, "what": self.what, "detail": self.detail}


@dataclass
class Verification:
    """What came out: every check, and the record they are about."""

    checks: list[Check] = field(default_factory=list)
    record: Attestation | None = None
    envelope_digest: str = ""
    signers: tuple[TrustedKey, ...] = ()

    def add(self, slug: str, what: str, problem: VerificationError | None, fine: str) -> bool:
        """Record a check; True if it passed."""
        status: Status = "fail" if problem else "pass"
        self.checks.append(Check(slug, status, what, str(problem) if problem else fine, problem))
        return problem is None

    def remark(self, slug: str, status: Status, what: str, detail: str) -> None:
        """Record something that is neither passed nor failed."""
        self.checks.append(Check(slug, status, what, detail))

    @property
    def failures(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.status == "fail"]

    @property
    def authentic(self) -> bool:
        """Whether nothing failed. It says nothing of the determination inside."""
        return not self.failures


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
    signers = _signature(bundle.attestation, trust, result, "attestation")
    if not signers:
        return result
    record = bundle.record
    statement = bundle.statement
    result.record = record
    result.signers = _judge_keys(signers, trust, "attestation", record.created, result)
    _other_forms(bundle, signers, result)
    _artefacts(bundle, statement, record, result)
    _rederive(bundle, record, result)
    planned = _plan(bundle, record, trust, result)
    placed = _ledger(bundle, bundle.attestation, "attestation", trust, result)
    _order(planned, placed, result)
    _closing(bundle, trust, result)
    _endorsements(bundle, trust, result)
    return result


def _signature(envelope: Envelope, trust: Trust, result: Verification, kind: str) -> tuple[PublicKey, ...]:
    signers = envelope.signers(trust.public_keys)
    what = f"{kind} signature against the trust file"
    if signers:
        result.add(f"{kind}-signature", what, None, f"signed by key {signers[0].key_id[:16]}…")
        wrong = envelope.wrong_hints(signers)
        if wrong:
            result.remark(
                f"{kind}-key-hint", "warn", "the envelope's key hint", f"names another key: {wrong[0][:80]}"
            )
        return signers
    hinted = {item.key_hint for item in envelope.signatures} & {key.key_id for key in trust.public_keys}
    problem: VerificationError
    if hinted:
        problem = SignatureInvalidError(
            f"the signature does not fit the signed bytes under trusted key {next(iter(hinted))[:16]}…",
            subject=envelope.subject,
            hint="the envelope was edited after it was signed, or it names a key that did not sign it",
        )
    else:
        claimed = next((item.key_hint for item in envelope.signatures if item.key_hint), "no key")
        problem = UntrustedKeyError(
            f"no trusted key made this signature (it names {claimed[:64]})",
            subject=envelope.subject,
            hint="compare the key id with its owner, then ucaudit trust add",
        )
    result.add(f"{kind}-signature", what, problem, "")
    return ()


def _judge_keys(
    signers: tuple[PublicKey, ...], trust: Trust, kind: str, created: str, result: Verification
) -> tuple[TrustedKey, ...]:
    try:
        when = parse_time(created)
    except ValueError as error:
        raise MalformedRecordError(f"not a date: {created}", subject=kind) from error
    good = []
    for key in signers:
        entry = trust.entry(key)
        objection = entry.objection(kind, when)
        problem = UntrustedKeyError(objection, subject=f"key {key.key_id[:16]}…") if objection else None
        if result.add(
            f"{kind}-key", f"{kind} key's validity, type and role", problem, f"{entry.principal} ({_roles(entry)})"
        ):
            good.append(entry)
    if kind == "attestation" and any(entry.valid_until or entry.valid_from for entry in good):
        result.remark(
            "claimed-time", "warn", "the time of signing", f"{created} is the signer's own word, no trusted time"
        )
    return tuple(good)


def _roles(entry: TrustedKey) -> str:
    return ", ".join(entry.roles) or "no role"


def _other_forms(bundle: OpenBundle, signers: tuple[PublicKey, ...], result: Verification) -> None:
    """The Sigstore and chain forms must hold the same payload under the same signature."""
    for name, found in ((names.SIGSTORE, bundle.envelope(names.SIGSTORE)), (names.CHAIN, _first(bundle))):
        if found is None:
            continue
        same = found.payload == bundle.attestation.payload and bool(found.signers(signers))
        problem = (
            None
            if same
            else DigestMismatchError(f"does not hold the signed record of {names.ATTESTATION}", subject=name)
        )
        result.add("same-record", f"{name} against {names.ATTESTATION}", problem, "same payload, same signature")


def _first(bundle: OpenBundle) -> Envelope | None:
    chain = bundle.chain()
    return chain[0] if chain else None


def _artefacts(bundle: OpenBundle, statement: Statement, record: Attestation, result: Verification) -> None:
    values = [item.name for item in record.measurement.value_files]
    if sorted(values) != sorted(names.VALUE_FILES):
        # A file that the record does not bind could be exchanged, and every figure with it.
        unbound = DigestMismatchError(
            f"the record cites {', '.join(values) or 'none'}; expected each of {', '.join(names.VALUE_FILES)} once",
            subject=names.ATTESTATION,
        )
        result.add("artefact", "per-token files that the record binds", unbound, "")
    for name, expected in cited(record).items():
        what = f"{name} against the signed digest"
        if not bundle.has(name):
            result.add(
                "artefact", what, DigestMismatchError("the record cites it, the bundle lacks it", subject=name), ""
            )
            continue
        found = sha256_file(bundle.path / name)
        problem = (
            None
            if found == expected
            else DigestMismatchError(
                f"expected sha-256 {expected[:16]}…, found {found[:16]}…",
                subject=name,
                hint="the file was changed after the record was signed",
            )
        )
        result.add("artefact", what, problem, f"sha-256 {expected[:16]}…")
    for name in (names.PACK_MANIFEST, names.STATE):
        if statement.digest_of(name) != cited(record)[name]:
            problem = DigestMismatchError("the statement's subject and its predicate disagree", subject=name)
            result.add("subjects", f"subject {name} against the predicate", problem, "")
    if not result.failures:
        manifest = bundle.pack_manifest().by_path()
        listed = {
            item.name.removeprefix("pack/"): item.sha256 for item in statement.subjects if item.name[:5] == "pack/"
        }
        wrong = sorted(name for name, digest in listed.items() if manifest.get(name) != digest)
        problem = DigestMismatchError(f"subject {wrong[0]} is not in {names.PACK_MANIFEST}") if wrong else None
        result.add("subjects", "statement subjects against pack.SHA256SUMS", problem, f"{len(listed)} files agree")


def _rederive(bundle: OpenBundle, record: Attestation, result: Verification) -> None:
    """Every figure and verdict again, from the per-token files."""
    if any(check.slug == "artefact" for check in result.failures):
        result.remark("figures", "not-checked", "figures re-derived", "the per-token files are not the signed ones")
        return
    from ucaudit.core.tokenvalues import load

    values = load(bundle.path)
    again = compute_results(values, confidence=record.results.ratio.confidence, seed=record.results.bootstrap_seed)
    changed = differences(record.results, again)
    problem = (
        VerificationError(
            f"{changed[0]}", subject="results", hint="the signed figures do not follow from the signed values"
        )
        if changed
        else None
    )
    what = "signed figures against the per-token files"
    result.add("figures", what, problem, f"{len(values.windows)} windows re-derived to 12 digits")
    if len(values.windows) != record.measurement.n:
        short = VerificationError(f"n is {record.measurement.n}, the files hold {len(values.windows)}", subject="n")
        result.add("sample-size", "n against the per-token files", short, "")
    claims = judge_all(record, again, values)
    wrong = [
        f"{old.id}: signed {old.verdict}, re-derived {new.verdict}"
        for old, new in zip(record.claims, claims, strict=True)
        if old.verdict != new.verdict or not math.isclose(old.observed, new.observed, rel_tol=1e-12)
    ]
    problem = VerificationError(wrong[0], subject="claims") if wrong else None
    result.add("claims", "signed verdicts against re-derived ones", problem, f"{len(claims)} claims agree")
    expected = determine(claims, record.exceptions, record.created)
    problem = (
        None
        if expected == record.determination
        else VerificationError(
            f"signed {record.determination}, its claims give {expected}", subject="determination"
        )
    )
    result.add("determination", "determination against the claims", problem, record.determination)


def _plan(bundle: OpenBundle, record: Attestation, trust: Trust, result: Verification) -> VerifiedProof | None:
    if record.plan is None:
        result.remark("plan", "warn", "pre-registration", "the measurement was not planned in a ledger beforehand")
        return None
    envelope = bundle.envelope(names.PLAN)
    if envelope is None:
        return None
    signers = _signature(envelope, trust, result, "plan")
    if not signers:
        return None
    statement = parse_statement(envelope.payload, subject=names.PLAN)
    if not isinstance(statement.predicate, Plan):
        raise MalformedRecordError(f"holds a {statement.predicate_type}, not a plan", subject=names.PLAN)
    _judge_keys(signers, trust, "plan", statement.predicate.created, result)
    found = deviations(statement.predicate, record)
    hidden = sorted(set(found) - set(record.plan.deviations))
    problem = VerificationError(f"undeclared deviation: {hidden[0]}", subject="plan") if hidden else None
    result.add("plan", "plan against what was measured", problem, "as planned" if not found else "; ".join(found))
    return _ledger(bundle, envelope, "plan", trust, result)


def _ledger(
    bundle: OpenBundle, envelope: Envelope, kind: str, trust: Trust, result: Verification
) -> VerifiedProof | None:
    slug, proof, entry = _PROOFS[kind]
    what = f"{kind} entry in the ledger"
    if not bundle.has(proof) or not bundle.has(entry):
        result.remark(slug, "warn", what, "no ledger proof in the bundle")
        return None
    if not trust.ledgers:
        result.remark(slug, "not-checked", what, "the trust file names no ledger")
        return None
    leaf = bundle.read(entry, 1 << 16)
    parsed = LedgerEntry.parse(leaf, subject=entry)
    problem: VerificationError | None = None
    detail = ""
    proven: VerifiedProof | None = None
    if parsed.envelope_sha256 != envelope.digest or parsed.kind != kind:
        problem = LedgerInconsistentError(f"the proven entry is not about this {kind}", subject=entry)
    elif parsed != (expected := entry_for(envelope, parsed.recorded_at)):
        # Exports list entries, not envelopes: a failure entered as a pass would vanish from the population.
        member = next(
            name for name in type(parsed).model_fields if getattr(parsed, name) != getattr(expected, name)
        )
        problem = LedgerInconsistentError(
            f"the entry's {member.replace('_', ' ')} is {getattr(parsed, member)}, the {kind} gives "
            f"{getattr(expected, member)}",
            subject=entry,
        )
    else:
        for ledger in trust.ledgers:
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
    what = "every file against the closing statement"
    envelope = bundle.closing
    if envelope is None:
        unclosed = VerificationError("the bundle was never closed", subject=names.CLOSING)
        result.add("closing", what, unclosed, "")
        return
    signers = _signature(envelope, trust, result, "bundle")
    if not signers:
        return
    statement = parse_statement(envelope.payload, subject=names.CLOSING)
    if not isinstance(statement.predicate, BundleClosing):
        raise MalformedRecordError(f"holds a {statement.predicate_type}, not a closing", subject=names.CLOSING)
    _judge_keys(signers, trust, "bundle", statement.predicate.created, result)
    found = closing_differences(statement, bundle.digests())
    if statement.predicate.attestation_digest != bundle.attestation.digest:
        found.append("the closing statement is another attestation's")
    if envelope.wrong_hints(signers):  # elsewhere a remark; here nothing else binds the hint, so it was changed
        found.append(f"{names.CLOSING}: its key hint is not the signer's")
    problem = (
        DigestMismatchError("; ".join(found), hint="files of the bundle were changed, added or removed")
        if found
        else None
    )
    result.add("closing", what, problem, f"{len(statement.subjects)} files agree")


def _endorsements(bundle: OpenBundle, trust: Trust, result: Verification) -> None:
    for envelope, statement in bundle.endorsements:
        signers = _signature(envelope, trust, result, "endorsement")
        if not signers:
            continue
        predicate: Any = statement.predicate
        _judge_keys(signers, trust, "endorsement", predicate.created, result)
        same = predicate.attestation_digest == bundle.attestation.digest
        problem = None if same else VerificationError("endorses another attestation", subject=envelope.subject)
        result.add("endorsement", "endorsement against the attestation", problem, predicate.meaning)


def check_report(bundle: OpenBundle, report: Path, result: Verification) -> None:
    """Compare a rendering with the digest in the bundle's closing statement: an edited word shows here.

    Raises:
        NotFoundError: there is no such file.
    """
    what = f"{report.name} against the closing statement"
    found = sha256_file(report)
    closing = bundle.closing
    subjects = parse_statement(closing.payload, subject=names.CLOSING).subjects if closing else ()
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
