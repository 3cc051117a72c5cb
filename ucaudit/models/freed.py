"""What glibc keeps of freed memory.

It keeps what a program frees for its next request, in an arena for every thread that ever asked. Blocks below
32 MiB, which many weights are, stay resident that way: one layer's worth or so for every layer that was loaded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Final

_ARENA_MAX: Final = -8


def return_freed_memory() -> None:
    """Give back what was freed and not asked for again; does nothing where the C library cannot (macOS, musl)."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def share_arenas() -> None:
    """Let what one thread freed serve another: two arenas for all threads, of the process and for good.

    Without it the encoder takes half a gigabyte more. Does nothing where the C library cannot.
    """
    set_option = _of_glibc("mallopt")
    if set_option is not None:
        set_option(_ARENA_MAX, 2)


@cache
def _of_glibc(name: str) -> Callable[..., int] | None:
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    return found
