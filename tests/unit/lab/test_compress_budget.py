"""Bits shared out under a budget: what is weighed, how bits are dealt, and what a pack is made of them."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from families import make_family
from hypothesis import given
from hypothesis import strategies as st
from tinymodels import make_tokenizer

from ucaudit.core.errors import CorpusError, InputError, ModelError
from ucaudit.core.progress import SILENT
from ucaudit.lab.compress import Settings, compress, estimate
from ucaudit.lab.compress_blocks import fixed_blocks
from ucaudit.lab.compress_budget import Unit, find_units, share_bits
from ucaudit.lab.compress_tensors import TensorSettings
from ucaudit.models.streamed import StreamedModel
from ucaudit.packs.codecs import open_source
from ucaudit.packs.manifest import MAX_BITS, MIN_BITS
from ucaudit.packs.state import reconstruct_state

SETTINGS = Settings(TensorSettings(group=16, rank=2), sequences=8, seq_len=32, budget=6.5)
PLAIN = TensorSettings(group=64, rank=0)


def units(*errors, rows=64, columns=256, stacked=False):
    return [Unit({f"w{index}": (rows, columns, stacked)}, error) for index, error in enumerate(errors)]


def bits_in_all(parts, settings, shared):
    stored = sum(
        rows * columns * replace(settings, bits=shared[name]).bits_on_disk(rows, columns)
        for unit in parts
        for name, (rows, columns, _) in unit.shapes.items()
    )
    return stored / sum(unit.elements for unit in parts)


# --- dealing ----------------------------------------------------------------------------------------------------
@given(
    errors=st.lists(st.floats(1e-12, 1e3), min_size=1, max_size=12),
    budget=st.floats(3.0, 9.0),
    group=st.sampled_from([16, 64, 256]),
)
def test_the_budget_is_kept_and_used_up(errors, budget, group):
    parts, settings = units(*errors), TensorSettings(group=group, rank=0)
    if bits_in_all(parts, settings, {f"w{index}": MIN_BITS for index in range(len(errors))}) > budget:
        with pytest.raises(InputError, match="too few"):
            share_bits(parts, settings, budget)
        return
    shared = share_bits(parts, settings, budget)
    assert bits_in_all(parts, settings, shared) <= budget + 1e-9
    for name, bits in shared.items():
        one_more = bits_in_all(parts, settings, shared | {name: min(bits + 1, MAX_BITS)})
        assert bits == MAX_BITS or one_more > budget - 1e-9, "a bit more would have fitted"


@given(errors=st.lists(st.floats(1e-9, 1e3), min_size=2, max_size=12))
def test_of_two_alike_the_one_that_is_felt_more_has_no_fewer(errors):
    shared = share_bits(units(*errors), PLAIN, 5.5)
    ranked = sorted(range(len(errors)), key=lambda index: errors[index])
    # Where bits run out between two alike, the last one may go to either: to the first that asks.
    for less, more in pairwise(ranked):
        assert shared[f"w{more}"] >= shared[f"w{less}"] - (errors[more] == errors[less])


def test_four_times_the_error_is_one_bit_more():
    shared = share_bits(units(1.0, 4.0, 16.0, 64.0), PLAIN, 5.75 + (8 << 8) / (64 * 256))
    assert [shared[f"w{index}"] for index in range(4)] == [4, 5, 6, 7]


def test_nothing_felt_and_the_best_possible():
    assert set(share_bits(units(0.0, 0.0), PLAIN, 5.5).values()) <= set(range(MIN_BITS, MAX_BITS + 1))
    assert set(share_bits(units(1.0, 2.0), PLAIN, 9.0).values()) == {MAX_BITS}
    assert share_bits([], PLAIN, 5.5) == {}


def test_a_stack_is_counted_without_an_overlay():
    settings = TensorSettings(group=64, rank=48)
    (stacked,), (plain,) = units(1.0, stacked=True), units(1.0)
    assert stacked.stored_bits(settings) < plain.stored_bits(settings)


# --- weighing ---------------------------------------------------------------------------------------------------
def weighed(path, ids):
    with open_source(path) as source, torch.no_grad(), fixed_blocks():
        model = StreamedModel(source, dtype=torch.float32, device="cpu", threads=1)
        return find_units(model, source, SETTINGS.tensors, ids, SILENT)


@pytest.mark.parametrize("family", ["llama-tied", "phi3", "mixtral", "mamba"])
def test_what_is_weighed_is_what_is_compressed(family, text, tmp_path):
    path = make_family(family, tmp_path / "model")
    make_tokenizer(path)
    ids = torch.randint(3, 300, (4, 24), generator=torch.Generator().manual_seed(1))
    found = weighed(path, ids)
    assert all(0 < unit.error < 1 and math.isfinite(unit.error) for unit in found)
    names = [name for unit in found for name in unit.shapes]
    assert len(names) == len(set(names))
    with open_source(path) as source:
        made = compress(source, tmp_path / "pack", SETTINGS, calibration=text)
        shapes = {spec.name: spec.shape for spec in source.specs}
    assert set(names) == {claim.name for claim in made.manifest.tensors if claim.kind == "ucq"}
    for unit in found:
        for name, (rows, columns, stacked) in unit.shapes.items():
            assert (rows, columns) == (math.prod(shapes[name][:-1]), shapes[name][-1])
            assert stacked == (len(shapes[name]) == 3)
    if family == "mixtral":
        experts = [unit for unit in found if any(".experts." in name for name in unit.shapes)]
        assert {len(unit.shapes) for unit in experts} == {4}, "a layer's experts share one weighing"


def test_a_weight_that_does_more_is_felt_more(model, tmp_path):
    """The output projection of one layer, eight times as large."""
    from safetensors.torch import load_file, save_file

    ids = torch.randint(3, 300, (4, 24), generator=torch.Generator().manual_seed(1))
    name = "model.layers.1.self_attn.o_proj.weight"
    before = {next(iter(unit.shapes)): unit.error for unit in weighed(model, ids)}
    louder = tmp_path / "louder"
    louder.mkdir()
    for file in model.iterdir():
        (louder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(model / "model.safetensors")
    tensors[name] = tensors[name] * 8
    save_file(tensors, louder / "model.safetensors", metadata={"format": "pt"})
    after = {next(iter(unit.shapes)): unit.error for unit in weighed(louder, ids)}
    assert after[name] > 2 * before[name]
    first = [one for one in before if ".layers.0." in one]
    assert first and all(after[one] == before[one] for one in first), "layers before it are as they were"


@pytest.mark.parametrize(
    ("count", "used"),
    [
        (4, [0, 1, 2, 3]),
        (16, [*range(16)]),
        (20, [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 15, 16, 17, 18]),
        (32, [*range(0, 32, 2)]),
        (128, [*range(0, 128, 8)]),
    ],
)
def test_all_parts_of_the_text_have_a_say(model, count, used):
    ids = torch.randint(3, 300, (count, 8), generator=torch.Generator().manual_seed(1))
    assert weighed(model, ids) == weighed(model, ids[used])


# --- packs ------------------------------------------------------------------------------------------------------
def test_a_pack_of_a_budget(model, text, tmp_path):
    made = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with open_source(model) as source:
                expected = estimate(source, SETTINGS, calibrated=True)
                made.append(compress(source, tmp_path / str(threads) / "pack", SETTINGS, calibration=text))
    finally:
        torch.set_num_threads(before)
    for file in sorted(path.name for path in (tmp_path / "1" / "pack").iterdir()):
        one, two = ((tmp_path / str(threads) / "pack" / file).read_bytes() for threads in (1, 2))
        assert one == two, file
    manifest = made[0].manifest
    assert len({claim.bits for claim in manifest.tensors if claim.kind == "ucq"}) > 1
    taken = manifest.bits_per_weight
    assert taken.nominal is None and 6.0 < taken.compressed_on_disk <= 6.5 == expected.bits_per_weight
    assert manifest.settings["budget"] == 6.5 and "bits" not in manifest.settings
    with open_source(tmp_path / "1" / "pack") as source:
        assert reconstruct_state(source) == source.published_state()


@pytest.mark.parametrize(("value", "dtype"), [(math.nan, None), (math.inf, None), (1.0, torch.float32)])
def test_a_weight_that_cannot_be_weighed_is_named(model, text, tmp_path, value, dtype):
    from safetensors.torch import load_file, save_file

    name = "model.layers.1.mlp.up_proj.weight"
    spoilt = tmp_path / "model"
    spoilt.mkdir()
    for file in model.iterdir():
        (spoilt / file.name).write_bytes(file.read_bytes())
    tensors = load_file(model / "model.safetensors")
    tensors[name][3, 5] = value
    tensors[name] = tensors[name].to(dtype or torch.bfloat16)
    save_file(tensors, spoilt / "model.safetensors", metadata={"format": "pt"})
    with open_source(spoilt) as source, pytest.raises(ModelError) as refused:
        compress(source, tmp_path / "pack", SETTINGS, calibration=text)
    assert name in str(refused.value)


def test_a_budget_needs_a_text_and_room(model, text, tmp_path):
    with open_source(model) as source:
        with pytest.raises(CorpusError, match="calibration text"):
            compress(source, tmp_path / "pack", SETTINGS)
        with pytest.raises(InputError, match="too few"):
            compress(source, tmp_path / "pack", replace(SETTINGS, budget=2.5), calibration=text)
    assert not (tmp_path / "pack").exists()
