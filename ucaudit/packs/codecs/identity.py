"""Codec ``safetensors``, profile ``identity/1``: a plain checkpoint, every tensor as it is stored.

Layout: ``model.safetensors``, or shards with ``model.safetensors.index.json`` (``weight_map``: tensor → file).
No arithmetic is done, so the bytes are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Final

from ucaudit.core import tensorfile
from ucaudit.core.errors import MalformedPackError
from ucaudit.core.tensorfile import Header, TensorInfo
from ucaudit.packs.carried import carried_paths, stated_license
from ucaudit.packs.codecs.base import (
    CHUNK_BYTES,
    BitsPerWeight,
    Provenance,
    TensorSource,
    TensorSpec,
    sort_specs,
)
from ucaudit.packs.detect import CONFIG_NAME, INDEX_NAME, SINGLE_NAME
from ucaudit.packs.opened import OpenedPack

SINGLE_FILE: Final = SINGLE_NAME
INDEX_FILE: Final = INDEX_NAME


class IdentitySource(TensorSource):
    """A safetensors checkpoint."""

    codec = "safetensors"
    codec_version = 1
    arithmetic_profile = "identity/1"

    def __init__(self, pack: OpenedPack) -> None:
        self.pack = pack
        self._config = _read_object(pack, CONFIG_NAME)
        self._handles: dict[str, BinaryIO] = {}
        try:
            self._places, self._file_bytes = self._read_headers()
        except BaseException:
            self.close()
            raise
        self.specs = sort_specs(
            [TensorSpec(info.name, info.dtype, info.shape) for _, info in self._places.values()], subject=pack.name
        )
        self.ties = _ties(self._config, self._places)

    def _read_headers(self) -> tuple[dict[str, tuple[str, TensorInfo]], int]:
        weight_map = _weight_map(self.pack)
        places: dict[str, tuple[str, TensorInfo]] = {}
        total = 0
        for name in sorted(set(weight_map.values())) if weight_map is not None else [single_file(self.pack)]:
            subject = f"{self.pack.name}/{name}"
            handle = self.pack.open(name)
            self._handles[name] = handle
            header: Header = tensorfile.read_header(handle, subject=subject)
            total += header.file_size
            for info in header.tensors.values():
                if weight_map is not None and weight_map.get(info.name) != name:
                    raise MalformedPackError(f"tensor {info.name!r} is not in the index", subject=subject)
                places[info.name] = (name, info)
        for tensor, name in (weight_map or {}).items():
            if tensor not in places:
                raise MalformedPackError(
                    f"the index puts tensor {tensor[:200]!r} into it, but it is not there",
                    subject=f"{self.pack.name}/{name}",
                )
        return places, total

    def stream(
        self, name: str, *, device: str = "cpu", chunk_bytes: int = CHUNK_BYTES
    ) -> Iterator[bytes | memoryview]:
        """The stored bytes; ``device`` plays no part."""
        file, info = self._places[self.spec(name).name]
        yield from tensorfile.read_chunks(
            self._handles[file], info, subject=f"{self.pack.name}/{file}", chunk_bytes=chunk_bytes
        )
        self.pack.check_unchanged(file, self._handles[file])

    def config(self) -> dict[str, Any]:
        """As the base class says."""
        return self._config

    def carried_files(self) -> Sequence[str]:
        """As the base class says."""
        return carried_paths(self.pack)

    def open_carried(self, path: str) -> BinaryIO:
        """As the base class says."""
        return self.pack.open(path)

    def bits_per_weight(self) -> BitsPerWeight:
        """Nothing is compressed: only the whole is measured."""
        return BitsPerWeight(
            nominal=None,
            compressed_on_disk=None,
            whole_on_disk=8 * self._file_bytes / max(1, self.parameters),
        )

    def provenance(self) -> Provenance:
        """The licence of the model card, if there is one."""
        return Provenance(license=stated_license(self.pack))

    def prefetch(self, names: Sequence[str]) -> None:
        """As the base class says."""
        for name in names:
            file, info = self._places[name]
            tensorfile.advise(self._handles[file], info)

    def close(self) -> None:
        """Close the tensor files."""
        for handle in self._handles.values():
            handle.close()
        super().close()


def open_identity(pack: OpenedPack) -> IdentitySource:
    """Open a plain checkpoint. Raises MalformedPackError."""
    return IdentitySource(pack)


def _read_object(pack: OpenedPack, path: str) -> dict[str, Any]:
    if not pack.has(path):
        raise MalformedPackError("a checkpoint needs it, but it is missing", subject=f"{pack.name}/{path}")
    value = pack.read_json(path)
    if not isinstance(value, dict):
        raise MalformedPackError("expected a json object", subject=f"{pack.name}/{path}")
    return value


def single_file(pack: OpenedPack) -> str:
    """The tensors' file where there is no index: ``model.safetensors``, or the only one (older GPTQ packs).

    Raises:
        MalformedPackError: there is none, or there are several.
    """
    if pack.has(SINGLE_FILE):
        return SINGLE_FILE
    names = [file.path for file in pack.files if file.path.endswith(".safetensors") and "/" not in file.path]
    if len(names) != 1 or names[0].startswith("model-") or "-of-" in names[0]:  # a shard is not a checkpoint
        raise MalformedPackError(f"neither {SINGLE_FILE} nor {INDEX_FILE}", subject=pack.name)
    return names[0]


def _weight_map(pack: OpenedPack) -> dict[str, str] | None:
    """The index of a sharded checkpoint, its file names checked against the pack; None for a single file."""
    if not pack.has(INDEX_FILE):
        single_file(pack)
        return None
    subject = f"{pack.name}/{INDEX_FILE}"
    if pack.has(SINGLE_FILE):
        raise MalformedPackError(f"{SINGLE_FILE} beside it: which of the two is meant", subject=subject)
    weight_map = _read_object(pack, INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise MalformedPackError("weight_map must be an object", subject=subject)
    for file in weight_map.values():
        if not isinstance(file, str) or not file.endswith(".safetensors") or not pack.has(file):
            raise MalformedPackError(f"it names {str(file)[:200]!r}, which is not in the pack", subject=subject)
    return weight_map


def _ties(config: dict[str, Any], places: dict[str, tuple[str, TensorInfo]]) -> tuple[tuple[str, str], ...]:
    """A head that is absent from the files and tied to the embedding."""
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    tied = config.get("tie_word_embeddings", True) is True
    return ((head, embedding),) if tied and embedding in places and head not in places else ()
