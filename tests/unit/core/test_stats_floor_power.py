"""What would decide an open floor, where an arm lies, and what a publisher's protocol would report: by hand."""

from __future__ import annotations

import math
import random

import pytest

from ucaudit.core.stats import (
    Improvement,
    arm_level,
    decisive,
    improvement,
    normal_quantile,
    place_published,
    prediction_half_width,
    t_quantile,
)

Z = normal_quantile(0.975) + normal_quantile(0.9)


def made(estimate: float, windows: float, seeds: float) -> Improvement:
    return Improvement(estimate, math.sqrt(windows + seeds), 40.0, 50, 5, (windows, seeds / 2, seeds / 2))


def test_windows_seeds_and_both_by_hand() -> None:
    # Distance 0.002; wanted variance (0.002/z)²; windows hold a quarter of it, seeds half.
    wanted = (0.002 / Z) ** 2
    found = decisive([made(0.0, 4 * wanted, 0.5 * wanted)], 0.002, windows=50, seeds=5, alpha=0.025)
    assert found.windows == 50 * 4 / 0.5
    assert found.seeds is None  # the windows alone take more room than there is
    assert found.both == (50 * 4.5, math.ceil(5 * 4.5))
    found = decisive([made(0.0, 0.5 * wanted, 4 * wanted)], 0.002, windows=50, seeds=5, alpha=0.025)
    assert (found.windows, found.seeds) == (None, 40)


def test_the_hardest_attempt_decides_and_one_more_is_the_least() -> None:
    wanted = (0.001 / Z) ** 2
    easy, hard = made(0.0, 0.1 * wanted, 0.1 * wanted), made(0.0, 3 * wanted, 0.1 * wanted)
    assert decisive([easy, hard], 0.001, windows=30, seeds=5, alpha=0.025).windows == 100
    assert decisive([easy], 0.001, windows=30, seeds=5, alpha=0.025).windows == 31


def test_on_the_margin_nothing_decides() -> None:
    found = decisive([made(0.001, 1e-8, 1e-8)], 0.001, windows=30, seeds=5, alpha=0.025)
    assert (found.windows, found.seeds, found.both) == (None, None, None)
    near = decisive([made(0.001, 1e-8, 1e-8)], 0.00101, windows=30, seeds=5, alpha=0.025, tolerance=2e-5)
    assert near.both is None


def test_what_would_decide_does_decide_with_about_power_09() -> None:
    """Simulated: with the windows and seeds that it asks for, nine in ten protocols exclude the margin."""
    draw = random.Random(3)
    s_window, s_seed, delta, n, k = 0.004, 0.001, 0.002, 40, 5
    expected = Improvement(0.0, 1.0, 40.0, n, k, (s_window**2 / n, s_seed**2 / k, s_seed**2 / k))
    needed = decisive([expected], delta, windows=n, seeds=k, alpha=0.025).both
    assert needed is not None
    windows, seeds = needed

    def arm() -> list[list[float]]:
        levels = [draw.gauss(0, s_seed) for _ in range(seeds)]
        own = [draw.gauss(0, s_window / math.sqrt(2)) for _ in range(windows)]
        return [[level + reaction for reaction in own] for level in levels]

    excluded = sum(improvement(arm(), arm()).upper(0.025) < delta for _ in range(200))
    assert 0.83 <= excluded / 200 <= 0.97


def test_level_by_hand() -> None:
    # Seed means 1 and 3 (s² = 2, /2 = 1); windows, averaged over seeds: 1, 2, 3 (s² = 1, /3).
    rows = [[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]]
    found = arm_level(rows, 0.95)
    error = math.sqrt(1 + 1 / 3)
    df = (4 / 3) ** 2 / ((1 / 9) / 2 + 1)
    assert found.estimate == 2.0
    assert found.upper - 2.0 == pytest.approx(t_quantile(0.975, df) * error, rel=1e-12)
    assert found.upper - 2.0 == pytest.approx(2.0 - found.lower)
    # One encoding on 6 other windows: s_w²(1/3 + 1/6) + s_seed²(1/2 + 1) = 1/2 + 3.
    assert prediction_half_width(rows, 0.95, windows=6) == pytest.approx(
        t_quantile(0.975, df) * math.sqrt(3.5), rel=1e-12
    )


def test_equal_rows_have_a_level_without_width() -> None:
    found = arm_level([[0.5, 0.5]] * 5, 0.95)
    assert (found.estimate, found.lower, found.upper) == (0.5, 0.5, 0.5)
    assert prediction_half_width([[0.5, 0.5]] * 5, 0.95, windows=3) == 0.0


@pytest.mark.parametrize(
    ("claimed", "half", "outcome"),
    [
        (1.0050, 0.001, "worse"),
        (1.0100, 0.001, "consistent"),
        (1.0150, 0.001, "better"),
        (1.0100, 0.02, "cannot tell"),
    ],
)
def test_where_a_published_ratio_falls(claimed: float, half: float, outcome: str) -> None:
    assert place_published(math.log(1.01), half, claimed, decimals=4).outcome == outcome
