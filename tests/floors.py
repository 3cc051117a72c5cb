"""Real floor bundles from made-up per-token values: planned, signed, in a ledger, closed. No model is run."""

from __future__ import annotations

import random
from array import array
from pathlib import Path

from bundles import CORPUS_SHA256, TOOL, Setting
from tinypack import tiny_state

from ucaudit.core.digest import sha256_hex
from ucaudit.core.files import write_bytes
from ucaudit.core.records import (
    Corpus,
    EncoderSettings,
    Environment,
    Floor,
    FloorPlan,
    FloorProtocol,
    FloorRun,
    Measurement,
    NamedDigest,
    Perturbation,
    PlanReference,
    PublishedFloor,
    ReferenceIdentity,
    Subject,
    make_statement,
    now,
)
from ucaudit.core.tokenvalues import REFERENCE_FILE, TokenValues, save_reference, save_run
from ucaudit.core.windows import draw
from ucaudit.evidence import bundle as names
from ucaudit.evidence.bundle import run_name
from ucaudit.evidence.floors.contents import floor_subjects
from ucaudit.evidence.floors.derive import DETERMINATIONS, compare_published, derive, winners
from ucaudit.evidence.registration import register
from ucaudit.evidence.signing import sign

TOKENS, AVAILABLE = 8, 400
BASELINE = EncoderSettings(bits=4, rank=3, steps=12)
PROTOCOL_FILE = b'name = "made-up"\n'
REFERENCE_FILES = f"{'c' * 64}  model.safetensors\n".encode()


def perturbation(name: str, direction: str, **knob) -> Perturbation:
    return Perturbation(name=name, direction=direction, settings=BASELINE.model_copy(update=knob))


ATTEMPTS = (
    perturbation("rank-4", "capacity", rank=4),
    perturbation("steps-20", "schedule", steps=20),
    perturbation("kl-0.1", "objective", kl_weight=0.1),
)


def protocol(**changes) -> FloorProtocol:
    made = FloorProtocol(
        name="made-up",
        metric="pplRatio",
        margin=0.001,
        confidence=0.95,
        seeds=(1, 2, 3, 4, 5),
        n=40,
        confirm_n=40,
        seq_len=TOKENS + 1,
        seed=42,
        dtype="fp32",
        baseline=BASELINE,
        perturbations=ATTEMPTS,
    )
    return made.model_copy(update=changes)


def published(**changes) -> PublishedFloor:
    return PublishedFloor(model="Some-8B", ratio="1.0125", windows=30).model_copy(update=changes)


def run_values(windows, level: float, arm: str, seed: int, *, seed_spread=0.0001) -> TokenValues:
    """One encoding: its windows differ from the reference by about ``level`` nats."""
    own, text = random.Random(f"{arm} {seed} {windows[0]}"), random.Random(windows[0])
    shift = level + own.gauss(0, seed_spread)
    reference, pack, kl, top1 = array("f"), array("f"), array("f"), array("B")
    for _ in windows:
        reaction = own.gauss(0, 0.0005) + text.gauss(0, 0.002)
        for _ in range(TOKENS):
            base = -text.expovariate(0.3) - 0.5
            reference.append(base)
            pack.append(base - shift - reaction)
            kl.append(abs(level) / 4 + abs(own.gauss(0, 1e-5)))
            top1.append(1)
    return TokenValues(tuple(windows), TOKENS, reference, pack, kl, top1)


def first_and_fresh(made: FloorProtocol) -> tuple[tuple[int, ...], tuple[int, ...]]:
    first = draw(AVAILABLE, made.n, made.seed, CORPUS_SHA256)
    both = draw(AVAILABLE, made.n + made.confirm_n, made.seed, CORPUS_SHA256)
    return first, tuple(sorted(set(both) - set(first)))


def all_values(
    made: FloorProtocol, windows, levels: dict[str, float], arms=None
) -> dict[tuple[str, int], TokenValues]:
    arms = arms or ["baseline", *(item.name for item in made.perturbations)]
    return {
        (arm, seed): run_values(windows, levels.get(arm, 0.01), arm, seed) for arm in arms for seed in made.seeds
    }


def measurement(made: FloorProtocol, n: int, files) -> Measurement:
    return Measurement(
        corpus=Corpus(
            name="evaluation.txt",
            sha256=CORPUS_SHA256,
            bytes=20 * AVAILABLE * made.seq_len,
            tokens=AVAILABLE * made.seq_len,
            windows_available=AVAILABLE,
        ),
        tokenizer_digest="e" * 64,
        tokens_digest="f" * 64,
        windowing="made up",
        bos="none",
        n=n,
        seq_len=made.seq_len,
        seed=made.seed,
        dtype=made.dtype,
        scored_tokens=n * TOKENS,
        tolerance=1e-5,
        calibration_overlap="none-found",
        compute={"threads": 1},
        libraries={"torch": "0"},
        value_files=tuple(sorted(files, key=lambda item: item.name)),
    )


def make_floor(
    setting: Setting,
    out: Path,
    *,
    made: FloorProtocol | None = None,
    planned: FloorProtocol | None = None,
    levels: dict[str, float] | None = None,
    fresh_levels: dict[str, float] | None = None,
    idle: str | None = None,
    confirm=True,
    late_plan=False,
    change_record=None,
    change_files=None,
) -> Path:
    """Write a floor's bundle.

    ``planned``: the protocol of the plan, if it shall be another; ``levels``: nats by arm, 0.01 if not named;
    ``idle``: an attempt that makes the baseline's states; ``change_record(record)`` before it is signed;
    ``change_files(stage)`` afterwards, before the bundle is closed.
    """
    made = made or protocol()
    first, later = first_and_fresh(made)
    values = all_values(made, first, levels or {})
    states = {
        (arm, seed): sha256_hex(f"{'baseline' if arm == idle else arm} {seed}".encode()) for arm, seed in values
    }
    results = derive(made, values, states)
    fresh = None
    if (won := winners(results)) and confirm:
        fresh = all_values(
            made, later, (levels if fresh_levels is None else fresh_levels) or {}, ["baseline", *won]
        )
        results = derive(made, values, states, fresh)
    plan = FloorPlan(
        created=now(),
        tool=TOOL,
        protocol=planned or made,
        protocol_file=NamedDigest(name="protocol.toml", sha256=sha256_hex(PROTOCOL_FILE)),
        reference_name="reference",
        reference_files_digest=sha256_hex(REFERENCE_FILES),
        corpus_name="evaluation.txt",
        corpus_sha256=CORPUS_SHA256,
        calibration=NamedDigest(name="calibration.txt", sha256="a" * 64),
    )
    plan_envelope = sign(
        make_statement(plan, [Subject("corpus", CORPUS_SHA256)]).to_bytes(), setting.signer, subject=names.PLAN
    )
    entered = None if late_plan else register(setting.ledger, plan_envelope, setting.signer)
    with names.staged(out) as stage:
        front = NamedDigest(
            name=REFERENCE_FILE, sha256=save_reference(stage / REFERENCE_FILE, next(iter(values.values())))
        )
        again = None
        if fresh is not None:
            again = NamedDigest(
                name=names.FRESH_REFERENCE,
                sha256=save_reference(stage / names.FRESH_REFERENCE, next(iter(fresh.values()))),
            )
        runs = []
        for (arm, seed), value in values.items():
            later_file = None
            if fresh is not None and (arm, seed) in fresh:
                name = run_name(arm, seed, fresh=True)
                later_file = NamedDigest(name=name, sha256=save_run(stage / name, fresh[arm, seed]))
            name = run_name(arm, seed)
            runs.append(
                FloorRun(
                    arm=arm,
                    seed=seed,
                    pack_digest=sha256_hex(f"pack {arm} {seed}".encode()),
                    state_digest=states[arm, seed],
                    bits_on_disk=4.3,
                    values=NamedDigest(name=name, sha256=save_run(stage / name, value)),
                    fresh_values=later_file,
                )
            )
        state = tiny_state()
        record = Floor(
            created=now(),
            tool=TOOL,
            determination=DETERMINATIONS[results.verdict],
            protocol=made,
            protocol_file=plan.protocol_file,
            reference=ReferenceIdentity(
                name="reference",
                files_digest=sha256_hex(REFERENCE_FILES),
                state_digest=state.digest,
                dtype="BF16",
                arithmetic_profile="identity/1",
                source=None,
                revision=None,
                note=None,
            ),
            calibration=plan.calibration,
            measurement=measurement(made, made.n, (front, *(run.values for run in runs))),
            confirmation=None
            if again is None
            else measurement(
                made, made.confirm_n, (again, *(run.fresh_values for run in runs if run.fresh_values))
            ),
            runs=tuple(runs),
            results=results,
            published=compare_published(made, results, values, fresh),
            limitations=(),
            plan=PlanReference(
                envelope_digest=plan_envelope.digest,
                ledger_origin="tests.invalid/log",
                ledger_index=0,
                deviations=(),
            ),
            environment=Environment(python="CPython 3", system="Linux", machine="x86_64", libraries={}),
        )
        if change_record is not None:
            record = change_record(record)
        envelope = sign(
            make_statement(record, floor_subjects(record)).to_bytes(), setting.signer, subject=names.ATTESTATION
        )
        names.write_attestation(stage, envelope, setting.signer.public_key)
        write_bytes(stage / names.PROTOCOL, PROTOCOL_FILE)
        write_bytes(stage / names.REFERENCE_MANIFEST, REFERENCE_FILES)
        write_bytes(stage / names.STATE, state.to_bytes())
        write_bytes(stage / names.PLAN, plan_envelope.raw)
        placed = register(setting.ledger, envelope, setting.signer)
        write_bytes(stage / names.LEDGER_PROOF, placed.proof)
        write_bytes(stage / names.LEDGER_ENTRY, placed.entry)
        entered = entered or register(setting.ledger, plan_envelope, setting.signer)
        write_bytes(stage / names.PLAN_PROOF, entered.proof)
        write_bytes(stage / names.PLAN_ENTRY, entered.entry)
        if change_files is not None:
            change_files(stage)
        names.close_bundle(stage, setting.signer)
    return out
