"""The low-rank correction of one weight, in closed form, and its int8 factors.

The best rank-r approximation of D in the metric of the inputs, tr((D − O) H (D − O)ᵀ), projects D on the r leading
singular vectors of D·H^½ (Eckart–Young in that metric). The factors are rounded to int8 one after the other, and
the second is refitted to the rounded first.
"""

from __future__ import annotations

from typing import Final

import torch

from ucaudit.packs.codecs.ucq_encode import EncodedOverlay

_LARGEST: Final = 127.0
_SMALLEST_FACTOR: Final = 2.0**-100
_RIDGE: Final = 1e-9


def fit_overlay(difference: torch.Tensor, moment: torch.Tensor, rank: int) -> EncodedOverlay:
    """The overlay that takes most of a difference away.

    Args:
        difference: float32 [rows, columns]: what the correction should be.
        moment: float32 [columns, columns], positive definite.
        rank: at most that of the smaller side, since more would be zeros.

    Returns:
        Factors whose product, as the decoder computes it, is near ``difference``.
    """
    rows, columns = difference.shape
    right = _leading_rows(difference.double(), moment.double(), min(rank, rows, columns))
    right = right / right.abs().amax(1, keepdim=True).clamp_min(_SMALLEST_FACTOR)
    # Column factors are shared by all ranks, so that one int8 grid fits every column's size.
    v, cols = _to_int8(right, 0)
    known = v.double() * cols.double()
    across = moment.double() @ known.T
    gram = known @ across
    gram.diagonal().add_(float(gram.diagonal().mean()) * _RIDGE + _SMALLEST_FACTOR)
    left = torch.linalg.solve(gram, (difference.double() @ across).T).T
    u, factors = _to_int8(left, 1)
    return EncodedOverlay(u, v, factors, cols)


def _leading_rows(difference: torch.Tensor, moment: torch.Tensor, rank: int) -> torch.Tensor:
    """float64 [rank, columns]: the row space of the best approximation, by the smaller of two eigenproblems."""
    rows, columns = difference.shape
    if rows <= columns:
        _, vectors = torch.linalg.eigh(difference @ moment @ difference.T)
        projected: torch.Tensor = vectors[:, -rank:].flip(1).T @ difference
        return projected
    root = torch.linalg.cholesky(moment)
    half = difference @ root
    _, vectors = torch.linalg.eigh(half.T @ half)
    leading = vectors[:, -rank:].flip(1)
    solved: torch.Tensor = torch.linalg.solve_triangular(root, leading.T, upper=False, left=False)
    return solved


def _to_int8(factor: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Round to −127…127 with one bfloat16 step for each slice along the other axis."""
    step = (factor.abs().amax(axis) / _LARGEST).clamp_min(_SMALLEST_FACTOR).bfloat16()
    wide = step.double().unsqueeze(axis)
    return (factor / wide).round().clamp(-_LARGEST, _LARGEST).to(torch.int8), step
