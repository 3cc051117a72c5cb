"""What a floor protocol will take, and everything that can be wrong with it, before a plan is committed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ucaudit.core.errors import CorpusError, InputError, ModelError
from ucaudit.core.files import require_outside, require_space, require_unused, require_writable_directory
from ucaudit.core.records import EncoderSettings
from ucaudit.evidence.floors.protocol import BASELINE, LoadedProtocol
from ucaudit.lab.compress import Settings
from ucaudit.lab.compress import estimate as estimate_pack
from ucaudit.lab.compress_sequences import draw_sequences
from ucaudit.lab.compress_tensors import TensorSettings
from ucaudit.lab.compress_train import BATCH
from ucaudit.lab.corpus import Corpus, draw, load_corpus
from ucaudit.lab.measure_memory import Execution, choose_execution
from ucaudit.lab.measure_plan import MeasurementPlan, max_positions, multiply_adds_per_second, plan_measurement
from ucaudit.lab.overlap import search_passages
from ucaudit.models.runtime import load_tokenizer, model_config
from ucaudit.packs.codecs import TensorSource, open_source

if TYPE_CHECKING:
    from ucaudit.lab.floor import FloorRequest

# Work of training, in multiply-adds of a matrix product that take as long: measured on the fixture models `dense`
# and `moe` at 5 bits, and on `mamba`, whose scan runs token by token where no compiled kernel is installed.
_QUANTISING_WORK: Final = 900.0
_DIVERGENCE: Final = 1.8
_SCANNING: Final = 8.0
_BYTES_A_TOKEN: Final = 2 * 13
_OTHER_BYTES: Final = 32 << 20


@dataclass(frozen=True)
class FloorPreflight:
    """What the checks found out.

    Attributes:
        plan: the windows of the protocol and the fresh ones together, and what measuring them takes.
        windows, fresh: the indexes of both.
        calibration: the text that the encoder sees.
        execution: whether two models fit into memory.
        seconds: of everything, within a factor of two or three; the confirmation of one winner included.
        disk_bytes: what will be written at most.
    """

    plan: MeasurementPlan
    windows: tuple[int, ...]
    fresh: tuple[int, ...]
    calibration: Corpus
    execution: Execution
    seconds: float
    disk_bytes: int


def encoder_settings(settings: EncoderSettings, seed: int) -> Settings:
    """The encoder's own form of a protocol's settings."""
    return Settings(
        TensorSettings(bits=settings.bits, group=settings.group, rank=settings.rank),
        seed=seed,
        sequences=settings.sequences,
        seq_len=settings.seq_len,
        steps=settings.steps,
        kl_weight=settings.kl_weight,
    )


def arms_of(protocol: LoadedProtocol) -> dict[str, EncoderSettings]:
    """Every arm's settings, the baseline's first."""
    declared = protocol.protocol
    return {BASELINE: declared.baseline, **{item.name: item.settings for item in declared.perturbations}}


@contextmanager
def opened_reference(protocol: LoadedProtocol) -> Iterator[TensorSource]:
    """The reference model."""
    with open_source(protocol.model) as source:
        yield source


def floor_preflight(request: FloorRequest) -> FloorPreflight:
    """Check paths, output, disk, memory, texts, ledger and key. Nothing is written, not even a directory.

    Raises:
        UcauditError: whatever is missing, malformed or contradictory.
    """
    loaded, protocol = request.protocol, request.protocol.protocol
    require_unused(request.out, hint="choose another --out")
    require_outside(request.out, loaded.model)
    require_outside(request.work, loaded.model)
    require_writable_directory(request.out.parent)
    require_writable_directory(request.work.parent)
    _require_ledger(request)
    corpus = load_corpus(loaded.corpus, column=loaded.text_column, rows=loaded.rows)
    calibration = load_corpus(loaded.calibration)
    for text, name in ((corpus, "corpus"), (calibration, "calibration")):
        expected = loaded.pins[name]
        if expected is not None and expected != text.sha256:
            raise CorpusError(f"the protocol pins sha-256 {expected}, found {text.sha256}", subject=text.name)
    if corpus.sha256 == calibration.sha256:
        raise CorpusError(
            "corpus and calibration text are the same: every pack would be flattered", subject=corpus.name
        )
    with opened_reference(loaded) as reference:
        plan = plan_measurement(
            reference,
            reference,
            corpus,
            n=protocol.n + protocol.confirm_n,
            seq_len=protocol.seq_len,
            seed=protocol.seed,
            dtype=protocol.dtype,
        )
        tokenizer = load_tokenizer(reference)
        passages = (tokenizer.decode(ids) for ids in plan.windows.drawn_ids)
        overlap = search_passages(plan.overlap, passages, calibration, corpus_name=corpus.name, allow_overlap=False)
        plan = MeasurementPlan(plan.windows, overlap, plan.parameters, plan.memory, plan.operations)
        config = model_config(reference).get_text_config()
        for settings in set(arms_of(loaded).values()):
            draw_sequences(
                calibration,
                tokenizer,
                sequences=settings.sequences,
                seq_len=settings.seq_len,
                seed=protocol.seeds[0],
                vocab_size=int(config.vocab_size),
                longest=max_positions(config),
            )
        wrong = sorted({spec.dtype for spec in reference.specs} - {"BF16", "F32", "F16", "I64", "U8"})
        if wrong:
            raise ModelError(
                f"tensors of {', '.join(wrong)}: the encoder takes a bf16 checkpoint", subject=str(loaded.model)
            )
        seconds, disk = _costs(request, reference, plan)
    first = draw(plan.windows.available, protocol.n, protocol.seed, corpus.sha256)
    fresh = tuple(sorted(set(plan.windows.drawn) - set(first)))
    require_space(
        request.work,
        disk,
        hint="--drop-packs keeps one pack at a time; --work names a directory on another disk",
    )
    return FloorPreflight(
        plan, first, fresh, calibration, choose_execution(plan.memory, request.device), seconds, disk
    )


def figures(request: FloorRequest, checked: FloorPreflight) -> dict[str, str | int | float]:
    """The preflight's answer for ``--dry-run``."""
    protocol = request.protocol.protocol
    arms = len(protocol.perturbations) + 1
    return {
        "arms": arms,
        "seeds": len(protocol.seeds),
        "encodings": arms * len(protocol.seeds),
        "windows": protocol.n,
        "freshWindows": protocol.confirm_n,
        "windowsAvailable": checked.plan.windows.available,
        "parameters": checked.plan.parameters,
        "memoryGb": round(checked.execution.memory_bytes / 1e9, 2),
        "execution": str(checked.execution),
        "diskMb": round(checked.disk_bytes / 1e6),
        "minutes": round(checked.seconds / 60, 1),
    }


def _costs(request: FloorRequest, reference: TensorSource, plan: MeasurementPlan) -> tuple[float, int]:
    """Seconds and bytes of all encodings and measurements, and of confirming one winner."""
    loaded, protocol = request.protocol, request.protocol.protocol
    rate = multiply_adds_per_second("cpu")
    scanning = str(model_config(reference).model_type).startswith("mamba")
    encoding = 0.0
    size = 0
    for settings in arms_of(loaded).values():
        expected = estimate_pack(reference, encoder_settings(settings, 0), calibrated=True)
        work = settings.steps * BATCH * expected.compressed * (3.0 * settings.seq_len + _QUANTISING_WORK) / rate
        if settings.kl_weight:
            work *= _DIVERGENCE
        encoding += (expected.seconds + work * (_SCANNING if scanning else 1.0)) * len(protocol.seeds)
        size += expected.tensor_bytes * (1 if request.drop_packs else len(protocol.seeds))
    arms, share = len(protocol.perturbations) + 1, protocol.n / (protocol.n + protocol.confirm_n)
    once = plan.seconds(request.device)
    measuring = once * len(protocol.seeds) * (arms * share + 2 * (1 - share))
    tokens = plan.scored_tokens * len(protocol.seeds)
    return encoding + measuring, size + arms * tokens * _BYTES_A_TOKEN + _OTHER_BYTES


def _require_ledger(request: FloorRequest) -> None:
    from ucaudit.evidence.ledger import Ledger

    ledger = Ledger.open(request.ledger)
    ledger.require_key(request.ledger_signer or request.signer)
    require_writable_directory(request.ledger)


def require_state(expected: str | None, found: str, *, subject: str) -> None:
    """Hold the reference's state against the protocol's pin. Raises InputError."""
    if expected is not None and expected != found:
        raise InputError(f"the protocol pins reference state {expected}, found {found}", subject=subject)
