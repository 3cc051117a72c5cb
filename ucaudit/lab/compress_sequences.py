"""The calibration text as sequences of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from ucaudit.core.errors import CorpusError, ModelError
from ucaudit.core.windows import draw
from ucaudit.lab.corpus import Corpus, bos_token, require_readable, tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MINIMUM_SEQUENCES: Final = 4


@dataclass(frozen=True)
class CalibrationTokens:
    """The sequences that the encoder sees.

    Attributes:
        ids: int64 [sequences, length], the BOS token included where the tokenizer's convention has one.
        text_tokens: tokens of the text in them.
        seq_len: text tokens a sequence.
    """

    ids: torch.Tensor
    text_tokens: int
    seq_len: int


def draw_sequences(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    *,
    sequences: int,
    seq_len: int,
    seed: int,
    vocab_size: int,
    longest: int | None = None,
) -> CalibrationTokens:
    """Cut the text into sequences and draw some of them by seed, as the evaluation does; all, if it has fewer.

    ``longest``: the model's longest input, BOS included; None if there is no limit.

    Raises:
        CorpusError: not even :data:`MINIMUM_SEQUENCES` of them.
        ModelError: the tokenizer belongs to another model, or sequences longer than the model can read.
    """
    bos = bos_token(tokenizer)
    require_readable("sequences", seq_len, bos, longest)
    stream = tokenise(corpus, tokenizer).long()
    available = len(stream) // seq_len
    if available < MINIMUM_SEQUENCES:
        raise CorpusError(
            f"{available} sequences of {seq_len} tokens, at least {MINIMUM_SEQUENCES} are needed",
            subject=corpus.name,
        )
    chosen = draw(available, min(sequences, available), seed, corpus.sha256)
    ids = stream[: available * seq_len].view(available, seq_len)[list(chosen)]
    if bos is not None:
        ids = torch.cat([torch.full((len(ids), 1), bos), ids], 1)
    if int(ids.max()) >= vocab_size:
        raise ModelError(
            f"the tokenizer gives token id {int(ids.max())}, the model's vocabulary has {vocab_size}",
            subject=corpus.name,
        )
    return CalibrationTokens(ids, len(chosen) * seq_len, seq_len)
