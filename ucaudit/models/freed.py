"""Freed memory goes back to the system.

glibc keeps what a program frees for its next request, in an arena for every thread that ever asked. Blocks below
32 MiB, which many weights are, stay resident that way: one layer's worth or so for every layer that was loaded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


def return_freed_memory() -> None:
    """Give back what was freed and not asked for again; does nothing where the C library cannot (macOS, musl)."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return trim
