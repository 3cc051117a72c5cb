"""`ucaudit verify`: what an argument stands for, and what the outcome says."""

import shutil

import pytest
from bundles import make_bundle, make_values
from people import person

from ucaudit.evidence import bundle as names
from ucaudit.evidence.trust import add_key


@pytest.fixture(scope="module")
def honest(setting):
    return make_bundle(setting, setting.root / "honest")


@pytest.fixture
def copy(honest, tmp_path):
    return shutil.copytree(honest, tmp_path / "bundle")


# --- files taken away ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [names.ATTESTATION, names.SIGSTORE, names.CHAIN, names.CLOSING])
def test_a_record_inside_a_bundle_stands_for_the_bundle(copy, setting, run, name):
    assert run("verify", copy / name, "--trust", setting.trust).code == 0
    data = bytearray((copy / "nll-pack.safetensors").read_bytes())
    data[-9] ^= 1
    (copy / "nll-pack.safetensors").write_bytes(data)
    assert run("verify", copy / name, "--trust", setting.trust).code == 1


@pytest.mark.parametrize("name", [names.ATTESTATION, names.SIGSTORE])
def test_taking_files_away_does_not_turn_a_bundle_into_an_envelope(copy, setting, run, name):
    (copy / names.CLOSING).unlink()
    ran = run("verify", copy / name, "--trust", setting.trust, "--json")
    assert (ran.code, ran.json["authentic"]) == (1, False)
    keep = {names.ATTESTATION, names.SIGSTORE, "nll-pack.safetensors"}
    for path in list(copy.iterdir()):
        if path.name not in keep:
            path.unlink()
    (copy / "nll-pack.safetensors").write_bytes(b"x")
    assert run("verify", copy / name, "--trust", setting.trust).code == 1


def test_an_envelope_that_lies_alone_is_only_an_envelope(copy, setting, run, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "README.txt").write_text("of some project")
    for name in (names.ATTESTATION, names.SIGSTORE):
        shutil.copy(copy / name, alone)
        ran = run("verify", alone / name, "--trust", setting.trust, "--json")
        assert ran.code == 0
        (contents,) = ran.check("contents")
        assert contents["status"] == "not-checked"


# --- the report ------------------------------------------------------------------------------------------
def report_of(ran):
    return {item["slug"]: item for item in ran.json["checks"] if item["slug"].startswith("report")}


def test_only_a_report_is_a_report(copy, setting, run, tmp_path):
    words = ("--bundle", copy, "--trust", setting.trust, "--json")
    ran = run("verify", copy / names.report_name("soc2"), *words)
    assert ran.code == 0
    assert "signer@tests.invalid closed it" in report_of(ran)["report"]["detail"]
    assert "report-closer" not in report_of(ran)
    shutil.copy(copy / names.STATE, tmp_path / "report.pdf")
    ran = run("verify", tmp_path / "report.pdf", *words)
    assert (ran.code, ran.json["error"]["code"]) == (1, "digest-mismatch")
    assert "no report of the closed bundle" in ran.err


def test_who_closed_the_bundle_vouches_for_the_report(copy, setting, run, tmp_path):
    """A validator may close; a report that they put in is theirs, and this is said."""
    validator = person(setting, "validator")
    trust = shutil.copy(setting.trust, tmp_path / "trust.toml")
    add_key(trust, validator.public_key, "validator@tests.invalid", roles=("validator",))
    path = copy / names.report_name("soc2")
    path.write_bytes(b"%PDF-1.7 doctored")
    names.close_bundle(copy, validator)
    ran = run("verify", path, "--bundle", copy, "--trust", trust, "--json")
    found = report_of(ran)
    assert found["report-closer"]["status"] == "warn"
    assert "validator@tests.invalid closed the bundle" in found["report-closer"]["detail"]
    assert "validator@tests.invalid closed it" in found["report"]["detail"]


def test_a_closing_that_does_not_count_vouches_for_nothing(copy, setting, run, tmp_path):
    stranger = person(setting, "stranger")
    names.close_bundle(copy, stranger)
    path = copy / names.report_name("soc2")
    ran = run("verify", path, "--bundle", copy, "--trust", setting.trust, "--json")
    assert report_of(ran)["report"]["status"] == "fail"


# --- authentic is one thing, admitted another ------------------------------------------------------------
@pytest.fixture(scope="module")
def open_question(setting):
    return make_bundle(setting, setting.root / "open", values=make_values(drift=0.0122, spread=0.004))


def test_a_policy_that_is_not_met_does_not_make_evidence_false(honest, setting, run, policy):
    words = ("verify", honest, "--trust", setting.trust, "--policy", policy("min_signers = 2"))
    ran = run(*words, "--json")
    assert (ran.code, ran.json["authentic"], ran.json["admitted"]) == (1, True, False)
    assert ran.json["error"]["code"] == "policy-violation"
    text = run(*words).out
    assert "determination  PASS: the claims hold" in text
    assert "did not hold" not in text
    assert "policy         NOT MET: 1 check(s) failed of the policy; the evidence is authentic" in text
    ran = run("verify", honest, "--trust", setting.trust, "--policy", policy(), "--json")
    assert (ran.code, ran.json["authentic"], ran.json["admitted"]) == (0, True, True)
    ran = run("verify", honest, "--trust", setting.trust, "--json")
    assert (ran.code, ran.json["admitted"]) == (0, None)


def test_evidence_that_does_not_hold_is_not_judged_by_a_policy(copy, setting, run, policy):
    (copy / names.report_name("soc2")).write_bytes(b"%PDF-1.7 edited")
    ran = run("verify", copy, "--trust", setting.trust, "--policy", policy("min_signers = 2"), "--json")
    assert (ran.code, ran.json["authentic"], ran.json["admitted"]) == (1, False, False)


@pytest.mark.parametrize("command", ["verify", "gate"])
def test_inconclusive_has_a_code_of_its_own(open_question, setting, run, policy, command):
    def judge(*more, gate=""):
        rules = ("--trust", setting.trust, "--policy", policy(gate))
        if command == "verify":
            return run("verify", open_question, *rules, *more)
        return run("gate", setting.pack, "--evidence", open_question, *rules, *more)

    ran = judge("--json")
    assert (ran.code, ran.json["exitCode"], ran.json["error"]["code"]) == (5, 5, "inconclusive")
    assert (ran.json["authentic"], ran.json["admitted"]) == (True, False)
    assert "inconclusive, the evidence is authentic and decides too little" in judge().out
    # Anything else against it, and it is a refusal like any other.
    ran = judge("--json", gate="min_signers = 2")
    assert (ran.code, ran.json["exitCode"]) == (1, 1)
    assert judge(gate="allow_inconclusive = true").code == 0
