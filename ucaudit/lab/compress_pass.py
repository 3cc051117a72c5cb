"""A text's way through one layer, in pieces that threads share.

The layer is called with a few sequences at a time, each piece in a thread of its own, and as many of them run as
there are threads to compute with. Where a weight is to be replaced before it is used for the first time, the pieces
wait for one another: what they all hand to that weight is looked at together. Pieces have a fixed size, and where
they wait does not depend on which one is fastest, so neither does a bit of the result.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from queue import SimpleQueue
from typing import Final

import torch
from torch import nn

from ucaudit.core.errors import ModelError
from ucaudit.lab.compress_blocks import spans, workers
from ucaudit.lab.compress_layers import Matrix, announced, second_moment
from ucaudit.models.layers import Call, call_layer, copy_layer, same_call
from ucaudit.models.streamed import StreamedModel

POSITIONS: Final = 4096
"""Of a piece, or one sequence if it is longer."""


@dataclass(frozen=True)
class Calls:
    """What a layer is called with besides the hidden states.

    Attributes:
        first: for the first sequence alone.
        pieces: for each of the :func:`pieces`.
        alike: whether they are the same for every sequence.
    """

    first: Call
    pieces: Sequence[Call]
    alike: bool = True


Replace = Callable[[list[Matrix], torch.Tensor, int], None]
"""Called with matrices that read one input, its second moment [columns, columns], and the number of positions. It
changes them in place."""


@dataclass(frozen=True)
class Replacements:
    """Which weights are replaced on the way.

    Attributes:
        wanted: the matrices.
        together: see :func:`ucaudit.lab.compress_layers.groups`.
        replace: see :data:`Replace`.
    """

    wanted: set[Matrix]
    together: Sequence[list[Matrix]]
    replace: Replace

    def members(self, matrix: Matrix) -> list[Matrix]:
        """The matrices that are replaced together with this one, itself included."""
        return next((members for members in self.together if matrix in members), [matrix])

    def order(self, matrix: Matrix) -> tuple[int, int, int]:
        """Sorts matrices as they are used, as far as that is known."""
        own = self._places.get(matrix.parameter, len(self._places))
        if matrix.expert < 0:
            return own, -1, own
        return (own if self._stack_by_stack else min(own, self._first_stack)), matrix.expert, own

    @cached_property
    def _used(self) -> list[Matrix]:
        return [matrix for members in self.together for matrix in members]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(dict.fromkeys(matrix.parameter for matrix in self._used))}

    @cached_property
    def _first_stack(self) -> int:
        return min((self._places[matrix.parameter] for matrix in self._used if matrix.expert >= 0), default=0)

    @cached_property
    def _stack_by_stack(self) -> bool:
        """Whether all experts of one stack come before those of the next, not all stacks of one expert."""
        stacks = [matrix.parameter for matrix in self._used if matrix.expert >= 0]
        changes = sum(one != other for one, other in pairwise(stacks))
        return len(stacks) > len(set(stacks)) == changes + 1


def pieces(hidden: torch.Tensor) -> list[slice]:
    """The sequences of each piece of [sequences, length, hidden]."""
    return spans(len(hidden), max(1, POSITIONS // hidden.shape[1]))


def enter(model: StreamedModel, ids: torch.Tensor) -> tuple[torch.Tensor, list[Calls]]:
    """What enters the first layer for a text, int64 [sequences, length], and how each layer is called.

    Raises:
        ModelError: it is not one hidden state a position.
    """
    hidden: list[torch.Tensor] = []
    calls: list[list[Call]] = []
    with model.front():
        for span in pieces(ids.unsqueeze(-1)):
            part = model.enter(ids[span])
            if part.hidden.shape[:-1] != ids[span].shape:
                raise ModelError("its layers are not given one hidden state a position", subject=model.family)
            hidden.append(part.hidden)
            calls.append(calls[0] if calls and same_call(calls[0], part.calls) else part.calls)
        first, second = (model.enter(ids[number : number + 1]).calls for number in (0, min(1, len(ids) - 1)))
    alike = same_call(first, second) and all(known is calls[0] for known in calls[:-1])
    made = [Calls(first[layer], [piece[layer] for piece in calls], alike) for layer in range(model.count)]
    return torch.cat(hidden), made


def run_layer(
    layer: nn.Module, hidden: torch.Tensor, calls: Calls, replacements: Replacements | None = None
) -> torch.Tensor:
    """A layer's output, its weights replaced on the way: each right before it is used for the first time.

    Args:
        layer: loaded.
        hidden: [sequences, length, hidden].
        calls: the layer's other arguments.
        replacements: None for none.
    """
    return _Pass(layer, hidden, calls, replacements).run()


class _Abandoned(BaseException):
    """Another piece failed."""


@dataclass(frozen=True)
class _Stop:
    """A piece waits in front of a matrix."""

    matrix: Matrix
    inputs: torch.Tensor


@dataclass
class _Piece:
    """A piece of the text and its thread; ``goes`` lets it go on."""

    span: slice
    call: Call
    thread: threading.Thread | None = None
    goes: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


class _Pass:
    """One text through one layer. Everything but :meth:`_work` and :meth:`_before` is the calling thread's."""

    def __init__(
        self, layer: nn.Module, hidden: torch.Tensor, calls: Calls, replacements: Replacements | None
    ) -> None:
        self._layer, self._hidden, self._replacements = layer, hidden, replacements
        self._pieces = [_Piece(*each) for each in zip(pieces(hidden), calls.pieces, strict=True)]
        self._spare = len(self._pieces) < workers()
        self._news: SimpleQueue[tuple[int, _Stop | torch.Tensor | BaseException]] = SimpleQueue()
        self._done: set[Matrix] = set()
        self._abandoned = False

    def run(self) -> torch.Tensor:
        """The output."""
        output = torch.empty_like(self._hidden)
        stopped: dict[int, _Stop] = {}
        failed: dict[int, BaseException] = {}
        ready, running = list(range(len(self._pieces))), 0
        try:
            while ready or running or stopped or failed:
                while ready and running < workers() and not failed:
                    self._let_go(ready.pop(0))
                    running += 1
                if running:
                    number, news = self._news.get()
                    running -= 1
                    if isinstance(news, _Stop):
                        stopped[number] = news
                    elif isinstance(news, torch.Tensor):
                        output[self._pieces[number].span] = news
                    else:
                        failed[number] = news
                elif failed:
                    raise failed[min(failed)]
                else:
                    ready = self._replace(stopped)
        finally:
            self._abandoned = True
            for piece in self._pieces:
                piece.goes.release()
            for piece in self._pieces:
                if piece.thread is not None:
                    piece.thread.join()
        return output

    def _let_go(self, number: int) -> None:
        piece = self._pieces[number]
        if piece.thread is not None:
            piece.goes.release()
            return
        # Where there are fewer pieces than threads, the products of each are shared out as well.
        context = contextvars.copy_context() if self._spare else contextvars.Context()
        thread = threading.Thread(
            target=context.run, args=(self._work, number), name=f"piece {number}", daemon=True
        )
        thread.start()
        piece.thread = thread

    def _replace(self, stopped: dict[int, _Stop]) -> list[int]:
        """Replace the first of the matrices that pieces wait for; returns the pieces that go on."""
        assert self._replacements is not None
        first = min((stop.matrix for stop in stopped.values()), key=self._replacements.order)
        members = [matrix for matrix in self._replacements.members(first) if matrix not in self._done]
        there = sorted(number for number, stop in stopped.items() if stop.matrix in members)
        inputs = [stopped.pop(number).inputs for number in there]
        self._done.update(members)
        self._replacements.replace(members, *second_moment(inputs))
        return there

    def _work(self, number: int) -> None:
        piece = self._pieces[number]
        try:
            torch.set_num_threads(1)
            layer = copy_layer(self._layer)
            with torch.no_grad(), announced(layer, lambda *read: self._before(number, *read)):
                self._news.put((number, call_layer(layer, self._hidden[piece.span], piece.call)))
        except BaseException as error:  # noqa: BLE001 - the calling thread raises it
            self._news.put((number, error))

    def _before(self, number: int, matrix: Matrix, inputs: torch.Tensor) -> None:
        if self._abandoned:
            raise _Abandoned
        ways = self._replacements
        if ways is None or matrix not in ways.wanted or matrix in self._done or not inputs.numel():
            return
        self._news.put((number, _Stop(matrix, inputs)))
        self._pieces[number].goes.acquire()
        if self._abandoned:
            raise _Abandoned
