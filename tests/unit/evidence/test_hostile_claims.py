"""Signed nonsense in a claim or a date is malformed input, never a crash."""

import pytest
from bundles import draft_record, make_bundle, make_setting, make_values

from ucaudit.core.digest import FileManifest, StateManifest
from ucaudit.core.errors import MalformedPolicyError, MalformedRecordError
from ucaudit.core.records import PlannedClaim
from ucaudit.core.records.attestation import PolicyExceptionRecord
from ucaudit.evidence.bound import rederive
from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.claims import COMPARATORS, compute_results, judge_planned
from ucaudit.evidence.policy import load_policy
from ucaudit.evidence.trust import load_trust
from ucaudit.evidence.verify import verify_bundle


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "vibes"}, "metric 'vibes' is not known"),
        ({"threshold": 0.0}, "a threshold above 0 is expected, found 0"),
        ({"threshold": -1e308}, "found -1e\\+308"),
        ({"comparator": ">="}, "pplRatio is judged by <=, found >="),
    ],
)
def test_claims_that_cannot_be_judged(setting, tmp_path, change, message):
    def lie(record):
        first, *rest = record.claims
        return record.model_copy(update={"claims": (first.model_copy(update=change), *rest)})

    path = make_bundle(setting, tmp_path / "bundle", change_record=lie)
    with pytest.raises(MalformedRecordError, match=message) as caught:
        verify_bundle(open_bundle(path), load_trust(setting.trust))
    assert caught.value.subject == "claim ppl-ratio"
    with pytest.raises(MalformedRecordError, match=message):
        rederive(path)


def test_the_resampling_has_one_seed(setting, tmp_path):
    def choose(record):
        again = compute_results(make_values(), confidence=0.95, seed=7)
        return record.model_copy(update={"results": again})

    path = make_bundle(setting, tmp_path / "chosen", change_record=choose)
    result = verify_bundle(open_bundle(path), load_trust(setting.trust))
    assert {check.slug for check in result.failures} == {"bootstrap-seed"}


def test_every_metric_has_its_comparator():
    values = make_values()
    record = draft_record(values, {}, manifest=FileManifest.build([]), state=StateManifest.build([]))
    results = compute_results(values, confidence=0.95, seed=1)
    for metric, comparator in COMPARATORS.items():
        threshold = 0.0 if comparator == "==" else 0.5
        planned = PlannedClaim(id="x", metric=metric, comparator=comparator, threshold=threshold, confidence=0.95)
        assert judge_planned(planned, record, results, values).metric == metric


def test_a_day_that_does_not_exist(setting, tmp_path):
    exception = PolicyExceptionRecord.model_construct(
        claim="ppl-ratio", owner="o", rationale="r", expires="2026-02-31T00:00:00Z"
    )
    path = make_bundle(
        setting,
        tmp_path / "b",
        planned=False,
        on_ledger=False,
        change_record=lambda record: record.model_copy(update={"exceptions": (exception,)}),
    )
    for check in (lambda: verify_bundle(open_bundle(path), load_trust(setting.trust)), lambda: rederive(path)):
        with pytest.raises(MalformedRecordError, match=r"exceptions\[0\]\.expires: not a day"):
            check()


def test_a_policy_with_a_day_that_does_not_exist(tmp_path):
    (tmp_path / "p.toml").write_text(
        '[claims]\nppl_ratio_max = 1.1\n[[gate.exceptions]]\nclaim = "ppl-ratio"\nowner = "o"\n'
        'rationale = "r"\nexpires = "2026-02-31T00:00:00Z"\n'
    )
    with pytest.raises(MalformedPolicyError, match=r"expires: not a day and time"):
        load_policy(tmp_path / "p.toml")


def test_an_undecided_top1_claim_says_how_many_windows_would_decide():
    values = make_values(n=40, tokens=16)
    record = draft_record(values, {}, manifest=FileManifest.build([]), state=StateManifest.build([]))
    results = compute_results(values, confidence=0.95, seed=1)
    top1 = results.top1
    for threshold, towards in (
        ((top1.lower + top1.estimate) / 2, "pass"),
        ((top1.upper + top1.estimate) / 2, "fail"),
    ):
        planned = PlannedClaim(
            id="t", metric="top1Agreement", comparator=">=", threshold=threshold, confidence=0.95
        )
        claim = judge_planned(planned, record, results, values)
        assert claim.verdict == "inconclusive"
        assert claim.deciding_n > 40
        assert f"about {claim.deciding_n} windows would decide (as things stand: {towards})" in claim.reason
    planned = planned.model_copy(update={"threshold": top1.estimate})
    claim = judge_planned(planned, record, results, values)
    assert claim.verdict == "inconclusive"
    assert claim.deciding_n is None or claim.deciding_n > 10**6
