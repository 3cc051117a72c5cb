"""``verify --spot-check``: decode some tensors and measure some windows again, which the signer could not foresee.

Figures that follow from the per-token values say nothing about whether these came from the pack. Only doing the
work again does; a spot check does a part of it, drawn by a nonce made now (:mod:`ucaudit.evidence.spots`).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ucaudit.core.digest import FileManifest
from ucaudit.core.errors import (
    DigestMismatchError,
    InputError,
    StateDriftError,
    VerificationError,
)
from ucaudit.core.progress import SILENT, Progress
from ucaudit.core.records import Attestation
from ucaudit.core.stats import numerical_tolerance
from ucaudit.core.tokenvalues import TokenValues, load
from ucaudit.evidence import bundle as names
from ucaudit.evidence.bundle import OpenBundle
from ucaudit.evidence.checks import Verification
from ucaudit.evidence.spots import SpotDraw, compare_values, describe_chance, select
from ucaudit.lab.measure import measure_planned
from ucaudit.lab.measure_plan import MeasurementPlan, plan_measurement
from ucaudit.lab.texts import load_corpus
from ucaudit.packs.codecs import TensorSource, open_source
from ucaudit.packs.opened import open_pack
from ucaudit.packs.state import reconstruct_state

_TENSORS: Final = "drawn tensors, decoded again, against STATE"
_WINDOWS: Final = "drawn windows, measured again, against the per-token files"
_UNFINISHED: Final = "a check before this one failed; what it would say is not about this record"


@dataclass(frozen=True)
class SpotInputs:
    """What a spot check needs besides the bundle.

    Attributes:
        pack, reference: directories, or a ``.gguf`` file.
        corpus: the evaluation text.
        count: K, tensors and windows to look at.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads; None leaves torch's choice.
    """

    pack: Path
    reference: Path
    corpus: Path
    count: int
    device: str = "cpu"
    threads: int | None = None


@dataclass
class Spots:
    """What was looked at: enough to repeat it.

    Attributes:
        draw: the nonce, and what follows from it.
        tensors, windows: drawn; empty where it did not come to that.
    """

    draw: SpotDraw
    tensors: tuple[str, ...] = field(default=())
    windows: tuple[int, ...] = field(default=())

    def as_json(self) -> dict[str, object]:
        """As ``--json`` prints it."""
        return {
            "nonce": self.draw.nonce,
            "nonceGiven": self.draw.given,
            "tensors": list(self.tensors),
            "windows": list(self.windows),
        }


def spot_check(
    bundle: OpenBundle, result: Verification, inputs: SpotInputs, draw: SpotDraw, progress: Progress = SILENT
) -> Spots:
    """Do a part of the audit again. Call it after :func:`ucaudit.evidence.verify.verify_bundle` and
    :func:`ucaudit.packs.compare.check_files`.

    Args:
        bundle: whose record ``result`` holds.
        result: gets a check for the reference, the text and its tokens, the tensors, the windows.
        inputs: what to look at.
        draw: where to look.
        progress: told about bytes and windows.

    Raises:
        InputError: more is asked for than there is, or a path or model that cannot be read and that nothing in the
            record contradicts.
        UnavailableError: the device is absent, memory is short.
    """
    spots = Spots(draw)
    record = result.record
    if record is None or result.found_by("artefact"):
        for what in (_TENSORS, _WINDOWS):
            result.remark("spot-check", "not-checked", what, "there is no signed state and no signed values to ask")
        return spots
    signed = load(bundle.path)
    state = bundle.state()
    most = max(len(state.entries), len(signed.windows))
    if inputs.count > most:
        raise InputError(
            f"a spot check of {inputs.count} is asked for; the record has {len(state.entries)} tensors and "
            f"{len(signed.windows)} windows",
            subject="--spot-check",
            hint=f"at most {most}; where there are fewer of one kind, all of them are checked",
        )
    spots.tensors = draw.pick("tensor", [entry.name for entry in state.entries], inputs.count)
    _check_tensors(bundle, record, inputs, spots, result, progress)
    if result.found_by("pack-files"):
        result.remark("spot-windows", "not-checked", _WINDOWS, "this is not the pack that was attested")
        return spots
    with open_source(inputs.reference) as reference:
        if not _check_reference(bundle, record, reference, result, progress):
            result.remark("spot-windows", "not-checked", _WINDOWS, _UNFINISHED)
            return spots
        with _open(inputs.pack, record) as pack:
            plan = _plan(record, signed, pack, reference, inputs.corpus, result)
            if plan is None:
                result.remark("spot-windows", "not-checked", _WINDOWS, _UNFINISHED)
                return spots
            spots.windows = draw.pick("window", signed.windows, inputs.count)
            _check_windows(record, signed, (pack, reference, plan.only(spots.windows)), inputs, result, progress)
    return spots


def _open(pack: Path, record: Attestation) -> TensorSource:
    """The pack as ``attest`` opened it. Raises as :func:`ucaudit.packs.codecs.open_source`."""
    return open_source(open_pack(pack, excludes=record.pack.excluded))


def _check_tensors(
    bundle: OpenBundle,
    record: Attestation,
    inputs: SpotInputs,
    spots: Spots,
    result: Verification,
    progress: Progress,
) -> None:
    """Names, dtypes and shapes of all tensors, and the bytes of those drawn."""
    expected = bundle.state()
    by_name = {entry.name: entry for entry in expected.entries}
    drift: list[str] = []
    try:
        with _open(inputs.pack, record) as source:
            there = {spec.name: (spec.dtype, spec.shape) for spec in source.specs}
            drift += [f"{name}: missing" for name in by_name if name not in there]
            drift += [f"{name}: not in STATE" for name in there if name not in by_name]
            drift += [
                f"{name}: other dtype or shape"
                for name, entry in by_name.items()
                if there.get(name, (entry.dtype, entry.shape)) != (entry.dtype, entry.shape)
            ]
            left = [name for name in spots.tensors if name in there]
            found = reconstruct_state(
                source, device=inputs.device, threads=inputs.threads, names=left, progress=progress
            )
    except InputError as error:
        if not result.found_by("pack-files"):
            raise
        broken = StateDriftError(f"cannot be decoded any more: {error}", subject=inputs.pack.name)
        result.add("spot-tensors", _TENSORS, broken, "", level="re-measured")
        return
    other = [entry for entry in found.entries if by_name[entry.name].digest != entry.digest]
    drift += [f"{e.name}: expected {by_name[e.name].digest[:16]}…, found {e.digest[:16]}…" for e in other]
    drawn, total = len(spots.tensors), len(expected.entries)
    elements = sum(by_name[name].elements for name in spots.tensors)
    what = f"{drawn} of {total} tensors ({elements / expected.parameters:.1%} of the parameters)"
    problem = None
    if drift:
        problem = StateDriftError(
            "; ".join(drift[:10]),
            subject=inputs.pack.name,
            hint=f"{len(drift)} of {what} differ; --full decodes them all",
        )
    fine = f"{what} agree: {describe_chance(total, drawn, 'line')}"
    result.add("spot-tensors", _TENSORS, problem, fine, level="re-measured")


def _check_reference(
    bundle: OpenBundle, record: Attestation, reference: TensorSource, result: Verification, progress: Progress
) -> bool:
    progress.start(reference.pack.total_bytes, "bytes", "hashing the reference")
    files = reference.pack.file_manifest(progress=progress.advance)
    progress.finish()
    problem = None
    if files.digest != record.reference.files_digest:
        expected = FileManifest.parse(bundle.read(names.REFERENCE_MANIFEST), subject=names.REFERENCE_MANIFEST)
        wanted, found = expected.by_path(), files.by_path()
        other = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
        problem = DigestMismatchError(
            f"{other[0]} is another file" + (f" (and {len(other) - 1} more)" if len(other) > 1 else ""),
            subject=reference.pack.name,
            hint="this is not the reference that the pack was measured against",
        )
    what = "the reference's files against reference.SHA256SUMS"
    return result.add("reference-files", what, problem, f"{len(files.entries)} files agree", level="re-measured")


def _plan(
    record: Attestation,
    signed: TokenValues,
    pack: TensorSource,
    reference: TensorSource,
    corpus: Path,
    result: Verification,
) -> MeasurementPlan | None:
    """The text cut into windows again; None if it is not what the record describes."""
    measured = record.measurement
    rows = measured.corpus.rows
    text = load_corpus(corpus, column=measured.corpus.text_column, rows=rows)
    what = "the text against the record"
    problem: VerificationError | None = None
    if text.sha256 != measured.corpus.sha256:
        problem = DigestMismatchError(
            f"expected sha-256 {measured.corpus.sha256[:16]}… ({measured.corpus.name}), found {text.sha256[:16]}…",
            subject=corpus.name,
            hint="this is not the text that was measured on",
        )
        result.add("corpus", what, problem, "", level="re-measured")
        return None
    result.add("corpus", what, None, f"sha-256 {text.sha256[:16]}…", level="re-measured")
    what = "token ids of all drawn windows against the tokens digest"
    try:
        plan = plan_measurement(
            *(pack, reference, text),
            n=measured.n,
            seq_len=measured.seq_len,
            seed=measured.seed,
            dtype=measured.dtype,
            allow_overlap=True,
        )
    except InputError as error:
        # Pack, reference and text are those of the record, which says that they could be measured.
        problem = VerificationError(f"cannot be measured as recorded: {error}", subject="measurement")
        result.add("tokens", what, problem, "", level="re-measured")
        return None
    windows = plan.windows
    differs = [
        name
        for name, mine, theirs in (
            ("tokenizer digest", windows.tokenizer_digest, measured.tokenizer_digest),
            ("BOS rule", "none" if windows.bos_id is None else "prepended", measured.bos),
            ("number of tokens", windows.total_tokens, measured.corpus.tokens),
            ("number of windows", windows.available, measured.corpus.windows_available),
            ("draw", windows.drawn, signed.windows),
            ("document numbers", windows.drawn_documents, signed.documents),
            ("tokens digest", windows.digest, measured.tokens_digest),
            ("tokens a window", windows.scored, signed.tokens),
        )
        if mine != theirs
    ]
    if differs:
        problem = VerificationError(f"other {', '.join(differs)} than recorded", subject="tokens")
    fine = f"{windows.n} windows of {windows.seq_len} tokens agree"
    return plan if result.add("tokens", what, problem, fine, level="re-measured") else None


def _check_windows(
    record: Attestation,
    signed: TokenValues,
    models: tuple[TensorSource, TensorSource, MeasurementPlan],
    inputs: SpotInputs,
    result: Verification,
    progress: Progress,
) -> None:
    measured = record.measurement
    windows = models[2].windows.drawn
    scored = measured.n * signed.tokens
    # The record's tolerance is the signer's word: a generous one would let invented values pass.
    tolerance = min(measured.tolerance, numerical_tolerance(measured.dtype, scored))
    try:
        with tempfile.TemporaryDirectory(prefix="ucaudit-spots-") as directory:
            again = measure_planned(
                *models,
                dtype=measured.dtype,
                device=inputs.device,
                threads=inputs.threads,
                state_dir=Path(directory),
                progress=progress,
                pack_digest=record.pack.pack_digest,
                reference_digest=record.reference.files_digest,
            )
    except InputError as error:
        broken = VerificationError(f"cannot be measured as recorded: {error}", subject="measurement")
        result.add("spot-windows", _WINDOWS, broken, "", level="re-measured")
        return
    agreement = compare_values(select(signed, windows), again.values, tolerance=tolerance, scored=scored)
    listed = f"{len(windows)} of {measured.n} windows"
    problem = None
    if agreement.problems:
        problem = VerificationError(
            "; ".join(agreement.problems[:3]),
            subject="per-token values",
            hint=f"{listed} were measured again: the signed values are not what these models give",
        )
    how = (
        "to the bit"
        if agreement.equal
        else (
            f"within the tolerance of {tolerance:.2g} on ln ratio (largest difference {agreement.largest:.2g} nats)"
        )
    )
    fine = f"{listed} agree {how}: {describe_chance(measured.n, len(windows), 'window')}"
    result.add("spot-windows", _WINDOWS, problem, fine, level="re-measured")
    same = again.settings.to_record() == measured.compute and again.settings.libraries == measured.libraries
    if same and not agreement.equal and not agreement.problems:
        detail = "settings, libraries and kind of machine are the recorded ones, yet the last digits differ"
        result.remark("spot-windows", "warn", "equality to the bit on the recorded stack", detail)
