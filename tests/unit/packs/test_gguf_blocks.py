"""ggml's blocks: the fixture vectors of every type, gguf's own decoder beside ours, and any cut into pieces."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ggml_blocks import SIZES, random_blocks
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from ucaudit.packs.codecs.gguf_blocks import DECODERS, decode_blocks

VECTORS = json.loads((Path(__file__).parents[3] / "fixtures/vectors/gguf/vectors.json").read_text())["cases"]
OURS = [case for case in VECTORS if case["type"] in DECODERS]


def decoded(name, blocks):
    return decode_blocks(name, torch.from_numpy(blocks)).numpy()


def test_there_are_vectors_of_every_type_and_origin():
    assert {case["type"] for case in VECTORS} == SIZES.keys() and DECODERS.keys() <= SIZES.keys()
    made = {name for name, (elements, _) in SIZES.items() if elements > 1}
    assert {case["type"] for case in VECTORS if case["origin"] == "llama.cpp"} == made


@pytest.mark.parametrize("case", OURS, ids=lambda case: f"{case['type']}-{case['origin']}")
def test_vectors(case):
    blocks = np.stack([np.frombuffer(bytes.fromhex(block), np.uint8) for block in case["blocks"]])
    values = decoded(case["type"], blocks)
    assert values[0, :4].tolist() == case["expect"]["first"]
    assert hashlib.sha256(values.tobytes()).hexdigest() == case["expect"]["sha256"]


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("count", [1, 7, 130])
def test_bits_of_the_authority(name, count):
    """Scales that are infinite or not a number are left in: their results must be so in the same places."""
    blocks = np.random.default_rng(count).integers(0, 256, (count, SIZES[name][1]), dtype=np.uint8)
    with np.errstate(all="ignore"):
        wanted = dequantize(blocks, GGMLQuantizationType[name])
    found = decoded(name, blocks)
    strange = np.isnan(wanted)
    assert np.array_equal(strange, np.isnan(found))
    assert np.array_equal(wanted.view(np.uint32)[~strange], found.view(np.uint32)[~strange])


@pytest.mark.parametrize("name", DECODERS)
def test_neither_the_cut_nor_the_threads_matter(name):
    blocks = random_blocks(np.random.default_rng(5), name, 64)
    whole = decoded(name, blocks)
    parts = np.concatenate([decoded(name, blocks[begin : begin + 5]) for begin in range(0, 64, 5)])
    assert whole.tobytes() == parts.tobytes()
    before = torch.get_num_threads()
    torch.set_num_threads(2 if before == 1 else 1)
    try:
        assert decoded(name, blocks).tobytes() == whole.tobytes()
    finally:
        torch.set_num_threads(before)
