"""Writing the pack format ``ucq`` version 1: bit packing, the container of one tensor, the manifest.

No policy here: which tensors are compressed and how their codes are found is :mod:`ucaudit.lab.compress`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from ucaudit import __version__
from ucaudit.core import strictjson, tensorfile
from ucaudit.core.digest import StateEntry, StateManifest, check_name, sha256_file, sha256_hex
from ucaudit.core.errors import MalformedPackError, ModelError
from ucaudit.core.files import write_bytes
from ucaudit.core.records import BitsPerWeight, Calibration, Record, Tool
from ucaudit.core.records.base import Count, Sha256
from ucaudit.packs.codecs import ucq_math
from ucaudit.packs.codecs.rounding import round_to_bf16
from ucaudit.packs.codecs.tensors import raw_bytes
from ucaudit.packs.detect import MANIFEST_NAME
from ucaudit.packs.manifest import (
    ARITHMETIC_PROFILE,
    CODEC_VERSION,
    FORMAT,
    FORMAT_VERSION,
    MAX_BITS,
    MIN_BITS,
    STATE_NAME,
    FileClaim,
    RawTensor,
    Source,
    TensorClaim,
    UcqManifest,
    UcqTensor,
)

_DECODE_ROWS_BYTES: Final = 8 << 20

StoredPart = tuple[str, tuple[int, ...], bytes]
"""safetensors dtype, shape, little-endian row-major bytes."""


def pack_codes(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Write each row's codes as a little-endian bit stream.

    Args:
        codes: uint8 [rows, columns], every value below 2^bits.
        bits: 2 to 8.

    Returns:
        uint8 [rows, ceil(columns / 8) · bits]: element j has the bits [bits·j, bits·j + bits), least significant
        first; the codes that fill up the last eight are 0.

    Raises:
        ModelError: a code too large for its bits.
    """
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ModelError(f"{bits} bits a code, expected {MIN_BITS} to {MAX_BITS}")
    if codes.numel() and int(codes.max()) >> bits:
        raise ModelError(f"a code of {int(codes.max())} does not fit {bits} bits")
    rows, columns = codes.shape
    blocks = torch.zeros((rows, -(-columns // 8) * 8), dtype=torch.int32)
    blocks[:, :columns] = codes
    blocks = blocks.view(rows, -1, 8)
    packed = torch.zeros((rows, blocks.shape[1], bits), dtype=torch.int32)
    for index in range(8):
        first, shift = divmod(bits * index, 8)
        value = blocks[:, :, index] << shift
        packed[:, :, first] |= value & 0xFF
        if shift + bits > 8:
            packed[:, :, first + 1] |= value >> 8
    return packed.to(torch.uint8).view(rows, -1)


@dataclass(frozen=True, slots=True)
class EncodedOverlay:
    """A low-rank correction as it is stored.

    Attributes:
        u: int8 [rows, rank], −127…127.
        v: int8 [rank, columns], −127…127.
        rows: bfloat16 [rows].
        cols: bfloat16 [columns].
    """

    u: torch.Tensor
    v: torch.Tensor
    rows: torch.Tensor
    cols: torch.Tensor

    @property
    def rank(self) -> int:
        """The inner size."""
        return self.u.shape[1]

    def decode(self) -> torch.Tensor:
        """The correction alone, float32 [rows, columns], as the decoder computes it before it adds it."""
        return ucq_math.add_overlay(torch.zeros(len(self.rows), len(self.cols)), self.factors(0, len(self.rows)))

    def factors(self, begin: int, end: int) -> ucq_math.Overlay:
        """Rows [begin, end) in the decoder's form."""
        return ucq_math.Overlay(
            self.u[begin:end].float(),
            self.v.float(),
            self.rows[begin:end].float().unsqueeze(1),
            self.cols.float().unsqueeze(0),
        )


@dataclass(frozen=True, slots=True)
class EncodedTensor:
    """One compressed weight, ready to be stored.

    Attributes:
        name: the weight's name in the checkpoint.
        shape: [out, in], or [experts, out, in].
        bits: of one code.
        group: columns a scale.
        codes: uint8 [rows, columns], unpacked.
        levels: int8 [2^bits].
        scales: float16 [rows, ceil(columns / group)], finite, not negative.
        overlay: or None.
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    group: int
    codes: torch.Tensor
    levels: torch.Tensor
    scales: torch.Tensor
    overlay: EncodedOverlay | None = None

    def claim(self, file: str) -> UcqTensor:
        """The manifest's entry."""
        return UcqTensor(
            name=self.name,
            file=file,
            kind="ucq",
            dtype="BF16",
            shape=self.shape,
            bits=self.bits,
            group=self.group,
            rank=self.overlay.rank if self.overlay else 0,
            zeros=False,
        )

    def parts(self) -> dict[str, StoredPart]:
        """What is stored: name → dtype, shape, bytes."""
        tensors = {"codes": pack_codes(self.codes, self.bits), "levels": self.levels, "scales": self.scales}
        if self.overlay is not None:
            tensors |= {
                "overlay_u": self.overlay.u,
                "overlay_v": self.overlay.v,
                "overlay_rows": self.overlay.rows,
                "overlay_cols": self.overlay.cols,
            }
        forms = self.claim("layer.safetensors").parts()
        result: dict[str, StoredPart] = {}
        for suffix, (dtype, shape) in forms.items():
            tensor = tensors[suffix]
            if tuple(tensor.shape) != shape:
                raise ModelError(
                    f"{suffix} has the shape {list(tensor.shape)}, expected {list(shape)}", subject=self.name
                )
            result[f"{self.name}.{suffix}"] = (dtype, shape, bytes(raw_bytes(tensor)))
        return result

    def decode(self) -> torch.Tensor:
        """The weight as every decoder will give it, bfloat16 [rows, columns]: the profile's own arithmetic.

        Raises:
            ModelError: a weight that does not fit bfloat16.
        """
        rows, columns = self.codes.shape
        result = torch.empty((rows, columns), dtype=torch.bfloat16)
        step = max(1, _DECODE_ROWS_BYTES // (4 * columns))
        for begin in range(0, rows, step):
            end = min(begin + step, rows)
            values = ucq_math.scale_groups(
                ucq_math.integer_levels(self.codes[begin:end], self.levels),
                self.scales[begin:end].float(),
                None,
                self.group,
            )
            if self.overlay is not None:
                values = ucq_math.add_overlay(values, self.overlay.factors(begin, end))
            try:
                result[begin:end] = round_to_bf16(values)
            except MalformedPackError as error:
                raise ModelError(error.message, subject=self.name) from error
        return result


class WrittenFile(Record):
    """A tensor file of an unfinished pack: what an interrupted run has to remember of it."""

    claim: FileClaim
    tensors: tuple[TensorClaim, ...]
    digests: tuple[Sha256, ...]
    """Of what the tensors decode to, in the same order."""
    compressed_bytes: Count


@dataclass(frozen=True, slots=True)
class PackDescription:
    """What the manifest says besides what is stored."""

    name: str
    settings: dict[str, str | int | float | bool | None]
    source: Source
    calibration: Calibration | None
    nominal_bits: float | None
    ties: tuple[tuple[str, str], ...]


class PackWriter:
    """Writes a pack into a directory that nobody reads yet, file by file; the manifest comes last.

    Args:
        stage: an empty directory.
    """

    def __init__(self, stage: Path) -> None:
        self._stage = stage
        self._claims: list[RawTensor | UcqTensor] = []
        self._files: dict[str, FileClaim] = {}
        self._entries: list[StateEntry] = []
        self._compressed_bytes = 0
        self._container_bytes = 0

    def write_tensors(
        self, file: str, *, encoded: Sequence[EncodedTensor], raw: Mapping[str, StoredPart]
    ) -> WrittenFile:
        """Write one safetensors file and remember what its tensors must decode to.

        Args:
            file: its name, ``*.safetensors``.
            encoded: compressed weights.
            raw: tensors to be reproduced byte for byte, by name.

        Returns:
            What :meth:`adopt` needs to go on from this file.
        """
        stored: dict[str, StoredPart] = dict(raw)
        claims: list[RawTensor | UcqTensor] = []
        digests = []
        compressed = 0
        for name, (dtype, shape, data) in raw.items():
            claims.append(RawTensor(name=name, file=file, kind="raw", dtype=dtype, shape=shape))
            digests.append(sha256_hex(data))
        for tensor in encoded:
            parts = tensor.parts()
            if parts.keys() & stored.keys():
                raise ModelError("its stored parts have the names of other tensors", subject=tensor.name)
            stored |= parts
            compressed += sum(len(data) for _, _, data in parts.values())
            claims.append(tensor.claim(file))
            digests.append(sha256_hex(raw_bytes(tensor.decode())))
        tensorfile.write(self._stage / file, stored)
        written = WrittenFile(
            claim=self._claim_file(file),
            tensors=tuple(claims),
            digests=tuple(digests),
            compressed_bytes=compressed,
        )
        self._remember(written)
        return written

    def adopt(self, written: WrittenFile) -> bool:
        """Take up a file that an interrupted run wrote; False if it is not there as it was."""
        path = self._stage / written.claim.path
        if not path.is_file() or self._claim_file(written.claim.path) != written.claim:
            self._files.pop(written.claim.path, None)
            return False
        self._remember(written)
        return True

    @property
    def compressed(self) -> bool:
        """Whether there is any compressed weight so far."""
        return any(isinstance(claim, UcqTensor) for claim in self._claims)

    def forget(self) -> None:
        """Take nothing up: the files will be written again."""
        self._claims, self._files, self._entries = [], {}, []
        self._compressed_bytes = self._container_bytes = 0

    def _remember(self, written: WrittenFile) -> None:
        self._claims += written.tensors
        self._entries += [
            StateEntry(claim.name, claim.dtype, claim.shape, digest)
            for claim, digest in zip(written.tensors, written.digests, strict=True)
        ]
        self._compressed_bytes += written.compressed_bytes
        self._container_bytes += written.claim.size

    def write_file(self, path: str, data: bytes) -> None:
        """Write a carried file, byte for byte."""
        check_name(path, subject=path)
        write_bytes(self._stage / path, data)
        self._claim_file(path)

    def finish(self, description: PackDescription) -> tuple[UcqManifest, StateManifest]:
        """Write ``STATE`` and ``manifest.json``.

        Returns:
            The manifest, and the state that the encoder expects of every decoder.
        """
        state = StateManifest.build(self._entries)
        self.write_file(STATE_NAME, state.to_bytes())
        weights = {claim.name for claim in self._claims if isinstance(claim, UcqTensor)}
        compressed = sum(entry.elements for entry in state.entries if entry.name in weights)
        manifest = UcqManifest(
            format=FORMAT,
            format_version=FORMAT_VERSION,
            codec="ucq",
            codec_version=CODEC_VERSION,
            arithmetic_profile=ARITHMETIC_PROFILE,
            name=description.name,
            created_by=Tool(name="ucaudit", version=__version__),
            settings=description.settings,
            source=description.source,
            calibration=description.calibration,
            bits_per_weight=BitsPerWeight(
                nominal=description.nominal_bits if compressed else None,
                compressed_on_disk=round(8 * self._compressed_bytes / compressed, 6) if compressed else None,
                whole_on_disk=round(8 * self._container_bytes / max(1, state.parameters), 6),
            ),
            parameters=state.parameters,
            compressed_parameters=compressed,
            state_digest=state.digest,
            ties=description.ties,
            files=tuple(self._files[path] for path in sorted(self._files, key=str.encode)),
            tensors=tuple(sorted(self._claims, key=lambda claim: claim.name.encode())),
        )
        document = manifest.model_dump(mode="json", by_alias=True)
        write_bytes(self._stage / MANIFEST_NAME, strictjson.dumps(document) + b"\n")
        return manifest, state

    def _claim_file(self, path: str) -> FileClaim:
        location = self._stage / path
        claim = FileClaim(path=path, sha256=sha256_file(location), size=location.stat().st_size)
        self._files[path] = claim
        return claim
