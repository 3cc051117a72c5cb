"""Windows grouped by document, and weights that differ: worked out by hand."""

from __future__ import annotations

import math
import random

import pytest

from ucaudit.core.errors import InputError
from ucaudit.core.stats import (
    Sample,
    agreement_interval,
    bootstrap_t_interval,
    compare_vendor_point,
    judge_at_most,
    mean,
    minimum_detectable_drift,
    standard_deviation,
    t_interval,
    t_quantile,
    wilson_interval,
    windows_to_decide,
)

# Documents 4, 7 and 9 with two, one and three windows.
VALUES, DOCUMENTS = [1.0, 3.0, 5.0, 2.0, 2.0, 5.0], [4, 4, 7, 9, 9, 9]
# Σy = 18, Σx = 6, m = 3. Residuals y − m·x: 4 − 6, 5 − 3, 9 − 9 = −2, 2, 0. SE = √(3/2 · 8) / 6 = √12 / 6.
ERROR = math.sqrt(12) / 6


def plain_weighted_bootstrap(sample: Sample, confidence: float, seed: int, resamples: int) -> tuple[float, float]:
    """The written specification for documents of unequal size, as formulas of y and x alone."""
    n = sample.n
    y, x = sample.totals, sample.weights
    m = math.fsum(y) / math.fsum(x)
    stream = random.Random(seed)
    statistics = []
    for _ in range(resamples):
        drawn = [int(stream.random() * n) for _ in range(n)]
        ys, xs = [y[j] for j in drawn], [x[j] for j in drawn]
        again = math.fsum(ys) / math.fsum(xs)
        squares = math.fsum((a - again * b) ** 2 for a, b in zip(ys, xs, strict=True))
        error = math.sqrt(n / (n - 1) * squares) / math.fsum(xs)
        statistics.append((again - m) / error if error > 1e-9 else math.copysign(math.inf, again - m))
    statistics.sort()
    k = math.floor((1 - confidence) / 2 * (resamples + 1))
    return m - statistics[resamples - k] * sample.error, m - statistics[k - 1] * sample.error


def test_documents_by_hand() -> None:
    sample = Sample.of(VALUES, DOCUMENTS)
    assert (sample.unit, sample.n, sample.df, sample.windows) == ("documents", 3, 2, 6)
    assert (sample.totals, sample.weights) == ((4.0, 5.0, 9.0), (2.0, 1.0, 3.0))
    assert sample.mean == 3.0
    assert math.isclose(sample.error, ERROR, rel_tol=1e-15)
    interval = t_interval(sample, 0.95)
    assert interval.method == "student-t over documents"
    assert math.isclose(interval.upper - 3.0, t_quantile(0.975, 2) * ERROR, rel_tol=1e-14)


def test_windows_are_the_units_without_documents_or_with_one() -> None:
    plain = Sample.of(VALUES)
    for sample in (plain, Sample.of(VALUES, [3] * 6)):
        assert (sample.unit, sample.n, sample.mean) == ("windows", 6, 3.0)
        assert sample.error == standard_deviation(VALUES) / math.sqrt(6)
        assert t_interval(sample, 0.9) == t_interval(VALUES, 0.9)
        assert bootstrap_t_interval(sample, 0.9, seed=1) == bootstrap_t_interval(VALUES, 0.9, seed=1)


def test_a_document_a_window_changes_no_figure() -> None:
    sample = Sample.of(VALUES, range(6))
    assert (sample.unit, sample.mean, sample.error) == ("documents", 3.0, Sample.of(VALUES).error)
    one, other = bootstrap_t_interval(sample, 0.9, seed=1), bootstrap_t_interval(VALUES, 0.9, seed=1)
    assert (one.lower, one.upper) == (other.lower, other.upper)
    assert one.method == "bootstrap-t over documents, 10000 resamples"


def test_documents_of_equal_size_are_their_means() -> None:
    values = [0.5, 1.5, 3.0, 5.0, 2.0, 0.0, 7.0, 8.0]
    sample = Sample.of(values, [1, 1, 2, 2, 3, 3, 4, 4])
    means = [1.0, 4.0, 1.0, 7.5]
    assert (sample.mean, sample.error) == (mean(means), standard_deviation(means) / 2)
    one, other = bootstrap_t_interval(sample, 0.8, seed=2), bootstrap_t_interval(means, 0.8, seed=2)
    assert (one.lower, one.upper) == (other.lower, other.upper)


@pytest.mark.parametrize("seed", [1, 42])
def test_weighted_bootstrap_follows_its_specification(seed: int) -> None:
    draw = random.Random(seed)
    documents = sorted(draw.randrange(25) for _ in range(60))
    values = [draw.gauss(0.01 + 0.002 * (document % 5), 0.004) for document in documents]
    sample = Sample.of(values, documents)
    assert sample.even is None
    found = bootstrap_t_interval(sample, 0.95, seed=seed, resamples=2000)
    assert (found.lower, found.upper) == pytest.approx(
        plain_weighted_bootstrap(sample, 0.95, seed, 2000), rel=1e-10
    )


def test_equal_values_are_a_point_whatever_the_weights() -> None:
    sample = Sample.of([0.1] * 6, DOCUMENTS)
    assert sample.error == 0.0
    interval = bootstrap_t_interval(sample, 0.95, seed=0)
    assert interval.lower == interval.upper == t_interval(sample, 0.95).upper == sample.mean


def test_unequal_lengths_by_hand() -> None:
    # Three windows with 10, 20 and 30 tokens and totals 20, 30, 70: r = 120/60 = 2, residuals 0, −10, 10.
    sample = Sample.weighted([20.0, 30.0, 70.0], [10.0, 20.0, 30.0])
    assert (sample.mean, sample.unit) == (2.0, "windows")
    assert math.isclose(sample.error, math.sqrt(1.5 * 200) / 60, rel_tol=1e-15)


def test_windows_that_hold_nothing_do_not_count() -> None:
    sample = Sample.weighted([0.0, 3.0, 0.0, 5.0], [0.0, 1.0, 0.0, 2.0], [1, 1, 2, 2])
    assert (sample.n, sample.windows) == (2, 2)
    assert Sample.weighted([0.0, 3.0], [0.0, 1.0]).n == 1


@pytest.mark.parametrize("documents", [None, [1]])
def test_one_unit_has_no_interval(documents: list[int] | None) -> None:
    with pytest.raises(InputError, match="at least 2 windows, found 1"):
        t_interval(Sample.of([1.0], documents), 0.95)


def test_a_pass_needs_thirty_documents() -> None:
    draw = random.Random(1)
    values = [draw.gauss(0.0, 0.001) for _ in range(60)]
    few = Sample.of(values, [index // 3 for index in range(60)])
    intervals = [t_interval(few, 0.95), bootstrap_t_interval(few, 0.95, seed=1)]
    found = judge_at_most(few, 0.01, intervals)
    assert (found.decision, found.deciding_n) == ("inconclusive", 90)  # thirty documents of three windows
    assert found.reason == "20 documents are too few to pass: at least 30 are needed"
    assert judge_at_most(Sample.of(values, [index // 2 for index in range(60)]), 0.01, intervals).decision == "pass"


def test_the_deciding_n_counts_what_clusters_cost() -> None:
    # 40 documents, both windows alike: 80 windows are worth 40.
    draw = random.Random(2)
    centres = [draw.gauss(0, 0.005) for _ in range(40)]
    sample = Sample.of([value for value in centres for _ in range(2)], [j // 2 for j in range(80)])
    margin = sample.mean + 0.001
    alone = windows_to_decide(centres, margin, 0.95)
    both = windows_to_decide(sample, margin, 0.95)
    assert alone is not None and both is not None
    assert abs(both - 2 * alone) <= 1
    assert minimum_detectable_drift(sample, 0.95) == pytest.approx(minimum_detectable_drift(centres, 0.95))


def test_agreement_over_documents() -> None:
    shares = [1.0, 1.0, 0.8, 0.8, 0.9, 0.9]
    documents = [1, 1, 2, 2, 3, 3]
    found = agreement_interval(shares, 10, 0.95, documents)
    # Means 1, 0.8, 0.9: s = 0.1, SE = 0.1/√3; p = 0.9, 60 tokens: effect SE²/(0.09/60) = 2.222…
    expected = wilson_interval(54, 60, 0.01 / 3 / 0.0015, 0.95)
    assert (found.lower, found.upper) == pytest.approx((expected.lower, expected.upper), rel=1e-12)
    assert found.method == "wilson, effective n over documents"
    unanimous = agreement_interval([1.0] * 6, 10, 0.95, documents)
    assert unanimous.lower == pytest.approx(wilson_interval(3, 3, 1.0, 0.95).lower)


def test_vendor_comparison_over_documents() -> None:
    sample = Sample.of([value / 1000 for value in VALUES], DOCUMENTS)
    found = compare_vendor_point(sample, 1.003, decimals=3, vendor_windows=6, confidence=0.95)
    half = t_quantile(0.975, 2) * ERROR / 1000 * math.sqrt(2)
    assert found.lower == pytest.approx(math.exp(0.003 - half) - 0.0005, rel=1e-12)
