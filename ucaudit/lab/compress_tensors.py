"""From the weights that read one input to what is stored for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import torch

from ucaudit.core.errors import InputError, ModelError
from ucaudit.lab.compress_blocks import both, each
from ucaudit.lab.compress_finite import require_finite
from ucaudit.lab.compress_overlay import fit_overlay
from ucaudit.lab.compress_quantise import (
    DAMPING,
    LARGEST_WEIGHT,
    Grid,
    Metric,
    damp,
    factorise,
    fit_grid,
    fit_scales,
    round_nearest,
    round_with_feedback,
    share_of_small_groups,
)
from ucaudit.lab.compress_refine import refine
from ucaudit.packs.codecs.ucq_encode import EncodedOverlay, EncodedTensor
from ucaudit.packs.manifest import MAX_BITS, MAX_RANK, MIN_BITS

REVISION: Final = 5
"""Of the encoder: grows with every change that gives other packs, so that no run of an older one is taken up."""
METHOD: Final = "fitted levels, scale search, error feedback (GPTQ), closed-form int8 overlay, refinement"
_FEW: Final = 64
"""With fewer positions than about a hundred times this, damping grows."""

_MOST_IN_SMALL_GROUPS: Final = 0.01
"""Of a weight's sum of squares. A few dead groups among others are nothing that the product would miss."""

METHOD_OF_TRAINING: Final = ", training of codes, scales and overlay"
METHOD_WITHOUT_TEXT: Final = "fitted levels, scale search, nearest rounding, int8 overlay and its refinement"


@dataclass(frozen=True, slots=True)
class TensorSettings:
    """How one weight is stored.

    Attributes:
        bits: of one code, 2 to 8.
        group: columns that share a scale.
        rank: of the overlay; 0 for none. A weight with a shorter side gets that instead: more would be zeros.

    Raises:
        InputError: beyond what the format holds.
    """

    bits: int = 5
    group: int = 64
    rank: int = 16

    def __post_init__(self) -> None:
        for name, least, most in (("bits", MIN_BITS, MAX_BITS), ("group", 1, 1 << 30), ("rank", 0, MAX_RANK)):
            if not least <= getattr(self, name) <= most:
                raise InputError(f"{getattr(self, name)} is not from {least} to {most}", subject=name)

    def of_stack(self) -> TensorSettings:
        """For a tensor that holds several experts: no overlay, whose columns they would have to share."""
        return replace(self, rank=0)

    def bits_on_disk(self, rows: int, columns: int) -> float:
        """Bits a weight of a matrix of this size: codes with their padding, levels, scales, overlay."""
        codes = 8 * self.bits * rows * -(-columns // 8)
        scales = 16 * rows * -(-columns // self.group)
        rank = min(self.rank, rows, columns)
        factors = (8 * rank + 16) * (rows + columns) if rank else 0
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


def require_storable(weight: torch.Tensor, name: str) -> None:
    """Raises ModelError if a weight is NaN, infinite, or beyond what a level times a float16 scale can be."""
    require_finite(weight, name)
    largest = max(map(abs, map(float, weight.aminmax()))) if weight.numel() else 0.0
    if largest > LARGEST_WEIGHT:
        raise ModelError(
            f"a weight of size {largest:.3g}, and the largest that can be stored is {LARGEST_WEIGHT:.3g}",
            subject=name,
            hint="check the checkpoint: a model that works has no such weights",
        )


def is_too_small(weight: torch.Tensor, group: int) -> bool:
    """Whether float16 scales are too coarse for a weight.

    Args:
        weight: float32 [rows, columns], finite.
        group: columns that share a scale.
    """
    return share_of_small_groups(weight, group) > _MOST_IN_SMALL_GROUPS


def _moment_of(inputs: Inputs | None, columns: int, name: str) -> torch.Tensor:
    if inputs is None:
        return damp(torch.eye(columns), DAMPING)
    try:
        return damp(inputs.moment, inputs.damping)
    except ModelError as error:
        raise ModelError(error.message, subject=name) from error


def encode_weights(
    weights: Mapping[str, torch.Tensor],
    inputs: Inputs | None,
    settings: TensorSettings,
    *,
    grid: Grid | None = None,
) -> list[EncodedTensor]:
    """Compress weights that read the same input: they share the metric and the levels.

    With a rank: codes, an overlay fitted to what they miss, and then the codes refined for what the overlay leaves
    over, which makes no row's error larger.

    Args:
        weights: name in the checkpoint → float32 [out, in], all of one width.
        inputs: what they read; None if nothing is known.
        grid: the levels, if others share them; otherwise they are fitted.

    Raises:
        ModelError: see :func:`require_storable`; or the inputs are not finite.
    """
    for name, weight in weights.items():
        require_storable(weight, name)
    stack = torch.cat(list(weights.values()))
    damped = _moment_of(inputs, stack.shape[1], next(iter(weights)))
    moment = damped.float()
    (order, factor), chosen = both(
        lambda: factorise(damped),
        lambda: grid or fit_grid(stack, moment.diagonal(), settings.bits, settings.group),
    )
    metric = Metric(moment, order, factor)
    scales = fit_scales(stack, metric.importance, chosen, settings.group)
    if inputs is None:
        codes = round_nearest(stack, scales, chosen, settings.group)
    else:
        codes = round_with_feedback(stack, scales, chosen, settings.group, metric)

    def tensors(codes: torch.Tensor, scales: torch.Tensor) -> list[EncodedTensor]:
        sizes = [len(weight) for weight in weights.values()]
        return [
            EncodedTensor(name, tuple(weight.shape), settings.bits, settings.group, part, chosen.levels, scale)
            for (name, weight), part, scale in zip(
                weights.items(), torch.split(codes, sizes), torch.split(scales, sizes), strict=True
            )
        ]

    def overlay_of(pair: tuple[EncodedTensor, torch.Tensor]) -> EncodedOverlay:
        tensor, weight = pair
        return fit_overlay(weight - tensor.decode().float(), metric.moment, settings.rank)

    if not settings.rank:
        if inputs is not None:
            codes, scales = refine(stack, codes, scales, chosen, settings.group, metric)
        return tensors(codes, scales)
    overlays = each(overlay_of, zip(tensors(codes, scales), weights.values(), strict=True))
    left = stack - torch.cat([overlay.decode() for overlay in overlays])
    made = tensors(*refine(left, codes, scales, chosen, settings.group, metric))
    return [replace(tensor, overlay=overlay) for tensor, overlay in zip(made, overlays, strict=True)]
