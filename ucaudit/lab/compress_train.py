"""Training one compressed layer to give what the original layer gave (``--steps``).

Starts from the closed-form encoding. Codes, scales and overlay are trained together with Adam (Kingma & Ba 2015)
and straight-through rounding, layer by layer as in EfficientQAT (Chen et al. 2024, arXiv:2407.11062): the loss is
the mean squared error of the layer's output, on the text as it comes out of the compressed layers before, against
the output of the original layer on the text as it comes out of the original ones. With a weight on it, the
divergence of the model's next-token distributions behind all remaining original layers is added. A part of the
sequences is held out; the encoding that is best on them is kept, and that may be the one that training began with.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import torch
from torch import nn

from ucaudit.lab.compress_blocks import each
from ucaudit.lab.compress_layers import Place
from ucaudit.lab.compress_quantise import Grid
from ucaudit.models.layers import Call, call_layer, copy_layer
from ucaudit.models.picks import picks_apart
from ucaudit.packs.codecs.ucq_encode import EncodedOverlay, EncodedTensor

Item = TypeVar("Item")
T = TypeVar("T")
Divergence = Callable[[torch.Tensor, int], torch.Tensor]
"""From what leaves the layer for one sequence [1, length, hidden], and the sequence's number, to the mean KL
divergence of the original model's next-token distributions from those behind it, nats a token."""

BATCH: Final = 8
HELD_OUT: Final = 8
"""One sequence in so many is held out."""

_CHECKS: Final = 5
_WEIGHT_RATE: Final = 0.01
"""Of Adam, in units of a weight's mean distance between codes."""
_SCALE_RATE: Final = 0.003
"""Of Adam, relative to a scale."""
_FACTOR_RATE: Final = 0.25
"""Of Adam, in units of an overlay factor's integers."""
_BETAS: Final = (0.9, 0.99)
_EPSILON: Final = 1e-12


@dataclass(frozen=True)
class Lesson:
    """What a layer is trained on.

    Attributes:
        hidden: what enters the compressed layer, [sequences, length, hidden].
        target: what shall leave it, of the same shape.
        call: the layer's other arguments for one sequence.
        steps: how many.
        divergence: see :data:`Divergence`; None for none.
        weight: of the divergence, relative to the squared error as a share of the target's variance.
    """

    hidden: torch.Tensor
    target: torch.Tensor
    call: Call
    steps: int
    divergence: Divergence | None = None
    weight: float = 0.0


def train_layer(
    layer: nn.Module, encoded: Sequence[tuple[Place, EncodedTensor]], lesson: Lesson
) -> list[EncodedTensor]:
    """Train the encoding of a layer's weights.

    Args:
        layer: with the decoded weights in it; they are replaced by those of the outcome.
        encoded: the compressed weights and where they lie.
        lesson: what to learn.

    Returns:
        The best encoding, tensor by tensor in the order of ``encoded``.
    """
    tensors = [_Trained(place, tensor) for place, tensor in encoded]
    count = len(lesson.hidden)
    held = list(range(HELD_OUT - 1, count, HELD_OUT)) or [count - 1]
    seen = [index for index in range(count) if index not in held]
    variance = float(lesson.target.var()) or 1.0
    copies = _Copies(layer)
    leaves = [leaf for tensor in tensors for leaf in tensor.leaves]
    optimiser = _Adam(leaves)

    def loss(weights: Sequence[torch.Tensor], index: int) -> torch.Tensor:
        output = _output(copies.mine(), tensors, weights, lesson, index)
        value = (output - lesson.target[index : index + 1]).square().mean() / variance
        if lesson.divergence is not None and lesson.weight:
            value = value + lesson.weight * lesson.divergence(output, index)
        return value

    def slopes(batch: Sequence[int]) -> list[torch.Tensor]:
        """The mean gradient of every leaf: through the layer for each sequence, through the rounding once."""
        weights = each(_with_gradient(_Trained.weight), tensors)
        behind = [weight.detach().requires_grad_() for weight in weights]

        def through_layer(index: int) -> tuple[torch.Tensor | None, ...]:
            with picks_apart():
                return torch.autograd.grad(loss(behind, index), behind, allow_unused=True)

        means = [_mean(parts) for parts in zip(*each(_with_gradient(through_layer), batch), strict=True)]

        def through_rounding(number: int) -> list[torch.Tensor]:
            values, mean = [leaf.value for leaf in tensors[number].leaves], means[number]
            if mean is None:
                return [torch.zeros_like(value) for value in values]
            return list(torch.autograd.grad(weights[number], values, mean))

        return [slope for found in each(through_rounding, range(len(tensors))) for slope in found]

    def judge() -> float:
        weights = each(_Trained.weight, tensors)
        return math.fsum(each(lambda index: float(loss(weights, index)), held))

    best, kept = judge(), [tensor.encoded() for tensor in tensors]
    every = max(1, lesson.steps // _CHECKS)
    for step in range(lesson.steps):
        batch = [seen[(step * BATCH + offset) % len(seen)] for offset in range(min(BATCH, len(seen)))]
        optimiser.step(slopes(batch), rate=(1 + math.cos(math.pi * step / lesson.steps)) / 2)
        if (step + 1) % every == 0 or step + 1 == lesson.steps:
            found = judge()
            if found < best:
                best, kept = found, [tensor.encoded() for tensor in tensors]
    for (place, _), tensor in zip(encoded, kept, strict=True):
        place.rows_of(layer).copy_(tensor.decode().view(place.rows_of(layer).shape))
    return kept


def _with_gradient(work: Callable[[Item], T]) -> Callable[[Item], T]:
    """``work`` for :func:`each`, which switches gradients off."""

    def run(item: Item) -> T:
        with torch.enable_grad():
            return work(item)

    return run


def _mean(parts: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """Over sequences; one that a weight had no part in counts as zero."""
    there = [part for part in parts if part is not None]
    return sum(there[1:], start=there[0]) / len(parts) if there else None


def _output(
    layer: nn.Module, tensors: Sequence[_Trained], weights: Sequence[torch.Tensor], lesson: Lesson, index: int
) -> torch.Tensor:
    """What leaves the layer for one sequence, with other weights than its own."""
    parameters: dict[str, torch.Tensor] = {}
    for tensor, weight in zip(tensors, weights, strict=True):
        name = tensor.place.matrix.parameter
        whole = parameters.get(name)
        if whole is None:
            whole = layer.get_parameter(name).detach()
        parameters[name] = tensor.place.put(whole, weight)
    hidden = lesson.hidden[index : index + 1]
    return call_layer(_Stateless(layer, parameters), hidden, lesson.call)


class _Copies:
    """A copy of a layer for each thread, all of the same parameters: calling one with others is not thread-safe."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer
        self._local = threading.local()

    def mine(self) -> nn.Module:
        """This thread's."""
        if not hasattr(self._local, "layer"):
            self._local.layer = copy_layer(self._layer)
        made: nn.Module = self._local.layer
        return made


class _Stateless(nn.Module):
    """A layer called with other parameters than its own."""

    def __init__(self, layer: nn.Module, parameters: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self._arguments = (layer, parameters)

    def forward(self, *args: object, **kwargs: object) -> object:
        layer, parameters = self._arguments
        return torch.func.functional_call(layer, parameters, args, kwargs)


@dataclass
class _Leaf:
    """A trained tensor.

    Attributes:
        value: with a gradient.
        rate: of Adam: a number, or a tensor that broadcasts.
    """

    value: torch.Tensor
    rate: torch.Tensor


class _Trained:
    """One compressed weight while it is trained.

    Continuous weights are rounded to codes on the way forward, and their gradient passes the rounding as if it were
    not there; scales get the gradient of what the codes make of them; so do the overlay's factors.
    """

    def __init__(self, place: Place, tensor: EncodedTensor) -> None:
        self.place = place
        self._tensor = tensor
        self._grid = Grid.of(tensor.levels)
        scales = tensor.scales.float()
        codes = self._grid.values[tensor.codes.long()]
        step = float((self._grid.values[1:] - self._grid.values[:-1]).mean())
        live = scales[scales > 0]
        mean = float(live.mean()) if live.numel() else 0.0
        self._scales = _leaf(scales, (scales * _SCALE_RATE).clamp_min(0))
        self._weight = _leaf(codes * self._spread(scales), torch.tensor(mean * step * _WEIGHT_RATE))
        self.leaves = [self._weight, self._scales]
        self._overlay: tuple[_Leaf, _Leaf] | None = None
        if tensor.overlay is not None:
            rate = torch.tensor(_FACTOR_RATE)
            self._overlay = (_leaf(tensor.overlay.u.float(), rate), _leaf(tensor.overlay.v.float(), rate))
            self.leaves += self._overlay

    def weight(self) -> torch.Tensor:
        """The decoded weight, but for the last rounding, float32 [rows, columns]; differentiable."""
        weight, scales = self._weight.value, self._scales.value
        with torch.no_grad():
            values = self._grid.values[self._codes()]
        result = values * self._spread(scales) + (weight - weight.detach())
        if self._overlay is not None and self._tensor.overlay is not None:
            u, v = (_rounded(leaf.value) for leaf in self._overlay)
            factors = self._tensor.overlay.factors(0, len(u))
            result = result + (u @ v) * factors.rows * factors.cols
        return result

    def encoded(self) -> EncodedTensor:
        """What would be stored now."""
        with torch.no_grad():
            made = replace(
                self._tensor,
                codes=self._codes().to(torch.uint8),
                scales=self._scales.value.detach().clamp_min(0).half(),
            )
            if self._overlay is not None and made.overlay is not None:
                u, v = (_rounded(leaf.value.detach()).to(torch.int8) for leaf in self._overlay)
                made = replace(made, overlay=EncodedOverlay(u, v, made.overlay.rows, made.overlay.cols))
        return made

    def _codes(self) -> torch.Tensor:
        spread = self._spread(self._scales.value.detach()).clamp_min(2.0**-24)
        return self._grid.codes(self._weight.value.detach() / spread)

    def _spread(self, scales: torch.Tensor) -> torch.Tensor:
        """A scale for each weight, as the file will hold it."""
        stored = scales + (scales.detach().clamp_min(0).half().float() - scales.detach())
        return stored.repeat_interleave(self._tensor.group, 1)[:, : self._tensor.codes.shape[1]]


def _rounded(factor: torch.Tensor) -> torch.Tensor:
    return factor + (factor.detach().round().clamp(-127, 127) - factor.detach())


def _leaf(value: torch.Tensor, rate: torch.Tensor) -> _Leaf:
    return _Leaf(value.clone().requires_grad_(), rate)


class _Adam:
    """Adam with a rate for each element."""

    def __init__(self, leaves: Sequence[_Leaf]) -> None:
        self._leaves = leaves
        self._first = [torch.zeros_like(leaf.value) for leaf in leaves]
        self._second = [torch.zeros_like(leaf.value) for leaf in leaves]
        self._steps = 0

    def step(self, gradients: Sequence[torch.Tensor], *, rate: float) -> None:
        """Move the leaves against their gradients, in place."""
        self._steps += 1
        beta, gamma = _BETAS
        for leaf, slope, first, second in zip(self._leaves, gradients, self._first, self._second, strict=True):
            first.mul_(beta).add_(slope, alpha=1 - beta)
            second.mul_(gamma).addcmul_(slope, slope, value=1 - gamma)
            root = (second / (1 - gamma**self._steps)).sqrt_().add_(_EPSILON)
            leaf.value.data.sub_(first / (1 - beta**self._steps) / root * leaf.rate * rate)
