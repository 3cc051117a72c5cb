"""The Hub's model-index, read back with a YAML parser that is not ours."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import yaml
from factories import HOSTILE
from hypothesis import given
from hypothesis import strategies as st

from ucaudit.evidence.examine import Examined
from ucaudit.interop.model_index import model_index_yaml, scalar


def entry(found: Examined) -> dict[str, Any]:
    [made] = yaml.safe_load(model_index_yaml(found))["model-index"]
    return made


@pytest.mark.parametrize("case", ["pass", "fail", "inconclusive", "pass-with-exceptions"])
def test_figures_intervals_and_verdicts(outcomes: dict[str, Examined], case: str) -> None:
    record = outcomes[case].record
    made = entry(outcomes[case])
    assert made["name"] == record.pack.name
    [result] = made["results"]
    metrics = {item["type"]: item for item in result["metrics"]}
    for slug, interval in (("perplexity-ratio", record.results.ratio), ("mean-kl-divergence", record.results.kl)):
        assert metrics[slug]["value"] == interval.estimate
        assert (metrics[slug]["args"]["lower"], metrics[slug]["args"]["upper"]) == (interval.lower, interval.upper)
    verdicts = {
        claim["id"]: claim["verdict"] for item in metrics.values() for claim in item["args"].get("claims", [])
    }
    assert verdicts == {claim.id: claim.verdict for claim in record.claims}
    words = record.determination.replace("-", " ").upper()
    fingerprint = outcomes[case].envelope_digest
    assert result["source"]["name"] == f"ucaudit record {fingerprint}: {words}"
    assert result["source"]["url"].endswith(fingerprint)
    assert result["dataset"]["args"]["sha256"] == record.measurement.corpus.sha256
    assert "verif" not in model_index_yaml(outcomes[case]).decode()


def test_what_was_not_compared_is_not_zero(outcomes: dict[str, Examined]) -> None:
    record = outcomes["pass"].record
    rebuilt = record.reconstruction.model_copy(update={"matches_published": "none-published"})
    changed = replace(outcomes["pass"], record=record.model_copy(update={"reconstruction": rebuilt}))
    [drift] = [
        item for item in entry(changed)["results"][0]["metrics"] if item["args"].get("metric") == "driftedTensors"
    ]
    assert drift["value"] == "not assessed"


def test_hostile_text_stays_text(outcomes: dict[str, Examined]) -> None:
    made = entry(outcomes["hostile"])
    assert made["name"] == HOSTILE
    assert made["results"][0]["dataset"]["name"] == HOSTILE


def test_the_comment_stays_a_comment(outcomes: dict[str, Examined]) -> None:
    from types import SimpleNamespace

    found = replace(outcomes["pass"], signer=SimpleNamespace(principal="a\nverified: true\u2028x: y\x85z: 1\x07"))
    assert list(yaml.safe_load(model_index_yaml(found))) == ["model-index"]


def test_the_same_bytes(outcomes: dict[str, Examined]) -> None:
    assert model_index_yaml(outcomes["fail"]) == model_index_yaml(outcomes["fail"])


@given(st.text())
def test_any_text_is_read_back(text: str) -> None:
    assert yaml.safe_load(f"- {scalar(text)}\n") == [text]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_is_read_back_as_one(value: float) -> None:
    [found] = yaml.safe_load(f"- {scalar(value)}\n")
    assert isinstance(found, float)
    assert found == value
    assert math.copysign(1, found) == math.copysign(1, value)
