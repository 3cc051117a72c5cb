"""Codec ``gptq``: checkpoints of AutoGPTQ and GPTQModel, 2 to 8 bits, any order of columns.

A weight of ``[out, in]`` is stored as ``qweight`` (int32, codes along the input axis), ``qzeros`` (int32, along the
output axis), ``scales`` [groups, out] and ``g_idx`` [in], the group of each input column. ``checkpoint_format``
``gptq`` (v1) stores the zero point less one, modulo 2^bits; ``gptq_v2`` stores it as it is; ``gptq_p`` as well, and
cuts codes into planes, as all 5-, 6- and 7-bit checkpoints do.

Profiles: ``gptq-scale/1`` rounds ``(code − zero) · scale`` once to the dtype of the scales, as the torch kernel of
GPTQModel computes it; ``gptq-f32-bf16/1`` rounds it once to bfloat16, as its ``model_dequant`` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ucaudit.core.errors import CodecUnavailableError, MalformedPackError
from ucaudit.packs.codecs.quantised import FLOATS, Layout, QuantisedSource, Reader
from ucaudit.packs.detect import CONFIG_NAME, GPTQ_CONFIG_NAME
from ucaudit.packs.opened import OpenedPack

if TYPE_CHECKING:
    import torch

_PLANAR: Final = (5, 6, 7)
_FORMATS: Final = ("gptq", "gptq_v2", "gptq_p")


@dataclass(frozen=True, slots=True)
class GptqLayout(Layout):
    """A GPTQ weight: ``parts`` are qweight, qzeros, scales and, if stored, g_idx."""

    bits: int
    group: int
    shifted: bool
    planar: bool

    def pieces(self, reader: Reader, device: torch.device, elements: int) -> Iterator[torch.Tensor]:
        """As the base class says. ``qweight`` is held whole: its rows run across those of the weight."""
        import torch

        from ucaudit.packs.codecs.quantised_math import group_index, scale_rows, spans, unpack_planes, unpack_words

        rows, columns = self.shape
        unpack = unpack_planes if self.planar else unpack_words
        scales = reader.scales(self.parts[2]).t().contiguous()
        codes = unpack(reader.whole(self.parts[1]), self.bits, rows)
        if self.shifted:
            codes = (codes + 1) & ((1 << self.bits) - 1)
        zeros = codes.t().to(torch.float32).contiguous()
        index = None
        if len(self.parts) > 3:
            index = group_index(reader.whole(self.parts[3]), scales.shape[1], self.group, self.parts[3])
        words = reader.whole(self.parts[0])
        for begin, end in spans(rows, columns, elements):
            values = unpack(words[:, begin:end].t().contiguous(), self.bits, columns).to(torch.float32)
            yield scale_rows(values, scales[begin:end], zeros[begin:end], self.group, index)


class GptqSource(QuantisedSource):
    """A GPTQ checkpoint."""

    codec = "gptq"
    codec_version = 1
    arithmetic_profile = "gptq-scale/1"
    profiles = ("gptq-scale/1", "gptq-f32-bf16/1")

    def outside_section(self) -> dict[str, Any]:
        """Old checkpoints have their settings in a file of their own."""
        if not self.pack.has(GPTQ_CONFIG_NAME):
            return {}
        value = self.pack.read_json(GPTQ_CONFIG_NAME)
        if not isinstance(value, dict):
            raise MalformedPackError("expected a json object", subject=f"{self.pack.name}/{GPTQ_CONFIG_NAME}")
        return value

    def plan(self) -> tuple[Sequence[Layout], Sequence[str]]:
        """As the base class says."""
        bits, group = self.setting("bits", int), self.setting("group_size", int, -1)
        subject = f"{self.pack.name}/{CONFIG_NAME}"
        if bits not in range(2, 9) or (group < 1 and group != -1):
            raise MalformedPackError(f"{bits} bits, group size {group}", subject=subject)
        form = self.section.get("checkpoint_format") or self.section.get("format") or "gptq"
        if form not in _FORMATS:
            raise CodecUnavailableError(f"gptq checkpoint format {str(form)[:40]!r} is not read", subject=subject)
        if self.setting("dynamic", dict, {}):
            raise CodecUnavailableError("gptq with other settings for some layers is not read", subject=subject)
        planar = form == "gptq_p" or bits in _PLANAR
        shifted = form == "gptq" and not planar
        return [
            self._layout(module, bits, group, planar=planar, shifted=shifted) for module in self.modules(".qweight")
        ], ()

    def _layout(self, module: str, bits: int, group: int, *, planar: bool, shifted: bool) -> GptqLayout:
        codes, scales = self.require(f"{module}.qweight", ["I32"]), self.require(f"{module}.scales", FLOATS)
        if len(codes.shape) != 2 or len(scales.shape) != 2 or codes.shape[0] * 32 % bits:
            raise MalformedPackError(
                f"module {module!r}: qweight {list(codes.shape)} with scales {list(scales.shape)} at {bits} bits",
                subject=self._file_of(codes.name),
            )
        columns, rows = codes.shape[0] * 32 // bits, codes.shape[1]
        size = columns if group == -1 else group
        groups = -(-columns // size)
        self.require(scales.name, FLOATS, [(groups, rows)])
        self.require(f"{module}.qzeros", ["I32"], [(groups, -(-rows * bits // 32))])
        parts = [codes.name, f"{module}.qzeros", scales.name]
        if self.has(f"{module}.g_idx"):
            self.require(f"{module}.g_idx", ["I32", "I64"], [(columns,)])
            parts.append(f"{module}.g_idx")
        dtype = scales.dtype if self.arithmetic_profile == "gptq-scale/1" else "BF16"
        return GptqLayout(
            f"{module}.weight", (rows, columns), dtype, tuple(parts), bits, size, shifted=shifted, planar=planar
        )

    def nominal_bits(self) -> float | None:
        """As the settings say."""
        return float(self.setting("bits", int))


def open_gptq(pack: OpenedPack) -> GptqSource:
    """Open a GPTQ checkpoint. Raises MalformedPackError, CodecUnavailableError."""
    return GptqSource(pack)
