"""A seed that an outside party fixes after the plan was committed, from the plan to what verify says."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from bundles import Setting, make_bundle, make_setting, make_values
from hypothesis import given
from hypothesis import strategies as st

from ucaudit.core.errors import MalformedRecordError, RefusedError, VerificationError
from ucaudit.core.records import Attestation
from ucaudit.evidence import bundle as names
from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.checks import Verification
from ucaudit.evidence.gate import apply_policy
from ucaudit.evidence.keys import FileSigner, generate, load_signer
from ucaudit.evidence.ledger import (
    Ledger,
    Witness,
    WitnessKey,
    attach_cosignature,
    find,
    find_seed,
    population_of,
    proof_witnessed_times,
    register,
)
from ucaudit.evidence.policy import ClaimRules, MeasurementRules, Policy
from ucaudit.evidence.seed import (
    contribution_statement,
    effective_seed,
    read_contribution,
    witness_contribution,
)
from ucaudit.evidence.signing import Envelope, sign
from ucaudit.evidence.trust import add_key, load_trust, parse_trust
from ucaudit.evidence.trust.edit import add_vkey
from ucaudit.evidence.verify import verify_bundle

Contribute = Callable[[Envelope], Envelope | None]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return make_setting(tmp_path)


@pytest.fixture
def auditor(setting: Setting) -> FileSigner:
    private, _, key = generate(setting.root / "keys", "auditor", password=None)
    add_key(setting.trust, key, "auditor@tests.invalid", roles=("auditor",), predicate_types=("seed",))
    return load_signer(str(private))


def nonce(signer: FileSigner, value: str | None = None) -> Contribute:
    def contribute(plan: Envelope) -> Envelope:
        return sign(contribution_statement(plan.digest, "A. Auditor", value=value).to_bytes(), signer)

    return contribute


def check(setting: Setting, bundle: Path) -> Verification:
    return verify_bundle(open_bundle(bundle), load_trust(setting.trust))


def found(result: Verification, slug: str) -> tuple[str, str]:
    [item] = [item for item in result.checks if item.slug == slug]
    return item.status, item.detail


def failed(result: Verification) -> list[str]:
    return [item.slug for item in result.failures]


# --- the formula --------------------------------------------------------------------------------------
def test_the_formula_with_sha256sum() -> None:
    """printf 'ucaudit-seed-v1\\n%s\\n%s\\n' aaaa… bbbb… | sha256sum | cut -c1-13, as a hexadecimal number."""
    text = "ucaudit-seed-v1\n" + "a" * 64 + "\n" + "b" * 64 + "\n"
    assert effective_seed("a" * 64, "b" * 64) == int(hashlib.sha256(text.encode()).hexdigest()[:13], 16)
    assert effective_seed("a" * 64, "b" * 64) == 0x0B97E8AABF4FB


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_every_seed_is_a_number_that_json_keeps(plan: bytes, value: bytes) -> None:
    seed = effective_seed(plan.hex(), value.hex())
    assert 0 <= seed < 2**52
    assert float(seed) == seed


def test_a_nonce_is_drawn_anew_each_time() -> None:
    values = {contribution_statement("a" * 64, "A. Auditor").predicate.value for _ in range(50)}  # type: ignore[attr-defined]
    assert len(values) == 50
    assert all(len(bytes.fromhex(value)) == 32 for value in values)


# --- the auditor's number -----------------------------------------------------------------------------
def test_an_auditors_number(setting: Setting, auditor: FileSigner) -> None:
    bundle = make_bundle(setting, setting.root / "bundle", contribute=nonce(auditor))
    result = check(setting, bundle)
    assert failed(result) == []
    record = open_bundle(bundle).record
    assert record.plan is not None
    assert record.plan.seed is not None
    assert record.plan.deviations == ()
    assert record.measurement.seed == effective_seed(record.plan.envelope_digest, record.plan.seed.value) != 42
    assert found(result, "seed")[0] == found(result, "seed-source")[0] == found(result, "draw")[0] == "pass"
    assert "A. Auditor, by a principal that made neither plan nor record" in found(result, "seed-source")[1]
    assert found(result, "seed-ledger") == ("pass", "index 1 of 3 in tests.invalid/log")
    assert found(result, "plan-seed-order") == ("pass", "0 before 1")
    assert found(result, "seed-order") == ("pass", "1 before 2")
    rows = population_of(Ledger.open(setting.ledger).entries())
    assert [(row.entry.kind if row.entry else None, row.status, row.related, row.notes) for row in rows] == [
        ("plan", "closed", 2, ()),
        ("seed", "recorded", 0, ()),
        ("attestation", "planned", 0, ()),
    ]


def test_a_seed_that_never_came(setting: Setting) -> None:
    bundle = make_bundle(setting, setting.root / "bundle", contribute=lambda plan: None)
    result = check(setting, bundle)
    assert failed(result) == []
    assert found(result, "seed") == ("warn", "the plan left the seed to an outside party; none contributed")
    assert "seed: planned an outside party's, which was not contributed, done 42" in found(result, "plan")[1]
    rows = population_of(Ledger.open(setting.ledger).entries())
    assert rows[0].notes == ("waiting-for-seed",)
    assert rows[1].notes == ("seed-not-entered-before",)


def test_the_planner_cannot_contribute(setting: Setting) -> None:
    """Neither with the plan's key nor with another one of the same principal, however it is spelt."""
    private, _, key = generate(setting.root / "keys", "second", password=None)
    add_key(setting.trust, key, "Signer@Tests.invalid", roles=(), predicate_types=("seed",))
    bundle = make_bundle(setting, setting.root / "own", contribute=nonce(setting.signer))
    assert failed(check(setting, bundle)) == ["seed-key", "seed-source"]  # its key is not trusted for seeds
    other = make_setting(setting.root / "other")  # a plan takes one seed only
    add_key(other.trust, key, "Signer@Tests.invalid", roles=(), predicate_types=("seed",))
    bundle = make_bundle(other, other.root / "second", contribute=nonce(load_signer(str(private))))
    assert failed(check(other, bundle)) == ["seed-source"]


def test_a_key_is_trusted_for_seeds_only_if_that_is_said(setting: Setting) -> None:
    private, _, key = generate(setting.root / "keys", "vera", password=None)
    add_key(setting.trust, key, "vera@tests.invalid", roles=("validator",))
    bundle = make_bundle(setting, setting.root / "bundle", contribute=nonce(load_signer(str(private))))
    assert failed(check(setting, bundle)) == ["seed-key"]
    text = "".join(line for line in setting.trust.read_text().splitlines(True) if "predicate-types" not in line)
    assert all("seed" not in entry.predicate_types for entry in parse_trust(text.encode(), subject="t").keys)


def test_an_unknown_contributor(setting: Setting) -> None:
    private, _, _ = generate(setting.root / "keys", "stranger", password=None)
    bundle = make_bundle(setting, setting.root / "bundle", contribute=nonce(load_signer(str(private))))
    assert failed(check(setting, bundle)) == ["seed-signature"]


def test_another_seed_than_follows(setting: Setting, auditor: FileSigner) -> None:
    def other_seed(record: Attestation) -> Attestation:
        return record.model_copy(update={"measurement": record.measurement.model_copy(update={"seed": 42})})

    bundle = make_bundle(setting, setting.root / "bundle", contribute=nonce(auditor), change_record=other_seed)
    assert {"seed", "draw", "plan"} <= set(failed(check(setting, bundle)))


@pytest.mark.parametrize(("who", "expected"), [("auditor", "pass"), (None, "pass"), ("signer", "fail")])
def test_the_gate_takes_an_outside_seed_for_the_policys(
    setting: Setting, auditor: FileSigner, who: str | None, expected: str
) -> None:
    policy = Policy(claims=ClaimRules(ppl_ratio_max=2.0), measurement=MeasurementRules(n=30, seq_len=8))
    contribute = None if who is None else nonce(auditor if who == "auditor" else setting.signer)
    result = check(setting, make_bundle(setting, setting.root / "bundle", contribute=contribute))
    apply_policy(result, policy)
    assert [item.status for item in result.checks if item.what == "the seed that chose the windows"] == [expected]


@pytest.mark.parametrize("gone", [names.SEED_PROOF, names.LEDGER_PROOF, names.PLAN_PROOF])
def test_the_gate_takes_no_seed_that_the_ledger_does_not_place(
    setting: Setting, auditor: FileSigner, gone: str
) -> None:
    """Outside the ledger the auditor could have given many numbers, and the signer used the best one."""
    bundle = make_bundle(setting, setting.root / "bundle", contribute=nonce(auditor))
    (bundle / gone).unlink()
    names.close_bundle(bundle, setting.signer)
    result = check(setting, bundle)
    assert failed(result) == []
    apply_policy(
        result, Policy(claims=ClaimRules(ppl_ratio_max=2.0), measurement=MeasurementRules(n=30, seq_len=8))
    )
    [rule] = [item for item in result.checks if item.what == "the seed that chose the windows"]
    assert rule.status == "fail"


def test_windows_that_no_seed_drew(setting: Setting) -> None:
    """Without an outside seed as well: windows that were picked by hand contradict the record's own seed."""
    values = make_values()
    picked = replace(values, windows=tuple(range(values.n)))
    result = check(setting, make_bundle(setting, setting.root / "bundle", values=picked))
    assert failed(result) == ["draw"]
    assert found(result, "draw")[1].startswith("windows: window ")


def test_a_record_that_cites_other_words(setting: Setting, auditor: FileSigner) -> None:
    def rename(record: Attestation) -> Attestation:
        assert record.plan is not None
        assert record.plan.seed is not None
        seed = record.plan.seed.model_copy(update={"contributor": "The Regulator"})
        return record.model_copy(update={"plan": record.plan.model_copy(update={"seed": seed})})

    bundle = make_bundle(setting, setting.root / "bundle", contribute=nonce(auditor), change_record=rename)
    assert failed(check(setting, bundle)) == ["seed-reference"]


def test_a_seed_for_a_plan_that_has_its_own(setting: Setting, auditor: FileSigner) -> None:
    made = make_bundle(setting, setting.root / "first", contribute=nonce(auditor))
    reference = open_bundle(made).record.plan

    def add_seed(record: Attestation) -> Attestation:
        assert record.plan is not None
        assert reference is not None
        return record.model_copy(update={"plan": record.plan.model_copy(update={"seed": reference.seed})})

    bundle = make_bundle(setting, setting.root / "bundle", change_record=add_seed)
    assert {"seed", "artefact"} <= set(failed(check(setting, bundle)))


def test_a_missing_contribution(setting: Setting, auditor: FileSigner) -> None:
    bundle = make_bundle(setting, setting.root / "bundle", contribute=nonce(auditor))
    (bundle / names.SEED).unlink()
    assert {"artefact", "closing"} <= set(failed(check(setting, bundle)))


def test_a_contribution_for_another_plan(setting: Setting, auditor: FileSigner) -> None:
    envelope = sign(contribution_statement("a" * 64, "A. Auditor").to_bytes(), auditor)
    assert read_contribution(envelope, "a" * 64).contributor == "A. Auditor"
    with pytest.raises(VerificationError, match="a seed for plan aaaaaaaaaaaaaaaa…, expected b"):
        read_contribution(envelope, "b" * 64)
    bundle = open_bundle(make_bundle(setting, setting.root / "bundle"))
    plan = bundle.envelope(names.PLAN)
    assert plan is not None
    with pytest.raises(MalformedRecordError, match="not a seed"):
        read_contribution(plan, plan.digest)


# --- the ledger's part --------------------------------------------------------------------------------
def test_the_first_contribution_counts(setting: Setting, auditor: FileSigner) -> None:
    bundle = make_bundle(setting, setting.root / "bundle", contribute=nonce(auditor))
    plan = open_bundle(bundle).envelope(names.PLAN)
    assert plan is not None
    ledger = Ledger.open(setting.ledger)
    assert (find_seed(ledger, plan.digest) or (None,))[0] == 1
    with pytest.raises(RefusedError, match="has its seed already, entry 1"):
        register(ledger, nonce(auditor)(plan), setting.signer)  # type: ignore[arg-type]
    again = open_bundle(bundle).envelope(names.SEED)
    assert again is not None
    assert register(ledger, again, setting.signer) == 1


def test_a_contribution_needs_a_plan_that_waits(setting: Setting, auditor: FileSigner) -> None:
    bundle = make_bundle(setting, setting.root / "bundle")
    plan = open_bundle(bundle).envelope(names.PLAN)
    assert plan is not None
    ledger = Ledger.open(setting.ledger)
    with pytest.raises(RefusedError, match="has fixed its own seed"):
        register(ledger, nonce(auditor)(plan), setting.signer)  # type: ignore[arg-type]
    stray = sign(contribution_statement("a" * 64, "A. Auditor").to_bytes(), auditor)
    with pytest.raises(RefusedError, match="is not in this ledger"):
        register(ledger, stray, setting.signer)


# --- the witness's cosignature ------------------------------------------------------------------------
@pytest.fixture
def witness(setting: Setting) -> tuple[Witness, FileSigner]:
    private, _, _ = generate(setting.root / "keys", "witness", password=None)
    signer = load_signer(str(private))
    made = Witness.init(setting.root / "witness", "witness.tests.invalid/w", signer)
    add_vkey(setting.trust, made.vkey)
    return made, signer


def cosigned(setting: Setting, witness: tuple[Witness, FileSigner], *, first: Envelope | None = None) -> Contribute:
    """The plan's checkpoint is cosigned; with ``first``, only after another entry was made."""
    made, signer = witness

    def contribute(plan: Envelope) -> Envelope:
        ledger = Ledger.open(setting.ledger)
        if first is not None:
            register(ledger, first, setting.signer)
        given = made.cosign(ledger.prove_consistency(0), signer, ledger_vkey=ledger.vkey)
        attach_cosignature(ledger, given.note, [WitnessKey.parse(made.vkey)])
        proof = ledger.prove_cosigned(find(ledger, plan.digest) or 0)
        shown, times = proof_witnessed_times(proof, None, ledger.vkey, [made.vkey])
        item = witness_contribution(shown, times) if first is None else times[0]
        statement = contribution_statement(plan.digest, item.witness, source="witness", value=item.digest)
        return sign(statement.to_bytes(), setting.signer)

    return contribute


def test_a_witnesss_cosignature(setting: Setting, witness: tuple[Witness, FileSigner]) -> None:
    result = check(setting, make_bundle(setting, setting.root / "bundle", contribute=cosigned(setting, witness)))
    assert failed(result) == []
    assert found(result, "seed-source")[0] == "pass"
    assert found(result, "seed-source")[1].startswith("witness.tests.invalid/w, cosigning the plan at 20")
    assert found(result, "plan-ledger-witness")[0] == "pass"
    assert found(result, "ledger-witness")[0] == "warn"
    plan = open_bundle(setting.root / "bundle").record.plan
    assert plan is not None
    seen = result.times.seen(plan.envelope_digest)
    assert seen is not None
    assert seen.source == "witness witness.tests.invalid/w"


def test_a_value_that_no_witness_gave(setting: Setting, witness: tuple[Witness, FileSigner]) -> None:
    def contribute(plan: Envelope) -> Envelope:
        whole = cosigned(setting, witness)(plan)
        assert whole is not None
        name = read_contribution(whole, plan.digest).contributor
        statement = contribution_statement(plan.digest, name, source="witness", value=secrets.token_hex(32))
        return sign(statement.to_bytes(), setting.signer)

    result = check(setting, make_bundle(setting, setting.root / "bundle", contribute=contribute))
    assert found(result, "seed-source") == (
        "warn",
        "no trusted witness made the cosignature that it is said to be",
    )


def test_only_the_plans_own_checkpoint_gives_a_seed(
    setting: Setting, auditor: FileSigner, witness: tuple[Witness, FileSigner]
) -> None:
    other = open_bundle(make_bundle(setting, setting.root / "other", on_ledger=False)).attestation
    late = cosigned(setting, witness, first=other)
    result = check(setting, make_bundle(setting, setting.root / "bundle", contribute=late))
    assert failed(result) == ["seed-source"]
    assert "does not end with the plan" in found(result, "seed-source")[1]
    ledger = Ledger.open(setting.ledger)
    plan = open_bundle(setting.root / "bundle").envelope(names.PLAN)
    assert plan is not None
    proof = ledger.prove_cosigned(find(ledger, plan.digest) or 0)
    shown, times = proof_witnessed_times(proof, None, ledger.vkey, [witness[0].vkey])
    with pytest.raises(RefusedError, match="which ends with the plan, gives a seed"):
        witness_contribution(shown, times)


def test_a_plan_that_nobody_cosigned(setting: Setting, witness: tuple[Witness, FileSigner]) -> None:
    make_bundle(setting, setting.root / "bundle", contribute=lambda plan: None, on_ledger=False)
    ledger = Ledger.open(setting.ledger)
    shown, times = proof_witnessed_times(ledger.prove(0), None, ledger.vkey, [witness[0].vkey])
    with pytest.raises(RefusedError, match="no trusted witness cosigned"):
        witness_contribution(shown, times)
