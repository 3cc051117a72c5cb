"""From per-token values to figures, and from figures to verdicts. Used to make records and to check them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from ucaudit.core.errors import MalformedRecordError
from ucaudit.core.records import (
    Attestation,
    Claim,
    Determination,
    Interval,
    Measurement,
    Percentile,
    PlannedClaim,
    PolicyExceptionRecord,
    Results,
    parse_time,
)
from ucaudit.core.stats import (
    MINIMUM_WINDOWS,
    RESAMPLES,
    Judgement,
    Sample,
    agreement_interval,
    bootstrap_t_interval,
    design_effect,
    judge_at_most,
    minimum_detectable_drift,
    numerical_tolerance,
    percentile,
    standard_deviation,
    t_interval,
    windows_to_decide,
)
from ucaudit.core.stats import Interval as Estimate
from ucaudit.core.tokenvalues import TokenValues

DIGITS: Final = 12
BOOTSTRAP_SEED: Final = 20_240_229
"""Seed of the bootstrap over windows, the same in every record so that nobody can search for a good one."""
PERCENTS: Final = (50.0, 90.0, 99.0, 99.9, 100.0)
_TEXTS: Final = {
    "pplRatio": "The pack's perplexity is at most {threshold:g} times the reference's.",
    "meanKl": "The mean KL divergence from the reference is at most {threshold:g} nats a token.",
    "top1Agreement": "The most likely next token is the reference's for at least {threshold:.2%} of tokens.",
    "bitsPerWeight": "The compressed tensors take at most {threshold:g} bits a weight on disk.",
    "contradictedFiles": "Every file of the pack is the one that the pack's own manifest claims.",
    "driftedTensors": "Every reconstructed tensor equals the state that the pack publishes.",
}

COMPARATORS: Final = {
    "pplRatio": "<=",
    "meanKl": "<=",
    "top1Agreement": ">=",
    "bitsPerWeight": "<=",
    "contradictedFiles": "==",
    "driftedTensors": "==",
}
"""Metric → the only comparator that it is judged by."""


def window_differences(values: TokenValues) -> list[float]:
    """d_i = mean over the tokens of window i of NLL(pack) − NLL(reference), nats."""
    rows = zip(values.rows(values.reference), values.rows(values.pack), strict=True)
    return [(math.fsum(reference) - math.fsum(pack)) / values.tokens for reference, pack in rows]


def window_means(values: TokenValues, which: Sequence[Sequence[float]]) -> list[float]:
    """The mean of each window."""
    return [math.fsum(row) / values.tokens for row in which]


def ratio_sample(values: TokenValues) -> Sample:
    """The windows' differences of NLL, grouped by document where that is known."""
    return Sample.of(window_differences(values), values.documents)


def kl_sample(values: TokenValues) -> Sample:
    """The windows' mean KL divergences, grouped by document where that is known."""
    return Sample.of(window_means(values, values.rows(values.kl)), values.documents)


def compute_results(values: TokenValues, *, confidence: float, seed: int) -> Results:
    """Every figure of a record, from the per-token values alone.

    Args:
        values: of at least two windows.
        confidence: of the two-sided intervals.
        seed: of the bootstrap over windows.

    Raises:
        InputError: fewer than two windows.
    """
    differences, kl = ratio_sample(values), kl_sample(values)
    ratio = t_interval(differences, confidence)
    agreement = window_means(values, values.rows(values.top1))
    total = values.n * values.tokens
    token_differences = [reference - pack for reference, pack in zip(values.reference, values.pack, strict=True)]
    sorted_kl = sorted(values.kl)
    squares = [(math.exp(b) - math.exp(a)) ** 2 for a, b in zip(values.reference, values.pack, strict=True)]
    return Results(
        windows=values.n,
        documents=differences.n if differences.unit == "documents" else None,
        tokens=total,
        ppl_reference=math.exp(-math.fsum(values.reference) / total),
        ppl_pack=math.exp(-math.fsum(values.pack) / total),
        mean_difference=ratio.estimate,
        sd_difference=standard_deviation(window_differences(values)),
        design_effect=design_effect(differences, token_differences),
        ratio=_record(ratio.exp()),
        ratio_bootstrap=_record(bootstrap_t_interval(differences, confidence, seed=seed).exp()),
        bootstrap_seed=seed,
        bootstrap_resamples=RESAMPLES,
        kl=_record(t_interval(kl, confidence)),
        kl_bootstrap=_record(bootstrap_t_interval(kl, confidence, seed=seed)),
        kl_percentiles=tuple(Percentile(percent=p, value=percentile(sorted_kl, p)) for p in PERCENTS),
        top1=_record(agreement_interval(agreement, values.tokens, confidence, values.documents)),
        rms_delta_p=math.sqrt(math.fsum(squares) / total),
        tv_bound=math.sqrt(max(kl.mean, 0.0) / 2),
        minimum_detectable_drift=minimum_detectable_drift(differences, confidence),
    )


def least_tolerance(measurement: Measurement, values: TokenValues) -> float:
    """The numerical tolerance on ln ratio, nats, that the compute type calls for."""
    return numerical_tolerance(measurement.dtype, values.n * values.tokens)


def tolerance_to_judge_by(measurement: Measurement, values: TokenValues) -> float:
    """The record's own tolerance, but never less than its compute type calls for: a smaller one would flatter."""
    return max(measurement.tolerance, least_tolerance(measurement, values))


def judge_planned(planned: PlannedClaim, record: Attestation, results: Results, values: TokenValues) -> Claim:
    """Judge one claim.

    Args:
        planned: metric, threshold, confidence.
        record: for what no per-token value says: bits a weight, drifted tensors, how it was computed.
        results: of ``values`` at the same confidence.
        values: for the windows' own figures.

    Raises:
        MalformedRecordError: a metric this release does not know, or a threshold that no figure can have.
    """
    interval: Interval | None = None
    threshold = planned.threshold
    _require_judgeable(planned)
    tolerance = tolerance_to_judge_by(record.measurement, values)
    if planned.metric == "pplRatio":
        judgement = judge_at_most(
            ratio_sample(values),
            math.log(threshold),
            [_log(results.ratio), _log(results.ratio_bootstrap)],
            tolerance=tolerance,
        )
        observed, interval = results.ratio.estimate, results.ratio
    elif planned.metric == "meanKl":
        judgement = judge_at_most(
            kl_sample(values),
            threshold,
            [_plain(results.kl), _plain(results.kl_bootstrap)],
            tolerance=tolerance,
        )
        observed, interval = results.kl.estimate, results.kl
    elif planned.metric == "top1Agreement":
        judgement = _at_least(results.top1, threshold, values)
        observed, interval = results.top1.estimate, results.top1
    elif planned.metric == "bitsPerWeight":
        stored = record.pack.bits_per_weight
        observed = stored.compressed_on_disk if stored.compressed_on_disk is not None else stored.whole_on_disk
        judgement = _exact(observed <= threshold, f"{observed:.4f} bits a weight, counted on the pack's files")
    elif planned.metric == "contradictedFiles":
        observed = float(len(record.pack.contradictions))
        judgement = _manifest(record)
    else:
        observed = float(len(record.reconstruction.drifted))
        judgement = _drift(record)
    return Claim(
        id=planned.id,
        text=_TEXTS[planned.metric].format(threshold=threshold),
        metric=planned.metric,
        comparator=planned.comparator,
        threshold=threshold,
        observed=observed,
        interval=interval,
        sample_size=values.n if interval is not None else 0,
        verdict=judgement.decision,
        level="re-derivable" if interval is not None else "recorded-only",
        reason=judgement.reason,
        deciding_n=judgement.deciding_n,
    )


def _require_judgeable(planned: PlannedClaim) -> None:
    """A signed record can name anything. Raises MalformedRecordError."""
    if planned.metric not in COMPARATORS:
        raise MalformedRecordError(
            f"metric {planned.metric[:80]!r} is not known to this release, known are {', '.join(COMPARATORS)}",
            subject=f"claim {planned.id}",
        )
    expected = COMPARATORS[planned.metric]
    if planned.comparator != expected:
        raise MalformedRecordError(
            f"{planned.metric} is judged by {expected}, found {planned.comparator}", subject=f"claim {planned.id}"
        )
    if planned.threshold < 0.0 or (planned.threshold == 0.0 and expected != "=="):
        raise MalformedRecordError(
            f"a threshold above 0 is expected, found {planned.threshold:g}", subject=f"claim {planned.id}"
        )


def judge_all(record: Attestation, results: Results, values: TokenValues) -> tuple[Claim, ...]:
    """A record's own claims, judged again at its own confidence."""
    return tuple(
        judge_planned(
            PlannedClaim(
                id=claim.id,
                metric=claim.metric,
                comparator=claim.comparator,
                threshold=claim.threshold,
                confidence=results.ratio.confidence,
            ),
            record,
            results,
            values,
        )
        for claim in record.claims
    )


def determine(claims: Sequence[Claim], exceptions: Sequence[PolicyExceptionRecord], created: str) -> Determination:
    """One word for all claims: a failure outweighs an open question, an exception excuses until it expires."""
    at = parse_time(created)
    excused = {item.claim for item in exceptions if parse_time(item.expires) >= at}
    open_claims = [claim for claim in claims if claim.verdict != "pass"]
    if not open_claims:
        return "pass"
    unexcused = [claim for claim in open_claims if claim.id not in excused]
    if not unexcused:
        return "pass-with-exceptions"
    return "fail" if any(claim.verdict == "fail" for claim in unexcused) else "inconclusive"


def differences(signed: Results, again: Results) -> list[str]:
    """Figures that do not agree to :data:`DIGITS` significant digits: sentences, empty if all agree."""
    found: list[str] = []
    compare_values("results", signed.model_dump(), again.model_dump(), found)
    return found


def compare_values(place: str, signed: object, again: object, found: list[str]) -> None:
    """Add a sentence to ``found`` for every member of ``signed`` that ``again`` does not have to so many digits."""
    if isinstance(signed, dict) and isinstance(again, dict):
        for key in signed:
            compare_values(f"{place}.{key}", signed[key], again.get(key), found)
    elif isinstance(signed, list | tuple) and isinstance(again, list | tuple) and len(signed) == len(again):
        for index, (one, two) in enumerate(zip(signed, again, strict=True)):
            compare_values(f"{place}.{index}", one, two, found)
    elif isinstance(signed, float) and isinstance(again, float):
        if f"{signed:.{DIGITS - 1}e}" != f"{again:.{DIGITS - 1}e}" and not math.isclose(
            signed, again, rel_tol=10.0**-DIGITS, abs_tol=1e-15
        ):
            found.append(f"{place}: signed {signed!r}, re-derived {again!r}")
    elif signed != again:
        found.append(f"{place}: signed {signed!r}, re-derived {again!r}")


def _exact(holds: bool, reason: str) -> Judgement:
    return Judgement("pass" if holds else "fail", reason, None)


def _drift(record: Attestation) -> Judgement:
    reconstruction = record.reconstruction
    if reconstruction.matches_published == "none-published":
        return Judgement("inconclusive", "the pack publishes no state to compare with", None)
    if reconstruction.matches_published == "yes":
        return Judgement("pass", f"all {reconstruction.tensors} tensors equal the published state", None)
    return Judgement("fail", f"{len(reconstruction.drifted)} tensor(s) drifted from the published state", None)


def _manifest(record: Attestation) -> Judgement:
    pack = record.pack
    if pack.contradictions:
        return Judgement(
            "fail", f"{len(pack.contradictions)} claim(s) contradicted: {pack.contradictions[0]}", None
        )
    if pack.matches_manifest == "yes":
        return Judgement("pass", "no file contradicts the pack's manifest", None)
    return Judgement("inconclusive", "the record names no manifest to compare with", None)


def _at_least(interval: Interval, threshold: float, values: TokenValues) -> Judgement:
    shares = window_means(values, values.rows(values.top1))
    sample = Sample.of([-share for share in shares], values.documents)
    if interval.upper < threshold:
        return Judgement("fail", "the interval lies below the threshold", None)
    needed = windows_to_decide(sample, -threshold, interval.confidence)
    if interval.lower >= threshold:
        if sample.n >= MINIMUM_WINDOWS:
            return Judgement("pass", "the interval lies at or above the threshold", None)
        reason = f"{sample.n} {sample.unit} are too few to pass: at least {MINIMUM_WINDOWS} are needed"
        return Judgement("inconclusive", reason, needed)
    if needed is None:
        reason = "the share lies on the threshold: no number of windows would decide"
        return Judgement("inconclusive", reason, None)
    needed = max(needed, values.n + 1)
    towards = "pass" if interval.estimate > threshold else "fail"
    reason = f"the interval spans the threshold; about {needed} windows would decide (as things stand: {towards})"
    return Judgement("inconclusive", reason, needed)


def _record(estimate: Estimate) -> Interval:
    return Interval(
        estimate=estimate.estimate,
        lower=estimate.lower,
        upper=estimate.upper,
        confidence=estimate.confidence,
        method=estimate.method,
    )


def _plain(interval: Interval) -> Estimate:
    return Estimate(interval.estimate, interval.lower, interval.upper, interval.confidence, interval.method)


def _log(interval: Interval) -> Estimate:
    return Estimate(
        math.log(interval.estimate),
        math.log(interval.lower),
        math.log(interval.upper),
        interval.confidence,
        interval.method,
    )


def draft_claims(planned: Sequence[PlannedClaim]) -> tuple[Claim, ...]:
    """Claims that are not judged yet, for a record under construction."""
    return tuple(
        Claim(
            id=item.id,
            text=_TEXTS[item.metric].format(threshold=item.threshold),
            metric=item.metric,
            comparator=item.comparator,
            threshold=item.threshold,
            observed=0.0,
            interval=None,
            sample_size=0,
            verdict="inconclusive",
            level="recorded-only",
            reason="not judged yet",
            deciding_n=None,
        )
        for item in planned
    )
