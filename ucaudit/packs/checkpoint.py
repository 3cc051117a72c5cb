"""Writing a reconstructed pack as a checkpoint that transformers loads. The state digest falls out on the way."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from typing import BinaryIO, Final

from ucaudit.core.digest import StateManifest
from ucaudit.core.errors import OutputError, UnsafePathError
from ucaudit.core.progress import SILENT, Progress
from ucaudit.core.tensorfile import DTYPE_SIZES
from ucaudit.evidence.bundle import staged
from ucaudit.packs.codecs.base import TensorSource, TensorSpec
from ucaudit.packs.codecs.identity import INDEX_FILE, SINGLE_FILE
from ucaudit.packs.state import reconstruct_state

SHARD_BYTES: Final = 5_000_000_000
_COPY_BYTES: Final = 1 << 20


def write_checkpoint(
    source: TensorSource,
    out: Path,
    *,
    device: str = "cpu",
    progress: Progress = SILENT,
    shard_bytes: int = SHARD_BYTES,
) -> StateManifest:
    """Reconstruct a pack into a new directory.

    ``model.safetensors`` (or shards of at most ``shard_bytes`` and an index) holds exactly the tensors of
    ``source.specs``; configuration, tokenizer and licence files are copied. The bytes depend on the source
    alone. The directory appears under its name when it is complete; an interrupted run leaves nothing.

    Args:
        source: an opened pack.
        out: the directory to make; an empty one may exist.
        device: where to decode.
        progress: told about decoded bytes.
        shard_bytes: the most tensor bytes a shard holds; one tensor alone may be larger.

    Raises:
        RefusedError: ``out`` exists and is not an empty directory.
        OutputError: it cannot be written.
        MalformedPackError, DeviceUnavailableError: as :func:`ucaudit.packs.state.reconstruct_state`.
    """
    try:
        with staged(out) as stage:
            state = _write_tensors(source, stage, device, progress, shard_bytes)
            for path in source.carried_files():
                _copy(source, path, stage)
    except OSError as error:
        raise OutputError(
            f"cannot write: {error.strerror or 'input/output error'}",
            subject=str(out),
            hint="choose another output path",
        ) from error
    return state


def _write_tensors(
    source: TensorSource, stage: Path, device: str, progress: Progress, shard_bytes: int
) -> StateManifest:
    shards = _plan_shards(source.specs, shard_bytes)
    names = [SINGLE_FILE]
    if len(shards) > 1:
        names = [f"model-{index:05d}-of-{len(shards):05d}.safetensors" for index in range(1, len(shards) + 1)]
        _write_index(stage, shards, names)
    handles: dict[str, BinaryIO] = {}
    positions: dict[str, tuple[BinaryIO, int]] = {}
    try:
        for name, specs in zip(names, shards, strict=True):
            handle: BinaryIO = (stage / name).open("wb", buffering=0)
            handles[name] = handle
            header, offsets = _header(specs)
            handle.write(header)
            positions.update({tensor: (handle, offset) for tensor, offset in offsets.items()})

        def sink(spec: TensorSpec, chunk: bytes | memoryview) -> None:
            handle, position = positions[spec.name]
            view = memoryview(chunk).cast("B")
            while view:
                written = os.pwrite(handle.fileno(), view, position)
                view = view[written:]
                position += written
            positions[spec.name] = (handle, position)

        state = reconstruct_state(source, device=device, progress=progress, sink=sink)
        for handle in handles.values():
            os.fsync(handle.fileno())
    finally:
        for handle in handles.values():
            handle.close()
    return state


def _plan_shards(specs: tuple[TensorSpec, ...], shard_bytes: int) -> list[list[TensorSpec]]:
    shards: list[list[TensorSpec]] = [[]]
    filled = 0
    for spec in specs:
        if shards[-1] and filled + spec.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(spec)
        filled += spec.nbytes
    return shards


def _header(specs: list[TensorSpec]) -> tuple[bytes, dict[str, int]]:
    """The container's header and each tensor's absolute offset: wide dtypes first, so that all are aligned."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offsets: dict[str, int] = {}
    position = 0
    for spec in sorted(specs, key=lambda spec: (-DTYPE_SIZES[spec.dtype], spec.name.encode())):
        offsets[spec.name] = position
        entries[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [position, position + spec.nbytes],
        }
        position += spec.nbytes
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = struct.pack("<Q", len(text)) + text
    return header, {name: len(header) + offset for name, offset in offsets.items()}


def _write_index(stage: Path, shards: list[list[TensorSpec]], names: list[str]) -> None:
    weight_map = {spec.name: name for name, specs in zip(names, shards, strict=True) for spec in specs}
    total = sum(spec.nbytes for specs in shards for spec in specs)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (stage / INDEX_FILE).write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _copy(source: TensorSource, path: str, stage: Path) -> None:
    """Copy one carried file below ``stage``; a source may not make it land anywhere else."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or path in (SINGLE_FILE, INDEX_FILE):
        raise UnsafePathError("not a path for a carried file", subject=path)
    target = stage.joinpath(*parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open_carried(path) as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer, _COPY_BYTES)
        writer.flush()
        os.fsync(writer.fileno())
