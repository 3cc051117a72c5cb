"""Offline verification of a floor's bundle, after the signature on its record held."""

from __future__ import annotations

from ucaudit.core.errors import MalformedRecordError, VerificationError
from ucaudit.core.records import Floor, FloorPlan, Statement
from ucaudit.evidence import bundle as names
from ucaudit.evidence.authentic import find_signers, judge_keys
from ucaudit.evidence.bundle import OpenBundle
from ucaudit.evidence.checks import Verification
from ucaudit.evidence.floors.contents import check_floor_contents
from ucaudit.evidence.keys import PublicKey
from ucaudit.evidence.registered import Placed, check_entry, check_order
from ucaudit.evidence.signing import read_statement
from ucaudit.evidence.stamps import collect_times
from ucaudit.evidence.trust import Trust


def verify_floor(
    bundle: OpenBundle, statement: Statement, signers: tuple[PublicKey, ...], trust: Trust, result: Verification
) -> None:
    """Check everything of a floor's bundle but endorsements and closing.

    Args:
        bundle: opened.
        statement: of its record, whose signature held.
        signers: the trusted keys that made it.
        trust: the verifier's own trust file.
        result: gets the checks.

    Raises:
        InputError: something is malformed, so that nothing can be said.
    """
    record = statement.predicate
    assert isinstance(record, Floor)
    result.floor = record
    collect_times(bundle, trust, result)
    placed = check_entry(bundle, bundle.attestation, "floor", trust, result)
    result.signers = judge_keys(signers, bundle.attestation, trust, "floor", record.created, result)
    check_floor_contents(bundle, statement, record, result)
    check_order(_plan(bundle, record, trust, result), placed, ("plan", "result"), result)


def floor_deviations(plan: FloorPlan, record: Floor) -> tuple[str, ...]:
    """What was done otherwise than planned: sentences, empty if nothing."""
    corpus = record.measurement.corpus
    pairs: list[tuple[str, object, object]] = [
        ("reference", plan.reference_files_digest, record.reference.files_digest),
        ("corpus", plan.corpus_sha256, corpus.sha256),
        ("text column", plan.text_column, corpus.text_column),
        ("rows", plan.rows, corpus.rows),
        ("calibration text", plan.calibration.sha256, record.calibration.sha256),
    ]
    found = [f"{name}: planned {planned}, done {done}" for name, planned, done in pairs if planned != done]
    before, after = plan.protocol.model_dump(), record.protocol.model_dump()
    found += [
        f"protocol.{name}: planned {before[name]}, done {after[name]}"
        for name in before
        if before[name] != after[name]
    ]
    return tuple(found)


def _plan(bundle: OpenBundle, record: Floor, trust: Trust, result: Verification) -> Placed | None:
    envelope = bundle.envelope(names.PLAN)
    if envelope is None:
        return None  # the artefact check says that it is missing
    signers = find_signers(envelope, trust, result, "floorplan")
    if not signers:
        return None
    plan = read_statement(envelope).predicate
    if not isinstance(plan, FloorPlan):
        raise MalformedRecordError("not the plan of a floor", subject=names.PLAN)
    proven = check_entry(bundle, envelope, "floorplan", trust, result)
    judge_keys(signers, envelope, trust, "floorplan", plan.created, result)
    found = floor_deviations(plan, record)
    hidden = sorted(set(found) - set(record.plan.deviations))
    problem = VerificationError(f"undeclared deviation: {hidden[0]}", subject="plan") if hidden else None
    result.add("plan", "plan against what was done", problem, "as planned" if not found else "; ".join(found))
    return proven
