"""Codec ``ucq`` version 1: the open pack format (docs/pack-format.md).

This module reads manifests and headers and is light; :mod:`ucaudit.packs.codecs.ucq_math` computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from ucaudit.core import tensorfile
from ucaudit.core.digest import FileManifest, StateManifest, sha256_hex
from ucaudit.core.errors import MalformedPackError, MalformedRecordError, NotFoundError, missing_extra
from ucaudit.core.tensorfile import TensorInfo
from ucaudit.packs.carried import stated_license
from ucaudit.packs.codecs.base import (
    CHUNK_BYTES,
    BitsPerWeight,
    Provenance,
    TensorSource,
    TensorSpec,
    sort_specs,
)
from ucaudit.packs.detect import CONFIG_NAME
from ucaudit.packs.manifest import (
    ARITHMETIC_PROFILE,
    CODEC_VERSION,
    STATE_NAME,
    RawTensor,
    UcqTensor,
    check_claimed_files,
    file_findings,
    read_manifest,
    unclaimed_files,
)
from ucaudit.packs.opened import OpenedPack

if TYPE_CHECKING:
    from ucaudit.packs.codecs.ucq_parts import StoredRows

_TENSOR_FILE = ".safetensors"
WORTHWHILE: Final = 32_000_000
"""Compressed weights from which compiling a decoder, which takes a second or two, pays."""


class UcqSource(TensorSource):
    """An open five-bit pack (any of 2 to 8 bits).

    Attributes:
        manifest: the checked ``manifest.json``.
    """

    codec = "ucq"
    codec_version = CODEC_VERSION
    arithmetic_profile = ARITHMETIC_PROFILE
    has_manifest = True

    def __init__(self, pack: OpenedPack) -> None:
        self.pack = pack
        self.manifest = read_manifest(pack)
        self._claims = {claim.name: claim for claim in self.manifest.tensors}
        self._handles: dict[str, BinaryIO] = {}
        check_claimed_files(pack, self.manifest)
        try:
            self._stored = self._read_headers()
        except BaseException:
            self.close()
            raise
        self.specs = sort_specs(
            [TensorSpec(claim.name, claim.dtype, claim.shape) for claim in self.manifest.tensors], subject=pack.name
        )
        self.ties = self.manifest.ties
        self._check_bits()

    def _read_headers(self) -> dict[tuple[str, str], TensorInfo]:
        """Open the tensor files, and match what is stored with what is claimed, both ways."""
        expected: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {
            claim.path: {} for claim in self.manifest.files if claim.path.endswith(_TENSOR_FILE)
        }
        for claim in self.manifest.tensors:
            if claim.file not in expected:
                raise MalformedPackError(
                    f"tensor {claim.name!r} lies in {claim.file!r}, which is no {_TENSOR_FILE} file",
                    subject=self.pack.name,
                )
            for stored, form in _stored_forms(claim).items():
                if stored in expected[claim.file]:
                    raise MalformedPackError(
                        f"two tensors claim {stored!r}", subject=f"{self.pack.name}/{claim.file}"
                    )
                expected[claim.file][stored] = form
        places: dict[tuple[str, str], TensorInfo] = {}
        for file, forms in expected.items():
            subject = f"{self.pack.name}/{file}"
            handle = self.pack.open(file)
            self._handles[file] = handle
            header = tensorfile.read_header(handle, subject=subject)
            for name in sorted(header.tensors.keys() - forms.keys()):
                raise MalformedPackError(f"tensor {name!r} is not claimed in the manifest", subject=subject)
            for name, (dtype, shape) in forms.items():
                info = header.tensors.get(name)
                if info is None:
                    raise MalformedPackError(f"tensor {name!r} is claimed, but missing", subject=subject)
                if (info.dtype, info.shape) != (dtype, shape):
                    raise MalformedPackError(
                        f"tensor {name!r}: expected {dtype} {list(shape)}, found {info.dtype} {list(info.shape)}",
                        subject=subject,
                    )
                places[file, name] = info
        return places

    def _check_bits(self) -> None:
        """The manifest's bits per weight are those of the files."""
        claimed, measured = self.manifest.bits_per_weight, self.bits_per_weight()
        for label, first, second in (
            ("compressed on disk", claimed.compressed_on_disk, measured.compressed_on_disk),
            ("whole on disk", claimed.whole_on_disk, measured.whole_on_disk),
        ):
            if (first is None) != (second is None) or abs((first or 0.0) - (second or 0.0)) > 1e-3:
                raise MalformedPackError(
                    f"the manifest claims {first} bits per weight {label}, the files have {second}",
                    subject=self.pack.name,
                )

    def stream(
        self, name: str, *, device: str = "cpu", chunk_bytes: int = CHUNK_BYTES
    ) -> Iterator[bytes | memoryview]:
        """As the base class says."""
        claim = self._claims[self.spec(name).name]
        if isinstance(claim, RawTensor):
            info = self._stored[claim.file, claim.name]
            yield from tensorfile.read_chunks(
                self._handles[claim.file], info, subject=self._subject(claim), chunk_bytes=chunk_bytes
            )
        else:
            yield from self._decode(claim, device, chunk_bytes)
        self.pack.check_unchanged(claim.file, self._handles[claim.file])

    def _decode(self, claim: UcqTensor, device_name: str, chunk_bytes: int) -> Iterator[memoryview]:
        try:
            from ucaudit.packs.codecs import ucq_math
            from ucaudit.packs.codecs.tensors import torch_device
            from ucaudit.packs.codecs.ucq_parts import Parts
        except ImportError as error:
            raise missing_extra("measure", error.name or "torch") from error
        device = torch_device(device_name)
        ucq_math.require_ieee(device)
        handle, subject = self._handles[claim.file], self._subject(claim)
        stored = {suffix: self._stored[claim.file, f"{claim.name}.{suffix}"] for suffix in claim.parts()}
        try:
            parts = Parts(claim, stored, handle, subject, device)
            step = max(1, chunk_bytes // (2 * claim.columns))
            decode = self._decoder(device_name)
            for begin in range(0, claim.rows, step):
                ucq_math.keep_subnormals()  # between two chunks the caller's code ran
                yield decode(parts.rows(begin, min(begin + step, claim.rows)))
        except MalformedPackError as error:
            if error.subject is None:
                raise MalformedPackError(f"tensor {claim.name!r}: {error.message}", subject=subject) from error
            raise

    def _decoder(self, device: str) -> Callable[[StoredRows], memoryview]:
        """The compiled decoder where it is there and pays, otherwise the plain one; their bytes are the same."""
        from ucaudit.packs.codecs import ucq_math
        from ucaudit.packs.codecs.tensors import raw_bytes

        if device == "cpu" and self.manifest.compressed_parameters >= WORTHWHILE:
            try:
                from ucaudit.packs.codecs import ucq_fast
            except ImportError:
                pass
            else:
                return ucq_fast.decode_rows
        return lambda stored: raw_bytes(ucq_math.decode_rows(stored))

    def config(self) -> dict[str, Any]:
        """As the base class says."""
        if not self.pack.has(CONFIG_NAME):
            raise MalformedPackError("the pack carries no configuration", subject=f"{self.pack.name}/{CONFIG_NAME}")
        value = self.pack.read_json(CONFIG_NAME)
        if not isinstance(value, dict):
            raise MalformedPackError("expected a json object", subject=f"{self.pack.name}/{CONFIG_NAME}")
        return value

    def carried_files(self) -> Sequence[str]:
        """The claimed files that hold no tensors and are not the published state."""
        return sorted(
            claim.path
            for claim in self.manifest.files
            if not claim.path.endswith(_TENSOR_FILE) and claim.path != STATE_NAME
        )

    def open_carried(self, path: str) -> BinaryIO:
        """As the base class says."""
        if path not in self.carried_files():
            raise NotFoundError("not a carried file", subject=f"{self.pack.name}/{path[:200]}")
        return self.pack.open(path)

    def published_state(self) -> StateManifest:
        """``STATE``, which the manifest pins by digest and whose names and shapes are those of the pack."""
        subject = f"{self.pack.name}/{STATE_NAME}"
        data = self.pack.read(STATE_NAME)
        try:
            state = StateManifest.parse(data, subject=subject)
        except MalformedRecordError as error:
            raise MalformedPackError(error.message, subject=subject) from error
        if sha256_hex(data) != self.manifest.state_digest:
            raise MalformedPackError(
                f"the manifest claims state digest {self.manifest.state_digest}, found {sha256_hex(data)}",
                subject=subject,
            )
        if [(entry.name, entry.dtype, entry.shape) for entry in state.entries] != [
            (spec.name, spec.dtype, spec.shape) for spec in self.specs
        ]:
            raise MalformedPackError("its tensors are not those of the manifest", subject=subject)
        return state

    def bits_per_weight(self) -> BitsPerWeight:
        """Measured on the files; the nominal number is the settings'."""
        compressed = sum(
            self._stored[claim.file, stored].nbytes
            for claim in self.manifest.tensors
            if isinstance(claim, UcqTensor)
            for stored in _stored_forms(claim)
        )
        whole = sum(self.pack.size(file) for file in self._handles)
        count = self.manifest.compressed_parameters
        return BitsPerWeight(
            nominal=self.manifest.bits_per_weight.nominal,
            compressed_on_disk=8 * compressed / count if count else None,
            whole_on_disk=8 * whole / max(1, self.manifest.parameters),
        )

    def provenance(self) -> Provenance:
        """As the manifest states it; the licence, failing that, from the model card."""
        source = self.manifest.source
        return Provenance(
            license=source.license or stated_license(self.pack),
            settings=dict(self.manifest.settings),
            calibration=self.manifest.calibration,
            source=source.source,
        )

    def contradicted_claims(self, files: FileManifest) -> list[str]:
        """As the base class says."""
        return file_findings(self.manifest, files)

    def unclaimed(self) -> tuple[str, ...]:
        """As the base class says."""
        return unclaimed_files(self.pack, self.manifest)

    def prefetch(self, names: Sequence[str]) -> None:
        """As the base class says."""
        for claim in (self._claims[name] for name in names):
            for stored in _stored_forms(claim):
                tensorfile.advise(self._handles[claim.file], self._stored[claim.file, stored])

    def close(self) -> None:
        """Close the tensor files."""
        for handle in self._handles.values():
            handle.close()
        super().close()

    def _subject(self, claim: RawTensor | UcqTensor) -> str:
        return f"{self.pack.name}/{claim.file}"


def open_ucq(pack: OpenedPack) -> UcqSource:
    """Open an open pack. Raises MalformedPackError, UnsafePathError, UnsupportedSchemaError."""
    return UcqSource(pack)


def _stored_forms(claim: RawTensor | UcqTensor) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Stored name → dtype and shape."""
    if isinstance(claim, RawTensor):
        return {claim.name: (claim.dtype, claim.shape)}
    return {f"{claim.name}.{suffix}": form for suffix, form in claim.parts().items()}
