"""The gate: each rule refuses for its own reason."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from bundles import make_bundle, make_setting, make_values, remeasured

import ucaudit.evidence.gate as gate_module
from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.gate import apply_policy
from ucaudit.evidence.policy import load_policy
from ucaudit.evidence.trust import load_trust
from ucaudit.evidence.verify import verify_bundle
from ucaudit.interop.junit import junit_xml

BASE = {
    "measurement": {"n": 30, "seq_len": 8},
    "claims": {"ppl_ratio_max": 1.0125},
    "gate": {"allowed_codecs": ["ucq"], "require_plan": True},
}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def honest(setting):
    return make_bundle(setting, setting.root / "honest")


def toml(tables):
    def show(value):
        return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')

    return "\n".join(
        f"[{name}]\n" + "\n".join(f"{key} = {show(value)}" for key, value in table.items())
        for name, table in tables.items()
    )


def gate(path, setting, tmp_path, at=None, extra="", **changes):
    tables = {name: {**BASE.get(name, {}), **changes.get(name, {})} for name in BASE.keys() | changes.keys()}
    policy = tmp_path / "policy.toml"
    policy.write_text(toml(tables) + extra)
    bundle = open_bundle(path)
    result = verify_bundle(bundle, load_trust(setting.trust))
    assert result.authentic
    claims = apply_policy(result, load_policy(policy).policy, at=at)
    return {check.slug for check in result.failures}, claims, result


def test_admitted(honest, setting, tmp_path):
    failures, claims, result = gate(honest, setting, tmp_path)
    assert failures == set()
    assert [claim.verdict for claim in claims] == ["pass"] * 3
    assert b'failures="0"' in junit_xml("gate", result)


@pytest.mark.parametrize(
    ("changes", "slug"),
    [
        ({"measurement": {"n": 41}}, "n"),
        ({"measurement": {"seq_len": 64}}, "seq-len"),
        ({"measurement": {"seed": 43}}, "seed"),
        ({"claims": {"confidence": 0.99}}, "confidence"),
        ({"claims": {"ppl_ratio_max": 1.0001}}, "claim-ppl-ratio"),
        ({"claims": {"ppl_ratio_max": 1.0125, "mean_kl_max": 0.0001}}, "claim-mean-kl"),
        ({"claims": {"ppl_ratio_max": 1.0125, "top1_agreement_min": 0.999}}, "claim-top1-agreement"),
        ({"claims": {"ppl_ratio_max": 1.0125, "bits_per_weight_max": 5.4}}, "claim-bits-per-weight"),
        ({"gate": {"allowed_codecs": ["gguf"]}}, "codec"),
        ({"gate": {"allowed_profiles": ["ucq-f32-bf16/2"]}}, "profile"),
        ({"gate": {"required_roles": ["validator"]}}, "role"),
        ({"gate": {"min_signers": 2}}, "signers"),
        ({"reference": {"state_digest": "0" * 64}}, "reference"),
        ({"measurement": {"corpus_sha256": "0" * 64}}, "corpus"),
    ],
)
def test_refused(honest, setting, tmp_path, changes, slug):
    failures, _, result = gate(honest, setting, tmp_path, **changes)
    assert failures == {slug}
    assert result.failures[0].error.code == "policy-violation"
    assert b"<failure" in junit_xml("gate", result)


def test_old_and_future_evidence(honest, setting, tmp_path):
    late = datetime.now(UTC) + timedelta(days=366)
    assert gate(honest, setting, tmp_path, at=late)[0] == {"age"}
    early = datetime.now(UTC) - timedelta(days=1)
    assert gate(honest, setting, tmp_path, at=early)[0] == {"future"}


def test_a_record_without_plan_or_ledger(setting, tmp_path):
    bare = make_bundle(setting, tmp_path / "bare", planned=False, on_ledger=False)
    assert gate(bare, setting, tmp_path)[0] == {"ledger-required", "plan-required", "plan-first"}


def test_a_required_plan_needs_the_results_entry_after_it(setting, tmp_path):
    """A plan that is entered once the result is known has a perfect proof of its own."""
    late = make_bundle(setting, tmp_path / "late", on_ledger=False)
    assert gate(late, setting, tmp_path, gate={"require_ledger": False})[0] == {"plan-first"}


def test_the_gate_uses_its_own_threshold_not_the_records(setting, tmp_path):
    lenient = make_bundle(setting, tmp_path / "lenient", values=make_values(drift=0.1), ratio_max=2.0)
    assert open_bundle(lenient).record.determination == "pass"
    assert gate(lenient, setting, tmp_path)[0] == {"claim-ppl-ratio"}


def test_inconclusive_is_refused_unless_allowed(setting, tmp_path):
    open_question = make_bundle(setting, tmp_path / "open", values=make_values(drift=0.0122, spread=0.004))
    assert open_bundle(open_question).record.determination == "inconclusive"
    assert gate(open_question, setting, tmp_path)[0] == {"claim-ppl-ratio"}
    assert gate(open_question, setting, tmp_path, gate={"allow_inconclusive": True})[0] == set()


def test_exceptions_excuse_until_they_expire(setting, tmp_path):
    failing = make_bundle(setting, tmp_path / "failing", values=make_values(drift=0.1))
    text = '\n[[gate.exceptions]]\nclaim = "ppl-ratio"\nowner = "o"\nrationale = "r"\nexpires = "{}"\n'
    assert gate(failing, setting, tmp_path, extra=text.format("2099-01-01T00:00:00Z"))[0] == set()
    assert gate(failing, setting, tmp_path, extra=text.format("2020-01-01T00:00:00Z"))[0] == {"claim-ppl-ratio"}


@pytest.mark.parametrize(
    ("drift", "expires", "slug"),
    [
        (0.1, "2099-01-01T00:00:00Z", "exception-used"),
        (0.1, "2020-01-01T00:00:00Z", "exception-expired"),
        (0.004, "2099-01-01T00:00:00Z", "exception-unused"),
    ],
)
def test_every_exception_is_reported(setting, tmp_path, drift, expires, slug):
    path = make_bundle(setting, tmp_path / "bundle", values=make_values(drift=drift))
    extra = f'\n[[gate.exceptions]]\nclaim = "ppl-ratio"\nowner = "Ann"\nrationale = "why"\nexpires = "{expires}"\n'
    _, _, result = gate(path, setting, tmp_path, extra=extra)
    (check,) = [check for check in result.checks if check.slug.startswith("exception-")]
    assert (check.slug, check.status) == (slug, "warn")
    assert expires in check.detail


def test_an_allowed_profile(honest, setting, tmp_path):
    failures, _, result = gate(honest, setting, tmp_path, gate={"allowed_profiles": ["a/1", "ucq-f32-bf16/1"]})
    assert failures == set() and any(check.slug == "profile" for check in result.checks)


def test_figures_at_the_records_confidence_are_not_computed_twice(honest, setting, tmp_path, monkeypatch):
    asked = []
    real = gate_module.compute_results
    monkeypatch.setattr(
        gate_module, "compute_results", lambda *a, **how: (asked.append(how["confidence"]), real(*a, **how))[1]
    )
    same = gate(honest, setting, tmp_path)[1]
    assert asked == []
    other = gate(honest, setting, tmp_path, claims={"confidence": 0.9})[1]
    assert asked == [0.9]
    assert same[0].observed == other[0].observed and same[0].interval != other[0].interval


# --- texts with rows ---------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def rows(setting):
    values = replace(make_values(), documents=tuple(range(900, 940)))
    return make_bundle(
        setting,
        setting.root / "rows",
        values=values,
        change_record=remeasured({"rows": "900:1000", "documents": 100}),
    )


@pytest.mark.parametrize(
    ("pins", "failed"),
    [
        ({"text_column": "text", "rows": "900:1000"}, set()),
        ({"rows": "-100:"}, set()),
        ({"rows": "900:"}, set()),
        ({}, set()),
        ({"text_column": "content"}, {"text-column"}),
        ({"rows": "800:1000"}, {"rows"}),
        ({"rows": "-101:"}, {"rows"}),
        ({"text_column": "url", "rows": ":10"}, {"text-column", "rows"}),
    ],
)
def test_rows_and_column_are_pinned(rows, setting, tmp_path, pins, failed):
    failures, _, result = gate(rows, setting, tmp_path, measurement=pins)
    assert failures == failed
    unpinned = [check for check in result.checks if check.slug == "rows" and check.status == "warn"]
    assert len(unpinned) == ("rows" not in pins)


def test_a_plain_text_has_no_rows_to_show(honest, setting, tmp_path):
    assert gate(honest, setting, tmp_path, measurement={"rows": "0:10"})[0] == {"rows"}
    assert gate(honest, setting, tmp_path, measurement={"text_column": "text"})[0] == {"text-column"}


def test_documents_decide_as_units(setting, tmp_path):
    values = make_values(n=60)
    many, few = (replace(values, documents=tuple(index // size for index in range(60))) for size in (2, 3))
    for number, (found, verdict) in enumerate(((many, "pass"), (few, "inconclusive"))):
        path = make_bundle(setting, setting.root / f"documents{number}", values=found)
        failures, claims, _ = gate(path, setting, tmp_path)
        assert claims[0].verdict == verdict
        assert failures == (set() if verdict == "pass" else {"claim-ppl-ratio"})
