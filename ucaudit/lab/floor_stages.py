"""The stages of a floor protocol, each kept by what it depends on, so that no finished one is ever repeated.

``WORK/packs/KEY/ARM-SEED`` is an encoding, ``WORK/values/KEY`` what was measured of one; KEY is a digest of all
that decides the content. Notes beside them name the digests, and a stage whose files are not those is made again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
import transformers

from ucaudit import __version__
from ucaudit.core import strictjson
from ucaudit.core.digest import sha256_file, sha256_hex
from ucaudit.core.errors import DigestMismatchError, InputError, UnavailableError
from ucaudit.core.files import make_directory, read_limited, write_bytes
from ucaudit.core.progress import SILENT, Progress
from ucaudit.core.records import EncoderSettings, now
from ucaudit.core.records import Measurement as MeasurementRecord
from ucaudit.core.tokenvalues import TokenValues, load_run, save_reference, save_run
from ucaudit.lab.compress import compress
from ucaudit.lab.floor_preflight import encoder_settings
from ucaudit.lab.measure import measure_planned, measurement_record
from ucaudit.lab.measure_plan import MeasurementPlan
from ucaudit.lab.measure_settings import device_class
from ucaudit.packs.codecs import TensorSource, open_source
from ucaudit.packs.opened import open_pack

if TYPE_CHECKING:
    from ucaudit.lab.floor import FloorRequest

NOTE: Final = "done.json"
_REFERENCE: Final = "reference.safetensors"
_RUN: Final = "run.safetensors"
_MAX_NOTE: Final = 1 << 24


@dataclass(frozen=True)
class Encoded:
    """One encoding.

    Attributes:
        path: where the pack lies, if it was kept.
        pack_digest, state_digest: of it.
        bits_on_disk: of the compressed weights.
    """

    path: Path
    pack_digest: str
    state_digest: str
    bits_on_disk: float | None


@dataclass(frozen=True)
class Measured:
    """What was measured of one encoding.

    Attributes:
        values: per token.
        record: how; its value files are set when all are known.
        reference, run: the files.
        made: when, by this machine's clock.
    """

    values: TokenValues
    record: MeasurementRecord
    reference: Path
    run: Path
    made: str


@dataclass
class Stages:
    """Encodes and measures, or finds it done.

    Attributes:
        request: what was asked for.
        source: the reference, opened.
        source_digest: of its files.
        calibration_sha256: of the text that the encoder sees.
        done: told about every stage: what it was, and whether it was there already.
    """

    request: FloorRequest
    source: TensorSource
    source_digest: str
    calibration_sha256: str
    done: Callable[[str, bool], None] = lambda _, __: None
    _expected: bytes | None = None

    def encode(self, arm: str, settings: EncoderSettings, seed: int, *, progress: Progress = SILENT) -> Encoded:
        """An arm's pack with one seed.

        A pack that was dropped, or is gone, is made again and must come out the same.

        Raises:
            DigestMismatchError: it came out otherwise than the one that was measured.
            InputError, UnavailableError: as :func:`ucaudit.lab.compress.compress`.
        """
        place = make_directory(self.request.work / "packs" / self._pack_key(arm, settings, seed)[:32])
        pack, note = place / f"{arm}-{seed}", place / NOTE
        known = _read_note(note)
        if known is not None and pack.is_dir() and _files_digest(pack) == known["packDigest"]:
            self.done(f"encode {arm}, seed {seed}", True)
            return _encoded(pack, known)
        shutil.rmtree(pack, ignore_errors=True)
        made = compress(
            self.source,
            pack,
            encoder_settings(settings, seed),
            calibration=self.request.protocol.calibration,
            source_digest=self.source_digest,
            progress=progress,
        )
        found = {
            "packDigest": _files_digest(pack),
            "stateDigest": made.state.digest,
            "bitsOnDisk": made.manifest.bits_per_weight.compressed_on_disk,
        }
        if known is not None and known != found:
            raise DigestMismatchError(
                f"encoded again, {arm} with seed {seed} has another digest than the pack that was measured: "
                f"{found['packDigest']}, not {known['packDigest']}",
                subject=str(pack),
                hint="remove the work directory and begin again: this machine did not repeat itself",
            )
        write_bytes(note, strictjson.dumps(found) + b"\n")
        self.done(f"encode {arm}, seed {seed}", False)
        return _encoded(pack, found)

    def known(self, arm: str, settings: EncoderSettings, seed: int) -> Encoded | None:
        """What is known of an encoding whose pack need not be there; None if it was never made."""
        place = self.request.work / "packs" / self._pack_key(arm, settings, seed)[:32]
        note = _read_note(place / NOTE)
        return None if note is None else _encoded(place / f"{arm}-{seed}", note)

    def measured(
        self, arm: str, settings: EncoderSettings, seed: int, plan: MeasurementPlan, *, progress: Progress = SILENT
    ) -> tuple[Encoded, Measured]:
        """An arm's values with one seed on the windows of a plan; encodes first where that is needed.

        Raises:
            UnavailableError: the reference came out otherwise than beside another pack.
            InputError: as :meth:`encode` and :func:`ucaudit.lab.measure.measure`.
        """
        what = f"measure {arm}, seed {seed}, {plan.windows.n} windows"
        known = self.known(arm, settings, seed)
        if known is not None:
            place = self.request.work / "values" / self._values_key(known.pack_digest, plan)[:32]
            if (found := _load(place)) is not None:
                self.done(what, True)
                return known, self._same_reference(found, arm, seed)
        encoded = self.encode(arm, settings, seed, progress=progress)
        place = make_directory(self.request.work / "values" / self._values_key(encoded.pack_digest, plan)[:32])
        protocol = self.request.protocol.protocol
        with open_source(encoded.path) as pack:
            measurement = measure_planned(
                pack,
                self.source,
                plan,
                dtype=protocol.dtype,
                device=self.request.device,
                threads=self.request.threads,
                state_dir=place / "windows",
                progress=progress,
                pack_digest=encoded.pack_digest,
                reference_digest=self.source_digest,
            )
        record = measurement_record(measurement, ())
        note = {
            "reference": save_reference(place / _REFERENCE, measurement.values),
            "run": save_run(place / _RUN, measurement.values),
            "measurement": record.model_dump(mode="json", by_alias=True),
            "made": now(),
        }
        write_bytes(place / NOTE, strictjson.dumps(note) + b"\n")
        shutil.rmtree(place / "windows", ignore_errors=True)
        if self.request.drop_packs:
            shutil.rmtree(encoded.path, ignore_errors=True)
        self.done(what, False)
        found = Measured(measurement.values, record, place / _REFERENCE, place / _RUN, str(note["made"]))
        return encoded, self._same_reference(found, arm, seed)

    def new_windows(self) -> None:
        """The runs to come are on other windows than those before."""
        self._expected = None

    def _same_reference(self, found: Measured, arm: str, seed: int) -> Measured:
        """Every run must have met the same reference, or differences between arms would be the machine's."""
        bits = found.values.reference.tobytes()
        if self._expected is None:
            self._expected = bits
        if bits != self._expected:
            raise UnavailableError(
                f"the reference's values beside {arm} with seed {seed} are not those beside the first pack",
                subject=str(found.reference.parent),
                hint="this machine did not repeat itself: finish on one machine, with the same --threads",
            )
        return found

    def _pack_key(self, arm: str, settings: EncoderSettings, seed: int) -> str:
        return _key(
            {
                "name": f"{arm}-{seed}",
                "settings": settings.model_dump(mode="json"),
                "seed": seed,
                "source": self.source_digest,
                "calibration": self.calibration_sha256,
                "deviceClass": device_class("cpu"),
                "versions": [__version__, torch.__version__, transformers.__version__],
            }
        )

    def _values_key(self, pack_digest: str, plan: MeasurementPlan) -> str:
        protocol, windows = self.request.protocol.protocol, plan.windows
        return _key(
            {
                "pack": pack_digest,
                "reference": self.source_digest,
                "corpus": windows.corpus.sha256,
                "tokens": windows.digest,
                "windows": list(windows.drawn),
                "dtype": protocol.dtype,
                "device": device_class(self.request.device),
                "threads": self.request.threads or torch.get_num_threads(),
                "versions": [__version__, torch.__version__, transformers.__version__],
            }
        )


def _key(parts: dict[str, Any]) -> str:
    return sha256_hex(strictjson.dumps({"format": "ucaudit-floor-stage/1", **parts}))


def _files_digest(pack: Path) -> str:
    with open_pack(pack) as opened:
        return opened.file_manifest().digest


def _encoded(path: Path, note: dict[str, Any]) -> Encoded:
    return Encoded(path, note["packDigest"], note["stateDigest"], note["bitsOnDisk"])


def _read_note(path: Path) -> dict[str, Any] | None:
    """What a finished stage noted; None if it never finished, or its note is damaged."""
    try:
        note = strictjson.loads(read_limited(path, _MAX_NOTE), subject=str(path))
    except InputError:
        return None
    return note if isinstance(note, dict) else None


def _load(place: Path) -> Measured | None:
    """What a finished measurement left; None if it never finished, or a file is not the one it noted."""
    note = _read_note(place / NOTE)
    if note is None:
        return None
    files = (place / _REFERENCE, place / _RUN)
    if not all(path.is_file() for path in files):
        return None
    if [sha256_file(path) for path in files] != [note.get("reference"), note.get("run")]:
        return None
    record = MeasurementRecord.model_validate_json(strictjson.dumps(note["measurement"]))
    return Measured(load_run(*files), record, *files, str(note.get("made", "")))
