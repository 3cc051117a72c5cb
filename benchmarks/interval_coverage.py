"""How often the intervals and the verdict rule are wrong, on differences of known mean.

Run: python benchmarks/interval_coverage.py [--values DIR]… [--fixture NAME]… [--real-only] [--simulations 20000]
     [--seed 1]

Each simulated measurement draws n windows' differences from a population of known mean. ``--values`` names a bundle
or a directory of ``ucaudit measure``: its windows, ratio and KL, become two finite populations from which n windows
are drawn without replacement, as a measurement draws them from a text. ``--fixture`` makes such a directory of a
trained fixture model and its copy, plainly rounded to 4 bits: 400 windows of 64 tokens. ``--real-only`` leaves the
formulas and the second table out. The product's resamples are used (one seed,
so one set of resamples for every measurement of n windows) as matrices: a resample is a vector of counts, and all
its sums are one matrix product. A few measurements are also given to the product itself, and must agree. A second
table shows what windows that share a document do. Prints the tables of docs/measurement.md.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy

from ucaudit.core.errors import UcauditError
from ucaudit.core.stats import RESAMPLES, Sample, bootstrap_t_interval, normal_quantile, t_interval, t_quantile
from ucaudit.core.stats.resampling import resample_blocks
from ucaudit.core.tokenvalues import load
from ucaudit.evidence.breakdown import skewness
from ucaudit.evidence.claims import kl_sample, ratio_sample

CONFIDENCE = 0.95
ALPHA = (1 - CONFIDENCE) / 2
SIZES = (10, 30, 50, 200)
CHUNK = 500
FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"


@dataclass
class Population:
    """Differences with mean 0 and standard deviation 1; ``size`` of them, or endlessly many."""

    name: str
    draw: Callable[[tuple[int, int]], numpy.ndarray]
    size: int | None = None


def populations(generator: numpy.random.Generator) -> list[Population]:
    e = math.e
    return [
        Population("normal", generator.standard_normal),
        Population("exponential", lambda shape: generator.standard_exponential(shape) - 1),
        Population(
            "lognormal",
            lambda shape: (numpy.exp(generator.standard_normal(shape)) - math.sqrt(e)) / math.sqrt((e - 1) * e),
        ),
    ]


def finite_populations(directory: Path, generator: numpy.random.Generator) -> list[Population]:
    """The windows of a measurement as populations: their differences of NLL, and their KL divergences."""
    values = load(directory)
    found = []
    for name, sample in (("ratio", ratio_sample(values)), ("KL", kl_sample(values))):
        windows = numpy.array(sample.totals) / numpy.array(sample.weights)
        if windows.std() == 0:
            sys.exit(f"{directory}: the windows do not differ in {name}")
        scaled = (windows - windows.mean()) / windows.std()
        skew = skewness(Sample.of([float(value) for value in scaled]))

        def draw(shape: tuple[int, int], scaled: numpy.ndarray = scaled) -> numpy.ndarray:
            keys = generator.random((shape[0], len(scaled)))
            return scaled[numpy.argpartition(keys, shape[1] - 1, axis=1)[:, : shape[1]]]

        found.append(
            Population(f"{name} of {directory.name}, N = {len(scaled)}, skewness {skew:.1f}", draw, len(scaled))
        )
    return found


def measure_fixture(name: str, work: Path) -> Path:
    """Measure a trained fixture model's rounded copy against it."""
    sys.path.append(str(FIXTURES))
    from rounding import write_rounded

    from ucaudit.lab.measure import measure, write_measurement
    from ucaudit.packs.codecs import open_source

    out, model = work / f"{name}, 4 bits", FIXTURES / "models" / name
    text = FIXTURES / "text" / "bench-evaluation.txt"
    rounded = write_rounded(model, work / f"{name}-pack", bits=4)
    with open_source(rounded) as pack, open_source(model) as reference:
        found = measure(
            pack, reference, text, n=400, seq_len=64, seed=42, threads=1, state_dir=out / ".measure-state"
        )
    write_measurement(found, out)
    return out


def counts(n: int) -> numpy.ndarray:
    """The product's resamples as counts [n, RESAMPLES]."""
    blocks = resample_blocks(n, 0, RESAMPLES)
    drawn = numpy.concatenate([numpy.array(list(block)) for block in blocks]).reshape(RESAMPLES, n)
    result = numpy.zeros((n, RESAMPLES))
    for column in range(n):
        numpy.add.at(result, (drawn[:, column], numpy.arange(RESAMPLES)), 1.0)
    return result


def bounds(sample: numpy.ndarray, weights: numpy.ndarray) -> tuple[numpy.ndarray, ...]:
    """Ends of the t and the bootstrap-t interval for every row of ``sample`` [simulations, n]."""
    n = sample.shape[1]
    centre = sample.mean(axis=1)
    error = sample.std(axis=1, ddof=1) / math.sqrt(n)
    half = t_quantile(1 - ALPHA, n - 1) * error
    x = sample - centre[:, None]
    total = x @ weights
    spread = (x * x) @ weights - total * total / n
    floor = 1e-12 * (n - 1) * n * (error * error)[:, None]
    with numpy.errstate(divide="ignore", invalid="ignore"):
        statistic = (total / n) / numpy.sqrt(spread / (n - 1) / n)
    open_end = numpy.where(total > 0, numpy.inf, numpy.where(total < 0, -numpy.inf, 0.0))
    statistic = numpy.where(spread > floor, statistic, open_end)
    rank = math.floor(ALPHA * (RESAMPLES + 1))
    statistic.partition((rank - 1, RESAMPLES - rank), axis=1)
    low, high = statistic[:, rank - 1], statistic[:, RESAMPLES - rank]
    return centre - half, centre + half, centre - high * error, centre - low * error


def check_against_product(sample: numpy.ndarray, ends: tuple[numpy.ndarray, ...]) -> None:
    for row in range(3):
        values = [float(value) for value in sample[row]]
        student, boot = t_interval(values, CONFIDENCE), bootstrap_t_interval(values, CONFIDENCE, seed=0)
        expected = (student.lower, student.upper, boot.lower, boot.upper)
        found = tuple(float(end[row]) for end in ends)
        if not all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) for a, b in zip(found, expected, strict=True)):
            sys.exit(f"the simulation and the product differ: {found} {expected}")


def coverage_table(everything: list[Population], simulations: int) -> None:
    planned = normal_quantile(1 - ALPHA) + normal_quantile(0.9)
    print(
        "| differences | n | t covers | bootstrap-t covers | U < mean, t | U < mean, bootstrap-t | false pass | "
        "false fail | pass at the planned distance |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for population in everything:
        for n in SIZES:
            if population.size is not None and n >= population.size:
                continue
            weights, hits, done = counts(n), numpy.zeros(7), 0
            distance = planned / math.sqrt(n)
            while done < simulations:
                size = min(CHUNK, simulations - done)
                sample = population.draw((size, n))
                ends = bounds(sample, weights)
                if done == 0:
                    check_against_product(sample, ends)
                t_low, t_high, b_low, b_high = ends
                upper, lower = numpy.maximum(t_high, b_high), numpy.minimum(t_low, b_low)
                hits += [
                    ((t_low <= 0) & (t_high >= 0)).sum(),
                    ((b_low <= 0) & (b_high >= 0)).sum(),
                    (t_high < 0).sum(),
                    (b_high < 0).sum(),
                    (upper <= 0).sum(),
                    (lower > 0).sum(),
                    (upper <= distance).sum(),
                ]
                done += size
            cells = " | ".join(f"{100 * hit / done:.1f}%" for hit in hits)
            print(f"| {population.name} | {n} | {cells} |", flush=True)


def document_table(generator: numpy.random.Generator, simulations: int) -> None:
    """Windows of one document share a level: t over windows against t over documents."""
    print("| windows | documents | correlation within | t over windows covers | t over documents covers |")
    print("|---:|---:|---:|---:|---:|")
    for documents, each in ((30, 1), (30, 2), (30, 5), (100, 2)):
        for correlation in (0.0, 0.2, 0.5):
            if each == 1 and correlation:
                continue
            level = math.sqrt(correlation) * generator.standard_normal((simulations, documents, 1))
            own = math.sqrt(1 - correlation) * generator.standard_normal((simulations, documents, each))
            windows = level + own
            flat, means = windows.reshape(simulations, -1), windows.mean(axis=2)
            known = [[float(value) for value in flat[row]] for row in range(3)]
            numbers = [index // each for index in range(documents * each)]
            covered = []
            for sample, units in ((flat, None), (means, numbers)):
                n = sample.shape[1]
                half = t_quantile(1 - ALPHA, n - 1) * sample.std(axis=1, ddof=1) / math.sqrt(n)
                covered.append((numpy.abs(sample.mean(axis=1)) <= half).mean())
                for row, values in enumerate(known):
                    product = t_interval(Sample.of(values, units), CONFIDENCE)
                    if not math.isclose(product.upper - product.estimate, half[row], rel_tol=1e-9):
                        sys.exit("the simulation and the product differ")
            cells = " | ".join(f"{100 * share:.1f}%" for share in covered)
            print(f"| {documents * each} | {documents} | {correlation:.1f} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--values", type=Path, action="append", default=[], help="a bundle or measurement directory"
    )
    parser.add_argument("--fixture", action="append", default=[], help="dense, moe or mamba")
    parser.add_argument("--real-only", action="store_true")
    parser.add_argument("--simulations", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    generator = numpy.random.Generator(numpy.random.PCG64(options.seed))
    everything = [] if options.real_only else populations(generator)
    with tempfile.TemporaryDirectory() as folder:
        directories = options.values + [measure_fixture(name, Path(folder)) for name in options.fixture]
        try:
            everything += [item for path in directories for item in finite_populations(path, generator)]
        except UcauditError as error:
            sys.exit(f"coverage: {error}")
    print(f"{options.simulations} simulations a row, {RESAMPLES} resamples, seed {options.seed}\n")
    coverage_table(everything, options.simulations)
    if not options.real_only:
        print()
        document_table(numpy.random.Generator(numpy.random.PCG64(options.seed)), options.simulations)


if __name__ == "__main__":
    main()
