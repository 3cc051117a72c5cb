"""A model's decoder layers: where they are, and what each of them is called with.

The library's own code prepares masks, positions and rotary embeddings. To run layers one at a time, the base model
is run once with its layers switched off, and every call is kept; then each layer can be called again with the same
arguments and other hidden states. Nothing here knows a family.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ucaudit.core.errors import ModelError, missing_extra

try:
    import torch
    from torch import nn
except ImportError as error:
    raise missing_extra("measure", "torch") from error

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HIDDEN: Final = "hidden_states"


@dataclass(frozen=True)
class Call:
    """What a layer is called with besides the hidden states."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entered:
    """What happens in front of the layers.

    Attributes:
        hidden: what enters the first layer, [batch, length, hidden].
        calls: one a layer.
        packed: whether the model takes a layer's output out of a tuple.
    """

    hidden: torch.Tensor
    calls: list[Call]
    packed: bool


def find_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The decoder layers and their path in the model.

    Raises:
        ModelError: no list of ``num_hidden_layers`` modules, or several outermost ones.
    """
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    outer = [
        (name, module) for name, module in found if not any(name.startswith(f"{other}.") for other, _ in found)
    ]
    if len(outer) != 1:
        raise ModelError(
            f"{len(outer)} lists of {count} layers, expected one", subject=str(model.config.model_type)
        )
    return outer[0]


def record_calls(model: PreTrainedModel, ids: torch.Tensor) -> Entered:
    """Run the base model with its layers switched off.

    Args:
        model: in eval mode; everything in front of the layers must be loaded, and the final norm.
        ids: int64 [batch, length].

    Raises:
        ModelError: the model does more between its layers than hand the hidden states on, so that its layers cannot
            be run one at a time.
    """
    family = str(model.config.model_type)
    for packed in (False, True):  # some families take a layer's output out of a tuple
        _, layers = find_layers(model)
        entered: list[torch.Tensor] = []
        calls: list[Call] = []

        def recorder(
            *args: Any,  # noqa: ANN401 - whatever the library passes on
            entered: list[torch.Tensor] = entered,
            calls: list[Call] = calls,
            packed: bool = packed,
            **kwargs: Any,  # noqa: ANN401
        ) -> Any:  # noqa: ANN401
            hidden, rest = (args[0], args[1:]) if args else (kwargs.pop(_HIDDEN), ())
            entered.append(hidden)
            calls.append(Call(tuple(rest), kwargs))
            return (hidden,) if packed else hidden

        with _replaced(layers, recorder), torch.no_grad():
            try:
                model.base_model(input_ids=ids, use_cache=False)
            except (IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                if packed:
                    raise ModelError(
                        f"its layers cannot be run one at a time: {type(error).__name__}", subject=family
                    ) from error
                continue
        if len(calls) == len(layers) and all(hidden is entered[0] for hidden in entered):
            return Entered(entered[0], calls, packed)
    raise ModelError(
        "its layers cannot be run one at a time: the model does more between them than hand hidden states on",
        subject=family,
        hint="it can be measured whole, on a machine with enough memory",
    )


def call_layer(layer: nn.Module, hidden: torch.Tensor, call: Call) -> torch.Tensor:
    """A layer's output for other hidden states [batch, length, hidden].

    Raises:
        ModelError: the layer returns something else than hidden states of the shape it was given.
    """
    output = layer(hidden, *call.args, **call.kwargs)
    result = output[0] if isinstance(output, tuple) else output
    if not isinstance(result, torch.Tensor) or result.shape != hidden.shape:
        raise ModelError("a layer does not return hidden states", subject=type(layer).__name__)
    return result


def copy_layer(layer: nn.Module) -> nn.Module:
    """A copy with the same parameters and buffers: what a module keeps of a call is then one thread's own."""
    shared = {id(tensor): tensor for tensor in (*layer.parameters(), *layer.buffers())}
    made: nn.Module = copy.deepcopy(layer, memo=shared)
    return made


@contextmanager
def layers_give(model: PreTrainedModel, hidden: torch.Tensor, *, packed: bool) -> Iterator[None]:
    """While inside, the model's layers together return ``hidden``, whatever goes in; see :class:`Entered`."""
    _, layers = find_layers(model)

    def give(*_: Any, **__: Any) -> Any:  # noqa: ANN401
        return (hidden,) if packed else hidden

    with _replaced(layers, give):
        yield


def same_call(first: Any, second: Any) -> bool:  # noqa: ANN401 - whatever a layer is called with
    """Whether two layers' arguments are equal, tensors bit for bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return first is second or (first.shape == second.shape and bool(torch.equal(first, second)))
    if isinstance(first, Call) and isinstance(second, Call):
        return same_call(first.args, second.args) and same_call(first.kwargs, second.kwargs)
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same_call(first[key], second[key]) for key in first)
    if isinstance(first, tuple | list) and isinstance(second, tuple | list):
        return len(first) == len(second) and all(map(same_call, first, second))
    return bool(first is second or (isinstance(first, str | int | float | bool) and first == second))


@contextmanager
def _replaced(layers: nn.ModuleList, forward: Callable[..., Any]) -> Iterator[None]:
    for layer in layers:
        layer.forward = forward
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
