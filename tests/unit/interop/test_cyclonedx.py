"""CycloneDX: the pack as a component, its figures in the model card, its claims as declarations."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from factories import digest_of

from ucaudit.core.errors import MalformedRecordError
from ucaudit.evidence.examine import Examined
from ucaudit.interop.cyclonedx import cyclonedx_json


def document(found: Examined) -> dict[str, Any]:
    return json.loads(cyclonedx_json(found))


def refs(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["bom-ref"]] if "bom-ref" in value else []
        return own + [ref for item in value.values() for ref in refs(item)]
    return [ref for item in value for ref in refs(item)] if isinstance(value, list) else []


def test_files_figures_and_the_reference(outcomes: dict[str, Examined]) -> None:
    found = outcomes["pass"]
    made = document(found)
    pack = made["metadata"]["component"]
    assert pack["type"] == "machine-learning-model"
    files = {item["name"]: item["hashes"] for item in pack["components"]}
    assert files == {entry.path: [{"alg": "SHA-256", "content": entry.digest}] for entry in found.manifest.entries}
    [ancestor] = pack["pedigree"]["ancestors"]
    assert ancestor["name"] == found.record.reference.name
    assert {"name": "ucaudit:stateDigest", "value": found.record.reference.state_digest} in ancestor["properties"]
    metrics = {item["type"]: item for item in pack["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]}
    for slug, interval in (
        ("perplexity-ratio", found.record.results.ratio),
        ("mean-kl-divergence", found.record.results.kl),
        ("top-1-agreement", found.record.results.top1),
    ):
        metric = metrics[slug]
        ends = metric["confidenceInterval"]
        assert float(metric["value"]) == interval.estimate
        assert (float(ends["lowerBound"]), float(ends["upperBound"])) == (interval.lower, interval.upper)
        assert {"name": f"ucaudit:metric.{slug}.confidence", "value": "0.95"} in pack["modelCard"]["properties"]
    assert pack["modelCard"]["considerations"]["technicalLimitations"] == [
        item.text for item in found.record.limitations
    ]
    assert made["metadata"]["timestamp"] == found.record.created
    [record] = [item for item in pack["externalReferences"] if item["type"] == "attestation"]
    assert record["hashes"] == [{"alg": "SHA-256", "content": found.envelope_digest}]


@pytest.mark.parametrize("case", ["pass", "fail", "inconclusive", "pass-with-exceptions"])
def test_a_failed_claim_is_a_counter_claim_and_an_open_one_neither(
    outcomes: dict[str, Examined], case: str
) -> None:
    found = outcomes[case]
    declared = document(found)["declarations"]
    [attestation] = declared["attestations"]
    claims = {item["bom-ref"]: item for item in declared["claims"]}
    for claim, mapped in zip(found.record.claims, attestation["map"], strict=True):
        made = claims[f"claim/{claim.id}"]
        assert mapped["requirement"] == f"policy/{claim.id}"
        assert ("claims" in mapped, "counterClaims" in mapped) == (claim.verdict == "pass", claim.verdict == "fail")
        assert ("evidence" in made) == (claim.verdict != "inconclusive")
        start = {"pass": claim.text, "fail": "Does not hold: ", "inconclusive": "Not decided: "}[claim.verdict]
        assert made["predicate"].startswith(start)
        assert "score" not in json.dumps(mapped)
        if claim.verdict != "pass":
            rationale = mapped["conformance"]["rationale"]
            assert rationale.startswith(f"{claim.verdict}: ")
            assert ("until 2027-01-31" in rationale) == (case == "pass-with-exceptions")
    words = {"pass": "PASS.", "fail": "FAIL.", "inconclusive": "INCONCLUSIVE."}.get(case, "PASS WITH EXCEPTIONS.")
    assert attestation["summary"].startswith(words)


@pytest.mark.parametrize("case", ["pass", "hostile"])
def test_references_are_distinct_and_lead_somewhere(outcomes: dict[str, Examined], case: str) -> None:
    made = document(outcomes[case])
    defined = refs(made)
    assert len(set(defined)) == len(defined)
    declared = made["declarations"]
    used = {item["target"] for item in declared["claims"]}
    used |= {ref for item in declared["claims"] for ref in item.get("evidence", [])}
    for mapped in declared["attestations"][0]["map"]:
        used |= {mapped["requirement"], *mapped.get("claims", []), *mapped.get("counterClaims", [])}
    assert used <= set(defined)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("apache-2.0", {"id": "Apache-2.0", "acknowledgement": "declared"}),
        ("Custom licence", {"name": "Custom licence", "acknowledgement": "declared"}),
        ("  ", None),
        (None, None),
    ],
)
def test_licence(outcomes: dict[str, Examined], text: str | None, expected: dict[str, str] | None) -> None:
    record = outcomes["pass"].record
    pack = record.pack.model_copy(update={"license": text})
    made = document(replace(outcomes["pass"], record=record.model_copy(update={"pack": pack})))
    found = made["metadata"]["component"].get("licenses")
    assert found == (None if expected is None else [{"license": expected}])


def test_the_serial_number_follows_from_record_and_words(outcomes: dict[str, Examined]) -> None:
    found = outcomes["pass"]
    assert cyclonedx_json(found) == cyclonedx_json(found)
    serials = {
        document(item)["serialNumber"]
        for item in (found, replace(found, envelope_digest=digest_of("other")), replace(found, key_id="0" * 64))
    }
    assert len(serials) == 3
    assert all(re.fullmatch(r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f-]{21}", serial) for serial in serials)


def test_two_claims_of_one_id_are_refused(outcomes: dict[str, Examined]) -> None:
    record = outcomes["pass"].record
    twice = record.model_copy(update={"claims": (record.claims[0], *record.claims)})
    with pytest.raises(MalformedRecordError, match="one id"):
        document(replace(outcomes["pass"], record=twice))
