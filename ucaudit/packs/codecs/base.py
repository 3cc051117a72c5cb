"""What a codec is: a pack's files in, named tensors out, the same bits everywhere.

A codec declares an *arithmetic profile*: which intermediate type, which order of operations, which final
rounding. The profile's name goes into every record, because "the same weights" means nothing without it.

This module imports no torch: reading the specs of a pack is part of the light base install.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Final, Self

from ucaudit.core.digest import FileManifest, StateManifest, check_name
from ucaudit.core.errors import InputError, MalformedPackError
from ucaudit.core.records import BitsPerWeight, Calibration
from ucaudit.core.tensorfile import DTYPE_SIZES

if TYPE_CHECKING:
    import torch

    from ucaudit.packs.opened import OpenedPack

__all__ = ["CHUNK_BYTES", "BitsPerWeight", "Calibration", "Provenance", "TensorSource", "TensorSpec", "sort_specs"]

CHUNK_BYTES: Final = 2 << 20
"""Default size of one chunk of decoded bytes. Decoding works on about eight times as much memory."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One reconstructed tensor: its name in the checkpoint, safetensors dtype, shape (slowest axis first)."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """The number of elements (1 for a scalar)."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def nbytes(self) -> int:
        """The size of the raw bytes."""
        return self.elements * DTYPE_SIZES[self.dtype]


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a pack says about its making. Claims of the pack, none of them checked.

    Attributes:
        license: an SPDX identifier or the licence's name.
        settings: the encoder's settings.
        calibration: the text that the encoder saw.
        source: where the uncompressed model came from.
    """

    license: str | None = None
    settings: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    calibration: Calibration | None = None
    source: str | None = None


class TensorSource(ABC):
    """A pack, opened by its codec. Use it as a context manager, or call :meth:`close`.

    Attributes:
        codec: the codec's name in the registry.
        codec_version: grows when the same files decode to other bits.
        arithmetic_profile: the name and version of the profile in use.
        pack: the opened files.
        specs: the reconstructed tensors, names sorted bytewise.
        ties: pairs (alias, stored name): the alias is the stored tensor and is not listed in ``specs``.
    """

    codec: ClassVar[str]
    codec_version: ClassVar[int]
    arithmetic_profile: str

    profiles: ClassVar[tuple[str, ...]] = ()
    """Every arithmetic profile the codec offers, the default one first; empty for a codec with only one."""

    has_manifest: ClassVar[bool] = False
    """Whether the format has a manifest of its own that claims files (see :meth:`contradicted_claims`)."""

    pack: OpenedPack
    specs: tuple[TensorSpec, ...]
    ties: tuple[tuple[str, str], ...] = ()

    @abstractmethod
    def stream(
        self, name: str, *, device: str = "cpu", chunk_bytes: int = CHUNK_BYTES
    ) -> Iterator[bytes | memoryview]:
        """The raw little-endian row-major bytes of one tensor, in order, in pieces.

        Args:
            name: a name of :attr:`specs`.
            device: where to compute: ``cpu``, ``cuda`` or ``cuda:N``. The bytes do not depend on it.
            chunk_bytes: about how large a piece is; memory use is a small multiple of it. The bytes, joined,
                do not depend on it.

        Raises:
            InputError: no such tensor.
            MalformedPackError: the stored bytes contradict the format.
            DeviceUnavailableError: the device is not there, or refused for this arithmetic.
        """

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The checkpoint's ``config.json`` as an object. Raises MalformedPackError."""

    @abstractmethod
    def carried_files(self) -> Sequence[str]:
        """Relative paths of the files a checkpoint needs besides its tensors: config, tokenizer, licence."""

    @abstractmethod
    def open_carried(self, path: str) -> BinaryIO:
        """Open one of :meth:`carried_files` for reading. Raises NotFoundError."""

    @abstractmethod
    def bits_per_weight(self) -> BitsPerWeight:
        """Bits per weight as the files on disk have it."""

    def use_profile(self, name: str) -> None:
        """Decode by another of the codec's arithmetic profiles; call it before anything else is asked for.

        Raises:
            InputError: the codec has no such profile.
        """
        known = self.profiles or (self.arithmetic_profile,)
        if name not in known:
            raise InputError(
                f"codec {self.codec} has no arithmetic profile {name[:80]!r}",
                subject=self.pack.name,
                hint=f"it has: {', '.join(known)}",
            )
        if name != self.arithmetic_profile:
            self._apply_profile(name)

    def _apply_profile(self, name: str) -> None:
        """Switch to ``name``, one of :attr:`profiles`; codecs that offer several implement it."""
        raise NotImplementedError

    def provenance(self) -> Provenance:
        """What the pack says about its making."""
        return Provenance()

    def published_state(self) -> StateManifest | None:
        """The state manifest the pack itself publishes, or None. Raises MalformedPackError."""
        return None

    def contradicted_claims(self, files: FileManifest) -> list[str]:
        """Sentences for each claim about files in the pack's own manifest that ``files`` contradicts."""
        return []

    def unclaimed(self) -> tuple[str, ...]:
        """Files that the pack's own manifest does not claim; empty for formats without such a manifest."""
        return ()

    def load(self, name: str, *, device: str = "cpu") -> torch.Tensor:
        """One whole tensor, of the dtype and shape of its spec, on ``device``. Raises as :meth:`stream`."""
        from ucaudit.packs.codecs.tensors import assemble, one_thread

        with one_thread():
            return assemble(self.spec(name), self.stream(name, device=device), device)

    def spec(self, name: str) -> TensorSpec:
        """The spec of one tensor. Raises InputError."""
        found = self._by_name().get(name)
        if found is None:
            raise InputError(f"no tensor {name[:200]!r}", subject=self.pack.name)
        return found

    @property
    def parameters(self) -> int:
        """The number of elements of all tensors; tied names are not counted twice."""
        return sum(spec.elements for spec in self.specs)

    def prefetch(self, names: Sequence[str]) -> None:  # noqa: B027 - doing nothing is a fair answer
        """Ask the system to read the bytes of some tensors ahead. A hint: it may do nothing, and never fails."""

    def close(self) -> None:
        """Close the files. The specs stay readable."""
        self.pack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _by_name(self) -> dict[str, TensorSpec]:
        known: dict[str, TensorSpec] | None = self.__dict__.get("_specs_by_name")
        if known is None:
            known = {spec.name: spec for spec in self.specs}
            self.__dict__["_specs_by_name"] = known
        return known


def sort_specs(specs: Sequence[TensorSpec], *, subject: str) -> tuple[TensorSpec, ...]:
    """Sort bytewise by name and refuse duplicates and unsafe names.

    Raises:
        MalformedPackError: a name twice, or no tensors at all.
        UnsafePathError: a name that could be read in two ways.
    """
    if not specs:
        raise MalformedPackError("no tensors", subject=subject)
    for spec in specs:
        check_name(spec.name, subject=subject)
    result = sorted(specs, key=lambda spec: spec.name.encode())
    for first, second in pairwise(result):
        if first.name == second.name:
            raise MalformedPackError(f"tensor {first.name!r} is stored twice", subject=subject)
    return tuple(result)
