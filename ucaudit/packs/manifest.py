"""``manifest.json`` of the open pack format ``ucq``, version 1 (docs/pack-format.md). Light: no torch.

The manifest claims every file and every tensor. :func:`read_manifest` checks it against itself;
:func:`file_findings` compares its claims with what lies in the directory.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from ucaudit.core.digest import FileManifest, check_name
from ucaudit.core.errors import MalformedPackError, UnsupportedSchemaError
from ucaudit.core.records import BitsPerWeight, Calibration, Record, Tool
from ucaudit.core.records.base import Count, Name, Sha256, Text
from ucaudit.core.tensorfile import DTYPE_SIZES
from ucaudit.packs.detect import MANIFEST_NAME
from ucaudit.packs.opened import OpenedPack

FORMAT: Final = "ucq"
FORMAT_VERSION: Final = 1
CODEC_VERSION: Final = 1
ARITHMETIC_PROFILE: Final = "ucq-f32-bf16/1"
STATE_NAME: Final = "STATE"
OTHER_FILE: Final = "other.safetensors"
MIN_BITS: Final = 2
MAX_BITS: Final = 8
MAX_RANK: Final = 1040
"""127 · 127 · 1040 = 16,774,160 < 2^24: the largest inner size whose every partial sum is exact in float32."""

TensorName = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Axis = Annotated[int, Field(ge=1, le=2**31 - 1)]


class FileClaim(Record):
    """One file of the pack, by path relative to the pack, SHA-256 and size in bytes."""

    path: Annotated[str, StringConstraints(min_length=1, max_length=500)]
    sha256: Sha256
    size: Count


class RawTensor(Record):
    """A tensor stored under its own name and reproduced byte for byte."""

    name: TensorName
    file: TensorName
    kind: Literal["raw"]
    dtype: str
    shape: Annotated[tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...], Field(max_length=16)]


class UcqTensor(Record):
    """A compressed weight: codes, levels and scales, and if asked for zero points and an int8 overlay.

    ``shape`` is [out, in], or [experts, out, in], which is handled as (experts·out) rows.
    """

    name: TensorName
    file: TensorName
    kind: Literal["ucq"]
    dtype: Literal["BF16"]
    shape: Annotated[tuple[Axis, ...], Field(min_length=2, max_length=3)]
    bits: Annotated[int, Field(ge=MIN_BITS, le=MAX_BITS)]
    group: Annotated[int, Field(ge=1, le=2**31 - 1)]
    rank: Annotated[int, Field(ge=0, le=MAX_RANK)]
    zeros: bool

    @property
    def rows(self) -> int:
        """The number of rows: every axis but the last."""
        count = 1
        for size in self.shape[:-1]:
            count *= size
        return count

    @property
    def columns(self) -> int:
        """The length of a row."""
        return self.shape[-1]

    def parts(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """What is stored for this tensor: suffix → dtype and shape."""
        groups = -(-self.columns // self.group)
        result: dict[str, tuple[str, tuple[int, ...]]] = {
            "codes": ("U8", (self.rows, -(-self.columns // 8) * self.bits)),
            "levels": ("I8", (1 << self.bits,)),
            "scales": ("F16", (self.rows, groups)),
        }
        if self.zeros:
            result["zeros"] = ("I8", (self.rows, groups))
        if self.rank:
            result["overlay_u"] = ("I8", (self.rows, self.rank))
            result["overlay_v"] = ("I8", (self.rank, self.columns))
            result["overlay_rows"] = ("BF16", (self.rows,))
            result["overlay_cols"] = ("BF16", (self.columns,))
        return result


TensorClaim = Annotated[RawTensor | UcqTensor, Field(discriminator="kind")]


class Source(Record):
    """What was compressed, as the encoder was told."""

    name: Name
    state_digest: Sha256 | None
    files_digest: Sha256 | None
    source: Text | None
    revision: Text | None
    license: Text | None
    note: Text | None


class UcqManifest(Record):
    """The whole manifest."""

    format: Literal["ucq"]
    format_version: Literal[1]
    codec: Literal["ucq"]
    codec_version: Literal[1]
    arithmetic_profile: Literal["ucq-f32-bf16/1"]
    name: Name
    created_by: Tool
    settings: dict[str, str | int | float | bool | None]
    source: Source
    calibration: Calibration | None
    bits_per_weight: BitsPerWeight
    parameters: Count
    compressed_parameters: Count
    state_digest: Sha256
    ties: tuple[tuple[TensorName, TensorName], ...]
    files: tuple[FileClaim, ...]
    tensors: Annotated[tuple[TensorClaim, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """The manifest does not contradict itself."""
        paths = [claim.path for claim in self.files]
        _unique(paths, "file")
        for path in paths:
            _contained(path)
        if MANIFEST_NAME in paths:
            raise ValueError(f"{MANIFEST_NAME} cannot claim itself")
        if STATE_NAME not in paths:
            raise ValueError(f"{STATE_NAME} is not claimed")
        names = [claim.name for claim in self.tensors]
        _unique(names, "tensor")
        parameters = compressed = 0
        for claim in self.tensors:
            check_name(claim.name, subject=MANIFEST_NAME)
            if claim.file not in paths:
                raise ValueError(f"tensor {claim.name}: its file {claim.file!r} is not claimed")
            if claim.dtype not in DTYPE_SIZES:
                raise ValueError(f"tensor {claim.name}: unknown dtype {claim.dtype!r}")
            elements = 1
            for size in claim.shape:
                elements *= size
            parameters += elements
            compressed += elements if claim.kind == "ucq" else 0
        if (parameters, compressed) != (self.parameters, self.compressed_parameters):
            raise ValueError(
                f"{self.parameters} parameters, {self.compressed_parameters} compressed; "
                f"the shapes give {parameters}, {compressed}"
            )
        for alias, stored in self.ties:
            check_name(alias, subject=MANIFEST_NAME)
            if alias in names or stored not in names:
                raise ValueError(f"tie {alias} to {stored}: the first must not be stored, the second must be")
        _unique([alias for alias, _ in self.ties], "tie")
        return self


def _unique(names: list[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} {name[:200]!r} is listed twice")
        seen.add(name)


def _contained(path: str) -> None:
    check_name(path, subject=MANIFEST_NAME)
    parts = path.split("/")
    if PurePosixPath(path).is_absolute() or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"file path {path[:200]!r} leaves the pack")


def read_manifest(pack: OpenedPack) -> UcqManifest:
    """Read and check ``manifest.json``.

    Raises:
        UnsupportedSchemaError: a later format version.
        MalformedPackError: not strict JSON, unknown or missing members, or in contradiction with itself.
        UnsafePathError: a name with control characters.
    """
    subject = f"{pack.name}/{MANIFEST_NAME}"
    document = pack.read_json(MANIFEST_NAME)  # duplicate keys and the like are refused here
    version = document.get("formatVersion") if isinstance(document, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UnsupportedSchemaError(
            f"pack format version {version}, this release reads up to {FORMAT_VERSION}",
            subject=subject,
            hint="a newer ucaudit may read it",
        )
    if isinstance(document, dict):
        for key in ("formatVersion", "codecVersion"):
            if isinstance(document.get(key), bool):  # equal to 1, and so good enough for pydantic's Literal
                raise MalformedPackError(f"{key}: expected a number", subject=subject)
    try:
        return UcqManifest.model_validate_json(pack.read(MANIFEST_NAME))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        reason = reason if first["type"] == "value_error" else reason[:1].lower() + reason[1:]
        raise MalformedPackError(f"{place}: {reason}" if place else reason, subject=subject) from error


def unclaimed_files(pack: OpenedPack, manifest: UcqManifest) -> tuple[str, ...]:
    """Files in the pack that the manifest does not claim, sorted."""
    claimed = {claim.path for claim in manifest.files} | {MANIFEST_NAME}
    return tuple(file.path for file in pack.files if file.path not in claimed)


def check_claimed_files(pack: OpenedPack, manifest: UcqManifest) -> None:
    """Every claimed file is there and has the claimed size. Raises MalformedPackError."""
    for claim in manifest.files:
        subject = f"{pack.name}/{claim.path}"
        if not pack.has(claim.path):
            raise MalformedPackError(
                "claimed in the manifest, but missing", subject=subject, hint="the pack is not whole: copy it again"
            )
        if pack.size(claim.path) != claim.size:
            raise MalformedPackError(
                f"the manifest claims {claim.size} bytes, found {pack.size(claim.path)}",
                subject=subject,
                hint="the file is not whole, or was changed: copy the pack again",
            )


def file_findings(manifest: UcqManifest, found: FileManifest) -> list[str]:
    """Sentences that name each file whose content is not what the manifest claims; empty if all agree."""
    digests = found.by_path()
    return [
        f"{claim.path}: the manifest claims sha-256 {claim.sha256[:16]}…, "
        + (f"found {digests[claim.path][:16]}…" if claim.path in digests else "the file is missing")
        for claim in manifest.files
        if digests.get(claim.path) != claim.sha256
    ]
