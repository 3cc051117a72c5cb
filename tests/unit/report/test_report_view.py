"""What the view says of a record, whatever the record says."""

from __future__ import annotations

from typing import Any

import pytest
from factories import digest_of, make_attestation, make_attestation_statement, make_values

from ucaudit.core.errors import MalformedRecordError, NotFoundError
from ucaudit.core.records import BundleClosing, Context, PolicyExceptionRecord, Subject, Tool, make_statement
from ucaudit.report import EndorsementFacts, LedgerFacts, build_view
from ucaudit.report.results import claim_row


def excuse(claim: str, expires: str = "2027-01-31T00:00:00Z") -> PolicyExceptionRecord:
    return PolicyExceptionRecord(claim=claim, owner="Head of risk", rationale="pilot", expires=expires)


def test_pass(make_view: Any) -> None:
    view = make_view()
    assert view.determination == "PASS"
    assert view.summary.startswith("All 5 claims")
    assert view.headline.startswith("Perplexity ratio, pack to reference: 1.0133, interval 1.0100 to 1.0167 (95%)")


def test_fail(make_view: Any) -> None:
    view = make_view(of=make_attestation(values=make_values(drift=0.06)))
    assert view.determination == "FAIL"
    assert "failed: ppl-ratio, mean-kl" in view.summary


def test_inconclusive(make_view: Any) -> None:
    view = make_view(of=make_attestation(values=make_values(drift=0.047, noise=0.012), kl_max=0.06))
    assert view.determination == "INCONCLUSIVE"
    row = view.claims[0]
    assert row.verdict == "INCONCLUSIVE" and row.deciding is not None and "windows would decide" in row.deciding


def test_pass_with_exceptions(make_view: Any) -> None:
    granted = (excuse("ppl-ratio"), excuse("mean-kl"), excuse("top1-agreement", "2026-01-01T00:00:00Z"))
    view = make_view(of=make_attestation(values=make_values(drift=0.06), exceptions=granted))
    assert view.determination == "PASS WITH EXCEPTIONS"
    assert [row.state for row in view.exceptions] == [
        "in force when signed; applied",
        "in force when signed; applied",
        "expired when signed; not needed: the claim held",
    ]


def test_not_an_attestation(make_view: Any) -> None:
    closing = BundleClosing(
        created="2026-11-24T09:30:00Z", tool=Tool(name="t", version="1"), attestation_digest=digest_of("a"), files=1
    )
    with pytest.raises(MalformedRecordError, match="not an attestation"):
        build_view(
            make_statement(closing, [Subject("a", digest_of("a"))]),
            envelope_digest=digest_of("e"),
            signer_key_id="",
            principal=None,
            endorsements=(),
            values=None,
            ledger=None,
            profile="soc2",
        )


def test_unknown_profile(make_view: Any) -> None:
    with pytest.raises(NotFoundError):
        make_view("hipaa")


def test_absent_things_are_said(make_view: Any) -> None:
    record = make_attestation(context=Context())
    view = make_view(of=record, principal=None)
    assert {fact.value for fact in view.context} == {"not assessed: not stated"}
    assert view.signer.principal == "not assessed"
    assert "key not checked against a trust file" in view.signer.check
    assert view.ledger[0].value == "not assessed: no ledger proof was given"
    assert view.separation.startswith("not assessed")
    assert view.classification == "Confidential"


def test_no_published_state_is_not_shown_as_zero_drift(make_view: Any) -> None:
    record = make_attestation()
    silent = record.reconstruction.model_copy(update={"matches_published": "none-published"})
    view = make_view(of=record.model_copy(update={"reconstruction": silent}))
    assert view.claims[-1].observed == "not assessed"
    facts = {fact.label: fact.value for fact in view.pack}
    assert facts["Tensors that drifted"] == "not assessed"


def test_ledger_and_endorsements(make_view: Any) -> None:
    person = EndorsementFacts("A. Person", "validator", "review", "2026-11-24T10:00:00Z", digest_of("other"), "a@b")
    view = make_view(ledger=LedgerFacts("example.org/log", 4, 9, checked=True), endorsements=[person])
    assert view.ledger[1].value.startswith("number 4 (counted from 0) of 9 entries")
    assert "holds under the ledger key" in view.ledger[2].value
    assert (
        view.separation
        == "at least one endorsement was made with another key of another principal than the record's"
    )
    same = EndorsementFacts(
        "R", "validator", "review", "2026-11-24T10:00:00Z", digest_of("other"), "Release@Example.org"
    )
    assert "by the record's own principal" in make_view(endorsements=[same]).separation
    unchecked = make_view(principal=None, endorsements=[person])
    assert unchecked.separation == "at least one endorsement was made with another key than the record's"
    own = EndorsementFacts("A", "validator", "review", "2026-11-24T10:00:00Z", digest_of("key"))
    assert "record's own key" in make_view(endorsements=[own]).separation


def test_digests_are_whole(make_view: Any) -> None:
    view = make_view()
    for fact in (*view.digests, *view.files):
        if fact.kind == "digest":
            assert len(fact.value.replace(" ", "")) == 64
    assert len(view.files) == view.files_total == 34


def test_a_long_list_of_files_is_cut_and_says_so() -> None:
    record = make_attestation()
    pack = record.pack.model_copy(update={"files": 2500})
    statement = make_attestation_statement(record.model_copy(update={"pack": pack}), files=2500)
    view = build_view(
        statement,
        envelope_digest=digest_of("e"),
        signer_key_id="",
        principal=None,
        endorsements=(),
        values=None,
        ledger=None,
        profile="soc2",
    )
    assert (len(view.files), view.files_total) == (2000, 2500)


def test_a_counted_value_never_rounds_across_its_limit() -> None:
    claim = (
        make_attestation().claims[3].model_copy(update={"observed": 6.00001, "threshold": 6.0, "verdict": "fail"})
    )
    assert claim_row(claim).observed == "6.00001 bits per weight"
