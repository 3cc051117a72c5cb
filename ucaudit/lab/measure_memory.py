"""Will it fit? The memory that a measurement takes, whole or layer by layer, and the choice between the two."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from ucaudit.core.errors import UnavailableError, missing_extra
from ucaudit.lab.corpus import Windows
from ucaudit.lab.measure_settings import torch_dtype

try:
    import torch
except ImportError as error:
    raise missing_extra("measure", "torch") from error

if TYPE_CHECKING:
    from ucaudit.packs.codecs.base import TensorSource

Mode = Literal["whole", "layers"]

IMPORT_BYTES: Final = 640 << 20
"""Resident memory of Python with torch, one transformers model class and a tokenizer, measured."""

_SLICE_BYTES: Final = 160 << 20  # fp64 and fp32 copies of one slice of logits
_LAYER_SLICE_BYTES: Final = 2 * (64 << 20)  # both models' logits of one slice
_LIVE_ACTIVATIONS: Final = 8  # hidden-sized tensors alive at once in a layer, counting the wide MLP ones apart
_LIVE_STATES: Final = 3  # one model's final hidden states, the other's before and after a layer


@dataclass(frozen=True)
class MemoryNeeds:
    """Estimated peaks in bytes, on ``cpu`` of the process, on ``cuda`` of the GPU.

    Attributes:
        whole: both models in memory at once.
        layers: one layer of one model at a time, or both heads, without the hidden states of all windows.
        hidden_states: of all windows, in the host's memory; they can be left on disk.
    """

    whole: int
    layers: int
    hidden_states: int


@dataclass(frozen=True)
class Execution:
    """How a measurement is carried out.

    Attributes:
        mode: ``whole`` or ``layers``.
        spill: leave hidden states on disk; only with ``layers``.
        memory_bytes: the estimated peak.
    """

    mode: Mode
    spill: bool
    memory_bytes: int

    def __str__(self) -> str:
        how = "both models in memory" if self.mode == "whole" else "layer by layer"
        return f"{how}{', hidden states on disk' if self.spill else ''}"


def memory_needs(
    pack: TensorSource,
    reference: TensorSource,
    windows: Windows,
    config: Any,  # noqa: ANN401 - a transformers configuration
    dtype: str,
) -> MemoryNeeds:
    """Estimate from names and shapes alone."""
    width = torch_dtype(dtype).itemsize
    rows = windows.seq_len + (windows.bos_id is not None)
    hidden = int(getattr(config, "hidden_size", 0) or 0)
    wide = int(getattr(config, "intermediate_size", 0) or 0) or 4 * hidden
    activations = rows * (_LIVE_ACTIVATIONS * hidden + 3 * wide) * width
    logits = rows * int(config.vocab_size) * width
    models = (pack.parameters + reference.parameters) * width
    loading = max(sum(spec.nbytes for spec in source.specs) for source in (pack, reference))
    parts = [_parts(source) for source in (pack, reference)]
    # While a layer is loaded its stored bytes are let go one tensor after the other.
    layer = max(largest * width + stored for largest, stored, _ in parts)
    heads = sum(outer for _, _, outer in parts) * width
    return MemoryNeeds(
        whole=models + max(loading, 2 * logits + _SLICE_BYTES + activations) + IMPORT_BYTES,
        layers=max(layer + activations, heads + min(2 * logits, _LAYER_SLICE_BYTES) + _SLICE_BYTES) + IMPORT_BYTES,
        hidden_states=_LIVE_STATES * windows.n * rows * hidden * width,
    )


def choose_execution(needs: MemoryNeeds, device: str, *, budget: int | None = None) -> Execution:
    """The fastest way that fits, or an error now rather than the kernel's hand later.

    Args:
        needs: see :func:`memory_needs`.
        device: ``cpu`` or ``cuda``.
        budget: bytes that may be used, of the process on ``cpu``, of the GPU on ``cuda``; None for what is free.

    Raises:
        UnavailableError: not even one layer at a time fits.
    """
    on_gpu = device.startswith("cuda")
    host = available_memory()
    host = None if host is None else host + resident_memory()
    free = int(torch.cuda.mem_get_info(device)[0]) if on_gpu else host
    limit = min((bound for bound in (free, budget) if bound is not None), default=None)
    if limit is None or needs.whole <= limit:
        return Execution("whole", False, needs.whole)
    if on_gpu:
        if needs.layers <= limit:
            spill = host is not None and needs.hidden_states > host
            return Execution("layers", spill, needs.layers)
    else:
        if needs.layers + needs.hidden_states <= limit:
            return Execution("layers", False, needs.layers + needs.hidden_states)
        if needs.layers <= limit:
            return Execution("layers", True, needs.layers)
    raise UnavailableError(
        f"a layer at a time takes about {needs.layers / 1e9:.2f} GB, {max(limit, 0) / 1e9:.2f} GB may be used",
        subject=device,
        hint="--dtype bf16 halves it; lower --seq-len, or raise --memory",
    )


def available_memory() -> int | None:
    """Bytes of host memory that can still be taken, the control group's limit included; None if unknown."""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) << 10)
    except (OSError, ValueError):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
            found.append(int(limit) - used)
    except (OSError, ValueError):
        pass
    return min(found, default=None)


def resident_memory() -> int:
    """Bytes of this process in memory; 0 if unknown."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _parts(source: TensorSource) -> tuple[int, int, int]:
    """Parameters and stored bytes of the largest layer, and parameters outside the layers.

    A layer is recognised by the first number in a tensor's name.
    """
    elements: dict[str, int] = {}
    stored: dict[str, int] = {}
    for spec in source.specs:
        number = next((part for part in spec.name.split(".") if part.isdigit()), "")
        elements[number] = elements.get(number, 0) + spec.elements
        stored[number] = stored.get(number, 0) + spec.nbytes
    outer = elements.pop("", 0)
    stored.pop("", 0)
    return max(elements.values(), default=0), max(stored.values(), default=0), outer
