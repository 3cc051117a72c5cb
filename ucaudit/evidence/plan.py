"""Pre-registration: what a plan commits to, and how a result can deviate from it."""

from __future__ import annotations

from ucaudit import __version__
from ucaudit.core.records import Abandonment, Attestation, Plan, Statement, Subject, Tool, make_statement, now


def deviations(plan: Plan, record: Attestation, *, seed: int | None = None) -> tuple[str, ...]:
    """What was done otherwise than planned: sentences, empty if nothing.

    Args:
        plan: what was committed to.
        record: the result.
        seed: for a plan that left the seed to an outside party, the seed that follows from its contribution; None
            if there was none. Otherwise the plan's own counts.
    """
    measured = record.measurement
    planned_seed: object = plan.seed
    if plan.outside_seed:
        planned_seed = "an outside party's, which was not contributed" if seed is None else seed
    pairs: list[tuple[str, object, object]] = [
        ("pack", plan.pack.pack_digest, record.pack.pack_digest),
        ("arithmetic profile", plan.pack.arithmetic_profile, record.pack.arithmetic_profile),
        ("reference", plan.reference_files_digest, record.reference.files_digest),
        ("corpus", plan.corpus_sha256, measured.corpus.sha256),
        ("n", plan.n, measured.n),
        ("seq_len", plan.seq_len, measured.seq_len),
        ("seed", planned_seed, measured.seed),
        ("dtype", plan.dtype, measured.dtype),
        ("policy", plan.policy_sha256, record.policy.sha256),
    ]
    found = [f"{name}: planned {planned}, done {done}" for name, planned, done in pairs if planned != done]
    judged = {claim.id: (claim.metric, claim.comparator, claim.threshold) for claim in record.claims}
    planned_claims = {claim.id: (claim.metric, claim.comparator, claim.threshold) for claim in plan.claims}
    found += [
        f"claim {name}: planned, not judged as planned"
        for name in planned_claims
        if judged.get(name) != planned_claims[name]
    ]
    found += [f"claim {name}: not planned" for name in judged if name not in planned_claims]
    confidences = {claim.confidence for claim in plan.claims}
    if confidences != {record.results.ratio.confidence}:
        found.append(f"confidence: planned {sorted(confidences)}, done {record.results.ratio.confidence}")
    if plan.perturbations:
        found.append(f"perturbations: {len(plan.perturbations)} planned, this result is about the pack alone")
    return tuple(found)


def plan_statement(plan: Plan) -> Statement:
    """The statement to sign: its subjects are the pack, the reference and the corpus."""
    return make_statement(
        plan,
        [
            Subject("pack.SHA256SUMS", plan.pack.pack_digest),
            Subject("reference.SHA256SUMS", plan.reference_files_digest),
            Subject("corpus", plan.corpus_sha256),
        ],
    )


def abandonment_statement(plan_digest: str, reason: str) -> Statement:
    """The statement that closes a plan without a result."""
    tool = Tool(name="ucaudit", version=__version__)
    predicate = Abandonment(created=now(), tool=tool, plan_digest=plan_digest, reason=reason)
    return make_statement(predicate, [Subject("plan.dsse.json", plan_digest)])
