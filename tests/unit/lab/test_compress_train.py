"""Training a compressed layer: it helps where it says so, and is as repeatable as the rest."""

from dataclasses import replace

import pytest
import torch
from families import make_family
from test_compress import SETTINGS, encode, stop
from tinymodels import make_tokenizer

from ucaudit.core.errors import CorpusError, ModelError
from ucaudit.lab import compress as compress_module
from ucaudit.lab import compress_train
from ucaudit.lab.compress_layers import Matrix, Place
from ucaudit.lab.compress_tensors import Inputs, TensorSettings, encode_weights
from ucaudit.lab.compress_train import Lesson, train_layer
from ucaudit.models.layers import Call
from ucaudit.models.runtime import load_model
from ucaudit.packs.codecs import open_source

TRAINED = replace(SETTINGS, tensors=TensorSettings(bits=3, group=16, rank=2), steps=12)


class Layer(torch.nn.Module):
    """The smallest layer there is."""

    def __init__(self, weight):
        super().__init__()
        self.linear = torch.nn.Linear(*reversed(weight.shape), bias=False)
        self.linear.weight.data = weight.clone()

    def forward(self, hidden):
        return hidden + self.linear(hidden).tanh()


def lesson_of(layer, hidden, steps=20):
    with torch.no_grad():
        return Lesson(hidden, layer(hidden), Call(), steps)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
def test_a_trained_layer_is_nearer_to_the_original_on_sequences_it_never_saw(rank):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(32, 32, generator=generator) * 0.3
    mix = torch.randn(32, 32, generator=generator) * 0.2
    hidden = torch.randn(24, 20, 32, generator=generator) @ mix
    original = Layer(weight)
    moment = (hidden.flatten(0, 1).T @ hidden.flatten(0, 1)) / (24 * 20)
    (before,) = encode_weights({"w": weight}, Inputs(moment, 480), TensorSettings(bits=2, group=16, rank=rank))
    layer = Layer(before.decode().float())
    place = Place("w", (32, 32), Matrix("linear.weight"), 0, 32)
    with torch.no_grad():
        (after,) = train_layer(layer, [(place, before)], lesson_of(original, hidden))
        unseen = torch.randn(8, 20, 32, generator=generator) @ mix
        expected = original(unseen)
        errors = [
            float((Layer(tensor.decode().float())(unseen) - expected).square().mean()) for tensor in (before, after)
        ]
        assert torch.equal(layer.linear.weight, after.decode().float())
    assert errors[1] < errors[0]
    assert (after.overlay is None) == (rank == 0)


class Forking(torch.nn.Module):
    """Sequences whose first number is positive read one weight, the others another; a third is never read."""

    def __init__(self, weights):
        super().__init__()
        for name, weight in weights.items():
            setattr(self, name, torch.nn.Linear(*reversed(weight.shape), bias=False))
            getattr(self, name).weight.data = weight.clone()

    def forward(self, hidden):
        return hidden + (self.left if float(hidden[0, 0, 0].detach()) > 0 else self.right)(hidden)


def test_gradients_are_means_over_all_sequences_and_zero_where_none_came(monkeypatch):
    generator = torch.Generator().manual_seed(7)
    weights = {name: torch.randn(16, 16, generator=generator) for name in ("left", "right", "never")}
    hidden = torch.randn(9, 4, 16, generator=generator)
    hidden[:, 0, 0] = torch.tensor([1.0, -1, 1, 1, -1, 1, 1, 1, 1])
    target = torch.randn(9, 4, 16, generator=generator)
    encoded = [
        (Place(name, (16, 16), Matrix(f"{name}.weight"), 0, 16), tensor)
        for name, tensor in zip(
            weights, encode_weights(weights, None, TensorSettings(bits=4, group=16, rank=0)), strict=True
        )
    ]
    layer = Forking({place.name: tensor.decode().float() for place, tensor in encoded})
    steps = []
    monkeypatch.setattr(compress_train._Adam, "step", lambda _, slopes, *, rate: steps.append(slopes))
    with torch.no_grad():
        train_layer(layer, encoded, Lesson(hidden, target, Call(), 1))

    batch = [0, 1, 2, 3, 4, 5, 6, 8]  # sequence 7 is held out
    copy = Forking({name: getattr(layer, name).weight.detach() for name in weights})
    losses = [(copy(hidden[index : index + 1]) - target[index]).square().mean() for index in batch]
    (sum(losses) / len(batch) / target.var()).backward()
    # The copy's weights are rounded to bfloat16, which a weight in training is not.
    assert torch.allclose(steps[0][0], copy.left.weight.grad, rtol=0.02, atol=2e-3)
    assert torch.allclose(steps[0][2], copy.right.weight.grad, rtol=0.02, atol=2e-3)
    assert not steps[0][4].any() and not steps[0][5].any()


@pytest.mark.slow
def test_training_that_does_not_help_is_thrown_away():
    """The held-out sequences want the weight as it is, the others something else."""
    weight = torch.eye(32)
    (before,) = encode_weights({"w": weight}, None, TensorSettings(bits=5, group=16, rank=0))
    layer = Layer(before.decode().float())
    hidden = torch.randn(16, 8, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        target = -layer(hidden)
        target[7::8] = layer(hidden)[7::8]
        (after,) = train_layer(
            layer,
            [(Place("w", (32, 32), Matrix("linear.weight"), 0, 32), before)],
            Lesson(hidden, target, Call(), 20),
        )
    assert torch.equal(after.codes, before.codes) and torch.equal(after.scales, before.scales)


def test_a_model_whose_layers_are_told_about_the_text_is_not_trained(model, text, tmp_path, monkeypatch):
    real = compress_module.enter

    def different(*given):
        hidden, calls = real(*given)
        return hidden, [replace(call, alike=False) for call in calls]

    monkeypatch.setattr(compress_module, "enter", different)
    with pytest.raises(ModelError, match="depends on the text, and cannot be trained") as caught:
        encode(model, tmp_path / "pack", text, TRAINED)
    assert "--steps" in caught.value.hint and not (tmp_path / "pack").exists()


def test_trained_packs_are_repeatable_at_any_number_of_threads(model, text, tmp_path):
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            encode(model, tmp_path / str(threads) / "pack", text, TRAINED)
    finally:
        torch.set_num_threads(before)
    for file in sorted(path.name for path in (tmp_path / "1" / "pack").iterdir()):
        assert (tmp_path / "1" / "pack" / file).read_bytes() == (tmp_path / "2" / "pack" / file).read_bytes(), file
    with open_source(tmp_path / "1" / "pack") as source:
        assert source.manifest.settings["steps"] == 12
        assert "training" in source.manifest.settings["method"]


def divergence(pack, model):
    """On other text."""
    ids = torch.randint(0, 300, (8, 60), generator=torch.Generator().manual_seed(5))
    with open_source(pack) as one, open_source(model) as two, torch.no_grad():
        q, p = (
            load_model(source, dtype=torch.float32, device="cpu")(input_ids=ids).logits.log_softmax(-1)
            for source in (one, two)
        )
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_an_interrupted_trained_run_goes_on(model, text, tmp_path):
    encode(model, tmp_path / "whole" / "pack", text, TRAINED)
    stop(model, tmp_path / "made" / "pack", text, 1, TRAINED)
    encode(model, tmp_path / "made" / "pack", text, TRAINED)
    for file in sorted(path.name for path in (tmp_path / "whole" / "pack").iterdir()):
        assert (tmp_path / "made" / "pack" / file).read_bytes() == (tmp_path / "whole" / "pack" / file).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3-moe", "mamba", "gemma2"])
def test_every_kind_of_layer_can_be_trained_with_the_outputs_divergence(text, tmp_path, family):
    model = make_family(family, tmp_path / "model")
    make_tokenizer(model)
    settings = replace(TRAINED, steps=6, sequences=8, seq_len=16)
    encode(model, tmp_path / "plain", text, replace(settings, steps=0))
    encode(model, tmp_path / "trained", text, replace(settings, kl_weight=1.0))
    assert divergence(tmp_path / "trained", model) < 1.05 * divergence(tmp_path / "plain", model)
    assert (tmp_path / "trained" / "STATE").read_bytes() != (tmp_path / "plain" / "STATE").read_bytes()


def test_training_needs_a_text(model, tmp_path):
    with pytest.raises(CorpusError, match="training needs a calibration text"):
        encode(model, tmp_path / "pack", None, TRAINED)
