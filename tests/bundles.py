"""Real bundles from made-up per-token values: signed, in a ledger, closed. Used by the evidence and CLI tests."""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass, replace
from pathlib import Path

from tinypack import tiny_bits, tiny_pack, tiny_state

from ucaudit import __version__
from ucaudit.core.digest import FileEntry, FileManifest, sha256_hex
from ucaudit.core.files import write_bytes
from ucaudit.core.records import (
    Attestation,
    Context,
    Corpus,
    Environment,
    LayerError,
    Limitation,
    Measurement,
    NamedDigest,
    PackIdentity,
    Plan,
    PlannedClaim,
    PlannedPack,
    PlanReference,
    Reconstruction,
    ReferenceIdentity,
    Tool,
    make_statement,
    now,
)
from ucaudit.core.tokenvalues import TokenValues, save
from ucaudit.core.windows import draw as draw_windows
from ucaudit.evidence import bundle as names
from ucaudit.evidence.claims import BOOTSTRAP_SEED, compute_results, determine, draft_claims, judge_all
from ucaudit.evidence.keys import FileSigner, generate, load_signer
from ucaudit.evidence.ledger import Ledger
from ucaudit.evidence.plan import deviations, plan_statement
from ucaudit.evidence.registration import register
from ucaudit.evidence.seed import effective_seed, planned_seed, read_contribution, seed_reference
from ucaudit.evidence.signing import sign
from ucaudit.evidence.trust import add_key, add_ledger

SEED = BOOTSTRAP_SEED
CORPUS_SHA256 = "d" * 64
PACK_FILES = tiny_pack()
TOOL = Tool(name="ucaudit", version=__version__)


@dataclass
class Setting:
    """A signer, a trust file, a ledger and a pack on disk."""

    root: Path
    signer: FileSigner
    trust: Path
    ledger: Path
    pack: Path


def make_setting(root: Path, *, roles=("developer",)) -> Setting:
    private, _, key = generate(root / "keys", "signer", password=None)
    signer = load_signer(str(private))
    Ledger.init(root / "ledger", "tests.invalid/log", signer)
    trust = root / "trust.toml"
    add_key(trust, key, "signer@tests.invalid", roles=roles)
    ledger = Ledger.open(root / "ledger")
    add_ledger(trust, ledger.origin, ledger.vkey)
    pack = root / "pack"
    for name, data in PACK_FILES.items():
        (pack / name).parent.mkdir(parents=True, exist_ok=True)
        (pack / name).write_bytes(data)
    return Setting(root, signer, trust, root / "ledger", pack)


def make_values(n=40, tokens=16, drift=0.004, spread=0.003, seed=1) -> TokenValues:
    """Values whose windows differ by ``drift`` nats on average."""
    draw = random.Random(seed)
    reference, pack, kl, top1 = array("f"), array("f"), array("f"), array("B")
    for _ in range(n):
        shift = draw.gauss(drift, spread)
        for _ in range(tokens):
            base = -draw.expovariate(0.3) - 0.5
            reference.append(base)
            pack.append(base - shift)
            kl.append(abs(draw.gauss(0.002, 0.001)))
            top1.append(draw.random() < 0.97)
    return TokenValues(drawn(10 * n, n), tokens, reference, pack, kl, top1)


def drawn(available: int, n: int) -> tuple[int, ...]:
    """The windows that the records' seed and text give."""
    return draw_windows(available, n, 42, CORPUS_SHA256)


def default_claims(ratio_max: float, confidence=0.95) -> tuple[PlannedClaim, ...]:
    return (
        PlannedClaim(
            id="ppl-ratio", metric="pplRatio", comparator="<=", threshold=ratio_max, confidence=confidence
        ),
        PlannedClaim(
            id="state-matches-published",
            metric="driftedTensors",
            comparator="==",
            threshold=0.0,
            confidence=confidence,
        ),
    )


def draft_record(values: TokenValues, value_files, *, manifest, state, ratio_max=1.0125, **changes) -> Attestation:
    results = compute_results(values, confidence=0.95, seed=SEED)
    draft = Attestation(
        created=now(),
        tool=TOOL,
        determination="inconclusive",
        pack=PackIdentity(
            name="pack",
            codec="ucq",
            codec_version=1,
            arithmetic_profile="ucq-f32-bf16/1",
            pack_digest=manifest.digest,
            files=len(manifest.entries),
            bytes=sum(map(len, PACK_FILES.values())),
            bits_per_weight=tiny_bits(),
            license="Apache-2.0",
            unclaimed_files=("notes/.hidden",),
            excluded=(),
            settings={"bits": 5, "group": 64},
            calibration=None,
            matches_manifest="yes",
        ),
        reference=ReferenceIdentity(
            name="reference",
            files_digest=sha256_hex(f"{'c' * 64}  model.safetensors\n".encode()),
            state_digest="b" * 64,
            dtype="BF16",
            arithmetic_profile="identity/1",
            source=None,
            revision=None,
            note=None,
        ),
        reconstruction=Reconstruction(
            state_digest=state.digest,
            tensors=len(state.entries),
            parameters=state.parameters,
            ties=(),
            matches_published="yes",
            drifted=(),
            device_class="cpu",
            layer_errors=(LayerError(layer="model.layers.0", relative_error=0.03, parameters=10),),
        ),
        measurement=Measurement(
            corpus=Corpus(
                name="evaluation.txt",
                sha256=CORPUS_SHA256,
                bytes=50 * values.n * (values.tokens + 1),
                tokens=10 * values.n * (values.tokens + 1),
                windows_available=10 * values.n,
                text_column="text" if values.documents else None,
                rows=f"0:{values.documents[-1] + 1}" if values.documents else None,
                documents=values.documents[-1] + 1 if values.documents else None,
            ),
            tokenizer_digest="e" * 64,
            tokens_digest="f" * 64,
            windowing="disjoint windows",
            bos="none",
            n=values.n,
            seq_len=values.tokens + 1,
            seed=42,
            dtype="fp32",
            scored_tokens=values.n * values.tokens,
            tolerance=1e-5,  # that of fp32
            calibration_overlap="none-known",
            compute={"threads": 2},
            libraries={"torch": "2.13.0"},
            value_files=tuple(NamedDigest(name=name, sha256=digest) for name, digest in value_files.items()),
        ),
        results=results,
        claims=draft_claims(default_claims(ratio_max)),
        limitations=(Limitation(id="one-corpus", text="About one text."),),
        exceptions=(),
        plan=None,
        policy=NamedDigest(name="policy.toml", sha256="9" * 64),
        context=Context(),
        environment=Environment(python="CPython 3.11", system="Linux", machine="x86_64", libraries={}),
    ).model_copy(update=changes)
    claims = judge_all(draft, results, values)
    return draft.model_copy(
        update={"claims": claims, "determination": determine(claims, draft.exceptions, draft.created)}
    )


def remeasured(corpus=None, **members):
    """A ``change_record`` that replaces members of the measurement, and of its text (``corpus``)."""

    def change(record: Attestation) -> Attestation:
        text = record.measurement.corpus.model_copy(update=corpus or {})
        measurement = record.measurement.model_copy(update={"corpus": text, **members})
        return record.model_copy(update={"measurement": measurement})

    return change


def make_plan(setting: Setting, record: Attestation, *, enter=True, outside_seed=False):
    plan = Plan(
        created=record.created,
        tool=TOOL,
        pack=PlannedPack(
            name="pack", pack_digest=record.pack.pack_digest, arithmetic_profile=record.pack.arithmetic_profile
        ),
        reference_name="reference",
        reference_files_digest=record.reference.files_digest,
        corpus_name="evaluation.txt",
        corpus_sha256=record.measurement.corpus.sha256,
        n=record.measurement.n,
        seq_len=record.measurement.seq_len,
        seed=record.measurement.seed,
        dtype="fp32",
        claims=default_claims(record.claims[0].threshold),
        perturbations=(),
        policy_sha256=record.policy.sha256,
        outside_seed=outside_seed,
    )
    envelope = sign(plan_statement(plan).to_bytes(), setting.signer, subject=names.PLAN)
    if enter:
        register(setting.ledger, envelope, setting.signer)
    return envelope, plan


def make_bundle(
    setting: Setting,
    out: Path,
    *,
    values: TokenValues | None = None,
    ratio_max=1.0125,
    planned=True,
    on_ledger=True,
    late_plan=False,
    contribute=None,
    change_record=None,
    manifest: FileManifest | None = None,
    pack_files=None,
    **changes,
) -> Path:
    """Write a bundle. ``change_record(record)`` may lie before the record is signed; ``pack_files`` are attested.

    ``manifest``: of the pack; by default that of the files that :func:`make_setting` writes.

    ``contribute(plan envelope)`` makes the plan wait for an outside party's seed, and returns its envelope or None.
    """
    values = values or make_values()
    if manifest is None:
        attested = pack_files or PACK_FILES
        manifest = FileManifest.build([FileEntry(name, sha256_hex(data)) for name, data in attested.items()])
    state = tiny_state()
    with names.staged(out) as stage:
        files = save(stage, values)
        record = draft_record(values, files, manifest=manifest, state=state, ratio_max=ratio_max, **changes)
        contribution = used = None
        if planned:
            planned_envelope, plan = make_plan(
                setting, record, enter=not late_plan, outside_seed=contribute is not None
            )
            write_bytes(stage / names.PLAN, planned_envelope.raw)
            if contribute is not None and (contribution := contribute(planned_envelope)) is not None:
                placed = register(setting.ledger, contribution, setting.signer)
                used = seed_reference(
                    contribution, read_contribution(contribution, planned_envelope.digest), placed.index
                )
                write_bytes(stage / names.SEED, contribution.raw)
                seed = effective_seed(planned_envelope.digest, used.value)
                windows = draw_windows(10 * values.n, values.n, seed, CORPUS_SHA256)
                values = replace(values, windows=windows)
                files = save(stage, values)
                record = draft_record(values, files, manifest=manifest, state=state, ratio_max=ratio_max, **changes)
                record = record.model_copy(
                    update={"measurement": record.measurement.model_copy(update={"seed": seed})}
                )
            reference = PlanReference(
                envelope_digest=planned_envelope.digest,
                ledger_origin="tests.invalid/log",
                ledger_index=0,
                deviations=deviations(plan, record, seed=planned_seed(plan, planned_envelope.digest, used)),
                seed=used,
            )
            record = record.model_copy(update={"plan": reference})
        if change_record is not None:
            record = change_record(record)
        statement = make_statement(record, names.attestation_subjects(record, manifest))
        envelope = sign(statement.to_bytes(), setting.signer, subject=names.ATTESTATION)
        names.write_attestation(stage, envelope, setting.signer.public_key)
        write_bytes(stage / names.PACK_MANIFEST, manifest.to_bytes())
        write_bytes(stage / names.STATE, state.to_bytes())
        write_bytes(stage / names.REFERENCE_MANIFEST, f"{'c' * 64}  model.safetensors\n".encode())
        if on_ledger:
            placed = register(setting.ledger, envelope, setting.signer)
            write_bytes(stage / names.LEDGER_PROOF, placed.proof)
            write_bytes(stage / names.LEDGER_ENTRY, placed.entry)
        if planned:
            placed = register(setting.ledger, planned_envelope, setting.signer)
            write_bytes(stage / names.PLAN_PROOF, placed.proof)
            write_bytes(stage / names.PLAN_ENTRY, placed.entry)
        if contribution is not None:
            placed = register(setting.ledger, contribution, setting.signer)
            write_bytes(stage / names.SEED_PROOF, placed.proof)
            write_bytes(stage / names.SEED_ENTRY, placed.entry)
        write_bytes(stage / names.report_name("soc2"), b"%PDF-1.7 made up")
        names.close_bundle(stage, setting.signer)
    return out
