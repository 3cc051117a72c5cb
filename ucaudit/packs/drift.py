"""How far drifted tensors are from what they should be, measured against a good copy."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

from ucaudit.core.digest import StateEntry, StateManifest
from ucaudit.core.errors import missing_extra
from ucaudit.packs.codecs import TensorSource, TensorSpec, open_source

try:
    import torch

    from ucaudit.packs.codecs.tensors import one_thread
    from ucaudit.packs.state import blocks
except ImportError as error:  # a light install may ask for `gate --full`
    raise missing_extra("measure", error.name or "torch") from error


def measure_drift(
    source: TensorSource, found: StateManifest, expected: StateManifest, good: Path, *, device: str = "cpu"
) -> dict[str, str]:
    """Say how far each drifted tensor is from the same tensor of a good copy.

    A tensor of the copy is believed only if it has the expected digest itself: else the distance would be measured
    from anything.

    Args:
        source: the pack that drifted, opened.
        found: its state.
        expected: the state that it should have.
        good: a copy of the attested pack, or a checkpoint reconstructed from it.
        device: where to decode.

    Returns:
        Tensor name → a clause that begins with ``"; "``. Tensors that are not in both are left out: there is no
        distance to nothing.

    Raises:
        InputError: ``good`` is no pack.
    """
    wanted = {entry.name: entry for entry in expected.entries}
    drifted = [entry for entry in found.entries if wanted.get(entry.name, entry) != entry]
    result = {}
    with open_source(good) as copy:
        known = {spec.name: spec for spec in copy.specs}
        for entry in drifted:
            other = known.get(entry.name)
            if other is None:
                result[entry.name] = "; the good copy lacks it"
            elif (other.dtype, other.shape) == (entry.dtype, entry.shape):
                result[entry.name] = _distance(source, copy, other, wanted[entry.name], device)
    return result


def _distance(source: TensorSource, copy: TensorSource, spec: TensorSpec, wanted: StateEntry, device: str) -> str:
    """Elements that differ, the largest difference, and ‖found − good‖ / ‖good‖ in float64."""
    digest = hashlib.sha256()
    changed, largest, difference, norm = 0, 0.0, 0.0, 0.0
    with one_thread():
        good = blocks(copy, spec, device, told=digest.update)
        pairs = zip(blocks(source, spec, device), good, strict=True)
        for mine, theirs in pairs:
            changed += int(
                (mine.view(torch.uint8) != theirs.view(torch.uint8)).view(-1, mine.itemsize).any(1).sum()
            )
            gap = mine.double() - theirs.double()
            peak = float(gap.abs().max())
            largest = peak if math.isnan(peak) else max(peak, largest) if not math.isnan(largest) else largest
            difference += float(torch.dot(gap, gap))
            norm += float(theirs.double().square().sum())
    if digest.hexdigest() != wanted.digest:
        return "; the good copy's own tensor drifted too, so there is nothing to measure from"
    relative = math.sqrt(difference / norm) if norm else math.inf if difference else 0.0
    return (
        f"; {changed} of {spec.elements} elements differ, by {largest:.3g} at most, relative error {relative:.3g}"
    )
