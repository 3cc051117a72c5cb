"""Codes and scales made better after error feedback: coordinate descent, and least squares.

Both keep the same error small as :mod:`ucaudit.lab.compress_quantise`, tr((W − Q) H (W − Q)ᵀ), and neither can
make it larger. Descent goes through the columns again: with all others fixed, the best level of a weight is the one
nearest to where the error's derivative vanishes (as in QuantEase, Behdin et al. 2023, arXiv:2309.01885). Least
squares then finds the scales of a row's groups together, for the codes that there are.
"""

from __future__ import annotations

from typing import Final

import torch

from ucaudit.lab.compress_blocks import each, even_spans, spans
from ucaudit.lab.compress_columns import descend
from ucaudit.lab.compress_quantise import Grid, Metric, spread_scales

ROUNDS: Final = 2
_BLOCK: Final = 64
_SYSTEMS: Final = 256
"""Rows whose scales are solved for at a time: each has a float64 matrix of its groups by its groups."""
_RIDGE: Final = 1e-6
_LARGEST_F16: Final = 65504.0


def refine(
    target: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, grid: Grid, group: int, metric: Metric
) -> tuple[torch.Tensor, torch.Tensor]:
    """Better scales and codes for a weight.

    Args:
        target: float32 [rows, columns].
        codes: uint8 [rows, columns].
        scales: float16 [rows, ceil(columns / group)].
        grid: the levels.
        group: columns a scale.
        metric: of the inputs.

    Returns:
        Codes and scales of no larger error, row by row.
    """

    def part(span: slice) -> tuple[torch.Tensor, torch.Tensor]:
        rows, found, steps = target[span], codes[span], scales[span]
        for _ in range(ROUNDS):
            steps = torch.cat(
                [
                    _better_scales(rows[few], found[few], steps[few], grid, group, metric)
                    for few in spans(len(rows), _SYSTEMS)
                ]
            )
            found = _descend(rows, found, steps, grid, group, metric)
        return found, steps

    made = each(part, even_spans(len(target)))
    return torch.cat([found for found, _ in made]), torch.cat([steps for _, steps in made])


def _better_scales(
    target: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, grid: Grid, group: int, metric: Metric
) -> torch.Tensor:
    """The least-squares scales of each row, where they are better after rounding to float16."""
    columns = target.shape[1]
    pad = -columns % group
    values = torch.nn.functional.pad(grid.values[codes.long()], (0, pad))
    moment = torch.nn.functional.pad(metric.moment, (0, pad, 0, pad))
    wanted = torch.nn.functional.pad(target, (0, pad))
    count = scales.shape[1]
    normal = torch.empty((len(target), count, count), dtype=torch.float64)
    right = torch.empty((len(target), count), dtype=torch.float64)
    for index in range(count):
        part = slice(index * group, (index + 1) * group)
        across = values[:, part] @ moment[part]
        normal[:, index] = (across * values).view(len(target), count, group).sum(-1)
        right[:, index] = (across * wanted).sum(-1)
    before = scales.double()
    ridge = normal.diagonal(dim1=1, dim2=2).mean(1, keepdim=True) * _RIDGE + torch.finfo().tiny
    normal.diagonal(dim1=1, dim2=2).add_(ridge)
    right += ridge * before
    solved = torch.linalg.solve(normal, right).clamp(0, _LARGEST_F16).half()
    # With these codes a row's error is sᵀAs − 2bᵀs and a constant.
    errors = [
        (torch.einsum("rg,rgh,rh->r", one, normal, one) - 2 * (right * one).sum(1))
        for one in (before, solved.double())
    ]
    better = (errors[1] < errors[0]).unsqueeze(1)
    return torch.where(better, solved, scales)


def _descend(
    target: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, grid: Grid, group: int, metric: Metric
) -> torch.Tensor:
    """One pass over the columns, most active first.

    Columns become rows of memory, and levels stand as their places in the grid's table.
    """
    columns = target.shape[1]
    order = metric.order
    moment = metric.moment[order][:, order]
    spread = spread_scales(scales, group, columns).T[order].contiguous()
    places = grid.places(codes.T[order])
    stored = grid.values[codes.T[order].long()].mul_(spread)
    slope = moment @ (target.T[order] - stored)
    reach = (2 / (moment.diagonal().unsqueeze(1) * spread)).clamp_(max=torch.finfo().max)  # places a unit of slope
    half = spread.div_(2)
    changes = torch.empty((_BLOCK, len(target)))
    for begin in range(0, columns, _BLOCK):
        here = slice(begin, min(begin + _BLOCK, columns))
        moved = changes[: here.stop - begin]
        descend((places[here], slope[here], reach[here], half[here], moved), moment[here, here], grid.landings)
        if here.stop < columns:
            slope[here.stop :].addmm_(moment[here.stop :, here], moved, alpha=-1.0)
    result = torch.empty(places.shape, dtype=torch.uint8)
    result[order] = grid.codes_at(places).to(torch.uint8)
    return result.T.contiguous()
