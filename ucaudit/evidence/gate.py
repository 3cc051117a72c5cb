"""What a gate demands of authentic evidence, by its own policy. Every rule is reported, each with a stable slug."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ucaudit.core.errors import InconclusiveError, PolicyViolationError
from ucaudit.core.records import Attestation, Claim, Results, parse_time
from ucaudit.core.spans import span_fits
from ucaudit.evidence.checks import Level, Verification
from ucaudit.evidence.claims import BOOTSTRAP_SEED, compute_results, judge_planned
from ucaudit.evidence.policy import Policy
from ucaudit.evidence.signers import count_signers, demanded, eligible, everyone_once, signatures_of
from ucaudit.evidence.times import CLOCK_SKEW

if TYPE_CHECKING:
    from ucaudit.core.tokenvalues import TokenValues


def apply_policy(verification: Verification, policy: Policy, *, at: datetime | None = None) -> tuple[Claim, ...]:
    """Add the policy's checks to a verification that found the evidence authentic.

    Every claim is recomputed from the per-token files against *this* policy, never taken from the record.

    Args:
        verification: of the evidence; its record must be there.
        policy: the gate's own.
        at: the moment to judge ages at; now by default.

    Returns:
        The claims as this policy judges them.
    """
    record = verification.record
    if record is None:
        return ()
    moment = at or datetime.now(UTC)
    rule = _Rules(verification)
    _freshness(record, policy, moment, rule)
    _signers(verification, policy, rule)
    _pins(record, verification, policy, rule)
    _strength(record, verification, policy, rule)
    _history(record, verification, policy, rule)
    values = verification.values
    if values is None:
        rule.remark(
            "claims-by-policy",
            "not-checked",
            "claims by this policy",
            "the per-token files are not the signed ones",
        )
        return ()
    publishes = record.reconstruction.matches_published != "none-published"
    results = _results(verification, values, policy.claims.confidence)
    claims = tuple(
        judge_planned(planned, record, results, values)
        for planned in policy.planned_claims(
            publishes_state=publishes, has_manifest=record.pack.matches_manifest != "no-manifest"
        )
    )
    excused = {item.claim: item for item in policy.exception_records()}
    for claim in claims:
        _claim(claim, excused.get(claim.id), policy, moment, rule)
    _exceptions(claims, policy, moment, rule)
    return claims


def _results(verification: Verification, values: TokenValues, confidence: float) -> Results:
    """Every figure at this confidence. Those that verifying derived are taken if they are the very same."""
    known = verification.rederived
    if known is not None and (known.ratio.confidence, known.bootstrap_seed) == (confidence, BOOTSTRAP_SEED):
        return known
    return compute_results(values, confidence=confidence, seed=BOOTSTRAP_SEED)


class _Rules:
    """Collects one check a rule."""

    def __init__(self, verification: Verification) -> None:
        self._verification = verification

    def __call__(
        self,
        slug: str,
        what: str,
        holds: bool,
        otherwise: str,
        fine: str,
        level: Level = "recorded",
        kind: type[PolicyViolationError] = PolicyViolationError,
    ) -> None:
        problem = None if holds else kind(otherwise, subject=slug)
        self._verification.add(slug, what, problem, fine, level=level)

    @property
    def remark(self) -> Callable[..., None]:
        return self._verification.remark


def _freshness(record: Attestation, policy: Policy, moment: datetime, rule: _Rules) -> None:
    created = parse_time(record.created)
    age = moment - created
    rule(
        "age",
        "age of the evidence",
        age <= timedelta(days=policy.gate.max_age_days),
        f"{age.days} days old, {policy.gate.max_age_days} allowed",
        f"{max(age.days, 0)} days, {policy.gate.max_age_days} allowed",
    )
    rule("future", "time of signing", created - moment <= CLOCK_SKEW, "signed in the future", record.created)


def _signers(verification: Verification, policy: Policy, rule: _Rules) -> None:
    gate, distinct = policy.gate, policy.gate.distinct_signers
    signatures = signatures_of(verification)
    needed, found = gate.min_signers, count_signers(signatures, distinct=distinct)
    unit = "distinct trusted signers"
    rule("signers", unit, found >= needed, f"{found} of {needed} needed", f"{found} of {needed} needed")
    for role in gate.required_roles:
        there = eligible(signatures, role, distinct=distinct)
        own = distinct and not there and bool(eligible(signatures, role, distinct=False))
        problem = f"no signer has the role {role}"
        if own:
            problem = f"only whoever made the record signed in the role {role}"
        rule("role", f"a signature in the role {role}", bool(there), problem, "present")
    for item in gate.thresholds:
        there = eligible(signatures, item.role, distinct=distinct, meanings=item.meanings)
        keys = count_signers(there, distinct=distinct)
        meaning = f" meaning {' or '.join(item.meanings)}" if item.meanings else ""
        rule(
            "threshold",
            f"{item.keys} distinct key(s) in the role {item.role}{meaning}",
            keys >= item.keys,
            f"{keys} of {item.keys} needed",
            f"{keys} of {item.keys} needed",
        )
    if distinct:
        places = demanded(policy, signatures)
        rule(
            "distinct-signers",
            "the demanded signatures against their principals",
            everyone_once(places),
            "one principal would have to count for two of them",
            "nobody counts twice",
        )
    if gate.require_trusted_time:
        seen = verification.times.seen(verification.envelope_digest)
        rule("trusted-time", "a trusted time of signing", seen is not None, "none in the evidence", str(seen))


def _pins(record: Attestation, verification: Verification, policy: Policy, rule: _Rules) -> None:
    pin, found = policy.reference.state_digest, record.reference.state_digest
    if pin is None:
        rule.remark("reference", "warn", "the reference", "not pinned by the policy: a degraded one would flatter")
    else:
        rule(
            "reference",
            "the reference against the pin",
            pin == found,
            f"expected {pin[:16]}…, found {found[:16]}…",
            f"state {pin[:16]}…",
        )
    corpus, measured = policy.measurement.corpus_sha256, record.measurement.corpus.sha256
    if corpus is None:
        rule.remark("corpus", "warn", "the corpus", "not pinned by the policy")
    else:
        rule(
            "corpus",
            "the corpus against the pin",
            corpus == measured,
            f"expected {corpus[:16]}…, found {measured[:16]}…",
            f"sha-256 {corpus[:16]}…",
        )
    column, measured_column = policy.measurement.text_column, record.measurement.corpus.text_column
    if column is not None:
        rule("text-column", "the text's column", column == measured_column, f"found {measured_column}", column)
    rows = record.measurement.corpus.rows
    if policy.measurement.rows is None and rows is not None:
        rule.remark("rows", "warn", "the text's rows", f"{rows}, not pinned by the policy")
    elif policy.measurement.rows is not None:
        fits = rows is not None and span_fits(policy.measurement.rows, rows)
        rule("rows", "the text's rows", fits, f"expected {policy.measurement.rows}, found {rows}", f"rows {rows}")
    allowed = policy.gate.allowed_codecs
    codec = record.pack.codec
    if allowed:
        rule(
            "codec",
            "the codec",
            codec in allowed,
            f"{codec} is not among {', '.join(allowed)}",
            f"{codec}, profile {record.pack.arithmetic_profile}",
        )
    profiles, profile = policy.gate.allowed_profiles, record.pack.arithmetic_profile
    if profiles:
        rule(
            "profile",
            "the arithmetic profile",
            profile in profiles,
            f"{profile} is not among {', '.join(profiles)}",
            profile,
        )
    for check in verification.checks:
        if check.slug == "pack-format" and check.status == "not-checked":
            # The codec and the bits a weight would be the signer's word, with the pack in hand.
            rule("format-checked", check.what, False, check.detail, "")
    excluded = sorted(set(record.pack.excluded) - set(policy.gate.exclude))
    rule(
        "excludes",
        "files left out of the pack digest",
        not excluded,
        f"the record leaves out {', '.join(excluded)}",
        "none beyond the policy's",
    )


def _strength(record: Attestation, verification: Verification, policy: Policy, rule: _Rules) -> None:
    rules, measured = policy.measurement, record.measurement
    seed, passed = measured.seed, {check.slug for check in verification.checks if check.status == "pass"}
    # Outside the ledger a contributor could give many seeds, and the signer use the one that pleases.
    outside = {"seed", "seed-source", "seed-ledger", "plan-seed-order", "seed-order"} <= passed
    rule(
        "seed",
        "the seed that chose the windows",
        outside or seed == rules.seed,
        f"{seed}, the policy sets {rules.seed}; a signer who may choose it may try several",
        f"{seed}, an outside party's" if outside else f"{seed}, the policy's",
    )
    rule("n", "windows", measured.n >= rules.n, f"{measured.n}, at least {rules.n} required", f"{measured.n}")
    rule(
        "seq-len",
        "window length",
        measured.seq_len >= rules.seq_len,
        f"{measured.seq_len}, at least {rules.seq_len} required",
        f"{measured.seq_len} tokens",
    )
    rule(
        "dtype",
        "compute type",
        rules.dtype in (measured.dtype, "bf16"),
        f"{measured.dtype}, {rules.dtype} required",
        measured.dtype,
    )
    rule(
        "confidence",
        "confidence",
        record.results.ratio.confidence >= policy.claims.confidence,
        f"{record.results.ratio.confidence:g}, at least {policy.claims.confidence:g} required",
        f"{record.results.ratio.confidence:g}",
    )


def _history(record: Attestation, verification: Verification, policy: Policy, rule: _Rules) -> None:
    passed = {check.slug for check in verification.checks if check.status == "pass"}
    if policy.gate.require_ledger:
        rule(
            "ledger-required",
            "a proven ledger entry",
            "ledger" in passed,
            "no entry was proven in a trusted ledger",
            "proven",
        )
    if policy.gate.require_plan:
        rule(
            "plan-required",
            "a proven plan",
            {"plan", "plan-ledger"} <= passed,
            "no plan was proven in a trusted ledger",
            "proven",
        )
        # Without the result's own entry nothing shows that the plan was there first.
        rule(
            "plan-first",
            "the plan before the result",
            "plan-order" in passed,
            "the ledger does not show that the plan was entered first",
            "entered first",
        )
        strayed = record.plan.deviations if record.plan else ()
        rule("plan-kept", "deviations from the plan", not strayed, "; ".join(strayed), "none")


def _exceptions(claims: tuple[Claim, ...], policy: Policy, moment: datetime, rule: _Rules) -> None:
    """Every exception of the policy: whether it was used, is over, or excuses nothing."""
    verdicts = {claim.id: claim.verdict for claim in claims}
    for item in policy.exception_records():
        verdict, what = verdicts.get(item.claim), f"the exception for {item.claim}"
        answers = f"{item.owner} answers for it: {item.rationale}"
        if parse_time(item.expires) < moment:
            rule.remark("exception-expired", "warn", what, f"expired at {item.expires}; {answers}")
        elif verdict in (None, "pass"):
            why = "the claim holds" if verdict else "this policy makes no such claim"
            rule.remark("exception-unused", "warn", what, f"not needed, {why}; it ends at {item.expires}")
        elif verdict == "fail" or not policy.gate.allow_inconclusive:
            rule.remark("exception-used", "warn", what, f"used, until {item.expires}; {answers}")


def _claim(claim: Claim, excuse: object, policy: Policy, moment: datetime, rule: _Rules) -> None:
    what = f"claim {claim.id} {claim.comparator} {claim.threshold:g}"
    observed = f"{claim.verdict}: {claim.reason}"
    level: Level = "re-derivable" if claim.level == "re-derivable" else "recorded"
    if claim.verdict == "pass":
        rule(f"claim-{claim.id}", what, True, "", observed, level)
        return
    if claim.verdict == "inconclusive" and policy.gate.allow_inconclusive:
        rule.remark(f"claim-{claim.id}", "warn", what, f"{observed} (admitted by allow_inconclusive)")
        return
    expires = getattr(excuse, "expires", None)
    if expires is not None and parse_time(expires) >= moment:
        owner = getattr(excuse, "owner", "")
        rule.remark(f"claim-{claim.id}", "warn", what, f"{observed} (exception of {owner} until {expires})")
        return
    late = " (its exception has expired)" if expires is not None else ""
    kind = InconclusiveError if claim.verdict == "inconclusive" else PolicyViolationError
    rule(f"claim-{claim.id}", what, False, observed + late, "", level, kind)
