"""Codec ``gguf``: a GGUF file, or a model split over several, as a Hugging Face checkpoint.

Profiles: ``ggml-f32-bf16/1`` (the default) dequantises each block to float32 as ggml does and rounds once to
bfloat16, to nearest even; ``ggml-f32/1`` leaves ggml's float32 values as they are. Rows of query and key
projections that llama.cpp stores interleaved for its rotary positions are put back in Hugging Face's order.
Architectures without a rule (:mod:`ucaudit.packs.codecs.gguf_names`) keep llama.cpp's names: they can be hashed
and compared, but not measured.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from ucaudit.core.errors import CodecUnavailableError, MalformedPackError, NotFoundError, missing_extra
from ucaudit.packs.codecs.base import (
    CHUNK_BYTES,
    BitsPerWeight,
    Provenance,
    TensorSource,
    TensorSpec,
    sort_specs,
)
from ucaudit.packs.codecs.gguf_header import GgufHeader, read_gguf_header
from ucaudit.packs.codecs.gguf_model import EMBEDDING, HEAD, GgufModel
from ucaudit.packs.codecs.gguf_names import Place
from ucaudit.packs.detect import CONFIG_NAME, gguf_files
from ucaudit.packs.opened import OpenedPack

if TYPE_CHECKING:
    import torch

_LICENCE: Final = re.compile(r"[A-Za-z0-9][\w.+-]{0,79}")
_MAX_TABLE: Final = 1 << 16
WORTHWHILE: Final = 5_000_000_000
"""Elements in K-quants from which a compiled decoder pays: it compiles for 2 to 3 s and saves 0.6 s a billion."""
K_QUANTS: Final = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
_DTYPES: Final = {"ggml-f32-bf16/1": ("BF16", "bfloat16"), "ggml-f32/1": ("F32", "float32")}


class GgufSource(TensorSource):
    """A GGUF model."""

    codec = "gguf"
    codec_version = 1
    profiles = ("ggml-f32-bf16/1", "ggml-f32/1")

    def __init__(self, pack: OpenedPack) -> None:
        self.pack = pack
        self._paths = gguf_files(pack)
        self._subject = pack.name if pack.single_file else f"{pack.name}/{self._paths[0]}"
        self._handles: list[BinaryIO] = []
        try:
            headers = self._read_headers()
            self._model = GgufModel(headers[0], self._subject)
            self._places = self._model.places([list(header.tensors.values()) for header in headers])
        except BaseException:
            self.close()
            raise
        self._headers = headers
        self.ties = ((HEAD, EMBEDDING),) if EMBEDDING in self._places and HEAD not in self._places else ()
        self._carried: dict[str, bytes] | None = None
        self._apply_profile(self.profiles[0])

    def _read_headers(self) -> list[GgufHeader]:
        headers = []
        for index, path in enumerate(self._paths):
            self._handles.append(self.pack.open(path))
            subject = self._subject if len(self._paths) == 1 else f"{self.pack.name}/{path}"
            # The first file of a split model may hold nothing but metadata.
            header = read_gguf_header(self._handles[-1], subject=subject, allow_none=len(self._paths) > 1)
            split = (header.metadata.get("split.no", 0), header.metadata.get("split.count", 0) or 1)
            if split != (index, len(self._paths)):
                raise MalformedPackError(
                    f"says that it is file {split[0]!r:.20} (from 0) of {split[1]!r:.20}, "
                    f"expected {index} of {len(self._paths)}",
                    subject=subject,
                    hint="a model split over several files is read as the directory that holds them all",
                )
            headers.append(header)
        return headers

    def _apply_profile(self, name: str) -> None:
        self.arithmetic_profile = name
        self._dtype = _DTYPES[name][0]
        self._carried = None
        self.specs = sort_specs(
            [TensorSpec(name, self._dtype, place.shape) for name, place in self._places.items()],
            subject=self._subject,
        )
        self.__dict__.pop("_specs_by_name", None)

    def stream(self, name: str, *, device: str = "cpu", chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """As the base class says."""
        try:
            import torch

            from ucaudit.packs.codecs.rounding import round_to
            from ucaudit.packs.codecs.tensors import raw_bytes, torch_device
            from ucaudit.packs.codecs.ucq_math import require_ieee
        except ImportError as error:
            raise missing_extra("measure", error.name or "torch") from error

        place = self._places[self.spec(name).name]
        where = torch_device(device)
        require_ieee(where)
        decode = self._decoder(where)
        tensor = place.tensor
        # One axis of values without blocks is read as rows of one value: a permuted bias has its rows there.
        columns = 1 if len(tensor.shape) == 1 and tensor.block_elements == 1 else tensor.shape[-1]
        row_bytes = columns // tensor.block_elements * tensor.block_bytes
        rows = self.spec(name).elements // columns
        step = max(1, chunk_bytes // (2 * columns * place.unit)) * place.unit
        for begin in range(0, rows, step):
            count = min(step, rows - begin)
            data = self._read(place, (place.first_row + begin) * row_bytes, count * row_bytes)
            stored = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(-1, tensor.block_bytes)
            values = decode(tensor.type_name, tensor.type_number, stored.to(where)).view(count, columns)
            if place.unit > 1:
                values = values.view(-1, place.unit // 2, 2, columns).transpose(1, 2).contiguous()
            try:
                yield raw_bytes(round_to(values, self._dtype))
            except MalformedPackError as error:
                raise MalformedPackError(f"tensor {name!r}: {error.message}", subject=self._subject) from error
        self.pack.check_unchanged(self._paths[place.file], self._handles[place.file])

    def _decoder(self, device: torch.device) -> Callable[[str, int, torch.Tensor], torch.Tensor]:
        """The compiled decoder where it is there and pays, otherwise the plain one; their bits are the same."""
        from ucaudit.packs.codecs.gguf_blocks import DECODERS, decode_blocks

        decode = decode_blocks
        if device.type == "cpu" and self._compilable >= WORTHWHILE:
            with contextlib.suppress(ImportError):
                from ucaudit.packs.codecs.gguf_fast import decode_blocks as decode

        def any_kind(kind: str, number: int, blocks: torch.Tensor) -> torch.Tensor:
            return decode(kind, blocks) if kind in DECODERS else self._decode_elsewhere(number, blocks)

        return any_kind

    @functools.cached_property
    def _compilable(self) -> int:
        """Elements in tensors of the types that :mod:`ucaudit.packs.codecs.gguf_fast` decodes."""
        tensors = {id(place.tensor): place.tensor for place in self._places.values()}.values()
        return sum(math.prod(tensor.shape) for tensor in tensors if tensor.type_name in K_QUANTS)

    def _decode_elsewhere(self, number: int, blocks: torch.Tensor) -> torch.Tensor:
        import numpy as np
        import torch

        try:
            from gguf import GGMLQuantizationType
            from gguf.quants import dequantize
        except ImportError as error:
            raise missing_extra("measure", error.name or "gguf") from error
        with np.errstate(all="ignore"):
            values = dequantize(blocks.cpu().numpy(), GGMLQuantizationType(number))
        return torch.from_numpy(np.ascontiguousarray(values)).to(blocks.device)

    def _read(self, place: Place, offset: int, count: int) -> bytes:
        begin, parts = place.tensor.begin + offset, []
        end = begin + count
        while begin < end:
            part = os.pread(self._handles[place.file].fileno(), end - begin, begin)
            if not part:
                raise MalformedPackError(f"truncated in tensor {place.tensor.name!r}", subject=self._subject)
            parts.append(part)
            begin += len(part)
        return b"".join(parts)

    def _read_floats(self, name: str) -> tuple[float, ...]:
        """A small stored float32 tensor: the rotary factors."""
        for index, header in enumerate(self._headers):
            tensor = header.tensors.get(name)
            if tensor is not None and tensor.type_name == "F32" and tensor.end - tensor.begin <= _MAX_TABLE:
                data = self._read(Place(tensor, tensor.shape, file=index), 0, tensor.end - tensor.begin)
                return struct.unpack(f"<{len(data) // 4}f", data)
        raise CodecUnavailableError(f"tensor {name!r} is not a small float32 table", subject=self._subject)

    def config(self) -> dict[str, Any]:
        """Built from the file's metadata. Raises CodecUnavailableError for an architecture without a rule."""
        return self._model.config(self._places, _DTYPES[self.arithmetic_profile][1], self._read_floats)

    def carried_files(self) -> Sequence[str]:
        """``config.json`` and the tokenizer, both built from the metadata."""
        return sorted(self._built())

    def open_carried(self, path: str) -> BinaryIO:
        """As the base class says."""
        built = self._built()
        if path not in built:
            raise NotFoundError("not a carried file", subject=f"{self._subject}: {path[:200]}")
        return io.BytesIO(built[path])

    def _built(self) -> dict[str, bytes]:
        if self._carried is None:
            from ucaudit.packs.codecs.gguf_tokenizer import build_tokenizer

            config = json.dumps(self.config(), indent=2, sort_keys=True) + "\n"
            template = self._model.text("tokenizer.chat_template")
            self._carried = {
                CONFIG_NAME: config.encode(),
                **self._model_card(),
                **build_tokenizer(self._handles[0], template=template, subject=self._subject),
            }
        return self._carried

    def _model_card(self) -> dict[str, bytes]:
        """A README.md that carries the stated licence on; none if the file states no licence identifier."""
        licence = self._model.text("general.license")
        if licence is None or not _LICENCE.fullmatch(licence):
            return {}
        card = (
            f"---\nlicense: {licence}\n---\n\nReconstructed from a GGUF file by ucaudit, arithmetic profile "
            f"{self.arithmetic_profile}.\nThe licence is the one that the file's metadata states.\n"
        )
        return {"README.md": card.encode()}

    def bits_per_weight(self) -> BitsPerWeight:
        """Measured on the file: blocks of the quantised tensors, and the whole file."""
        stored = {id(place.tensor): place.tensor for place in self._places.values()}.values()
        packed = [tensor for tensor in stored if tensor.block_elements > 1]
        elements = sum(
            (tensor.end - tensor.begin) // tensor.block_bytes * tensor.block_elements for tensor in packed
        )
        size = sum(tensor.end - tensor.begin for tensor in packed)
        return BitsPerWeight(
            nominal=None,
            compressed_on_disk=8 * size / elements if elements else None,
            whole_on_disk=8 * sum(map(self.pack.size, self._paths)) / self.parameters,
        )

    def provenance(self) -> Provenance:
        """Licence and origin as the metadata states them."""
        return Provenance(
            license=self._model.text("general.license"), source=self._model.text("general.source.url")
        )

    def unclaimed(self) -> tuple[str, ...]:
        """Files beside the GGUF files of a directory."""
        return tuple(file.path for file in self.pack.files if file.path not in self._paths)

    def close(self) -> None:
        """Close the files."""
        for handle in self._handles:
            handle.close()
        super().close()


def open_gguf(pack: OpenedPack) -> GgufSource:
    """Open a GGUF file. Raises MalformedPackError, CodecUnavailableError."""
    return GgufSource(pack)
