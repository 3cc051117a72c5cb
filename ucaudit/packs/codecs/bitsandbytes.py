"""Codec ``bitsandbytes``: NF4, FP4 and int8 checkpoints.

A 4-bit weight is stored as ``weight`` (two codes a byte, the first in the upper half, blocks of ``blocksize``
elements), ``weight.absmax``, ``weight.quant_map`` (the 16 values) and ``weight.quant_state.bitsandbytes__nf4``
or ``__fp4``, a small JSON with shape and dtype. With nested statistics ``absmax`` is itself a byte a block,
with a map of 256 values, a scale for 256 blocks and an offset. An int8 weight is stored with ``SCB``, the
largest magnitude a row.

Profile ``bnb-f32/1``, which is what the package's dequantisation computes: nested statistics ``map[byte] ·
scale``, rounded, ``+ offset``, rounded; weight ``map[code] · absmax``, rounded to float32, then to the dtype of
the state; int8 ``code · SCB``, rounded, ``· fl(1/127)``, rounded to float32, then to the dtype of the
checkpoint.

FP4 has two codes of zero, and the package's implementations disagree about the second: by the map that the file
holds, which its AVX-512 code and its torch code follow, it is zero; its CUDA code and the code for other processors
make it negative zero. That is profile ``bnb-f32-negative-zero/1``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ucaudit.core import strictjson
from ucaudit.core.errors import MalformedPackError, MalformedRecordError
from ucaudit.packs.codecs.quantised import TORCH_NAMES, Layout, QuantisedSource, Reader
from ucaudit.packs.opened import OpenedPack

if TYPE_CHECKING:
    import torch

STATE: Final = ".weight.quant_state.bitsandbytes__"
_MAX_STATE: Final = 1 << 16
_SECOND_ZERO: Final = 8
_RECIPROCAL: Final = 7.874015718698502e-3


@dataclass(frozen=True, slots=True)
class FourBitLayout(Layout):
    """``parts`` are weight, absmax, quant_map, quant_state and, if nested, nested_absmax and nested_quant_map."""

    block: int
    nested_block: int
    offset: float
    negative_zero: bool

    def pieces(self, reader: Reader, device: torch.device, elements: int) -> Iterator[torch.Tensor]:
        """As the base class says."""
        import torch

        from ucaudit.packs.codecs.quantised_math import look_up, look_up_pairs

        count = 1
        for size in self.shape:
            count *= size
        table = reader.scales(self.parts[2])
        if self.negative_zero and float(table[_SECOND_ZERO]) == 0.0:
            table[_SECOND_ZERO] = -0.0
        if len(self.parts) > 4:
            codes = reader.whole(self.parts[1])
            values = look_up(codes, reader.scales(self.parts[5]))
            outer = reader.scales(self.parts[4]).repeat_interleave(self.nested_block)[: len(codes)]
            absmax = values.mul_(outer).add_(torch.tensor(self.offset, dtype=torch.float32, device=device))
        else:
            absmax = reader.scales(self.parts[1])
        step = max(1, elements // self.block) * self.block
        for begin in range(0, count, step):
            end = min(begin + step, count)
            packed = reader.rows(self.parts[0], begin // 2, -(-end // 2)).view(torch.uint8).reshape(-1)
            values = look_up_pairs(packed, table, high_first=True)[: end - begin]
            scale = absmax[begin // self.block : -(-end // self.block)]
            whole = (end - begin) // self.block * self.block
            values[:whole].view(-1, self.block).mul_(scale[: whole // self.block].unsqueeze(1))
            if whole < end - begin:
                values[whole:].mul_(scale[-1])
            yield values


@dataclass(frozen=True, slots=True)
class Int8Layout(Layout):
    """``parts`` are weight and SCB, and weight_format if stored."""

    def pieces(self, reader: Reader, device: torch.device, elements: int) -> Iterator[torch.Tensor]:
        """As the base class says."""
        import torch

        from ucaudit.packs.codecs.quantised_math import spans

        rows, columns = self.shape
        scales = reader.scales(self.parts[1]).view(rows, 1)
        for begin, end in spans(rows, columns, elements):
            values = reader.rows(self.parts[0], begin, end).to(torch.float32)
            yield values.mul_(scales[begin:end]).mul_(_RECIPROCAL)


class BitsAndBytesSource(QuantisedSource):
    """A bitsandbytes checkpoint."""

    codec = "bitsandbytes"
    codec_version = 1
    arithmetic_profile = "bnb-f32/1"
    profiles = ("bnb-f32/1", "bnb-f32-negative-zero/1")

    def plan(self) -> tuple[Sequence[Layout], Sequence[str]]:
        """As the base class says."""
        layouts: list[Layout] = [
            self._four_bit(module, kind) for kind in ("nf4", "fp4") for module in self.modules(f"{STATE}{kind}")
        ]
        layouts += [self._int8(module) for module in self.modules(".SCB")]
        self._nominal = {8.0 if isinstance(layout, Int8Layout) else 4.0 for layout in layouts}
        return layouts, ()

    def _four_bit(self, module: str, kind: str) -> FourBitLayout:
        name = f"{module}.weight"
        state_name = f"{module}{STATE}{kind}"
        state = self._state(state_name, kind)
        shape, block = tuple(state["shape"]), state["blocksize"]
        count = 1
        for size in shape:
            count *= size
        self.require(name, ["U8"], [(-(-count // 2), 1), (-(-count // 2),)])
        blocks = -(-count // block)
        self.require(f"{name}.quant_map", ["F32"], [(16,)])
        parts = [name, f"{name}.absmax", f"{name}.quant_map", state_name]
        nested_block: Any = 0
        offset: Any = 0.0
        if self.has(f"{name}.nested_absmax"):
            nested_block, offset = state.get("nested_blocksize"), state.get("nested_offset")
            if type(nested_block) is not int or not 1 <= nested_block <= 1 << 20 or type(offset) is not float:
                raise MalformedPackError(
                    f"tensor {state_name!r}: no block size or offset of the nested statistics",
                    subject=self._file_of(name),
                )
            self.require(f"{name}.absmax", ["U8"], [(blocks,)])
            self.require(f"{name}.nested_absmax", ["F32"], [(-(-blocks // nested_block),)])
            self.require(f"{name}.nested_quant_map", ["F32"], [(256,)])
            parts += [f"{name}.nested_absmax", f"{name}.nested_quant_map"]
        else:
            self.require(f"{name}.absmax", ["F32"], [(blocks,)])
        return FourBitLayout(
            name,
            shape,
            TORCH_NAMES[state["dtype"]],
            tuple(parts),
            block,
            nested_block,
            offset,
            negative_zero=kind == "fp4" and self.arithmetic_profile == self.profiles[1],
        )

    def _state(self, name: str, kind: str) -> dict[str, Any]:
        info = self.require(name, ["U8"])
        subject = self._file_of(name)
        if info.nbytes > _MAX_STATE:
            raise MalformedPackError(f"tensor {name!r} has {info.nbytes} bytes", subject=subject)
        try:
            state = strictjson.loads(self.read_bytes(name, 0, info.nbytes), subject=subject)
        except MalformedRecordError as error:
            raise MalformedPackError(f"tensor {name!r}: {error.message}", subject=subject) from error
        if not isinstance(state, dict) or state.get("quant_type") != kind or state.get("dtype") not in TORCH_NAMES:
            raise MalformedPackError(f"tensor {name!r}: no quantisation state of type {kind}", subject=subject)
        shape, block = state.get("shape"), state.get("blocksize")
        if not isinstance(shape, list) or not 1 <= len(shape) <= 8:
            raise MalformedPackError(f"tensor {name!r}: shape is {str(shape)[:40]}", subject=subject)
        if not all(type(size) is int and 1 <= size < 2**40 for size in shape):
            raise MalformedPackError(f"tensor {name!r}: shape is {str(shape)[:40]}", subject=subject)
        if type(block) is not int or not 2 <= block <= 1 << 16 or block % 2:
            raise MalformedPackError(f"tensor {name!r}: blocksize is {str(block)[:40]}", subject=subject)
        return state

    def _int8(self, module: str) -> Int8Layout:
        codes = self.require(f"{module}.weight", ["I8"])
        if len(codes.shape) != 2:
            raise MalformedPackError(
                f"tensor {codes.name!r} has the shape {list(codes.shape)}", subject=self._file_of(codes.name)
            )
        self.require(f"{module}.SCB", ["F32"], [(codes.shape[0],)])
        parts = [codes.name, f"{module}.SCB"]
        if self.has(f"{module}.weight_format"):
            info = self.require(f"{module}.weight_format", ["U8"], [()])
            if self.read_bytes(info.name, 0, 1) != b"\0":
                raise MalformedPackError(
                    f"tensor {info.name!r}: only the row-major weight format is read",
                    subject=self._file_of(info.name),
                )
            parts.append(info.name)
        stated = self._config.get("dtype", self._config.get("torch_dtype"))
        dtype = TORCH_NAMES.get(stated, "F16") if isinstance(stated, str) else "F16"
        return Int8Layout(codes.name, codes.shape, dtype, tuple(parts))

    def nominal_bits(self) -> float | None:
        """The bits of a code, where all weights have the same."""
        return next(iter(self._nominal)) if len(self._nominal) == 1 else None


def open_bitsandbytes(pack: OpenedPack) -> BitsAndBytesSource:
    """Open such a checkpoint. Raises MalformedPackError."""
    return BitsAndBytesSource(pack)
