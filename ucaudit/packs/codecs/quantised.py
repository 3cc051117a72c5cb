"""What all quantised safetensors checkpoints share: compressed weights beside plain tensors, one source for both.

A family (GPTQ, AWQ, …) looks at the stored tensors and plans each compressed weight as a *layout*: which tensors it
is made of, what comes out, and how. Planning reads headers and configuration only and loads no torch. Everything
that is not part of a compressed weight passes through unchanged. Names are never taken for granted: shapes and
dtypes of all parts must fit together before anything is decoded.
"""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Final

from ucaudit.core import tensorfile
from ucaudit.core.errors import MalformedPackError, missing_extra
from ucaudit.core.tensorfile import TensorInfo
from ucaudit.packs.codecs.base import CHUNK_BYTES, BitsPerWeight, TensorSpec, sort_specs
from ucaudit.packs.codecs.identity import IdentitySource
from ucaudit.packs.detect import CONFIG_NAME, quantisation_section
from ucaudit.packs.opened import OpenedPack

if TYPE_CHECKING:
    import torch

CONFIG_DTYPES: Final = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
TORCH_NAMES: Final = {name: dtype for dtype, name in CONFIG_DTYPES.items()}
FLOATS: Final = ("BF16", "F16", "F32")


@dataclass(frozen=True, slots=True)
class Layout(ABC):
    """One compressed weight.

    Attributes:
        name: of the tensor it stands for.
        shape: of that tensor.
        dtype: of that tensor, by the arithmetic profile in use.
        parts: names of the stored tensors it is made of.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    parts: tuple[str, ...]

    @abstractmethod
    def pieces(self, reader: Reader, device: torch.device, elements: int) -> Iterator[torch.Tensor]:
        """The weight in float32, row by row, in pieces of about ``elements``, before the last rounding.

        Raises:
            MalformedPackError: the stored values contradict the format.
        """


class Reader:
    """Stored tensors by name, for layouts. Every error names the tensor."""

    def __init__(self, source: QuantisedSource, device: torch.device) -> None:
        self._source = source
        self._device = device

    def whole(self, name: str) -> torch.Tensor:
        """A stored tensor on the device."""
        return self._tensor(name, 0, None)

    def rows(self, name: str, begin: int, end: int) -> torch.Tensor:
        """Some steps along the first axis of a stored tensor, on the device."""
        return self._tensor(name, begin, end)

    def _tensor(self, name: str, begin: int, end: int | None) -> torch.Tensor:
        import torch

        from ucaudit.packs.codecs.tensors import TORCH_DTYPES

        info = self._source.stored(name)
        step = info.nbytes // info.shape[0] if info.shape and info.shape[0] else info.nbytes
        stop = info.nbytes if end is None else end * step
        data = self._source.read_bytes(name, begin * step, stop)
        shape = info.shape if end is None else (end - begin, *info.shape[1:])
        dtype = TORCH_DTYPES[info.dtype]
        if not data:
            return torch.empty(shape, dtype=dtype, device=self._device)
        return torch.frombuffer(bytearray(data), dtype=dtype).view(shape).to(self._device)

    def scales(self, name: str) -> torch.Tensor:
        """A stored tensor of scales in float32. Raises MalformedPackError if one of them is not finite."""
        from ucaudit.packs.codecs.quantised_math import to_float32

        values = to_float32(self.whole(name))
        if not bool(values.isfinite().all()):
            raise MalformedPackError(f"a scale in tensor {name!r} is infinite or not a number")
        return values


class QuantisedSource(IdentitySource):
    """A checkpoint with compressed weights. Families implement :meth:`plan`."""

    bits: ClassVar[float | None] = None

    def __init__(self, pack: OpenedPack) -> None:
        self._arithmetic = self.profiles[0] if self.profiles else self.arithmetic_profile
        super().__init__(pack)
        try:
            section = quantisation_section(self._config)
            self.section: dict[str, Any] = section if isinstance(section, dict) else self.outside_section()
            self._arrange()
        except BaseException:
            self.close()
            raise

    def outside_section(self) -> dict[str, Any]:
        """The settings where ``config.json`` has none; {} unless a family knows a file of its own."""
        return {}

    @abstractmethod
    def plan(self) -> tuple[Sequence[Layout], Sequence[str]]:
        """The compressed weights, and the names of stored tensors that belong to no weight and are left out.

        Left out are the scales of activations: they act on what runs through a layer, not on its weights.

        Raises:
            MalformedPackError: parts that are missing or do not fit together.
            CodecUnavailableError: a variant that is not read here.
        """

    def _arrange(self) -> None:
        layouts, left_out = self.plan()
        self._layouts = {layout.name: layout for layout in layouts}
        self.left_out = tuple(sorted(left_out))
        used = {part for layout in layouts for part in layout.parts} | {*left_out}
        plain = [info for name, (_, info) in self._places.items() if name not in used]
        clash = [info.name for info in plain if info.name in self._layouts]
        if clash:
            raise MalformedPackError(f"tensor {clash[0]!r} is stored plain and compressed", subject=self.pack.name)
        specs = [TensorSpec(info.name, info.dtype, info.shape) for info in plain]
        specs += [TensorSpec(layout.name, layout.dtype, layout.shape) for layout in layouts]
        self.specs = sort_specs(specs, subject=self.pack.name)
        self.__dict__.pop("_specs_by_name", None)
        names = {spec.name for spec in self.specs}
        self.ties = tuple((alias, stored) for alias, stored in self.ties if stored in names and alias not in names)

    def _apply_profile(self, name: str) -> None:
        self.arithmetic_profile = name
        self._arrange()

    # --- for families ---------------------------------------------------------------------------------------
    def stored(self, name: str) -> TensorInfo:
        """A stored tensor's dtype, shape and place. Raises MalformedPackError if it is missing."""
        place = self._places.get(name)
        if place is None:
            raise MalformedPackError(f"tensor {name!r} is missing", subject=self.pack.name)
        return place[1]

    def has(self, name: str) -> bool:
        """Whether a tensor of this name is stored."""
        return name in self._places

    def modules(self, suffix: str) -> list[str]:
        """What stands before ``suffix`` in the names of the stored tensors that end with it, sorted."""
        return sorted(name.removesuffix(suffix) for name in self._places if name.endswith(suffix))

    def require(
        self, name: str, dtypes: Sequence[str], shapes: Sequence[tuple[int, ...]] | None = None
    ) -> TensorInfo:
        """A stored tensor of one of these dtypes and shapes. Raises MalformedPackError."""
        info = self.stored(name)
        if info.dtype not in dtypes:
            raise MalformedPackError(
                f"tensor {name!r}: expected dtype {' or '.join(dtypes)}, found {info.dtype}",
                subject=self._file_of(name),
            )
        if shapes is not None and info.shape not in shapes:
            wanted = " or ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
            raise MalformedPackError(
                f"tensor {name!r}: expected shape {wanted}, found {list(info.shape)}", subject=self._file_of(name)
            )
        return info

    def setting(self, key: str, kind: type, default: Any = None) -> Any:  # noqa: ANN401 - a JSON value
        """A value of the quantisation settings, its type checked. Raises MalformedPackError."""
        value = self.section.get(key)
        if value is None:
            value = default
        if value is not None and type(value) is not kind:
            raise MalformedPackError(
                f"quantization_config: {key} is {str(value)[:40]!r}", subject=f"{self.pack.name}/{CONFIG_NAME}"
            )
        return value

    def read_bytes(self, name: str, begin: int, end: int) -> bytes:
        """Some bytes of a stored tensor, counted from its first."""
        file, info = self._places[name]
        part = TensorInfo(name, "U8", (end - begin,), info.begin + begin, info.begin + end)
        return tensorfile.read_tensor(self._handles[file], part, subject=f"{self.pack.name}/{file}")

    def _file_of(self, name: str) -> str:
        return f"{self.pack.name}/{self._places[name][0]}"

    # --- as a source ----------------------------------------------------------------------------------------
    def stream(
        self, name: str, *, device: str = "cpu", chunk_bytes: int = CHUNK_BYTES
    ) -> Iterator[bytes | memoryview]:
        """As the base class says."""
        layout = self._layouts.get(name)
        if layout is None:
            yield from super().stream(name, device=device, chunk_bytes=chunk_bytes)
            return
        try:
            from ucaudit.packs.codecs.rounding import round_to
            from ucaudit.packs.codecs.tensors import raw_bytes, torch_device
            from ucaudit.packs.codecs.ucq_math import require_ieee
        except ImportError as error:
            raise missing_extra("measure", error.name or "torch") from error
        where = torch_device(device)
        require_ieee(where)
        try:
            for piece in layout.pieces(Reader(self, where), where, max(1, chunk_bytes // 2)):
                yield raw_bytes(round_to(piece, layout.dtype))
        except MalformedPackError as error:
            if error.subject is not None:
                raise
            raise MalformedPackError(
                f"tensor {name!r}: {error.message}", subject=self._file_of(layout.parts[0])
            ) from error
        for part in layout.parts:
            file = self._places[part][0]
            self.pack.check_unchanged(file, self._handles[file])

    def prefetch(self, names: Sequence[str]) -> None:
        """As the base class says."""
        for name in names:
            layout = self._layouts.get(name)
            super().prefetch(layout.parts if layout is not None else [name])

    def config(self) -> dict[str, Any]:
        """The checkpoint's configuration without its quantisation, which the written checkpoint no longer has."""
        dtypes = {layout.dtype for layout in self._layouts.values()}
        plain = {
            key: value
            for key, value in self._config.items()
            if key not in ("quantization_config", "compression_config", "torch_dtype", "dtype")
        }
        stated = self._config.get("dtype", self._config.get("torch_dtype"))
        chosen = CONFIG_DTYPES[dtypes.pop()] if len(dtypes) == 1 else stated
        return plain | ({"dtype": chosen} if chosen is not None else {})

    def open_carried(self, path: str) -> BinaryIO:
        """As the base class says; ``config.json`` is written anew."""
        if path == CONFIG_NAME:
            return io.BytesIO((json.dumps(self.config(), indent=2, ensure_ascii=False) + "\n").encode())
        return super().open_carried(path)

    def bits_per_weight(self) -> BitsPerWeight:
        """Counted: all parts of the compressed weights, scales and zero points included."""
        parts = {part for layout in self._layouts.values() for part in layout.parts}
        stored = sum(self._places[part][1].nbytes for part in parts)
        elements = sum(self.spec(name).elements for name in self._layouts)
        return BitsPerWeight(
            nominal=self.nominal_bits(),
            compressed_on_disk=8 * stored / elements if elements else None,
            whole_on_disk=8 * self._file_bytes / max(1, self.parameters),
        )

    def nominal_bits(self) -> float | None:
        """The bits of a code, where all weights have the same; else None."""
        return self.bits
