"""An example of a codec plug-in for ucaudit: one class, one function, one entry point.

The made-up format: every ``layer_NNN.uc`` is one weight of ``[rows, columns]``: two little-endian 32-bit sizes, a
float32 scale, then a signed byte an element. The arithmetic profile ``example-f32-bf16/1``: byte times scale in
float32, rounded once to bfloat16, to nearest even. Everything a plug-in needs of ucaudit is imported below.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from ucaudit.core.errors import MalformedPackError
from ucaudit.packs.carried import carried_paths
from ucaudit.packs.codecs.base import CHUNK_BYTES, BitsPerWeight, TensorSource, TensorSpec, sort_specs
from ucaudit.packs.opened import OpenedPack

_HEAD = struct.Struct("<IIf")


class ExampleSource(TensorSource):
    """A pack of the made-up format."""

    codec = "ultracompress"
    codec_version = 1
    arithmetic_profile = "example-f32-bf16/1"

    def __init__(self, pack: OpenedPack) -> None:
        self.pack = pack
        self._files = {}
        specs = []
        for file in pack.files:
            if not file.path.endswith(".uc") or not file.path.startswith("layer_"):
                continue
            with pack.open(file.path) as handle:
                head = handle.read(_HEAD.size)
            if len(head) < _HEAD.size:
                raise MalformedPackError("truncated", subject=f"{pack.name}/{file.path}")
            rows, columns, scale = _HEAD.unpack(head)
            if file.size != _HEAD.size + rows * columns:
                raise MalformedPackError(
                    f"{file.size} bytes, expected {_HEAD.size + rows * columns}", subject=f"{pack.name}/{file.path}"
                )
            number = int(file.path.removeprefix("layer_").removesuffix(".uc"))
            name = f"model.layers.{number}.mlp.up_proj.weight"
            self._files[name] = (file.path, scale)
            specs.append(TensorSpec(name, "BF16", (rows, columns)))
        self.specs = sort_specs(specs, subject=pack.name)

    def stream(
        self, name: str, *, device: str = "cpu", chunk_bytes: int = CHUNK_BYTES
    ) -> Iterator[bytes | memoryview]:
        """Decoded bytes in order. torch is imported here, so that listing a pack stays light."""
        import torch

        from ucaudit.packs.codecs.rounding import round_to_bf16
        from ucaudit.packs.codecs.tensors import raw_bytes, torch_device

        where = torch_device(device)
        path, scale = self._files[self.spec(name).name]
        with self.pack.open(path) as handle:
            handle.seek(_HEAD.size)
            while data := handle.read(max(1, chunk_bytes // 2)):
                codes = torch.frombuffer(bytearray(data), dtype=torch.int8).to(where)
                yield raw_bytes(round_to_bf16(codes.to(torch.float32).mul_(scale)))
            self.pack.check_unchanged(path, handle)

    def config(self) -> dict[str, Any]:
        """The checkpoint's ``config.json``."""
        return dict(self.pack.read_json("config.json"))

    def carried_files(self) -> Sequence[str]:
        """Files that travel with the checkpoint unchanged."""
        return carried_paths(self.pack)

    def open_carried(self, path: str) -> BinaryIO:
        """Open one of them."""
        return self.pack.open(path)

    def bits_per_weight(self) -> BitsPerWeight:
        """Counted on the files."""
        stored = sum(self.pack.size(path) for path, _ in self._files.values())
        return BitsPerWeight(
            nominal=8,
            compressed_on_disk=8 * stored / self.parameters,
            whole_on_disk=8 * self.pack.total_bytes / self.parameters,
        )


def open_example(pack: OpenedPack) -> ExampleSource:
    """What the entry point names: open a pack, or raise one of ucaudit's errors."""
    return ExampleSource(pack)
