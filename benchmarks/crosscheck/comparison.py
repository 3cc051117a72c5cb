"""Two figures side by side, and whether they agree as asked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

NATS = 1e-5
"""How far a token's value may lie from plain transformers', anywhere."""


@dataclass(frozen=True)
class Comparison:
    """One row of the table; ``holds`` says whether it is as asked."""

    subject: str
    figure: str
    ours: str
    theirs: str
    difference: str
    asked: str
    holds: bool

    def row(self) -> str:
        """As Markdown."""
        cells = (self.subject, self.figure, self.ours, self.theirs, self.difference, self.asked)
        return f"| {' | '.join(cells)} | {'yes' if self.holds else '**no**'} |"


HEADER = "| subject | figure | ucaudit | other | difference | asked | holds |\n|---|---|---:|---:|---:|---|---|"


def half_unit(value: float, digits: int) -> float:
    """Half a unit in the last of ``value``'s significant digits."""
    return 0.5 * 10.0 ** (math.floor(math.log10(abs(value))) - digits + 1)


def to_digits(subject: str, figure: str, ours: float, theirs: float, digits: int = 4) -> Comparison:
    """Equal to so many significant digits: apart by no more than half a unit in the last one."""
    shown = f".{digits + 3}g"
    return Comparison(
        *(subject, figure, format(ours, shown), format(theirs, shown)),
        difference=f"{ours / theirs - 1:+.1e}",
        asked=f"{digits} digits",
        holds=abs(ours - theirs) <= half_unit(theirs, digits),
    )


def to_share(subject: str, figure: str, ours: float, theirs: float, share: float) -> Comparison:
    """Equal to a relative difference."""
    return Comparison(
        *(subject, figure, f"{ours:.7g}", f"{theirs:.7g}"),
        difference=f"{100 * (ours / theirs - 1):+.4f}%",
        asked=f"{100 * share:g}%",
        holds=abs(ours / theirs - 1) <= share,
    )


def token_by_token(
    subject: str, figure: str, ours: torch.Tensor, theirs: torch.Tensor, *, to_the_bit: bool
) -> Comparison:
    """Values of all tokens: how many have other bits, and by how much at most."""
    unequal = int((ours != theirs).sum())
    largest = float((ours.double() - theirs.double()).abs().max())
    return Comparison(
        *(subject, figure, f"{ours.numel()} values", f"{unequal} with other bits"),
        difference=f"{largest:.1e} nats",
        asked="to the bit" if to_the_bit else f"{NATS:g} nats",
        holds=unequal == 0 if to_the_bit else largest <= NATS,
    )
