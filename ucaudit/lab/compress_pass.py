"""A text's way through one layer, in pieces that threads share.

The layer is called with a few sequences at a time, each piece in a thread of its own, and as many of them run as
there are threads to compute with. Where a weight is to be replaced before it is used for the first time, the pieces
wait for one another: what they all hand to that weight is looked at together. Pieces have a fixed size, and where
they wait does not depend on which one is fastest, so neither does a bit of the result.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Final

import torch
from torch import nn

from ucaudit.lab.compress_blocks import spans, workers
from ucaudit.lab.compress_layers import Matrix, announced, second_moment
from ucaudit.models.layers import Call, call_layer
from ucaudit.models.streamed import StreamedModel

POSITIONS: Final = 4096
"""Of a piece, or one sequence if it is longer."""

Calls = Mapping[int, Call]
"""A layer's other arguments, by the number of sequences that it is called with."""

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
        """Sorts matrices as they are used, as far as that is known: experts one after the other."""
        used = [member for members in self.together for member in members]
        parameters = [member.parameter for member in used]
        own = parameters.index(matrix.parameter) if matrix.parameter in parameters else len(used)
        if matrix.expert < 0:
            return own, -1, own
        return next((place for place, member in enumerate(used) if member.expert >= 0), own), matrix.expert, own


def pieces(hidden: torch.Tensor) -> list[slice]:
    """The sequences of each piece of [sequences, length, hidden]."""
    return spans(len(hidden), max(1, POSITIONS // hidden.shape[1]))


def enter(model: StreamedModel, ids: torch.Tensor) -> tuple[torch.Tensor, list[Calls]]:
    """What enters the first layer for a text, int64 [sequences, length], and how each layer is called."""
    with model.front():
        parts = [model.enter(ids[span]) for span in pieces(ids.unsqueeze(-1))]
        one = model.enter(ids[:1])
    found = {len(part.hidden): part.calls for part in (one, *parts)}
    hidden = torch.cat([part.hidden for part in parts])
    return hidden, [{size: calls[layer] for size, calls in found.items()} for layer in range(model.count)]


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
    parts = [hidden[span] for span in pieces(hidden)]
    return torch.cat(_Pass(layer, parts, calls, replacements).run())


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

    hidden: torch.Tensor
    thread: threading.Thread | None = None
    goes: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


class _Pass:
    """One text through one layer. Everything but :meth:`_work` and :meth:`_before` is the calling thread's."""

    def __init__(
        self, layer: nn.Module, parts: list[torch.Tensor], calls: Calls, replacements: Replacements | None
    ) -> None:
        self._layer, self._calls, self._replacements = layer, calls, replacements
        self._pieces = [_Piece(part) for part in parts]
        self._news: SimpleQueue[tuple[int, _Stop | torch.Tensor | BaseException]] = SimpleQueue()
        self._done: set[Matrix] = set()
        self._abandoned = False

    def run(self) -> list[torch.Tensor]:
        """The pieces' outputs."""
        outputs: dict[int, torch.Tensor] = {}
        stopped: dict[int, _Stop] = {}
        failed: dict[int, BaseException] = {}
        ready, running = list(range(len(self._pieces))), 0
        try:
            while ready or running or stopped:
                while ready and running < workers() and not failed:
                    self._let_go(ready.pop(0))
                    running += 1
                if running:
                    number, news = self._news.get()
                    running -= 1
                    if isinstance(news, _Stop):
                        stopped[number] = news
                    elif isinstance(news, torch.Tensor):
                        outputs[number] = news
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
                if piece.thread is not None:
                    piece.thread.join()
        return [outputs[number] for number in range(len(self._pieces))]

    def _let_go(self, number: int) -> None:
        piece = self._pieces[number]
        if piece.thread is None:
            piece.thread = threading.Thread(target=self._work, args=(number,), name=f"piece {number}")
            piece.thread.start()
        else:
            piece.goes.release()

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
        torch.set_num_threads(1)
        piece = self._pieces[number]
        hidden = piece.hidden
        try:
            with torch.no_grad(), announced(self._layer, lambda *read: self._before(number, *read)):
                self._news.put((number, call_layer(self._layer, hidden, self._calls[len(hidden)])))
        except BaseException as error:  # noqa: BLE001 - the calling thread raises it
            self._news.put((number, error))

    def _before(self, number: int, matrix: Matrix, inputs: torch.Tensor) -> None:
        ways = self._replacements
        if ways is None or matrix not in ways.wanted or matrix in self._done or not inputs.numel():
            return
        self._news.put((number, _Stop(matrix, inputs)))
        self._pieces[number].goes.acquire()
        if self._abandoned:
            raise _Abandoned
