"""`ucaudit gate`: the directory of evidence, the JUnit file, the exit codes."""

import shutil

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
