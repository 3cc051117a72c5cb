"""What the encoder refuses, by the name that the checkpoint's files have for it, before anything is run with it."""

import math
from dataclasses import replace

import pytest
import torch
from families import SMALL, make_family
from test_compress import SETTINGS, damaged, encode
from tinymodels import make_model, make_tokenizer
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3NextConfig

from ucaudit.core.errors import InputError, ModelError
from ucaudit.lab.compress import Settings, compress, estimate
from ucaudit.lab.compress_layers import _routers, compressible, find_places
from ucaudit.lab.compress_quantise import SMALLEST_GROUP, share_of_small_groups
from ucaudit.lab.compress_tensors import TensorSettings, encode_weights, is_too_small
from ucaudit.packs.codecs import open_source

WAYS = {
    "text": SETTINGS,
    "budget": replace(SETTINGS, budget=6.5),
    "training": replace(SETTINGS, steps=1),
    "divergence": replace(SETTINGS, steps=1, kl_weight=0.1),
}
UP = "model.layers.1.mlp.up_proj.weight"


# --- settings that mean nothing ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (TensorSettings, "bits", 1),
        (TensorSettings, "bits", 9),
        (TensorSettings, "group", 0),
        (TensorSettings, "rank", -1),
        (TensorSettings, "rank", 1041),
        (Settings, "budget", math.nan),
        (Settings, "budget", math.inf),
        (Settings, "budget", -1.0),
        (Settings, "kl_weight", math.nan),
        (Settings, "kl_weight", -0.1),
        (Settings, "steps", -1),
        (Settings, "sequences", 0),
        (Settings, "seq_len", 0),
    ],
)
def test_settings_out_of_range_are_refused_by_name(kind, name, value):
    with pytest.raises(InputError, match=f"^{name}: {value} is "):
        kind(**{name: value})


# --- tensors that are missing ---------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["lm_head.weight", "model.norm.weight", "model.embed_tokens.weight"])
def test_a_missing_tensor_outside_the_layers_is_named(text, tmp_path, name):
    whole = make_family("mistral", tmp_path / "whole")  # its head is its own
    make_tokenizer(whole)
    broken = damaged(whole, tmp_path / "m", lambda tensors: tensors.pop(name))
    with pytest.raises(ModelError, match=f"mistral: 1 tensors missing: {name}"):
        encode(broken, tmp_path / "pack", text)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "whole"]


# --- NaN and infinity -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.norm.weight", "model.layers.1.input_layernorm.weight", UP]
)
def test_a_value_that_is_not_finite_is_named_whatever_is_run(model, text, tmp_path, name, value, way):
    broken = damaged(model, tmp_path / "m", lambda tensors: tensors[name].view(-1)[3::32].fill_(value))
    with pytest.raises(ModelError, match=f"^{name}: NaN or infinity"):
        encode(broken, tmp_path / "pack", text, WAYS[way])
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_head_of_its_own_is_looked_at_before_the_layers(text, tmp_path):
    model = make_family("mistral", tmp_path / "whole")
    make_tokenizer(model)

    def spoil(tensors):
        for name in ("lm_head.weight", UP):
            tensors[name].view(-1)[0] = math.nan

    with pytest.raises(ModelError, match=r"^lm_head.weight: NaN or infinity"):
        encode(damaged(model, tmp_path / "m", spoil), tmp_path / "pack", text)


@pytest.mark.parametrize("way", ["text", "budget"])
def test_a_sound_weight_is_not_blamed_for_a_layer_that_overflows(model, text, tmp_path, way):
    """Every tensor is finite, and the layer's arithmetic is not."""

    def loud(tensors):
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.1.{name}.weight"].fill_(3e38)

    broken = damaged(model, tmp_path / "m", loud)
    with pytest.raises(ModelError, match="infinite or not a number") as refused:
        encode(broken, tmp_path / "pack", text, WAYS[way])
    assert "model.layers.1" in refused.value.subject
    assert ("multiplied with" in refused.value.message) == (way == "text")


# --- sequences that are too long ------------------------------------------------------------------------------
@pytest.mark.parametrize(("bos", "longest"), [(False, 128), (True, 127)])
def test_sequences_longer_than_the_model_reads_are_refused(text, tmp_path, bos, longest):
    model = make_model(tmp_path / "m", bos=bos)
    with pytest.raises(ModelError, match="the model reads at most 128") as refused:
        encode(model, tmp_path / "pack", text, replace(SETTINGS, seq_len=longest + 1))
    assert refused.value.hint == f"--seq-len {longest}" and ("BOS" in refused.value.message) == bos
    assert not (tmp_path / "pack").exists()
    encode(model, tmp_path / "pack", text, replace(SETTINGS, seq_len=longest, sequences=4))


# --- routers --------------------------------------------------------------------------------------------------
MIXTURE = {
    **SMALL,
    "head_dim": 16,
    "num_experts": 32,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 2,
}
LINEAR_ATTENTION = {
    "layer_types": ["linear_attention", "full_attention"],
    "shared_expert_intermediate_size": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}


@pytest.mark.parametrize(
    ("config", "same"),
    [
        (Qwen3MoeConfig(**MIXTURE), ["self_attn.k_proj", "self_attn.v_proj"]),
        (
            Qwen3NextConfig(**MIXTURE, **LINEAR_ATTENTION),
            ["self_attn.k_proj", "self_attn.v_proj", "mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"],
        ),
    ],
)
def test_as_many_outputs_as_experts_do_not_make_a_router(text, tmp_path, config, same):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path / "m")
    make_tokenizer(tmp_path / "m")
    encode(tmp_path / "m", tmp_path / "pack", text)
    with open_source(tmp_path / "pack") as source:
        claims = {claim.name: claim for claim in source.manifest.tensors}
    for name in same:
        claim = claims[f"model.layers.1.{name}.weight"]
        assert (claim.kind, claim.shape[0]) == ("ucq", 32), name
    assert claims["model.layers.1.mlp.gate.weight"].kind == "raw"


class Nest(torch.nn.Module):
    """Modules and parameters by path."""

    def __init__(self, **parts):
        super().__init__()
        for path, part in parts.items():
            *above, name = path.split("__")
            place = self
            for step in above:
                if step not in dict(place.named_children()):
                    place.add_module(step, Nest())
                place = getattr(place, step)
            setattr(place, name, part)


def linear(rows):
    return torch.nn.Linear(64, rows)


def experts(*shape):
    return torch.nn.Parameter(torch.zeros(shape))


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ({"moe__router__layer": linear(32), "moe__input__weight": experts(32, 48, 64)}, {"moe.router.layer"}),
        ({"mlp__gate": linear(32), "mlp__experts": torch.nn.ModuleList(map(linear, [48] * 32))}, {"mlp.gate"}),
        ({"mlp__gate": linear(32), "mlp__experts__up": experts(32, 48, 64), "o_proj": linear(32)}, {"mlp.gate"}),
        ({"router": linear(32), "experts__up": experts(32, 48, 64)}, {"router"}),
        ({"mlp__gate": linear(32), "mlp__flat": linear(2048)}, {"mlp.gate"}),
        ({"attn__k": linear(32), "attn__v": linear(32), "mlp__up": linear(48)}, set()),
        ({"mix__conv__weight": experts(32, 1, 4), "mix__k": linear(32), "mlp__e__up": experts(32, 48, 64)}, set()),
        ({"mlp__gate": linear(33), "mlp__experts__up": experts(32, 48, 64)}, set()),
    ],
)
def test_a_router_stands_beside_the_experts(parts, found):
    layer = Nest(**parts)
    assert _routers(layer, {32}) == found
    tensors = {name: parameter.detach() for name, parameter in layer.named_parameters() if "weight" in name}
    places = find_places(layer, {name: name for name in tensors}, tensors.__getitem__)
    kept = {place.name for place in compressible(layer, places, [], Qwen3MoeConfig(num_experts=32))}
    assert not kept & {f"{name}.weight" for name in found}


# --- small weights --------------------------------------------------------------------------------------------
def bell(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def relative_error(weight, bits=8):
    (tensor,) = encode_weights({"w": weight}, None, TensorSettings(bits=bits, rank=0))
    return float((tensor.decode().double() - weight.double()).norm() / weight.double().norm())


def test_the_bound_is_where_scales_become_coarse():
    """A matrix just above the bound is as good as any but for a sixth."""
    assert SMALLEST_GROUP == 127 * 2.0**-20
    weight = bell(64, 256)
    smallest = float(weight.view(64, -1, 64).abs().amax(-1).min())
    good = weight * (SMALLEST_GROUP / smallest * 1.001)
    assert relative_error(good) < 1.2 * relative_error(weight * 0.02)
    assert not is_too_small(good, 64)
    assert all(is_too_small(weight * size, 64) for size in (1e-5, 1e-8, 1e-30))


def test_dead_groups_among_others_and_nothing_but_zeros_are_stored():
    weight = bell(64, 256) * 0.02
    weight[:8, :64] = bell(8, 64) * 1e-8
    weight[9] = 0
    assert 0 < share_of_small_groups(weight, 64) < 1e-6
    assert relative_error(weight) < 0.02
    (tensor,) = encode_weights({"w": weight}, None, TensorSettings(rank=0))
    assert (tensor.decode()[:8, :64] == 0).all() and (tensor.decode()[9] == 0).all()
    assert not is_too_small(torch.zeros(64, 256), 64)
    assert share_of_small_groups(torch.zeros(64, 256), 64) == 0


@pytest.mark.parametrize(("share", "allowed"), [(0.009, True), (0.011, False)])
def test_one_per_cent_of_the_squares(share, allowed):
    """Columns that no group divides, and more rows than are looked at at once."""
    weight = torch.zeros(1000, 1000)
    weight[:, :900] = 1e-5
    weight[0, 999] = math.sqrt(float(weight.double().square().sum()) * (1 - share) / share)
    assert share_of_small_groups(weight, 64) == pytest.approx(share, rel=1e-3)
    assert is_too_small(weight, 64) != allowed


@pytest.mark.parametrize("way", ["none", "text", "budget", "training"])
def test_a_weight_that_is_too_small_is_carried(model, text, tmp_path, way):
    """As an expert that was never trained may be: with all its bits, and the others are compressed."""
    small = damaged(model, tmp_path / "m", lambda tensors: tensors[UP].mul_(1e-7))
    made = encode(small, tmp_path / "pack", None if way == "none" else text, WAYS.get(way, SETTINGS))
    kinds = {claim.name: claim.kind for claim in made.manifest.tensors}
    assert kinds[UP] == "raw"
    assert {kind for name, kind in kinds.items() if name.endswith("_proj.weight") and name != UP} == {"ucq"}
    with open_source(small) as before, open_source(tmp_path / "pack") as after:
        assert torch.equal(before.load(UP), after.load(UP))


# --- budgets and ranks ----------------------------------------------------------------------------------------
def test_a_budget_that_only_the_count_by_shape_exceeds(text, tmp_path):
    """``A_log`` has the shape of a matrix, and with an overlay would cost more bits a weight than any other."""
    torch.manual_seed(0)
    from transformers import MambaConfig

    sizes = {"vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 16, "pad_token_id": 0}
    AutoModelForCausalLM.from_config(MambaConfig(**sizes)).to(torch.bfloat16).save_pretrained(tmp_path / "m")
    make_tokenizer(tmp_path / "m")
    tensors = TensorSettings(group=64, rank=16)
    least = replace(SETTINGS, tensors=replace(tensors, bits=2), sequences=4, seq_len=16)
    made = encode(tmp_path / "m", tmp_path / "least", text, least)
    taken = made.manifest.bits_per_weight.compressed_on_disk
    with open_source(tmp_path / "m") as source:
        counted = estimate(source, least, calibrated=True).bits_per_weight
        assert taken < counted
        settings = replace(least, tensors=tensors, budget=(taken + counted) / 2)
        assert estimate(source, settings, calibrated=True).bits_per_weight <= settings.budget
        found = compress(source, tmp_path / "pack", settings, calibration=text)
        assert found.manifest.bits_per_weight.compressed_on_disk <= settings.budget
        with pytest.raises(InputError, match=r"take \d"):
            compress(source, tmp_path / "q", replace(settings, budget=taken - 0.05), calibration=text)
        with pytest.raises(InputError, match="take at least"):
            compress(source, tmp_path / "q", replace(settings, budget=2.1), calibration=text)


def test_a_rank_beyond_the_smaller_side_is_that_of_the_side(model, text, tmp_path):
    settings = replace(SETTINGS, tensors=replace(SETTINGS.tensors, rank=48))
    made = encode(model, tmp_path / "pack", text, settings)
    ranks = {claim.name: (claim.rank, min(claim.shape)) for claim in made.manifest.tensors if claim.kind == "ucq"}
    assert all(rank == min(48, side) for rank, side in ranks.values()) and len({*ranks.values()}) > 1
    with open_source(model) as source:
        expected = estimate(source, settings, calibrated=True).bits_per_weight
    assert made.manifest.bits_per_weight.compressed_on_disk == pytest.approx(expected, rel=1e-5)
