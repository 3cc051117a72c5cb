"""ggml's blocks to float32, in plain torch: the profile's arithmetic, one elementwise operation at a time.

The layouts are those of ggml's ``ggml-common.h``, the order of operations that of ``gguf.quants`` (llama.cpp's own
Python package, whose results equal the C code's): a scale times its sub-scale, rounded; that times the code,
rounded; less the minimum, rounded. No two of these steps may be merged and none sums over elements, so the bits are
the same on every device, at every thread count and for every cut into chunks.

Codes are taken apart eight at a time, as 64-bit words: that is where the speed comes from.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

import torch

Blocks = torch.Tensor
"""uint8 [blocks, bytes of a block]."""

_IQ4: Final = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_E2M1_DOUBLED: Final = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
_ONES: Final = 0x0101010101010101
_DIAGONAL: Final = 0x8040201008040201 - (1 << 64)


def decode_blocks(kind: str, blocks: Blocks) -> torch.Tensor:
    """Blocks of one type → float32 [blocks, elements of a block].

    Args:
        kind: a key of :data:`DECODERS`.
        blocks: uint8 [blocks, bytes of a block], on any device.

    A scale that is infinite or not a number gives such values; they are the caller's to refuse.
    """
    return DECODERS[kind](blocks)


def _own(part: Blocks) -> Blocks:
    """A copy, so that its bytes may be read as wider words: a part of a single block counts as contiguous."""
    return part.clone(memory_format=torch.contiguous_format)


# --- bytes to words and codes -----------------------------------------------------------------------------------
def halves(part: Blocks) -> torch.Tensor:
    """Two bytes a value → float32 [blocks, values]."""
    return _own(part).view(torch.float16).to(torch.float32)


def _words(part: Blocks) -> torch.Tensor:
    """Eight bytes a word → int64 [blocks, words]."""
    return _own(part).view(torch.int64)


def _shifts(like: torch.Tensor, bits: int, count: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.arange(0, bits * count, bits, dtype=dtype, device=like.device)


def _fields(part: Blocks, bits: int, run: int) -> torch.Tensor:
    """Codes of ``bits`` bits, the lowest ones of a ``run`` of bytes first, then their next ones, and so on.

    Args:
        part: uint8 [blocks, bytes].
        bits: 1, 2 or 4.
        run: bytes, a multiple of 8.

    Returns:
        int64 [blocks, codes / 8], a code a byte.
    """
    count = 8 // bits
    lines = _words(part).view(1, -1, run // 8)
    rows = lines.shape[1]
    # All lines shifted alike are one pass without strides; whole lines are then put in their places.
    planes = torch.bitwise_right_shift(lines, _shifts(lines, bits, count).view(-1, 1, 1))
    planes = planes.bitwise_and_(_ONES * ((1 << bits) - 1)).view(-1, run // 8)
    return planes.index_select(0, _by_line(count, rows, part.device)).view(len(part), -1)


@functools.lru_cache(maxsize=8)
def _by_line(count: int, rows: int, device: torch.device) -> torch.Tensor:
    """Where, among ``count`` planes of ``rows`` lines, those of the first line lie, of the second, and so on."""
    return torch.arange(count * rows, device=device).view(count, rows).t().reshape(-1)


def _spread_bits(part: Blocks) -> torch.Tensor:
    """One bit an element, lowest first → int64 [blocks, bytes], a bit (0 or 1) a byte."""
    spread = part.to(torch.int64).mul_(_ONES).bitwise_and_(_DIAGONAL)
    return spread.add_(0x7F * _ONES).bitwise_right_shift_(7).bitwise_and_(_ONES)


def _unsigned(words: torch.Tensor, group: int) -> torch.Tensor:
    """A code a byte → float32 [blocks, groups, group]."""
    return words.view(torch.uint8).to(torch.float32).view(len(words), -1, group)


def _signed(words: torch.Tensor, offset: int, group: int) -> torch.Tensor:
    """As :func:`_unsigned`, less ``offset``. ``words`` is overwritten."""
    return words.view(torch.int8).sub_(offset).to(torch.float32).view(len(words), -1, group)


def _looked_up(words: torch.Tensor, values: tuple[int, ...], group: int) -> torch.Tensor:
    """The value of each four-bit code → float32 [blocks, groups, group]."""
    # Two codes at a time: a table of 256 pairs is read half as often as one of 16 values.
    folded = words.bitwise_or(words.bitwise_right_shift(4)).view(torch.uint8)[..., ::2].to(torch.int32)
    pairs = torch.tensor(
        [[values[code & 15], values[code >> 4]] for code in range(256)], dtype=torch.float32, device=words.device
    )
    return (
        pairs.view(torch.int64)
        .view(-1)
        .index_select(0, folded.reshape(-1))
        .view(torch.float32)
        .view(len(words), -1, group)
    )


# --- block types ------------------------------------------------------------------------------------------------
def _f32(blocks: Blocks) -> torch.Tensor:
    return blocks.contiguous().view(torch.float32)


def _bf16(blocks: Blocks) -> torch.Tensor:
    wide = _own(blocks).view(torch.int16).to(torch.int32).bitwise_left_shift_(16)
    return wide.view(torch.float32)


def _q4_0(blocks: Blocks) -> torch.Tensor:
    return _signed(_fields(blocks[:, 2:], 4, 16), 8, 32).mul_(halves(blocks[:, :2]).unsqueeze(2)).flatten(1)


def _q4_1(blocks: Blocks) -> torch.Tensor:
    ends = halves(blocks[:, :4]).unsqueeze(2)
    return _unsigned(_fields(blocks[:, 4:], 4, 16), 32).mul_(ends[:, :1]).add_(ends[:, 1:]).flatten(1)


def _q5_0(blocks: Blocks) -> torch.Tensor:
    codes = _spread_bits(blocks[:, 2:6]).bitwise_left_shift_(4).bitwise_or_(_fields(blocks[:, 6:], 4, 16))
    return _signed(codes, 16, 32).mul_(halves(blocks[:, :2]).unsqueeze(2)).flatten(1)


def _q5_1(blocks: Blocks) -> torch.Tensor:
    codes = _spread_bits(blocks[:, 4:8]).bitwise_left_shift_(4).bitwise_or_(_fields(blocks[:, 8:], 4, 16))
    ends = halves(blocks[:, :4]).unsqueeze(2)
    return _unsigned(codes, 32).mul_(ends[:, :1]).add_(ends[:, 1:]).flatten(1)


def _q8_0(blocks: Blocks) -> torch.Tensor:
    codes = _own(blocks[:, 2:]).view(torch.int8).to(torch.float32)
    return codes.mul_(halves(blocks[:, :2]))


def _q2_k(blocks: Blocks) -> torch.Tensor:
    packed, ends = _words(blocks[:, :16]), halves(blocks[:, 80:84]).unsqueeze(2)
    scales = _unsigned(packed & (15 * _ONES), 1).mul_(ends[:, :1])
    minima = _unsigned((packed >> 4) & (15 * _ONES), 1).mul_(ends[:, 1:])
    return _unsigned(_fields(blocks[:, 16:80], 2, 32), 16).mul_(scales).sub_(minima).flatten(1)


def _q3_k(blocks: Blocks) -> torch.Tensor:
    low = _fields(blocks[:, 96:104], 4, 8)
    high = _own(blocks[:, 104:108]).view(torch.int32)
    high = torch.bitwise_right_shift(high, _shifts(high, 2, 4, torch.int32)).bitwise_and_(0x03030303)
    scales = _signed(high.view(torch.int64).bitwise_left_shift(4).bitwise_or_(low), 32, 1)
    codes = _fields(blocks[:, :32], 1, 32).bitwise_left_shift_(2).bitwise_or_(_fields(blocks[:, 32:96], 2, 32))
    scales.mul_(halves(blocks[:, 108:]).unsqueeze(2))
    return _signed(codes, 4, 16).mul_(scales).flatten(1)


def _six_bit_scales(blocks: Blocks) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and minima of Q4_K and Q5_K, multiplied out: float32 [blocks, 8, 1] each."""
    first, second, rest = _own(blocks[:, 4:16]).view(torch.int32).unbind(1)
    packed = torch.stack(
        (
            first & 0x3F3F3F3F,
            (rest & 0x0F0F0F0F) | ((first >> 2) & 0x30303030),
            second & 0x3F3F3F3F,
            ((rest >> 4) & 0x0F0F0F0F) | ((second >> 2) & 0x30303030),
        ),
        dim=1,
    )
    # Scales and minima each without gaps: what all elements are multiplied with is read faster so.
    codes = packed.view(torch.uint8).view(-1, 2, 8).transpose(0, 1)
    both = codes.to(torch.float32, memory_format=torch.contiguous_format)
    scales, minima = both.mul_(halves(blocks[:, :4]).t().unsqueeze(2)).unsqueeze(3).unbind(0)
    return scales, minima


def _q4_k(blocks: Blocks) -> torch.Tensor:
    scales, minima = _six_bit_scales(blocks)
    return _unsigned(_fields(blocks[:, 16:], 4, 32), 32).mul_(scales).sub_(minima).flatten(1)


def _q5_k(blocks: Blocks) -> torch.Tensor:
    scales, minima = _six_bit_scales(blocks)
    codes = _fields(blocks[:, 16:48], 1, 32).bitwise_left_shift_(4).bitwise_or_(_fields(blocks[:, 48:], 4, 32))
    return _unsigned(codes, 32).mul_(scales).sub_(minima).flatten(1)


def _q6_k(blocks: Blocks) -> torch.Tensor:
    codes = _fields(blocks[:, 128:192], 2, 32).bitwise_left_shift_(4).bitwise_or_(_fields(blocks[:, :128], 4, 64))
    scales = _own(blocks[:, 192:208]).view(torch.int8).to(torch.float32)
    scales.mul_(halves(blocks[:, 208:]))
    return _signed(codes, 32, 16).mul_(scales.unsqueeze(2)).flatten(1)


def _iq4_nl(blocks: Blocks) -> torch.Tensor:
    values = _looked_up(_fields(blocks[:, 2:], 4, 16), _IQ4, 32)
    return values.mul_(halves(blocks[:, :2]).unsqueeze(2)).flatten(1)


def _iq4_xs(blocks: Blocks) -> torch.Tensor:
    high = _own(blocks[:, 2:4]).view(torch.int16).to(torch.int32)
    high = torch.bitwise_right_shift(high, _shifts(high, 2, 8, torch.int32)).bitwise_and_(3)
    pairs = blocks[:, 4:8].unsqueeze(2)
    low = torch.cat((pairs & 15, pairs >> 4), dim=2).view(-1, 8).to(torch.int32)
    scales = high.bitwise_left_shift_(4).bitwise_or_(low).sub_(32).to(torch.float32)
    scales.mul_(halves(blocks[:, :2]))
    return _looked_up(_fields(blocks[:, 8:], 4, 16), _IQ4, 32).mul_(scales.unsqueeze(2)).flatten(1)


def _mxfp4(blocks: Blocks) -> torch.Tensor:
    exponents = blocks[:, :1].to(torch.int32)
    # Half of 2^(e - 127), since the values of the table are doubled; the first two are subnormal.
    bits = torch.where(exponents < 2, 0x00200000 << exponents.clamp(max=1), (exponents - 1) << 23)
    values = _looked_up(_fields(blocks[:, 1:], 4, 16), _E2M1_DOUBLED, 32)
    return values.mul_(bits.view(torch.float32).unsqueeze(2)).flatten(1)


def _e4m3_halved(code: int) -> float:
    """Half of an unsigned E4M3 number as ggml reads it: the sign bit is ignored, 0x7F is zero."""
    exponent, mantissa = code >> 3 & 15, code & 7
    if code in (0, 0x7F):
        return 0.0
    return mantissa * 2.0**-10 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 8)


def _nvfp4(blocks: Blocks) -> torch.Tensor:
    table = torch.tensor([_e4m3_halved(code) for code in range(256)], dtype=torch.float32, device=blocks.device)
    scales = table.index_select(0, blocks[:, :4].reshape(-1).to(torch.int32)).view(-1, 4, 1)
    values = _looked_up(_fields(blocks[:, 4:], 4, 8), _E2M1_DOUBLED, 16)
    return values.mul_(scales).flatten(1)


DECODERS: Final[dict[str, Callable[[Blocks], torch.Tensor]]] = {
    "F32": _f32,
    "F16": halves,
    "BF16": _bf16,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
    "MXFP4": _mxfp4,
    "NVFP4": _nvfp4,
}
"""ggml type → decoder. The other types of :data:`ucaudit.packs.codecs.gguf_header.BLOCK_FORMS` go through gguf."""
