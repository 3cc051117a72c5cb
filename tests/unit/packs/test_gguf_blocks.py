"""ggml's blocks: the fixture vectors of every type, gguf's own decoder beside ours, and any cut into pieces."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ggml_blocks import SIZES, random_blocks
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize

from ucaudit.packs.codecs import compiled, gguf, gguf_blocks, gguf_fast, open_source
from ucaudit.packs.codecs.gguf_blocks import DECODERS
from ucaudit.packs.state import reconstruct_state

VECTORS = json.loads((Path(__file__).parents[3] / "fixtures/vectors/gguf/vectors.json").read_text())["cases"]
PLAIN, COMPILED = gguf_blocks.decode_blocks, gguf_fast.decode_compiled
BOTH = [(name, PLAIN) for name in DECODERS] + [(name, COMPILED) for name in gguf_fast.FORMS]
OURS = [(case, decode) for case in VECTORS for name, decode in BOTH if case["type"] == name]
BY_NAME = {"argnames": ("name", "decode"), "argvalues": BOTH, "ids": [f"{name}-{d.__name__}" for name, d in BOTH]}


def decoded(name, blocks, decode):
    return decode(name, torch.from_numpy(blocks)).numpy()


def test_there_are_vectors_of_every_type_and_origin():
    assert {case["type"] for case in VECTORS} == SIZES.keys() and DECODERS.keys() <= SIZES.keys()
    made = {name for name, (elements, _) in SIZES.items() if elements > 1}
    assert {case["type"] for case in VECTORS if case["origin"] == "llama.cpp"} == made


@pytest.mark.parametrize(
    ("case", "decode"), OURS, ids=[f"{case['type']}-{case['origin']}-{decode.__name__}" for case, decode in OURS]
)
def test_vectors(case, decode):
    blocks = np.stack([np.frombuffer(bytes.fromhex(block), np.uint8) for block in case["blocks"]])
    values = decoded(case["type"], blocks, decode)
    assert values[0, :4].tolist() == case["expect"]["first"]
    assert hashlib.sha256(values.tobytes()).hexdigest() == case["expect"]["sha256"]


@pytest.mark.parametrize(**BY_NAME)
@pytest.mark.parametrize("count", [1, 7, 130, 1100])
def test_bits_of_the_authority(name, decode, count):
    """Scales that are infinite or not a number are left in: their results must be so in the same places."""
    blocks = np.random.default_rng(count).integers(0, 256, (count, SIZES[name][1]), dtype=np.uint8)
    with np.errstate(all="ignore"):
        wanted = dequantize(blocks, GGMLQuantizationType[name])
    found = decoded(name, blocks, decode)
    strange = np.isnan(wanted)
    assert np.array_equal(strange, np.isnan(found))
    assert np.array_equal(wanted.view(np.uint32)[~strange], found.view(np.uint32)[~strange])


@pytest.mark.parametrize(**BY_NAME)
def test_neither_the_cut_nor_the_threads_matter(name, decode):
    blocks = random_blocks(np.random.default_rng(5), name, 64)
    whole = decoded(name, blocks, decode)
    parts = np.concatenate([decoded(name, blocks[begin : begin + 5], decode) for begin in range(0, 64, 5)])
    assert whole.tobytes() == parts.tobytes()
    before = torch.get_num_threads()
    torch.set_num_threads(2 if before == 1 else 1)
    try:
        assert decoded(name, blocks, decode).tobytes() == whole.tobytes()
    finally:
        torch.set_num_threads(before)


def k_quant_file(path):
    """A GGUF file of an architecture without names of its own, with a tensor of every K-quant."""
    writer = GGUFWriter(path, "unheard-of")
    for name in gguf_fast.FORMS:
        blocks = random_blocks(np.random.default_rng(1), name, 6 * 2).reshape(6, -1)
        writer.add_tensor(f"{name.lower()}.weight", blocks, raw_dtype=GGMLQuantizationType[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("wrong", [False, True])
def test_a_large_file_is_decoded_by_the_compiled_decoder_unless_it_gives_other_bits(tmp_path, monkeypatch, wrong):
    path = tmp_path / "k.gguf"
    k_quant_file(path)
    with open_source(path) as source:
        expected = reconstruct_state(source).digest
    used = []

    def counting(name, blocks):
        used.append(name)
        return -COMPILED(name, blocks) if wrong else COMPILED(name, blocks)

    monkeypatch.setattr(gguf, "WORTHWHILE", 6 * 512 * len(gguf_fast.FORMS))
    monkeypatch.setattr(gguf_fast, "decode_compiled", counting)
    monkeypatch.setattr(compiled, "_agreed", {})
    for _ in range(2):
        with open_source(path) as source:
            assert reconstruct_state(source).digest == expected
    # Once each for the comparison; where that agreed, once more a tensor and reading.
    assert {name: used.count(name) for name in used} == dict.fromkeys(gguf_fast.FORMS, 1 if wrong else 3)
    monkeypatch.setattr(gguf, "WORTHWHILE", 6 * 512 * len(gguf_fast.FORMS) + 1)
    used.clear()
    with open_source(path) as source:
        assert reconstruct_state(source).digest == expected
    assert not used


def test_the_types_worth_compiling_are_those_that_are_compiled():
    assert set(gguf.K_QUANTS) == set(gguf_fast.FORMS)
