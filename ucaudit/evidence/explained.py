"""A policy in sentences, for whoever has to approve it."""

from __future__ import annotations

from ucaudit.evidence.policy import GateRules, MeasurementRules, Policy


def explain(policy: Policy) -> list[str]:
    """What a policy demands, one sentence each."""
    return [
        *_of_measurement(policy),
        *_of_claims(policy),
        *_of_gate(policy.gate),
        *(
            f"Exception: {item.claim} may fail until {item.expires}; {item.owner} answers for it "
            f"({item.rationale.rstrip('.')})."
            for item in policy.gate.exceptions
        ),
    ]


def _of_measurement(policy: Policy) -> list[str]:
    rules, pin = policy.measurement, policy.reference.state_digest
    reference = "The reference may be any: it is not pinned."
    if pin is not None:
        source = f" ({policy.reference.source})" if policy.reference.source else ""
        reference = f"The reference must be the one with state digest {pin[:16]}…{source}."
    return [reference, _text(rules)]


def _text(rules: MeasurementRules) -> str:
    name = f" {rules.corpus}" if rules.corpus else ""
    if rules.corpus_sha256 is None:
        text = f"The text{name} may be any: it is not pinned."
    else:
        text = f"The text must be the one{name and ' called' + name} with SHA-256 {rules.corpus_sha256[:16]}…."
    rows = f" Its rows must be {rules.rows}." if rules.rows is not None else ""
    column = f" Its text must stand in the column {rules.text_column}." if rules.text_column is not None else ""
    return text + rows + column


def _of_claims(policy: Policy) -> list[str]:
    rules, claims = policy.measurement, policy.claims
    lines = [
        f"The pack's perplexity must be at most {claims.ppl_ratio_max:g} times the reference's, at "
        f"{claims.confidence:.1%} confidence, on at least {rules.n} windows of {rules.seq_len} tokens or more "
        f"(seed {rules.seed}, {rules.dtype}).",
    ]
    if claims.mean_kl_max is not None:
        lines.append(f"The mean KL divergence must be at most {claims.mean_kl_max:g} nats a token.")
    if claims.top1_agreement_min is not None:
        lines.append(
            f"The most likely next token must agree for at least {claims.top1_agreement_min:.2%} of tokens."
        )
    if claims.bits_per_weight_max is not None:
        lines.append(f"Compressed tensors must take at most {claims.bits_per_weight_max:g} bits a weight on disk.")
    lines.append("The reconstructed state must equal the state that the pack publishes, if it publishes one.")
    lines.append("A claim that fails is refused; so is one that too little data leaves open.")
    if policy.gate.allow_inconclusive:
        lines[-1] = "A claim that fails is refused; one that too little data leaves open is admitted."
    return lines


def _of_gate(gate: GateRules) -> list[str]:
    lines = [f"The gate refuses evidence older than {gate.max_age_days} days."]
    needs = [f"signatures of {gate.min_signers} distinct key(s)"]
    needs += [f"one in the role {role}" for role in gate.required_roles]
    for rule in gate.thresholds:
        meaning = f" meaning {' or '.join(rule.meanings)}" if rule.meanings else ""
        needs.append(f"{rule.keys} distinct key(s) in the role {rule.role}{meaning}")
    needs += ["a trusted time"] * gate.require_trusted_time
    needs += ["a ledger proof"] * gate.require_ledger + ["a pre-registered plan"] * gate.require_plan
    lines.append(f"The gate requires {', '.join(needs)}.")
    if gate.distinct_signers:
        lines.append(
            "Nobody counts twice: each required role needs another key of another principal, and whoever made the "
            "record counts as its developer only."
        )
    if gate.allowed_codecs:
        lines.append(f"Allowed codecs: {', '.join(gate.allowed_codecs)}.")
    if gate.allowed_profiles:
        lines.append(f"Allowed arithmetic profiles: {', '.join(gate.allowed_profiles)}.")
    if gate.exclude:
        lines.append(f"A record may leave out of the pack: {', '.join(gate.exclude)}.")
    return lines
