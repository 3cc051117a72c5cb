"""What a measurement will take, before it starts: windows, tokens, memory, time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ucaudit.core.errors import ModelError, missing_extra
from ucaudit.lab.corpus import Corpus, Windows, cut_windows, load_corpus, require_same_tokenizer
from ucaudit.lab.measure_memory import MemoryNeeds, memory_needs
from ucaudit.lab.measure_settings import torch_dtype
from ucaudit.lab.overlap import Overlap, load_calibration, refuse_calibration_text, search_passages
from ucaudit.models.runtime import load_tokenizer, model_config

try:
    import torch
except ImportError as error:
    raise missing_extra("measure", "torch") from error

if TYPE_CHECKING:
    from ucaudit.packs.codecs.base import TensorSource

_PROBE_SIZE: Final = 1024
_SLOWER_THAN_PROBE: Final = 2.0  # small matrices, attention, soft-max and divergence, against one big product


@dataclass(frozen=True)
class MeasurementPlan:
    """What will be measured, and what it will take.

    Attributes:
        windows: the drawn windows, token ids included.
        overlap: what is known of overlap with the pack's calibration text.
        parameters: of one model, tied ones once.
        memory: what it takes, whole or layer by layer.
        operations: multiply-adds of both models over all windows.
    """

    windows: Windows
    overlap: Overlap
    parameters: int
    memory: MemoryNeeds
    operations: int

    @property
    def scored_tokens(self) -> int:
        """Tokens that get a value, over all windows."""
        return self.windows.n * self.windows.scored

    def only(self, chosen: Sequence[int]) -> MeasurementPlan:
        """The plan of some of the drawn windows. Raises InputError: one was not drawn."""
        windows = self.windows.only(chosen)
        states = self.memory.hidden_states * windows.n // self.windows.n
        return replace(
            self,
            windows=windows,
            memory=replace(self.memory, hidden_states=states),
            operations=self.operations * windows.n // self.windows.n,
        )

    def seconds(self, device: str = "cpu") -> float:
        """Estimated time on this machine, from a short matrix product in fp32. Within a factor of two or three."""
        return self.operations * _SLOWER_THAN_PROBE / multiply_adds_per_second(device)


def plan_measurement(
    pack: TensorSource,
    reference: TensorSource,
    corpus: Corpus | Path,
    *,
    n: int,
    seq_len: int,
    seed: int,
    dtype: str = "fp32",
    allow_overlap: bool = False,
    calibration: Path | None = None,
    share: str | None = None,
) -> MeasurementPlan:
    """Check that the inputs fit each other, draw the windows, and estimate. No tensor is read.

    Args:
        pack, reference: opened; they must carry the same tokenizer files and have one vocabulary size.
        corpus: an evaluation text, or its path.
        n: windows to draw.
        seq_len: text tokens a window.
        seed: of the draw.
        dtype: ``fp32`` or ``bf16``.
        allow_overlap: measure on the pack's own calibration text, or passages of it, and have it recorded.
        calibration: the pack's calibration text, to search the drawn windows for passages of it.
        share: score only these of the drawn windows, ``A:B``.

    Raises:
        CorpusError: an unusable text, one too short, or text of the calibration text.
        ModelError: tokenizer or vocabulary do not fit, or windows longer than the models can read.
        InputError: ``n``, ``seq_len`` or ``dtype`` out of range.
    """
    torch_dtype(dtype)
    text = corpus if isinstance(corpus, Corpus) else load_corpus(corpus)
    overlap = refuse_calibration_text(text, pack, allow_overlap=allow_overlap)
    calibration_text = None if calibration is None else load_calibration(calibration, pack)
    tokenizer_digest = require_same_tokenizer(pack, reference)
    mine, theirs = model_config(pack).get_text_config(), model_config(reference).get_text_config()
    if mine.vocab_size != theirs.vocab_size:
        raise ModelError(
            f"vocabulary mismatch: the reference has {theirs.vocab_size} tokens, the pack {mine.vocab_size}",
            subject=pack.pack.name,
        )
    limits = [limit for limit in map(max_positions, (mine, theirs)) if limit is not None]
    tokenizer = load_tokenizer(reference)
    windows = cut_windows(
        text,
        tokenizer,
        tokenizer_digest,
        n=n,
        seq_len=seq_len,
        seed=seed,
        vocab_size=int(mine.vocab_size),
        max_positions=min(limits, default=None),
        share=share,
    )
    if calibration_text is not None:
        passages = (tokenizer.decode(ids) for ids in windows.drawn_ids)
        overlap = search_passages(
            overlap, passages, calibration_text, corpus_name=text.name, allow_overlap=allow_overlap
        )
    return MeasurementPlan(
        windows=windows,
        overlap=overlap,
        parameters=reference.parameters,
        memory=memory_needs(pack, reference, windows, theirs, dtype),
        operations=sum(_multiply_adds(source, windows, theirs) for source in (pack, reference)),
    )


def max_positions(config: Any) -> int | None:  # noqa: ANN401 - a transformers configuration
    """The longest input of a model, in tokens; None where the family states no limit (state-space models)."""
    limit = getattr(config, "max_position_embeddings", None)
    return int(limit) if isinstance(limit, int) and limit > 0 else None


def _multiply_adds(source: TensorSource, windows: Windows, config: Any) -> int:  # noqa: ANN401
    """Matrices times tokens, and the two products of attention; the embedding look-up costs nothing."""
    rows = windows.n * (windows.seq_len + (windows.bos_id is not None))
    matrices = sum(spec.elements for spec in source.specs if len(spec.shape) >= 2)
    hidden = int(getattr(config, "hidden_size", 0) or 0)
    layers = int(getattr(config, "num_hidden_layers", 0) or 0)
    tied = bool(getattr(config, "tie_word_embeddings", False))
    attention = 2 * windows.seq_len * hidden * layers
    return rows * (matrices - (0 if tied else int(config.vocab_size) * hidden) + attention)


def multiply_adds_per_second(device: str) -> float:
    """The speed of a short fp32 matrix product on a device: the yardstick of all time estimates."""
    left = torch.ones(_PROBE_SIZE, _PROBE_SIZE, device=device)
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        float((left @ left)[0, 0])  # reading a value waits for the device
        best = min(best, time.perf_counter() - began)
    return float(_PROBE_SIZE**3 / best)
