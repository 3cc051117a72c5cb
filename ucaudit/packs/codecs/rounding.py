"""The last step of every profile: float32 to the dtype of the checkpoint, to nearest even, subnormal numbers kept.

On the bit pattern where the device's own conversion flushes subnormal numbers to zero, as some do; and never to
infinity: a weight that no checkpoint can hold is an error that names its tensor, not a number.
"""

from __future__ import annotations

import functools
from typing import Final

import torch

from ucaudit.core.errors import MalformedPackError

# Magnitudes from here on round to infinity: halfway between the largest number and the next power of two.
_BF16_INFINITE: Final = 0x7F7F8000
_F16_INFINITE: Final = 0x477FF000
_F32_INFINITE: Final = 0x7F800000
_BF16_NOT_FINITE: Final = 0x7F80


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
    if _converts_exactly(values.device):
        result = values.to(torch.bfloat16)
        bits = result.view(torch.int16)
        if bits.numel() and int(bits.bitwise_and(0x7FFF).amax()) >= _BF16_NOT_FINITE:
            raise MalformedPackError("a weight is too large for bfloat16, or not finite")
        return result
    return _rounded_on_the_bits(values)


def _rounded_on_the_bits(values: torch.Tensor) -> torch.Tensor:
    _require_below(values, _BF16_INFINITE, "bfloat16")
    bits = values.view(torch.int32)
    rounded = torch.bitwise_right_shift(bits, 16).bitwise_and_(1).add_(bits).add_(0x7FFF).bitwise_right_shift_(16)
    return rounded.to(torch.int16).view(torch.bfloat16)


@functools.cache
def _converts_exactly(device: torch.device) -> bool:
    """Whether the device's own conversion, which takes one pass, gives the bits of the integer arithmetic.

    Asked once a device, with both signs of numbers of every exponent, subnormal ones above all, on both sides of
    and at the halfway points. The odd length takes in what a vectorised loop does with its remainder.
    """
    upper = torch.arange(0, 0x7F7F, 1, dtype=torch.int32).bitwise_left_shift_(16)
    lower = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=torch.int32)
    positive = (upper.unsqueeze(1) | lower).view(-1)
    both = torch.cat((positive, positive | -0x80000000, positive[:7])).to(device).view(torch.float32)
    return torch.equal(both.to(torch.bfloat16).view(torch.int16), _rounded_on_the_bits(both).view(torch.int16))


def _require_below(values: torch.Tensor, limit: int, name: str) -> None:
    bits = values.view(torch.int32)
    if bits.numel() and int(bits.bitwise_and(0x7FFFFFFF).amax()) >= limit:
        raise MalformedPackError(f"a weight is too large for {name}, or not finite")
