"""The last step of every profile: float32 to the dtype of the checkpoint, to nearest even, subnormal numbers kept.

On the bit pattern, because some conversion instructions flush subnormal numbers to zero; and never to infinity: a
weight that no checkpoint can hold is an error that names its tensor, not a number.
"""

from __future__ import annotations

from typing import Final

import torch

from ucaudit.core.errors import MalformedPackError

# Magnitudes from here on round to infinity: halfway between the largest number and the next power of two.
_BF16_INFINITE: Final = 0x7F7F8000
_F16_INFINITE: Final = 0x477FF000
_F32_INFINITE: Final = 0x7F800000


def round_to(values: torch.Tensor, dtype: str) -> torch.Tensor:
    """Round float32 to ``BF16``, ``F16`` or ``F32`` (which rounds nothing and only checks).

    Raises:
        MalformedPackError: a value that is not finite, or would round to infinity.
    """
    if dtype == "BF16":
        return round_to_bf16(values)
    if dtype == "F16":
        _require_below(values, _F16_INFINITE, "float16")
        return values.to(torch.float16)
    _require_below(values, _F32_INFINITE, "float32")
    return values


def round_to_bf16(values: torch.Tensor) -> torch.Tensor:
    """Round float32 to bfloat16, to nearest even. ``values`` may be overwritten.

    Raises:
        MalformedPackError: a value that is not finite, or would round to infinity.
    """
    _require_below(values, _BF16_INFINITE, "bfloat16")
    bits = values.view(torch.int32)
    rounded = torch.bitwise_right_shift(bits, 16).bitwise_and_(1).add_(bits).add_(0x7FFF).bitwise_right_shift_(16)
    return rounded.to(torch.int16).view(torch.bfloat16)


def _require_below(values: torch.Tensor, limit: int, name: str) -> None:
    bits = values.view(torch.int32)
    if bits.numel() and int(bits.bitwise_and(0x7FFFFFFF).amax()) >= limit:
        raise MalformedPackError(f"a weight is too large for {name}, or not finite")
