"""Intervals over windows: values worked out by hand or by a plain second implementation."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ucaudit.core.errors import InputError
from ucaudit.core.stats import (
    UNBOUNDED,
    Interval,
    agreement_interval,
    bootstrap_t_interval,
    design_effect,
    mean,
    percentile,
    standard_deviation,
    t_interval,
    wilson_interval,
)
from ucaudit.core.stats.bootstrap import _even
from ucaudit.core.stats.resampling import resample_blocks

DRAW = random.Random(11)
D = [round(DRAW.gauss(0.005, 0.004), 6) for _ in range(30)]
SKEWED = [round(math.exp(random.Random(index).gauss(0, 1)) / 100, 8) for index in range(30)]
PINNED = "1.101138365098e-02 3.629447460240e-02"


def plain_bootstrap(values: list[float], confidence: float, seed: int, resamples: int) -> tuple[float, float]:
    """The written specification, step by step, without any of the product's shortcuts."""
    n = len(values)
    centre = math.fsum(values) / n
    spread = math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (n - 1))
    stream = random.Random(seed)
    statistics = []
    for _ in range(resamples):
        x = [values[int(stream.random() * n)] - centre for _ in range(n)]
        s, q = math.fsum(x), math.fsum(v * v for v in x)
        left = q - s * s / n
        if left <= 1e-12 * (n - 1) * spread * spread:
            statistics.append(0.0 if s == 0 else math.copysign(math.inf, s))
        else:
            statistics.append((s / n) / math.sqrt(left / (n - 1) / n))
    statistics.sort()
    k = math.floor((1 - confidence) / 2 * (resamples + 1))
    se = spread / math.sqrt(n)
    return centre - statistics[resamples - k] * se, centre - statistics[k - 1] * se


def test_t_interval_by_hand() -> None:
    # mean 2, s 1, n 3: half-width t(0.975, 2)/sqrt(3) = 4.302652729749464/1.7320508...
    interval = t_interval([1.0, 2.0, 3.0], 0.95)
    assert interval.estimate == 2.0
    assert math.isclose(interval.upper - 2.0, 4.302652729749464 / math.sqrt(3), rel_tol=1e-13)
    assert math.isclose(interval.lower, 4.0 - interval.upper, rel_tol=1e-13)


@pytest.mark.parametrize("values", [D, SKEWED, D[:7]])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_bootstrap_follows_its_specification_bit_for_bit(values: list[float], confidence: float) -> None:
    interval = bootstrap_t_interval(values, confidence, seed=42, resamples=2000)
    assert (interval.lower, interval.upper) == plain_bootstrap(values, confidence, 42, 2000)


def test_bootstrap_in_blocks_draws_the_same_stream() -> None:
    draw = random.Random(5)
    values = [draw.gauss(0, 1) for _ in range(300)]
    interval = bootstrap_t_interval(values, 0.95, seed=7)  # 3 million draws: more than one block
    assert (interval.lower, interval.upper) == plain_bootstrap(values, 0.95, 7, 10_000)


HEAVY = [math.copysign(abs(DRAW.gauss(0, 1)) ** 9, DRAW.gauss(0, 1)) for _ in range(40)]
FEW_DIFFER = [0.0] * 20 + [0.01] * 3 + [0.010000000000000002] * 2
FAR_FROM_ZERO = [1e6 + 1e-7 * DRAW.gauss(0, 1) for _ in range(30)]
COIN = [float(index % 2) for index in range(24)]


@pytest.mark.parametrize("values", [HEAVY, FEW_DIFFER, FAR_FROM_ZERO, COIN, D[:2], D[:3]])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_approximations_never_change_the_outcome(values: list[float], seed: int) -> None:
    # Ends among many equal statistics, beside an outlier that decides the spread, at the edge of rounding.
    for confidence in (0.5, 0.9, 0.99):
        interval = bootstrap_t_interval(values, confidence, seed=seed, resamples=1999)
        low, high = plain_bootstrap(values, confidence, seed, 1999)
        assert (interval.lower, interval.upper) == (max(low, -UNBOUNDED), min(high, UNBOUNDED))


@given(
    st.lists(st.integers(-(10**6), 10**6).map(lambda i: i**3 * 1e-15), min_size=2, max_size=12, unique=True),
    st.integers(0, 99),
)
def test_approximations_never_change_the_outcome_of_any_values(values: list[float], seed: int) -> None:
    interval = bootstrap_t_interval(values, 0.9, seed=seed, resamples=399)
    low, high = plain_bootstrap(values, 0.9, seed, 399)
    assert (interval.lower, interval.upper) == (max(low, -UNBOUNDED), min(high, UNBOUNDED))


@pytest.mark.parametrize("scale", [1e-140, 1e-110, 1e-100, 1e90, 1e103, 1e110, 1e130])
def test_approximations_of_values_of_any_size(scale: float) -> None:
    for values in ([0.0] * 8 + [1.0], [-3.3, -7.7, 16.1, 4.9, 0.1], COIN, HEAVY):
        scaled = [value * scale for value in values]
        for confidence in (0.5, 0.9):
            interval = bootstrap_t_interval(scaled, confidence, seed=1, resamples=999)
            low, high = plain_bootstrap(scaled, confidence, 1, 999)
            assert (interval.lower, interval.upper) == (max(low, -UNBOUNDED), min(high, UNBOUNDED))


def test_approximations_keep_their_margin() -> None:
    tiny = [value * 1e-137 for value in D]
    for values in (D, SKEWED, HEAVY, FEW_DIFFER, tiny):
        statistic = _even(values)
        assert statistic.quick is not None
        for block in resample_blocks(len(values), 5, 3000):
            for near, exact in zip(statistic.approximate(block), statistic.exact(block), strict=True):
                assert near == exact or abs(near - exact) <= statistic.margin / 4
        assert 0 < statistic.margin < 1e-6


def test_bootstrap_is_pinned() -> None:
    interval = bootstrap_t_interval(SKEWED, 0.95, seed=1)
    assert interval.method == "bootstrap-t over windows, 10000 resamples"
    assert f"{interval.lower:.12e} {interval.upper:.12e}" == PINNED


def test_bootstrap_depends_on_the_seed_and_not_on_the_unit() -> None:
    one, other = (bootstrap_t_interval(SKEWED, 0.95, seed=seed, resamples=500) for seed in (1, 2))
    assert one.upper != other.upper
    scaled = bootstrap_t_interval([value * 1024 for value in SKEWED], 0.95, seed=1, resamples=500)
    assert scaled.upper == one.upper * 1024


def test_bootstrap_widens_on_the_side_of_the_long_tail() -> None:
    boot, student = bootstrap_t_interval(SKEWED, 0.95, seed=3), t_interval(SKEWED, 0.95)
    assert boot.upper > student.upper
    assert boot.lower > student.lower


def test_equal_windows_collapse_to_a_point() -> None:
    for value in (0.0, 0.1, -3e-9):
        values = [value] * 30
        assert standard_deviation(values) == 0.0
        for interval in (t_interval(values, 0.95), bootstrap_t_interval(values, 0.95, seed=0)):
            assert interval.lower == interval.estimate == interval.upper == mean(values)


def test_one_window_that_differs_cannot_be_bounded() -> None:
    # A third of the resamples misses the odd window and has no spread: no t* bounds the mean from above.
    interval = bootstrap_t_interval([0.0] * 29 + [0.01], 0.95, seed=0)
    assert interval.upper == UNBOUNDED
    assert interval.method.endswith("unbounded")
    assert interval.exp().upper == math.exp(700)


def test_two_windows_are_unbounded_on_both_sides() -> None:
    interval = bootstrap_t_interval([0.001, 0.002], 0.95, seed=0)
    assert (interval.lower, interval.upper) == (-UNBOUNDED, UNBOUNDED)


@pytest.mark.parametrize("function", [standard_deviation, lambda v: t_interval(v, 0.95)])
@pytest.mark.parametrize("values", [[], [1.0]])
def test_below_two_windows_there_is_no_interval(function, values: list[float]) -> None:
    with pytest.raises(InputError, match=f"at least 2 windows, found {len(values)}"):
        function(values)
    with pytest.raises(InputError, match="at least 2 windows"):
        bootstrap_t_interval(values, 0.95, seed=0)
    with pytest.raises(InputError, match="at least 2 windows"):
        agreement_interval(values, 10, 0.95)


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, 1.5, math.nan])
def test_confidence_out_of_range(confidence: float) -> None:
    with pytest.raises(InputError, match="confidence"):
        t_interval([1.0, 2.0], confidence)
    with pytest.raises(InputError, match="confidence"):
        bootstrap_t_interval([1.0, 2.0], confidence, seed=0)


def test_bootstrap_refuses_what_it_cannot_resolve() -> None:
    with pytest.raises(InputError, match="cannot resolve"):
        bootstrap_t_interval(D, 0.9999, seed=0)
    with pytest.raises(InputError, match="seed"):
        bootstrap_t_interval(D, 0.95, seed=-1)


def test_exp_stays_finite() -> None:
    interval = Interval(0.0, -1e9, 1e9, 0.95, "x").exp()
    assert 0 < interval.lower < 1e-300
    assert 1e300 < interval.upper < math.inf


def test_wilson_by_hand() -> None:
    # 81 of 263, z = 1.96: Newcombe (1998) gives 0.2553 to 0.3662.
    interval = wilson_interval(81, 263, 1.0, 0.95)
    assert (round(interval.lower, 4), round(interval.upper, 4)) == (0.2553, 0.3662)


def test_agreement_counts_tokens_as_the_windows_allow() -> None:
    clustered = [1.0] * 15 + [0.8] * 15  # half of the windows lose a fifth of their tokens
    even = [0.9, 0.9, 0.8, 1.0, 0.9] * 6
    wide, narrow = agreement_interval(clustered, 10, 0.95), agreement_interval(even, 10, 0.95)
    assert wide.estimate == narrow.estimate == 0.9
    assert wide.upper - wide.lower > narrow.upper - narrow.lower
    # Here tokens spread more evenly than chance would: they count as independent, not as better than that.
    plain = wilson_interval(270, 300, 1.0, 0.95)
    assert (narrow.lower, narrow.upper) == (plain.lower, plain.upper)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_unanimous_agreement_counts_windows(share: float) -> None:
    interval = agreement_interval([share] * 30, 256, 0.95)
    expected = wilson_interval(30 * share, 30, 1.0, 0.95)
    assert (interval.lower, interval.upper) == pytest.approx((expected.lower, expected.upper), abs=1e-15)
    assert interval.lower <= interval.estimate <= interval.upper
    assert interval.upper - interval.lower == pytest.approx(1 - 30 / (30 + 1.959963984540054**2))


def test_design_effect() -> None:
    tokens = [0.0, 1.0] * 20
    blocks = [0.0] * 20 + [1.0] * 20
    means = [mean(blocks[start : start + 4]) for start in range(0, 40, 4)]
    assert design_effect(means, blocks) == pytest.approx(4.0 * (10 / 9) / (40 / 39))
    assert design_effect([mean(tokens[s : s + 4]) for s in range(0, 40, 4)], tokens) == 0.0
    assert design_effect([0.0, 0.0], [0.0] * 8) is None


@pytest.mark.parametrize(
    ("n", "percent", "rank"),
    [(1000, 99.9, 999), (1000, 50, 500), (7680, 99, 7604), (3, 1, 1), (3, 0, 1), (3, 100, 3)],
)
def test_percentile_is_an_observed_value(n: int, percent: float, rank: int) -> None:
    assert percentile(range(1, n + 1), percent) == rank
