"""Codec ``compressed-tensors``: checkpoints of llm-compressor and vLLM.

Read are ``pack-quantized`` (1 to 8 bits, dense in int32 words), ``int-quantized``, ``float-quantized`` and
``naive-quantized`` (int8 and float8 codes), with a scale a tensor, channel, group or block, zero points, and
columns in any order (``weight_g_idx``); ``nvfp4-pack-quantized`` and ``mxfp4-pack-quantized``.

Profile ``ct-scale/1``, which is what the package's ``decompress`` computes: ``(code − zero) · scale`` rounded
once to the dtype of the scales; for NVFP4 the scale is the quotient of two scales, rounded to float32, the
product is rounded to float32 and then to bfloat16; for MXFP4 the product of an E2M1 number and a power of two,
in bfloat16.

What the stored tensors say about bits and groups counts; the settings must agree with them. Scales of
activations (``input_scale`` and the like) are left out: they act on what runs through a layer, not on its
weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ucaudit.core.errors import CodecUnavailableError, MalformedPackError
from ucaudit.packs.codecs.quantised import FLOATS, Layout, QuantisedSource, Reader
from ucaudit.packs.opened import OpenedPack

if TYPE_CHECKING:
    import torch

_CODES: Final = ("I8", "F8_E4M3", "F8_E5M2")

_ACTIVATIONS: Final = re.compile(
    r"(?:.*\.)?(?:input_scale|input_zero_point|input_global_scale|output_scale|output_zero_point|[kqv]_scale"
    r"|[kqv]_zero_point)"
)


@dataclass(frozen=True, slots=True)
class Grid:
    """How scales lie over a weight: one for ``height`` rows and ``width`` columns."""

    height: int
    width: int


@dataclass(frozen=True, slots=True)
class IntegerLayout(Layout):
    """Codes of an integer or float8 dtype, or packed: ``parts`` are codes and scales, then what is there.

    Attributes:
        bits: of packed codes; 0 where a code is an element of its own.
        grid: of the scales.
        zeros: the stored zero points' name.
        packed_zeros: whether those are packed as the codes are.
        index: the name of the columns' groups.
    """

    bits: int
    grid: Grid
    zeros: str | None
    packed_zeros: bool
    index: str | None

    def pieces(self, reader: Reader, device: torch.device, elements: int) -> Iterator[torch.Tensor]:
        """As the base class says."""
        import torch

        from ucaudit.packs.codecs.quantised_math import centred_codes, group_index, scale_rows, spans, unpack_words

        rows, columns = self.shape
        groups = -(-columns // self.grid.width)
        scales = reader.scales(self.parts[1]).reshape(-1, groups)
        zeros = None
        if self.zeros is not None:
            stored = reader.whole(self.zeros)
            if self.packed_zeros:
                zeros = unpack_words(stored.t().contiguous(), self.bits, rows).t().to(torch.float32)
                zeros = zeros.sub_(1 << (self.bits - 1)).contiguous()
            else:
                zeros = stored.to(torch.float32).reshape(-1, groups)
        index = None
        if self.index is not None:
            index = group_index(reader.whole(self.index), groups, self.grid.width, self.index)
        for begin, end in spans(rows, columns, elements):
            stored = reader.rows(self.parts[0], begin, end)
            if self.bits:
                values = centred_codes(stored, self.bits, columns, 1 << (self.bits - 1))
            else:
                values = stored.to(torch.float32)
            over = torch.arange(begin, end, device=device) // self.grid.height
            yield scale_rows(
                values,
                scales.index_select(0, over),
                None if zeros is None else zeros.index_select(0, over),
                self.grid.width,
                index,
            )


@dataclass(frozen=True, slots=True)
class E2m1Layout(Layout):
    """Two E2M1 numbers a byte: ``parts`` are codes, scales and, for NVFP4, the tensor's scale."""

    group: int

    def pieces(self, reader: Reader, device: torch.device, elements: int) -> Iterator[torch.Tensor]:
        """As the base class says."""
        import torch

        from ucaudit.packs.codecs.quantised_math import E2M1, look_up_pairs, powers_of_two, scale_rows, spans

        rows, columns = self.shape
        table = torch.tensor(E2M1, dtype=torch.float32, device=device)
        if len(self.parts) > 2:
            scales = reader.scales(self.parts[1]) / reader.scales(self.parts[2])
        else:
            scales = powers_of_two(reader.whole(self.parts[1]))
        for begin, end in spans(rows, columns, elements):
            values = look_up_pairs(reader.rows(self.parts[0], begin, end), table)
            yield scale_rows(values, scales[begin:end], None, self.group, None)


class CompressedTensorsSource(QuantisedSource):
    """A checkpoint of the package compressed-tensors."""

    codec = "compressed-tensors"
    codec_version = 1
    arithmetic_profile = "ct-scale/1"
    profiles = ("ct-scale/1",)

    def plan(self) -> tuple[Sequence[Layout], Sequence[str]]:
        """As the base class says."""
        if self.setting("sparsity_config", dict, {}).get("format", "dense") != "dense":
            raise CodecUnavailableError(
                "sparse compressed-tensors checkpoints are not read", subject=self.pack.name
            )
        if self.setting("transform_config", dict, {}).get("config_groups"):
            raise CodecUnavailableError("compressed-tensors with transforms is not read", subject=self.pack.name)
        self._schemes = list(self._read_schemes())
        layouts: list[Layout] = []
        for module in self.modules(".weight_packed"):
            packed = self.require(f"{module}.weight_packed", ["I32", "U8"])
            layouts.append(self._words(module) if packed.dtype == "I32" else self._e2m1(module))
        for module in self.modules(".weight_scale"):
            if not self.has(f"{module}.weight_packed"):
                layouts.append(self._plain_codes(module))
        self._nominal = {getattr(layout, "bits", 4) or 8 for layout in layouts}
        return layouts, [name for name in self._places if _ACTIVATIONS.fullmatch(name)]

    def _read_schemes(self) -> Iterator[dict[str, Any]]:
        for scheme in self.setting("config_groups", dict, {}).values():
            weights = scheme.get("weights") if isinstance(scheme, dict) else None
            if isinstance(weights, dict):
                yield weights

    def _words(self, module: str) -> IntegerLayout:
        packed, scale = self.stored(f"{module}.weight_packed"), self.require(f"{module}.weight_scale", FLOATS)
        shape = self._stored_shape(module)
        rows, columns = shape
        grids: dict[tuple[int, int, int], tuple[int, Grid]] = {}
        for weights in self._schemes:
            bits, grid = weights.get("num_bits"), self._grid(weights, shape, scale.shape)
            if type(bits) is not int or not 1 <= bits <= 8 or grid is None:
                continue
            if packed.shape == (rows, -(-columns * bits // 32)):
                grids[bits, grid.height, grid.width] = (bits, grid)
        if len(grids) != 1:
            raise MalformedPackError(
                f"module {module!r}: {list(packed.shape)} words and scales {list(scale.shape)} for a weight of "
                f"{list(shape)} fit {len(grids)} of the config groups, expected one",
                subject=self._file_of(packed.name),
            )
        [(bits, grid)] = grids.values()
        parts = [packed.name, scale.name, f"{module}.weight_shape"]
        zeros = self._zeros(module, scale.shape, rows, bits)
        index = self._index(module, columns)
        parts += [name for name in (zeros, index) if name is not None]
        packed_zeros = zeros is not None and self.stored(zeros).dtype == "I32"
        return IntegerLayout(
            f"{module}.weight", shape, scale.dtype, tuple(parts), bits, grid, zeros, packed_zeros, index
        )

    def _zeros(self, module: str, scales: tuple[int, ...], rows: int, bits: int) -> str | None:
        name = f"{module}.weight_zero_point"
        if not self.has(name):
            return None
        packed = (-(-rows * bits // 32), *scales[1:])
        dtype = self.require(name, ["I32", "I8"]).dtype
        self.require(name, [dtype], [packed if dtype == "I32" else scales])
        return name

    def _index(self, module: str, columns: int) -> str | None:
        name = f"{module}.weight_g_idx"
        if not self.has(name):
            return None
        self.require(name, ["I32", "I64"], [(columns,)])
        return name

    def _plain_codes(self, module: str) -> IntegerLayout:
        codes = self.require(f"{module}.weight", _CODES)
        scale = self.require(f"{module}.weight_scale", FLOATS)
        if len(codes.shape) != 2:
            raise MalformedPackError(
                f"tensor {codes.name!r} has the shape {list(codes.shape)}", subject=self._file_of(codes.name)
            )
        found = [self._grid(weights, codes.shape, scale.shape) for weights in self._schemes]
        grids = {(grid.height, grid.width): grid for grid in found if grid is not None}
        if len(grids) != 1:
            raise MalformedPackError(
                f"module {module!r}: scales {list(scale.shape)} for a weight of {list(codes.shape)} "
                f"fit {len(grids)} of the config groups, expected one",
                subject=self._file_of(codes.name),
            )
        parts = [codes.name, scale.name]
        zeros = None
        if codes.dtype == "I8" and self.has(f"{module}.weight_zero_point"):
            zeros = self.require(f"{module}.weight_zero_point", ["I8"], [scale.shape]).name
        index = self._index(module, codes.shape[1])
        parts += [name for name in (zeros, index) if name is not None]
        [grid] = grids.values()
        return IntegerLayout(
            codes.name, codes.shape, scale.dtype, tuple(parts), 0, grid, zeros, packed_zeros=False, index=index
        )

    def _e2m1(self, module: str) -> E2m1Layout:
        packed, scale = self.stored(f"{module}.weight_packed"), self.stored(f"{module}.weight_scale")
        if len(packed.shape) != 2:
            raise MalformedPackError(
                f"tensor {packed.name!r} has the shape {list(packed.shape)}", subject=self._file_of(packed.name)
            )
        rows, columns = packed.shape[0], packed.shape[1] * 2
        parts = [packed.name, scale.name]
        group = 32
        if scale.dtype == "F8_E4M3":
            group = 16
            self.require(f"{module}.weight_global_scale", ["F32"], [(1,)])
            parts.append(f"{module}.weight_global_scale")
        self.require(scale.name, ["F8_E4M3", "U8", "F8_E8M0"], [(rows, columns // group)])
        if columns % group:
            raise MalformedPackError(
                f"tensor {packed.name!r}: rows of {columns} are no whole groups of {group}",
                subject=self._file_of(packed.name),
            )
        return E2m1Layout(f"{module}.weight", (rows, columns), "BF16", tuple(parts), group)

    def _stored_shape(self, module: str) -> tuple[int, int]:
        import struct

        name = f"{module}.weight_shape"
        info = self.require(name, ["I64", "I32"], [(2,)])
        data = self.read_bytes(name, 0, info.nbytes)
        rows, columns = struct.unpack("<2q" if info.dtype == "I64" else "<2i", data)
        if self.stored(f"{module}.weight_packed").shape[:-1] != (rows,) or not 1 <= columns < 2**40:
            raise MalformedPackError(
                f"tensor {name!r} says {rows} rows and {columns} columns", subject=self._file_of(name)
            )
        return rows, columns

    def _grid(self, weights: dict[str, Any], shape: tuple[int, ...], scales: tuple[int, ...]) -> Grid | None:
        """What the scales cover by one scheme's strategy; None if they cannot be that scheme's."""
        rows, columns = shape
        strategy, size = weights.get("strategy"), weights.get("group_size")
        if strategy is None:
            strategy = "group" if type(size) is int and size > 0 else "channel" if size == -1 else "tensor"
        if strategy == "tensor" and scales in ((), (1,), (1, 1)):
            return Grid(rows, columns)
        if strategy == "channel" and scales in ((rows, 1), (rows,)):
            return Grid(1, columns)
        if strategy == "group" and type(size) is int and size > 0 and scales == (rows, -(-columns // size)):
            return Grid(1, size)
        block = weights.get("block_structure")
        if (
            strategy == "block"
            and isinstance(block, list)
            and len(block) == 2
            and all(type(i) is int for i in block)
        ):
            height, width = block
            if height > 0 and width > 0 and scales == (-(-rows // height), -(-columns // width)):
                return Grid(height, width)
        return None

    def nominal_bits(self) -> float | None:
        """The bits of a code, where all weights have the same."""
        return float(next(iter(self._nominal))) if len(self._nominal) == 1 else None


def open_compressed_tensors(pack: OpenedPack) -> CompressedTensorsSource:
    """Open such a checkpoint. Raises MalformedPackError, CodecUnavailableError."""
    return CompressedTensorsSource(pack)
