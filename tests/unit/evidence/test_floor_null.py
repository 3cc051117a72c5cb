"""How often a floor is refuted where there is nothing to find: with the spreads of the study's own bundles."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from ucaudit.core.stats import improvement, judge_floor
from ucaudit.core.tokenvalues import REFERENCE_FILE, load_run
from ucaudit.evidence.bundle import open_bundle, run_name
from ucaudit.evidence.claims import window_differences, window_means
from ucaudit.evidence.signing import read_statement

STUDY = Path(__file__).parents[3] / "docs" / "floor-study" / "bundles"
RUNS = 2000


def spreads(name):
    """The real ones: every attempt's windows (centred, over seeds), the seeds' spread, and what is left."""
    bundle = open_bundle(STUDY / name)
    record = read_statement(bundle.attestation).predicate
    protocol = record.protocol

    def rows(arm):
        found = []
        for seed in protocol.seeds:
            values = load_run(bundle.path / REFERENCE_FILE, bundle.path / run_name(arm, seed))
            metric = window_differences(values)
            found.append(metric if protocol.metric == "pplRatio" else window_means(values, values.rows(values.kl)))
        return found

    base = rows("baseline")
    reactions, seeds, noise = [], [], []
    for arm in [base, *(rows(item.name) for item in protocol.perturbations)]:
        means = [math.fsum(row) / len(row) for row in arm]
        centre = math.fsum(means) / len(means)
        seeds.append(sum((mean - centre) ** 2 for mean in means) / (len(means) - 1))
        column = [math.fsum(values) / len(values) for values in zip(*arm, strict=True)]
        noise.append(
            sum(
                (value - mean - window + centre) ** 2
                for row, mean in zip(arm, means, strict=True)
                for value, window in zip(row, column, strict=True)
            )
            / ((len(arm) - 1) * (len(column) - 1))
        )
        if arm is not base:
            own = [math.fsum(values) / len(values) for values in zip(*base, strict=True)]
            differences = [one - other for one, other in zip(column, own, strict=True)]
            middle = math.fsum(differences) / len(differences)
            reactions.append([value - middle for value in differences])
    return protocol, reactions, math.sqrt(sum(seeds) / len(seeds)), math.sqrt(sum(noise) / len(noise))


@pytest.mark.slow
@pytest.mark.parametrize("effect", [0.0, 1.0])
@pytest.mark.parametrize("name", ["dense-ratio", "dense-kl"])
def test_a_null_is_refuted_in_at_most_three_percent(name, effect):
    """``effect``: the true improvement of every attempt, in units of δ. At 1 the null holds, and is hardest."""
    protocol, reactions, of_seeds, noise = spreads(name)
    draw = random.Random(f"{name} {effect}")
    n, k = protocol.n, len(protocol.seeds)

    def arm(shift, own):
        levels = [draw.gauss(shift, of_seeds) for _ in range(k)]
        return [[level + reaction + draw.gauss(0, noise) for reaction in own] for level in levels]

    def protocol_once():
        baseline = arm(0.0, [0.0] * n)
        return {
            f"attempt {number}": improvement(baseline, arm(-effect * protocol.margin, draw.choices(reaction, k=n)))
            for number, reaction in enumerate(reactions)
        }

    won = refuted = 0
    for _ in range(RUNS):
        first = protocol_once()
        verdict = judge_floor(first, protocol.margin)
        if "fresh windows" not in verdict.reason:
            continue
        won += 1
        winners = [item.name for item in verdict.attempts if item.p_above <= 0.025]
        again = protocol_once()
        confirmed = judge_floor(first, protocol.margin, confirmed={item: again[item] for item in winners})
        refuted += confirmed.decision == "refuted"
    print(f"{name}, effect {effect:g}: {won} of {RUNS} won on the first windows, {refuted} were refuted")
    assert refuted <= won <= 0.03 * RUNS
