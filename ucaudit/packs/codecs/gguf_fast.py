"""ggml's K-quants compiled: the arithmetic of :mod:`ucaudit.packs.codecs.gguf_blocks`, block by block (numba, CPU).

Codes are taken apart eight at a time, as 64-bit words, a batch of blocks that stays in the processor's cache; then
``(code - offset) · scale``, rounded, ``- minimum``, rounded, as there. :mod:`ucaudit.packs.codecs.compiled` says
why the bits are the same and when this serves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from ucaudit.packs.codecs import compiled, gguf_blocks

_ONES: Final = 0x0101010101010101
_FIRST_BLOCKS: Final = 64
_LINES: Final = 8
_ELEMENTS: Final = 256
_BATCH: Final = 1024


Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


# --- scales: blocks and their one or two float16 numbers, as float32 → scales and minima [blocks, groups] ---------
@numba.njit(**compiled.KERNEL)  # type: ignore[untyped-decorator,unused-ignore]
def _scales_2(blocks: Bytes, ends: Floats, scales: Floats, minima: Floats) -> None:
    for block in range(blocks.shape[0]):
        for group in range(16):
            both = blocks[block, group]
            scales[block, group] = np.float32(both & 15) * ends[block, 0]
            minima[block, group] = np.float32(both >> 4) * ends[block, 1]


@numba.njit(**compiled.KERNEL)  # type: ignore[untyped-decorator,unused-ignore]
def _scales_3(blocks: Bytes, ends: Floats, scales: Floats, _: Floats) -> None:
    for block in range(blocks.shape[0]):
        for group in range(16):
            low = blocks[block, 96 + group % 8] >> group // 8 * 4 & 15
            high = blocks[block, 104 + group % 4] >> group // 4 * 2 & 3
            scales[block, group] = (np.float32(high << 4 | low) - np.float32(32)) * ends[block, 0]


@numba.njit(**compiled.KERNEL)  # type: ignore[untyped-decorator,unused-ignore]
def _scales_4(blocks: Bytes, ends: Floats, scales: Floats, minima: Floats) -> None:
    for block in range(blocks.shape[0]):
        for group in range(4):
            first, second, rest = blocks[block, 4 + group], blocks[block, 8 + group], blocks[block, 12 + group]
            scales[block, group] = np.float32(first & 63) * ends[block, 0]
            scales[block, group + 4] = np.float32(first >> 6 << 4 | rest & 15) * ends[block, 0]
            minima[block, group] = np.float32(second & 63) * ends[block, 1]
            minima[block, group + 4] = np.float32(second >> 6 << 4 | rest >> 4) * ends[block, 1]


@numba.njit(**compiled.KERNEL)  # type: ignore[untyped-decorator,unused-ignore]
def _scales_6(blocks: Bytes, ends: Floats, scales: Floats, _: Floats) -> None:
    for block in range(blocks.shape[0]):
        for group in range(16):
            scales[block, group] = np.float32(np.int8(blocks[block, 192 + group])) * ends[block, 0]


@dataclass(frozen=True, slots=True)
class _Form:
    """Where a block's scales and the codes of its eight lines of 32 elements lie.

    Attributes:
        scales: computes scales and minima.
        ends: first byte of the float16 scale, and of the float16 minimum behind it.
        group: elements that share a scale.
        minima: whether there are any.
        low: first byte and shift of each line's lower bits.
        low_bits: how many there are.
        high: the same of the upper bits.
        high_bits: how many; 0 for none.
        offset: what is taken off each code.
    """

    scales: Callable[[Bytes, Floats, Floats, Floats], None]
    ends: int
    group: int
    minima: bool
    low: tuple[tuple[int, int], ...]
    low_bits: int
    high: tuple[tuple[int, int], ...] = ((0, 0),) * _LINES
    high_bits: int = 0
    offset: int = 0

    def places(self) -> NDArray[np.int64]:
        """int64 [8, 4]: word and shift of the lower bits, word and shift of the upper ones."""
        return np.array(
            [
                (low // 8, down, high // 8, also)
                for (low, down), (high, also) in zip(self.low, self.high, strict=True)
            ],
            np.int64,
        )


def _runs(first: int, bits: int, run: int = 32) -> tuple[tuple[int, int], ...]:
    """Eight lines from a run of bytes: its lowest bits, its next ones and so on, then the next run's."""
    count = 8 // bits
    per = run // 32
    return tuple(
        (first + line // (count * per) * run + line % per * 32, line // per % count * bits)
        for line in range(_LINES)
    )


FORMS: Final[dict[str, _Form]] = {
    "Q2_K": _Form(_scales_2, 80, 16, True, _runs(16, 2), 2),
    "Q3_K": _Form(_scales_3, 108, 16, False, _runs(32, 2), 2, _runs(0, 1), 1, 4),
    "Q4_K": _Form(_scales_4, 0, 32, True, _runs(16, 4), 4),
    "Q5_K": _Form(_scales_4, 0, 32, True, _runs(48, 4), 4, _runs(16, 1), 1),
    "Q6_K": _Form(_scales_6, 208, 16, False, _runs(0, 4, 64), 4, _runs(128, 2), 2, 32),
}
"""ggml type → where things lie in its blocks."""


def decode_blocks(kind: str, blocks: torch.Tensor) -> torch.Tensor:
    """As :func:`ucaudit.packs.codecs.gguf_blocks.decode_blocks`, for blocks on the CPU."""
    serves = kind in FORMS and compiled.serves(
        f"gguf {kind}",
        lambda: decode_compiled(kind, blocks[:_FIRST_BLOCKS]),
        lambda: gguf_blocks.decode_blocks(kind, blocks[:_FIRST_BLOCKS]),
    )
    return decode_compiled(kind, blocks) if serves else gguf_blocks.decode_blocks(kind, blocks)


def decode_compiled(kind: str, blocks: torch.Tensor) -> torch.Tensor:
    """The compiled decoder itself; ``kind`` is a key of :data:`FORMS`."""
    form = FORMS[kind]
    width = 4 if form.minima else 2
    ends = gguf_blocks.halves(blocks[:, form.ends : form.ends + width]).numpy()
    stored, count = blocks.contiguous().numpy(), len(blocks)
    scales = np.empty((count, _ELEMENTS // form.group), np.float32)
    minima = np.empty((count, scales.shape[1] if form.minima else 0), np.float32)
    form.scales(stored, ends, scales, minima)
    codes = np.empty((min(_BATCH, count), _ELEMENTS), np.uint8)
    stage = np.zeros(-(-stored.shape[1] // 8) * 8, np.uint8)
    masks = [np.uint64(_ONES * ((1 << bits) - 1)) for bits in (form.low_bits, form.high_bits)]
    places, low_bits, offset = form.places(), np.uint64(form.low_bits), np.float32(form.offset)
    out = np.empty((count, _ELEMENTS), np.float32)
    for begin in range(0, count, _BATCH):
        end = min(begin + _BATCH, count)
        part = codes[: end - begin]
        _unpack(stored[begin:end], places, *masks, low_bits, stage, part.view(np.uint64))
        _scale(part, offset, scales[begin:end], minima[begin:end], out[begin:end])
    return torch.from_numpy(out)


@numba.njit(**compiled.KERNEL)  # type: ignore[untyped-decorator,unused-ignore]
def _unpack(
    blocks: Bytes,
    places: NDArray[np.int64],
    low_mask: int,
    high_mask: int,
    low_bits: int,
    stage: Bytes,
    out: NDArray[np.uint64],
) -> None:
    """Blocks → uint64 [blocks, 32], a code a byte. ``stage`` has room for one block, in whole words."""
    size = blocks.shape[1]
    words = stage.view(np.uint64)
    for block in range(blocks.shape[0]):
        for byte in range(size):
            stage[byte] = blocks[block, byte]
        for line in range(places.shape[0]):
            low, high = places[line, 0], places[line, 2]
            down, also = np.uint64(places[line, 1]), np.uint64(places[line, 3])
            for word in range(4):
                code = (words[low + word] >> down) & low_mask
                out[block, 4 * line + word] = code | (((words[high + word] >> also) & high_mask) << low_bits)


@numba.njit(**compiled.KERNEL)  # type: ignore[untyped-decorator,unused-ignore]
def _scale(
    codes: Bytes,
    offset: float,
    scales: Floats,
    minima: Floats,
    out: Floats,
) -> None:
    """``(code - offset) · scale - minimum``; scales and minima are [blocks, groups]."""
    groups = scales.shape[1]
    run = codes.shape[1] // groups
    for block in range(codes.shape[0]):
        source, values = codes[block], out[block]
        for index in range(codes.shape[1]):  # one long loop, for the conversion; groups of 16 are too short
            values[index] = np.float32(source[index]) - offset
        for group in range(groups):
            scale = scales[block, group]
            part = values[group * run : group * run + run]
            if minima.shape[1]:
                minimum = minima[block, group]
                for index in range(run):
                    part[index] = part[index] * scale - minimum
            else:
                for index in range(run):
                    part[index] = part[index] * scale
