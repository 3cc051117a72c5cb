"""Judges of the documents for programs: the models that compliance-trestle generates from NIST's OSCAL schema, the
strict schema of CycloneDX 1.7 in its Python library, and the reader of model indexes in huggingface_hub.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from factories import make_outcomes

from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.examine import Examined, examine_bundle
from ucaudit.evidence.trust import load_trust
from ucaudit.interop.cyclonedx import cyclonedx_json
from ucaudit.interop.model_index import model_index_yaml
from ucaudit.interop.oscal import oscal_json
from ucaudit.report import load_profile, profile_names
from ucaudit.report.profiles import read_profile

pytestmark = pytest.mark.oracle

ROOT = Path(__file__).parents[2]
TRESTLE = "compliance-trestle==5.2.0"
CYCLONEDX = "cyclonedx-python-lib[json-validation]==11.12.0"
HUB = "huggingface_hub==2.4.0"
JUDGE_OSCAL = """
import json, sys
from trestle.oscal.assessment_results import Model
said = []
for text in json.load(sys.stdin):
    try:
        made = Model.model_validate(json.loads(text)).assessment_results
        states = sorted({finding.target.status.state.value for finding in made.results[0].findings})
        said.append(["accepted", *states])
    except Exception as error:
        said.append(["refused", str(error)[:300]])
print(json.dumps(said))
"""
JUDGE_CYCLONEDX = """
import json, sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
judge = JsonStrictValidator(SchemaVersion.V1_7)
said = []
for text in json.load(sys.stdin):
    problem = judge.validate_str(text)
    said.append(["accepted"] if problem is None else ["refused", repr(problem)[:300]])
print(json.dumps(said))
"""
JUDGE_HUB = """
import json, sys, yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
said = []
for text in json.load(sys.stdin):
    try:
        name, results = model_index_to_eval_results(yaml.safe_load(text)["model-index"])
        card = ModelCard(f"---\\n{text}---\\n# A model\\n")
        assert card.data.eval_results == results and card.data.model_name == name
        values = {item.metric_type: item.metric_value for item in results}
        flags = sorted({str(item.verified) for item in results} | {str(item.verify_token) for item in results})
        said.append(["accepted", name, values, flags, results[0].source_name])
    except Exception as error:
        said.append(["refused", repr(error)[:300]])
print(json.dumps(said))
"""
Judge = Callable[[str, str, str, list[bytes]], list[list[Any]]]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Examined]:
    fixtures = ROOT / "fixtures"
    published = examine_bundle(open_bundle(fixtures / "bundle"), load_trust(fixtures / "trust.toml"))
    return make_outcomes() | {"published": published}


@pytest.fixture(scope="module")
def judge(oracle_env: Any) -> Judge:
    def ask(name: str, requirement: str, program: str, documents: list[bytes]) -> list[list[Any]]:
        python = oracle_env(name, [requirement]) / "bin" / "python"
        question = json.dumps([data.decode() for data in documents]).encode()
        done = subprocess.run(
            [python, "-c", program], input=question, capture_output=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        return json.loads(done.stdout)

    return ask


def test_oscal(judge: Judge, outcomes: dict[str, Examined]) -> None:
    profiles = [load_profile(name) for name in profile_names()]
    profiles.append(read_profile(ROOT / "docs" / "examples" / "house-profile" / "profile.toml"))
    good = {
        (case, profile.slug): oscal_json(found, profile) for case, found in outcomes.items() for profile in profiles
    }
    first = json.loads(next(iter(good.values())))
    bad = []
    for damage in ("state", "uuid", "member", "collected", "metadata", "token"):
        document = json.loads(json.dumps(first))
        results = document["assessment-results"]
        finding = results["results"][0]["findings"][0]
        if damage == "state":
            finding["target"]["status"]["state"] = "compliant"
        elif damage == "uuid":
            results["uuid"] = "not-a-uuid"
        elif damage == "member":
            finding["verdict"] = "pass"
        elif damage == "collected":
            del results["results"][0]["observations"][0]["collected"]
        elif damage == "metadata":
            del results["metadata"]["oscal-version"]
        else:
            finding["target"]["target-id"] = "CC8.1 and more"
        bad.append(json.dumps(document).encode())
    said = judge("oscal", TRESTLE, JUDGE_OSCAL, [*good.values(), *bad])
    for (case, slug), answer in zip(good, said, strict=False):
        assert answer[0] == "accepted", (case, slug, answer)
        assert ("satisfied" in answer) == (case in ("pass", "published")), (case, slug, answer)
        assert "not-satisfied" in answer
    assert [answer[0] for answer in said[len(good) :]] == ["refused"] * len(bad)


def test_cyclonedx(judge: Judge, outcomes: dict[str, Examined]) -> None:
    good = [cyclonedx_json(found) for found in outcomes.values()]
    bad = []
    for member, value in (("serialNumber", "urn:uuid:1"), ("verified", True), ("specVersion", 1.7)):
        bad.append(json.dumps(json.loads(good[0]) | {member: value}).encode())
    document = json.loads(good[0])
    document["metadata"]["component"]["components"][0]["hashes"][0]["content"] = "12"
    bad.append(json.dumps(document).encode())
    said = judge("cyclonedx", CYCLONEDX, JUDGE_CYCLONEDX, good + bad)
    assert said[: len(good)] == [["accepted"]] * len(good)
    assert [answer[0] for answer in said[len(good) :]] == ["refused"] * len(bad)


def test_model_index(judge: Judge, outcomes: dict[str, Examined]) -> None:
    said = judge("model-index", HUB, JUDGE_HUB, [model_index_yaml(found) for found in outcomes.values()])
    for (case, found), answer in zip(outcomes.items(), said, strict=True):
        assert answer[0] == "accepted", (case, answer)
        _, name, values, flags, source = answer
        assert name == found.record.pack.name
        assert values["perplexity-ratio"] == found.record.results.ratio.estimate
        assert values["mean-kl-divergence"] == found.record.results.kl.estimate
        assert flags == ["None"]
        assert found.envelope_digest in source
    assert judge("model-index", HUB, JUDGE_HUB, [b"model-index: []\n"])[0][0] == "refused"
