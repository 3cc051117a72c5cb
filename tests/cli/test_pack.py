"""``ucaudit pack`` in this process, on a tiny model."""

import errno
import json
from pathlib import Path

import pytest
from tinymodels import make_model, make_text

from ucaudit.cli.main import main


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("m") / "model")


@pytest.fixture
def run(capsys):
    def call(*words):
        with pytest.raises(SystemExit) as done:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return done.value.code, captured.out, captured.err

    return call


def test_a_pack_and_its_state_digest(model, run, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(make_text(), encoding="utf-8")
    words = ["pack", model, "--out", tmp_path / "p", "--calibration", text, "--group", 16, "--rank", 2, "--seed", 3]
    words += ["--seq-len", 128]
    code, out, err = run(*words)
    manifest = json.loads((tmp_path / "p" / "manifest.json").read_text())
    assert (code, out) == (0, manifest["stateDigest"] + "\n")
    assert "compressing" in err and "5 nominal" in err
    assert {"group": 16, "rank": 2, "seed": 3, "steps": 0}.items() <= manifest["settings"].items()
    code, out, _ = run("reconstruct", tmp_path / "p", "--quiet")
    assert (code, out) == (0, manifest["stateDigest"] + "\n")
    words[3] = tmp_path / "q"
    code, out, err = run(*words, "--json", "--quiet")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["stateDigest"] == manifest["stateDigest"]
    assert document["bitsPerWeight"] == manifest["bitsPerWeight"]
    code, _, err = run(*words)
    assert code == 3 and "exists already and is not empty" in err


def test_a_budget_instead_of_bits(model, run, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(make_text(), encoding="utf-8")
    words = ["pack", model, "--out", tmp_path / "p", "--seq-len", 128, "--group", 16, "--rank", 0, "--budget", 6.25]
    code, _, err = run(*words)
    assert code == 2 and "--calibration" in err
    words += ["--calibration", text]
    code, _, err = run(*words, "--bits", 5)
    assert code == 2 and "leave --bits out" in err
    code, out, _ = run(*words, "--dry-run", "--json")
    assert code == 0 and json.loads(out)["bitsPerWeightCompressed"] == 6.25
    code, _, err = run(*words)
    manifest = json.loads((tmp_path / "p" / "manifest.json").read_text())
    assert code == 0 and "weighing" in err and "6.25 allowed" in err
    assert manifest["bitsPerWeight"]["nominal"] is None
    assert 5.9 < manifest["bitsPerWeight"]["compressedOnDisk"] <= 6.25
    code, out, _ = run("inspect", tmp_path / "p")
    assert code == 0 and "nominal" not in out
    words[3] = tmp_path / "q"
    code, _, err = run(*words[:-4], "--budget", 2.5, *words[-2:])
    assert code == 3 and "too few" in err and not (tmp_path / "q").exists()


def test_dry_run_writes_nothing(model, run, tmp_path):
    code, out, err = run("pack", model, "--out", tmp_path / "p", "--group", 16, "--dry-run", "--json")
    document = json.loads(out)
    assert code == 0 and document["dryRun"] is True and not (tmp_path / "p").exists()
    assert "an estimate" in err
    assert document["bitsPerWeightCompressed"] > 5 and document["bytes"] > 0 and document["seconds"] >= 0


def test_without_a_text_it_says_so(model, run, tmp_path):
    code, _, err = run("pack", model, "--out", tmp_path / "p", "--quiet")
    assert code == 0 and "without --calibration" in err


@pytest.mark.parametrize(
    ("words", "code", "word"),
    [
        (["--steps", "1"], 2, "--calibration"),
        (["--kl-weight", "0.1"], 2, "--steps"),
        (["--steps", "-1"], 2, "steps"),
        (["--bits", "9"], 2, "bits"),
        (["--rank", "1041"], 2, "rank"),
        (["--budget", "nan", "--calibration", "x"], 2, "--budget"),
        (["--steps", "1", "--calibration", "x", "--kl-weight", "nan"], 2, "--kl-weight"),
        (["--device", "mps"], 4, "mps"),
        (["--calibration", "nowhere.txt"], 3, "nowhere.txt"),
    ],
)
def test_requests_that_cannot_be_met(model, run, tmp_path, words, code, word):
    found, out, err = run("pack", model, "--out", tmp_path / "p", *words)
    assert (found, out) == (code, "") and word in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [".", "a\udcff", "a" * 250, "a" * 300])
def test_a_name_that_no_pack_can_have(model, run, tmp_path, monkeypatch, name):
    """Before anything is done, and with nothing left behind."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("ucaudit.lab.compress.StreamedModel", None)
    code, out, err = run("pack", model, "--out", name, "--quiet")
    assert (code, out) == (4 if len(name) > 9 else 3, "") and "ucaudit: error:" in err and "hint" in err
    assert list(tmp_path.rglob("*")) == [tmp_path / "here"]


def test_sequences_longer_than_the_model_reads(model, run, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(make_text(), encoding="utf-8")
    code, _, err = run("pack", model, "--out", tmp_path / "p", "--calibration", text, "--seq-len", 129)
    assert code == 3 and "the model reads at most 128" in err and "hint: --seq-len 128" in err
    assert not (tmp_path / "p").exists()


def test_no_room_for_temporary_files(model, run, tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    text = tmp_path / "text.txt"
    text.write_text(make_text(), encoding="utf-8")
    monkeypatch.setattr(Path, "write_bytes", full)
    code, _, err = run("pack", model, "--out", tmp_path / "p", "--calibration", text, "--seq-len", 128)
    assert code == 4 and "no space left on device" in err and "TMPDIR" in err
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_a_model_that_is_not_there(run, tmp_path):
    code, _, err = run("pack", tmp_path / "none", "--out", tmp_path / "p")
    assert code == 3 and "none" in err
