"""Between signing and the finished bundle: every interruption keeps the one record, and it is entered once."""

import json
import os
from pathlib import Path

import pytest

from ucaudit.core.errors import MissingExtraError, RefusedError
from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.keys import load_signer
from ucaudit.evidence.ledger import Ledger
from ucaudit.evidence.policy import load_policy
from ucaudit.evidence.trust import load_trust
from ucaudit.evidence.verify import verify_bundle
from ucaudit.lab import attest as module
from ucaudit.lab import signed as publishing
from ucaudit.lab.attest import Request, attest

from .conftest import ucaudit

pytestmark = pytest.mark.slow


@pytest.fixture
def request_(desk, tmp_path):
    """An attestation of the desk's pack with the desk's plan, into a copy of the ledger that has the plan alone."""
    ledger = tmp_path / "ledger"
    signer = load_signer(str(desk.key))
    Ledger.init(ledger, "tests.invalid/recovery", signer)
    common = ("--reference", desk.reference, "--policy", desk.root / "policy.toml", "--key", desk.key)
    ran = ucaudit("plan", desk.pack, *common, "--ledger", ledger, "--out", tmp_path / "plan.dsse.json")
    assert ran.code == 0, ran.err
    return Request(
        pack=desk.pack,
        reference=desk.reference,
        policy=load_policy(desk.root / "policy.toml"),
        signer=signer,
        out=tmp_path / "bundle",
        ledger=ledger,
        plan=tmp_path / "plan.dsse.json",
    )


def size(request):
    return Ledger.open(request.ledger).size


def changed(request, **changes):
    return Request(**{**request.__dict__, **changes})


def kept(tmp_path):
    return tmp_path / ".bundle.measure" / "signed" / "attestation.dsse.json"


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it on purpose."""


@pytest.mark.parametrize(
    "place",
    [
        "after the ledger",
        "naming",
        *(pytest.param(place, marks=pytest.mark.slow) for place in ("before the ledger", "rendering", "closing")),
    ],
)
def test_a_kill_anywhere_after_signing(request_, tmp_path, monkeypatch, desk, place):
    def die(*_, **__):
        raise Killed

    register = publishing.register
    broken = request_
    with monkeypatch.context() as patch:
        if place == "before the ledger":
            patch.setattr(publishing, "register", die)
        elif place == "after the ledger":
            patch.setattr(publishing, "register", lambda *words: (register(*words), die()))
        elif place == "rendering":
            broken = changed(request_, render=die)
        elif place == "closing":
            patch.setattr(publishing, "close_bundle", die)
        else:
            patch.setattr(publishing, "give_name", die)
        with pytest.raises(Killed):
            attest(broken)
    assert not request_.out.exists()
    envelope = kept(tmp_path).read_bytes()
    entered = size(request_)
    assert entered == (1 if place == "before the ledger" else 2)

    monkeypatch.setattr(module, "measure", die)  # nothing is measured again
    outcome = attest(request_)
    assert outcome.taken_up
    assert (outcome.bundle / "attestation.dsse.json").read_bytes() == envelope
    assert size(request_) == 2
    assert outcome.ledger_index == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "ledger", "plan.dsse.json"]
    trust = ("trust", "add", "--file", tmp_path / "trust.toml", "--key", desk.key.with_suffix(".pub"))
    assert ucaudit(*trust, "--principal", "tester", "--ledger", request_.ledger).code == 0
    checked = verify_bundle(open_bundle(outcome.bundle), load_trust(tmp_path / "trust.toml"))
    assert checked.authentic, checked.failures
    assert {"ledger", "plan-ledger", "plan-order"} <= {check.slug for check in checked.checks}


def test_a_half_written_record_is_dropped_and_made_again(request_, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "keep", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            attest(request_)
    assert kept(tmp_path).exists()
    assert size(request_) == 1
    outcome = attest(request_)
    assert not outcome.taken_up
    assert size(request_) == 2


def test_a_record_about_other_inputs_is_never_taken_up(request_, tmp_path, monkeypatch, desk):
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "close_bundle", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            attest(request_)
    policy = tmp_path / "other.toml"
    text = (desk.root / "policy.toml").read_text()
    policy.write_text(text.replace("text.txt", os.path.relpath(desk.root / "text.txt", tmp_path)))
    with pytest.raises(RefusedError, match="about another policy") as caught:
        attest(changed(request_, policy=load_policy(policy)))
    assert "same command" in caught.value.hint
    with pytest.raises(RefusedError, match="about another ledger, plan"):
        attest(changed(request_, ledger=None, plan=None))
    assert kept(tmp_path).exists()
    attest(request_)


def test_reports_that_fail_cost_nothing(request_, tmp_path):
    def missing(_):
        raise MissingExtraError("no pango here", hint="install it")

    outcome = attest(changed(request_, render=missing))
    assert outcome.render_error is not None
    assert (outcome.bundle / "bundle.dsse.json").exists()
    assert outcome.reports == ()


def test_a_bug_in_a_report_costs_nothing_but_is_told(request_, tmp_path):
    def bug(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        attest(changed(request_, render=bug))
    assert (request_.out / "bundle.dsse.json").exists()
    assert size(request_) == 2


def test_a_failure_before_the_first_window_leaves_no_directory(request_, tmp_path, monkeypatch):
    def fail(*_, **words):
        (Path(words["state_dir"]) / "0123456789abcdef").mkdir(parents=True)
        raise RefusedError("out of luck")

    monkeypatch.setattr(module, "measure", fail)
    with pytest.raises(RefusedError):
        attest(request_)
    assert not (tmp_path / ".bundle.measure").exists()


def test_a_report_problem_does_not_hide_a_failed_claim(desk, tmp_path, monkeypatch, capsys):
    """The exit code on the shell is the one in the JSON, and a failed claim outweighs a missing report."""
    from ucaudit.cli import cmd_attest
    from ucaudit.cli.main import main

    def missing(*_):
        raise MissingExtraError("no pango here")

    monkeypatch.setattr(cmd_attest, "_render", missing)
    policy = tmp_path / "policy.toml"
    for ratio, code in ((0.9, 1), (1.05, 4)):
        text = (desk.root / "policy.toml").read_text().replace("1.05", str(ratio))
        policy.write_text(text.replace("text.txt", os.path.relpath(desk.root / "text.txt", tmp_path)))
        words = ["attest", desk.pack, "--reference", desk.reference, "--policy", policy, "--key", desk.key]
        words += ["--profile", "soc2", "--out", tmp_path / f"bundle-{ratio}", "--json", "--quiet"]
        with pytest.raises(SystemExit) as stopped:
            main(list(map(str, words)))
        found = json.loads(capsys.readouterr().out)
        assert (stopped.value.code, found["exitCode"]) == (code, code)
        assert found["error"]["code"] == "missing-extra"
        assert found["reports"] == []
