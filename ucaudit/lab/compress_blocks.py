"""Work in blocks whose size never depends on the machine, so that the encoder's bits do not depend on threads.

A matrix product or a sum that torch spreads over threads is cut where the number of threads says, and each cut
rounds differently. Here every operation runs in one thread, and what is shared out are whole blocks: threads
decide who computes a block and when, never what is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, TypeVar

import torch

from ucaudit.packs.codecs.tensors import one_thread

Item = TypeVar("Item")
T = TypeVar("T")
_ROWS: Final = 1024
_POOL: ContextVar[ThreadPoolExecutor | None] = ContextVar("ucaudit_blocks", default=None)


@contextmanager
def fixed_blocks() -> Iterator[None]:
    """Inside, torch computes in one thread, and :func:`each` uses as many as torch had before."""
    workers = torch.get_num_threads()
    with one_thread(), ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        token = _POOL.set(pool)
        try:
            yield
        finally:
            _POOL.reset(token)
            pool.shutdown(cancel_futures=True)


def each(work: Callable[[Item], T], items: Iterable[Item]) -> list[T]:
    """``work`` of every item, results in their order. ``work`` must not call :func:`each` itself."""

    def quiet(item: Item) -> T:
        with torch.no_grad():  # a switch of the thread, not of the process
            return work(item)

    pool = _POOL.get()
    return list((map if pool is None else pool.map)(quiet, items))


def spans(count: int, step: int = _ROWS) -> list[slice]:
    """0 … count in pieces of ``step``, the last one shorter."""
    return [slice(begin, min(begin + step, count)) for begin in range(0, count, step)]
