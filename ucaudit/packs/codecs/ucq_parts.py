"""The stored parts of a compressed ``ucq`` weight, read and checked some rows at a time.

They stay what they are on disk, integers and patterns of floats in numpy arrays, until a decoder takes them: the
plain one puts them on its device, the compiled one reads them where they lie. So checks never wait for a GPU, and
several threads that decode small tensors do not hand the interpreter's lock to and fro, as they would with every
operation of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, BinaryIO, Final

import numpy as np
import torch
from numpy.typing import NDArray

from ucaudit.core import tensorfile
from ucaudit.core.errors import MalformedPackError
from ucaudit.core.tensorfile import TensorInfo
from ucaudit.packs.manifest import UcqTensor

_STORED: Final[dict[str, type[np.generic]]] = {"U8": np.uint8, "I8": np.int8, "F16": np.int16, "BF16": np.int16}
"""safetensors' dtype → what it is read as."""
_F16_INFINITE: Final = 0x7C00
_BF16_INFINITE: Final = 0x7F80

Bytes = NDArray[np.uint8]
SmallIntegers = NDArray[np.int8]
Patterns = NDArray[np.int16]


class OverlayColumns:
    """The overlay's parts that all rows share.

    Attributes:
        v: int8 [rank, columns], −127 to 127.
        cols: bfloat16 patterns [columns], finite.
        device: where the plain decoder needs them.
    """

    def __init__(self, v: SmallIntegers, cols: Patterns, device: torch.device) -> None:
        self.v, self.cols, self.device = v, cols, device

    @cached_property
    def floats(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Both as float32 on the device: V, and the column factors as [1, columns]."""
        cols = torch.from_numpy(self.cols).to(self.device).view(torch.bfloat16).float()
        return torch.from_numpy(self.v).to(self.device).float(), cols.unsqueeze(0)


@dataclass(frozen=True, slots=True)
class StoredOverlay:
    """The overlay of some rows.

    Attributes:
        u: int8 [rows, rank], −127 to 127.
        rows: bfloat16 patterns [rows], finite.
        shared: what all rows have in common.
    """

    u: SmallIntegers
    rows: Patterns
    shared: OverlayColumns


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Some rows of a compressed weight.

    Attributes:
        codes: uint8 [rows, ceil(columns / 8) · bits].
        bits: of a code.
        levels: int8 [2^bits].
        scales: float16 patterns [rows, ceil(columns / group)], finite and not negative.
        zeros: int8 of the same shape, or None.
        group: columns a scale.
        columns: of the weight.
        overlay: None without one.
        device: where the plain decoder computes.
    """

    codes: Bytes
    bits: int
    levels: SmallIntegers
    scales: Patterns
    zeros: SmallIntegers | None
    group: int
    columns: int
    overlay: StoredOverlay | None
    device: torch.device

    def first(self, count: int) -> StoredRows:
        """The first rows of these."""
        overlay = self.overlay
        return replace(
            self,
            codes=self.codes[:count],
            scales=self.scales[:count],
            zeros=None if self.zeros is None else self.zeros[:count],
            overlay=overlay and StoredOverlay(overlay.u[:count], overlay.rows[:count], overlay.shared),
        )


class Parts:
    """One compressed weight in an open file.

    Args:
        claim: its entry in the manifest.
        stored: where each part lies, by suffix; dtypes and shapes are those of ``claim.parts()``.
        handle: the file.
        subject: the file's name for error messages.
        device: where the plain decoder computes.

    Raises:
        MalformedPackError: the file has shrunk, or a part that all rows share holds what is not allowed.
    """

    def __init__(
        self,
        claim: UcqTensor,
        stored: Mapping[str, TensorInfo],
        handle: BinaryIO,
        subject: str,
        device: torch.device,
    ) -> None:
        self._claim, self._stored = claim, stored
        self._handle, self._subject, self._device = handle, subject, device
        self._levels = self._read("levels")
        if claim.rank:
            cols = self._factors("overlay_cols", 0, claim.columns)
            self._shared = OverlayColumns(self._small_integers("overlay_v", 0, claim.rank), cols, device)

    def rows(self, begin: int, end: int) -> StoredRows:
        """The rows [begin, end). Raises MalformedPackError."""
        claim, overlay = self._claim, None
        if claim.rank:
            rows = self._factors("overlay_rows", begin, end)
            overlay = StoredOverlay(self._small_integers("overlay_u", begin, end), rows, self._shared)
        return StoredRows(
            codes=self._read("codes", begin, end),
            bits=claim.bits,
            levels=self._levels,
            scales=self._scales(begin, end),
            zeros=self._read("zeros", begin, end) if claim.zeros else None,
            group=claim.group,
            columns=claim.columns,
            overlay=overlay,
            device=self._device,
        )

    def _scales(self, begin: int, end: int) -> Patterns:
        part = self._read("scales", begin, end)
        if int(part.min()) < 0 or int(part.max()) >= _F16_INFINITE:
            raise MalformedPackError("a scale is negative or not finite")
        return part

    def _small_integers(self, suffix: str, begin: int, end: int) -> SmallIntegers:
        part = self._read(suffix, begin, end)
        if int(part.min()) == -128:
            raise MalformedPackError(f"{suffix} holds −128, only −127 to 127 are allowed")
        return part

    def _factors(self, suffix: str, begin: int, end: int) -> Patterns:
        part = self._read(suffix, begin, end)
        if int((part & 0x7FFF).max()) >= _BF16_INFINITE:
            raise MalformedPackError(f"{suffix} holds a value that is not finite")
        return part

    def _read(self, suffix: str, begin: int = 0, end: int | None = None) -> NDArray[Any]:
        """Rows [begin, end) of one part, as stored."""
        info = self._stored[suffix]
        rows = info.shape[0]
        count = (rows if end is None else end) - begin
        part = np.empty((count, *info.shape[1:]), _STORED[info.dtype])
        start = info.begin + begin * (info.nbytes // rows)
        tensorfile.read_into(self._handle, start, part.data.cast("B"), subject=self._subject)
        return part
