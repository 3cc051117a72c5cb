"""What a change of one layer's output does to the model's next-token distributions (``--kl-weight``).

Unlike the rest of the encoder this holds the whole model in memory, in float32.
"""

from __future__ import annotations

import copy
import threading
from typing import Any

import torch

from ucaudit.lab.compress_finite import require_finite_layer
from ucaudit.lab.compress_train import Divergence
from ucaudit.models.layers import call_layer, find_layers, record_calls
from ucaudit.models.runtime import load_model
from ucaudit.packs.codecs.base import TensorSource


class OutputDivergence:
    """The original model, from any layer on.

    Args:
        source: the checkpoint.
        ids: the calibration text, int64 [sequences, length].
    """

    def __init__(self, source: TensorSource, ids: torch.Tensor) -> None:
        model = load_model(source, dtype=torch.float32, device="cpu")
        require_finite_layer(model, source, [spec.name for spec in source.specs])
        _, self._layers = find_layers(model)
        entered = record_calls(model, ids[:1])
        self._calls = entered.calls
        self._head, self._given = _head_of(model, packed=entered.packed)
        with torch.no_grad():
            rows = [record_calls(model, ids[index : index + 1]).hidden for index in range(len(ids))]
            self._last = [self._pass(row, 0) for row in rows]

    def behind(self, layer: int) -> Divergence:
        """For what leaves one layer: see :data:`ucaudit.lab.compress_train.Divergence`."""

        def divergence(hidden: torch.Tensor, index: int) -> torch.Tensor:
            with torch.no_grad():
                expected = self._logits(self._last[index]).log_softmax(-1)
            found = self._logits(self._pass(hidden, layer + 1)).log_softmax(-1)
            return (expected.exp() * (expected - found)).sum(-1).mean()

        return divergence

    def _pass(self, hidden: torch.Tensor, first: int) -> torch.Tensor:
        for layer, call in zip(self._layers[first:], self._calls[first:], strict=True):
            hidden = call_layer(layer, hidden, call)
        return hidden

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        self._given.hidden = hidden
        logits: torch.Tensor = self._head(inputs_embeds=torch.zeros_like(hidden), use_cache=False).logits
        return logits


def _head_of(model: Any, *, packed: bool) -> tuple[Any, threading.local]:  # noqa: ANN401 - transformers' model
    """A model of the same parameters whose layers together return what each thread has put aside."""
    given = threading.local()
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    head = copy.deepcopy(model, memo=shared)
    _, layers = find_layers(head)

    def give(*_: object, **__: object) -> object:
        return (given.hidden,) if packed else given.hidden

    for layer in layers:
        layer.forward = give
    return head, given
