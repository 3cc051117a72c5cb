"""What must hold of the statistics for any values."""

from __future__ import annotations

import math
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ucaudit.core.errors import UcauditError
from ucaudit.core.stats import (
    agreement_interval,
    bootstrap_t_interval,
    judge_at_most,
    percentile,
    t_cdf,
    t_interval,
    t_quantile,
    wilson_interval,
)
from ucaudit.core.tokenvalues import TokenValues

NATS = st.floats(-50, 50, allow_nan=False).map(lambda x: round(x, 6))
SAMPLES = st.lists(NATS, min_size=2, max_size=40)


@given(st.floats(1e-6, 1 - 1e-6), st.floats(1, 1e6))
def test_quantile_inverts_the_distribution(p: float, df: float) -> None:
    t = t_quantile(p, df)
    if p < 0.5:
        assert math.isclose(t_cdf(t, df), p, rel_tol=1e-11)
    else:
        assert math.isclose(1 - t_cdf(t, df), 1 - p, rel_tol=1e-9, abs_tol=1e-15)


@given(st.floats(0.5, 1 - 1e-6), st.floats(1, 1e5))
def test_quantile_is_odd_and_falls_with_the_degrees_of_freedom(p: float, df: float) -> None:
    assert t_quantile(1 - p, df) == -t_quantile(1 - (1 - p), df)
    assert t_quantile(p, df) >= t_quantile(p, 2 * df) * (1 - 1e-12)


@given(SAMPLES, st.floats(0.5, 0.99))
def test_intervals_hold_their_estimate_and_stay_finite(values: list[float], confidence: float) -> None:
    student = t_interval(values, confidence)
    assert student.lower <= student.estimate <= student.upper
    boot = bootstrap_t_interval(values, confidence, seed=1, resamples=200)
    assert boot.estimate == student.estimate
    assert -700 <= boot.lower <= boot.upper <= 700
    assert all(math.isfinite(x) and x > 0 for x in (boot.exp().lower, boot.exp().estimate, boot.exp().upper))


@given(SAMPLES)
def test_mirrored_values_mirror_the_bootstrap(values: list[float]) -> None:
    one = bootstrap_t_interval(values, 0.9, seed=3, resamples=200)
    other = bootstrap_t_interval([-value for value in values], 0.9, seed=3, resamples=200)
    assert (other.lower, other.upper) == (-one.upper, -one.lower)


@given(st.integers(1, 5000), st.data())
def test_wilson_stays_in_the_unit_interval(total: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, total))
    effect = data.draw(st.floats(0.1, 100))
    interval = wilson_interval(successes, total, effect, 0.95)
    assert 0 <= interval.lower <= interval.estimate <= interval.upper <= 1
    assert interval.lower < interval.upper


@given(st.lists(st.integers(0, 20), min_size=2, max_size=30))
def test_agreement_counts_exactly(matches: list[int]) -> None:
    interval = agreement_interval([count / 20 for count in matches], 20, 0.95)
    assert interval.estimate == sum(matches) / (20 * len(matches))
    assert interval.lower <= interval.estimate <= interval.upper


@given(SAMPLES, NATS, st.floats(0, 1))
def test_a_tolerance_never_makes_a_verdict(values: list[float], margin: float, tolerance: float) -> None:
    intervals = [t_interval(values, 0.95)]
    without = judge_at_most(values, margin, intervals).decision
    assert judge_at_most(values, margin, intervals, tolerance=tolerance).decision in (without, "inconclusive")


@given(SAMPLES, NATS, st.floats(0, 10))
def test_a_wider_margin_never_hurts(values: list[float], margin: float, more: float) -> None:
    rank = {"fail": 0, "inconclusive": 1, "pass": 2}
    intervals = [t_interval(values, 0.95)]
    narrow = judge_at_most(values, margin, intervals).decision
    assert rank[judge_at_most(values, margin + more, intervals).decision] >= rank[narrow]


@given(st.lists(NATS, min_size=1, max_size=50), st.floats(0, 100))
def test_percentiles_are_observed_and_ordered(values: list[float], percent: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, percent)
    assert found in values
    assert sum(value <= found for value in values) >= percent / 100 * len(values) - 1e-6


@settings(max_examples=200)
@given(st.lists(st.floats(width=32), min_size=1, max_size=12), st.sampled_from(["reference", "pack", "kl"]))
def test_any_values_are_taken_or_refused_with_our_own_error(floats: list[float], field: str) -> None:
    count = len(floats)
    columns = {name: array("f", [0.0] * count) for name in ("reference", "pack", "kl")}
    columns[field] = array("f", floats)
    values = TokenValues((3,), count, **columns, top1=array("B", bytes(count)))
    try:
        values.check(subject="x")
    except UcauditError:
        return
    assert all(math.isfinite(value) for value in floats)
    assert (min(floats) >= -1.1e-5) if field == "kl" else (max(floats) <= 1.1e-5)
    assert abs(sum(floats)) / count == pytest.approx(0, abs=701)
