"""The trained fixture models are what their records say, and good enough to tell codecs apart."""

import hashlib
import json
from pathlib import Path

import measure_models
import pytest
import torch
from train import MODELS, SelectiveScan, scan
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.mamba import modeling_mamba

from ucaudit.core import tensorfile

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
NARROW = ("dt_proj.weight",)
"""Mamba's step projection is as wide as its rank, in every model of the family."""


def record(name):
    return json.loads((FIXTURES / "models" / name / "training.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", MODELS)
def test_a_plain_checkpoint_of_bf16(name):
    path = FIXTURES / "models" / name
    assert sum(file.stat().st_size for file in path.glob("*.safetensors")) <= 6_000_000
    assert {"config.json", "tokenizer.json", "LICENSE", "training.json"} <= {file.name for file in path.iterdir()}
    with (path / "model.safetensors").open("rb") as handle:
        tensors = tensorfile.read_header(handle, subject=name).tensors.values()
    assert {tensor.dtype for tensor in tensors} == {"BF16"}
    matrices = [tensor for tensor in tensors if len(tensor.shape) == 2 and tensor.name.endswith(".weight")]
    assert len(matrices) > 10
    assert all(tensor.shape[1] % 256 == 0 or tensor.name.endswith(NARROW) for tensor in matrices)


@pytest.mark.parametrize("name", MODELS)
def test_the_record_names_what_it_was_made_from(name):
    found = record(name)
    assert found["texts"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (FIXTURES / "text").glob("bench-*")
    }
    assert found["curve"][-1]["step"] == found["schedule"]["steps"] == MODELS[name][1].steps
    assert found["parameters"] == sum(p.numel() for p in MODELS[name][0]().parameters())
    losses = [entry["calibrationLoss"] for entry in found["curve"]]
    assert losses[-1] < losses[0] and losses[-1] <= min(losses) + 0.02, "trained past its best"


@pytest.mark.parametrize("name", MODELS)
def test_good_enough_to_tell_codecs_apart(name):
    measured = record(name)["measured"]
    assert measured["perplexity"] * 15 <= measured["unigramPerplexity"]
    bits = measured["plainRounding"]["bits"]
    assert bits["3"]["ratio"][0] >= 1.04
    for metric in ("ratio", "meanKl"):
        five, four, three = (bits[width][metric] for width in "543")
        assert five[0] < four[0] < three[0]
    # KL separates neighbouring widths where the ratio may not.
    assert bits["5"]["meanKl"][2] < bits["4"]["meanKl"][1] and bits["4"]["meanKl"][2] < bits["3"]["meanKl"][1]


def test_the_recorded_figures_are_true_for_one():
    """The others follow in the slow suite."""
    recorded = record("dense")["measured"]
    found = measure_models.measure_model(FIXTURES / "models" / "dense", bits=(3,))
    only = {**recorded, "plainRounding": {"group": 64, "bits": {"3": recorded["plainRounding"]["bits"]["3"]}}}
    assert measure_models.differences(found, only) == []
    only["perplexity"] *= 1.001
    assert measure_models.differences(found, only) != []


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_recorded_figures_are_true(name):
    found = measure_models.measure_model(FIXTURES / "models" / name)
    assert measure_models.differences(found, record(name)["measured"]) == []


def test_they_write_english():
    path = FIXTURES / "models" / "dense"
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path)
    ids = tokenizer("And the LORD said unto", return_tensors="pt")["input_ids"]
    made = model.generate(ids, max_new_tokens=12, do_sample=False)
    words = tokenizer.decode(made[0, ids.shape[1] :]).split()
    assert len(words) >= 6 and all(word.isascii() for word in words)


def test_the_training_scan_is_the_librarys(monkeypatch):
    torch.manual_seed(0)
    model = MODELS["mamba"][0]()
    ids = torch.randint(2048, (2, 24))
    losses, gradients = [], []
    for function in (modeling_mamba.mamba_selective_scan, scan):
        monkeypatch.setattr(modeling_mamba, "mamba_selective_scan", function)
        model.zero_grad()
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        losses.append(loss.detach())
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert torch.allclose(*losses, rtol=1e-6)
    for first, second in zip(*gradients, strict=True):
        assert (first - second).norm() <= 1e-4 * first.norm()
    small = [torch.rand(3, 1, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    small.append(-torch.rand(2, 4, dtype=torch.float64).requires_grad_())
    small += [torch.rand(3, 1, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(SelectiveScan.apply, small)
