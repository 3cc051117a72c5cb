"""Which weight gets how many bits, where only their average is given: more where an error is felt more.

What is felt is the change of a layer's output, token by token, relative to the output itself: behind a decoder
layer comes a norm, for which only directions count. One layer after the other is loaded once; some calibration
text passes through it unchanged, and once for each of its units with that unit's weights rounded coarsely. An error
falls by four with every bit (high-resolution theory; Gersho & Gray 1992, ch. 5), so bits go one by one to the unit
where one more saves most for what it costs (Shoham & Gersho 1988).

A unit is a weight of a layer. One projection of all of a layer's experts is one unit, since what is known of each
expert rests on the few tokens that it sees.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import torch
from torch import nn

from ucaudit.core.errors import InputError, ModelError
from ucaudit.core.progress import Progress
from ucaudit.lab.compress_blocks import spans
from ucaudit.lab.compress_finite import require_finite_layer
from ucaudit.lab.compress_layer import choose_places
from ucaudit.lab.compress_layers import Place
from ucaudit.lab.compress_pass import Calls, enter, run_layer
from ucaudit.lab.compress_quantise import Grid, curved_levels, fit_scales, round_nearest, spread_scales
from ucaudit.lab.compress_tensors import TensorSettings
from ucaudit.packs.codecs.base import TensorSource
from ucaudit.packs.manifest import MAX_BITS, MIN_BITS

if TYPE_CHECKING:
    from ucaudit.models.streamed import StreamedModel

_COARSE: Final = 4
SEQUENCES: Final = 16
"""How many of the calibration sequences are used, from all parts of the text."""
_CHUNK: Final = 1 << 22
_NOT_FINITE: Final = "the layer's output is infinite or not a number"
_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class Unit:
    """Weights that get the same bits.

    Attributes:
        shapes: name in the checkpoint → rows and columns, and whether it is a stack of experts.
        error: mean square change of the layer's output, relative to the output, at four bits.
    """

    shapes: Mapping[str, tuple[int, int, bool]]
    error: float

    @property
    def elements(self) -> int:
        """How many weights."""
        return sum(rows * columns for rows, columns, _ in self.shapes.values())

    def stored_bits(self, settings: TensorSettings) -> float:
        """What they take on disk."""
        return sum(
            rows * columns * (settings.of_stack() if stacked else settings).bits_on_disk(rows, columns)
            for rows, columns, stacked in self.shapes.values()
        )


def find_units(
    model: StreamedModel, source: TensorSource, settings: TensorSettings, ids: torch.Tensor, progress: Progress
) -> list[Unit]:
    """Every unit of a model, layer by layer, with what coarse rounding of it does.

    Args:
        model: the uncompressed one.
        source: the checkpoint.
        settings: group and rank; its bits do not matter.
        ids: int64 [sequences, length], of the calibration text, in its order; some are used.
        progress: told about layers.

    Raises:
        ModelError: NaN or infinity in a weight, one of another dtype than BF16 or too large, or an output that is
            not finite.
    """
    hidden, calls = enter(model, ids[_evenly(len(ids))])
    found = list[Unit]()
    progress.start(model.count, "layers", "weighing")
    for index in range(model.count):
        model.prefetch(index + 1)
        with model.loaded(index) as layer:
            require_finite_layer(layer, source, model.names(index))
            _, chosen = choose_places(
                layer,
                model.targets(index),
                source,
                group=settings.group,
                config=model.model.config.get_text_config(),
                probe=(hidden[:1], calls[index].first),
            )
            after = run_layer(layer, hidden, calls[index])
            if not bool(after.isfinite().all()):
                raise ModelError(_NOT_FINITE, subject=f"{model.prefix}{index}")
            for members in _units(chosen):
                error = _felt(layer, members, settings.group, hidden, calls[index], after)
                shapes = {
                    place.name: (place.rows_of(layer).flatten(0, -2).shape[0], place.shape[-1], place.stacked)
                    for place in members
                }
                found.append(Unit(shapes, error))
            hidden = after
        progress.advance()
    progress.finish()
    return found


def share_bits(units: Sequence[Unit], settings: TensorSettings, budget: float) -> dict[str, int]:
    """Bits of every weight, so that all together take at most ``budget`` bits a weight on disk.

    Args:
        units: of :func:`find_units`.
        settings: group and rank.
        budget: bits a weight, with levels, scales and overlays.

    Raises:
        InputError: not even the fewest bits fit.
    """
    allowed = budget * sum(unit.elements for unit in units)
    bits = [MIN_BITS] * len(units)
    choices = [replace(settings, bits=count) for count in range(MIN_BITS, MAX_BITS + 1)]
    costs = [{choice.bits: unit.stored_bits(choice) for choice in choices} for unit in units]
    taken = sum(cost[MIN_BITS] for cost in costs)
    if taken > allowed:
        raise too_few(budget, taken / max(1, sum(unit.elements for unit in units)))
    while True:
        best, gain = None, 0.0
        for index, unit in enumerate(units):
            now = bits[index]
            more = costs[index][now + 1] - costs[index][now] if now < MAX_BITS else 0.0
            if now == MAX_BITS or taken + more > allowed:
                continue
            saved = unit.error * (4.0 ** (_COARSE - now) - 4.0 ** (_COARSE - now - 1)) / more
            if best is None or saved > gain:
                best, gain = index, saved
        if best is None:
            return {name: count for unit, count in zip(units, bits, strict=True) for name in unit.shapes}
        taken += costs[best][bits[best] + 1] - costs[best][bits[best]]
        bits[best] += 1


def too_few(budget: float, least: float, *, at_least: bool = False) -> InputError:
    """The refusal of a budget below what the fewest bits take, exactly or at least."""
    take = "take at least" if at_least else "take"
    return InputError(
        f"{budget:g} bits a weight are too few: {MIN_BITS}-bit codes with scales and overlays {take} {least:.2f}",
        hint="a larger --budget or --group, or a smaller --rank",
    )


def _evenly(count: int) -> torch.Tensor:
    """Which of ``count`` sequences are used: :data:`SEQUENCES` at equal distances, or all if no more."""
    used = min(SEQUENCES, count)
    return torch.arange(used) * count // used


def _units(chosen: Iterable[Place]) -> list[list[Place]]:
    """The places of each unit: the one of a weight, or those whose names differ in numbers between dots only."""
    units: dict[str, list[Place]] = {}
    for place in chosen:
        units.setdefault(_NUMBER.sub("#", place.name), []).append(place)
    return list(units.values())


@torch.no_grad()
def _felt(
    layer: nn.Module, members: Sequence[Place], group: int, hidden: torch.Tensor, calls: Calls, after: torch.Tensor
) -> float:
    """The mean over tokens of |change|² / |output|² with these weights rounded to four bits."""
    kept = []
    for place in members:
        rows = place.rows_of(layer)
        kept.append((rows, rows.clone()))
        _round(rows.flatten(0, -2), group)
    changed = run_layer(layer, hidden, calls)
    for rows, before in reversed(kept):
        rows.copy_(before)
    change = (changed - after).double().square().sum(-1)
    size = after.double().square().sum(-1).clamp_min(torch.finfo(torch.float32).tiny)
    felt = float((change / size).mean())
    if not math.isfinite(felt):
        raise ModelError(f"with this weight rounded {_NOT_FINITE}", subject=members[0].name)
    return felt


def _round(weight: torch.Tensor, group: int) -> None:
    """Round a weight [rows, columns] in place, some rows at a time."""
    grid, equal = Grid.of(curved_levels(_COARSE)), torch.ones(weight.shape[1])
    for span in spans(len(weight), max(1, _CHUNK // weight.shape[1])):
        rows = weight[span]
        scales = fit_scales(rows, equal, grid, group)
        codes = round_nearest(rows, scales, grid, group)
        rows.copy_(grid.values[codes.long()] * spread_scales(scales, group, weight.shape[1]))
