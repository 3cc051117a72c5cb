"""Measuring models that do not fit memory: layer by layer, all windows through one layer before the next is read.

First the reference goes through its layers, then the pack; what is kept between layers is the hidden states of all
windows. At the end both heads score the windows together, so that the divergence needs no stored logits. Each layer
of each model is read and decoded once, whatever the number of windows. The values are those of the whole models, to
the bit where the machine's matrix products do not depend on the number of rows (tested).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ucaudit.core.errors import ModelError, UnavailableError, missing_extra
from ucaudit.core.progress import Progress
from ucaudit.lab.corpus import Windows
from ucaudit.lab.hidden_states import HiddenStates
from ucaudit.lab.measure_state import StateDirectory
from ucaudit.models.forward import MIN_ROWS, WindowScores, compare_rows, join_rows, row_slices
from ucaudit.models.layers import Call, same_call
from ucaudit.models.streamed import StreamedModel

try:
    import torch
except ImportError as error:
    raise missing_extra("measure", "torch") from error

if TYPE_CHECKING:
    from ucaudit.packs.codecs.base import TensorSource

SLICE_BYTES: Final = 64 << 20
"""One model's logits for one slice of tokens, at most (but for :data:`MIN_ROWS` rows)."""


@dataclass(frozen=True)
class Streaming:
    """How a pair of models is streamed.

    Attributes:
        dtype: of parameters and activations.
        device: ``cpu`` or ``cuda``.
        spill: keep hidden states on disk only.
    """

    dtype: torch.dtype
    device: str
    spill: bool


class StreamedPair:
    """Both models, built without weights.

    Args:
        reference, pack: opened.
        how: see :class:`Streaming`.

    Raises:
        ModelError: see :class:`ucaudit.models.streamed.StreamedModel`.
    """

    def __init__(self, reference: TensorSource, pack: TensorSource, how: Streaming) -> None:
        self.how = how
        self.reference = StreamedModel(reference, dtype=how.dtype, device=how.device)
        self.pack = StreamedModel(pack, dtype=how.dtype, device=how.device)

    def scores(
        self, windows: Windows, positions: list[int], state: StateDirectory, progress: Progress
    ) -> Iterator[WindowScores]:
        """The values of some windows, in order; hidden states of all are kept in the state's directory meanwhile.

        Args:
            windows: the text's drawn windows.
            positions: which of them.
            state: of this run; its key binds the hidden states too.
            progress: told about layers, then about windows by the caller.

        Raises:
            ModelError: a family that cannot be streamed, or logits that are not finite.
            OutputError: no room for hidden states.
            UnavailableError: the GPU has not enough memory.
        """
        if not positions:
            return
        with _gpu_memory(self.how.device), ExitStack() as open_states:
            passed = []
            for name, model in (("reference", self.reference), ("pack", self.pack)):
                states = self._pass(name, model, windows, state, progress)
                passed.append(states)
                open_states.callback(states.close)
            progress.start(len(positions), "windows", "scoring")
            with self.reference.back(), self.pack.back():
                for position in positions:
                    hidden = [states.get(position).to(self.how.device) for states in passed]
                    targets = windows.input_ids(position)[0, 1:]
                    yield self._score(hidden, targets, progress, name=f"window {windows.indexes[position]}")

    def _pass(
        self,
        name: str,
        model: StreamedModel,
        windows: Windows,
        state: StateDirectory,
        progress: Progress,
    ) -> HiddenStates:
        """Run all layers of one model over the windows, or those that an interrupted run has left."""
        ids = [windows.input_ids(position) for position in range(windows.n)]
        model.prefetch(0)
        with model.front():
            entered, calls = _enter(model, ids)
        states = HiddenStates(
            state.path,
            name,
            f"{state.key} {windows.digest} {windows.indexes}",
            len(ids),
            tuple(entered[0].shape),
            entered[0].dtype,
            in_memory=not self.how.spill,
        )
        done, damaged = states.resume()
        if damaged:
            progress.note(f"hidden states of the {name} were damaged and are computed again")
        if done is None:
            with states.passing(0) as append:
                for hidden in entered:
                    append(hidden)
            done = 0
        elif done:
            progress.note(f"{done} of {model.count} layers of the {name} were done by an earlier run")
        del entered
        progress.start(model.count - done, "layers", f"running the {name}")
        for layer in range(done, model.count):
            with model.loaded(layer), states.passing(layer + 1) as append:
                model.prefetch(layer + 1)
                for index, call in enumerate(calls):
                    append(model.run(layer, states.get(index).to(self.how.device), call[layer]))
            progress.advance(1)
        progress.finish()
        return states

    def _score(
        self, hidden: list[torch.Tensor], targets: torch.Tensor, progress: Progress, *, name: str
    ) -> WindowScores:
        """Both heads on one window, in slices of tokens; on a GPU that is too small, in smaller ones."""
        vocabulary = int(self.reference.model.config.get_text_config().vocab_size)
        budget = SLICE_BYTES
        targets = targets.to(self.how.device)
        while True:
            slices = row_slices(len(targets), vocabulary * self.how.dtype.itemsize, budget)
            try:
                return join_rows(
                    compare_rows(
                        self.reference.logits(hidden[0], begin, end),
                        self.pack.logits(hidden[1], begin, end),
                        targets[begin:end],
                        name=name,
                        first=begin,
                    )
                    for begin, end in slices
                )
            except torch.cuda.OutOfMemoryError:
                if len(targets) // len(slices) <= MIN_ROWS:
                    raise
                budget //= 2
                torch.cuda.empty_cache()
                progress.note(f"{name}: the GPU is short of memory, logits are computed in smaller slices")


def _enter(model: StreamedModel, ids: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[list[Call]]]:
    """What enters the first layer for each window, and every layer's call; equal calls are held once."""
    hidden, calls = [], list[list[Call]]()
    for row in ids:
        entered = model.enter(row)
        if entered.hidden.shape[:2] != row.shape:
            raise ModelError("its layers do not work on one position a token", subject=model.family)
        hidden.append(entered.hidden.cpu())
        calls.append(calls[0] if calls and same_call(calls[0], entered.calls) else entered.calls)
    return hidden, calls


@contextmanager
def _gpu_memory(device: str) -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise UnavailableError(
            "the GPU has not enough memory for one layer",
            subject=device,
            hint="lower --seq-len, use --dtype bf16, or --device cpu",
        ) from error
