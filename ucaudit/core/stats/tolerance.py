"""How far computing on other hardware may move ln ratio: what every verdict allows for."""

from __future__ import annotations

import math
from typing import Final

FP32_TOLERANCE: Final = 1e-5
BF16_TOKEN_NOISE: Final = 0.065
"""Nats per token between two bf16 implementations of one model, measured; see docs/measuring-runs.md."""


def numerical_tolerance(dtype: str, tokens: int) -> float:
    """The tolerance on ln ratio, nats.

    Args:
        dtype: of the computation, ``fp32`` or ``bf16``.
        tokens: scored tokens in all windows, at least 1.

    Returns:
        1e-5 in fp32; 3 · 0.065 / sqrt(tokens) in anything coarser, three standard errors of the mean of per-token
        noise.
    """
    return FP32_TOLERANCE if dtype == "fp32" else 3 * BF16_TOKEN_NOISE / math.sqrt(tokens)
