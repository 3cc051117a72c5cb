"""SciPy, numpy and safetensors as second opinions."""

from __future__ import annotations

import io
import math
import random
from pathlib import Path

import numpy
import pytest
import safetensors.numpy
from scipy import special, stats

from ucaudit.core import tensorfile
from ucaudit.core.stats import bootstrap_t_interval, normal_quantile, t_cdf, t_interval, t_quantile, wilson_interval

pytestmark = pytest.mark.oracle

PROBABILITIES = [1e-6, 1e-4, 0.001, 0.025, 0.049, 0.051, 0.2, 0.4, 0.6, 0.9, 0.975, 0.999, 1 - 1e-6]


@pytest.mark.parametrize("df", [1, 1.5, 2, 3, 7.25, 29, 49, 99, 199.9, 200, 201, 1e3, 12345, 1e5, 1e6])
def test_t_quantile_and_distribution(df: float) -> None:
    for p in PROBABILITIES:
        t = t_quantile(p, df)
        assert math.isclose(t, stats.t.ppf(p, df), rel_tol=1e-12), (df, p)
        # SciPy's own incomplete beta loses digits near x = 1, so its distribution is asked within its reach.
        assert math.isclose(t_cdf(t, df), special.stdtr(df, t), rel_tol=1e-10), (df, p)


def test_normal_quantile() -> None:
    for p in PROBABILITIES:
        assert math.isclose(normal_quantile(p), special.ndtri(p), rel_tol=1e-12)


def test_t_interval() -> None:
    draw = random.Random(3)
    values = [draw.gauss(0.005, 0.004) for _ in range(37)]
    expected = stats.t.interval(0.9, 36, loc=numpy.mean(values), scale=stats.sem(values))
    found = t_interval(values, 0.9)
    assert (found.lower, found.upper) == pytest.approx(expected, rel=1e-12)


def test_wilson() -> None:
    for successes, total in ((0, 30), (30, 30), (29, 30), (7321, 7680)):
        expected = stats.binomtest(successes, total).proportion_ci(0.95, method="wilson")
        found = wilson_interval(successes, total, 1.0, 0.95)
        assert (found.lower, found.upper) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_bootstrap_can_be_redone_with_numpy() -> None:
    """Another implementation of the generator (numpy's MT19937, seeded as in Python), vectorised arithmetic."""
    draw = random.Random(4)
    values = numpy.array([draw.expovariate(1.0) for _ in range(40)])
    uniform = numpy.random.RandomState([42]).random_sample((10_000, 40))
    x = (values - values.mean())[(uniform * 40).astype(int)]
    statistics = numpy.sort(x.mean(axis=1) / (x.std(axis=1, ddof=1) / math.sqrt(40)))
    error = values.std(ddof=1) / math.sqrt(40)
    expected = (values.mean() - statistics[10_000 - 250] * error, values.mean() - statistics[249] * error)
    found = bootstrap_t_interval(list(map(float, values)), 0.95, seed=42)
    assert (found.lower, found.upper) == pytest.approx(expected, rel=1e-11)


def test_safetensors_reads_what_is_written_and_the_other_way_round(tmp_path: Path) -> None:
    arrays = {
        "logprob": numpy.arange(6, dtype="<f4").reshape(2, 3),
        "window": numpy.array([1, 5], dtype="<i8"),
        "top1": numpy.ones((2, 3), dtype="u1"),
        "scalar": numpy.array(2.5, dtype="<f8"),
        "empty": numpy.zeros((0, 4), dtype="<f2"),
    }
    names = {"<f4": "F32", "<i8": "I64", "|u1": "U8", "<f8": "F64", "<f2": "F16"}
    tensorfile.write(
        tmp_path / "x.safetensors",
        {name: (names[value.dtype.str], value.shape, value.tobytes()) for name, value in arrays.items()},
    )
    read = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    assert set(read) == set(arrays)
    for name, value in arrays.items():
        assert read[name].dtype == value.dtype
        assert numpy.array_equal(read[name], value)
    handle = io.BytesIO(safetensors.numpy.save(arrays, metadata={"format": "np"}))
    header = tensorfile.read_header(handle, subject="x")
    assert header.metadata == {"format": "np"}
    for name, value in arrays.items():
        info = header.tensors[name]
        assert (info.dtype, info.shape) == (names[value.dtype.str], value.shape)
        assert tensorfile.read_tensor(handle, info, subject="x") == value.tobytes()
