"""The torch side that codecs share: dtypes, devices, and chunks put together to a tensor."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import torch

from ucaudit.core.errors import DeviceUnavailableError, MalformedPackError
from ucaudit.packs.codecs.base import TensorSpec

TORCH_DTYPES: Final[dict[str, torch.dtype]] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F64": torch.float64,
}
"""safetensors' spelling → torch dtype, for every dtype that :mod:`ucaudit.core.tensorfile` reads."""

_DEVICE: Final = re.compile(r"cpu|cuda(?::(0|[1-9][0-9]?))?")


class _HighestPrecision:
    """float32 matrix products in float32 while anybody is inside: the first one in switches, the last restores."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = "highest"

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = torch.get_float32_matmul_precision()
                torch.set_float32_matmul_precision("highest")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                torch.set_float32_matmul_precision(self._before)


_HIGHEST_PRECISION: Final = _HighestPrecision()


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch's operations in the calling thread.

    Decoding is many short operations. Spread over OpenMP threads they mostly wait for one another, and on a
    machine with other work they spin for ten times as long; whole tensors are the better unit to share out.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def torch_device(name: str) -> torch.device:
    """The device for exact arithmetic.

    Args:
        name: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        DeviceUnavailableError: no such device here, or one whose float32 arithmetic is not IEEE (``mps``
            flushes subnormal numbers to zero).
    """
    match = _DEVICE.fullmatch(name)
    if match is None:
        raise DeviceUnavailableError(
            f"reconstruction runs on cpu or cuda, not on {name[:40]!r}",
            hint="use --device cpu: the bits are the same",
        )
    if name == "cpu":
        return torch.device("cpu")
    index = int(match.group(1) or 0)
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= found:
        raise DeviceUnavailableError(
            f"{name} was asked for, {found} cuda devices are usable", hint="use --device cpu: the bits are the same"
        )
    return torch.device("cuda", index)


def assemble(spec: TensorSpec, chunks: Iterable[bytes | memoryview], device: str = "cpu") -> torch.Tensor:
    """Put a tensor together from its raw bytes.

    Args:
        spec: dtype and shape.
        chunks: little-endian row-major bytes in order, ``spec.nbytes`` in all.
        device: where the tensor shall lie.

    Raises:
        MalformedPackError: too few or too many bytes.
    """
    buffer = torch.empty(spec.nbytes, dtype=torch.uint8)
    view = buffer.numpy().data
    position = 0
    for chunk in chunks:
        end = position + len(chunk)
        if end > spec.nbytes:
            raise MalformedPackError(f"tensor {spec.name!r} yields more than {spec.nbytes} bytes")
        view[position:end] = chunk
        position = end
    if position != spec.nbytes:
        raise MalformedPackError(f"tensor {spec.name!r} yields {position} bytes, expected {spec.nbytes}")
    if spec.elements == 0:
        return torch.empty(spec.shape, dtype=TORCH_DTYPES[spec.dtype], device=device)
    return buffer.view(TORCH_DTYPES[spec.dtype]).reshape(spec.shape).to(device)


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """The row-major bytes of a contiguous tensor, brought to the CPU if need be; no copy on the CPU."""
    host = tensor.detach().cpu().contiguous().reshape(-1)
    if host.numel() == 0:
        return memoryview(b"")
    return host.view(torch.uint8).numpy().data


def integer_matmul(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """``left @ right`` for float32 matrices of integers whose every partial sum is below 2^24: exact.

    Every order of summation gives the same bits, as long as products and sums really are float32: TF32 and
    bf16 substitutes are switched off for the call, so a host program's settings do not matter.
    """
    with _HIGHEST_PRECISION, torch.autocast(device_type=left.device.type, enabled=False):
        return torch.matmul(left, right)
