"""Codec ``awq``: AutoAWQ's GEMM layout, 4 bits.

A weight of ``[out, in]`` is stored as ``qweight`` (int32 [in, out / 8], eight output rows a word in the order
0, 2, 4, 6, 1, 3, 5, 7 from its lowest bits), ``qzeros`` alike [groups, out / 8], and ``scales`` [groups, out].

Profiles: ``awq-scale/1`` rounds ``(code − zero) · scale`` once to the dtype of the scales, as AutoAWQ's
``dequantize_gemm`` does; ``awq-f32-bf16/1`` rounds it once to bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ucaudit.core.errors import CodecUnavailableError, MalformedPackError
from ucaudit.packs.codecs.quantised import FLOATS, Layout, QuantisedSource, Reader
from ucaudit.packs.detect import CONFIG_NAME
from ucaudit.packs.opened import OpenedPack

if TYPE_CHECKING:
    import torch

_FIELDS: Final = (0, 4, 1, 5, 2, 6, 3, 7)
"""Of eight output rows, which four bits of their word each has."""


@dataclass(frozen=True, slots=True)
class AwqLayout(Layout):
    """An AWQ weight: ``parts`` are qweight, scales and qzeros."""

    group: int

    def pieces(self, reader: Reader, device: torch.device, elements: int) -> Iterator[torch.Tensor]:
        """As the base class says. ``qweight`` is held whole: its rows run across those of the weight."""
        import torch

        from ucaudit.packs.codecs.quantised_math import scale_rows, spans

        def unpack(words: torch.Tensor) -> torch.Tensor:
            """int32 [words, columns] → float32 [words · 8, columns]."""
            values = torch.empty((len(words), 8, words.shape[1]), dtype=torch.float32, device=words.device)
            for row, place in enumerate(_FIELDS):
                values[:, row] = torch.bitwise_right_shift(words, 4 * place).bitwise_and_(15)
            return values.view(-1, words.shape[1])

        rows, columns = self.shape
        scales = reader.scales(self.parts[1]).t().contiguous()
        zeros = unpack(reader.whole(self.parts[2]).t().contiguous())
        words = reader.whole(self.parts[0])
        for begin, end in spans(rows, columns, elements, 8):
            values = unpack(words[:, begin // 8 : end // 8].t().contiguous())
            yield scale_rows(values, scales[begin:end], zeros[begin:end], self.group, None)


class AwqSource(QuantisedSource):
    """An AWQ checkpoint."""

    codec = "awq"
    codec_version = 1
    arithmetic_profile = "awq-scale/1"
    profiles = ("awq-scale/1", "awq-f32-bf16/1")
    bits = 4.0

    def plan(self) -> tuple[Sequence[Layout], Sequence[str]]:
        """As the base class says."""
        bits = self.setting("bits", int, self.setting("w_bit", int, 4))
        version, subject = self.section.get("version") or "gemm", f"{self.pack.name}/{CONFIG_NAME}"
        if bits != 4 or str(version).lower() != "gemm":
            raise CodecUnavailableError(
                f"awq with {bits} bits and version {str(version)[:40]!r}: 4 bits and gemm are read", subject=subject
            )
        group = self.setting("group_size", int, self.setting("q_group_size", int, 128))
        if group < 1 and group != -1:
            raise MalformedPackError(f"group size {group}", subject=subject)
        return [self._layout(module, group) for module in self.modules(".qweight")], ()

    def _layout(self, module: str, group: int) -> AwqLayout:
        codes, scales = self.require(f"{module}.qweight", ["I32"]), self.require(f"{module}.scales", FLOATS)
        if len(codes.shape) != 2:
            raise MalformedPackError(
                f"tensor {codes.name!r} has the shape {list(codes.shape)}", subject=self._file_of(codes.name)
            )
        columns, rows = codes.shape[0], codes.shape[1] * 8
        size = columns if group == -1 else group
        groups = -(-columns // size)
        self.require(scales.name, FLOATS, [(groups, rows)])
        self.require(f"{module}.qzeros", ["I32"], [(groups, rows // 8)])
        dtype = scales.dtype if self.arithmetic_profile == "awq-scale/1" else "BF16"
        parts = (codes.name, scales.name, f"{module}.qzeros")
        return AwqLayout(f"{module}.weight", (rows, columns), dtype, parts, size)


def open_awq(pack: OpenedPack) -> AwqSource:
    """Open an AWQ checkpoint. Raises MalformedPackError, CodecUnavailableError."""
    return AwqSource(pack)
