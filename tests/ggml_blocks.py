"""Blocks of ggml's types to decode: random bytes, extreme scales, and what llama.cpp's quantiser makes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ucaudit.packs.codecs.gguf_header import BLOCK_FORMS

SIZES = {name: (elements, size) for name, elements, size in BLOCK_FORMS.values()}
HALVES = {
    "F16": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82),
    "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ2_XXS": (0,), "IQ2_XS": (0,),
    "IQ3_XXS": (0,),
    "IQ1_S": (0,), "IQ4_NL": (0,), "IQ3_S": (0,), "IQ2_S": (0,), "IQ4_XS": (0,), "TQ1_0": (52,), "TQ2_0": (64,),
}  # fmt: skip
"""Where a block's half-precision scales lie."""
EXTREME = np.array([0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0x7BFF, 0xFBFF], dtype="<u2")
"""Zeros, subnormal numbers, one, and the largest."""


def random_blocks(rng: np.random.Generator, name: str, count: int) -> np.ndarray:
    """Random bytes with finite scales: uint8 [count, bytes of a block]."""
    blocks = rng.integers(0, 256, (count, SIZES[name][1]), dtype=np.uint8)
    return finite(name, blocks)


def finite(name: str, blocks: np.ndarray) -> np.ndarray:
    """Clear a bit of the exponent of every scale."""
    for place in HALVES.get(name, ()):
        blocks[:, place + 1] &= 0xBF
    if name == "IQ1_M":  # its scale lies in the top four bits of four words
        blocks[:, 55] &= 0xBF
    if name in ("F32", "BF16"):
        blocks[:, -1] &= 0xBF
    return blocks


def extreme_blocks(name: str) -> np.ndarray:
    """All codes zero and all codes one, under every extreme scale: uint8 [18, bytes of a block]."""
    size = SIZES[name][1]
    blocks = np.concatenate([np.zeros((9, size), np.uint8), np.full((9, size), 0xFF, np.uint8)])
    scales = np.concatenate([EXTREME, EXTREME]).view(np.uint8).reshape(-1, 2)
    for place in HALVES.get(name, ()):
        blocks[:, place : place + 2] = scales
    if name == "MXFP4":
        blocks[:, 0] = [0, 1, 2, 126, 127, 128, 250, 251, 252] * 2
    return finite(name, blocks) if name in ("IQ1_M", "F32", "BF16") else blocks


def quantised_blocks(ggml: Any, rng: np.random.Generator, number: int, elements: int, rows: int) -> np.ndarray:
    """What llama.cpp's quantiser makes of normal numbers: uint8 [rows, bytes of a block]."""
    import torch

    weight = torch.from_numpy(rng.normal(size=(rows, elements)).astype(np.float32))
    mass = torch.from_numpy(rng.uniform(0.5, 2.0, elements).astype(np.float32))
    stored = ggml.quantise(weight, number, mass)
    return np.frombuffer(stored, np.uint8).reshape(rows, -1).copy()
