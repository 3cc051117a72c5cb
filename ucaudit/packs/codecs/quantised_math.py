"""Codes, zero points and scales of quantised checkpoints, in plain torch.

Every weight is one product ``(code − zero) · scale``, formed in float32 and rounded once at the end. A code of
at most 8 bits less a zero point is an integer of 9 bits, a float16 or bfloat16 scale has 11 or 8: the product
is exact, so that a decoder which multiplies in the scale's own precision gets the same bits. With float32
scales the product is rounded, once, as theirs is. Nothing is summed: the bits are the same on every device and
for every cut into pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch

from ucaudit.core.errors import MalformedPackError
from ucaudit.packs.codecs.ucq_math import scale_groups, unpack_codes

PLANES: Final = {
    2: ((2, 0),),
    3: ((2, 0), (1, 2)),
    4: ((4, 0),),
    5: ((4, 0), (1, 4)),
    6: ((4, 0), (2, 4)),
    7: ((4, 0), (2, 4), (1, 6)),
    8: ((8, 0),),
}
"""Bits of a code → the planes it is stored in: (width, lowest bit)."""
E2M1: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


def to_float32(values: torch.Tensor) -> torch.Tensor:
    """Any stored float dtype → float32, exactly; bfloat16 by its bits, which keeps subnormal numbers everywhere."""
    if values.dtype == torch.bfloat16:
        return values.view(torch.int16).to(torch.int32).bitwise_left_shift_(16).view(torch.float32)
    return values.to(torch.float32)


def _as_bytes(words: torch.Tensor) -> torch.Tensor:
    """int32 [rows, words] → uint8 [rows, 4 · words]."""
    if words.shape[1] == 1:  # such a tensor counts as contiguous whatever its strides are
        words = words.clone(memory_format=torch.contiguous_format)
    return words.contiguous().view(torch.uint8).view(len(words), -1)


def unpack_words(words: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Codes of one dense little-endian bit stream a row.

    Args:
        words: int32 [rows, at least ceil(count · bits / 32)].
        bits: 1 to 8.
        count: codes a row.

    Returns:
        uint8 [rows, count].

    Raises:
        MalformedPackError: bits behind the last code are set.
    """
    stream = _as_bytes(words)
    needed = -(-count // 8) * bits
    if stream.shape[1] < needed:
        stream = torch.nn.functional.pad(stream, (0, needed - stream.shape[1]))
    elif bool(stream[:, needed:].any()):
        raise MalformedPackError("bits behind the last code of a row are set")
    return unpack_codes(stream[:, :needed].contiguous(), bits, count)


def centred_codes(words: torch.Tensor, bits: int, count: int, offset: int) -> torch.Tensor:
    """As :func:`unpack_words`, less ``offset``, in float32: what most layouts go on with."""
    if bits != 4:
        return unpack_words(words, bits, count).to(torch.float32).sub_(float(offset))
    stream = _as_bytes(words)
    if (count % 2 and bool((stream[:, count // 2] >> 4).any())) or bool(stream[:, -(-count // 2) :].any()):
        raise MalformedPackError("a padding code at the end of a row is not zero")
    table = torch.arange(16, dtype=torch.float32, device=words.device).sub_(float(offset))
    values = look_up_pairs(stream, table)
    return values if count == values.shape[1] else values[:, :count].contiguous()


def unpack_planes(words: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """As :func:`unpack_words` for codes cut into planes, 32 codes at a time (GPTQModel's ``gptq_p``)."""
    blocks = words.view(len(words), -1, bits)
    result = torch.zeros((len(words), blocks.shape[1] * 32), dtype=torch.uint8, device=words.device)
    row = 0
    for width, lowest in PLANES[bits]:
        plane = blocks[:, :, row : row + width].reshape(len(words), -1)
        result.bitwise_or_(unpack_words(plane, width, result.shape[1]).bitwise_left_shift(lowest))
        row += width
    if count < result.shape[1] and bool(result[:, count:].any()):
        raise MalformedPackError("bits behind the last code of a row are set")
    return result[:, :count]


def scale_rows(
    values: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None, group: int, index: torch.Tensor | None
) -> torch.Tensor:
    """``(value − zero) · scale`` in place.

    Args:
        values: float32 [rows, columns], integers or numbers of few bits.
        scales: float32 [rows, groups].
        zeros: float32 [rows, groups], integers; or None.
        group: columns a group, where the groups follow one another.
        index: int64 [columns], the group of each column; or None.
    """
    if index is None:
        return scale_groups(values, scales, zeros, group)
    if zeros is not None:
        values.sub_(zeros.index_select(1, index))
    return values.mul_(scales.index_select(1, index))


def group_index(stored: torch.Tensor, groups: int, group: int, name: str) -> torch.Tensor | None:
    """A ``g_idx``: the group of each column; None where the groups simply follow one another.

    Raises:
        MalformedPackError: a group that does not exist.
    """
    index = stored.to(torch.int64)
    if index.numel() and (int(index.amin()) < 0 or int(index.amax()) >= groups):
        wrong = int(((index < 0) | (index >= groups)).nonzero()[0])
        raise MalformedPackError(
            f"{name!r}: column {wrong} is in group {int(index[wrong])}, the groups are 0 to {groups - 1}"
        )
    plain = torch.arange(index.numel(), device=index.device) // max(1, group)
    return None if torch.equal(index, plain) else index


def nibbles(packed: torch.Tensor, *, high_first: bool = False) -> torch.Tensor:
    """Two codes a byte → uint8 with a last axis of twice the size."""
    low, high = packed & 15, packed >> 4
    return torch.stack((high, low) if high_first else (low, high), dim=-1).flatten(-2)


def look_up(codes: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """``table[code]`` of the shape of ``codes``."""
    return table.index_select(0, codes.reshape(-1).to(torch.int32)).view(codes.shape)


def look_up_pairs(packed: torch.Tensor, table: torch.Tensor, *, high_first: bool = False) -> torch.Tensor:
    """As :func:`look_up` of :func:`nibbles`, a byte at a time.

    Args:
        packed: uint8 [..., bytes].
        table: float32 [16].
        high_first: whether the first of a byte's codes is in its upper half.
    """
    codes = torch.arange(256, device=packed.device)
    low, high = table[codes & 15], table[codes >> 4]
    pairs = torch.stack((high, low) if high_first else (low, high), dim=1).contiguous().view(torch.int64).view(-1)
    found = pairs.index_select(0, packed.reshape(-1).to(torch.int32))
    return found.view(torch.float32).view(*packed.shape[:-1], packed.shape[-1] * 2)


def powers_of_two(exponents: torch.Tensor) -> torch.Tensor:
    """E8M0 scales → float32 2^(e − 127). Raises MalformedPackError for 255, which is not a number."""
    wide = exponents.view(torch.uint8).to(torch.int32)
    if bool((wide == 255).any()):
        raise MalformedPackError("a scale is not a number (exponent 255)")
    return torch.where(wide == 0, 0x00400000, wide << 23).view(torch.float32)


def spans(rows: int, columns: int, elements: int, unit: int = 1) -> Iterator[tuple[int, int]]:
    """Row ranges of about ``elements`` elements, begun at multiples of ``unit``."""
    step = max(1, elements // max(1, columns * unit)) * unit
    for begin in range(0, rows, step):
        yield begin, min(begin + step, rows)
