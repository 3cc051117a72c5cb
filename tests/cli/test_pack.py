"""``ucaudit pack`` in this process, on a tiny model."""

import json

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
    words = ["pack", model, "--out", tmp_path / "p", "--group", 16, "--rank", 0, "--budget", 6.25]
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
    code, out, _ = run("pack", model, "--out", tmp_path / "p", "--group", 16, "--dry-run", "--json")
    document = json.loads(out)
    assert code == 0 and document["dryRun"] is True and not (tmp_path / "p").exists()
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
        (["--device", "mps"], 4, "mps"),
        (["--calibration", "nowhere.txt"], 3, "nowhere.txt"),
    ],
)
def test_requests_that_cannot_be_met(model, run, tmp_path, words, code, word):
    found, out, err = run("pack", model, "--out", tmp_path / "p", *words)
    assert (found, out) == (code, "") and word in err
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_there(run, tmp_path):
    code, _, err = run("pack", tmp_path / "none", "--out", tmp_path / "p")
    assert code == 3 and "none" in err
