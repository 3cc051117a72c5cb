"""Differences between states: counts, sizes, layers, and what kind of change they look like."""

import json

import pytest
import torch
from safetensors.torch import save_file

from ucaudit.packs.codecs import open_source
from ucaudit.packs.difference import compare_manifests, compare_sources, guess, layer_of
from ucaudit.packs.state import reconstruct_state

Q = "model.layers.0.self_attn.q_proj.weight"
NORM = "model.layers.1.input_layernorm.weight"


def checkpoint(path, change=None):
    torch.manual_seed(0)
    tensors = {
        Q: torch.randn(40, 30),
        "model.layers.1.mlp.up_proj.weight": torch.randn(2000, 600),
        NORM: torch.ones(30) + 0.1 * torch.randn(30),
        "model.embed_tokens.weight": torch.randn(10, 30),
    }
    tensors = {name: value.to(torch.bfloat16) for name, value in tensors.items()}
    if change is not None:
        change(tensors)
    path.mkdir()
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return path


@pytest.fixture
def compared(tmp_path):
    def run(change):
        one, two = checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b", change)
        with open_source(one) as first, open_source(two) as second:
            return {item.name: item for item in compare_sources(first, second)}

    return run


def bits(tensors, name):
    return tensors[name].view(torch.int16)


def test_equal(compared):
    found = compared(None)
    assert {item.status for item in found.values()} == {"same"}
    assert guess(list(found.values())).startswith("none")
    assert found[Q].relative == 0.0 and found[Q].largest == 0.0


def test_one_flipped_bit(compared):
    def flip(tensors):
        bits(tensors, Q)[3, 4] ^= 1 << 9

    found = compared(flip)
    assert (found[Q].changed, found[Q].flipped, found[Q].status) == (1, 1, "changed")
    assert sum(item.status != "same" for item in found.values()) == 1
    assert guess(list(found.values())).startswith("bit flips: 1 bit(s) in 1 element(s) of 1 tensor(s)")


def test_sizes_by_hand(compared):
    def change(tensors):
        tensors[Q][0, 0] = tensors[Q][0, 0] + 8
        tensors[Q][1, 1] = tensors[Q][1, 1] * 2

    found = compared(change)[Q]
    torch.manual_seed(0)
    before = torch.randn(40, 30).to(torch.bfloat16)
    after = before.clone()
    after[0, 0], after[1, 1] = before[0, 0] + 8, before[1, 1] * 2
    gap = (after.double() - before.double()).norm()
    assert found.largest == float((after.double() - before.double()).abs().max())
    assert found.relative == pytest.approx(float(gap / before.double().norm()), rel=1e-12)
    assert found.changed == 2


def test_another_dtype(compared):
    def widen(tensors):
        tensors.update({name: value.to(torch.float32) for name, value in tensors.items()})

    found = compared(widen)
    assert {item.changed for item in found.values()} == {0} and found[Q].second == "F32 40x30"
    assert guess(list(found.values())).startswith("another dtype of the same weights: 4 tensor(s)")


def test_other_rounding(compared):
    def nudge(tensors):
        for name in tensors:
            bits(tensors, name)[..., ::3] += 1

    assert guess(list(compared(nudge).values())).startswith("other rounding of the same weights")


def test_requantised_and_fine_tuned(compared, tmp_path):
    def coarse(tensors):
        for name in (Q, "model.layers.1.mlp.up_proj.weight"):
            tensors[name] = (tensors[name] * 4).round() / 4

    found = compared(coarse)
    assert guess(list(found.values())).startswith("compressed in another way")

    def tune(tensors):
        coarse(tensors)
        tensors[NORM] = tensors[NORM] * 1.1

    with open_source(tmp_path / "a") as first, open_source(checkpoint(tmp_path / "c", tune)) as second:
        assert guess(compare_sources(first, second)).startswith("fine-tuned")


def test_added_removed_reshaped(compared):
    def change(tensors):
        del tensors[NORM]
        tensors["new"] = torch.zeros(2)
        tensors[Q] = tensors[Q].reshape(30, 40)

    found = compared(change)
    assert (found[NORM].status, found["new"].status, found[Q].status) == ("removed", "added", "reshaped")
    assert guess(list(found.values())).startswith("another architecture")


def test_digests_alone(tmp_path):
    def flip(tensors):
        bits(tensors, Q)[0, 0] ^= 1

    with open_source(checkpoint(tmp_path / "a")) as first, open_source(checkpoint(tmp_path / "b", flip)) as second:
        found = compare_manifests(reconstruct_state(first), reconstruct_state(second))
    assert [item.name for item in found if item.status == "changed"] == [Q]
    assert guess(found).startswith("unknown")


def test_layers():
    assert layer_of("model.layers.12.mlp.up_proj.weight") == "model.layers.12"
    assert layer_of("blk.3.attn_q.weight") == "blk.3" and layer_of("model.norm.weight") == "model.norm.weight"


def test_not_a_number_counts_as_changed(compared):
    def spoil(tensors):
        tensors[Q][0, 0] = float("nan")

    found = compared(spoil)[Q]
    assert (found.status, found.changed, found.far) == ("changed", 1, 1)
    assert found.largest == found.relative == float("inf")
