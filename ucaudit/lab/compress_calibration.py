"""The calibration text run through the model, one layer at a time, each layer's weights replaced on the way.

All sequences pass a layer together. Before a linear layer computes, it is stopped, the second moment of what it
is about to read is handed to the caller, and its weight is replaced by what the caller returns: so every weight
is fitted to inputs that come from the already compressed weights before it, with one forward pass a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from ucaudit.core.errors import CorpusError, ModelError
from ucaudit.core.windows import draw
from ucaudit.lab.compress_blocks import blocked_linears, each, spans
from ucaudit.lab.corpus import Corpus, bos_token, tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Replace = Callable[[list[str], torch.Tensor], None]
"""Called with the names of the linear layers that read one input, and its second moment [columns, columns]."""

MINIMUM_SEQUENCES: Final = 4
_ROWS: Final = 4096
_COLUMNS: Final = 256
_ARITY: Final = 2


@dataclass(frozen=True)
class CalibrationTokens:
    """The sequences that the encoder sees.

    Attributes:
        ids: int64 [sequences, length], the BOS token included where the tokenizer's convention has one.
        text_tokens: tokens of the text in them.
        seq_len: text tokens a sequence.
    """

    ids: torch.Tensor
    text_tokens: int
    seq_len: int


def draw_sequences(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase, *, sequences: int, seq_len: int, seed: int, vocab_size: int
) -> CalibrationTokens:
    """Cut the text into sequences and draw some of them by seed, as the evaluation does; all, if it has fewer.

    Raises:
        CorpusError: not even :data:`MINIMUM_SEQUENCES` of them.
        ModelError: the tokenizer belongs to another model.
    """
    stream = tokenise(corpus, tokenizer).long()
    available = len(stream) // seq_len
    if available < MINIMUM_SEQUENCES:
        raise CorpusError(
            f"{available} sequences of {seq_len} tokens, at least {MINIMUM_SEQUENCES} are needed",
            subject=corpus.name,
        )
    chosen = draw(available, min(sequences, available), seed, corpus.sha256)
    ids = stream[: available * seq_len].view(available, seq_len)[list(chosen)]
    bos = bos_token(tokenizer)
    if bos is not None:
        ids = torch.cat([torch.full((len(ids), 1), bos), ids], 1)
    if int(ids.max()) >= vocab_size:
        raise ModelError(
            f"the tokenizer gives token id {int(ids.max())}, the model's vocabulary has {vocab_size}",
            subject=corpus.name,
        )
    return CalibrationTokens(ids, len(chosen) * seq_len, seq_len)


def find_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The decoder layers and their path in the model.

    Raises:
        ModelError: no list of ``num_hidden_layers`` modules, or several outermost ones.
    """
    count = getattr(model.config, "num_hidden_layers", None)
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


class LayerRunner:
    """Feeds calibration sequences through a model's layers.

    Args:
        model: in eval mode; its layers are used one by one.
        ids: int64 [sequences, length].
    """

    def __init__(self, model: PreTrainedModel, ids: torch.Tensor) -> None:
        _, self._layers = find_layers(model)
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        with torch.no_grad():
            self._hidden = self._record(model, ids)

    def run(self, index: int, replace: Replace, *, wanted: Sequence[str]) -> None:
        """Run one layer on all sequences, replacing weights as it goes.

        Args:
            index: layers must be run in order.
            replace: see :data:`Replace`; it changes the layers' weights in place before they are used.
            wanted: names, relative to the layer, of the linear layers to replace.

        Raises:
            ModelError: a layer that does not return hidden states of the shape it was given.
        """
        layer = self._layers[index]
        args, kwargs = self._calls[index]
        with torch.no_grad(), blocked_linears(layer):
            groups = self._groups(layer, wanted, args, kwargs)
            group_of = {name: group for group in groups for name in group}
            done: set[str] = set()

            def before(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
                def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
                    if name not in done:
                        done.update(group_of[name])
                        replace(group_of[name], second_moment(inputs[0]))

                return hook

            handles = [layer.get_submodule(name).register_forward_pre_hook(before(name)) for name in group_of]
            try:
                self._hidden = self._call(layer, self._hidden, args, kwargs)
            finally:
                for handle in handles:
                    handle.remove()

    def _record(self, model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
        """Run the model with its layers switched off; keep what each was called with and what entered the first."""
        entered: list[torch.Tensor] = []

        def recorder(*args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ANN401
            hidden: torch.Tensor = args[0] if args else kwargs.pop("hidden_states")
            entered.append(hidden)
            self._calls.append((args[1:], kwargs))
            return hidden

        base = model.base_model
        for layer in self._layers:
            layer.forward = recorder
        try:
            base(input_ids=ids, use_cache=False)
        finally:
            for layer in self._layers:
                del layer.forward
        if len(self._calls) != len(self._layers):
            raise ModelError(
                f"{len(self._calls)} calls of {len(self._layers)} layers", subject=str(model.config.model_type)
            )
        return entered[0]

    def _groups(
        self, layer: nn.Module, wanted: Sequence[str], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[list[str]]:
        """Which of the wanted linear layers read the same tensor, in the order they are called."""
        read: list[tuple[str, torch.Tensor]] = []

        def note(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
            return lambda _, inputs: read.append((name, inputs[0]))

        handles = [layer.get_submodule(name).register_forward_pre_hook(note(name)) for name in wanted]
        try:
            # One sequence is enough; masks and positions that carry the batch axis are cut with it.
            size = len(self._hidden)
            self._call(layer, self._hidden[:1], _first(args, size), _first(kwargs, size))
        finally:
            for handle in handles:
                handle.remove()
        groups: list[tuple[torch.Tensor, list[str]]] = []
        for name, tensor in read:
            match = next((names for other, names in groups if other is tensor), None)
            if match is None:
                groups.append((tensor, [name]))
            elif name not in match:
                match.append(name)
        return [names for _, names in groups]

    @staticmethod
    def _call(
        layer: nn.Module, hidden: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> torch.Tensor:
        output = layer(hidden, *args, **kwargs)
        result = output[0] if isinstance(output, tuple) else output
        if not isinstance(result, torch.Tensor) or result.shape != hidden.shape:
            raise ModelError("a layer does not return hidden states", subject=type(layer).__name__)
        return result


def second_moment(inputs: torch.Tensor) -> torch.Tensor:
    """Mean of xxᵀ over all positions, float32 [columns, columns], summed in pieces and by blocks of columns."""
    rows = inputs.reshape(-1, inputs.shape[-1]).float()
    total = torch.zeros((rows.shape[1], rows.shape[1]), dtype=torch.float32)

    def part(columns: slice) -> None:
        for positions in spans(len(rows), _ROWS):
            piece = rows[positions]
            total[columns].addmm_(piece[:, columns].T, piece)

    each(part, spans(rows.shape[1], _COLUMNS))
    return total.div_(len(rows))


def _first(value: Any, size: int) -> Any:  # noqa: ANN401 - whatever a layer is called with
    """Cut the batch axis of every tensor in a layer's arguments to one."""
    if isinstance(value, torch.Tensor):
        return value[:1] if value.ndim >= _ARITY and value.shape[0] == size else value
    if isinstance(value, tuple):
        return tuple(_first(item, size) for item in value)
    if isinstance(value, dict):
        return {key: _first(item, size) for key, item in value.items()}
    return value
