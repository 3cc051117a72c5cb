"""From the weights that read one input to what is stored for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import torch

from ucaudit.core.errors import ModelError
from ucaudit.lab.compress_blocks import each
from ucaudit.lab.compress_overlay import fit_overlay
from ucaudit.lab.compress_quantise import (
    DAMPING,
    Grid,
    Metric,
    fit_grid,
    fit_scales,
    make_metric,
    round_nearest,
    round_with_feedback,
    weighted_error,
)
from ucaudit.lab.compress_refine import refine
from ucaudit.packs.codecs.ucq_encode import EncodedTensor

METHOD: Final = "fitted levels, scale search, error feedback (GPTQ), closed-form int8 overlay, feedback again"
_FEW: Final = 64
"""With fewer positions than about a hundred times this, damping grows."""

METHOD_OF_TRAINING: Final = ", training of codes, scales and overlay"
METHOD_WITHOUT_TEXT: Final = "fitted levels, scale search, nearest rounding, closed-form int8 overlay"


@dataclass(frozen=True, slots=True)
class TensorSettings:
    """How one weight is stored.

    Attributes:
        bits: of one code, 2 to 8.
        group: columns that share a scale.
        rank: of the overlay; 0 for none.
    """

    bits: int = 5
    group: int = 64
    rank: int = 16

    def of_stack(self) -> TensorSettings:
        """For a tensor that holds several experts: no overlay, whose columns they would have to share."""
        return replace(self, rank=0)

    def bits_on_disk(self, rows: int, columns: int) -> float:
        """Bits a weight of a matrix of this size: codes with their padding, levels, scales, overlay."""
        codes = 8 * self.bits * rows * -(-columns // 8)
        scales = 16 * rows * -(-columns // self.group)
        factors = (8 * self.rank + 16) * (rows + columns) if self.rank else 0
        return (codes + scales + factors + (8 << self.bits)) / (rows * columns)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What weights are multiplied with on the calibration text.

    Attributes:
        moment: mean of xxᵀ, float32 [columns, columns].
        positions: how many x there were.
    """

    moment: torch.Tensor
    positions: int

    @property
    def damping(self) -> float:
        """Share of the mean diagonal that is added to the diagonal: more where little was seen."""
        return max(DAMPING, _FEW / (self.positions + _FEW))


def encode_weights(
    weights: Mapping[str, torch.Tensor],
    inputs: Inputs | None,
    settings: TensorSettings,
    *,
    grid: Grid | None = None,
) -> list[EncodedTensor]:
    """Compress weights that read the same input: they share the metric and the levels.

    With a rank, twice: codes, not refined, and an overlay fitted to what they miss; then codes of what the overlay
    leaves over. Of the two the one with the smaller error is kept, weight by weight.

    Args:
        weights: name in the checkpoint → float32 [out, in], all of one width.
        inputs: what they read; None if nothing is known.
        grid: the levels, if others share them; otherwise they are fitted.

    Raises:
        ModelError: a weight that is NaN or infinite.
    """
    for name, weight in weights.items():
        if not bool(weight.isfinite().all()):
            raise ModelError("NaN or infinity in a weight", subject=name)
    stack = torch.cat(list(weights.values()))
    if inputs is None:
        metric = make_metric(torch.eye(stack.shape[1]))
    else:
        metric = make_metric(inputs.moment, damping=inputs.damping)
    if grid is None:
        grid = fit_grid(stack, metric.importance, settings.bits, settings.group)
    feedback = inputs is not None
    plain = _round(weights, stack, grid, metric, settings, feedback=feedback, refined=not settings.rank)
    if not settings.rank:
        return plain

    def with_overlay(pair: tuple[EncodedTensor, torch.Tensor]) -> EncodedTensor:
        tensor, weight = pair
        return replace(tensor, overlay=fit_overlay(weight - tensor.decode().float(), metric.moment, settings.rank))

    first = each(with_overlay, zip(plain, weights.values(), strict=True))
    left = stack - torch.cat([tensor.overlay.decode() for tensor in first if tensor.overlay is not None])
    again = [
        replace(tensor, overlay=before.overlay)
        for tensor, before in zip(
            _round(weights, left, grid, metric, settings, feedback=feedback, refined=True), first, strict=True
        )
    ]
    return [
        min(pair, key=lambda tensor: weighted_error(weight - tensor.decode().float(), metric.moment))
        for pair, weight in zip(zip(first, again, strict=True), weights.values(), strict=True)
    ]


def _round(
    weights: Mapping[str, torch.Tensor],
    target: torch.Tensor,
    grid: Grid,
    metric: Metric,
    settings: TensorSettings,
    *,
    feedback: bool,
    refined: bool,
) -> list[EncodedTensor]:
    """Codes and scales of ``target``, the rows of all weights one after the other."""
    scales = fit_scales(target, metric.importance, grid, settings.group)
    if feedback:
        codes = round_with_feedback(target, scales, grid, settings.group, metric)
        if refined:
            codes, scales = refine(target, codes, scales, grid, settings.group, metric)
    else:
        codes = round_nearest(target, scales, grid, settings.group)
    sizes = [len(weight) for weight in weights.values()]
    return [
        EncodedTensor(name, tuple(weights[name].shape), settings.bits, settings.group, part, grid.levels, scale)
        for name, part, scale in zip(weights, torch.split(codes, sizes), torch.split(scales, sizes), strict=True)
    ]
