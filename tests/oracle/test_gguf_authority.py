"""Every GGUF block type beside ``gguf.quants`` and llama.cpp's C code, on what llama.cpp's own quantiser makes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import authorities
import gguf_families
import numpy as np
import pytest
import torch
from crosscheck import llama_cpp
from ggml_blocks import SIZES, extreme_blocks, quantised_blocks, random_blocks
from ggml_quants import Ggml, build
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from oracles import OracleAbsentError, smollm2
from transformers import AutoConfig, AutoModelForCausalLM

from ucaudit.packs.codecs import open_source
from ucaudit.packs.codecs.gguf_blocks import DECODERS, decode_blocks
from ucaudit.packs.codecs.gguf_header import BLOCK_FORMS
from ucaudit.packs.state import reconstruct_state

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


@pytest.mark.parametrize("family", gguf_families.FAMILIES)
def test_the_converter_and_back(family: str, tmp_path: Path, absent: Callable[[str], NoReturn]) -> None:
    """``convert_hf_to_gguf.py`` undone: the same tensors, and a configuration that gives the same logits."""
    try:
        root = llama_cpp.source()
    except OracleAbsentError as error:
        absent(str(error))
    checkpoint = gguf_families.save(family, tmp_path / "model")
    gguf_families.convert(root, checkpoint, tmp_path / "x.gguf", "bf16")
    with open_source(checkpoint) as original, open_source(tmp_path / "x.gguf") as source:
        assert reconstruct_state(source) == reconstruct_state(original)
        assert source.ties == original.ties
        config = AutoConfig.for_model(**source.config())
    wanted = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    found = AutoModelForCausalLM.from_pretrained(checkpoint, config=config, dtype=torch.float32)
    tokens = torch.arange(24).view(1, -1) % gguf_families.COMMON["vocab_size"]
    with torch.no_grad():
        assert torch.equal(wanted(tokens).logits, found(tokens).logits)


def test_smollm2_as_transformers_loads_it(
    oracle_env: Callable[..., Path], absent: Callable[[str], NoReturn]
) -> None:
    """A real pack that nobody here made: the same bfloat16 state, tensor by tensor."""
    try:
        path = smollm2()
    except OracleAbsentError as error:
        absent(str(error))
    python = oracle_env("hf-gguf", ["accelerate==1.15.0"], share=True) / "bin" / "python"
    script = Path(authorities.__file__).with_name("load_gguf.py")
    done = subprocess.run([python, script, path], capture_output=True, text=True, check=True, timeout=300)
    loaded = json.loads(done.stdout.splitlines()[-1])
    with open_source(path) as source:
        state = {entry.name: entry.digest for entry in reconstruct_state(source).entries}
        state |= {alias: state[stored] for alias, stored in source.ties}
    assert state == loaded and len(state) == 273
