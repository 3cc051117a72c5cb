"""``inspect`` and ``reconstruct`` on small packs, in this process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "vectors" / "ucq"))
import ucq_oracle as oracle

from ucaudit.cli.main import main
from ucaudit.core import tensorfile

NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def pack(tmp_path):
    compressed = {
        NAME: oracle.random_stored(1, (12, 20), rank=2),
        "model.embed_tokens.weight": oracle.random_stored(2, (8, 20)),
    }
    raw = {"model.norm.weight": ("F32", (20,), bytes(80))}
    oracle.write_pack(tmp_path / "p", compressed, raw, ties=[["lm_head.weight", "model.embed_tokens.weight"]])
    return tmp_path / "p"


@pytest.fixture
def run(capsys):
    def call(*words):
        with pytest.raises(SystemExit) as done:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return done.value.code, captured.out, captured.err

    return call


def flip(pack):
    file = pack / "layer-00000.safetensors"
    with file.open("rb") as handle:
        place = tensorfile.read_header(handle, subject="x").tensors[f"{NAME}.codes"]
    data = bytearray(file.read_bytes())
    data[place.begin] ^= 1
    file.write_bytes(data)


def published(pack):
    return json.loads((pack / "manifest.json").read_text())["stateDigest"]


def test_inspect_says_what_the_pack_is(pack, run):
    (pack / ".extra").write_text("x")
    code, out, err = run("inspect", pack, "--tensors", "--quiet")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    for word in (
        "ucq 1",
        "ucq-f32-bf16/1",
        "5 nominal",
        "lm_head.weight = model.embed_tokens",
        published(pack)[:40],
        NAME,
    ):
        assert word in out
    assert [line.split()[-1] for line in out.splitlines() if line.startswith("unclaimed")] == [".extra"]
    code, out, _ = run("inspect", pack, "--json")
    document = json.loads(out)
    assert code == 0 and document["unclaimedFiles"] == [".extra"] and document["contradictions"] == []
    assert document["publishedState"] == published(pack) and len(document["tensors"]) == 3
    assert set(document["bitsPerWeight"]) == {"nominal", "compressedOnDisk", "wholeOnDisk"}


def test_inspect_names_a_file_that_is_not_as_claimed(pack, run):
    flip(pack)
    code, out, _ = run("inspect", pack)
    assert code == 1 and "layer-00000.safetensors: the manifest claims sha-256" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = run("inspect", pack, "--no-hash", "--json")
    assert code == 0 and json.loads(out)["packDigest"] is None


def test_inspect_needs_none_of_the_heavy_packages(pack, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    tensorfile.write(tmp_path / "m" / "model.safetensors", {"a": ("F32", (1,), bytes(4))})
    script = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'transformers', 'gguf', 'safetensors'): sys.modules[name] = None\n"
        "from ucaudit.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    for path in (pack, tmp_path / "m"):
        done = subprocess.run(
            [sys.executable, "-c", script, "inspect", path], capture_output=True, text=True, check=False
        )
        assert (done.returncode, "pack digest" in done.stdout) == (0, True), done.stderr
    done = subprocess.run(
        [sys.executable, "-c", script, "reconstruct", pack], capture_output=True, text=True, check=False
    )
    assert done.returncode == 4 and "pip install 'ucaudit[measure]'" in done.stderr
    # What `verify --full` and `gate --full` import first.
    asked = "from ucaudit.core.errors import MissingExtraError\ntry:\n    import ucaudit.packs.state\n"
    asked += "except MissingExtraError as error:\n    print(error.exit_code, error.hint)\n"
    blocked = script.partition("from ucaudit")[0] + asked
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("4 pip install 'ucaudit[measure]'"), done


def test_reconstruct_prints_the_published_digest(pack, run, tmp_path):
    code, out, err = run("reconstruct", pack, "--device", "cpu", "--quiet")
    assert (code, out, err) == (0, published(pack) + "\n", "")
    code, out, err = run("reconstruct", pack, "--out", tmp_path / "c", "--json")
    document = json.loads(out)
    assert code == 0 and document["matches"] is True and document["drifted"] == []
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["config.json", "model.safetensors"]
    code, out, _ = run("reconstruct", tmp_path / "c", "--expect", pack / "STATE")
    assert (code, out.strip()) == (0, published(pack))
    code, out, err = run("reconstruct", tmp_path / "c")
    assert code == 0 and "compared with nothing" in err
    code, _, err = run("reconstruct", pack, "--out", tmp_path / "c")
    assert code == 3 and "exists already" in err


@pytest.mark.parametrize("expect", ["{pack}/STATE", "{pack}", None])
def test_drift_names_the_tensor(pack, run, expect):
    flip(pack)
    words = ["--expect", expect.format(pack=pack)] if expect else []
    code, out, err = run("reconstruct", pack, *words, "--json")
    document = json.loads(out)
    assert code == 1 and document["matches"] is False
    (sentence,) = document["drifted"]
    assert sentence.startswith(f"{NAME}: expected ") and NAME in err


def test_a_digest_is_compared_as_a_whole(pack, run):
    assert run("reconstruct", pack, "--expect", published(pack).upper())[0] == 0
    code, _, err = run("reconstruct", pack, "--expect", "0" * 64)
    assert code == 1 and "expected state digest 000000" in err


@pytest.mark.parametrize(
    ("words", "code", "word"),
    [
        (["--expect", "nowhere/STATE"], 3, "no such STATE file"),
        (["--expect", "0" * 63], 3, "64 hex digits"),
        (["--device", "mps"], 4, "mps"),
        (["--device", "tpu"], 2, "tpu"),
        (["--threads", "0"], 2, "threads"),
    ],
)
def test_requests_that_cannot_be_met(pack, run, words, code, word):
    found, out, err = run("reconstruct", pack, *words, "--json")
    assert found == code and word in err and json.loads(out)["exitCode"] == code
