"""Work in blocks whose size never depends on the machine, so that the encoder's bits do not depend on threads.

A matrix product or a sum that torch spreads over threads is cut where the number of threads says, and each cut
rounds differently. Here every operation runs in one thread, and what is shared out are whole blocks: threads
decide who computes a block and when, never what is in it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TypeVar, cast

import torch

from ucaudit.models.freed import share_arenas
from ucaudit.packs.codecs.tensors import one_thread

Item = TypeVar("Item")
T = TypeVar("T")
U = TypeVar("U")
_ROWS: Final = 1024
_MOST: Final = 512
_POOL: ContextVar[tuple[ThreadPoolExecutor, int] | None] = ContextVar("ucaudit_blocks", default=None)
_enlisted = threading.local()


@contextmanager
def fixed_blocks() -> Iterator[None]:
    """Inside, torch computes in one thread, and :func:`each` uses as many as torch had before."""
    count = torch.get_num_threads()
    share_arenas()
    with one_thread(), ThreadPoolExecutor(count, initializer=_enlist) as pool:
        token = _POOL.set((pool, count))
        try:
            yield
        finally:
            _POOL.reset(token)
            pool.shutdown(cancel_futures=True)


def _enlist() -> None:
    torch.set_num_threads(1)
    _enlisted.yes = True


def _shared() -> tuple[ThreadPoolExecutor, int] | None:
    """The threads to share work out to; none for one of them, which would wait for itself."""
    return None if hasattr(_enlisted, "yes") else _POOL.get()


def workers() -> int:
    """How many threads :func:`each` uses."""
    shared = _shared()
    return 1 if shared is None else shared[1]


def each(work: Callable[[Item], T], items: Iterable[Item]) -> list[T]:
    """``work`` of every item, results in their order. Called from inside ``work``, it is a plain loop."""

    def quiet(item: Item) -> T:
        with torch.no_grad():  # a switch of the thread, not of the process
            return work(item)

    shared = _shared()
    return list((map if shared is None else shared[0].map)(quiet, items))


def both(first: Callable[[], T], second: Callable[[], U]) -> tuple[T, U]:
    """Both results, at the same time if there are two threads; see :func:`each`."""
    one, two = each(lambda work: work(), cast("tuple[Callable[[], Any], ...]", (first, second)))
    return one, two


def spans(count: int, step: int = _ROWS) -> list[slice]:
    """0 … count in pieces of ``step``, the last one shorter."""
    return [slice(begin, min(begin + step, count)) for begin in range(0, count, step)]


def even_spans(count: int) -> list[slice]:
    """0 … count in pieces of nearly the same size, not more than 512."""
    return spans(count, -(-count // max(1, -(-count // _MOST))) or 1)
