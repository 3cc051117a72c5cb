"""Levels, scales and codes of one weight: levels by clustering, group scales by search, rounding with feedback.

The error that is kept small is the one the layer's outputs see: tr((W − Q) H (W − Q)ᵀ), where H is the second
moment of the layer's inputs on the calibration text. Rounding goes column by column and spreads each column's
error over the columns still to come (GPTQ, Frantar et al. 2023, arXiv:2210.17323, after Hassibi & Stork 1993),
most active columns first. Everything is deterministic for a given kind of processor and torch version, at any
number of threads (compress_blocks).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from ucaudit.core.errors import ModelError
from ucaudit.lab.compress_blocks import each, even_spans, spans
from ucaudit.lab.compress_columns import PLACES, ZERO, feed_back

DAMPING: Final = 0.01
"""Share of the mean diagonal of H that is added to its diagonal: keeps the inverse sane on little text."""

_EXPONENT: Final = 1.5
_CANDIDATES: Final = 8
_LOW, _HIGH = 0.72, 1.0
_SAMPLE: Final = 1 << 20
_CHUNK: Final = 1 << 19
_LARGEST_LEVEL: Final = 127.0
_BINS_A_LEVEL: Final = 8
_REACH: Final = 160 * _BINS_A_LEVEL
_LLOYD_STEPS: Final = 30
_TINY: Final = 2.0**-24
_BLOCK: Final = 64
_LARGEST_F16: Final = 65504.0
LARGEST_WEIGHT: Final = _LARGEST_LEVEL * _LARGEST_F16
_LEAST_STEPS: Final = 16
SMALLEST_GROUP: Final = _LARGEST_LEVEL * _TINY * _LEAST_STEPS
"""The largest weight of a group whose scale is 16 of float16's smallest steps: 127 · 16 · 2^-24, about 1.2e-4.

Below it a step is more than 1/16 of the scale. On bell-shaped weights in groups of 64, scales of 16 steps made the
error 3% larger at 5 bits and 16% at 8, scales of 4 steps 13% and 210%. Below half a step a scale becomes zero.
"""


@dataclass(frozen=True)
class Metric:
    """What the inputs of a layer looked like.

    Attributes:
        moment: float32 [columns, columns], mean of xxᵀ, damped.
        order: int64 [columns], the columns from most to least active.
        factor: float32 [columns, columns], upper Cholesky factor of the inverse of the ordered moment.
    """

    moment: torch.Tensor
    order: torch.Tensor
    factor: torch.Tensor

    @property
    def importance(self) -> torch.Tensor:
        """The diagonal: mean square of each input, float32 [columns]."""
        return self.moment.diagonal()


def damp(moment: torch.Tensor, damping: float) -> torch.Tensor:
    """Add a share of the mean diagonal to the diagonal.

    Args:
        moment: float32 [columns, columns], symmetric; all zero (inputs that never fire) is fine.
        damping: the share.

    Returns:
        float64 [columns, columns].

    Raises:
        ModelError: not finite.
    """
    if not bool(moment.isfinite().all()):
        raise ModelError("what it is multiplied with is infinite or not a number on the calibration text")
    exact = moment.double()
    exact = (exact + exact.T) / 2
    level = float(exact.diagonal().mean()) * damping
    exact.diagonal().add_(level if level > 0 else 1.0)
    return exact


def factorise(damped: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The order of the columns, and the factor, computed in float64: see :class:`Metric`."""
    order = torch.argsort(damped.diagonal(), descending=True, stable=True)
    ordered = damped[order][:, order]
    # With the order turned round, H = L·Lᵀ; turned back, L⁻¹ is the upper factor U of H⁻¹ = Uᵀ·U.
    turned = torch.linalg.cholesky(ordered.flip(0, 1))
    factor = torch.linalg.solve_triangular(turned, torch.eye(len(turned), dtype=turned.dtype), upper=False)
    return order, factor.flip(0, 1).float().contiguous()


@dataclass(frozen=True)
class Grid:
    """The values that codes stand for, and how to find the nearest one without a search.

    A number x has the *place* 2·x + 256. Levels are integers, so the borders between them are multiples of ½, and
    the place rounded down, 0 … 511, tells which level is nearest to any x in −128 … 128.

    Attributes:
        levels: int8 [2^bits], ascending.
        values: the same as float32.
        nearest: int64 [512]: place, rounded down → code.
        landings: float32 [512]: place, rounded down → the place of the nearest level.
    """

    levels: torch.Tensor
    values: torch.Tensor
    nearest: torch.Tensor
    landings: torch.Tensor

    @classmethod
    def of(cls, levels: torch.Tensor) -> Grid:
        """From int8 levels, ascending."""
        values = levels.float()
        borders = (values[1:] + values[:-1]) / 2
        points = (torch.arange(PLACES, dtype=torch.float32) - ZERO) / 2
        nearest = torch.bucketize(points, borders, right=True)
        return cls(levels, values, nearest, values[nearest] * 2 + ZERO)

    def codes(self, scaled: torch.Tensor) -> torch.Tensor:
        """int64 codes of the levels nearest to ``scaled`` (which is overwritten)."""
        return self.codes_at(scaled.mul_(2).floor_().add_(ZERO))

    def codes_at(self, places: torch.Tensor) -> torch.Tensor:
        """int64 codes of the levels nearest to places (which are overwritten)."""
        return self.nearest[_whole(places)]

    def places(self, codes: torch.Tensor) -> torch.Tensor:
        """float32: where the levels of codes are."""
        return self.values[codes.long()].mul_(2).add_(ZERO)

    @property
    def bits(self) -> int:
        """Bits a code."""
        return len(self.levels).bit_length() - 1


def _whole(places: torch.Tensor) -> torch.Tensor:
    return places.clamp_(0, PLACES - 1).long()  # not negative, so that the integer part is the floor


def curved_levels(bits: int) -> torch.Tensor:
    """int8 [2^bits], symmetric, distinct, denser near zero: sign(t)·|t|^1.5 for evenly spaced t, scaled to 127."""
    count = 1 << bits
    steps = (torch.arange(count, dtype=torch.float64) * 2 + 1 - count) / (count - 1)
    return _whole_levels(steps.sign() * steps.abs() ** _EXPONENT)


def _whole_levels(levels: torch.Tensor) -> torch.Tensor:
    """Scale ascending levels to ±127 and round them, keeping them distinct."""
    whole = [round(value) for value in (levels * (_LARGEST_LEVEL / levels.abs().max())).tolist()]
    for index in range(1, len(whole)):
        whole[index] = max(whole[index], whole[index - 1] + 1)
    for index in range(len(whole)):
        whole[index] = min(whole[index], 128 - len(whole) + index)
    return torch.tensor(whole, dtype=torch.int8)


def fit_grid(weight: torch.Tensor, importance: torch.Tensor, bits: int, group: int) -> Grid:
    """Levels that suit a weight.

    They start from a curve for bell-shaped weights and move to the weighted means of the weights that they stand
    for (Lloyd 1982, on a histogram). About a million weights are looked at.

    Args:
        weight: float32 [rows, columns].
        importance: float32 [columns], mean squares of the inputs.
    """
    start = Grid.of(curved_levels(bits))
    sample = weight[:: max(1, weight.numel() // _SAMPLE)]
    scales = fit_scales(sample, importance, start, group)
    return Grid.of(_moved_levels(sample, importance, scales, start, group))


def _moved_levels(
    weight: torch.Tensor, importance: torch.Tensor, scales: torch.Tensor, grid: Grid, group: int
) -> torch.Tensor:
    spread = spread_scales(scales, group, weight.shape[1])
    places = ((weight / spread) * _BINS_A_LEVEL).round_().clamp_(-_REACH, _REACH).add_(_REACH).long().reshape(-1)
    mass = spread.square_().mul_(importance).reshape(-1).double()
    weights = torch.zeros(2 * _REACH + 1, dtype=torch.float64).index_add_(0, places, mass)
    points = (torch.arange(2 * _REACH + 1, dtype=torch.float64) - _REACH) / _BINS_A_LEVEL
    levels = grid.values.double()
    for _ in range(_LLOYD_STEPS):
        cell = torch.bucketize(points, (levels[1:] + levels[:-1]) / 2)
        total = torch.zeros_like(levels).index_add_(0, cell, weights)
        mean = torch.zeros_like(levels).index_add_(0, cell, weights * points) / total.clamp_min(1e-300)
        levels = torch.where(total > 0, mean, levels).sort().values
    return _whole_levels(levels)


def fit_scales(weight: torch.Tensor, importance: torch.Tensor, grid: Grid, group: int) -> torch.Tensor:
    """The float16 scale of every group that rounds best, weighted by the inputs' mean squares.

    Candidates are shares of the scale that just covers the group's largest weight; each is refined once to the
    least-squares scale of the codes it gives. Returns float16 [rows, ceil(columns / group)], not negative.
    """
    rows, columns = weight.shape
    pad = -columns % group
    step = max(1, _CHUNK // (columns + pad))
    weights = torch.nn.functional.pad(importance, (0, pad)).view(1, -1, group)

    def part(span: slice) -> torch.Tensor:
        blocks = torch.nn.functional.pad(weight[span], (0, pad))
        return _fit_blocks(blocks.view(len(blocks), -1, group), weights, grid)

    return torch.cat(each(part, spans(rows, step)))


def _fit_blocks(blocks: torch.Tensor, weights: torch.Tensor, grid: Grid) -> torch.Tensor:
    reach = float(min(-grid.values[0], grid.values[-1]))
    cover = blocks.abs().amax(-1) / reach
    best = torch.zeros_like(cover)
    least = torch.full_like(cover, float("inf"))
    weighted_blocks = blocks * weights
    for index in range(_CANDIDATES):
        share = _LOW + (_HIGH - _LOW) * index / (_CANDIDATES - 1)
        scale = _as_f16(cover * share)
        values = grid.values[grid.codes(blocks / scale.clamp_min(_TINY).unsqueeze(-1))]
        # Σ h (s·v − w)² = s² Σ h v² − 2 s Σ h v w + const: both sums serve every scale of these codes.
        square = (values.square() * weights).sum(-1)
        cross = (values * weighted_blocks).sum(-1)
        for candidate in (scale, _as_f16((cross / square.clamp_min(torch.finfo().tiny)).clamp_min(0.0))):
            error = candidate * (candidate * square - 2 * cross)
            better = error < least
            least = torch.where(better, error, least)
            best = torch.where(better, candidate, best)
    return best.half()


def share_of_small_groups(weight: torch.Tensor, group: int) -> float:
    """The share of a weight's sum of squares that lies in groups below :data:`SMALLEST_GROUP`; of zeros, 0.

    Args:
        weight: float32 [rows, columns], finite.
        group: columns a scale.
    """
    pad = -weight.shape[1] % group
    small = total = 0.0
    for span in spans(len(weight), max(1, _CHUNK // (weight.shape[1] + pad))):
        blocks = torch.nn.functional.pad(weight[span], (0, pad)).view(-1, group)
        squares = blocks.double().square().sum(1)
        total += float(squares.sum())
        small += float(squares[blocks.abs().amax(1) < SMALLEST_GROUP].sum())
    return small / total if total else 0.0


def round_nearest(weight: torch.Tensor, scales: torch.Tensor, grid: Grid, group: int) -> torch.Tensor:
    """Codes (uint8 [rows, columns]) of the nearest levels, without feedback."""
    return grid.codes(weight / spread_scales(scales, group, weight.shape[1])).to(torch.uint8)


def round_with_feedback(
    target: torch.Tensor, scales: torch.Tensor, grid: Grid, group: int, metric: Metric
) -> torch.Tensor:
    """Codes that make the weighted error of the whole matrix small.

    Args:
        target: float32 [rows, columns].
        scales: float16 [rows, ceil(columns / group)], fixed beforehand.

    Returns:
        uint8 [rows, columns].
    """

    def part(span: slice) -> torch.Tensor:
        return _feed_back(target[span], scales[span], grid, group, metric)

    return torch.cat(each(part, even_spans(len(target))))


def _feed_back(target: torch.Tensor, scales: torch.Tensor, grid: Grid, group: int, metric: Metric) -> torch.Tensor:
    columns = target.shape[1]
    # Columns become rows of memory: each step reads and writes a few contiguous rows.
    left = target.T[metric.order].contiguous()
    half = spread_scales(scales, group, columns).T[metric.order].contiguous().div_(2)
    finer = half.reciprocal()
    places, errors = torch.empty_like(left), torch.empty((_BLOCK, left.shape[1]))
    for begin in range(0, columns, _BLOCK):
        here = slice(begin, min(begin + _BLOCK, columns))
        missed = errors[: here.stop - begin]
        feed_back(
            (left[here], half[here], finer[here], places[here], missed), metric.factor[here, here], grid.landings
        )
        if here.stop < columns:
            left[here.stop :].addmm_(metric.factor[here, here.stop :].T, missed, alpha=-1.0)
    codes = grid.codes_at(places).to(torch.uint8)
    result = torch.empty_like(codes)
    result[metric.order] = codes
    return result.T.contiguous()


def weighted_error(difference: torch.Tensor, moment: torch.Tensor) -> float:
    """tr(D H Dᵀ) for D float32 [rows, columns]."""
    return float(((difference @ moment) * difference).sum(dtype=torch.float64))


def _as_f16(scale: torch.Tensor) -> torch.Tensor:
    return scale.clamp_max(_LARGEST_F16).half().float()


def spread_scales(scales: torch.Tensor, group: int, columns: int) -> torch.Tensor:
    """A divisor for every weight; a zero scale stands for a group of zeros, whose codes do not matter."""
    return scales.float().clamp_min(_TINY).repeat_interleave(group, 1)[:, :columns]
