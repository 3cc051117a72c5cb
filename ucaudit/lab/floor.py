"""A floor protocol from its file to its bundle: plan, encode, measure, judge, sign, enter in the ledger.

The plan is committed to the ledger before anything is encoded. Whatever comes out is signed, entered and bundled
in the same way: a floor that is refuted, and a protocol that decides nothing, like one that holds.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ucaudit import __version__
from ucaudit.core.digest import FileManifest, sha256_hex
from ucaudit.core.progress import SILENT, Progress
from ucaudit.core.records import (
    Floor,
    FloorPlan,
    FloorResults,
    FloorRun,
    Measurement,
    NamedDigest,
    PlanReference,
    ReferenceIdentity,
    Tool,
    make_statement,
    now,
)
from ucaudit.core.tokenvalues import REFERENCE_FILE, TokenValues
from ucaudit.evidence import bundle as names
from ucaudit.evidence.bundle import run_name
from ucaudit.evidence.floors.contents import floor_subjects
from ucaudit.evidence.floors.derive import DETERMINATIONS, compare_published, derive, winners
from ucaudit.evidence.floors.protocol import BASELINE, LoadedProtocol
from ucaudit.evidence.keys import Signer
from ucaudit.evidence.signing import sign
from ucaudit.lab.environment import describe_environment
from ucaudit.lab.floor_plan import CommittedFloor, commit
from ucaudit.lab.floor_preflight import FloorPreflight, arms_of, floor_preflight, opened_reference, require_state
from ucaudit.lab.floor_publish import FloorOutcome, floor_limitations, publish_floor, signed_before, store_signed
from ucaudit.lab.floor_stages import Encoded, Measured, Stages
from ucaudit.packs.codecs import TensorSource
from ucaudit.packs.state import reconstruct_state

Render = Callable[[Floor], Mapping[str, bytes]]
"""Makes the renderings of a record: file name → bytes."""


@dataclass(frozen=True)
class FloorRequest:
    """Everything a floor protocol needs.

    Attributes:
        protocol: as read.
        signer: signs plan and record, and closes the bundle.
        out: the bundle directory to make.
        ledger: the ledger directory.
        ledger_signer: the ledger's key; ``signer`` by default.
        given_work: where stages are kept, if not beside ``out``; then it stays when all is done.
        drop_packs: keep no pack longer than it is measured.
        render: makes the drawings.
    """

    protocol: LoadedProtocol
    signer: Signer
    out: Path
    ledger: Path
    ledger_signer: Signer | None = None
    given_work: Path | None = None
    drop_packs: bool = False
    device: str = "cpu"
    threads: int | None = None
    render: Render | None = None

    @property
    def work(self) -> Path:
        """Where finished stages lie."""
        return self.given_work or self.out.parent / f".{self.out.name}.floor"

    @property
    def run_state(self) -> Path:
        """Where the plan and the signed record of this output lie: never shared with another output."""
        place = sha256_hex(os.fsencode(self.out.absolute()))
        return self.work / f"run-{self.out.name}-{place[:8]}"


@dataclass(frozen=True)
class _Series:
    """All runs on one set of windows."""

    encoded: dict[tuple[str, int], Encoded]
    measured: dict[tuple[str, int], Measured]

    @property
    def values(self) -> dict[tuple[str, int], TokenValues]:
        return {key: item.values for key, item in self.measured.items()}


def run_floor(request: FloorRequest, *, progress: Progress = SILENT) -> FloorOutcome:
    """Carry a floor protocol out.

    Interrupted, it leaves its finished stages in :attr:`FloorRequest.work`; the same command goes on from there.

    Raises:
        RefusedError: the plan that was committed is another one than the protocol makes now.
        InputError, UnavailableError: see :func:`ucaudit.lab.floor_preflight.floor_preflight`.
    """
    checked = floor_preflight(request)
    with opened_reference(request.protocol) as reference:
        progress.start(reference.pack.total_bytes, "bytes", "hashing the reference")
        files = reference.pack.file_manifest(progress=progress.advance)
        progress.finish()
        committed = commit(request, _draft(request, checked, reference, files))
        progress.note(f"plan {committed.envelope.digest[:16]}… is entry {committed.placed.index} of the ledger")
        if signed_before(request, committed):
            progress.note("an interrupted run has signed this record already: nothing is encoded or measured")
        else:
            _carry_out(request, checked, committed, reference, files, progress)
    outcome = publish_floor(request)
    if request.given_work is None:
        shutil.rmtree(request.work, ignore_errors=True)
    else:
        shutil.rmtree(request.run_state, ignore_errors=True)
    return outcome


def _draft(
    request: FloorRequest, checked: FloorPreflight, reference: TensorSource, files: FileManifest
) -> FloorPlan:
    corpus = checked.plan.windows.corpus
    return FloorPlan(
        created=now(),
        tool=Tool(name="ucaudit", version=__version__),
        protocol=request.protocol.protocol,
        protocol_file=request.protocol.file,
        reference_name=reference.pack.name,
        reference_files_digest=files.digest,
        corpus_name=corpus.name,
        corpus_sha256=corpus.sha256,
        text_column=corpus.column,
        rows=None if corpus.span is None else "{}:{}".format(*corpus.span),
        calibration=NamedDigest(name=checked.calibration.name, sha256=checked.calibration.sha256),
    )


def _carry_out(
    request: FloorRequest,
    checked: FloorPreflight,
    committed: CommittedFloor,
    reference: TensorSource,
    files: FileManifest,
    progress: Progress,
) -> None:
    """Every stage that is not done yet, the verdict, and the signature."""
    protocol = request.protocol.protocol
    state = reconstruct_state(reference, device=request.device, progress=progress)
    require_state(request.protocol.pins["state"], state.digest, subject=str(request.protocol.model))
    stages = Stages(request, reference, files.digest, checked.calibration.sha256)
    first = _series(stages, request, checked, checked.windows, list(arms_of(request.protocol)), progress)
    states = {key: item.state_digest for key, item in first.encoded.items()}
    results = derive(protocol, first.values, states)
    fresh = None
    if won := winners(results):
        progress.note(
            f"{', '.join(won)} improved by more than the margin: again on {protocol.confirm_n} fresh windows"
        )
        stages.new_windows()
        fresh = _series(stages, request, checked, checked.fresh, [BASELINE, *won], progress)
        results = derive(protocol, first.values, states, fresh.values)
    identity = ReferenceIdentity(
        name=reference.pack.name,
        files_digest=files.digest,
        state_digest=state.digest,
        dtype=", ".join(sorted({entry.dtype for entry in state.entries})),
        arithmetic_profile=reference.arithmetic_profile,
        source=request.protocol.source,
        revision=request.protocol.revision,
        note=request.protocol.note,
    )
    record = _record(request, checked, committed, identity, results, first, fresh)
    statement = make_statement(record, floor_subjects(record))
    envelope = sign(statement.to_bytes(), request.signer, subject=names.ATTESTATION)
    values = {REFERENCE_FILE: next(iter(first.measured.values())).reference}
    values |= {run_name(arm, seed): item.run for (arm, seed), item in first.measured.items()}
    if fresh is not None:
        values[names.FRESH_REFERENCE] = next(iter(fresh.measured.values())).reference
        values |= {run_name(arm, seed, fresh=True): item.run for (arm, seed), item in fresh.measured.items()}
    store_signed(request, committed, envelope, values, files, state)


def _series(
    stages: Stages,
    request: FloorRequest,
    checked: FloorPreflight,
    windows: tuple[int, ...],
    arms: list[str],
    progress: Progress,
) -> _Series:
    """Encode and measure arms with every seed, on some of the drawn windows."""
    protocol, settings = request.protocol.protocol, arms_of(request.protocol)
    plan = checked.plan.only(windows)
    encoded, measured = {}, {}
    kept = 0
    progress.start(
        len(arms) * len(protocol.seeds), "encodings", f"encoding and measuring on {len(windows)} windows"
    )

    def note(what: str, there: bool) -> None:
        nonlocal kept
        kept += there and what.startswith("measure")

    stages.done = note
    for arm in arms:
        for seed in protocol.seeds:
            encoded[arm, seed], measured[arm, seed] = stages.measured(arm, settings[arm], seed, plan)
            progress.advance()
    progress.finish()
    if kept:
        progress.note(f"{kept} of them were there from an earlier run")
    return _Series(encoded, measured)


def _record(
    request: FloorRequest,
    checked: FloorPreflight,
    committed: CommittedFloor,
    reference: ReferenceIdentity,
    results: FloorResults,
    first: _Series,
    fresh: _Series | None,
) -> Floor:
    from ucaudit.core.digest import sha256_file

    protocol = request.protocol.protocol
    runs = []
    for (arm, seed), item in first.encoded.items():
        name = run_name(arm, seed)
        later = None
        if fresh is not None and (arm, seed) in fresh.measured:
            again = run_name(arm, seed, fresh=True)
            later = NamedDigest(name=again, sha256=sha256_file(fresh.measured[arm, seed].run))
        runs.append(
            FloorRun(
                arm=arm,
                seed=seed,
                pack_digest=item.pack_digest,
                state_digest=item.state_digest,
                bits_on_disk=item.bits_on_disk,
                values=NamedDigest(name=name, sha256=sha256_file(first.measured[arm, seed].run)),
                fresh_values=later,
            )
        )
    front = NamedDigest(name=REFERENCE_FILE, sha256=sha256_file(next(iter(first.measured.values())).reference))
    measurement = _measurement(first, (front, *(run.values for run in runs)))
    confirmation = None
    if fresh is not None:
        front = NamedDigest(
            name=names.FRESH_REFERENCE, sha256=sha256_file(next(iter(fresh.measured.values())).reference)
        )
        confirmation = _measurement(fresh, (front, *(run.fresh_values for run in runs if run.fresh_values)))
        after = f"; the first {protocol.n} of the same draw were measured before and are not among them"
        confirmation = confirmation.model_copy(update={"windowing": confirmation.windowing + after})
    published = compare_published(protocol, results, first.values, None if fresh is None else fresh.values)
    draft = Floor(
        created=now(),
        tool=Tool(name="ucaudit", version=__version__),
        determination=DETERMINATIONS[results.verdict],
        protocol=protocol,
        protocol_file=request.protocol.file,
        reference=reference,
        calibration=NamedDigest(name=checked.calibration.name, sha256=checked.calibration.sha256),
        measurement=measurement,
        confirmation=confirmation,
        runs=tuple(runs),
        results=results,
        published=published,
        limitations=(),
        plan=PlanReference(
            envelope_digest=committed.envelope.digest,
            ledger_origin=committed.placed.origin,
            ledger_index=committed.placed.index,
            deviations=(),
        ),
        environment=describe_environment(),
    )
    made = [item.made for series in (first, fresh) if series is not None for item in series.measured.values()]
    early = sum(moment < committed.plan.created for moment in made)
    return draft.model_copy(update={"limitations": floor_limitations(draft, early=early)})


def _measurement(series: _Series, files: tuple[NamedDigest, ...]) -> Measurement:
    """How the runs were measured: alike, but for the files."""
    first = next(iter(series.measured.values())).record
    return first.model_copy(update={"value_files": tuple(sorted(files, key=lambda item: item.name))})


__all__ = ["FloorOutcome", "FloorRequest", "run_floor"]
