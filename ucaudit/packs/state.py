"""Reconstructing a pack: tensor by tensor, chunk by chunk, hashed as it is made."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from typing import Final, TypeVar

from ucaudit.core.digest import StateEntry, StateManifest
from ucaudit.core.errors import MalformedPackError, ModelError, StateDriftError, missing_extra
from ucaudit.core.progress import SILENT, Progress
from ucaudit.core.tensorfile import DTYPE_SIZES
from ucaudit.packs.codecs.base import TensorSource, TensorSpec

try:
    import torch

    from ucaudit.packs.codecs.tensors import TORCH_DTYPES, assemble, one_thread
except ImportError as error:  # a light install may ask for `verify --full`
    raise missing_extra("measure", error.name or "torch") from error

T = TypeVar("T")
Sink = Callable[[TensorSpec, bytes | memoryview], None]
_BLOCK_ELEMENTS: Final = 1 << 20
_FLOATS: Final = frozenset({"BF16", "F16", "F32", "F64"})


def reconstruct_state(
    source: TensorSource,
    *,
    device: str = "cpu",
    progress: Progress = SILENT,
    sink: Sink | None = None,
    threads: int | None = None,
    names: Sequence[str] | None = None,
) -> StateManifest:
    """Decode every tensor and hash it.

    Args:
        source: an opened pack.
        device: ``cpu`` or ``cuda``; the result does not depend on it.
        progress: told about decoded bytes.
        sink: receives every chunk with its tensor's spec: the chunks of one tensor in order and from one thread,
            different tensors at the same time. A chunk is only valid during the call.
        threads: tensors decoded at a time, by default as many as torch would use threads; the result does not
            depend on it.

    Returns:
        The state manifest. Memory in use is a small multiple of one chunk a thread, not of a tensor.

    Raises:
        InputError: no tensor of such a name.
        MalformedPackError: the stored bytes contradict the format.
        DeviceUnavailableError: the device is absent or refused.
    """
    specs = source.specs if names is None else tuple(source.spec(name) for name in names)

    def decode(spec: TensorSpec, advance: Callable[[int], None]) -> StateEntry:
        hasher = hashlib.sha256()
        total = 0
        for chunk in source.stream(spec.name, device=device):
            hasher.update(chunk)
            if sink is not None:
                sink(spec, chunk)
            total += len(chunk)
            advance(len(chunk))
        if total != spec.nbytes:
            raise MalformedPackError(
                f"tensor {spec.name!r} decodes to {total} bytes, expected {spec.nbytes}", subject=source.pack.name
            )
        return StateEntry(spec.name, spec.dtype, spec.shape, hasher.hexdigest())

    workers = workers_for(device, threads)
    progress.start(sum(spec.nbytes for spec in specs), "bytes", f"reconstructing {source.pack.name}")
    entries = each_tensor(specs, decode, workers, progress)
    progress.finish()
    return StateManifest.build(entries)


def load_tensors(
    source: TensorSource, names: Sequence[str], *, device: str = "cpu", threads: int | None = None
) -> dict[str, torch.Tensor]:
    """Decode some tensors whole, several at a time.

    Args:
        source: an opened pack.
        names: of its specs.
        device: where to decode, and where the tensors shall lie.
        threads: tensors decoded at a time, by default as many as torch would use threads.

    Raises:
        InputError, MalformedPackError, DeviceUnavailableError: as :meth:`TensorSource.stream`.
    """
    specs = [source.spec(name) for name in names]

    def decode(spec: TensorSpec, _: Callable[[int], None]) -> torch.Tensor:
        return assemble(spec, source.stream(spec.name, device=device), device)

    return dict(zip(names, each_tensor(specs, decode, workers_for(device, threads), SILENT), strict=True))


def workers_for(device: str, threads: int | None) -> int:
    """A GPU is fed by one thread."""
    return 1 if device != "cpu" else max(1, threads if threads is not None else torch.get_num_threads())


def each_tensor(
    specs: Sequence[TensorSpec],
    work: Callable[[TensorSpec, Callable[[int], None]], T],
    workers: int,
    progress: Progress,
) -> list[T]:
    """Do ``work`` for every tensor, several at a time; results in the order of ``specs``.

    ``work`` reports bytes through its second argument, which is also where it stops when another one failed.
    """
    lock = threading.Lock()
    stopped = threading.Event()

    def advance(amount: int) -> None:
        if stopped.is_set():
            raise CancelledError
        with lock:
            progress.advance(amount)

    with one_thread(), ThreadPoolExecutor(max_workers=workers) as pool:
        futures = [pool.submit(work, spec, advance) for spec in specs]
        try:
            # Woken once, not for every small tensor: that takes the interpreter from those that work.
            wait(futures, return_when=FIRST_EXCEPTION)
            return [future.result() for future in futures]  # if several fail, the first one's error
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)


def compare_states(expected: StateManifest, found: StateManifest, *, subject: str) -> None:
    """Require two states to be equal.

    Raises:
        StateDriftError: with a sentence for each drifted tensor (the first ten; the count is in the hint).
    """
    drift = found.drift_from(expected)
    if drift:
        raise StateDriftError("; ".join(drift[:10]), subject=subject, hint=f"{len(drift)} tensor(s) drifted")


def require_same_tensors(source: TensorSource, reference: TensorSource) -> dict[str, TensorSpec]:
    """Compare names and shapes; no tensor is read.

    Returns:
        The reference's specs by name.

    Raises:
        ModelError: the two have other tensors, or other shapes.
    """
    theirs = {spec.name: spec for spec in reference.specs}
    if theirs.keys() != {spec.name for spec in source.specs}:
        different = sorted(theirs.keys() ^ {spec.name for spec in source.specs})
        raise ModelError(
            f"pack and reference have other tensors: {', '.join(different[:3])}",
            subject=reference.pack.name,
            hint="give the model that the pack was made from as --reference",
        )
    for spec in source.specs:
        if theirs[spec.name].shape != spec.shape:
            raise ModelError(
                f"tensor {spec.name!r}: expected shape {list(theirs[spec.name].shape)}, found {list(spec.shape)}",
                subject=source.pack.name,
            )
    return theirs


def relative_errors(
    source: TensorSource,
    reference: TensorSource,
    *,
    device: str = "cpu",
    progress: Progress = SILENT,
    threads: int | None = None,
) -> dict[str, tuple[float, float]]:
    """How far each reconstructed tensor is from the reference's.

    Args:
        source: the pack.
        reference: a source with the same tensor names and shapes; dtypes may differ.
        device: where the pack is decoded.
        progress: told about compared bytes of the pack.
        threads: tensors compared at a time, by default as many as torch would use threads.

    Returns:
        Tensor name → (‖W − W_ref‖²_F, ‖W_ref‖²_F), both in float64, so that errors of tensors can be summed
        to the error of a layer; the relative error is the root of their quotient. Sums are taken over blocks
        of 2^20 elements, whatever the chunks.

    Raises:
        ModelError: the two have other tensors, or other shapes.
    """
    theirs = require_same_tensors(source, reference)
    specs = [spec for spec in source.specs if spec.dtype in _FLOATS and theirs[spec.name].dtype in _FLOATS]

    def compare(spec: TensorSpec, advance: Callable[[int], None]) -> tuple[float, float]:
        difference = norm = 0.0
        pairs = zip(blocks(source, spec, device), blocks(reference, theirs[spec.name], device), strict=True)
        for mine, wanted in ((one.double(), other.double()) for one, other in pairs):
            norm += float(torch.dot(wanted, wanted))
            gap = mine - wanted
            difference += float(torch.dot(gap, gap))
            advance(mine.numel() * DTYPE_SIZES[spec.dtype])
        return difference, norm

    progress.start(sum(spec.nbytes for spec in specs), "bytes", "comparing with the reference")
    sums = each_tensor(specs, compare, workers_for(device, threads), progress)
    progress.finish()
    return {spec.name: pair for spec, pair in zip(specs, sums, strict=True)}


def blocks(
    source: TensorSource,
    spec: TensorSpec,
    device: str,
    *,
    told: Callable[[bytes | memoryview], object] | None = None,
) -> Iterator[torch.Tensor]:
    """A tensor's elements in their own dtype, 2^20 at a time, whatever the size of the chunks.

    ``told``: is given every chunk's bytes, in order, as they are read.
    """
    dtype = TORCH_DTYPES[spec.dtype]
    block_bytes = _BLOCK_ELEMENTS * dtype.itemsize
    waiting = bytearray()
    for chunk in source.stream(spec.name, device=device):
        if told is not None:
            told(chunk)
        waiting += chunk
        while len(waiting) >= block_bytes:
            yield torch.frombuffer(waiting[:block_bytes], dtype=dtype)
            del waiting[:block_bytes]
    if waiting:
        yield torch.frombuffer(waiting, dtype=dtype)
