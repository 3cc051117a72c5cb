"""The main job: reconstruct, digest, measure, judge, sign, enter in the ledger, bundle.

The order is fixed, and nothing downstream of the signature can change what was measured. A failed claim is
signed, entered and bundled exactly like one that holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ucaudit import __version__
from ucaudit.core.digest import FileManifest, StateManifest
from ucaudit.core.errors import ModelError
from ucaudit.core.files import remove_empty, write_bytes
from ucaudit.core.progress import SILENT, Progress
from ucaudit.core.records import (
    Attestation,
    BitsPerWeight,
    LayerError,
    NamedDigest,
    PackIdentity,
    Reconstruction,
    ReferenceIdentity,
    Tie,
    Tool,
    make_statement,
    now,
)
from ucaudit.evidence import bundle as names
from ucaudit.evidence.bundle import OpenBundle, attestation_subjects
from ucaudit.evidence.claims import BOOTSTRAP_SEED, compute_results, determine, draft_claims, judge_all
from ucaudit.evidence.keys import Signer
from ucaudit.evidence.policy import LoadedPolicy
from ucaudit.evidence.signing import sign
from ucaudit.lab.environment import describe_environment
from ucaudit.lab.limitations import limitations_of
from ucaudit.lab.measure import Measurement, measure, measurement_record
from ucaudit.lab.planning import require_other_files
from ucaudit.lab.preflight import Preflight, preflight
from ucaudit.lab.preregistered import Planned
from ucaudit.lab.signed import Inputs, Outcome, SignedRecord, fresh_stage, keep, publish, take_up, write_proof
from ucaudit.packs.codecs import TensorSource, open_source
from ucaudit.packs.opened import OpenedPack, open_pack
from ucaudit.packs.state import reconstruct_state, relative_errors

_LAYER: Final = re.compile(r"^(.*?\.(?:layers|h|blocks)\.\d+)\.")

Render = Callable[[OpenBundle], Mapping[str, bytes]]
"""Makes the reports of a bundle that is signed but not closed: file name → bytes."""


@dataclass(frozen=True)
class Request:
    """Everything an attestation needs.

    Attributes:
        pack, reference: directories, or a ``.gguf`` file.
        policy: what to measure and to judge.
        signer: signs the record, and closes the bundle.
        out: the bundle directory to make.
        corpus: evaluation text; the policy's by default.
        ledger: the ledger directory, if the record shall be entered.
        ledger_signer: the ledger's key; ``signer`` by default.
        plan: the plan's envelope file, if the measurement was pre-registered.
        seed: the outside party's contribution to the seed, if the plan left the seed to one.
        render: makes the reports.
        calibration: the pack's calibration text, to search the drawn windows for passages of it.
        allow_overlap: attest on text of the pack's calibration all the same; it is recorded.
    """

    pack: Path
    reference: Path
    policy: LoadedPolicy
    signer: Signer
    out: Path
    corpus: Path | None = None
    ledger: Path | None = None
    ledger_signer: Signer | None = None
    plan: Path | None = None
    seed: Path | None = None
    render: Render | None = None
    device: str = "cpu"
    threads: int | None = None
    calibration: Path | None = None
    allow_overlap: bool = False


@dataclass
class _Audit:
    """What the stages hand on."""

    pack_files: FileManifest
    reference_files: FileManifest
    state: StateManifest
    reference_state: StateManifest
    published: StateManifest | None
    layer_errors: tuple[LayerError, ...]
    measurement: Measurement
    planned: Planned | None = field(default=None)


def attest(request: Request, *, progress: Progress = SILENT) -> Outcome:
    """Audit a pack and write the evidence bundle.

    Interrupted, it leaves no bundle. The measurement's finished windows lie in ``.NAME.measure`` beside the output,
    and later the signed record does (:mod:`ucaudit.lab.signed`); the next run with the same inputs takes them up.

    Raises:
        InputError, UnavailableError: see :func:`ucaudit.lab.preflight.preflight`.
    """
    checked = preflight(request)
    work = request.out.parent / f".{request.out.name}.measure"
    with (
        open_source(open_pack(request.pack, excludes=request.policy.policy.gate.exclude)) as source,
        open_source(request.reference) as reference,
    ):
        pack_files = _hashed(source.pack, "hashing the pack", progress)
        reference_files = _hashed(reference.pack, "hashing the reference", progress)
        require_other_files(pack_files, reference_files, subject=str(request.pack))
        inputs = _inputs(request, checked, pack_files, reference_files)
        signed = take_up(work, inputs)
        taken_up = signed is not None
        if signed is None:
            try:
                audit = _audit(request, checked, source, reference, (pack_files, reference_files), work, progress)
            except BaseException:
                remove_empty(work)
                raise
            signed = _sign(request, _record(request, source, reference, audit), audit, work, inputs)
        else:
            progress.note("an interrupted run has signed this record already: it is finished, nothing is measured")
    return publish(signed, request, taken_up=taken_up)


def _hashed(pack: OpenedPack, label: str, progress: Progress) -> FileManifest:
    progress.start(pack.total_bytes, "bytes", label)
    files = pack.file_manifest(progress=progress.advance)
    progress.finish()
    return files


def _inputs(request: Request, checked: Preflight, pack: FileManifest, reference: FileManifest) -> Inputs:
    """What decides the content of a record."""
    planned = checked.planned
    contribution = planned.contribution if planned else None
    ledger = None
    if request.ledger is not None:
        from ucaudit.evidence.ledger import Ledger

        ledger = Ledger.open(request.ledger).vkey
    return {
        "pack": pack.digest,
        "reference": reference.digest,
        "corpus": checked.corpus.sha256,
        "policy": request.policy.sha256,
        "key": request.signer.public_key.key_id,
        "plan": planned.envelope.digest if planned else None,
        "seed": contribution.envelope.digest if contribution else None,
        "ledger": ledger,
    }


def _audit(
    request: Request,
    checked: Preflight,
    source: TensorSource,
    reference: TensorSource,
    files: tuple[FileManifest, FileManifest],
    work: Path,
    progress: Progress,
) -> _Audit:
    pack_files, reference_files = files
    reference_state = reconstruct_state(reference, device=request.device, progress=progress)
    pinned = request.policy.policy.reference.state_digest
    if pinned is not None and pinned != reference_state.digest:
        raise ModelError(
            f"the policy pins reference state {pinned}, found {reference_state.digest}",
            subject=str(request.reference),
        )
    state = reconstruct_state(source, device=request.device, progress=progress)
    rules = request.policy.policy.measurement
    measurement = measure(
        source,
        reference,
        checked.corpus,
        n=rules.n,
        seq_len=rules.seq_len,
        seed=checked.plan.windows.seed,
        dtype=rules.dtype,
        device=request.device,
        threads=request.threads,
        state_dir=work,
        progress=progress,
        calibration=request.calibration,
        allow_overlap=request.allow_overlap,
        pack_digest=pack_files.digest,
        reference_digest=reference_files.digest,
    )
    errors = relative_errors(source, reference, progress=progress)
    return _Audit(
        pack_files=pack_files,
        reference_files=reference_files,
        state=state,
        reference_state=reference_state,
        published=source.published_state(),
        layer_errors=_by_layer(errors, state),
        measurement=measurement,
        planned=checked.planned,
    )


def _record(
    request: Request,
    source: TensorSource,
    reference: TensorSource,
    audit: _Audit,
) -> Attestation:
    policy = request.policy.policy
    contradictions = source.contradicted_claims(audit.pack_files)
    drifted = audit.state.drift_from(audit.published) if audit.published else []
    provenance = source.provenance()
    results = compute_results(audit.measurement.values, confidence=policy.claims.confidence, seed=BOOTSTRAP_SEED)
    pack = PackIdentity(
        name=source.pack.name,
        codec=source.codec,
        codec_version=source.codec_version,
        arithmetic_profile=source.arithmetic_profile,
        pack_digest=audit.pack_files.digest,
        files=len(audit.pack_files.entries),
        bytes=source.pack.total_bytes,
        bits_per_weight=_bits(source),
        license=provenance.license,
        unclaimed_files=source.unclaimed(),
        excluded=tuple(policy.gate.exclude),
        matches_manifest="no-manifest" if not source.has_manifest else "no" if contradictions else "yes",
        contradictions=tuple(contradictions[:1000]),
        settings=provenance.settings,
        calibration=provenance.calibration,
    )
    dtypes = sorted({entry.dtype for entry in audit.reference_state.entries})
    identity = ReferenceIdentity(
        name=reference.pack.name,
        files_digest=audit.reference_files.digest,
        state_digest=audit.reference_state.digest,
        dtype=", ".join(dtypes),
        arithmetic_profile=reference.arithmetic_profile,
        source=policy.reference.source,
        revision=policy.reference.revision,
        note=policy.reference.note,
    )
    reconstruction = Reconstruction(
        state_digest=audit.state.digest,
        tensors=len(audit.state.entries),
        parameters=audit.state.parameters,
        ties=tuple(Tie(name=alias, same_as=stored) for alias, stored in source.ties),
        matches_published="none-published" if audit.published is None else "no" if drifted else "yes",
        drifted=tuple(line.split(":")[0] for line in drifted[:1000]),
        device_class=request.device,
        layer_errors=audit.layer_errors,
    )
    draft = Attestation(
        created=now(),
        tool=Tool(name="ucaudit", version=__version__),
        determination="inconclusive",
        pack=pack,
        reference=identity,
        reconstruction=reconstruction,
        measurement=measurement_record(audit.measurement),
        results=results,
        claims=draft_claims(
            policy.planned_claims(publishes_state=audit.published is not None, has_manifest=source.has_manifest)
        ),
        limitations=(),
        exceptions=policy.exception_records(),
        plan=None,
        policy=NamedDigest(name=request.policy.path.name, sha256=request.policy.sha256),
        context=policy.context(),
        environment=describe_environment(),
    )
    claims = judge_all(draft, results, audit.measurement.values)
    record = draft.model_copy(
        update={"claims": claims, "determination": determine(claims, draft.exceptions, draft.created)}
    )
    if audit.planned is not None:
        record = record.model_copy(update={"plan": audit.planned.reference(record)})
    return record.model_copy(update={"limitations": limitations_of(record, on_ledger=request.ledger is not None)})


def _sign(request: Request, record: Attestation, audit: _Audit, work: Path, inputs: Inputs) -> SignedRecord:
    """Sign the record, and put it and all it cites on the disk before anybody else learns of it."""
    statement = make_statement(record, attestation_subjects(record, audit.pack_files))
    envelope = sign(statement.to_bytes(), request.signer, subject=names.ATTESTATION)
    stage = fresh_stage(work)
    names.write_attestation(stage, envelope, request.signer.public_key)
    write_bytes(stage / names.PACK_MANIFEST, audit.pack_files.to_bytes())
    write_bytes(stage / names.REFERENCE_MANIFEST, audit.reference_files.to_bytes())
    write_bytes(stage / names.STATE, audit.state.to_bytes())
    audit.measurement.save_values(stage)
    if (planned := audit.planned) is not None:
        write_bytes(stage / names.PLAN, planned.envelope.raw)
        write_proof(stage, planned.placed, names.PLAN_PROOF, names.PLAN_ENTRY)
        if planned.contribution is not None:
            write_bytes(stage / names.SEED, planned.contribution.envelope.raw)
            write_proof(stage, planned.contribution.placed, names.SEED_PROOF, names.SEED_ENTRY)
    return keep(work, inputs, envelope, record)


def _bits(source: TensorSource) -> BitsPerWeight:
    measured = source.bits_per_weight()
    return BitsPerWeight(
        nominal=measured.nominal,
        compressed_on_disk=measured.compressed_on_disk,
        whole_on_disk=measured.whole_on_disk,
    )


def _by_layer(errors: Mapping[str, tuple[float, float]], state: StateManifest) -> tuple[LayerError, ...]:
    """Squared norms a tensor → relative error a layer, in the order of the layers; the rest last."""
    sizes = {entry.name: entry.elements for entry in state.entries}
    groups: dict[str, list[str]] = {}
    for name in errors:
        match = _LAYER.match(name)
        groups.setdefault(match[1] if match else "outside the layers", []).append(name)

    def order(item: str) -> tuple[bool, int, str]:
        number = item.rsplit(".", 1)[-1]
        return not number.isdigit(), int(number) if number.isdigit() else 0, item

    result = []
    for layer in sorted(groups, key=order):
        members = groups[layer]
        difference = sum(errors[name][0] for name in members)
        norm = sum(errors[name][1] for name in members)
        relative = (difference / norm) ** 0.5 if norm else 0.0
        result.append(LayerError(layer=layer, relative_error=relative, parameters=sum(sizes[n] for n in members)))
    return tuple(result)
