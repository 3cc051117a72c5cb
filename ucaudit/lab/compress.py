"""The encoder: a bf16 checkpoint in, a ``ucq`` pack out. docs/encoder.md describes the method.

Which weights are compressed is a rule on module types, not on families: every ``torch.nn.Linear`` inside the
layers whose weight the checkpoint stores as a matrix under the module's own name, but for tiny ones (router
gates). Everything else is carried byte for byte: embeddings, head, norms, biases, convolutions, and expert weights
that the library keeps as one 3-D tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from ucaudit.core.digest import StateManifest
from ucaudit.core.errors import ModelError, StateDriftError
from ucaudit.core.progress import SILENT, Progress
from ucaudit.core.records import Calibration
from ucaudit.evidence.bundle import staged
from ucaudit.lab.compress_blocks import fixed_blocks
from ucaudit.lab.compress_calibration import LayerRunner, draw_sequences, find_layers
from ucaudit.lab.compress_tensors import METHOD, METHOD_WITHOUT_TEXT, TensorSettings, encode_weights
from ucaudit.lab.corpus import load_corpus
from ucaudit.lab.measure_plan import multiply_adds_per_second
from ucaudit.lab.measure_settings import device_class
from ucaudit.models.runtime import load_model, load_tokenizer
from ucaudit.packs.codecs import TensorSource, open_source
from ucaudit.packs.codecs.tensors import raw_bytes
from ucaudit.packs.codecs.ucq_encode import EncodedTensor, PackDescription, PackWriter, StoredPart
from ucaudit.packs.manifest import OTHER_FILE, Source, UcqManifest
from ucaudit.packs.state import reconstruct_state

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SMALLEST_SIDE: Final = 16
"""A Linear with a shorter side (a router gate) stays as it is."""

SEQUENCES: Final = 48
SEQ_LEN: Final = 256

# Work besides the calibration passes, in multiply-adds of a matrix product that take as long (measured).
_SEARCH_WORK: Final = 30_000.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What the encoder is told.

    Attributes:
        tensors: bits, group and rank.
        seed: of the draw of calibration sequences.
        sequences, seq_len: how much calibration text is used.
    """

    tensors: TensorSettings = field(default_factory=TensorSettings)
    seed: int = 42
    sequences: int = SEQUENCES
    seq_len: int = SEQ_LEN


@dataclass(frozen=True, slots=True)
class Compressed:
    """What came out: the pack's manifest, and the state that every decoder must give."""

    manifest: UcqManifest
    state: StateManifest


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a pack will cost, before a tensor is read.

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
    """Write a pack.

    Args:
        source: the checkpoint; every compressed weight must be BF16.
        out: the pack's directory: new, or empty. Interrupted, the call leaves nothing there.
        settings: see :class:`Settings`.
        calibration: a UTF-8 text; without it weights are rounded one by one, in the metric of equal inputs.
        source_digest: SHA-256 of the source's file manifest, for the record.
        progress: told about layers.

    Raises:
        CorpusError: the calibration text cannot be read or is too short.
        ModelError: NaN or infinity in a tensor, a weight of another dtype, or a model that does not load.
        RefusedError, OutputError: the output exists or cannot be written.
    """
    with torch.no_grad(), staged(out) as stage:
        model = load_model(source, dtype=torch.float32, device="cpu")
        prefix, layers = find_layers(model)
        writer = PackWriter(stage)
        written: set[str] = set()
        with fixed_blocks():
            runner, record = _calibrate(model, source, settings, calibration)
            progress.start(len(layers), "layers", "compressing")
            for index, layer in enumerate(layers):
                mine = f"{prefix}.{index}."
                encoded = _compress_layer(layer, index, mine, source, runner, settings.tensors)
                done = {tensor.name for tensor in encoded}
                raw = {
                    spec.name: _raw(source, spec.name)
                    for spec in source.specs
                    if spec.name.startswith(mine) and spec.name not in done
                }
                if done or raw:
                    writer.write_tensors(f"layer-{index:05d}.safetensors", encoded=encoded, raw=raw)
                written |= done | raw.keys()
                progress.advance()
            progress.finish()
        rest = {spec.name: _raw(source, spec.name) for spec in source.specs if spec.name not in written}
        if rest:
            writer.write_tensors(OTHER_FILE, encoded=[], raw=rest)
        for path in source.carried_files():
            with source.open_carried(path) as handle:
                writer.write_file(path, handle.read())
        manifest, state = writer.finish(_describe(source, out.name, settings, record, source_digest))
        _require_decodable(stage, state)
    return Compressed(manifest, state)


def estimate(source: TensorSource, settings: Settings, *, calibrated: bool) -> Estimate:
    """What :func:`compress` will make of a source.

    Weights are recognised by name and shape here; :func:`compress` decides by module type.
    """
    stored = 0.0
    compressed = other = 0
    for spec in source.specs:
        inside = any(part.isdigit() for part in spec.name.split("."))
        if inside and len(spec.shape) == 2 and min(spec.shape) >= SMALLEST_SIDE and spec.name.endswith(".weight"):
            stored += spec.elements * settings.tensors.bits_on_disk(*spec.shape)
            compressed += spec.elements
        else:
            other += spec.nbytes
    # A forward pass, and as much again for the second moments.
    work = _SEARCH_WORK + (2.0 * settings.sequences * settings.seq_len if calibrated else 0.0)
    return Estimate(
        bits_per_weight=stored / compressed if compressed else 0.0,
        compressed=compressed,
        parameters=source.parameters,
        tensor_bytes=int(stored / 8) + other,
        seconds=compressed * work / multiply_adds_per_second("cpu"),
    )


def _calibrate(
    model: PreTrainedModel, source: TensorSource, settings: Settings, text: Path | None
) -> tuple[LayerRunner | None, Calibration | None]:
    if text is None:
        return None, None
    corpus = load_corpus(text)
    tokens = draw_sequences(
        corpus,
        load_tokenizer(source),
        sequences=settings.sequences,
        seq_len=settings.seq_len,
        seed=settings.seed,
        vocab_size=model.get_input_embeddings().weight.shape[0],
    )
    record = Calibration(
        name=corpus.name,
        sha256=corpus.sha256,
        tokens=tokens.text_tokens,
        sequences=len(tokens.ids),
        seq_len=tokens.seq_len,
        seed=settings.seed,
    )
    return LayerRunner(model, tokens.ids), record


def _compress_layer(
    layer: torch.nn.Module,
    index: int,
    prefix: str,
    source: TensorSource,
    runner: LayerRunner | None,
    settings: TensorSettings,
) -> list[EncodedTensor]:
    """Compress a layer's weights and put what the decoder will give in their place."""
    names = _compressible(layer, prefix, source)
    encoded: list[EncodedTensor] = []

    def replace(group: list[str], moment: torch.Tensor | None) -> None:
        weights = {f"{prefix}{name}.weight": _weight(layer, name) for name in group}
        for name, tensor in zip(group, encode_weights(weights, moment, settings), strict=True):
            _weight(layer, name).copy_(tensor.decode())
            encoded.append(tensor)

    if runner is not None:
        runner.run(index, replace, wanted=names)
    made = {tensor.name for tensor in encoded}
    for name in names:
        if f"{prefix}{name}.weight" not in made:
            replace([name], None)
    return encoded


def _compressible(layer: torch.nn.Module, prefix: str, source: TensorSource) -> list[str]:
    """Names, inside the layer, of the Linears whose weight is compressed."""
    stored = {spec.name: spec for spec in source.specs}
    names = []
    for name, module in layer.named_modules():
        spec = stored.get(f"{prefix}{name}.weight")
        if type(module) is not torch.nn.Linear or spec is None or tuple(module.weight.shape) != spec.shape:
            continue
        if min(spec.shape) < SMALLEST_SIDE:
            continue
        if spec.dtype != "BF16":
            raise ModelError(
                f"expected BF16, found {spec.dtype}", subject=spec.name, hint="convert the checkpoint to bf16 first"
            )
        names.append(name)
    return names


def _weight(layer: torch.nn.Module, name: str) -> torch.Tensor:
    """The weight of a Linear, float32 [out, in]."""
    return layer.get_parameter(f"{name}.weight").detach()


def _raw(source: TensorSource, name: str) -> StoredPart:
    spec = source.spec(name)
    tensor = source.load(name)
    if tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
        raise ModelError("NaN or infinity in a weight", subject=name)
    return spec.dtype, spec.shape, bytes(raw_bytes(tensor))


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
            "bits": settings.tensors.bits,
            "group": settings.tensors.group,
            "rank": settings.tensors.rank,
            "steps": 0,
            "klWeight": 0.0,
            "seed": settings.seed,
            "method": METHOD if calibration else METHOD_WITHOUT_TEXT,
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
        nominal_bits=float(settings.tensors.bits),
        ties=source.ties,
    )
