"""Findings: all that a reviewer must see, the gravest first, with the severity that the profile says."""

from __future__ import annotations

from typing import Any

from factories import digest_of, make_attestation, make_values

from ucaudit.core.records import PolicyExceptionRecord
from ucaudit.report import EndorsementFacts, LedgerFacts, load_profile
from ucaudit.report.render import render_html


def kinds(view: Any) -> dict[str, str]:
    return {row.slug: row.severity for row in view.findings}


def test_a_failure_comes_first(make_view: Any) -> None:
    record = make_attestation(values=make_values(drift=0.06))
    view = make_view("sr-11-7", of=record)
    assert (view.findings[0].slug, view.findings[0].severity) == ("claim-failed", "high")
    ranks = ["high", "medium", "low"]
    order = [ranks.index(row.severity) for row in view.findings]
    assert order == sorted(order)


def test_what_is_missing_is_a_finding_and_what_is_there_is_not(make_view: Any) -> None:
    bare = kinds(make_view("sr-11-7", principal=None))
    assert {"key-not-checked", "no-endorsement", "no-trusted-time", "not-in-a-ledger"} <= bare.keys()
    person = EndorsementFacts("A", "validator", "review", "2026-11-24T10:00:00Z", digest_of("k"), "a@example.org")
    full = make_view(
        "sr-11-7", endorsements=[person], seen="seen by w at t", ledger=LedgerFacts("o", 0, 1, checked=True)
    )
    assert not {"key-not-checked", "no-endorsement", "no-trusted-time", "not-in-a-ledger"} & kinds(full).keys()


def test_the_signer_s_second_key_is_no_second_person(make_view: Any) -> None:
    same = EndorsementFacts(
        "R", "validator", "review", "2026-11-24T10:00:00Z", digest_of("k"), "Release@Example.org"
    )
    assert "no-endorsement" in kinds(make_view("sr-11-7", endorsements=[same]))


def test_an_exception_is_a_finding_beside_the_failure(make_view: Any) -> None:
    excuse = PolicyExceptionRecord(claim="ppl-ratio", owner="O", rationale="r", expires="2027-01-31T00:00:00Z")
    record = make_attestation(values=make_values(drift=0.06), exceptions=(excuse,))
    assert {"claim-failed", "exception-applied"} <= kinds(make_view("sr-11-7", of=record)).keys()


def test_severity_is_the_profile_s_rule(make_view: Any) -> None:
    assert set(load_profile("sr-11-7").severity.values()) == {"high", "medium", "low"}
    text = render_html(make_view("sr-11-7"))
    assert "Findings by severity" in text
    assert {row.severity for row in make_view("soc2").findings} == {"not set by the profile"}
