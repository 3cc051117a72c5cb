"""SciPy, numpy and safetensors as second opinions."""

from __future__ import annotations

import io
import json
import math
import random
import subprocess
from array import array
from pathlib import Path

import numpy
import pytest
import safetensors.numpy
from scipy import special, stats

from ucaudit.core import tensorfile
from ucaudit.core.stats import (
    Sample,
    agreement_interval,
    bootstrap_t_interval,
    compare_vendor_point,
    holm,
    improvement,
    normal_quantile,
    t_cdf,
    t_interval,
    t_quantile,
    wilson_interval,
)
from ucaudit.core.tokenvalues import TokenValues
from ucaudit.evidence.breakdown import CONFIDENCE_EDGES, by_confidence, by_position, skewness
from ucaudit.evidence.claims import compute_results

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


# --- windows grouped by document ---------------------------------------------------------------------------
STATSMODELS = ["statsmodels==0.14.6", "numpy==2.4.6", "scipy==1.17.1", "pandas==2.3.3"]
SCRIPT = """
import json, sys
import numpy, statsmodels.api
from statsmodels.stats.multitest import multipletests
given = json.load(sys.stdin)
out = {}
for name, case in given["clustered"].items():
    weights = numpy.array(case["weights"])
    means = numpy.array(case["totals"]) / weights
    model = statsmodels.api.WLS(means, numpy.ones((len(means), 1)), weights=weights)
    fit = model.fit(cov_type="cluster", cov_kwds={"groups": numpy.array(case["groups"])}, use_t=True)
    ends = fit.conf_int(alpha=0.05)[0]
    out[name] = [float(fit.params[0]), float(fit.bse[0]), float(ends[0]), float(ends[1])]
out["holm"] = [multipletests(p, method="holm")[1].tolist() for p in given["holm"]]
print(json.dumps(out))
"""


def clustered_cases() -> dict[str, dict[str, list]]:
    draw = random.Random(8)
    cases = {}
    for name, documents, lengths in (("documents", 12, False), ("lengths", 40, True), ("both", 15, True)):
        groups = list(range(40)) if name == "lengths" else sorted(draw.randrange(documents) for _ in range(40))
        level = {group: draw.gauss(0.004, 0.003) for group in groups}
        weights = [float(draw.randrange(5, 60)) if lengths else 1.0 for _ in groups]
        totals = [w * draw.gauss(level[g], 0.002) for g, w in zip(groups, weights, strict=True)]
        cases[name] = {"groups": groups, "weights": weights, "totals": totals}
    return cases


def test_clusters_and_holm_against_statsmodels(oracle_env) -> None:
    """A weighted regression on a constant with cluster-robust errors is the linearised ratio estimator."""
    place = oracle_env("statsmodels", STATSMODELS)
    draw = random.Random(9)
    families = [[draw.random() ** 3 for _ in range(size)] for size in (1, 2, 5, 12)] + [[0.01, 0.01, 0.04]]
    given = {"clustered": clustered_cases(), "holm": families}
    done = subprocess.run(
        [str(place / "bin" / "python"), "-c", SCRIPT],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    expected = json.loads(done.stdout)
    for name, case in given["clustered"].items():
        sample = Sample.weighted(case["totals"], case["weights"], case["groups"])
        interval = t_interval(sample, 0.95)
        found = [sample.mean, sample.error, interval.lower, interval.upper]
        assert found == pytest.approx(expected[name], rel=1e-10), name
    for family, adjusted in zip(families, expected["holm"], strict=True):
        assert holm(family) == pytest.approx(adjusted, rel=1e-12)


def test_weighted_bootstrap_with_numpy() -> None:
    case = clustered_cases()["both"]
    sample = Sample.weighted(case["totals"], case["weights"], case["groups"])
    y, x, g = numpy.array(sample.totals), numpy.array(sample.weights), sample.n
    drawn = (numpy.random.RandomState([7]).random_sample((10_000, g)) * g).astype(int)
    ratio = y[drawn].sum(axis=1) / x[drawn].sum(axis=1)
    left = ((y[drawn] - ratio[:, None] * x[drawn]) ** 2).sum(axis=1)
    errors = numpy.sqrt(g / (g - 1) * left) / x[drawn].sum(axis=1)
    statistics = numpy.sort((ratio - y.sum() / x.sum()) / errors)
    expected = (sample.mean - statistics[9_750] * sample.error, sample.mean - statistics[249] * sample.error)
    found = bootstrap_t_interval(sample, 0.95, seed=7)
    assert (found.lower, found.upper) == pytest.approx(expected, rel=1e-9)


# --- the floor ---------------------------------------------------------------------------------------------
def test_seed_variance_is_welch_s_test_where_windows_agree() -> None:
    """Without a spread over windows the seeds are two independent samples: SciPy's Welch test."""
    draw = random.Random(10)
    one, other = [draw.gauss(0.004, 0.001) for _ in range(6)], [draw.gauss(0.003, 0.002) for _ in range(9)]
    found = improvement([[value] * 5 for value in one], [[value] * 5 for value in other])
    expected = stats.ttest_ind(one, other, equal_var=False)
    assert found.estimate / found.error == pytest.approx(expected.statistic, rel=1e-9)
    assert found.df == pytest.approx(expected.df, rel=1e-6)
    assert found.p_above(0.0) == pytest.approx(
        stats.ttest_ind(one, other, equal_var=False, alternative="greater").pvalue, rel=1e-6
    )


def test_one_seed_is_the_paired_test() -> None:
    draw = random.Random(11)
    one, other = ([draw.gauss(0.004, 0.002) for _ in range(40)] for _ in range(2))
    found = improvement([one], [other])
    for delta in (0.0, 0.001):
        shifted = [value - delta for value in one]
        assert found.p_above(delta) == pytest.approx(
            stats.ttest_rel(shifted, other, alternative="greater").pvalue, rel=1e-10
        )
        assert found.p_below(delta) == pytest.approx(
            stats.ttest_rel(shifted, other, alternative="less").pvalue, rel=1e-10
        )


# --- figures of a record -----------------------------------------------------------------------------------
def some_values(documents: tuple[int, ...] | None = None) -> TokenValues:
    generator = numpy.random.default_rng(12)
    n, tokens = 30, 64
    reference = -generator.exponential(2.0, (n, tokens))
    level = generator.normal(0.01, 0.01, (n, 1))
    pack = numpy.minimum(reference - level - generator.normal(0, 0.1, (n, tokens)), 0)
    columns = (reference, pack, generator.exponential(0.01, (n, tokens)))
    floats = [array("f", map(float, column.ravel().astype("f4"))) for column in columns]
    return TokenValues(
        tuple(range(n)), tokens, *floats, array("B", (generator.random(n * tokens) < 0.9).tolist()), documents
    ).check(subject="x")


@pytest.mark.parametrize("documents", [None, tuple(index // 2 for index in range(30))])
def test_every_figure_with_numpy(documents: tuple[int, ...] | None) -> None:
    values = some_values(documents)
    a, b, kl = (numpy.array(column, dtype="f8") for column in (values.reference, values.pack, values.kl))
    top1, n, tokens = numpy.array(values.top1), values.n, values.tokens
    found = compute_results(values, confidence=0.95, seed=1)
    d = (a - b).reshape(n, tokens).mean(axis=1)
    units, k = (d, kl.reshape(n, tokens).mean(axis=1))
    if documents is not None:
        units, k = units.reshape(-1, 2).mean(axis=1), k.reshape(-1, 2).mean(axis=1)
    size = len(units)
    assert (found.documents, found.windows, found.tokens) == (documents and 15, 30, 1920)
    assert found.ppl_pack / found.ppl_reference == pytest.approx(math.exp(d.mean()), rel=1e-12)
    for interval, sample, scale in ((found.ratio, units, math.exp), (found.kl, k, float)):
        expected = stats.t.interval(0.95, size - 1, loc=sample.mean(), scale=stats.sem(sample))
        assert (interval.lower, interval.upper) == pytest.approx(tuple(map(scale, expected)), rel=1e-12)
    assert found.rms_delta_p == pytest.approx(numpy.sqrt(((numpy.exp(b) - numpy.exp(a)) ** 2).mean()), rel=1e-12)
    assert found.tv_bound == pytest.approx(math.sqrt(kl.mean() / 2), rel=1e-12)
    for item in found.kl_percentiles:
        assert item.value == numpy.percentile(kl, item.percent, method="inverted_cdf")
    independent = (a - b).std(ddof=1) ** 2 / 1920
    assert found.design_effect == pytest.approx(stats.sem(units) ** 2 / independent, rel=1e-12)
    drift = (normal_quantile(0.975) + normal_quantile(0.9)) * stats.sem(units)
    assert found.minimum_detectable_drift == pytest.approx(math.expm1(drift), rel=1e-12)
    share = top1.mean()
    shares = top1.reshape(n, tokens).mean(axis=1)
    agreement = agreement_interval([float(value) for value in shares], tokens, 0.95, documents)
    grouped = shares if documents is None else shares.reshape(-1, 2).mean(axis=1)
    effective = min(share * (1 - share) / stats.sem(grouped) ** 2, 1920)
    z = stats.norm.ppf(0.975)
    centre = (share + z * z / 2 / effective) / (1 + z * z / effective)
    half = z / (1 + z * z / effective) * math.sqrt(share * (1 - share) / effective + z * z / 4 / effective**2)
    assert (agreement.lower, agreement.upper) == pytest.approx((centre - half, centre + half), rel=1e-10)


def test_breakdown_with_numpy() -> None:
    values = some_values()
    a, b, kl = (
        numpy.array(column, dtype="f8").reshape(30, 64) for column in (values.reference, values.pack, values.kl)
    )
    assert skewness(Sample.of(list(map(float, (a - b).mean(axis=1))))) == pytest.approx(
        stats.skew((a - b).mean(axis=1)), rel=1e-9
    )
    cells = by_position(values, 0.9)
    assert [(cell.low, cell.high) for cell in cells] == [(1, 1), (2, 4), (5, 16), (17, 64)]
    for cell in cells:
        part = (a - b)[:, int(cell.low) - 1 : int(cell.high)].mean(axis=1)
        expected = stats.t.interval(0.9, 29, loc=part.mean(), scale=stats.sem(part))
        assert (cell.difference.lower, cell.difference.upper) == pytest.approx(expected, rel=1e-10)
    for cell, low, high in zip(
        by_confidence(values, 0.9), CONFIDENCE_EDGES[:-1], [*CONFIDENCE_EDGES[1:-1], 2.0], strict=True
    ):
        inside = (numpy.exp(a) >= low) & (numpy.exp(a) < high)
        assert cell.tokens == inside.sum()
        y, x = (kl * inside).sum(axis=1), inside.sum(axis=1)
        y, x = y[x > 0], x[x > 0]
        ratio = y.sum() / x.sum()
        error = math.sqrt(len(x) / (len(x) - 1) * ((y - ratio * x) ** 2).sum()) / x.sum()
        half = stats.t.ppf(0.95, len(x) - 1) * error
        assert (cell.kl.estimate, cell.kl.lower, cell.kl.upper) == pytest.approx(
            (ratio, ratio - half, ratio + half), rel=1e-10
        )
        assert cell.top1 == pytest.approx((numpy.array(values.top1).reshape(30, 64) * inside).sum() / inside.sum())


def test_a_vendor_s_figure_falls_inside_its_prediction_interval_as_often_as_it_says() -> None:
    """Simulated vendors with the same protocol: 95% of their rounded figures lie inside."""
    generator = numpy.random.default_rng(13)
    inside = 0
    for _ in range(4000):
        mine, theirs = generator.normal(0.006, 0.005, 50), generator.normal(0.006, 0.005, 30)
        claimed = round(math.exp(theirs.mean()), 4)
        found = compare_vendor_point(
            list(map(float, mine)), claimed, decimals=4, vendor_windows=30, confidence=0.95
        )
        inside += found.lower <= claimed <= found.upper
    assert stats.binomtest(inside, 4000, 0.95).pvalue > 0.001 or inside / 4000 > 0.95
