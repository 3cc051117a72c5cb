"""Score one window with two models at once: log-probabilities, KL divergence, top-1 agreement.

Both models are live, so KL needs no stored (and therefore truncated) logits. The model's own ``forward`` is the
library's; what happens here starts at its logits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from ucaudit.core.errors import ModelError, UnavailableError, missing_extra

try:
    import torch
except ImportError as error:
    raise missing_extra("measure", "torch") from error

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MIN_ROWS: Final = 16
"""Rows a slice, at least: narrower operands can take other code paths, and other bits, than the whole product."""

_SLICE_BYTES: Final = 16 << 20


@dataclass(frozen=True)
class WindowScores:
    """One window's values on the CPU; t is the number of scored tokens.

    Attributes:
        reference, pack: fp32 [t], log-probability of the true token, nats.
        kl: fp32 [t], KL(reference‖pack) over the whole vocabulary, nats; summed in fp64, rounded once.
        top1: uint8 [t], 1 where the most likely tokens agree.
    """

    reference: torch.Tensor
    pack: torch.Tensor
    kl: torch.Tensor
    top1: torch.Tensor


def window_logits(model: PreTrainedModel, input_ids: torch.Tensor) -> torch.Tensor:
    """The model's logits for one window.

    Args:
        model: in eval mode.
        input_ids: int64 [1, length], on any device.

    Returns:
        [length, vocabulary] in the model's dtype, on its device.
    """
    parameter = next(model.parameters())
    with torch.inference_mode():
        output = model(input_ids=input_ids.to(parameter.device), use_cache=False)
    logits: torch.Tensor = output.logits[0]
    return logits


def score_window(
    reference: PreTrainedModel, pack: PreTrainedModel, input_ids: torch.Tensor, *, name: str
) -> WindowScores:
    """Run both models on one window and compare them at every token that has a context.

    Args:
        reference, pack: on one device, with one vocabulary.
        input_ids: int64 [1, length]; positions 1 … length − 1 are scored.
        name: the window, for error messages.

    Raises:
        ModelError: logits that are not finite, or vocabularies of two sizes.
        UnavailableError: the GPU has not enough memory.
    """
    try:
        return compare_logits(
            window_logits(reference, input_ids), window_logits(pack, input_ids), input_ids[0, 1:], name=name
        )
    except torch.cuda.OutOfMemoryError as error:
        raise UnavailableError(
            "the GPU has not enough memory for both models", subject=name, hint="lower --seq-len, or --device cpu"
        ) from error


def compare_logits(
    reference: torch.Tensor, pack: torch.Tensor, targets: torch.Tensor, *, name: str
) -> WindowScores:
    """Values per token from two models' logits.

    The log-probability is ``log_softmax`` in fp32. KL is summed in fp64 from log-softmaxes in fp64 of the same
    logits: the fp32 normaliser alone is off by up to 1e-6, which is as large as a small KL, and can make it
    negative. Rows are handled in slices of at least :data:`MIN_ROWS` without a short remainder.

    Args:
        reference, pack: [length, vocabulary]; the row at j predicts token j + 1, and the last row is not used.
        targets: int64 [length − 1].
        name: the window, for error messages.

    Raises:
        ModelError: logits that are not finite, or vocabularies of two sizes.
    """
    if reference.shape != pack.shape:
        raise ModelError(
            f"vocabulary mismatch: the reference has {reference.shape[-1]} logits, the pack {pack.shape[-1]}",
            subject=name,
        )
    targets = targets.to(reference.device)
    return join_rows(
        compare_rows(reference[begin:end], pack[begin:end], targets[begin:end], name=name, first=begin)
        for begin, end in row_slices(len(targets), 8 * reference.shape[-1], _SLICE_BYTES)
    )


def join_rows(parts: Iterable[tuple[torch.Tensor, ...]]) -> WindowScores:
    """The slices of one window put together, on the CPU."""
    return WindowScores(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def row_slices(rows: int, row_bytes: int, slice_bytes: int) -> list[tuple[int, int]]:
    """Cut ``rows`` into nearly equal slices of about ``slice_bytes``, but never fewer than :data:`MIN_ROWS` rows
    unless there are no more."""
    wanted = max(MIN_ROWS, slice_bytes // row_bytes)
    count = max(1, rows // wanted)
    edges = [rows * index // count for index in range(count + 1)]
    return list(pairwise(edges))


@torch.inference_mode()
def compare_rows(
    reference: torch.Tensor, pack: torch.Tensor, targets: torch.Tensor, *, name: str, first: int
) -> tuple[torch.Tensor, ...]:
    """The four values of :class:`WindowScores` for some tokens of one window.

    Args:
        reference, pack: logits [rows, vocabulary].
        targets: int64 [rows], the tokens that they predict.
        name: the window, for error messages.
        first: the window's position of the first row, likewise.

    Raises:
        ModelError: logits that are not finite.
    """
    chosen = []
    wide = []
    for which, logits in (("reference", reference), ("pack", pack)):
        values = logits.float()
        finite = torch.isfinite(values).all(dim=-1)
        if not bool(finite.all()):
            row = first + int((~finite).nonzero()[0])
            raise ModelError(
                f"the {which} gives logits that are not finite, first at position {row}",
                subject=name,
                hint="the checkpoint is damaged, or overflows in this dtype" if which == "pack" else None,
            )
        chosen.append(torch.log_softmax(values, dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1))
        wide.append(torch.log_softmax(values, dim=-1, dtype=torch.float64))
    agree = reference.argmax(dim=-1) == pack.argmax(dim=-1)
    divergence = (wide[0].exp() * (wide[0] - wide[1])).sum(dim=-1)
    # A divergence is never negative; a sum of rounded terms can be, by 1e-16.
    return chosen[0], chosen[1], divergence.clamp_min(0.0).float(), agree.to(torch.uint8)
