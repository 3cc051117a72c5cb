"""OSCAL assessment results: what is said of each control, claim and digest, and how it hangs together."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from factories import digest_of

from ucaudit.core.errors import MalformedRecordError
from ucaudit.evidence.examine import EndorsementFacts, Examined, LedgerFacts
from ucaudit.interop.oscal import oscal_json
from ucaudit.interop.oscal_parts import control_tokens
from ucaudit.report import load_profile, profile_names

TOKEN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
UUID5 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def document(found: Examined, profile: str = "soc2") -> dict[str, Any]:
    return json.loads(oscal_json(found, load_profile(profile)))["assessment-results"]


def values_of(item: dict[str, Any]) -> dict[str, str]:
    return {prop["name"]: prop["value"] for prop in item["props"]}


def walk(value: Any) -> Any:
    if isinstance(value, dict):
        for name, item in value.items():
            yield name, item
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)


@pytest.mark.parametrize("profile", profile_names())
@pytest.mark.parametrize(
    ("case", "state", "reason"),
    [
        ("pass", "satisfied", "pass"),
        ("fail", "not-satisfied", "fail"),
        ("inconclusive", "not-satisfied", "other"),
        ("pass-with-exceptions", "not-satisfied", "other"),
    ],
)
def test_a_finding_for_every_row_of_the_profile(
    outcomes: dict[str, Examined], profile: str, case: str, state: str, reason: str
) -> None:
    rows = load_profile(profile).controls
    made = document(outcomes[case], profile)
    [result] = made["results"]
    assert len(result["findings"]) == len(rows)
    objectives = {
        part["id"] for item in made["local-definitions"]["objectives-and-methods"] for part in item["parts"]
    }
    for row, finding in zip(rows, result["findings"], strict=True):
        status = finding["target"]["status"]
        covered = row.strength != "not covered"
        assert (status["state"], status["reason"]) == ((state, reason) if covered else ("not-satisfied", "other"))
        assert "not the state of the control" in status["remarks"]
        assert values_of(finding)["evidence-strength"] == row.strength
        assert {prop["value"] for prop in finding["props"] if prop["name"] == "label"} == set(row.ids)
        assert finding["target"]["target-id"] in objectives
        assert ("related-observations" in finding) == covered
        if row.remains is not None:
            assert row.remains.replace("&", "\\&") in finding["description"]
    selection = result["reviewed-controls"]["control-selections"][0]
    assert len(selection["include-controls"]) == len(load_profile(profile).covered())
    assert len(selection["exclude-controls"]) == len(load_profile(profile).not_covered())


@pytest.mark.parametrize("case", ["pass", "fail", "inconclusive", "pass-with-exceptions"])
def test_claims_are_observations_and_open_ones_are_risks(outcomes: dict[str, Examined], case: str) -> None:
    record = outcomes[case].record
    [result] = document(outcomes[case])["results"]
    observations = {item["title"]: item for item in result["observations"]}
    for claim in record.claims:
        observed = values_of(observations[f"Claim {claim.id}: {claim.verdict}"])
        assert observed["verdict"] == claim.verdict
        assert float(observed["observed"]) == claim.observed
        assert float(observed["threshold"]) == claim.threshold
        if claim.interval is not None:
            ends = (float(observed["interval-lower"]), float(observed["interval-upper"]))
            assert ends == (claim.interval.lower, claim.interval.upper)
            assert float(observed["interval-confidence"]) == claim.interval.confidence
    open_claims = [claim for claim in record.claims if claim.verdict != "pass"]
    risks = result.get("risks", [])
    assert len(risks) == len(open_claims)
    covered = next(item for item in result["findings"] if "related-observations" in item)
    assert len(covered.get("related-risks", [])) == len(open_claims)
    for claim, risk in zip(open_claims, risks, strict=True):
        assert claim.id in risk["title"]
        assert risk["status"] == "open"
        excused = case == "pass-with-exceptions"
        assert ("deadline" in risk) == excused
        if excused:
            assert values_of(risk)["exception-owner"] == "Owner"


def test_severity_is_the_profiles(outcomes: dict[str, Examined]) -> None:
    risk = document(outcomes["fail"], "sr-11-7")["results"][0]["risks"][0]
    assert values_of(risk)["severity"] == load_profile("sr-11-7").severity["claim-failed"]
    risk = document(outcomes["fail"], "soc2")["results"][0]["risks"][0]
    assert values_of(risk)["severity"] == "not set"


@pytest.mark.parametrize("case", ["pass", "hostile"])
def test_every_reference_leads_somewhere_and_every_identifier_is_one(
    outcomes: dict[str, Examined], case: str
) -> None:
    made = document(outcomes[case])
    items = list(walk(made))
    defined = [value for name, value in items if name == "uuid"]
    assert len(set(defined)) == len(defined)
    assert all(UUID5.fullmatch(value) for value in defined)
    used = [value for name, value in items if name.endswith("-uuid")]
    used += [value[1:] for name, value in items if name == "href" and value.startswith("#")]
    assert used
    assert set(used) <= set(defined)
    assert all(TOKEN.fullmatch(value) for name, value in items if name in ("control-id", "target-id", "id"))
    assert all(value == value.strip() and "\n" not in value for name, value in items if name in ("value", "title"))
    assert all(value not in (None, "", [], {}) for name, value in items)


def test_evidence_is_named_by_its_digest(outcomes: dict[str, Examined]) -> None:
    found = outcomes["pass"]
    made = document(found)
    hashes = {
        item["title"]: item["rlinks"][0]["hashes"][0]["value"]
        for item in made["back-matter"]["resources"]
        if "rlinks" in item
    }
    assert (
        hashes["attestation.dsse.json"]
        == found.envelope_digest
        == made["metadata"]["document-ids"][0]["identifier"]
    )
    assert hashes["pack.SHA256SUMS"] == found.record.pack.pack_digest
    for item in found.record.measurement.value_files:
        assert hashes[item.name] == item.sha256
    assert made["metadata"]["last-modified"] == found.record.created


def test_the_same_bytes_for_the_same_record_and_another_identifier_for_other_words(
    outcomes: dict[str, Examined],
) -> None:
    found, profile = outcomes["pass"], load_profile("soc2")
    assert oscal_json(found, profile) == oscal_json(found, profile)
    one = document(found)
    assert one["uuid"] != document(found, "fda")["uuid"]
    assert one["uuid"] != document(replace(found, seen="seen by a witness"))["uuid"]
    other = document(replace(found, envelope_digest=digest_of("another envelope")))
    assert not {value for name, value in walk(one) if name == "uuid"} & {
        value for name, value in walk(other) if name == "uuid"
    }


def test_a_signature_that_nobody_checked_says_so(outcomes: dict[str, Examined]) -> None:
    person = EndorsementFacts("A. Person", "validator", "review", "2026-11-24T10:00:00Z", digest_of("k"))
    unchecked = replace(outcomes["pass"], endorsements=(person,), ledger=LedgerFacts("example.org/log", 3, 9))
    [result] = document(unchecked)["results"]
    assert "signer's key not checked" in result["title"]
    signature = result["observations"][-1]
    assert values_of(signature)["signer"] == "not checked"
    assert values_of(signature)["endorsement"] == "A. Person"
    assert "was not checked against a trust file" in signature["description"]
    signer = SimpleNamespace(principal="release@example.org")
    [result] = document(replace(unchecked, signer=signer))["results"]
    assert values_of(result)["signer"] == "release@example.org"


def test_without_a_plan_the_policy_stands_in_and_the_document_says_what_it_is(
    outcomes: dict[str, Examined],
) -> None:
    made = document(outcomes["pass"])
    assert "not pre-registered" in made["import-ap"]["remarks"]
    policy = next(
        item for item in made["back-matter"]["resources"] if f"#{item['uuid']}" == made["import-ap"]["href"]
    )
    assert values_of(policy)["sha256"] == outcomes["pass"].record.policy.sha256


def test_what_was_not_compared_is_not_zero(outcomes: dict[str, Examined]) -> None:
    record = outcomes["pass"].record
    rebuilt = record.reconstruction.model_copy(update={"matches_published": "none-published"})
    changed = replace(outcomes["pass"], record=record.model_copy(update={"reconstruction": rebuilt}))
    observed = [values_of(item) for item in document(changed)["results"][0]["observations"]]
    drift = next(item for item in observed if item.get("metric") == "driftedTensors")
    assert drift["observed"] == "not assessed"


def test_free_text_is_no_markup(outcomes: dict[str, Examined]) -> None:
    text = oscal_json(outcomes["hostile"], load_profile("soc2")).decode()
    made = json.loads(text)
    markup = [
        value
        for name, value in walk(made)
        if name in ("title", "description", "statement", "prose", "remarks") and "script" in value
    ]
    assert len(markup) > 10
    for value in markup:
        assert re.search(r"(?<!\\)[\[\]<>{}]", value) is None


def test_tokens_are_distinct() -> None:
    rows = [SimpleNamespace(ids=(text,)) for text in ("11.10(a)", "11.10 a", "é", "é", "V, benchmarking")]
    tokens = control_tokens(rows)
    assert tokens == ["_11.10-a", "_11.10-a-2", "control", "control-2", "V-benchmarking"]


def test_two_claims_of_one_id_are_refused(outcomes: dict[str, Examined]) -> None:
    record = outcomes["pass"].record
    twice = record.model_copy(update={"claims": (record.claims[0], *record.claims)})
    with pytest.raises(MalformedRecordError, match="one id"):
        document(replace(outcomes["pass"], record=twice))


def test_a_profile_that_covers_nothing(outcomes: dict[str, Examined]) -> None:
    profile = load_profile("soc2")
    bare = profile.model_copy(update={"controls": profile.not_covered()})
    made = json.loads(oscal_json(outcomes["pass"], bare))["assessment-results"]
    selection = made["results"][0]["reviewed-controls"]["control-selections"][0]
    assert selection["include-all"] == {}
    assert len(selection["exclude-controls"]) == len(profile.not_covered())
    assert all(item["target"]["status"]["state"] == "not-satisfied" for item in made["results"][0]["findings"])
