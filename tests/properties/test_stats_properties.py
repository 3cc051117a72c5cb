"""What must hold of the statistics for any values."""

from __future__ import annotations

import math
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ucaudit.core import tokenvalues
from ucaudit.core.errors import UcauditError
from ucaudit.core.stats import (
    Sample,
    agreement_interval,
    bootstrap_t_interval,
    holm,
    improvement,
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


# --- samples of units --------------------------------------------------------------------------------------
GROUPED = st.lists(st.tuples(NATS, st.integers(0, 8)), min_size=2, max_size=40).map(
    lambda items: sorted(items, key=lambda item: item[1])
)


def sample_of(items: list[tuple[float, int]]) -> Sample:
    return Sample.of([value for value, _ in items], [document for _, document in items])


@given(GROUPED, st.randoms(use_true_random=False))
def test_the_order_of_windows_and_documents_does_not_matter(items: list[tuple[float, int]], shuffle) -> None:
    mixed = list(items)
    shuffle.shuffle(mixed)
    one, other = sample_of(items), sample_of(mixed)
    assert (one.n, one.unit) == (other.n, other.unit)
    assert math.isclose(one.mean, other.mean, rel_tol=1e-14, abs_tol=1e-14)
    assert math.isclose(one.error, other.error, rel_tol=1e-9, abs_tol=1e-13)


@given(SAMPLES, st.randoms(use_true_random=False))
def test_the_order_of_windows_changes_no_bit_of_the_t_interval(values: list[float], shuffle) -> None:
    mixed = list(values)
    shuffle.shuffle(mixed)
    assert t_interval(mixed, 0.95) == t_interval(values, 0.95)


@given(GROUPED, st.integers(-40, 40))
def test_a_constant_moves_every_end_by_itself(items: list[tuple[float, int]], constant: int) -> None:
    one, other = sample_of(items), sample_of([(value + constant, document) for value, document in items])
    for estimate in (
        lambda sample: t_interval(sample, 0.9),
        lambda sample: bootstrap_t_interval(sample, 0.9, seed=2, resamples=100),
    ):
        before, after = estimate(one), estimate(other)
        for name in ("lower", "estimate", "upper"):
            end = getattr(before, name)
            if abs(end) < 600:  # not one that nothing bounds
                assert math.isclose(getattr(after, name), end + constant, rel_tol=1e-7, abs_tol=1e-6)


@given(GROUPED, st.integers(-8, 8))
def test_the_unit_of_the_values_does_not_matter(items: list[tuple[float, int]], power: int) -> None:
    one, scale = sample_of(items), 2.0**power
    other = sample_of([(value * scale, document) for value, document in items])
    assert (other.mean, other.error) == (one.mean * scale, one.error * scale)
    assert t_interval(other, 0.9).upper == t_interval(one, 0.9).upper * scale


@given(GROUPED, st.floats(0.5, 0.98), st.floats(0.001, 0.01))
def test_more_confidence_is_a_wider_interval(
    items: list[tuple[float, int]], confidence: float, more: float
) -> None:
    sample = sample_of(items)
    for estimate in (t_interval, lambda s, c: bootstrap_t_interval(s, c, seed=2, resamples=500)):
        narrow, wide = estimate(sample, confidence), estimate(sample, confidence + more)
        assert wide.lower <= narrow.lower <= narrow.upper <= wide.upper


@given(SAMPLES, st.integers(2, 5))
def test_repeating_every_window_within_its_document_changes_nothing(values: list[float], times: int) -> None:
    """Copies are no information: the interval over documents stays what it was."""
    copied = [value for value in values for _ in range(times)]
    sample = Sample.of(copied, [index // times for index in range(len(copied))])
    one, other = t_interval(values, 0.95), t_interval(sample, 0.95)
    for name in ("lower", "estimate", "upper"):
        assert math.isclose(getattr(one, name), getattr(other, name), rel_tol=1e-9, abs_tol=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_the_value_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, found in zip(p_values, adjusted, strict=True):
        assert p <= found <= min(1.0, len(p_values) * p) or math.isclose(found, p)
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    assert [adjusted[index] for index in order] == sorted(adjusted)


@given(st.lists(st.lists(NATS, min_size=3, max_size=3), min_size=1, max_size=6), NATS)
def test_an_improvement_is_antisymmetric(runs: list[list[float]], shift: float) -> None:
    moved = [[value + shift for value in row] for row in runs]
    one, other = improvement(runs, moved), improvement(moved, runs)
    assert math.isclose(one.estimate, -shift, rel_tol=1e-9, abs_tol=1e-9)
    assert math.isclose(one.estimate, -other.estimate, abs_tol=1e-12)
    assert math.isclose(one.error, other.error, rel_tol=1e-9, abs_tol=1e-12)


# --- joining shares ----------------------------------------------------------------------------------------
def part(windows: list[int], tokens: int = 2) -> TokenValues:
    count = len(windows) * tokens
    numbers = [window + position / 8 for window in windows for position in range(tokens)]
    return TokenValues(
        tuple(windows),
        tokens,
        array("f", [-number for number in numbers]),
        array("f", [-number / 2 for number in numbers]),
        array("f", numbers),
        array("B", [int(number * 8) % 2 for number in numbers][:count]),
        tuple(window // 3 for window in windows),
    )


@given(st.sets(st.integers(0, 60), min_size=3, max_size=30), st.data())
def test_joining_shares_is_associative_and_commutative(windows: set[int], data: st.DataObject) -> None:
    whole = part(sorted(windows))
    owner = {window: data.draw(st.integers(0, 2)) for window in windows}
    parts = [part(sorted(w for w in windows if owner[w] == index)) for index in range(3)]
    parts = [item for item in parts if item.n]
    join = tokenvalues.join
    assert join(parts) == join(parts[::-1]) == whole
    if len(parts) == 3:
        a, b, c = parts
        assert join([join([a, b]), c]) == join([a, join([b, c])]) == whole
    with pytest.raises(UcauditError, match="is there twice"):
        join([*parts, parts[0]])
