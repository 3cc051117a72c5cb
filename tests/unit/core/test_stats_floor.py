"""The floor tests: vectors worked out by hand, decisions, and their size when there is nothing to find."""

from __future__ import annotations

import math
import random

import pytest

from ucaudit.core.errors import InputError
from ucaudit.core.stats import Improvement, holm, improvement, judge_floor, t_quantile

DELTA = 0.001


def made(estimate: float, error: float = 1e-4, *, units: int = 50, seeds: int = 5, df: float = 40.0) -> Improvement:
    return Improvement(estimate, error, df, units, seeds, (error**2, 0.0, 0.0))


def test_improvement_by_hand() -> None:
    # Seed means: baseline 4 and 6 (s² = 2, /2 = 1), perturbed 1, 2 and 3 (s² = 1, /3 = 1/3).
    baseline = [[3.0, 4.0, 5.0], [5.0, 6.0, 7.0]]
    perturbed = [[0.0, 1.0, 2.0], [2.0, 2.0, 2.0], [4.0, 3.0, 2.0]]
    # Over seeds: baseline 4, 5, 6; perturbed 2, 2, 2; difference 2, 3, 4: s_w² = 1, /3 = 1/3.
    found = improvement(baseline, perturbed)
    assert found.estimate == 3.0
    assert found.parts == pytest.approx((1 / 3, 1 / 3, 1.0), rel=1e-14)
    assert found.error == pytest.approx(math.sqrt(5 / 3), rel=1e-14)
    # (5/3)² / ((1/9)/2 + (1/9)/2 + 1/1) = (25/9) / (10/9) = 2.5
    assert found.df == pytest.approx(2.5, rel=1e-13)
    assert (found.units, found.seeds) == (3, 2)
    assert found.upper(0.025) == pytest.approx(3.0 + t_quantile(0.975, 2.5) * math.sqrt(5 / 3))
    assert found.p_below(3.0) == found.p_above(3.0) == 0.5


def test_documents_widen_the_windows_part() -> None:
    one, other = [[0.0, 0.0, 0.0, 0.0]], [[1.0, 1.0, 3.0, 3.0]]
    plain, clustered = improvement(one, other), improvement(one, other, documents=[1, 1, 2, 2])
    assert plain.estimate == clustered.estimate == -2.0
    assert plain.parts[0] == pytest.approx(4 / 3 / 4)
    assert (clustered.parts[0], clustered.df, clustered.units) == (1.0, 1.0, 2)


def test_no_spread_at_all() -> None:
    same = improvement([[1.0, 1.0]] * 5, [[1.0, 1.0]] * 5)
    assert (same.estimate, same.error, same.df) == (0.0, 0.0, math.inf)
    assert (same.upper(0.025), same.p_below(DELTA), same.p_above(DELTA)) == (0.0, 0.0, 1.0)


def test_holm_by_hand() -> None:
    # 4·0.01, then max(0.04, 3·0.02), max(0.06, 2·0.03), max(0.06, 1·0.04)
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_supported_if_every_attempt_is_ruled_out() -> None:
    attempts = {"rank": made(0.0005), "steps": made(-0.001), "penalty": made(-0.05)}
    found = judge_floor(attempts, DELTA)
    assert found.decision == "floor supported"
    assert found.reason == "no improvement of 0.001 or more in 3 attempt(s); better, but within the margin: rank"
    assert [item.better for item in found.attempts] == [True, False, False]
    assert "limit" not in found.reason
    # The same without a correction for the number of attempts: t(0.975, 40)·1e-4 = 2.02e-4.
    assert judge_floor({f"a{i}": made(0.00079) for i in range(50)}, DELTA).decision == "floor supported"
    assert judge_floor({"a": made(0.0008)}, DELTA).decision == "inconclusive"


def test_one_open_attempt_leaves_it_open() -> None:
    found = judge_floor({"rank": made(0.0009), "steps": made(-0.001)}, DELTA)
    assert (found.decision, found.reason) == ("inconclusive", "an improvement of 0.001 is not ruled out for: rank")


def test_a_tolerance_is_taken_off_both_sides() -> None:
    assert judge_floor({"a": made(0.0007)}, DELTA).decision == "floor supported"
    assert judge_floor({"a": made(0.0007)}, DELTA, tolerance=2e-4).decision == "inconclusive"
    won, again = {"a": made(0.0013)}, {"a": made(0.0013)}
    assert judge_floor(won, DELTA, confirmed=again).decision == "refuted"
    assert judge_floor(won, DELTA, confirmed=again, tolerance=2e-4).decision == "inconclusive"


def test_a_refutation_must_be_confirmed_on_fresh_windows() -> None:
    attempts = {"rank": made(0.0015), "steps": made(0.0)}
    first = judge_floor(attempts, DELTA)
    assert (first.decision, first.reason) == (
        "inconclusive",
        "improved by more than 0.001: rank; to be confirmed on fresh windows",
    )
    assert judge_floor(attempts, DELTA, confirmed={"rank": made(0.0014)}).decision == "refuted"
    not_again = judge_floor(attempts, DELTA, confirmed={"rank": made(0.0011)})
    assert not_again.reason == "improved by more than 0.001: rank; not confirmed on fresh windows"
    # Confirming another attempt confirms nothing.
    assert judge_floor(attempts, DELTA, confirmed={"steps": made(0.002)}).decision == "inconclusive"


def test_the_refutation_is_adjusted_for_the_number_of_attempts() -> None:
    barely = made(DELTA + 2.2e-4)  # one-sided p = 0.0169
    assert "fresh" in judge_floor({"a": barely}, DELTA).reason
    crowd = {"a": barely, "b": made(0.0), "c": made(0.0)}
    found = judge_floor(crowd, DELTA)
    assert found.reason == "an improvement of 0.001 is not ruled out for: a"
    assert found.attempts[0].p_above == pytest.approx(3 * barely.p_above(DELTA))
    assert found.attempts[0].lower == barely.lower(0.025 / 3)


@pytest.mark.parametrize("estimate", [-0.001, 0.01])
def test_too_few_seeds_decide_nothing(estimate: float) -> None:
    found = judge_floor({"a": made(estimate, seeds=4)}, DELTA)
    assert found.decision == "inconclusive"
    assert found.reason.startswith("4 encoder seed(s) decide nothing: at least 5 are needed")
    seedless = judge_floor({"a": made(-0.001, seeds=1)}, DELTA, seedless=True)
    assert seedless.decision == "floor supported"


def test_too_few_windows_support_nothing() -> None:
    found = judge_floor({"a": made(-0.001, units=29)}, DELTA)
    assert (found.decision, found.reason[:28]) == ("inconclusive", "29 windows are too few to su")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: judge_floor({}, DELTA), "at least one attempt"),
        (lambda: judge_floor({"a": made(0.0)}, 0.0), "margin is above 0, found 0.0"),
        (lambda: judge_floor({"a": made(0.0)}, math.nan), "margin is above 0"),
        (lambda: judge_floor({"a": made(0.0)}, DELTA, alpha=0.5), "alpha lies between 0 and 0.5"),
        (lambda: judge_floor({"a": made(0.0)}, DELTA, confirmed={"b": made(0.0)}), "'b' was confirmed but never"),
        (lambda: improvement([], [[1.0, 2.0]]), "at least one encoding each"),
        (lambda: improvement([[1.0, 2.0]], [[1.0]]), "all on the same windows"),
        (lambda: improvement([[1.0, 2.0], [1.0]], [[1.0, 2.0]]), "all on the same windows"),
        (lambda: improvement([[1.0]], [[1.0]]), "at least 2 windows, found 1"),
    ],
)
def test_bad_requests(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


# --- size: how often it is wrong when there is nothing to find --------------------------------------------
def encode(draw: random.Random, n: int, k: int, shift: float, own: list[float], seeds: float, noise: float):
    """k encodings on n windows: a shift, the windows' own reaction, a level a seed, and noise."""
    return [
        [shift + reaction + level + draw.gauss(0, noise) for reaction in own]
        for level in (draw.gauss(0, seeds) for _ in range(k))
    ]


@pytest.mark.parametrize(
    ("n", "windows", "seeds", "noise"),
    [(30, 1.0, 0.1, 0.3), (30, 1.0, 0.5, 0.3), (30, 1.0, 0.0, 0.3), (30, 0.3, 1.0, 0.3), (60, 1.0, 0.2, 0.0)],
)
def test_size_at_the_margin(n: int, windows: float, seeds: float, noise: float) -> None:
    """One attempt truly improves by exactly δ: α = 0.025 either way, at most 3% allowed; 5 seeds an arm."""
    draw = random.Random(f"{n} {windows} {seeds}")
    supported = refuted = careless = 0
    runs = 3000
    for _ in range(runs):
        baseline = encode(draw, n, 5, 0.0, [0.0] * n, seeds, noise)
        own = [draw.gauss(0, windows) for _ in range(n)]
        found = improvement(baseline, encode(draw, n, 5, -1.0, own, seeds, noise))
        supported += found.upper(0.025) < 1.0
        refuted += found.lower(0.025) > 1.0
        careless += found.estimate + 1.96 * math.sqrt(found.parts[0]) < 1.0
    assert supported <= 0.03 * runs
    assert refuted <= 0.03 * runs
    if seeds >= 0.5:
        assert careless > 0.12 * runs  # what leaving the seeds out would do


@pytest.mark.slow
def test_size_of_the_joint_tests() -> None:
    """Three attempts share one baseline. All at the margin: a refutation is wrong. One there: support is wrong."""
    draw = random.Random(5)
    n, runs = 30, 1500
    refuted = supported = 0
    for _ in range(runs):
        baseline = encode(draw, n, 5, 0.0, [0.0] * n, 0.2, 0.3)

        def attempt(shift: float, baseline=baseline) -> Improvement:
            own = [draw.gauss(0, 1.0) for _ in range(n)]
            return improvement(baseline, encode(draw, n, 5, shift, own, 0.2, 0.3))

        first = attempt(-1.0)
        at_margin = judge_floor({"a": first, "b": attempt(-1.0), "c": attempt(-1.0)}, 1.0)
        refuted += "fresh windows" in at_margin.reason
        supported += judge_floor({"a": first, "b": attempt(3.0)}, 1.0).decision == "floor supported"
    assert refuted <= 0.03 * runs
    assert supported <= 0.03 * runs


def test_power_is_not_nothing() -> None:
    draw = random.Random(6)
    supported = 0
    for _ in range(200):
        baseline = encode(draw, 50, 5, 0.0, [0.0] * 50, 0.1, 0.3)
        own = [draw.gauss(0, 1.0) for _ in range(50)]
        found = improvement(baseline, encode(draw, 50, 5, 0.0, own, 0.1, 0.3))
        supported += judge_floor({"a": found}, 1.0).decision == "floor supported"
    assert supported > 190
