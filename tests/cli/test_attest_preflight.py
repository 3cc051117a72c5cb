"""attest --dry-run finds everything that would stop the real run, and writes nothing."""

import json
import os
import shutil

import pytest

from .conftest import POLICY, ucaudit


@pytest.fixture
def elsewhere(desk, tmp_path):
    """A policy beside a test's own files, with some text replaced."""

    def write(old="", new=""):
        text = POLICY.format(ratio=1.05).replace(old, new) if old else POLICY.format(ratio=1.05)
        path = tmp_path / "policy.toml"
        path.write_text(text.replace("text.txt", os.path.relpath(desk.root / "text.txt", tmp_path)))
        return path

    return write


def run(desk, tmp_path, *words, pack=None, reference=None, policy=None, out=None):
    common = ("--reference", reference or desk.reference, "--policy", policy or desk.root / "policy.toml")
    place = ("--key", desk.key, "--out", out or tmp_path / "new" / "bundle")
    return ucaudit("attest", pack or desk.pack, *common, *place, *words, "--dry-run", "--json")


def refused(ran, code, *words):
    assert ran.code == code, ran
    lines = [line for line in ran.err.splitlines() if line.startswith("ucaudit: error: ")]
    assert len(lines) == 1, ran.err
    assert sum(line.startswith("ucaudit: hint: ") for line in ran.err.splitlines()) == 1, ran.err
    for word in words:
        assert word in ran.err, ran.err
    assert ran.json["exitCode"] == code


def test_a_dry_run_says_what_it_takes(desk, tmp_path):
    ran = run(desk, tmp_path)
    assert ran.code == 0, ran.err
    assert ran.json["windows"] == 30
    assert ran.json["diskMb"] > 0
    assert ran.json["exitCode"] == 0
    assert list(tmp_path.iterdir()) == []
    text = ucaudit(
        "attest",
        desk.pack,
        *("--reference", desk.reference, "--policy", desk.root / "policy.toml", "--key", desk.key),
        *("--out", tmp_path / "b", "--dry-run"),
    )
    assert "windowsAvailable  " in text.out


def test_the_ledger_has_another_key(desk, tmp_path):
    assert ucaudit("keygen", "--out", tmp_path / "k", "--name", "x", "--no-password").code == 0
    ran = run(desk, tmp_path, "--ledger", desk.ledger, "--ledger-key", tmp_path / "k" / "x.pem")
    refused(ran, 3, "this ledger is signed by")


def test_the_plan_is_in_no_such_ledger(desk, tmp_path):
    assert (
        ucaudit("ledger", "init", "--ledger", tmp_path / "l", "--key", desk.key, "--origin", "x.invalid/l").code
        == 0
    )
    ran = run(desk, tmp_path, "--ledger", tmp_path / "l", "--plan", desk.root / "plan.dsse.json")
    refused(ran, 3, "has no entry for this plan")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("n = 30", "n = 5000", "too short"),
        ("seq_len = 48", "seq_len = 4000", "4000"),
        ("n = 30", "n = 1", "at least 2 windows"),
        ("ppl_ratio_max = 1.05", "ppl_ratio_max = 1.05\nconfidence = 0.9999", "confidence of 0.9999"),
    ],
)
def test_a_policy_that_cannot_be_measured(desk, tmp_path, elsewhere, old, new, word):
    refused(run(desk, tmp_path, policy=elsewhere(old, new)), 3, word)


@pytest.mark.slow
def test_pack_and_reference_are_the_same(desk, tmp_path):
    refused(run(desk, tmp_path, pack=desk.reference), 3, "the same files")
    copy = shutil.copytree(desk.reference, tmp_path / "copy")
    ran = ucaudit(
        "attest",
        desk.reference,
        *("--reference", copy, "--policy", desk.root / "policy.toml", "--key", desk.key, "--out", tmp_path / "b"),
        "--json",
    )
    refused(ran, 3, "the same files")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]


@pytest.mark.slow
def test_a_reference_of_another_shape(desk, tmp_path):
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(desk.reference, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    refused(run(desk, tmp_path, reference=other), 3, "other tensors: model.norm.weight")


@pytest.mark.slow
def test_an_output_inside_the_pack(desk, tmp_path, pack_copy):
    refused(run(desk, tmp_path, pack=pack_copy, out=pack_copy / "bundle"), 3, "which is an input")


def test_too_little_disk(desk, tmp_path, monkeypatch, capsys):
    from ucaudit.cli.main import main

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    words = ["attest", desk.pack, "--reference", desk.reference, "--policy", desk.root / "policy.toml"]
    words += ["--key", desk.key, "--out", tmp_path / "b", "--dry-run", "--json"]
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, words)))
    found = json.loads(capsys.readouterr().out)
    assert (stopped.value.code, found["error"]["code"]) == (4, "output-unwritable")
    assert "MB are free" in found["error"]["message"]


def test_too_little_memory(desk, tmp_path, monkeypatch, capsys):
    from ucaudit.cli.main import main
    from ucaudit.lab import measure_memory

    monkeypatch.setattr(measure_memory, "available_memory", lambda: 0)
    monkeypatch.setattr(measure_memory, "resident_memory", lambda: 0)
    words = ["attest", desk.pack, "--reference", desk.reference, "--policy", desk.root / "policy.toml"]
    words += ["--key", desk.key, "--out", tmp_path / "b", "--dry-run", "--json"]
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, words)))
    assert stopped.value.code == 4
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "unavailable"


def test_a_pack_that_contradicts_its_manifest_is_a_failed_claim(desk, tmp_path, pack_copy):
    """One digit of a config that changes nothing in the figures: it must not pass."""
    config = pack_copy / "config.json"
    text = config.read_text()
    assert '"initializer_range": 0.02' in text
    config.write_text(text.replace('"initializer_range": 0.02', '"initializer_range": 0.03'))
    bundle = tmp_path / "bundle"
    policy = desk.root / "policy.toml"
    ran = ucaudit(
        "attest",
        pack_copy,
        *("--reference", desk.reference, "--policy", policy, "--key", desk.key, "--out", bundle, "--json"),
    )
    assert ran.code == 1, ran.err
    claims = {claim["id"]: claim for claim in ran.json["claims"]}
    assert claims["files-match-manifest"]["verdict"] == "fail"
    assert "config.json: the manifest claims" in claims["files-match-manifest"]["reason"]
    assert claims["ppl-ratio"]["verdict"] == "pass"
    trust = ("--trust", desk.root / "trust.toml")
    ran = ucaudit("verify", bundle, *trust, "--pack", pack_copy)
    assert ran.code == 0
    assert "1 contradicted, as recorded" in " ".join(ran.out.split())
    ran = ucaudit("gate", pack_copy, "--evidence", bundle, "--policy", policy, *trust)
    assert ran.code == 1
    assert "FAIL  claim files-match-manifest" in ran.out


def test_a_good_pack_is_compared_with_its_manifest(desk):
    ran = ucaudit("verify", desk.bundle, "--trust", desk.root / "trust.toml", "--pack", desk.pack)
    assert ran.code == 0
    assert "its own manifest: they agree" in " ".join(ran.out.split())
    assert "files-match-manifest == 0: PASS" in ran.out


def test_a_record_that_hides_a_contradiction(desk, tmp_path, pack_copy):
    """A signer may leave it out; whoever has the pack sees it."""
    from ucaudit.core.digest import FileManifest
    from ucaudit.evidence.bundle import open_bundle
    from ucaudit.evidence.checks import Verification
    from ucaudit.packs.codecs import open_source
    from ucaudit.packs.compare import _check_manifest

    text = (pack_copy / "config.json").read_text()
    (pack_copy / "config.json").write_text(text.replace("0.02", "0.03"))
    record = open_bundle(desk.bundle).record
    for pack, words in (
        (record.pack, "config.json: the manifest claims"),
        (record.pack.model_copy(update={"matches_manifest": "no-manifest"}), "config.json"),
    ):
        result = Verification()
        with open_source(pack_copy) as source:
            files: FileManifest = source.pack.file_manifest()
            _check_manifest(source, files, record.model_copy(update={"pack": pack}), result)
        (failed,) = result.failures
        assert words in failed.detail
