"""The encoder: a bf16 checkpoint in, a ``ucq`` pack out. docs/encoder.md describes the method.

Layer by layer: one is loaded, its weights are compressed while the calibration text passes through it, and it is
let go. Which weights those are is a rule on what a layer does, not on families:
:func:`ucaudit.lab.compress_layers.compressible`. Everything else is carried byte for byte: embeddings, head, norms,
biases, convolutions, routers.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import torch
import transformers

from ucaudit import __version__
from ucaudit.core.digest import StateManifest
from ucaudit.core.errors import CorpusError, InputError, ModelError, StateDriftError
from ucaudit.core.progress import SILENT, Progress
from ucaudit.core.records import Calibration
from ucaudit.lab.compress_blocks import fixed_blocks
from ucaudit.lab.compress_budget import SEQUENCES as SEQUENCES_WEIGHED
from ucaudit.lab.compress_budget import find_units, share_bits, too_few
from ucaudit.lab.compress_divergence import OutputDivergence
from ucaudit.lab.compress_finite import require_finite_layer, require_finite_tensors
from ucaudit.lab.compress_layer import compress_layer, raw_part
from ucaudit.lab.compress_layers import SMALLEST_SIDE
from ucaudit.lab.compress_pass import enter, run_layer
from ucaudit.lab.compress_run import Run, require_place, require_text, unfinished
from ucaudit.lab.compress_sequences import draw_sequences
from ucaudit.lab.compress_tensors import (
    METHOD,
    METHOD_OF_TRAINING,
    METHOD_WITHOUT_TEXT,
    REVISION,
    TensorSettings,
)
from ucaudit.lab.compress_train import Lesson
from ucaudit.lab.corpus import Corpus, load_corpus
from ucaudit.lab.hidden_states import HiddenStates
from ucaudit.lab.measure_plan import max_positions, multiply_adds_per_second
from ucaudit.lab.measure_settings import device_class
from ucaudit.lab.measure_state import state_key
from ucaudit.models.runtime import load_tokenizer
from ucaudit.models.streamed import StreamedModel
from ucaudit.packs.codecs import TensorSource, open_source
from ucaudit.packs.codecs.ucq_encode import PackDescription, PackWriter
from ucaudit.packs.manifest import MAX_BITS, MIN_BITS, OTHER_FILE, Source, UcqManifest
from ucaudit.packs.state import reconstruct_state

SEQUENCES: Final = 128
SEQ_LEN: Final = 256
_PROBE: Final = 16
"""Tokens that show what a layer multiplies by, where there is no text."""

# Work besides the calibration passes, in multiply-adds of a matrix product that take as long (measured).
_SEARCH_WORK: Final = 30_000.0
_UNITS: Final = 8
"""Runs of a layer where bits are shared out: one for each of about seven weights, and one."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the encoder is told.

    Attributes:
        tensors: bits, group and rank.
        seed: of the draw of calibration sequences.
        sequences, seq_len: how much calibration text is used.
        steps: of training, a layer; 0 for none.
        kl_weight: of the divergence of the model's output, in training.
        budget: bits a weight on disk, on average; each weight's bits are then found by
            :mod:`ucaudit.lab.compress_budget`, and those of ``tensors`` do not count. None for the same for all.

    Raises:
        InputError: a value that means nothing: below zero, or not a number.
    """

    tensors: TensorSettings = field(default_factory=TensorSettings)
    seed: int = 42
    sequences: int = SEQUENCES
    seq_len: int = SEQ_LEN
    steps: int = 0
    kl_weight: float = 0.0
    budget: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("sequences", 1), ("seq_len", 1), ("steps", 0), ("kl_weight", 0), ("budget", 0)):
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise InputError(f"{value} is no number from {least} on", subject=name)


@dataclass(frozen=True, slots=True)
class Compressed:
    """What came out: the pack's manifest, and the state that every decoder must give."""

    manifest: UcqManifest
    state: StateManifest


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a pack will cost, before a tensor is read: of the weights that look by name and shape as if they were
    compressed. The pack can differ where a layer does something else with one of them (Mamba's ``A_log``).

    Attributes:
        bits_per_weight: of the compressed weights on disk; 0 if there are none.
        compressed: their parameters.
        parameters: of the whole model.
        tensor_bytes: of all tensor files, without headers.
        seconds: on this machine, from a short matrix product; within a factor of two or three.
    """

    bits_per_weight: float
    compressed: int
    parameters: int
    tensor_bytes: int
    seconds: float


def compress(
    source: TensorSource,
    out: Path,
    settings: Settings,
    *,
    calibration: Path | None = None,
    source_digest: str | None = None,
    progress: Progress = SILENT,
) -> Compressed:
    """Write a pack. On glibc the process keeps two arenas for all its threads from then on.

    Args:
        source: the checkpoint; every compressed weight must be BF16.
        out: the pack's directory: new, or empty. An interrupted call leaves ``.NAME.packing`` beside it, from which
            the same call goes on. A call with other options takes that away behind its own first layer.
        settings: see :class:`Settings`.
        calibration: a UTF-8 text; without it weights are rounded one by one, in the metric of equal inputs.
        source_digest: SHA-256 of the source's file manifest, for the record.
        progress: told about layers.

    Raises:
        CorpusError: the calibration text cannot be read or is too short, or there is none where it is needed.
        InputError: a budget that not even the fewest bits keep, or a name that no manifest can hold.
        ModelError: NaN or infinity in a tensor, a tensor that is missing, a weight of another dtype or too large, a
            model that does not load, sequences longer than it reads, or one that cannot be trained and should be.
        RefusedError, OutputError: the output exists or cannot be written.
    """
    if settings.steps and calibration is None:
        raise CorpusError("training needs a calibration text", hint="give --calibration, or no --steps")
    if settings.budget is not None and calibration is None:
        raise CorpusError("sharing bits out needs a calibration text", hint="give --calibration, or no --budget")
    if settings.budget is not None:
        _require_room(source, settings.tensors, settings.budget)
    place = require_place(out)
    require_text(source.pack.name, subject=source.pack.name, what="the checkpoint's name")
    if calibration is not None:
        require_text(calibration.name, subject=str(calibration), what="the calibration text's name")
    text = None if calibration is None else load_corpus(calibration)
    digest = source_digest or source.pack.file_manifest().digest
    threads = torch.get_num_threads()
    with torch.no_grad():  # what can be refused is refused before an interrupted run's work is touched
        model = StreamedModel(source, dtype=torch.float32, device="cpu", threads=threads)
        ids, record = _sequences(model, source, settings, text)
        require_finite_tensors(source, model.names(None))

    def waiting() -> None:
        progress.note(f"another run works on {out}: waiting until it is done")

    with torch.no_grad(), unfinished(place, _key(settings, digest, text), waiting) as run, fixed_blocks():
        writer = PackWriter(run.pack)
        walk = _Walk(model, source, settings, ids, run, progress, calibrated=text is not None)
        done = walk.resume(writer)
        if done:
            progress.note(f"{done} layers were finished by an interrupted run")
        progress.start(model.count, "layers", "compressing")
        progress.advance(done)
        written = {name for index in range(done) for name in model.names(index)}
        for index in range(done, model.count):
            written |= set(model.names(index))
            walk.pass_layer(index, writer)
            progress.advance()
        progress.finish()
        if not writer.compressed:
            raise ModelError(
                "no weight that this encoder compresses",
                subject=model.family,
                hint="it compresses weights that a layer applies by torch.nn.functional.linear",
            )
        rest = {spec.name: raw_part(source, spec.name) for spec in source.specs if spec.name not in written}
        if rest:
            writer.write_tensors(OTHER_FILE, encoded=[], raw=rest)
        for path in source.carried_files():
            with source.open_carried(path) as handle:
                writer.write_file(path, handle.read())
        manifest, state = writer.finish(_describe(source, place.name, settings, record, source_digest))
        _require_decodable(run.pack, state)
    return Compressed(manifest, state)


def _key(settings: Settings, source_digest: str, text: Corpus | None) -> str:
    """Everything that decides the bytes of a pack's layers."""
    return state_key(
        {
            "pack": asdict(settings),
            "source": source_digest,
            "calibration": None if text is None else text.sha256,
            "deviceClass": device_class("cpu"),
            "versions": [REVISION, __version__, torch.__version__, transformers.__version__],
        }
    )


class _Walk:
    """The way through the layers: what enters the next one, kept on disk behind each."""

    def __init__(
        self,
        model: StreamedModel,
        source: TensorSource,
        settings: Settings,
        ids: torch.Tensor,
        run: Run,
        progress: Progress,
        *,
        calibrated: bool,
    ) -> None:
        self._model, self._source, self._settings, self._run = model, source, settings, run
        self._bits: dict[str, int] | None = None
        if settings.budget is not None:
            units = find_units(model, source, settings.tensors, ids, progress)
            self._bits = share_bits(units, settings.tensors, settings.budget)
        self._hidden, self._calls = enter(model, ids)
        if settings.steps and not all(calls.alike for calls in self._calls):
            raise ModelError(
                "its layers are called with something that depends on the text, and cannot be trained",
                subject=model.family,
                hint="leave out --steps",
            )
        self._states: HiddenStates | None = None
        if calibrated:
            shape = (1, *self._hidden.shape[1:])
            self._states = HiddenStates(run.state, "calibration", run.key, len(ids), shape, self._hidden.dtype)
        self._teacher: HiddenStates | None = None
        self._divergence: OutputDivergence | None = None
        if settings.steps and self._states is not None:
            self._teacher = replace(self._states, name="original")
            self._original = self._hidden
            if settings.kl_weight:
                self._divergence = OutputDivergence(source, ids)

    def resume(self, writer: PackWriter) -> int:
        """Take up what an interrupted run finished; how many layers that is."""
        kept = [states for states in (self._states, self._teacher) if states is not None]
        places = {states.resume()[0] or 0 for states in kept} or {self._model.count}
        reached = places.pop()
        adopted = 0
        while not places and adopted < reached and self._run.adopt(adopted, writer):
            adopted += 1
        if not kept:
            return adopted
        if adopted < reached or places:
            writer.forget()  # the hidden states lie behind a layer that is damaged, or behind different ones
            return 0
        if adopted:
            self._hidden = _whole(kept[0])
            if self._teacher is not None:
                self._original = _whole(self._teacher)
        return adopted

    def pass_layer(self, index: int, writer: PackWriter) -> None:
        """Compress one layer, store it, and move the text behind it."""
        model = self._model
        model.prefetch(index + 1)
        target = None
        with model.loaded(index) as layer:
            require_finite_layer(layer, self._source, model.names(index))
            learn = None
            if self._teacher is not None:
                target = run_layer(layer, self._original, self._calls[index])
                learn = partial(self._lesson, index, target)
            made = compress_layer(
                layer,
                model.targets(index),
                self._source,
                self._settings.tensors,
                bits=self._bits,
                config=model.model.config.get_text_config(),
                probe=(self._hidden[:1], self._calls[index].first),
                text=None if self._states is None else (self._hidden, self._calls[index]),
                learn=learn,
            )
        self._run.prevail()
        written = None
        if made.encoded or made.raw:
            written = writer.write_tensors(f"layer-{index:05d}.safetensors", encoded=made.encoded, raw=made.raw)
        self._run.note(index, written)
        if self._states is not None and made.hidden is not None:
            self._hidden = made.hidden
            _keep(self._states, index + 1, made.hidden)
        if self._teacher is not None and target is not None:
            self._original = target
            _keep(self._teacher, index + 1, target)

    def _lesson(self, index: int, target: torch.Tensor, hidden: torch.Tensor) -> Lesson:
        return Lesson(
            hidden=hidden,
            target=target,
            call=self._calls[index].first,
            steps=self._settings.steps,
            divergence=None if self._divergence is None else self._divergence.behind(index),
            weight=self._settings.kl_weight,
        )


def _keep(states: HiddenStates, layers: int, hidden: torch.Tensor) -> None:
    with states.passing(layers) as append:
        for row in hidden:
            append(row.unsqueeze(0))


def _whole(states: HiddenStates) -> torch.Tensor:
    return torch.cat([states.get(row) for row in range(states.windows)])


def estimate(source: TensorSource, settings: Settings, *, calibrated: bool) -> Estimate:
    """What :func:`compress` will make of a source.

    Weights are recognised by name and shape here; :func:`compress` looks at what a layer does.

    Raises:
        InputError: a budget that not even the fewest bits keep.
    """
    stored, compressed, other = _stored(source, settings.tensors)
    # A forward pass, and as much again for the second moments.
    work = _SEARCH_WORK + (2.0 * settings.sequences * settings.seq_len if calibrated else 0.0)
    if settings.budget is not None:
        _require_room(source, settings.tensors, settings.budget)
        stored = min(settings.budget * compressed, _stored(source, replace(settings.tensors, bits=MAX_BITS))[0])
        work += _UNITS * SEQUENCES_WEIGHED * settings.seq_len
    return Estimate(
        bits_per_weight=stored / compressed if compressed else 0.0,
        compressed=compressed,
        parameters=source.parameters,
        tensor_bytes=int(stored / 8) + other,
        seconds=compressed * work / multiply_adds_per_second("cpu"),
    )


def _candidates(source: TensorSource, tensors: TensorSettings) -> dict[str, float]:
    """Bits a weight of every tensor that is compressed as far as name and shape tell."""
    found = {}
    for spec in source.specs:
        inside = any(part.isdigit() for part in spec.name.split("."))
        if inside and 2 <= len(spec.shape) <= 3 and min(spec.shape[-2:]) >= SMALLEST_SIDE:
            how = tensors.of_stack() if len(spec.shape) == 3 else tensors
            found[spec.name] = how.bits_on_disk(math.prod(spec.shape[:-1]), spec.shape[-1])
    return found


def _stored(source: TensorSource, tensors: TensorSettings) -> tuple[float, int, int]:
    """Bits that the compressed weights take, by name and shape; how many weights those are; the others' bytes."""
    stored, compressed, other = 0.0, 0, 0
    candidates = _candidates(source, tensors)
    for spec in source.specs:
        if spec.name in candidates:
            stored += spec.elements * candidates[spec.name]
            compressed += spec.elements
        else:
            other += spec.nbytes
    return stored, compressed, other


def _require_room(source: TensorSource, tensors: TensorSettings, budget: float) -> None:
    """Refuse, before anything is weighed, a budget that no weight keeps, whichever are compressed in the end.

    Which those are shows when a layer runs, and :func:`share_bits` judges them together.
    """
    least = min(_candidates(source, replace(tensors, bits=MIN_BITS)).values(), default=0.0)
    if least > budget:
        raise too_few(budget, least, at_least=True)


def _sequences(
    model: StreamedModel, source: TensorSource, settings: Settings, text: Corpus | None
) -> tuple[torch.Tensor, Calibration | None]:
    vocabulary = model.model.get_input_embeddings().weight.shape[0]
    if text is None:
        return (torch.arange(_PROBE) % vocabulary).unsqueeze(0), None
    tokens = draw_sequences(
        text,
        load_tokenizer(source),
        sequences=settings.sequences,
        seq_len=settings.seq_len,
        seed=settings.seed,
        vocab_size=vocabulary,
        longest=max_positions(model.model.config.get_text_config()),
    )
    record = Calibration(
        name=text.name,
        sha256=text.sha256,
        tokens=tokens.text_tokens,
        sequences=len(tokens.ids),
        seq_len=tokens.seq_len,
        seed=settings.seed,
    )
    return tokens.ids, record


def _require_decodable(stage: Path, state: StateManifest) -> None:
    """Decode the finished files as anybody would, and compare with what the encoder worked with."""
    with open_source(stage) as made:
        drift = reconstruct_state(made).drift_from(state)
    if drift:
        raise StateDriftError("the pack does not decode to what was encoded: " + "; ".join(drift[:10]))


def _describe(
    source: TensorSource, name: str, settings: Settings, calibration: Calibration | None, files_digest: str | None
) -> PackDescription:
    provenance = source.provenance()
    return PackDescription(
        name=name,
        settings={
            **({"bits": settings.tensors.bits} if settings.budget is None else {"budget": settings.budget}),
            "group": settings.tensors.group,
            "rank": settings.tensors.rank,
            "steps": settings.steps,
            "klWeight": settings.kl_weight,
            "seed": settings.seed,
            "method": (METHOD + METHOD_OF_TRAINING * bool(settings.steps)) if calibration else METHOD_WITHOUT_TEXT,
            # What the bits still depend on: the encoder's sums are those of this kind of processor and this torch.
            "deviceClass": device_class("cpu"),
            "torch": torch.__version__,
        },
        source=Source(
            name=source.pack.name,
            state_digest=reconstruct_state(source).digest,
            files_digest=files_digest,
            source=provenance.source,
            revision=None,
            license=provenance.license,
            note=None,
        ),
        calibration=calibration,
        nominal_bits=float(settings.tensors.bits) if settings.budget is None else None,
        ties=source.ties,
    )
