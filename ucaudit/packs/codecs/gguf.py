"""Codec ``gguf``, profile ``ggml-f32-bf16/1``: a llama GGUF file as a bf16 Hugging Face checkpoint.

Each block is dequantised to float32 by llama.cpp's own Python package (``gguf.quants``, bit-identical to ggml's
C code) and rounded once to bfloat16, to nearest even. The rows of the query and key projections, which
llama.cpp stores interleaved for its rotary positions, are put back in Hugging Face's order.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from ucaudit.core.errors import MalformedPackError, NotFoundError, missing_extra
from ucaudit.packs.codecs.base import (
    CHUNK_BYTES,
    BitsPerWeight,
    Provenance,
    TensorSource,
    TensorSpec,
    sort_specs,
)
from ucaudit.packs.codecs.gguf_header import GgufTensor, read_gguf_header
from ucaudit.packs.codecs.gguf_llama import LlamaMetadata
from ucaudit.packs.detect import CONFIG_NAME
from ucaudit.packs.opened import OpenedPack

if TYPE_CHECKING:
    import numpy as np

_EMBEDDING: Final = "model.embed_tokens.weight"
_HEAD: Final = "lm_head.weight"
_LICENCE: Final = re.compile(r"[A-Za-z0-9][\w.+-]{0,79}")
_ROUNDS_TO_INFINITY: Final = 0x7F7F8000


class GgufSource(TensorSource):
    """A GGUF file of the llama architecture."""

    codec = "gguf"
    codec_version = 1
    arithmetic_profile = "ggml-f32-bf16/1"

    def __init__(self, pack: OpenedPack) -> None:
        self.pack = pack
        self._path = next(file.path for file in pack.files if file.path.endswith(".gguf"))
        self._subject = pack.name if pack.single_file else f"{pack.name}/{self._path}"
        self._handle = pack.open(self._path)
        try:
            header = read_gguf_header(self._handle, subject=self._subject)
            self._model = LlamaMetadata(header, self._subject)
            self._tensors = self._model.names(header.tensors.values())
        except BaseException:
            self._handle.close()
            raise
        self.specs = sort_specs(
            [TensorSpec(name, "BF16", tensor.shape) for name, tensor in self._tensors.items()],
            subject=self._subject,
        )
        self.ties = () if _HEAD in self._tensors else ((_HEAD, _EMBEDDING),)
        self._carried: dict[str, bytes] | None = None

    def stream(self, name: str, *, device: str = "cpu", chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """As the base class says. Decoding runs on the CPU whatever ``device`` is: the bits are the same."""
        try:
            import numpy as np
            from gguf import GGMLQuantizationType
            from gguf.quants import dequantize
        except ImportError as error:
            raise missing_extra("measure", error.name or "gguf") from error

        spec = self.spec(name)
        tensor = self._tensors[spec.name]
        columns = tensor.shape[-1]
        row_bytes = columns // tensor.block_elements * tensor.block_bytes
        # A permuted head is put back in order as a whole.
        unit = self._model.head_size if name.endswith((".q_proj.weight", ".k_proj.weight")) else 1
        rows = spec.elements // columns
        step = max(1, chunk_bytes // (2 * columns * unit)) * unit
        for begin in range(0, rows, step):
            end = min(begin + step, rows)
            data = self._read(tensor, tensor.begin + begin * row_bytes, tensor.begin + end * row_bytes)
            stored = np.frombuffer(data, dtype=np.uint8).reshape(end - begin, row_bytes)
            with np.errstate(all="ignore"):
                values = dequantize(stored, GGMLQuantizationType(tensor.type_number))
            if unit > 1:
                values = np.ascontiguousarray(values.reshape(-1, unit // 2, 2, columns).swapaxes(1, 2))
            yield self._rounded(values, spec.name)
        self.pack.check_unchanged(self._path, self._handle)

    def _read(self, tensor: GgufTensor, begin: int, end: int) -> bytes:
        parts = []
        while begin < end:
            part = os.pread(self._handle.fileno(), end - begin, begin)
            if not part:
                raise MalformedPackError(f"truncated in tensor {tensor.name!r}", subject=self._subject)
            parts.append(part)
            begin += len(part)
        return b"".join(parts)

    def _rounded(self, values: np.ndarray[Any, Any], name: str) -> memoryview:
        """float32 → bfloat16, to nearest even, on the bit pattern."""
        import numpy as np

        bits = values.reshape(-1).view(np.uint32)
        if bits.size and int((bits & np.uint32(0x7FFFFFFF)).max()) >= _ROUNDS_TO_INFINITY:
            raise MalformedPackError(
                f"tensor {name!r}: a weight is too large for bfloat16, or not finite", subject=self._subject
            )
        rounded = (bits + (((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF))) >> np.uint32(16)
        return memoryview(rounded.astype("<u2").view(np.uint8).data)

    def config(self) -> dict[str, Any]:
        """Built from the file's metadata."""
        return self._model.config(vocabulary=self._tensors[_EMBEDDING].shape[0], tied=_HEAD not in self._tensors)

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
                **build_tokenizer(self._handle, template=template, subject=self._subject),
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
        packed = [tensor for tensor in self._tensors.values() if tensor.block_elements > 1]
        elements = sum(
            (tensor.end - tensor.begin) // tensor.block_bytes * tensor.block_elements for tensor in packed
        )
        stored = sum(tensor.end - tensor.begin for tensor in packed)
        return BitsPerWeight(
            nominal=None,
            compressed_on_disk=8 * stored / elements if elements else None,
            whole_on_disk=8 * self.pack.size(self._path) / self.parameters,
        )

    def provenance(self) -> Provenance:
        """Licence and origin as the metadata states them."""
        return Provenance(
            license=self._model.text("general.license"), source=self._model.text("general.source.url")
        )

    def unclaimed(self) -> tuple[str, ...]:
        """Files beside the one GGUF file of a directory."""
        return tuple(file.path for file in self.pack.files if file.path != self._path)

    def close(self) -> None:
        """Close the file."""
        self._handle.close()
        super().close()


def open_gguf(pack: OpenedPack) -> GgufSource:
    """Open a GGUF file. Raises MalformedPackError, CodecUnavailableError."""
    return GgufSource(pack)
