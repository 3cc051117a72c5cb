"""When compiled code (numba, CPU) stands in for plain code: where it pays, and gave the same bytes.

The plain decoders, and loops of the encoder, in torch are the specification. The compiled ones are tested against
them; and on its first use in a process each must agree with the plain one on the first of what it is given, or the
plain one serves. What could tell them apart is ruled out by how they are compiled: without ``fastmath`` LLVM may
neither contract a multiplication and an addition nor reorder sums. Nothing compiled is kept on disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import torch

KERNEL: Final = {"nogil": True, "fastmath": False, "error_model": "numpy"}
"""How all of it is compiled: the options of ``numba.njit``."""
_LOCK: Final = threading.Lock()
_agreed: dict[str, bool] = {}


def serves(name: str, compiled: Callable[[], torch.Tensor], plain: Callable[[], torch.Tensor]) -> bool:
    """Whether the compiled code of this name may be used.

    Args:
        name: of the code and of the way through it, unique in a process.
        compiled: decodes a sample, or whatever it does.
        plain: the same with the same sample.

    Asked once a name and process. A malformed sample is the plain code's to judge, now and later.
    """
    with _LOCK:
        if name not in _agreed:
            try:
                _agreed[name] = same_bytes(compiled(), plain())
            except Exception:  # noqa: BLE001 - whatever keeps it from working, the plain decoder is at hand
                _agreed[name] = False
        return _agreed[name]


def same_bytes(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors have one dtype, shape and pattern of bits."""
    alike = first.dtype == second.dtype and first.shape == second.shape
    return alike and torch.equal(first.contiguous().view(torch.uint8), second.contiguous().view(torch.uint8))
