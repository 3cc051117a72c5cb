"""How often the intervals and the verdict rule are wrong, on differences of known mean.

Run: python benchmarks/coverage.py [--simulations 20000] [--seed 1]

Each simulated measurement draws n windows' differences from a population of known mean. The product's resamples are
used (one seed, so one set of resamples for every measurement of n windows) as matrices: a resample is a vector of
counts, and all its sums are one matrix product. A few measurements are also given to the product itself, and must
agree. Prints the table of docs/measurement.md.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy

from ucaudit.core.stats import RESAMPLES, bootstrap_t_interval, normal_quantile, t_interval, t_quantile
from ucaudit.core.stats.bootstrap import _all_indexes

CONFIDENCE = 0.95
ALPHA = (1 - CONFIDENCE) / 2
SIZES = (10, 30, 50, 200)
CHUNK = 500


@dataclass
class Population:
    """Differences with mean 0 and standard deviation 1."""

    name: str
    draw: Callable[[tuple[int, int]], numpy.ndarray]


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


def counts(n: int) -> numpy.ndarray:
    """The product's resamples as counts [n, RESAMPLES]."""
    drawn = numpy.array(_all_indexes(n, 0, RESAMPLES)).reshape(RESAMPLES, n)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    generator = numpy.random.Generator(numpy.random.PCG64(options.seed))
    planned = normal_quantile(1 - ALPHA) + normal_quantile(0.9)
    print(f"{options.simulations} simulations a row, {RESAMPLES} resamples, seed {options.seed}")
    print(
        "| differences | n | t covers | bootstrap-t covers | U < mean, t | U < mean, bootstrap-t | false pass | "
        "false fail | pass at the planned distance |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for population in populations(generator):
        for n in SIZES:
            weights, hits, done = counts(n), numpy.zeros(7), 0
            distance = planned / math.sqrt(n)
            while done < options.simulations:
                size = min(CHUNK, options.simulations - done)
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


if __name__ == "__main__":
    main()
