import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from families import FAMILIES, SMALL, make_family
from safetensors.torch import load_file, save_file
from tinymodels import make_model, make_text, make_tokenizer
from transformers import GraniteMoeConfig, GraniteMoeForCausalLM

from ucaudit.core.errors import CorpusError, ModelError, RefusedError
from ucaudit.lab import compress_layers
from ucaudit.lab.compress import Settings, compress, estimate
from ucaudit.lab.compress_blocks import each, fixed_blocks, spans
from ucaudit.lab.compress_layers import (
    compressible,
    find_places,
    groups,
    matrix_of,
    record_reads,
    second_moment,
)
from ucaudit.lab.compress_pass import Calls, Replacements, run_layer
from ucaudit.lab.compress_sequences import draw_sequences
from ucaudit.lab.compress_tensors import TensorSettings
from ucaudit.lab.corpus import load_corpus
from ucaudit.models.layers import find_layers, record_calls
from ucaudit.models.runtime import load_model, load_tokenizer
from ucaudit.packs.codecs import open_source
from ucaudit.packs.state import reconstruct_state, relative_errors

SETTINGS = Settings(TensorSettings(bits=5, group=16, rank=2), sequences=8, seq_len=32)
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


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

    monkeypatch.setattr(compress_layers, "_block", spy)
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
    entered = record_calls(whole, tokens.ids)
    hidden, found = entered.hidden, []
    with torch.no_grad():
        for layer, call in zip(layers, entered.calls, strict=True):
            reads = record_reads(layer, hidden, call)
            wanted = {item.matrix for item in reads}

            def note(members, moment, positions):
                assert positions == 4 * 32
                found.append(([item.parameter.split(".")[-2] for item in members], tuple(moment.shape)))

            together = groups(reads, wanted)
            hidden = run_layer(layer, hidden, Calls(call, [call]), Replacements(wanted, together, note))
    assert torch.equal(hidden, expected[0])
    one = [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
    assert [names for names, _ in found] == one * 2
    assert [shape for _, shape in found] == [(32, 32), (32, 32), (32, 32), (64, 64)] * 2
    # A weight set to zero on the way silences what comes after it in the same pass.
    seen = {}

    def silence(members, moment, positions):
        for matrix in members:
            seen[matrix.parameter] = moment
            if "v_proj" in matrix.parameter:
                matrix_of(layers[0], matrix).zero_()

    with torch.no_grad():
        reads = record_reads(layers[0], entered.hidden, entered.calls[0])
        wanted = {item.matrix for item in reads}
        together = groups(reads, wanted)
        run_layer(
            layers[0],
            entered.hidden,
            Calls(entered.calls[0], [entered.calls[0]]),
            Replacements(wanted, together, silence),
        )
    assert (seen["self_attn.o_proj.weight"] == 0).all() and seen["mlp.gate_proj.weight"].abs().max() > 0


@pytest.mark.parametrize("width", [1, 256, 257, 600])
def test_second_moment_in_blocks_is_symmetric(width):
    rows = torch.randn(1, 40, width, generator=torch.Generator().manual_seed(2))
    found, positions = second_moment([rows[:, :13], rows[:, 13:13], rows[:, 13:]])
    assert positions == 40
    assert torch.allclose(found.double(), rows[0].double().T @ rows[0].double() / 40, atol=1e-5)
    assert torch.equal(found, found.T)


def test_second_moment_is_the_mean_of_outer_products():
    rows = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    flat = rows.reshape(-1, 7).double()
    assert torch.allclose(second_moment([rows])[0].double(), flat.T @ flat / 15, atol=1e-6)


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
    assert any(f".{linear}." in caught.value.subject for linear in LINEARS) and "bf16" in caught.value.hint


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


@pytest.mark.slow
def test_an_interrupted_run_leaves_no_pack_and_the_same_command_goes_on(tmp_path):
    model = make_model(tmp_path / "model", hidden_size=64, intermediate_size=128, num_hidden_layers=6)
    (tmp_path / "text.txt").write_text(make_text(10_000), encoding="utf-8")
    words = [sys.executable, "-m", "ucaudit", "pack", model, "--out", tmp_path / "pack", "--threads", "1"]
    words += ["--seq-len", "128"]
    words = [str(word) for word in (*words, "--calibration", tmp_path / "text.txt")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".pack.packing/*/state/layer-00001.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == [".pack.packing", "model", "text.txt"]
    assert not list(tmp_path.rglob("manifest.json"))
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    assert "finished by an interrupted run" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "pack", "text.txt"]
    whole = [str(tmp_path / "whole" / "pack") if word == str(tmp_path / "pack") else word for word in words]
    subprocess.run(whole, capture_output=True, check=True, timeout=120)
    files = sorted(path.name for path in (tmp_path / "pack").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "whole" / "pack").iterdir())
    for file in files:
        assert (tmp_path / "pack" / file).read_bytes() == (tmp_path / "whole" / "pack" / file).read_bytes(), file


class Stopped(Exception):
    pass


class StopsAfter:
    """Progress that fails after some layers, as a crash would."""

    def __init__(self, layers):
        self.left = layers

    def start(self, total, unit, label):
        pass

    def advance(self, amount=1):
        if amount:
            self.left -= 1
        if not self.left:
            raise Stopped

    def note(self, text):
        pass

    def finish(self):
        pass


def stop(model, out, text, layers, settings=SETTINGS):
    with open_source(model) as source, pytest.raises(Stopped):
        compress(source, out, settings, calibration=text, progress=StopsAfter(layers))
    (state,) = out.parent.glob(f".{out.name}.packing/*")
    return state


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("damage", ["nothing", "layer", "note", "hidden", "torn"])
def test_whatever_an_interrupted_run_left_the_bytes_are_those_of_a_whole_one(
    model, text, tmp_path, damage, calibrated
):
    given = text if calibrated else None
    encode(model, tmp_path / "whole" / "pack", given)
    out = tmp_path / "made" / "pack"
    state = stop(model, out, given, 1)
    if damage == "layer":
        file = state / "pack" / "layer-00000.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    elif damage == "note":
        (state / "state" / "layer-00000.json").write_text("{}")
    elif damage == "hidden":
        for file in (state / "state").glob("*.hidden"):
            file.write_bytes(b"?" + file.read_bytes()[1:])
    elif damage == "torn":
        for file in (state / "state").iterdir():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    encode(model, out, given)
    for file in sorted(path.name for path in (tmp_path / "whole" / "pack").iterdir()):
        assert (out / file).read_bytes() == (tmp_path / "whole" / "pack" / file).read_bytes(), file
    assert [path.name for path in out.parent.iterdir()] == ["pack"]


def test_a_run_of_another_encoder_is_not_taken_up(model, text, tmp_path, monkeypatch):
    first = stop(model, tmp_path / "pack", text, 1)
    monkeypatch.setattr("ucaudit.lab.compress.REVISION", 0)
    second = stop(model, tmp_path / "pack", text, 1)
    assert first != second and not first.exists()


def test_another_setting_starts_afresh(model, text, tmp_path):
    first = stop(model, tmp_path / "pack", text, 1)
    second = stop(model, tmp_path / "pack", text, 1, replace(SETTINGS, seed=7))
    assert first != second and not first.exists()


def test_manifest_is_plain_json(pack):
    document = json.loads((pack / "manifest.json").read_text(encoding="utf-8"))
    assert document["bitsPerWeight"]["nominal"] == 5.0
    assert document["createdBy"]["name"] == "ucaudit" and Path(document["name"]).name == "pack"


@pytest.mark.parametrize(
    "family",
    [
        family if family in {"llama-tied", "qwen3-moe", "mamba"} else pytest.param(family, marks=pytest.mark.slow)
        for family in sorted(set(FAMILIES) - {"gpt2"})
    ],
)
def test_every_family_is_packed_reconstructed_loaded_and_run(text, tmp_path, family):
    model = make_family(family, tmp_path / "model")
    make_tokenizer(model)
    encode(model, tmp_path / "pack", text)
    with open_source(tmp_path / "pack") as source, open_source(model) as original:
        claims = source.manifest.tensors
        assert [claim.name for claim in claims] == sorted(spec.name for spec in original.specs)
        raw = {claim.name for claim in claims if claim.kind == "raw" and min((*claim.shape, 0)[:2]) >= 16}
        matrices = {claim.name for claim in claims if len(claim.shape) == 2 and min(claim.shape) >= 16}
        outside = {name for name in matrices if not any(part.isdigit() for part in name.split("."))}
        assert matrices & {claim.name for claim in claims if claim.kind == "raw"} == outside, raw
        assert reconstruct_state(source) == source.published_state()
        made, reference = (load_model(one, dtype=torch.float32, device="cpu") for one in (source, original))
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        found, expected = (one(input_ids=ids).logits.log_softmax(-1) for one in (made, reference))
    assert bool(found.isfinite().all()) and not torch.equal(found, expected)
    assert float((expected.exp() * (expected - found)).sum(-1).mean()) < 0.02


def test_a_model_without_a_weight_to_compress_is_refused(text, tmp_path):
    model = make_family("gpt2", tmp_path / "model")
    make_tokenizer(model)
    with pytest.raises(ModelError, match="gpt2: no weight that this encoder compresses"):
        encode(model, tmp_path / "pack", text)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_experts_are_each_fitted_to_what_they_read(text, tmp_path):
    model = make_family("mixtral", tmp_path / "model")
    make_tokenizer(model)
    encode(model, tmp_path / "pack", text)
    with open_source(tmp_path / "pack") as source:
        levels = {
            claim.name: load_file(tmp_path / "pack" / claim.file)[f"{claim.name}.levels"].tolist()
            for claim in source.manifest.tensors
            if claim.kind == "ucq" and ".experts." in claim.name
        }
    assert len(levels) == 3 * 4 * 3
    first = "model.layers.0.block_sparse_moe.experts.{}.{}.weight"
    assert levels[first.format(0, "w1")] == levels[first.format(0, "w3")]
    assert len({str(levels[first.format(expert, "w1")]) for expert in range(4)}) > 1


def test_experts_in_one_tensor(text, tmp_path):
    """Granite's files hold all experts of a layer as one tensor; so does the pack."""
    torch.manual_seed(0)
    config = GraniteMoeConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2)
    GraniteMoeForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "model")
    make_tokenizer(tmp_path / "model")
    encode(tmp_path / "model", tmp_path / "pack", text)
    with open_source(tmp_path / "pack") as source:
        claims = {claim.name: claim for claim in source.manifest.tensors}
        load_model(source, dtype=torch.float32, device="cpu")
    stacked = {name: claim for name, claim in claims.items() if len(claim.shape) == 3}
    assert len(stacked) == 3 * 2
    assert all((claim.kind, claim.rank, claim.shape[0]) == ("ucq", 0, 4) for claim in stacked.values())
    assert all(weight_error < 0.1 for weight_error in weight_errors(tmp_path / "pack", tmp_path / "model").values())


def test_a_large_router_stays_as_it_is(text, tmp_path):
    """Also where it is an ``nn.Linear``: a choice of experts that flips costs more than its bits save."""
    config = SimpleNamespace(num_experts=32)
    layer = torch.nn.ModuleDict({"gate": torch.nn.Linear(64, 32), "up": torch.nn.Linear(64, 48)})
    tensors = {f"{name}.weight": module.weight.detach() for name, module in layer.items()}
    places = find_places(layer, {name: name for name in tensors}, tensors.__getitem__)
    assert [place.name for place in places] == ["gate.weight", "up.weight"]
    assert [place.name for place in compressible(layer, places, [], config)] == ["up.weight"]
