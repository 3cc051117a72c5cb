"""One decoder layer: compressed while the calibration text passes through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from ucaudit.core.errors import ModelError
from ucaudit.lab.compress_finite import require_finite
from ucaudit.lab.compress_layers import (
    Matrix,
    Place,
    Read,
    compressible,
    find_places,
    groups,
    matrix_of,
    record_reads,
)
from ucaudit.lab.compress_pass import Calls, Replacements, run_layer
from ucaudit.lab.compress_quantise import Grid, fit_grid
from ucaudit.lab.compress_tensors import Inputs, TensorSettings, encode_weights, is_too_small, require_storable
from ucaudit.lab.compress_train import Lesson, train_layer
from ucaudit.models.layers import Call
from ucaudit.packs.codecs.base import TensorSource
from ucaudit.packs.codecs.tensors import raw_bytes
from ucaudit.packs.codecs.ucq_encode import EncodedTensor, StoredPart

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class CompressedLayer:
    """What is stored for a layer, and what leaves it.

    Attributes:
        encoded: its compressed weights.
        raw: its other tensors, by name.
        hidden: the calibration text behind the compressed layer, [sequences, length, hidden]; None without a text.
    """

    encoded: list[EncodedTensor]
    raw: dict[str, StoredPart]
    hidden: torch.Tensor | None


def compress_layer(
    layer: nn.Module,
    targets: dict[str, str],
    source: TensorSource,
    settings: TensorSettings,
    *,
    bits: Mapping[str, int] | None = None,
    config: PreTrainedConfig,
    probe: tuple[torch.Tensor, Call],
    text: tuple[torch.Tensor, Calls] | None,
    learn: Callable[[torch.Tensor], Lesson] | None = None,
) -> CompressedLayer:
    """Compress a layer's weights and put what the decoder will give in their place.

    Args:
        layer: loaded, in float32.
        targets: name in the checkpoint → name in the layer, for each of the layer's tensors.
        source: the checkpoint.
        settings: how a weight is stored.
        bits: of a weight by its name, instead of those of ``settings``.
        config: of the language model.
        probe: hidden states that show what the layer multiplies by, and how it is called with them.
        text: the same for the calibration text; None without one.
        learn: gives the lesson to train on, from what enters the layer; None for no training.

    Raises:
        ModelError: NaN or infinity in a tensor, a weight of another dtype than BF16, or one too large to be stored.
    """
    reads, chosen = choose_places(layer, targets, source, group=settings.group, config=config, probe=probe)
    work = _Layer(layer, chosen, settings, bits)
    hidden = None
    if text is not None:
        used = {item.matrix.parameter for item in reads}
        work.encode([matrix for matrix in work.matrices if matrix.parameter not in used], None)
        left = work.matrices - work.done
        together = groups(reads, left)
        hidden = run_layer(layer, *text, Replacements(left, together, work.replace))
    work.encode([matrix for matrix in sorted(work.matrices) if matrix not in work.done], None)
    encoded = work.finish()
    if text is not None and learn is not None and encoded:
        encoded = train_layer(layer, work.placed(encoded), learn(text[0]))
        hidden = run_layer(layer, *text)
    kept = set(targets) - {tensor.name for tensor in encoded}
    return CompressedLayer(encoded, {name: raw_part(source, name) for name in targets if name in kept}, hidden)


def choose_places(
    layer: nn.Module,
    targets: dict[str, str],
    source: TensorSource,
    *,
    group: int,
    config: PreTrainedConfig,
    probe: tuple[torch.Tensor, Call],
) -> tuple[list[Read], list[Place]]:
    """What a layer multiplies by, and the places of the weights that are compressed.

    Not those that are too small for float16 scales, as an expert that was never trained may be: they are carried.
    Arguments as for :func:`compress_layer`. Raises ModelError: a weight of another dtype than BF16, or that cannot
    be stored.
    """
    reads = record_reads(layer, *probe)
    chosen = compressible(layer, find_places(layer, targets, source.load), reads, config)
    for place in chosen:
        _require_bf16(source, place.name)
        require_storable(place.rows_of(layer), place.name)
    return reads, [place for place in chosen if not is_too_small(place.rows_of(layer).flatten(0, -2), group)]


class _Layer:
    """The weights of one layer, on their way to being stored."""

    def __init__(
        self, layer: nn.Module, chosen: list[Place], settings: TensorSettings, bits: Mapping[str, int] | None
    ) -> None:
        self._layer = layer
        for place in chosen:
            if bits is not None and place.name not in bits:
                raise ModelError("no bits were shared out to this weight", subject=place.name)
        self._settings = {
            place.name: settings if bits is None else replace(settings, bits=bits[place.name]) for place in chosen
        }
        self._parts: dict[Matrix, list[Place]] = {}
        self._stacks: dict[str, _Stack] = {}
        self._encoded: list[EncodedTensor] = []
        self.done: set[Matrix] = set()
        for place in chosen:
            if place.stacked:
                self._stacks[place.matrix.parameter] = _Stack(place, layer, self._settings[place.name])
            else:
                self._parts.setdefault(place.matrix, []).append(place)
        self.matrices = set(self._parts)
        for parameter, stack in self._stacks.items():
            self.matrices |= {Matrix(parameter, expert) for expert in range(stack.place.shape[0])}

    def replace(self, matrices: list[Matrix], moment: torch.Tensor, positions: int) -> None:
        """Compress matrices that read one input."""
        self.encode(matrices, Inputs(moment, positions))

    def encode(self, matrices: list[Matrix], inputs: Inputs | None) -> None:
        """Compress matrices; without inputs, which some experts never see, each on its own."""
        self.done |= set(matrices)
        plain = [matrix for matrix in matrices if matrix.parameter not in self._stacks]
        for members in [plain] if inputs is not None else [[matrix] for matrix in plain]:
            self._encode_together(members, inputs)
        for matrix in matrices:
            if (stack := self._stacks.get(matrix.parameter)) is not None:
                weight = matrix_of(self._layer, matrix)
                weight.copy_(stack.encode(matrix.expert, weight, inputs))

    def _encode_together(self, matrices: list[Matrix], inputs: Inputs | None) -> None:
        weights = {
            place.name: matrix_of(self._layer, matrix)[place.begin : place.end]
            for matrix in matrices
            for place in self._parts[matrix]
        }
        for settings in dict.fromkeys(self._settings[name] for name in weights):
            alike = {name: weight for name, weight in weights.items() if self._settings[name] == settings}
            made = encode_weights(alike, inputs, settings)
            for weight, tensor in zip(alike.values(), made, strict=True):
                weight.copy_(tensor.decode())
            self._encoded += made

    def placed(self, encoded: list[EncodedTensor]) -> list[tuple[Place, EncodedTensor]]:
        """Each tensor with where it lies."""
        places = {place.name: place for parts in self._parts.values() for place in parts}
        places |= {stack.place.name: stack.place for stack in self._stacks.values()}
        return [(places[tensor.name], tensor) for tensor in encoded]

    def finish(self) -> list[EncodedTensor]:
        """Everything that was compressed."""
        return self._encoded + [stack.finish() for stack in self._stacks.values()]


@dataclass
class _Stack:
    """A tensor of the checkpoint that holds all experts: one grid of levels, and no overlay, whose columns all
    experts would have to share."""

    place: Place
    layer: nn.Module
    settings: TensorSettings
    made: dict[int, EncodedTensor] = field(default_factory=dict)
    _grid: Grid | None = None

    def encode(self, expert: int, weight: torch.Tensor, inputs: Inputs | None) -> torch.Tensor:
        """Compress one expert; returns what the decoder will give."""
        settings = self.settings.of_stack()
        if self._grid is None:
            whole = self.layer.get_parameter(self.place.matrix.parameter).detach().flatten(0, 1)
            self._grid = fit_grid(whole, torch.ones(whole.shape[1]), settings.bits, settings.group)
        (tensor,) = encode_weights({self.place.name: weight}, inputs, settings, grid=self._grid)
        self.made[expert] = tensor
        return tensor.decode()

    def finish(self) -> EncodedTensor:
        """The whole tensor."""
        experts = [self.made[expert] for expert in range(self.place.shape[0])]
        return EncodedTensor(
            self.place.name,
            self.place.shape,
            experts[0].bits,
            experts[0].group,
            torch.cat([tensor.codes for tensor in experts]),
            experts[0].levels,
            torch.cat([tensor.scales for tensor in experts]),
        )


def _require_bf16(source: TensorSource, name: str) -> None:
    spec = source.spec(name)
    if spec.dtype != "BF16":
        raise ModelError(
            f"expected BF16, found {spec.dtype}", subject=name, hint="convert the checkpoint to bf16 first"
        )


def raw_part(source: TensorSource, name: str) -> StoredPart:
    """A tensor of the checkpoint as it is stored byte for byte.

    Raises:
        ModelError: NaN or infinity in it.
    """
    spec = source.spec(name)
    tensor = source.load(name)
    if tensor.is_floating_point():
        require_finite(tensor.float(), name)
    return spec.dtype, spec.shape, bytes(raw_bytes(tensor))
