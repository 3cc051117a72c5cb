"""Measure a pack against its reference: both models, the same tokens, window by window.

Models that fit memory are held whole; others go through layer by layer (:mod:`ucaudit.lab.measure_stream`).

Every finished window is kept on disk, so an interrupted run goes on where it stopped and ends in the same bytes.
What is computed, and what is recorded about it: docs/measuring-runs.md.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, cast

from ucaudit import __version__
from ucaudit.core import strictjson, tokenvalues
from ucaudit.core.errors import ModelError, RefusedError
from ucaudit.core.files import require_writable_directory, write_bytes
from ucaudit.core.progress import SILENT, Progress
from ucaudit.core.records import Measurement as MeasurementRecord
from ucaudit.core.records import NamedDigest, Results
from ucaudit.core.records.attestation import Corpus as CorpusRecord
from ucaudit.core.tokenvalues import TokenValues
from ucaudit.evidence.claims import BOOTSTRAP_SEED, compute_results
from ucaudit.lab.corpus import Corpus, Windows
from ucaudit.lab.measure_memory import choose_execution
from ucaudit.lab.measure_plan import MeasurementPlan, plan_measurement
from ucaudit.lab.measure_settings import (
    ComputeSettings,
    Dtype,
    current_settings,
    device_class,
    pinned_arithmetic,
    tolerance,
    torch_dtype,
)
from ucaudit.lab.measure_state import StateDirectory, discard_state, state_key
from ucaudit.lab.measure_stream import StreamedPair, Streaming
from ucaudit.lab.merge import SUMMARY_CONFIDENCE, SUMMARY_FILE, summary_document
from ucaudit.lab.overlap import Overlap
from ucaudit.models.forward import WindowScores, score_window
from ucaudit.models.runtime import load_model, runtime_record

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ucaudit.packs.codecs.base import TensorSource

STATE_DIRECTORY: Final = ".measure-state"


@dataclass(frozen=True)
class Measurement:
    """What came out, and all that is known about how.

    Attributes:
        values: the values per token.
        windows: the text, the draw and the token ids.
        settings: how it was computed.
        overlap: what is known of overlap with the pack's calibration text.
        pack_digest, reference_digest: SHA-256 of the file manifests of what was measured.
        resumed: windows taken over from an interrupted run.
    """

    values: TokenValues
    windows: Windows
    settings: ComputeSettings
    overlap: Overlap
    pack_digest: str
    reference_digest: str
    resumed: int

    @property
    def bos(self) -> Literal["prepended", "none"]:
        """The BOS rule as recorded."""
        return "none" if self.windows.bos_id is None else "prepended"

    @property
    def tolerance(self) -> float:
        """Numerical tolerance on ln ratio on other machines."""
        return tolerance(self.settings, len(self.windows.drawn) * self.values.tokens)

    @property
    def windowing(self) -> str:
        """How the text was cut, in words."""
        front = "" if self.windows.bos_id is None else f", each after the token {self.windows.bos_id} as BOS"
        return (
            f"{self.windows.cutting}, consecutive windows of "
            f"{self.windows.seq_len} tokens{front}, the last partial one dropped; {len(self.windows.drawn)} of "
            f"{self.windows.available} drawn by rank of SHA-256(seed, corpus SHA-256, window index); "
            "each scored on its own"
        )

    def save_values(self, directory: Path) -> tuple[NamedDigest, ...]:
        """Write the three files of values per token. Raises OutputError."""
        saved = tokenvalues.save(directory, self.values)
        return tuple(NamedDigest(name=name, sha256=saved[name]) for name in sorted(saved))


def measure(
    pack: TensorSource,
    reference: TensorSource,
    corpus: Corpus | Path,
    *,
    n: int,
    seq_len: int,
    seed: int,
    dtype: str = "fp32",
    device: str = "cpu",
    threads: int | None = None,
    state_dir: Path,
    progress: Progress = SILENT,
    allow_overlap: bool = False,
    memory_bytes: int | None = None,
    calibration: Path | None = None,
    share: str | None = None,
    pack_digest: str | None = None,
    reference_digest: str | None = None,
) -> Measurement:
    """Score ``n`` windows of the text with both models.

    Args:
        pack, reference: opened.
        corpus: the evaluation text, or its path.
        n: windows to draw.
        seq_len: text tokens a window.
        seed: of the draw.
        dtype: ``fp32`` or ``bf16``, of parameters and activations.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads; None leaves torch's choice.
        state_dir: where finished windows are kept; the caller removes it once the result is safe
            (:func:`discard_state`).
        progress: told about bytes hashed and windows scored.
        memory_bytes: a budget, of the process on ``cpu``, of the GPU on ``cuda``; None for what is free.
        allow_overlap, calibration, share: see :func:`ucaudit.lab.measure_plan.plan_measurement`.
        pack_digest, reference_digest: of the file manifests, if the caller has hashed the files already.

    Raises:
        CorpusError, ModelError, InputError: see :func:`ucaudit.lab.measure_plan.plan_measurement`; also logits
            that are not finite.
        UnavailableError: the device is absent, memory or disk is full.
        KeyboardInterrupt: passed on; the finished windows are kept.
    """
    device_class(device)
    plan = plan_measurement(
        *(pack, reference, corpus),
        n=n,
        seq_len=seq_len,
        seed=seed,
        dtype=dtype,
        allow_overlap=allow_overlap,
        calibration=calibration,
        share=share,
    )
    return measure_planned(
        *(pack, reference, plan),
        dtype=dtype,
        device=device,
        threads=threads,
        state_dir=state_dir,
        progress=progress,
        memory_bytes=memory_bytes,
        pack_digest=pack_digest,
        reference_digest=reference_digest,
    )


def measure_planned(
    pack: TensorSource,
    reference: TensorSource,
    plan: MeasurementPlan,
    *,
    dtype: str,
    device: str = "cpu",
    threads: int | None = None,
    state_dir: Path,
    progress: Progress = SILENT,
    memory_bytes: int | None = None,
    pack_digest: str | None = None,
    reference_digest: str | None = None,
) -> Measurement:
    """Score the windows of a plan. Arguments and errors as :func:`measure`."""
    precision = cast(Dtype, dtype)
    target = torch_dtype(dtype)
    device_class(device)
    windows = plan.windows
    execution = choose_execution(plan.memory, device, budget=memory_bytes)
    pack_digest = pack_digest or _files_digest(pack, "hashing the pack", progress)
    reference_digest = reference_digest or _files_digest(reference, "hashing the reference", progress)
    with pinned_arithmetic(dtype, device, threads):
        models: tuple[PreTrainedModel, PreTrainedModel]
        streamed: StreamedPair | None = None
        if execution.mode == "whole":
            models = _load_both(reference, pack, target, device, progress)
        else:
            streamed = StreamedPair(reference, pack, Streaming(target, device, execution.spill))
            models = streamed.reference.model, streamed.pack.model
        settings = _settings(models, precision, device, execution.mode)
        state = StateDirectory(
            state_dir,
            state_key(
                {
                    "pack": pack_digest,
                    "reference": reference_digest,
                    "codec": [pack.codec, pack.codec_version, reference.codec, reference.codec_version],
                    "corpus": windows.corpus.sha256,
                    "tokenizer": windows.tokenizer_digest,
                    "bos": windows.bos_id,
                    "seqLen": windows.seq_len,
                    "settings": settings.to_record(),
                    "libraries": settings.libraries,
                    "ucaudit": __version__,
                }
            ),
            windows.scored,
        )
        state.prepare()
        payloads, resumed = _score_all(streamed or WholePair(*models), windows, state, progress)
    return Measurement(
        values=_collect(windows, payloads),
        windows=windows,
        settings=settings,
        overlap=plan.overlap,
        pack_digest=pack_digest,
        reference_digest=reference_digest,
        resumed=resumed,
    )


def measurement_record(
    measurement: Measurement, value_files: tuple[NamedDigest, ...] | None = None
) -> MeasurementRecord:
    """The measurement as the signed record has it; for a share, that of the whole draw with the share's files.

    Args:
        measurement: what was measured.
        value_files: as :meth:`Measurement.save_values` returned them; computed if not given.
    """
    windows, settings = measurement.windows, measurement.settings
    return MeasurementRecord(
        corpus=CorpusRecord(
            name=windows.corpus.name,
            sha256=windows.corpus.sha256,
            bytes=windows.corpus.size,
            tokens=windows.total_tokens,
            windows_available=windows.available,
            text_column=windows.corpus.column,
            rows=None if windows.corpus.span is None else "{}:{}".format(*windows.corpus.span),
            documents=None if windows.corpus.rows is None else len(windows.corpus.rows),
        ),
        tokenizer_digest=windows.tokenizer_digest,
        tokens_digest=windows.digest,
        windowing=measurement.windowing,
        bos=measurement.bos,
        n=len(windows.drawn),
        seq_len=windows.seq_len,
        seed=windows.seed,
        dtype=settings.dtype,
        scored_tokens=len(windows.drawn) * measurement.values.tokens,
        tolerance=measurement.tolerance,
        calibration_overlap=measurement.overlap.status,
        overlap_search=measurement.overlap.search,
        compute=settings.to_record(),
        libraries=settings.libraries,
        value_files=value_files if value_files is not None else _value_digests(measurement),
    )


def write_measurement(measurement: Measurement, out: Path) -> tuple[Results | None, dict[str, object]]:
    """Write the three files of values and, last, ``measurement.json``; then drop the saved windows below ``out``.

    Returns:
        The figures (None for a share: its own are not the measurement's), and what is in ``measurement.json``.

    Raises:
        OutputError: the directory cannot be written.
        InputError: fewer than two windows, which have no interval.
    """
    share = measurement.windows.share
    results = None
    if share is None:
        results = compute_results(measurement.values, confidence=SUMMARY_CONFIDENCE, seed=BOOTSTRAP_SEED)
    files = measurement.save_values(out)
    document = summary_document(
        measurement_record(measurement, files),
        results,
        pack_digest=measurement.pack_digest,
        reference_digest=measurement.reference_digest,
        windows=measurement.windows.indexes,
        share=share,
    )
    write_bytes(out / SUMMARY_FILE, strictjson.dumps(document) + b"\n")
    discard_state(out / STATE_DIRECTORY)
    return results, document


def prepare_output(out: Path) -> Path:
    """Preflight: a directory that can be written and holds no finished measurement.

    Returns:
        The directory for finished windows.

    Raises:
        RefusedError: a measurement lies there already.
        OutputError: it cannot be written.
    """
    if (out / SUMMARY_FILE).exists():
        raise RefusedError("holds a finished measurement", subject=str(out), hint="choose another --out")
    require_writable_directory(out)
    return out / STATE_DIRECTORY


def _files_digest(source: TensorSource, label: str, progress: Progress) -> str:
    progress.start(source.pack.total_bytes, "bytes", label)
    digest = source.pack.file_manifest(progress=progress.advance).digest
    progress.finish()
    return digest


def _load_both(
    reference: TensorSource, pack: TensorSource, dtype: object, device: str, progress: Progress
) -> tuple[PreTrainedModel, PreTrainedModel]:
    progress.start(2, "models", "loading both models")
    models = []
    for source in (reference, pack):
        models.append(load_model(source, dtype=dtype, device=device))  # type: ignore[arg-type]
        progress.advance(1)
    progress.finish()
    return models[0], models[1]


@dataclass(frozen=True)
class WholePair:
    """Both models in memory; the counterpart of :class:`ucaudit.lab.measure_stream.StreamedPair`."""

    reference: PreTrainedModel
    pack: PreTrainedModel

    def scores(
        self, windows: Windows, positions: list[int], state: StateDirectory, progress: Progress
    ) -> Iterator[WindowScores]:
        """The values of some windows, in order. Raises as :func:`ucaudit.models.forward.score_window`."""
        progress.start(len(positions), "windows", "measuring")
        for position in positions:
            name = f"window {windows.indexes[position]}"
            yield score_window(self.reference, self.pack, windows.input_ids(position), name=name)


def _settings(
    models: tuple[PreTrainedModel, PreTrainedModel], dtype: Dtype, device: str, execution: str
) -> ComputeSettings:
    """Both models must have been built alike, or their difference would be the implementations'."""
    first, second = (runtime_record(model) for model in models)
    for name in ("modelClass", "attention", "experts"):
        if first[name] != second[name]:
            raise ModelError(
                f"the reference runs with {name} {first[name]}, the pack with {second[name]}", subject="config.json"
            )
    return current_settings(
        dtype,
        device,
        attention=first["attention"],
        experts=first["experts"],
        model_class=first["modelClass"],
        execution=execution,
    )


def _score_all(
    models: WholePair | StreamedPair, windows: Windows, state: StateDirectory, progress: Progress
) -> tuple[list[bytes], int]:
    """The payload of every drawn window, from disk or computed, and how many came from disk."""
    payloads: dict[int, bytes] = {}
    for position, window in enumerate(windows.indexes):
        payload, damaged = state.load(window, windows.row_bytes(position))
        if damaged:
            progress.note(f"window {window}: its saved values are damaged, it is measured again")
        if payload is not None:
            payloads[position] = payload
    resumed = len(payloads)
    if resumed:
        progress.note(f"{resumed} of {windows.n} windows are there from an earlier run")
    left = [position for position in range(windows.n) if position not in payloads]
    for position, scores in zip(left, models.scores(windows, left, state, progress), strict=True):
        payloads[position] = _encode(scores)
        state.save(windows.indexes[position], windows.row_bytes(position), payloads[position])
        progress.advance(1)
    progress.finish()
    return [payloads[position] for position in range(windows.n)], resumed


def _encode(scores: WindowScores) -> bytes:
    floats = (scores.reference, scores.pack, scores.kl)
    return b"".join(column.numpy().astype("<f4").tobytes() for column in floats) + scores.top1.numpy().tobytes()


def _collect(windows: Windows, payloads: list[bytes]) -> TokenValues:
    width = 4 * windows.scored
    columns: list[array[float]] = []
    for begin in (0, width, 2 * width):
        column = array("f", b"".join(payload[begin : begin + width] for payload in payloads))
        if sys.byteorder == "big":
            column.byteswap()
        columns.append(column)
    values = TokenValues(
        windows=windows.indexes,
        tokens=windows.scored,
        reference=columns[0],
        pack=columns[1],
        kl=columns[2],
        top1=array("B", b"".join(payload[3 * width :] for payload in payloads)),
        documents=windows.documents,
    )
    return values.check(subject="measurement")


def _value_digests(measurement: Measurement) -> tuple[NamedDigest, ...]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ucaudit-values-") as directory:
        return measurement.save_values(Path(directory))
