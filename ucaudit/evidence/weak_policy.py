"""Settings of a policy that are weak or defeat themselves: allowed, and worth a word."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import Final

from ucaudit.core.records import parse_time
from ucaudit.evidence.policy import CLAIM_IDS, MINIMUM_WINDOWS, ClaimRules, Policy

SHORT_WINDOW: Final = 128
"""Tokens a window, below which a measurement is far from how a model is used."""
LAX_RATIO: Final = 1.1
LOW_CONFIDENCE: Final = 0.9
LONG_AGE: Final = 730
"""Days."""
LONG_EXCEPTION: Final = 730
"""Days."""
_PROFILE: Final = re.compile(r"[^/]+/[1-9][0-9]*")


def warnings(policy: Policy, *, at: datetime | None = None, codecs: Collection[str] = ()) -> list[str]:
    """Settings that are weak or defeat themselves, as sentences.

    Args:
        policy: any.
        at: the moment to judge dates at; now by default.
        codecs: the formats that can be reconstructed here, to find misspelt ones; none are looked for without it.
    """
    return [
        *_of_measurement(policy),
        *_of_claims(policy),
        *_of_gate(policy),
        *_of_codecs(policy, codecs),
        *_of_exceptions(policy, at),
    ]


def _of_measurement(policy: Policy) -> list[str]:
    found = []
    rules = policy.measurement
    if policy.reference.state_digest is None:
        found.append("no [reference] state_digest: a degraded reference would give a ratio near 1 and pass")
    if rules.corpus_sha256 is None:
        found.append("no [measurement] corpus_sha256: the signer may choose a text that flatters the pack")
    if rules.n < MINIMUM_WINDOWS:
        found.append(f"n = {rules.n} is below {MINIMUM_WINDOWS}: no claim can pass")
    if rules.seq_len < SHORT_WINDOW:
        found.append(
            f"seq_len = {rules.seq_len}: tokens with so little before them say nothing of a model's use; "
            f"take {SHORT_WINDOW} or more"
        )
    return found


def _of_claims(policy: Policy) -> list[str]:
    found = []
    rules, claims = policy.measurement, policy.claims
    half_width = 0.005 * 2.05 / math.sqrt(max(rules.n, 2))
    if claims.ppl_ratio_max <= 1:
        found.append("ppl_ratio_max of 1 or less: only a pack better than its reference could pass")
    elif math.log(claims.ppl_ratio_max) < half_width:
        found.append(
            f"ppl_ratio_max = {claims.ppl_ratio_max:g} leaves less than a typical half-width of "
            f"{half_width:.4f} at n = {rules.n}: expect inconclusive"
        )
    found += _of_margin(claims, half_width, rules.n)
    if claims.ppl_ratio_max > LAX_RATIO:
        found.append(
            f"ppl_ratio_max = {claims.ppl_ratio_max:g} lets a pack pass whose perplexity is "
            f"{claims.ppl_ratio_max - 1:.0%} worse than its reference's"
        )
    if claims.confidence < LOW_CONFIDENCE:
        found.append(
            f"confidence = {claims.confidence:g}: of packs just beyond the limit, "
            f"{(1 - claims.confidence) / 2:.0%} would pass by chance; 0.95 is usual"
        )
    if claims.bits_per_weight_max is not None and claims.bits_per_weight_max >= 16:
        found.append(f"bits_per_weight_max = {claims.bits_per_weight_max:g}: a bf16 checkpoint would meet it")
    return found


def _of_margin(claims: ClaimRules, half_width: float, n: int) -> list[str]:
    """The margin beside what the vendor publishes. The interval must lie below it, not only the estimate."""
    vendor, margin = claims.vendor_ppl_ratio, claims.ppl_ratio_max
    if vendor is None:
        return [
            "no [claims] vendor_ppl_ratio: nothing says whether ppl_ratio_max leaves room above the vendor's own "
            "point estimate"
        ]
    if margin < vendor:
        return [
            f"ppl_ratio_max = {margin:g} is below the vendor's own {vendor:g}: a pack that is what its vendor says "
            "is refused"
        ]
    if margin == vendor:
        return [
            f"ppl_ratio_max = {margin:g} is the vendor's own point estimate: even a pack that is exactly what its "
            "vendor says passes by chance only; leave room for the interval"
        ]
    if math.log(margin / vendor) < half_width:
        return [
            f"ppl_ratio_max = {margin:g} is closer to the vendor's {vendor:g} than a typical half-width of "
            f"{half_width:.4f} at n = {n}: expect inconclusive"
        ]
    return []


def _of_codecs(policy: Policy, codecs: Collection[str]) -> list[str]:
    gate, found = policy.gate, []
    if not gate.allowed_codecs and not gate.allowed_profiles:
        found.append("no allowed_codecs and no allowed_profiles: a pack may be of any format, decoded in any way")
    for name in gate.allowed_codecs:
        if codecs and name not in codecs:
            close = get_close_matches(name, codecs, n=1)
            hint = f"; did you mean {close[0]}" if close else ""
            found.append(f"allowed_codecs has {name}, which no codec here reconstructs{hint}")
    for name in gate.allowed_profiles:
        if not _PROFILE.fullmatch(name):
            found.append(f"allowed_profiles has {name}: a profile's name ends in its version, like ucq-f32-bf16/1")
    return found


def _of_gate(policy: Policy) -> list[str]:
    found = []
    gate = policy.gate
    if gate.max_age_days > LONG_AGE:
        found.append(
            f"max_age_days = {gate.max_age_days}: evidence of {gate.max_age_days / 365.25:.1f} years counts"
        )
    for item in gate.exclude:
        if not item.startswith("."):
            found.append(
                f"exclude {item}: what lies there is in no digest, so a change to it is never seen; leave out only "
                "what nobody loads, such as .git/"
            )
    roles = {*gate.required_roles, *(item.role for item in gate.thresholds)}
    if roles - {"developer"} and not gate.distinct_signers:
        found.append(
            "distinct_signers = false: one key with two roles could make the record and vouch for it as well"
        )
    if gate.distinct_signers and not roles and gate.min_signers < 2:
        found.append("distinct_signers without a required role or min_signers of 2 demands nothing")
    if gate.allow_inconclusive:
        found.append("allow_inconclusive: the gate admits packs whose claim was never shown to hold")
    if not gate.require_ledger:
        found.append("require_ledger = false: an unfavourable result can be dropped and measured again")
    return found


def _of_exceptions(policy: Policy, at: datetime | None) -> list[str]:
    found = []
    moment = at or datetime.now(UTC)
    made = {claim.id for claim in policy.planned_claims(publishes_state=True, has_manifest=True)}
    for item in policy.gate.exceptions:
        if item.claim not in made:
            known = item.claim in CLAIM_IDS
            close = get_close_matches(item.claim, CLAIM_IDS, n=1)
            hint = f"; did you mean {close[0]}" if close and not known else ""
            found.append(
                f"exception for {item.claim}: this policy makes no such claim, so it excuses nothing{hint}"
            )
        until = parse_time(item.expires)
        if until < moment:
            found.append(f"exception for {item.claim}: it expired at {item.expires}")
        elif until - moment > timedelta(days=LONG_EXCEPTION):
            found.append(
                f"exception for {item.claim}: in force until {item.expires}, more than "
                f"{LONG_EXCEPTION // 365} years: that is no exception"
            )
    return found
