"""The arithmetic profile ``ucq-f32-bf16/1`` in plain torch (docs/pack-format.md has the argument in full).

Why the bits cannot depend on the device, the thread count or the chunk size:

- a level minus a zero point is an integer of at most 8 bits and a sign, a scale has 11 significant bits: their
  product has at most 19 and is exact in float32;
- the overlay's matrix product sums integers whose partial sums stay below 2^24: exact in every order;
- everything else is one elementwise operation at a time, each rounded once, to nearest even;
- the last rounding, float32 to bfloat16, is done on the bit pattern in integer arithmetic.

So no operation here may be merged with another: no ``addcmul``, no ``alpha=``, no autocast, no compilation.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from numpy.typing import NDArray

from ucaudit.core.errors import DeviceUnavailableError, MalformedPackError
from ucaudit.packs.codecs.rounding import round_to_bf16
from ucaudit.packs.codecs.tensors import integer_matmul

if TYPE_CHECKING:
    from ucaudit.packs.codecs.ucq_parts import StoredRows

_PROBE_ELEMENTS: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Overlay:
    """The low-rank correction for some rows.

    Attributes:
        u: float32 [rows, rank], integers in −127…127.
        v: float32 [rank, columns], integers in −127…127.
        rows: float32 [rows, 1].
        cols: float32 [1, columns].
    """

    u: torch.Tensor
    v: torch.Tensor
    rows: torch.Tensor
    cols: torch.Tensor


def unpack_codes(packed: torch.Tensor, bits: int, columns: int) -> torch.Tensor:
    """Take a row's codes out of its little-endian bit stream.

    Args:
        packed: uint8 [rows, ceil(columns / 8) · bits]; element j has the bits [bits·j, bits·j + bits), least
            significant first.
        bits: 2 to 8.
        columns: codes a row.

    Returns:
        uint8 [rows, columns].

    Raises:
        MalformedPackError: a code behind the last column is not zero.
    """
    rows = packed.shape[0]
    if bits == 8:
        flat = packed
    else:
        # Eight codes are one 64-bit little-endian word; moving each to a byte of its own spreads them out.
        words = torch.zeros((packed.numel() // bits, 8), dtype=torch.uint8, device=packed.device)
        words[:, :bits] = packed.view(-1, bits)
        word = words.view(torch.int64)
        spread = torch.zeros_like(word)
        for index in range(8):
            code = torch.bitwise_and(word, ((1 << bits) - 1) << (bits * index))
            spread.bitwise_or_(code.bitwise_left_shift_((8 - bits) * index))
        flat = spread.view(torch.uint8).view(rows, -1)
    if columns < flat.shape[1] and bool(flat[:, columns:].any()):
        raise MalformedPackError("a padding code at the end of a row is not zero")
    return flat[:, :columns]


def integer_levels(codes: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Codes → float32 integers: ``levels[code]``.

    Args:
        codes: uint8 [rows, columns].
        levels: int8 [2^bits].
    """
    half = levels.numel() // 2
    uniform = torch.arange(-half, half, dtype=torch.int8, device=levels.device)
    if torch.equal(levels, uniform):
        return codes.to(torch.float32).sub_(float(half))
    return levels.to(torch.float32).index_select(0, codes.reshape(-1).to(torch.int32)).view(codes.shape)


def scale_groups(
    values: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None, group: int
) -> torch.Tensor:
    """``(value − zero) · scale`` in place, group by group along the rows. Every result is exact.

    Args:
        values: float32 [rows, columns], integers.
        scales: float32 [rows, ceil(columns / group)].
        zeros: float32, of the same shape, integers; or None.
        group: columns a scale; the last group may be shorter.
    """
    columns = values.shape[1]
    full = columns // group * group
    pieces = []
    if full:
        whole = slice(0, full // group)
        pieces.append((values[:, :full].unfold(1, group, group), whole))
    if full < columns:
        pieces.append((values[:, full:].unsqueeze(1), slice(full // group, None)))
    for view, part in pieces:
        if zeros is not None:
            view.sub_(zeros[:, part].unsqueeze(2))
        view.mul_(scales[:, part].unsqueeze(2))
    return values


def add_overlay(values: torch.Tensor, overlay: Overlay) -> torch.Tensor:
    """``fl(m + fl(fl(P · rows) · cols))`` in place, P = u·v exact. Four operations, three roundings.

    P is an integer and so has no negative zero, but a float32 product of −1 and 0 is −0, and whether a matrix
    product keeps that sign depends on how its first term is added. Adding +0 makes every zero +0.
    """
    correction = integer_matmul(overlay.u, overlay.v).add_(0.0)
    return _add_correction(values, correction, overlay.rows, overlay.cols)


def _add_correction(
    values: torch.Tensor, correction: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor
) -> torch.Tensor:
    correction.mul_(rows)
    correction.mul_(cols)
    return values.add_(correction)


def decode_rows(stored: StoredRows) -> torch.Tensor:
    """The profile ``ucq-f32-bf16/1``, step by step: bfloat16 [rows, columns], on the device that is asked for.

    Raises:
        MalformedPackError: a padding code that is not zero, or a weight that does not fit bfloat16.
    """

    def put(part: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(part).to(stored.device)

    codes = unpack_codes(put(stored.codes), stored.bits, stored.columns)
    scales = put(stored.scales).view(torch.float16).float()
    zeros = None if stored.zeros is None else put(stored.zeros).float()
    weights = scale_groups(integer_levels(codes, put(stored.levels)), scales, zeros, stored.group)
    if stored.overlay is not None:
        v, cols = stored.overlay.shared.floats
        rows = put(stored.overlay.rows).view(torch.bfloat16).float().unsqueeze(1)
        weights = add_overlay(weights, Overlay(put(stored.overlay.u).float(), v, rows, cols))
    return round_to_bf16(weights)


# Columns: exact product m, overlay integer P, row and column factor, the bfloat16 pattern that must come out.
# Computed with exact fractions (tests/unit/packs/test_ucq_math.py does so again).
_PROBES: Final[tuple[tuple[float, float, float, float, int], ...]] = (
    # m cancels fl(fl(P·row)·col): a fused multiply-add would leave the rounding error of the product
    (-116.0 * 60992.0, 4334849.0, 1.4609375, 1.1171875, 0x4158),
    (0.0, 16774160.0, 1.9921875, 1.9921875, 0x4C7E),
    # a subnormal float32 result, and one that rounds to a subnormal bfloat16
    (0.0, 3.0, 2.0**-100, 2.0**-30, 0x0018),
    (2.0**-133, -1.0, 2.0**-70, 2.0**-65, 0x0001),
    # halfway cases of the last rounding: to even, both ways
    (257.0, 0.0, 1.0, 1.0, 0x4380),
    (259.0, 0.0, 1.0, 1.0, 0x4382),
    (-257.0, -1.0, 2.0**-14, 1.0, 0xC381),
)
_probed: set[tuple[str, int]] = set()
_PROBE_LOCK: Final = threading.Lock()


def keep_subnormals() -> None:
    """Switch flush-to-zero off in this thread, where a host program may have switched it on."""
    torch.set_flush_denormal(False)


def require_ieee(device: torch.device) -> None:
    """Check once a device (and thread count) that its float32 arithmetic is what the profile needs.

    Known answers are computed on an array large enough for every worker thread to take part: a host program
    may have switched flush-to-zero on, or a backend may fuse operations.

    Raises:
        DeviceUnavailableError: the device gives other bits.
    """
    keep_subnormals()
    key = (str(device), torch.get_num_threads())
    with _PROBE_LOCK:
        if key in _probed:
            return
        count = _PROBE_ELEMENTS // len(_PROBES)
        columns = [
            torch.tensor([probe[index] for probe in _PROBES], dtype=torch.float32, device=device).repeat(count)
            for index in range(4)
        ]
        found = round_to_bf16(_add_correction(*columns)).view(torch.int16).to(torch.int32).bitwise_and_(0xFFFF)
        expected = torch.tensor([probe[4] for probe in _PROBES], dtype=torch.int32, device=device).repeat(count)
        if not torch.equal(found, expected):
            wrong = int((found != expected).nonzero()[0]) % len(_PROBES)
            raise DeviceUnavailableError(
                f"float32 arithmetic on {device} is not IEEE: known answer {wrong} should be "
                f"{int(expected[wrong]):#06x}, found {int(found[wrong]):#06x}",
                hint="switch off flush-to-zero and compiler fusion in the program that hosts ucaudit",
            )
        _probed.add(key)
