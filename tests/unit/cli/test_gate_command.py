"""`ucaudit gate`: the directory of evidence, the JUnit file, the exit codes."""

import shutil
import xml.etree.ElementTree as ET

import pytest
from bundles import make_bundle, make_setting

from ucaudit.evidence import bundle as names


@pytest.fixture(scope="module")
def honest(setting):
    return make_bundle(setting, setting.root / "honest")


@pytest.fixture
def gate(setting, run, policy):
    """``gate(evidence, *more)``: the gate's outcome for the setting's pack."""

    def judge(evidence, *more, pack=setting.pack):
        return run("gate", pack, "--evidence", evidence, "--policy", policy(), "--trust", setting.trust, *more)

    return judge


# --- several bundles -------------------------------------------------------------------------------------
def test_what_was_passed_over_is_listed(honest, gate, tmp_path):
    place = tmp_path / "evidence"
    shutil.copytree(honest, place / "good")
    make_bundle(make_setting(tmp_path / "other"), place / "strange")
    ran = gate(place, "--json")
    assert (ran.code, ran.json["bundle"]) == (0, str(place / "good"))
    (found,) = ran.check("evidence")
    assert found["what"] == "strange beside the bundle"
    assert "no trusted key made this signature" in found["detail"]
    (place / "strange" / names.ATTESTATION).write_text("garbage")
    for name in (names.SIGSTORE, names.CHAIN):
        (place / "strange" / name).unlink()
    ran = gate(place, "--json")
    assert ran.code == 3
    assert "strange" in ran.err and "take it out of the directory" in ran.err


# --- the JUnit file --------------------------------------------------------------------------------------
def suite(path):
    root = ET.fromstring(path.read_bytes())
    return root, {name: int(root.get(name)) for name in ("failures", "errors")}


def test_a_verdict_replaces_what_an_earlier_run_left(honest, gate, tmp_path):
    path = tmp_path / "gate.xml"
    assert gate(honest, "--junit", path).code == 0
    assert suite(path)[1] == {"failures": 0, "errors": 0}
    ran = gate(tmp_path / "nowhere", "--junit", path)
    root, counts = suite(path)
    assert (ran.code, counts) == (3, {"failures": 0, "errors": 1})
    (error,) = root.iter("error")
    assert error.get("type") == "not-found"
    assert "no such bundle directory" in error.get("message")


@pytest.mark.parametrize("spoil", ["pack", "policy", "trust"])
def test_no_green_file_outlives_a_run_that_came_to_no_verdict(honest, setting, run, policy, tmp_path, spoil):
    path = tmp_path / "gate.xml"
    pack = shutil.copytree(setting.pack, tmp_path / "pack")
    trust = shutil.copy(setting.trust, tmp_path / "trust.toml")
    rules = policy()
    words = ("gate", pack, "--evidence", honest, "--policy", rules, "--trust", trust, "--junit", path)
    assert run(*words).code == 0
    if spoil == "pack":
        (pack / "model.bin").write_bytes(b"\x80\x04x")
    else:
        (rules if spoil == "policy" else trust).write_text("[")
    assert run(*words).code == 3
    assert suite(path)[1] == {"failures": 0, "errors": 1}


def test_nothing_green_is_left_where_opening_the_pack_is_as_far_as_it_got(honest, gate, tmp_path, monkeypatch):
    """The pack is opened and hashed early, but not before the files of an earlier run are unready."""
    path = tmp_path / "gate.xml"
    assert gate(honest, "--junit", path).code == 0

    def interrupted(*_, **__):
        assert suite(path)[1]["errors"] == 1
        raise KeyboardInterrupt

    monkeypatch.setattr("ucaudit.packs.reading.open_pack", interrupted)
    assert gate(honest, "--junit", path).code == 130
    assert suite(path)[1] == {"failures": 0, "errors": 1}


def test_a_run_that_dies_leaves_an_error(honest, gate, tmp_path, monkeypatch):
    path = tmp_path / "gate.xml"
    assert gate(honest, "--junit", path).code == 0

    def die(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ucaudit.packs.judging.verify_bundle", die)
    assert gate(honest, "--junit", path).code == 130
    root, counts = suite(path)
    assert counts == {"failures": 0, "errors": 1}
    assert "did not finish" in next(root.iter("error")).get("message")


@pytest.mark.parametrize("place", ["pack", "policy", "trust", "missing"])
def test_where_a_junit_file_may_not_lie(honest, setting, run, policy, tmp_path, place):
    pack = shutil.copytree(setting.pack, tmp_path / "pack")
    trust = shutil.copy(setting.trust, tmp_path / "trust.toml")
    rules = policy()
    target = {"pack": pack / "gate.xml", "policy": rules, "trust": trust, "missing": tmp_path / "no" / "gate.xml"}[
        place
    ]
    before = target.read_bytes() if target.exists() else None
    words = ("gate", pack, "--evidence", honest, "--policy", rules, "--trust", trust)
    ran = run(*words, "--junit", target)
    assert ran.code == (4 if place == "missing" else 3)
    assert ("does not exist" if place == "missing" else "which is an input") in ran.err
    assert (target.read_bytes() if target.exists() else None) == before
    assert run(*words).code == 0


def test_a_refusal_is_a_failure_in_the_file(honest, gate, setting, tmp_path):
    pack = shutil.copytree(setting.pack, tmp_path / "pack")
    (pack / "manifest.json").write_text("[]")
    assert gate(honest, "--junit", tmp_path / "gate.xml", pack=pack).code == 1
    counts = suite(tmp_path / "gate.xml")[1]
    assert counts["failures"] > 0 and counts["errors"] == 0
