"""The decision rule and the comparison with a vendor's figure."""

from __future__ import annotations

import math
import random

import pytest

from ucaudit.core.errors import InputError
from ucaudit.core.stats import (
    Interval,
    bootstrap_t_interval,
    compare_vendor_point,
    judge_at_most,
    minimum_detectable_drift,
    standard_deviation,
    t_interval,
    windows_to_decide,
)

MARGIN = math.log(1.01)


def windows(n: int, centre: float, spread: float) -> list[float]:
    """Exactly this mean and standard deviation, without skew."""
    draw = random.Random(n)
    raw = [draw.gauss(0, 1) for _ in range(n)]
    shift, scale = math.fsum(raw) / n, standard_deviation(raw)
    return [centre + spread * (value - shift) / scale for value in raw]


def judge(values: list[float], margin: float = MARGIN, tolerance: float = 0.0):
    both = [t_interval(values, 0.95), bootstrap_t_interval(values, 0.95, seed=0)]
    return judge_at_most(values, margin, both, tolerance=tolerance)


def at(lower: float, upper: float) -> Interval:
    return Interval((lower + upper) / 2, lower, upper, 0.95, "made up")


def test_pass_and_fail_and_between() -> None:
    assert judge(windows(40, 0.004, 0.005)).decision == "pass"
    assert judge(windows(40, 0.016, 0.005)).decision == "fail"
    assert judge(windows(40, MARGIN - 0.0005, 0.005)).decision == "inconclusive"


def test_29_windows_never_pass_but_may_fail() -> None:
    few = judge(windows(29, 0.0, 0.001))
    assert (few.decision, few.deciding_n) == ("inconclusive", 30)
    assert "29 windows are too few" in few.reason
    assert judge(windows(30, 0.0, 0.001)).decision == "pass"
    assert judge(windows(5, 0.1, 0.001)).decision == "fail"


@pytest.mark.parametrize(
    ("first", "second", "decision"),
    [
        (at(0.0, 1.0), at(0.0, 1.0), "pass"),  # a bound on the margin is within it
        (at(0.0, 1.0), at(0.0, 1.0000001), "inconclusive"),
        (at(0.0, 1.1), at(0.0, 1.0), "inconclusive"),
        (at(1.0, 2.0), at(1.0, 2.0), "inconclusive"),  # a lower bound on the margin is no failure
        (at(1.1, 2.0), at(1.0, 2.0), "inconclusive"),
        (at(1.1, 2.0), at(1.0000001, 2.0), "fail"),
    ],
)
def test_both_methods_must_agree(first: Interval, second: Interval, decision: str) -> None:
    values = windows(30, 0.9, 0.1)
    assert judge_at_most(values, 1.0, [first, second]).decision == decision
    assert judge_at_most(values, 1.0, [second, first]).decision == decision


def test_disagreement_of_the_methods_is_named() -> None:
    found = judge_at_most(windows(30, 0.5, 0.1), 1.0, [at(0.4, 0.9), at(0.4, 1.2)])
    assert "the two methods disagree" in found.reason
    assert found.deciding_n == 31  # more than there are, whatever the formula says


def test_tolerance_moves_both_bounds_against_a_verdict() -> None:
    values = windows(30, 0.5, 0.1)
    assert judge_at_most(values, 1.0, [at(0.0, 0.95)], tolerance=0.04).decision == "pass"
    assert judge_at_most(values, 1.0, [at(0.0, 0.95)], tolerance=0.06).decision == "inconclusive"
    assert judge_at_most(values, 1.0, [at(1.05, 2.0)], tolerance=0.04).decision == "fail"
    assert judge_at_most(values, 1.0, [at(1.05, 2.0)], tolerance=0.06).decision == "inconclusive"


def test_windows_to_decide_by_hand() -> None:
    # (1.959964 + 1.281552) = 3.241516; s 0.005, distance 0.001: (16.20758)² = 262.69
    values = windows(50, MARGIN - 0.001, 0.005)
    assert windows_to_decide(values, MARGIN, 0.95) == 263
    assert windows_to_decide(windows(50, MARGIN + 0.001, 0.005), MARGIN, 0.95) == 263
    assert windows_to_decide(windows(50, MARGIN - 0.002, 0.005), MARGIN, 0.95) == 66
    assert windows_to_decide(windows(50, MARGIN - 0.005, 0.005), MARGIN, 0.95) == 30  # 11, and never below 30
    assert windows_to_decide(values, MARGIN, 0.95, tolerance=0.0005) == 1051


def test_some_questions_no_sample_decides() -> None:
    assert windows_to_decide([1.0, 3.0], 2.0, 0.95) is None
    assert windows_to_decide(windows(30, 1.0, 0.1), 1.0 + 1e-6, 0.95, tolerance=1e-5) is None
    assert windows_to_decide(windows(30, 1.0, 0.1), 1.0 + 1e-9, 0.95) is None  # over 10⁹ windows
    found = judge_at_most([1.0, 3.0] * 20, 2.0, [at(1.5, 2.5)])
    assert (found.decision, found.deciding_n) == ("inconclusive", None)
    assert "no number of windows" in found.reason


def test_the_reason_says_where_more_windows_would_lead() -> None:
    assert "as things stand: pass" in judge(windows(40, MARGIN - 0.0005, 0.005)).reason
    assert "as things stand: fail" in judge(windows(40, MARGIN + 0.0005, 0.005)).reason


def test_identical_arms_pass_any_margin_above_one_and_meet_one() -> None:
    same = [0.0] * 30
    assert judge(same).decision == "pass"
    assert judge(same, margin=0.0).decision == "pass"
    assert judge(same, margin=0.0, tolerance=1e-9).decision == "inconclusive"
    assert judge(same, margin=-1e-6).decision == "fail"


def test_minimum_detectable_drift() -> None:
    assert minimum_detectable_drift(windows(50, 0.0, 0.005), 0.95) == pytest.approx(
        math.expm1(3.2415155 * 0.005 / math.sqrt(50)), rel=1e-7
    )
    assert minimum_detectable_drift([0.0] * 30, 0.95) == 0.0


@pytest.mark.parametrize(
    ("claimed", "outcome"),
    [(1.0010, "worse"), (1.0070, "consistent"), (1.0130, "better"), (1.0030, "cannot tell")],
)
def test_vendor_point(claimed: float, outcome: str) -> None:
    # mean 0.007, s 0.005, n = n_v = 50: half-width 2.0096 · 0.005 · sqrt(2/50) = 0.00201
    spread = 0.010 if outcome == "cannot tell" else 0.005
    found = compare_vendor_point(
        windows(50, 0.007, spread), claimed, decimals=4, vendor_windows=50, confidence=0.95
    )
    assert found.outcome == outcome
    assert found.lower is not None and found.upper is not None
    half = 2.009575237129241 * spread * math.sqrt(2 / 50)
    assert found.lower == pytest.approx(math.exp(0.007 - half) - 0.00005, rel=1e-12)
    assert found.upper == pytest.approx(math.exp(0.007 + half) + 0.00005, rel=1e-12)


def test_vendor_rounding_counts() -> None:
    values = windows(50, 0.007, 0.001)
    assert compare_vendor_point(values, 1.01, decimals=4, vendor_windows=50, confidence=0.95).outcome == "better"
    assert (
        compare_vendor_point(values, 1.01, decimals=2, vendor_windows=50, confidence=0.95).outcome == "cannot tell"
    )


def test_vendor_on_another_text_is_not_comparable() -> None:
    found = compare_vendor_point(
        [0.0, 1.0], 1.01, decimals=2, vendor_windows=50, confidence=0.95, mismatch="another corpus"
    )
    assert (found.outcome, found.reason, found.lower) == ("not comparable", "another corpus", None)


@pytest.mark.parametrize(("claimed", "n"), [(0.0, 50), (math.nan, 50), (math.inf, 50), (-1.0, 50), (1.01, 0)])
def test_vendor_claim_that_is_no_ratio(claimed: float, n: int) -> None:
    with pytest.raises(InputError, match="published ratio"):
        compare_vendor_point([0.0, 1.0], claimed, decimals=2, vendor_windows=n, confidence=0.95)


def test_vendor_needs_two_windows() -> None:
    with pytest.raises(InputError, match="at least 2"):
        compare_vendor_point([], 1.01, decimals=2, vendor_windows=5, confidence=0.95)
