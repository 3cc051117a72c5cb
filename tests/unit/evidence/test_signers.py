"""Roles, k of n, and nobody twice: what a policy demands of the signatures on a record."""

import shutil

import pytest
from bundles import make_bundle, make_setting
from hypothesis import given
from hypothesis import strategies as st
from people import judged, person

from ucaudit.core.errors import MalformedPolicyError
from ucaudit.evidence.amend import countersign
from ucaudit.evidence.explained import explain
from ucaudit.evidence.gate import apply_policy
from ucaudit.evidence.policy import load_policy
from ucaudit.evidence.signers import everyone_once
from ucaudit.evidence.trust import add_key
from ucaudit.evidence.weak_policy import warnings

POLICY = """
[measurement]
n = 30
seq_len = 8
[claims]
ppl_ratio_max = 1.0125
[gate]
{}
"""
DISTINCT = 'required_roles = ["validator"]\ndistinct_signers = true'


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"), roles=("developer", "validator"))


@pytest.fixture(scope="module")
def honest(setting):
    return make_bundle(setting, setting.root / "honest")


@pytest.fixture
def copy(honest, tmp_path):
    return shutil.copytree(honest, tmp_path / "bundle")


@pytest.fixture
def trust(setting, tmp_path):
    return shutil.copy(setting.trust, tmp_path / "trust.toml")


def refused(copy, trust, rules, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY.format(rules))
    result = judged(copy, trust)
    assert result.authentic, result.failures
    apply_policy(result, load_policy(policy).policy)
    return {check.slug: check.detail for check in result.failures}


def sign_as(copy, signer, role="validator", meaning="approval"):
    countersign(copy, signer, printed_name="P", role=role, meaning=meaning)


def test_an_endorsement_fills_a_role(copy, setting, trust, tmp_path):
    assert set(refused(copy, trust, 'required_roles = ["approver"]', tmp_path)) == {"role"}
    sign_as(copy, person(setting, "a1", roles=["approver"], trust=trust), role="approver")
    assert refused(copy, trust, 'required_roles = ["approver"]', tmp_path) == {}
    assert refused(copy, trust, "min_signers = 2", tmp_path) == {}
    assert set(refused(copy, trust, "min_signers = 3", tmp_path)) == {"signers"}


def test_a_role_counts_as_it_was_signed_not_as_it_is_listed(copy, setting, trust, tmp_path):
    """A key with two roles that signs in one of them has not signed in the other."""
    both = person(setting, "b1", roles=["approver", "auditor"], trust=trust)
    sign_as(copy, both, role="approver")
    assert set(refused(copy, trust, 'required_roles = ["auditor"]', tmp_path)) == {"role"}


def test_the_developer_is_not_the_validator(copy, setting, trust, tmp_path):
    """The same key as developer and validator: the trust file allows it both roles."""
    assert refused(copy, trust, 'required_roles = ["validator"]', tmp_path) == {}
    found = refused(copy, trust, DISTINCT, tmp_path)
    assert "only whoever made the record" in found["role"]
    sign_as(copy, setting.signer)
    assert set(refused(copy, trust, DISTINCT, tmp_path)) == {"role", "distinct-signers"}


@pytest.mark.parametrize(
    "principal", ["signer@tests.invalid", " Signer@TESTS.invalid", "\uff53igner@tests.invalid"]
)
def test_another_key_of_the_developer_is_not_the_validator(copy, setting, trust, tmp_path, principal):
    second = person(setting, f"second{len(principal)}{ord(principal[0])}")
    add_key(trust, second.public_key, principal, roles=["validator"])
    sign_as(copy, second)
    assert set(refused(copy, trust, DISTINCT, tmp_path)) == {"role", "distinct-signers"}
    assert refused(copy, trust, 'required_roles = ["validator"]', tmp_path) == {}
    # Two keys, one person: with distinct signers that is one signer.
    assert "signers" in refused(copy, trust, "min_signers = 2\ndistinct_signers = true", tmp_path)
    assert refused(copy, trust, "min_signers = 2", tmp_path) == {}


def test_another_person_is(copy, setting, trust, tmp_path):
    sign_as(copy, person(setting, "v1", trust=trust))
    assert refused(copy, trust, DISTINCT, tmp_path) == {}
    assert refused(copy, trust, f"{DISTINCT}\nmin_signers = 2", tmp_path) == {}


def test_k_of_n(copy, setting, trust, tmp_path):
    rules = 'distinct_signers = true\n[[gate.thresholds]]\nrole = "validator"\nkeys = 2\nmeanings = ["approval"]'
    one, two, three = (person(setting, f"n{number}", trust=trust) for number in range(3))
    assert "0 of 2 needed" in refused(copy, trust, rules, tmp_path)["threshold"]
    sign_as(copy, one)
    sign_as(copy, one, meaning="review")
    assert "1 of 2 needed" in refused(copy, trust, rules, tmp_path)["threshold"]
    sign_as(copy, two, meaning="review")
    assert "1 of 2 needed" in refused(copy, trust, rules, tmp_path)["threshold"]
    sign_as(copy, three)
    assert refused(copy, trust, rules, tmp_path) == {}


def test_nobody_fills_two_places(copy, setting, trust, tmp_path):
    rules = 'required_roles = ["auditor", "approver"]'
    both = person(setting, "c1", roles=["auditor", "approver"], trust=trust)
    sign_as(copy, both, role="auditor")
    sign_as(copy, both, role="approver")
    assert refused(copy, trust, rules, tmp_path) == {}
    strict = f"{rules}\ndistinct_signers = true"
    assert set(refused(copy, trust, strict, tmp_path)) == {"distinct-signers"}
    sign_as(copy, person(setting, "c2", roles=["approver"], trust=trust), role="approver")
    assert refused(copy, trust, strict, tmp_path) == {}


def test_an_endorsement_that_does_not_hold_fills_nothing(copy, setting, trust, tmp_path):
    sign_as(copy, person(setting, "d1", roles=["approver"], trust=trust), role="validator")
    result = judged(copy, trust)
    assert not result.authentic
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY.format("min_signers = 2"))
    apply_policy(result, load_policy(policy).policy)
    assert "signers" in {check.slug for check in result.failures}


def test_a_trusted_time_can_be_demanded(copy, trust, tmp_path):
    assert set(refused(copy, trust, "require_trusted_time = true", tmp_path)) == {"trusted-time"}


@given(st.lists(st.frozensets(st.sampled_from("abcde"), max_size=5), max_size=5))
def test_assignment_agrees_with_trying_everything(places):
    from itertools import product

    brute = any(len(set(choice)) == len(places) for choice in product(*places))
    assert everyone_once(places) == brute


@pytest.mark.parametrize(
    ("rules", "words", "hint"),
    [
        ("[[gate.thresholds]]\nrole = 'v'\nkey = 2", r"\[gate.thresholds\] key", "did you mean keys"),
        ("[[gate.thresholds]]\nrole = 'v'", r"gate\.thresholds\[0\]\.keys", None),
        ("[[gate.thresholds]]\nrole = 'v'\nkeys = 0", r"gate\.thresholds\[0\]\.keys", None),
        ("[[gate.thresholds]]\nrole = 'V'\nkeys = 1", r"gate\.thresholds\[0\]\.role", None),
        ("[[gate.thresholds]]\nrole = 'v'\nkeys = 1\nmeanings = ['aproval']", r"thresholds\[0\]\.meanings", None),
        ("[gate.thresholds]\nrole = 'v'\nkeys = 1", r"write \[\[gate.thresholds\]\]", None),
        ("required_roles = ['Validator']", r"gate\.required_roles\[0\]", None),
        ("distinct_signer = true", "distinct_signer", "did you mean distinct_signers"),
        ("[[gate.exceptions]]\nclaims = 'x'", r"\[gate.exceptions\] claims", "did you mean claim"),
    ],
)
def test_malformed_rules(tmp_path, rules, words, hint):
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY.format(rules))
    with pytest.raises(MalformedPolicyError, match=words) as caught:
        load_policy(policy)
    if hint:
        assert hint in caught.value.hint


def test_rules_in_sentences_and_weak_ones_warned_of(tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY.format('[[gate.thresholds]]\nrole = "validator"\nkeys = 2\nmeanings = ["approval"]'))
    loaded = load_policy(policy).policy
    assert "2 distinct key(s) in the role validator meaning approval" in " ".join(explain(loaded))
    assert any("distinct_signers = false" in item for item in warnings(loaded))
    policy.write_text(POLICY.format("distinct_signers = true"))
    loaded = load_policy(policy).policy
    assert any("demands nothing" in item for item in warnings(loaded))
    assert "Nobody counts twice" in " ".join(explain(loaded))
