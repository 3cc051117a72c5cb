"""Every GGUF block type beside ``gguf.quants`` and llama.cpp's C code, on what llama.cpp's own quantiser makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import numpy as np
import pytest
import torch
from crosscheck import llama_cpp
from ggml_blocks import SIZES, extreme_blocks, quantised_blocks, random_blocks
from ggml_quants import Ggml, build
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from oracles import OracleAbsentError

from ucaudit.packs.codecs.gguf_blocks import DECODERS, decode_blocks
from ucaudit.packs.codecs.gguf_header import BLOCK_FORMS

pytestmark = pytest.mark.oracle

NUMBERS = {name: number for number, (name, _, _) in BLOCK_FORMS.items()}
QUANTISED = [name for name in DECODERS if SIZES[name][0] > 1]
# A NVFP4 file carries a scale a tensor beside the blocks; this version of ggml-base decodes MXFP4 and NVFP4 alike.
TENSORS = 10


@pytest.fixture(scope="module")
def ggml(absent: Callable[[str], NoReturn]) -> Ggml:
    try:
        root = llama_cpp.source()
    except OracleAbsentError as error:
        absent(str(error))
    return Ggml(build(root, root / "ggml-base"))


@pytest.mark.parametrize("name", QUANTISED)
def test_what_llama_cpp_quantises(ggml: Ggml, name: str) -> None:
    elements = SIZES[name][0]
    for seed in range(TENSORS):
        rng = np.random.default_rng(seed)
        rows = int(rng.integers(1, 40)) * 2 - 1
        blocks = quantised_blocks(ggml, rng, NUMBERS[name], elements * int(rng.integers(1, 4)), rows)
        blocks = blocks.reshape(-1, SIZES[name][1])
        check(ggml, name, blocks)


@pytest.mark.parametrize("name", QUANTISED)
def test_random_and_extreme_blocks(ggml: Ggml, name: str) -> None:
    for seed in range(TENSORS):
        check(ggml, name, random_blocks(np.random.default_rng(seed), name, 2 * seed + 1))
    check(ggml, name, extreme_blocks(name))


def check(ggml: Ggml, name: str, blocks: np.ndarray) -> None:
    found = decode_blocks(name, torch.from_numpy(blocks.copy()))
    python = dequantize(blocks, GGMLQuantizationType[name])
    assert np.array_equal(found.numpy().view(np.uint32), python.view(np.uint32))
    code = ggml.dequantise(blocks.tobytes(), NUMBERS[name], found.shape)
    assert torch.equal(found.view(torch.int32), code.view(torch.int32)), name
