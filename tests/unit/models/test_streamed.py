"""Models loaded a part at a time: the bits of ``from_pretrained``, for every family."""

import pytest
import torch
from families import FAMILIES, make_family
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import MistralForCausalLM

from ucaudit.core.errors import ModelError
from ucaudit.models.layers import record_calls, same_call
from ucaudit.models.runtime import load_model
from ucaudit.models.streamed import StreamedModel
from ucaudit.packs.codecs import open_source

IDS = torch.arange(7, 55).unsqueeze(0)


def streamed_logits(model, ids, check=lambda index, layer: None):
    with model.front():
        entered = model.enter(ids)
    hidden = entered.hidden
    for index in range(model.count):
        with model.loaded(index) as layer:
            check(index, layer)
            hidden = model.run(index, hidden, entered.calls[index])
    length = ids.shape[1]
    with model.back():
        return torch.cat([model.logits(hidden, 0, 16), model.logits(hidden, 16, length)])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_bits_of_the_whole_model(tmp_path, family):
    with open_source(make_family(family, tmp_path / "m")) as source:
        whole = load_model(source, dtype=torch.float32, device="cpu")
        expected = whole.state_dict()
        model = StreamedModel(source, dtype=torch.float32, device="cpu")
        assert all(parameter.is_meta for parameter in model.model.parameters())
        seen = set()

        def check(index, layer):
            for name, tensor in layer.state_dict().items():
                assert not tensor.is_meta and torch.equal(tensor, expected[f"{model.prefix}{index}.{name}"])
            seen.update(model.names(index))

        with torch.inference_mode():
            logits = whole(input_ids=IDS, use_cache=False).logits[0]
        assert torch.equal(streamed_logits(model, IDS, check), logits)
        assert seen == {spec.name for spec in source.specs if any(part.isdigit() for part in spec.name.split("."))}
        assert all(parameter.is_meta for parameter in model.model.parameters())


def test_bf16_gives_the_same_bits_too(tmp_path):
    with open_source(make_family("qwen3", tmp_path / "m")) as source:
        whole = load_model(source, dtype=torch.bfloat16, device="cpu")
        model = StreamedModel(source, dtype=torch.bfloat16, device="cpu")
        with torch.inference_mode():
            assert torch.equal(streamed_logits(model, IDS), whole(input_ids=IDS, use_cache=False).logits[0])


def test_a_head_and_an_embedding_of_their_own_are_not_held_together(tmp_path):
    with open_source(make_family("mistral", tmp_path / "m")) as source:
        model = StreamedModel(source, dtype=torch.float32, device="cpu")
        embedding, head = (getattr(model.model, f"get_{side}_embeddings")() for side in ("input", "output"))
        with model.front():
            assert not embedding.weight.is_meta and head.weight.is_meta
        with model.back():
            assert embedding.weight.is_meta and not head.weight.is_meta


def changed(path, change):
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    return path


def test_a_missing_tensor_is_named(tmp_path):
    name = "model.layers.1.mlp.up_proj.weight"
    path = changed(make_family("qwen3", tmp_path / "m"), lambda tensors: tensors.pop(name))
    with open_source(path) as source:
        model = StreamedModel(source, dtype=torch.float32, device="cpu")
        with model.loaded(0):
            pass
        with pytest.raises(ModelError, match=f"1 tensors missing: {name}"), model.loaded(1):
            pass


@pytest.mark.parametrize("name", ["lm_head.weight", "model.norm.weight", "model.embed_tokens.weight"])
def test_a_missing_tensor_outside_the_layers_is_named_at_once(tmp_path, name):
    path = changed(make_family("mistral", tmp_path / "m"), lambda tensors: tensors.pop(name))
    with open_source(path) as source, pytest.raises(ModelError, match=f"1 tensors missing: {name}"):
        StreamedModel(source, dtype=torch.float32, device="cpu")


def test_without_the_embedding_nothing_is_tied_to_it(tmp_path):
    path = changed(
        make_family("llama-tied", tmp_path / "m"), lambda tensors: tensors.pop("model.embed_tokens.weight")
    )
    with (
        open_source(path) as source,
        pytest.raises(ModelError, match=r"2 tensors missing: lm_head\.weight, model\."),
    ):
        StreamedModel(source, dtype=torch.float32, device="cpu")


@pytest.mark.parametrize("both", [False, True])
def test_a_tied_embedding_may_be_stored_as_the_head(tmp_path, both):
    """Alone, or besides an embedding that differs: the library then ties nothing."""

    def change(tensors):
        embedding = tensors.pop("model.embed_tokens.weight")
        tensors["lm_head.weight"] = embedding
        if both:
            tensors["model.embed_tokens.weight"] = 2 * embedding

    with open_source(changed(make_family("llama-tied", tmp_path / "m"), change)) as source:
        whole = load_model(source, dtype=torch.float32, device="cpu")
        model = StreamedModel(source, dtype=torch.float32, device="cpu")
        with torch.inference_mode():
            assert torch.equal(streamed_logits(model, IDS), whole(input_ids=IDS, use_cache=False).logits[0])


def test_a_name_that_the_family_leaves_out_may_be_missing(tmp_path, monkeypatch):
    path = changed(make_family("mistral", tmp_path / "m"), lambda tensors: tensors.pop("model.norm.weight"))
    monkeypatch.setattr(MistralForCausalLM, "_keys_to_ignore_on_load_missing", [r"model\.norm\."])
    with open_source(path) as source:
        StreamedModel(source, dtype=torch.float32, device="cpu")


def test_a_missing_expert_is_found(tmp_path):
    name = "model.layers.2.mlp.experts.3.up_proj.weight"
    path = changed(make_family("qwen3-moe", tmp_path / "m"), lambda tensors: tensors.pop(name))
    with open_source(path) as source:
        model = StreamedModel(source, dtype=torch.float32, device="cpu")
        with pytest.raises(ModelError), model.loaded(2):
            pass


def test_a_tensor_that_belongs_nowhere_is_named(tmp_path):
    path = changed(
        make_family("qwen3", tmp_path / "m"), lambda tensors: tensors.update({"model.layers.1.x": torch.zeros(2)})
    )
    with open_source(path) as source, pytest.raises(ModelError, match=r"1 tensors unexpected: model.layers.1.x"):
        StreamedModel(source, dtype=torch.float32, device="cpu")


def test_a_tensor_of_another_shape_is_named(tmp_path):
    def change(tensors):
        tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 64, dtype=torch.bfloat16)

    with open_source(changed(make_family("qwen3", tmp_path / "m"), change)) as source:
        model = StreamedModel(source, dtype=torch.float32, device="cpu")
        with pytest.raises(ModelError, match="of another shape"), model.loaded(0):
            pass


def test_work_between_layers_is_refused(tmp_path):
    """A family that does something between its layers would silently lose it."""

    class Between(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.config, self.layers = model.config, model.model.layers

        @property
        def base_model(self):
            return self

        def forward(self, input_ids, use_cache):
            hidden = torch.zeros(1, input_ids.shape[1], 64)
            for layer in self.layers:
                hidden = 2 * layer(hidden)
            return hidden

    with open_source(make_family("qwen3", tmp_path / "m")) as source:
        model = load_model(source, dtype=torch.float32, device="cpu")
        with pytest.raises(ModelError, match="more between them"):
            record_calls(Between(model), IDS)
        assert record_calls(model, IDS).packed is False


def test_calls_are_compared_by_value():
    one = {"mask": torch.ones(2, 2), "positions": (torch.arange(3), None), "flag": True}
    other = {"mask": torch.ones(2, 2), "positions": (torch.arange(3), None), "flag": True}
    assert same_call(one, other)
    for key, value in (("mask", torch.zeros(2, 2)), ("positions", (torch.arange(4), None)), ("flag", False)):
        assert not same_call(one, {**other, key: value})
    assert not same_call(one, {**other, "more": 1})
