"""Codecs ``fp8``, ``mxfp4`` and ``nvfp4``: small floating-point numbers with scales, as their makers store them.

``fp8``: a float8 ``weight`` with ``weight_scale_inv`` (a scale a block, DeepSeek's layout) or ``weight_scale``
(a scale a tensor or row). ``mxfp4``: gpt-oss's ``X_blocks`` [experts, rows, groups, 16] and ``X_scales``
[experts, rows, groups], which transformers turns into ``X`` [experts, columns, rows]. ``nvfp4``: ModelOpt's
byte ``weight`` with ``weight_scale`` (float8, a group of 16) and ``weight_scale_2`` (a tensor).

Profiles ``fp8-f32-bf16/1``, ``mxfp4-f32-bf16/1`` and ``nvfp4-f32-bf16/1``: number times scale, rounded to
float32, then to bfloat16; the scale of NVFP4 is the product of its two scales, rounded to float32, and code 8
is zero, as in ModelOpt. ``fp8-f32/1`` leaves float32. ``fp8-bf16/1`` and ``nvfp4-bf16/1``: the scale is rounded
to bfloat16 first, as GPTQModel's ``model_dequant`` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ucaudit.core.errors import MalformedPackError
from ucaudit.packs.codecs.quantised import FLOATS, Layout, QuantisedSource, Reader
from ucaudit.packs.opened import OpenedPack

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Fp8Layout(Layout):
    """``parts`` are weight and scale; a scale covers ``height`` rows and ``width`` columns."""

    height: int
    width: int
    narrow: bool

    def pieces(self, reader: Reader, device: torch.device, elements: int) -> Iterator[torch.Tensor]:
        """As the base class says."""
        import torch

        from ucaudit.packs.codecs.quantised_math import scale_rows, spans, to_float32
        from ucaudit.packs.codecs.rounding import round_to_bf16

        rows, columns = self.shape
        scales = reader.scales(self.parts[1]).reshape(-1, -(-columns // self.width))
        if self.narrow:
            scales = to_float32(round_to_bf16(scales))
        for begin, end in spans(rows, columns, elements):
            values = reader.rows(self.parts[0], begin, end).to(torch.float32)
            over = torch.arange(begin, end, device=device) // self.height
            yield scale_rows(values, scales.index_select(0, over), None, self.width, None)


@dataclass(frozen=True, slots=True)
class Nvfp4Layout(Layout):
    """``parts`` are weight, weight_scale and weight_scale_2."""

    narrow: bool

    def pieces(self, reader: Reader, device: torch.device, elements: int) -> Iterator[torch.Tensor]:
        """As the base class says."""
        import torch

        from ucaudit.packs.codecs.quantised_math import E2M1, look_up_pairs, scale_rows, spans, to_float32
        from ucaudit.packs.codecs.rounding import round_to_bf16

        rows, columns = self.shape
        table = torch.tensor(E2M1, dtype=torch.float32, device=device)
        if not self.narrow:
            table[8] = 0.0  # ModelOpt has no negative zero
        scales = reader.scales(self.parts[1]) * reader.scales(self.parts[2])
        if self.narrow:
            scales = to_float32(round_to_bf16(scales))
        for begin, end in spans(rows, columns, elements):
            values = look_up_pairs(reader.rows(self.parts[0], begin, end), table)
            yield scale_rows(values, scales[begin:end], None, 16, None)


@dataclass(frozen=True, slots=True)
class ExpertsLayout(Layout):
    """gpt-oss's experts: ``parts`` are blocks and scales."""

    def pieces(self, reader: Reader, device: torch.device, elements: int) -> Iterator[torch.Tensor]:
        """As the base class says, an expert at a time: its rows run across those that are stored."""
        import torch

        from ucaudit.packs.codecs.quantised_math import E2M1, look_up_pairs, powers_of_two, scale_rows

        experts, columns, rows = self.shape
        table = torch.tensor(E2M1, dtype=torch.float32, device=device)
        for expert in range(experts):
            packed = reader.rows(self.parts[0], expert, expert + 1).view(rows, columns // 2)
            scales = powers_of_two(reader.rows(self.parts[1], expert, expert + 1)).view(rows, columns // 32)
            values = scale_rows(look_up_pairs(packed, table), scales, None, 32, None)
            yield values.t().contiguous()


class Fp8Source(QuantisedSource):
    """An FP8 checkpoint."""

    codec = "fp8"
    codec_version = 1
    arithmetic_profile = "fp8-f32-bf16/1"
    profiles = ("fp8-f32-bf16/1", "fp8-f32/1", "fp8-bf16/1")
    bits = 8.0

    def plan(self) -> tuple[Sequence[Layout], Sequence[str]]:
        """As the base class says."""
        layouts = [
            self._layout(module, f"{module}.weight_scale_inv") for module in self.modules(".weight_scale_inv")
        ]
        layouts += [self._layout(module, f"{module}.weight_scale") for module in self.modules(".weight_scale")]
        ends = (".input_scale", ".activation_scale", ".k_scale", ".v_scale", ".input_scale_ub")
        return layouts, [name for name in self._places if name.endswith(ends)]

    def _layout(self, module: str, scale_name: str) -> Fp8Layout:
        codes = self.require(f"{module}.weight", ["F8_E4M3", "F8_E5M2"])
        scale = self.require(scale_name, FLOATS)
        if len(codes.shape) != 2:
            raise MalformedPackError(
                f"tensor {codes.name!r} has the shape {list(codes.shape)}", subject=self._file_of(codes.name)
            )
        rows, columns = codes.shape
        height, width = rows, columns
        if scale.shape in ((rows,), (rows, 1)) and rows > 1:
            height = 1
        elif scale.shape not in ((), (1,), (1, 1)):
            height, width = self._block()
            self.require(scale_name, FLOATS, [(-(-rows // height), -(-columns // width))])
        dtype = "F32" if self.arithmetic_profile == "fp8-f32/1" else "BF16"
        narrow = self.arithmetic_profile == "fp8-bf16/1"
        return Fp8Layout(codes.name, codes.shape, dtype, (codes.name, scale_name), height, width, narrow)

    def _block(self) -> tuple[int, int]:
        block = self.setting("weight_block_size", list, [128, 128])
        if len(block) != 2 or not all(type(size) is int and 1 <= size <= 1 << 20 for size in block):
            raise MalformedPackError(f"weight_block_size is {str(block)[:40]}", subject=self.pack.name)
        return block[0], block[1]


class Mxfp4Source(QuantisedSource):
    """gpt-oss's MXFP4 checkpoint."""

    codec = "mxfp4"
    codec_version = 1
    arithmetic_profile = "mxfp4-f32-bf16/1"
    bits = 4.0

    def plan(self) -> tuple[Sequence[Layout], Sequence[str]]:
        """As the base class says."""
        layouts = []
        for name in self.modules("_blocks"):
            blocks = self.require(f"{name}_blocks", ["U8"])
            if len(blocks.shape) != 4 or blocks.shape[3] != 16 or 0 in blocks.shape:
                raise MalformedPackError(
                    f"tensor {blocks.name!r} has the shape {list(blocks.shape)}", subject=self._file_of(blocks.name)
                )
            experts, rows, groups, _ = blocks.shape
            self.require(f"{name}_scales", ["U8", "F8_E8M0"], [(experts, rows, groups)])
            parts = (blocks.name, f"{name}_scales")
            layouts.append(ExpertsLayout(name, (experts, groups * 32, rows), "BF16", parts))
        return layouts, ()


class Nvfp4Source(QuantisedSource):
    """ModelOpt's NVFP4 checkpoint."""

    codec = "nvfp4"
    codec_version = 1
    arithmetic_profile = "nvfp4-f32-bf16/1"
    profiles = ("nvfp4-f32-bf16/1", "nvfp4-bf16/1")
    bits = 4.0

    def plan(self) -> tuple[Sequence[Layout], Sequence[str]]:
        """As the base class says."""
        layouts = []
        for module in self.modules(".weight_scale_2"):
            codes = self.require(f"{module}.weight", ["U8"])
            if len(codes.shape) != 2 or codes.shape[1] % 8:
                raise MalformedPackError(
                    f"tensor {codes.name!r} has the shape {list(codes.shape)}", subject=self._file_of(codes.name)
                )
            rows, columns = codes.shape[0], codes.shape[1] * 2
            self.require(f"{module}.weight_scale", ["F8_E4M3"], [(rows, columns // 16)])
            self.require(f"{module}.weight_scale_2", ["F32"], [(), (1,)])
            parts = (codes.name, f"{module}.weight_scale", f"{module}.weight_scale_2")
            narrow = self.arithmetic_profile == "nvfp4-bf16/1"
            layouts.append(Nvfp4Layout(codes.name, (rows, columns), "BF16", parts, narrow))
        ends = (".input_scale", ".k_scale", ".v_scale")
        return layouts, [name for name in self._places if name.endswith(ends)]


def open_fp8(pack: OpenedPack) -> Fp8Source:
    """Open an FP8 checkpoint. Raises MalformedPackError."""
    return Fp8Source(pack)


def open_mxfp4(pack: OpenedPack) -> Mxfp4Source:
    """Open gpt-oss's MXFP4 checkpoint. Raises MalformedPackError."""
    return Mxfp4Source(pack)


def open_nvfp4(pack: OpenedPack) -> Nvfp4Source:
    """Open ModelOpt's NVFP4 checkpoint. Raises MalformedPackError."""
    return Nvfp4Source(pack)
