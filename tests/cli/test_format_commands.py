"""``inspect``, ``reconstruct --arithmetic``, ``diff``, ``import-receipt`` and ``pull`` as a person types them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import hub as stand_in
import pytest
import vendorpack

from ucaudit.cli.main import main

VECTORS = Path(__file__).parents[2] / "fixtures/vectors"
REPOSITORY = stand_in.REPOSITORY
GPTQ = VECTORS / "gptq/gptq4-gptq-ordered-1"
QWEN = VECTORS / "gguf/qwen2.gguf"


@pytest.fixture
def run(capsys):
    def call(*words):
        with pytest.raises(SystemExit) as done:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return done.value.code, captured.out, captured.err

    return call


def test_another_arithmetic_profile(run):
    code, out, _ = run("inspect", GPTQ, "--no-hash")
    assert code == 0 and "gptq-scale/1 (also: gptq-f32-bf16/1)" in out
    code, out, _ = run("reconstruct", QWEN, "--arithmetic", "ggml-f32/1", "--json")
    wide = json.loads(out)
    assert code == 0 and wide["arithmeticProfile"] == "ggml-f32/1"
    code, out, err = run("reconstruct", QWEN, "--arithmetic", "ggml")
    assert (code, out) == (3, "") and "no arithmetic profile 'ggml'" in err
    assert "ucaudit: hint: it has: ggml-f32-bf16/1, ggml-f32/1" in err


def test_diff(run, tmp_path):
    code, out, err = run("diff", QWEN, QWEN, "-q")
    assert (code, err) == (0, "") and "guess: none: the states are the same" in out
    copy = tmp_path / "x.gguf"
    data = bytearray(QWEN.read_bytes())
    data[-300] ^= 2
    copy.write_bytes(data)
    code, out, err = run("diff", QWEN, copy, "-q")
    assert code == 1 and "guess: bit flips: 1 bit(s) in 1 element(s) of 1 tensor(s)" in out
    assert "1 of 26 tensor(s) differ" in err and max(map(len, out.splitlines())) <= 80
    code, out, _ = run("diff", QWEN, copy, "--by-layer", "--json", "-q")
    document = json.loads(out)
    assert code == 1 and document["counts"] == {"same": 25, "changed": 1, "reshaped": 0, "added": 0, "removed": 0}
    assert sum(layer["different"] for layer in document["layers"]) == 1
    code, out, err = run("diff", QWEN, tmp_path / "gone")
    assert code == 3 and "no such file" in err


def test_diff_with_a_state(run, tmp_path):
    from ucaudit.packs.codecs import open_source
    from ucaudit.packs.state import reconstruct_state

    with open_source(QWEN) as source:
        (tmp_path / "STATE").write_bytes(reconstruct_state(source).to_bytes())
    code, out, _ = run("diff", QWEN, tmp_path / "STATE", "-q")
    assert code == 0 and "26 same" in out
    code, out, _ = run("diff", tmp_path / "STATE", VECTORS / "gguf/llama.gguf", "-q", "--arithmetic", "ggml-f32/1")
    assert code == 1 and "guess: another architecture" in out


def test_a_vendor_pack(run, tmp_path):
    pack = vendorpack.write(tmp_path / "p")
    registry = tmp_path / "benchmarks.json"
    registry.write_text(json.dumps({"verified_records": [{"model": "Qwen3-0.6B", "ppl_ratio": 1.0069}]}))
    code, out, _ = run("inspect", pack, "--registry", registry)
    assert code == 0 and "its payload cannot be decoded here" in out and "outside it" in out
    assert "ratio 1.0069 for Qwen3-0.6B" in out and max(map(len, out.splitlines())) <= 80
    (pack / "aux.uc").unlink()
    code, out, err = run("inspect", pack, "--json")
    assert code == 1 and json.loads(out)["contradictions"] == ["aux.uc: named as auxiliary file, but missing"]
    assert "aux.uc: named as auxiliary file" in err
    code, _, err = run("reconstruct", pack)
    assert code == 4 and "codec not available" in err and "ucaudit.codecs" in err


def test_import_receipt(run, tmp_path):
    pack = vendorpack.write(tmp_path / "p")
    receipt = {"schema_version": "1.0", "tool": {}, "pack": {}, "host": {}, "checks": {}, "files": []}
    (tmp_path / "r.json").write_text(json.dumps(receipt))
    code, out, err = run("import-receipt", tmp_path / "r.json", "--pack", pack)
    assert code == 1 and "contradicts  file aux.uc" in out and "the receipt says nothing" in err
    assert max(map(len, out.splitlines())) <= 80
    code, out, err = run("import-receipt", tmp_path / "none.json", "--pack", pack, "--json")
    assert code == 3 and json.loads(out)["error"]["code"] == "not-found"


def test_pull(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    with stand_in.serving() as hub:
        hub.files = {name: (GPTQ / name).read_bytes() for name in ("config.json", "model.safetensors")}
        code, out, _ = run(
            "pull", f"{stand_in.REPOSITORY}@main", "--out", tmp_path / "m", "--endpoint", hub.endpoint
        )
        assert (code, out.splitlines()[1]) == (0, f"commit {stand_in.COMMIT}")
        code, _, err = run("pull", REPOSITORY, "--out", tmp_path / "m", "--endpoint", hub.endpoint)
        assert code == 3 and "never overwritten" in err
        words = ("--include", "*.json", "--json")
        code, out, err = run(
            "pull", stand_in.REPOSITORY, "--out", tmp_path / "n", "--endpoint", hub.endpoint, *words
        )
        assert code == 0 and json.loads(out)["partial"] is True and "partial" in err
    code, out, _ = run("diff", tmp_path / "m", GPTQ, "-q")
    assert code == 0 and "2 same" in out


def test_a_hub_cache_snapshot_is_a_pack(run, tmp_path):
    snapshot = tmp_path / "models--o--n" / "snapshots" / ("a" * 40)
    blobs = tmp_path / "models--o--n" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for index, name in enumerate(("config.json", "model.safetensors")):
        blob = f"{index}" * 64
        shutil.copy(GPTQ / name, blobs / blob)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    code, out, _ = run("diff", snapshot, GPTQ, "-q")
    assert code == 0 and "2 same" in out


@pytest.mark.slow
def test_a_quantised_pack_is_measured_like_any_other(run, tmp_path):
    import tinymodels
    import torch
    from safetensors.torch import load_file, save_file

    model, pack, text = tmp_path / "m", tmp_path / "p", tmp_path / "t.txt"
    model.mkdir()
    tinymodels.make_model(model)
    text.write_text(tinymodels.make_text(6000))
    shutil.copytree(model, pack)
    stored = {}
    for name, weight in load_file(model / "model.safetensors").items():
        stored[name] = weight
        if weight.ndim == 2 and "layers" in name:
            scale = (weight.float().abs().amax(1, keepdim=True) / 127).to(torch.bfloat16)
            stored[name] = (weight.float() / scale.float()).round().clamp(-128, 127).to(torch.int8)
            stored[f"{name}_scale"] = scale
    save_file(stored, pack / "model.safetensors")
    config = json.loads((pack / "config.json").read_text())
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "config_groups": {"g": {"targets": ["Linear"], "weights": weights}},
    }
    (pack / "config.json").write_text(json.dumps(config))
    code, out, _ = run("diff", model, pack, "-q")
    assert code == 1 and "guess: compressed in another way" in out
    words = ("--reference", model, "--corpus", text, "--n", 30, "--seq-len", 32, "--out", tmp_path / "r", "--json")
    code, out, _ = run("measure", pack, *words)
    assert code == 0 and 0.9 < json.loads(out)["results"]["ratio"]["estimate"] < 1.1
