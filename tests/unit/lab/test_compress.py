import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tinymodels import make_model, make_text, make_tokenizer
from transformers import MixtralConfig, MixtralForCausalLM

from ucaudit.core.errors import CorpusError, ModelError, RefusedError
from ucaudit.lab.compress import Settings, compress, estimate
from ucaudit.lab.compress_blocks import each, fixed_blocks, spans
from ucaudit.lab.compress_calibration import LayerRunner, draw_sequences, find_layers, second_moment
from ucaudit.lab.compress_tensors import TensorSettings
from ucaudit.lab.corpus import load_corpus
from ucaudit.models.runtime import load_model, load_tokenizer
from ucaudit.packs.codecs import open_source
from ucaudit.packs.state import reconstruct_state, relative_errors

SETTINGS = Settings(TensorSettings(bits=5, group=16, rank=2), sequences=8, seq_len=32)
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("m") / "model")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("t") / "text.txt"
    path.write_text(make_text(), encoding="utf-8")
    return path


def encode(model, out, text=None, settings=SETTINGS):
    with open_source(model) as source:
        return compress(source, out, settings, calibration=text)


@pytest.fixture(scope="module")
def pack(model, text, tmp_path_factory):
    out = tmp_path_factory.mktemp("p") / "pack"
    encode(model, out, text)
    return out


def test_the_pack_holds_what_the_rule_says(model, text, pack):
    with open_source(pack) as source, open_source(model) as original:
        manifest = source.manifest
        kinds = {claim.name: claim.kind for claim in manifest.tensors}
        for name, kind in kinds.items():
            assert kind == ("ucq" if any(f".{linear}." in name for linear in LINEARS) else "raw"), name
        assert list(kinds.values()).count("ucq") == 2 * len(LINEARS)
        assert [(spec.name, spec.dtype, spec.shape) for spec in source.specs] == [
            (spec.name, spec.dtype, spec.shape) for spec in original.specs
        ]
        assert source.ties == original.ties == (("lm_head.weight", "model.embed_tokens.weight"),)
        assert reconstruct_state(source) == source.published_state()
        assert manifest.source.state_digest == reconstruct_state(original).digest
        for file in ("config.json", "tokenizer.json"):
            assert (pack / file).read_bytes() == (model / file).read_bytes()
    calibration = manifest.calibration
    assert calibration.name == "text.txt" and calibration.sha256 == load_corpus(text).sha256
    assert (calibration.sequences, calibration.seq_len, calibration.tokens, calibration.seed) == (8, 32, 256, 42)
    assert manifest.settings["bits"] == 5 and manifest.settings["rank"] == 2
    assert sorted(path.name for path in pack.glob("*.safetensors")) == [
        "layer-00000.safetensors",
        "layer-00001.safetensors",
        "other.safetensors",
    ]


def weight_errors(pack, model):
    """Relative error of each compressed weight."""
    with open_source(pack) as source, open_source(model) as original:
        names = {claim.name for claim in source.manifest.tensors if claim.kind == "ucq"}
        found = relative_errors(source, original)
    return {name: math.sqrt(error / size) for name, (error, size) in found.items() if name in names}


def test_raw_tensors_are_byte_for_byte_and_weights_are_near(model, pack, tmp_path):
    with open_source(pack) as source, open_source(model) as original:
        for claim in source.manifest.tensors:
            found, expected = source.load(claim.name), original.load(claim.name)
            if claim.kind == "raw":
                assert torch.equal(found.view(torch.int16), expected.view(torch.int16))
    # A uniform grid over ±1.77 σ (the mean largest of 16 normal values) in 31 steps has an error of 0.033 σ.
    encode(model, tmp_path / "blind")
    blind = weight_errors(tmp_path / "blind", model)
    assert len(blind) == 2 * len(LINEARS) and all(0 < error < 0.033 for error in blind.values())
    # Feedback gives up some of the weights' nearness for the outputs'.
    calibrated = weight_errors(pack, model)
    assert all(error < 3 * blind[name] for name, error in calibrated.items())


def test_same_inputs_same_bytes(model, text, pack, tmp_path):
    encode(model, tmp_path / "pack", text)
    files = sorted(path.name for path in pack.iterdir())
    assert files == sorted(path.name for path in (tmp_path / "pack").iterdir())
    for file in files:
        assert (tmp_path / "pack" / file).read_bytes() == (pack / file).read_bytes(), file
    encode(model, tmp_path / "other", text, replace(SETTINGS, seed=7))
    assert (tmp_path / "other" / "STATE").read_bytes() != (pack / "STATE").read_bytes()


def test_threads_change_neither_bytes_nor_how_products_are_cut(model, text, pack, tmp_path, monkeypatch):
    """The cut is what moves bits; whether it does shows on some processors only, so it is looked at itself."""
    linear, before = torch.nn.functional.linear, torch.get_num_threads()
    seen = []

    def spy(inputs, weight, bias=None):
        seen.append((torch.get_num_threads(), tuple(inputs.shape), tuple(weight.shape)))
        return linear(inputs, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", spy)
    cuts = {}
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            encode(model, tmp_path / str(threads) / "pack", text)
            cuts[threads] = sorted(seen)
            seen.clear()
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert cuts[1] == cuts[2] == cuts[4]
    assert {threads for threads, _, _ in cuts[4]} == {1}
    assert max(shape[0] for _, shape, _ in cuts[4]) <= 1024
    for file in sorted(path.name for path in pack.iterdir()):
        expected = (pack / file).read_bytes()
        for threads in (1, 2, 4):
            assert (tmp_path / str(threads) / "pack" / file).read_bytes() == expected, (file, threads)


def test_blocks_keep_their_order_and_cover_everything():
    assert [(span.start, span.stop) for span in spans(2500)] == [(0, 1024), (1024, 2048), (2048, 2500)]
    assert spans(0) == []
    with fixed_blocks():
        assert torch.get_num_threads() == 1
        assert each(lambda item: (item, torch.is_grad_enabled()), range(50)) == [(i, False) for i in range(50)]


def test_the_text_makes_the_model_better(model, text, pack, tmp_path):
    """KL against the original on other text, with and without calibration."""
    encode(model, tmp_path / "blind")
    with open_source(model) as source:
        tokenizer = load_tokenizer(source)
        reference = load_model(source, dtype=torch.float32, device="cpu")
    ids = torch.tensor([tokenizer(make_text(120, seed=50 + row))["input_ids"][:100] for row in range(8)])

    def divergence(path):
        with open_source(path) as source:
            candidate = load_model(source, dtype=torch.float32, device="cpu")
        with torch.no_grad():
            p, q = (one(input_ids=ids).logits.log_softmax(-1) for one in (reference, candidate))
        return float((p.exp() * (p - q)).sum(-1).mean())

    assert 0 < divergence(pack) < divergence(tmp_path / "blind") < 0.1
    with open_source(tmp_path / "blind") as source:
        assert source.manifest.calibration is None and "nearest" in source.manifest.settings["method"]


def test_layers_see_the_weights_compressed_before_them(model, text):
    """Run to the end without changing anything: the last hidden state is the model's own, bit for bit."""
    with open_source(model) as source:
        whole = load_model(source, dtype=torch.float32, device="cpu")
        tokens = draw_sequences(
            load_corpus(text), load_tokenizer(source), sequences=4, seq_len=32, seed=1, vocab_size=320
        )
    _, layers = find_layers(whole)
    expected = []
    handle = layers[-1].register_forward_hook(lambda _, __, output: expected.append(output))
    with torch.no_grad():
        whole(input_ids=tokens.ids, use_cache=False)
    handle.remove()
    runner = LayerRunner(whole, tokens.ids)
    groups = []
    names = [name for name, module in layers[0].named_modules() if isinstance(module, torch.nn.Linear)]
    for index in range(len(layers)):
        runner.run(index, lambda group, moment: groups.append((group, tuple(moment.shape))), wanted=names)
    assert torch.equal(runner._hidden, expected[0])
    one = [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
    assert [[name.rsplit(".", 1)[1] for name in group] for group, _ in groups] == one * 2
    assert [shape for _, shape in groups] == [(32, 32), (32, 32), (32, 32), (64, 64)] * 2
    # A weight set to zero on the way silences what comes after it in the same pass.
    runner = LayerRunner(whole, tokens.ids)
    seen = {}

    def silence(group, moment):
        seen[group[0]] = moment
        if "self_attn.v_proj" in group:
            layers[0].self_attn.v_proj.weight.data.zero_()

    runner.run(0, silence, wanted=names)
    assert (seen["self_attn.o_proj"] == 0).all() and seen["mlp.gate_proj"].abs().max() > 0


def test_second_moment_is_the_mean_of_outer_products():
    rows = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    flat = rows.reshape(-1, 7).double()
    assert torch.allclose(second_moment(rows).double(), flat.T @ flat / 15, atol=1e-6)


def damaged(model, directory, change):
    directory.mkdir()
    for path in model.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return directory


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "model.layers.0.input_layernorm.weight"]
)
def test_a_value_that_is_not_finite_is_named(model, tmp_path, name, value):
    broken = damaged(model, tmp_path / "m", lambda tensors: tensors[name].view(-1)[3:4].fill_(value))
    with pytest.raises(ModelError, match=f"{name}: NaN or infinity"):
        encode(broken, tmp_path / "pack")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_other_dtypes_are_refused(model, tmp_path):
    def widen(tensors):
        tensors.update({name: tensor.float() for name, tensor in tensors.items()})

    broken = damaged(model, tmp_path / "m", widen)
    with pytest.raises(ModelError, match="expected BF16, found F32") as caught:
        encode(broken, tmp_path / "pack")
    assert "self_attn.q_proj" in caught.value.subject and "bf16" in caught.value.hint


def test_a_text_that_is_too_short_is_refused(model, tmp_path):
    (tmp_path / "t").write_text("the cat sat on a mat", encoding="utf-8")
    with pytest.raises(CorpusError, match="at least 4"):
        encode(model, tmp_path / "pack", tmp_path / "t")
    assert not (tmp_path / "pack").exists()


def test_a_used_output_is_refused(model, tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "mine").write_text("keep")
    with pytest.raises(RefusedError):
        encode(model, tmp_path / "pack")
    assert [path.name for path in (tmp_path / "pack").iterdir()] == ["mine"]


def test_the_estimate_is_what_comes_out(model, pack):
    with open_source(model) as source:
        expected = estimate(source, SETTINGS, calibrated=True)
    with open_source(pack) as made:
        found = made.bits_per_weight()
        assert expected.compressed == made.manifest.compressed_parameters
        assert expected.parameters == made.manifest.parameters
    assert expected.bits_per_weight == pytest.approx(found.compressed_on_disk, rel=1e-5)
    assert expected.seconds > 0


def test_an_interrupted_run_leaves_nothing(tmp_path):
    model = make_model(tmp_path / "model", hidden_size=64, intermediate_size=256, num_hidden_layers=8)
    (tmp_path / "text.txt").write_text(make_text(20_000), encoding="utf-8")
    words = [sys.executable, "-m", "ucaudit", "pack", model, "--out", tmp_path / "pack", "--threads", "1"]
    words += ["--calibration", tmp_path / "text.txt", "--quiet"]
    process = subprocess.Popen(
        [str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".pack.*/layer-00001.safetensors")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "text.txt"]


def test_manifest_is_plain_json(pack):
    document = json.loads((pack / "manifest.json").read_text(encoding="utf-8"))
    assert document["bitsPerWeight"]["nominal"] == 5.0
    assert document["createdBy"]["name"] == "ucaudit" and Path(document["name"]).name == "pack"


def test_experts_that_are_one_tensor_and_routers_stay_as_they_are(text, tmp_path):
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        num_local_experts=4,
        num_experts_per_tok=2,
    )
    MixtralForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "model")
    make_tokenizer(tmp_path / "model")
    encode(tmp_path / "model", tmp_path / "pack", text)
    with open_source(tmp_path / "pack") as source:
        kinds = {claim.name: claim.kind for claim in source.manifest.tensors}
        load_model(source, dtype=torch.float32, device="cpu")
    compressed = {name for name, kind in kinds.items() if kind == "ucq"}
    assert compressed == {
        f"model.layers.{layer}.self_attn.{name}_proj.weight" for layer in range(2) for name in "qkvo"
    }
    assert sum(".experts." in name for name in kinds) > 0 and sum(".gate." in name for name in kinds) == 2
