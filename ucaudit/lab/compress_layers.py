"""One decoder layer as the encoder sees it: which weights it multiplies by, what they read, and what each is called
in the checkpoint.

Nothing here knows a family. What a layer multiplies by is seen when it runs: every ``torch.nn.functional.linear``
of the library's own code, of an ``nn.Linear`` or of one expert's slice of a stacked parameter. What a weight is
called in the checkpoint is found by its values: the library may have stacked experts and joined projections when it
loaded them, and a tensor counts as found where the same bits lie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ucaudit.lab.compress_blocks import each, spans
from ucaudit.models.layers import Call, call_layer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SMALLEST_SIDE: Final = 16
"""A matrix with a shorter side is not compressed."""

_MATRIX: Final = 2
_STACK: Final = 3
_LINEAR: Final = nn.functional.linear
_block = _LINEAR
_ROWS: Final = 4096
_COLUMNS: Final = 256
_EXPERT_COUNTS: Final = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True, order=True)
class Matrix:
    """A weight that a layer multiplies by.

    Attributes:
        parameter: its name in the layer.
        expert: index along the first axis of a stacked parameter, or −1.
    """

    parameter: str
    expert: int = -1


@dataclass(frozen=True)
class Place:
    """Where a tensor of the checkpoint lies in a layer.

    Attributes:
        name: in the checkpoint.
        shape: there.
        matrix: what it is a part of; for a tensor that holds all experts, the first expert's.
        begin, end: its rows in the matrix.
        stacked: whether it holds all experts.
    """

    name: str
    shape: tuple[int, ...]
    matrix: Matrix
    begin: int
    end: int
    stacked: bool = False

    def rows_of(self, layer: nn.Module) -> torch.Tensor:
        """The part of the layer that holds the tensor, in its own shape; writing to it changes the layer."""
        if self.stacked:
            return layer.get_parameter(self.matrix.parameter).detach()
        return matrix_of(layer, self.matrix)[self.begin : self.end]

    def put(self, parameter: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The parameter with ``weight`` [rows, columns] in the place of its part; differentiable."""
        if weight.numel() == parameter.numel():
            return weight.view(parameter.shape)
        rows = parameter.flatten(0, -2)
        start = max(self.matrix.expert, 0) * (parameter.shape[-2]) + self.begin
        return torch.cat([rows[:start], weight, rows[start + len(weight) :]]).view(parameter.shape)


def find_places(layer: nn.Module, targets: dict[str, str], load: Callable[[str], torch.Tensor]) -> list[Place]:
    """Where the layer's matrices come from.

    Args:
        layer: loaded.
        targets: name in the checkpoint → name of the layer's parameter that the library makes of it.
        load: gives a tensor of the checkpoint.

    Returns:
        Places in the order of ``targets``; tensors that are no matrix, or whose bits lie nowhere, have none.
    """
    places: list[Place] = []
    parameters = dict(layer.named_parameters())
    free = _FreeRows()
    for name, target in targets.items():
        parameter = parameters.get(target)
        if parameter is not None and parameter.ndim in (_MATRIX, _STACK):
            place = _place(name, load(name), target, parameter.detach(), free)
            places += [] if place is None else [place]
    return places


def _place(name: str, tensor: torch.Tensor, target: str, parameter: torch.Tensor, free: _FreeRows) -> Place | None:
    shape = tuple(tensor.shape)
    if min(shape[-_MATRIX:], default=0) < SMALLEST_SIDE or len(shape) not in (_MATRIX, _STACK):
        return None
    wide = tensor.to(parameter.dtype)
    if shape == tuple(parameter.shape):
        stacked = len(shape) == _STACK
        matrix = Matrix(target, 0 if stacked else -1)
        same = torch.equal(wide, parameter) or not bool(wide.isfinite().all())
        return Place(name, shape, matrix, 0, shape[-_MATRIX], stacked) if same else None
    if len(shape) != _MATRIX or parameter.shape[-1] != shape[1]:
        return None
    stack = parameter if parameter.ndim == _STACK else parameter.unsqueeze(0)
    found = free.take(target, stack, wide)
    if found is None:
        return None
    expert, begin = found
    return Place(name, shape, Matrix(target, expert if parameter.ndim == _STACK else -1), begin, begin + shape[0])


class _FreeRows:
    """Finds a matrix inside a stack of larger ones, by its first row and then by all of it."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, int], dict[bytes, list[tuple[int, int]]]] = {}

    def take(self, target: str, stack: torch.Tensor, wanted: torch.Tensor) -> tuple[int, int] | None:
        height = len(wanted)
        if (target, height) not in self._places:
            known = self._places[target, height] = {}
            for expert, matrix in enumerate(stack):
                for begin in range(0, len(matrix) - height + 1, height):
                    known.setdefault(_row(matrix[begin]), []).append((expert, begin))
        candidates = self._places[target, height].get(_row(wanted[0]), [])
        for candidate in candidates:
            expert, begin = candidate
            if torch.equal(stack[expert, begin : begin + height], wanted):
                candidates.remove(candidate)
                return candidate
        return None


def _row(values: torch.Tensor) -> bytes:
    return values.contiguous().numpy().tobytes()


def compressible(
    layer: nn.Module, places: Iterable[Place], reads: Sequence[Read], config: PreTrainedConfig
) -> list[Place]:
    """Those places whose weight is compressed.

    That is: the weights of ``nn.Linear`` modules, and stacked parameters whose slices the layer multiplies by. Not
    the weights that choose experts: see :func:`_routers`.
    """
    read = {item.matrix.parameter for item in reads}
    counts = {count for name in _EXPERT_COUNTS if isinstance(count := getattr(config, name, None), int)}
    routers = _routers(layer, counts)
    linear = {
        f"{name}.weight"
        for name, module in layer.named_modules()
        if type(module) is nn.Linear and name not in routers
    }
    return [
        place
        for place in places
        if (place.matrix.parameter in linear if place.matrix.expert < 0 else place.matrix.parameter in read)
    ]


def _routers(layer: nn.Module, counts: set[int]) -> set[str]:
    """The modules that choose experts: a Linear with as many outputs as there are experts, in their block.

    Sizes coincide: key and value projections, or a shared expert's gate and up, may have as many outputs. So it
    must be the only such Linear in its parent, and must lie in a block of the layer that holds experts too. Where
    experts hang at the layer itself, or cannot be recognised, any block will do: a router that is taken for a
    weight costs more than a weight that is taken for a router.
    """
    modules = dict(layer.named_modules())
    blocks = {name.partition(".")[0] if "." in name else "" for name in _experts(layer, counts)} or {""}
    found = set()
    for name, module in modules.items():
        if type(module) is not nn.Linear or module.out_features not in counts:
            continue
        beside = modules[name.rpartition(".")[0]].children()
        alike = [one for one in beside if type(one) is nn.Linear and one.out_features == module.out_features]
        if len(alike) == 1 and any(not block or name.startswith(f"{block}.") for block in blocks):
            found.add(name)
    return found


def _experts(layer: nn.Module, counts: set[int]) -> list[str]:
    """The modules that hold all experts of a layer: as many modules, or matrices in one parameter."""
    stacks = [
        name.rpartition(".")[0]
        for name, parameter in layer.named_parameters()
        if parameter.ndim == _STACK and len(parameter) in counts and min(parameter.shape) > 1  # not a convolution
    ]
    lists = [
        name
        for name, module in layer.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) in counts
    ]
    return stacks + lists


@dataclass(frozen=True)
class Read:
    """One multiplication by a weight: which weight, and the tensor that it was given."""

    matrix: Matrix
    inputs: torch.Tensor


def record_reads(layer: nn.Module, hidden: torch.Tensor, call: Call) -> list[Read]:
    """What a layer multiplies by for these hidden states [batch, length, hidden], in order."""
    reads: list[Read] = []
    with announced(layer, lambda matrix, inputs: reads.append(Read(matrix, inputs))):
        call_layer(layer, hidden, call)
    return reads


def groups(reads: Sequence[Read], wanted: set[Matrix]) -> list[list[Matrix]]:
    """Wanted matrices that read the same tensor, in the order in which they are used."""
    found: list[tuple[torch.Tensor, list[Matrix]]] = []
    for item in reads:
        if item.matrix not in wanted:
            continue
        match = next((members for inputs, members in found if inputs is item.inputs), None)
        if match is None:
            found.append((item.inputs, [item.matrix]))
        elif item.matrix not in match:
            match.append(item.matrix)
    return [members for _, members in found]


def matrix_of(layer: nn.Module, matrix: Matrix) -> torch.Tensor:
    """The weight itself, [out, in]; writing to it changes the layer."""
    parameter = layer.get_parameter(matrix.parameter).detach()
    return parameter if matrix.expert < 0 else parameter[matrix.expert]


def second_moment(pieces: Sequence[torch.Tensor]) -> tuple[torch.Tensor, int]:
    """Mean of xxᵀ over all positions of all pieces, float32 [columns, columns], and how many positions there are.

    Summed in parts and by blocks of columns. It is symmetric: blocks below the diagonal are those above it.
    """
    inputs = [piece.reshape(-1, piece.shape[-1]).float() for piece in pieces]
    count, width = sum(map(len, inputs)), inputs[0].shape[1]
    total = torch.zeros((width, width), dtype=torch.float32)

    def part(columns: slice) -> None:
        for rows in inputs:
            for positions in spans(len(rows), _ROWS):
                some = rows[positions]
                total[columns, columns.start :].addmm_(some[:, columns].T, some[:, columns.start :])

    blocks = spans(width, _COLUMNS)
    each(part, blocks)
    for columns in blocks:
        total[columns.stop :, columns] = total[columns, columns.stop :].T
    return total.div_(count), count


def announced(layer: nn.Module, before: Callable[[Matrix, torch.Tensor], None]) -> _Linears:
    """Inside, in this thread, ``before`` is told of every multiplication by one of a layer's weights: by which, and
    what it is given."""
    return _Linears(layer, before)


class _Linears(TorchFunctionMode):
    """Inside, every multiplication by a weight is computed in blocks of fixed size, and the layer's are announced.

    The weight is recognised by its memory: a parameter, or a slice of one along its first axis.
    """

    def __init__(self, layer: nn.Module, before: Callable[[Matrix, torch.Tensor], None]) -> None:
        super().__init__()
        self._owners = {
            parameter.untyped_storage().data_ptr(): (name, parameter)
            for name, parameter in layer.named_parameters()
        }
        self._before = before

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function gives
        if func is not _LINEAR:
            return func(*args, **(kwargs or {}))
        inputs, weight, bias = _arguments(*args, **(kwargs or {}))
        matrix = self._matrix(weight)
        if matrix is not None:
            self._before(matrix, inputs)
        return blocked_linear(inputs, weight, bias)

    def _matrix(self, weight: torch.Tensor) -> Matrix | None:
        name, parameter = self._owners.get(weight.untyped_storage().data_ptr(), (None, None))
        if name is None or parameter is None or not weight.is_contiguous():
            return None
        if weight.shape == parameter.shape:
            return Matrix(name)
        if parameter.ndim == _STACK and weight.shape == parameter.shape[1:]:
            return Matrix(name, (weight.storage_offset() - parameter.storage_offset()) // math.prod(weight.shape))
        return None


def _arguments(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    return input, weight, bias


def blocked_linear(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``torch.nn.functional.linear``, its positions in blocks of fixed size."""
    rows = inputs.reshape(-1, inputs.shape[-1])
    result = rows.new_empty((len(rows), len(weight)))

    def part(span: slice) -> None:
        result[span] = _block(rows[span], weight, bias)

    each(part, spans(len(rows)))
    return result.view(*inputs.shape[:-1], len(weight))
