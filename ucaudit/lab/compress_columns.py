"""One block of columns, one column after the other: the innermost loops of error feedback and of descent.

Columns lie as rows of memory, so that a step works on contiguous rows; what the columns behind the block get of it
is a matrix product, and the caller's. Here is the plain code in torch, which is the specification, and the choice
between it and :mod:`ucaudit.lab.compress_columns_fast`, which gives the same bits. Neither fuses a multiplication
with an addition, so the bits do not depend on the processor either.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import torch

from ucaudit.packs.codecs import compiled

PLACES: Final = 512
"""How many places there are for a weight; see :class:`ucaudit.lab.compress_quantise.Grid`."""
ZERO: Final = 256.0
"""The place of zero."""
WORTHWHILE: Final = 1 << 22
"""Weights that were passed over in this process, from which on compiling pays: it takes about two seconds."""

_SAMPLE: Final = 64
_lock = threading.Lock()
_passed = 0
Block = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def feed_back(block: Block, factor: torch.Tensor, landings: torch.Tensor) -> None:
    """Choose the levels of a block's weights, each column's error handed on to the columns behind it.

    Args:
        block: float32 [columns, rows] each: what the weights should be, which is changed on the way; half of their
            scales; the reciprocals of these; filled in: the places of the chosen levels; and the errors, over the
            factor's diagonal element.
        factor: float32 [columns, columns], the block's part of the metric's factor.
        landings: of the grid.
    """
    _run("feed_back", feed_back_plain, block, factor.contiguous(), landings)


def descend(block: Block, moment: torch.Tensor, landings: torch.Tensor) -> None:
    """Move the weights of a block to better levels, each column's change taken into account by those behind it.

    Args:
        block: float32 [columns, rows] each: the places of the levels, which are changed; how fast the error falls
            with a weight, which is kept up to date on the way; how many places a unit of that is worth; half of the
            scales; filled in: how far the weights moved.
        moment: float32 [columns, columns], the block's part of the second moment, symmetric.
        landings: of the grid.
    """
    _run("descend", descend_plain, block, moment.contiguous(), landings)


def feed_back_plain(block: Block, factor: torch.Tensor, landings: torch.Tensor) -> None:
    """:func:`feed_back` in torch."""
    left = block[0]
    shares = factor.diagonal().reciprocal()
    for column, (wanted, half, finer, place, error) in enumerate(_columns(block)):
        _land(finer.mul(wanted).add_(ZERO), landings, place)
        torch.sub(wanted, place.sub(ZERO).mul_(half), out=error).mul_(shares[column])
        left[column + 1 :] -= factor[column, column + 1 :].unsqueeze(1) * error


def descend_plain(block: Block, moment: torch.Tensor, landings: torch.Tensor) -> None:
    """:func:`descend` in torch."""
    slope = block[1]
    best = torch.empty_like(slope[0])
    for column, (place, downhill, reach, half, moved) in enumerate(_columns(block)):
        _land(downhill.mul(reach).add_(place), landings, best)
        torch.sub(best, place, out=moved).mul_(half)
        place.copy_(best)
        slope[column + 1 :] -= moment[column, column + 1 :].unsqueeze(1) * moved


def _columns(block: Block) -> zip[tuple[torch.Tensor, ...]]:
    return zip(*(part.unbind() for part in block), strict=True)


def _land(places: torch.Tensor, landings: torch.Tensor, out: torch.Tensor) -> None:
    """The places of the levels nearest to places (which are overwritten); of the lowest, if one is not a number."""
    torch.index_select(landings, 0, places.nan_to_num_(0).clamp_(0, PLACES - 1).long(), out=out)


def _run(
    name: str,
    plain: Callable[[Block, torch.Tensor, torch.Tensor], None],
    block: Block,
    weights: torch.Tensor,
    landings: torch.Tensor,
) -> None:
    def fast(block: Block) -> None:
        from ucaudit.lab import compress_columns_fast

        arrays = [part.numpy() for part in (*block, weights, landings)]
        getattr(compress_columns_fast, name)(*arrays)

    def sure(block: Block) -> None:
        plain(block, weights, landings)

    def of_sample(work: Callable[[Block], None]) -> torch.Tensor:
        first, second, third, fourth, fifth = (part[:, :_SAMPLE].clone() for part in block)
        work((first, second, third, fourth, fifth))
        return torch.cat((first, second, third, fourth, fifth))

    if _worthwhile(block[0].numel()) and compiled.serves(
        f"columns, {name}", lambda: of_sample(fast), lambda: of_sample(sure)
    ):
        fast(block)
    else:
        plain(block, weights, landings)


def _worthwhile(weights: int) -> bool:
    global _passed  # noqa: PLW0603 - of the process, as what is compiled is
    with _lock:
        _passed += weights
        return _passed > WORTHWHILE
