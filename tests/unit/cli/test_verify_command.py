"""`ucaudit verify`: what an argument stands for, and what the outcome says."""

import shutil

import pytest
from bundles import make_bundle

from ucaudit.evidence import bundle as names


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
