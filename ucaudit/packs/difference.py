"""Two states tensor by tensor: which differ, by how much, and what kind of change that looks like."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ucaudit.core.digest import StateManifest
from ucaudit.core.errors import missing_extra
from ucaudit.core.progress import SILENT, Progress
from ucaudit.packs.codecs.base import TensorSource, TensorSpec

try:
    import torch

    from ucaudit.packs.state import blocks, each_tensor, workers_for
except ImportError as error:
    raise missing_extra("measure", error.name or "torch") from error

Status = Literal["same", "changed", "added", "removed", "reshaped"]
_INTEGERS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_LAYER: Final = re.compile(r"^(.*?\b(?:layers|blk|h|blocks)\.\d+)\.")
_FEW: Final = 8
_ROUNDING: Final = 2.0**-7


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """One tensor of either side.

    Attributes:
        name: its name.
        status: ``added`` is only in the second state, ``removed`` only in the first.
        first, second: dtype and shape on each side, such as ``BF16 576x1536``; "" where it is absent.
        elements: compared.
        changed: elements whose value differs (whose bits differ, where both have one dtype).
        flipped: bits that differ, where both have one dtype.
        largest: the largest magnitude of a difference; None where values were not compared.
        relative: ‖second − first‖ / ‖first‖ (Frobenius); None where values were not compared.
        far: elements whose difference is more than rounding to bfloat16 explains (2^-7 of the larger value).
    """

    name: str
    status: Status
    first: str = ""
    second: str = ""
    elements: int = 0
    changed: int = 0
    flipped: int = 0
    largest: float | None = None
    relative: float | None = None
    far: int = 0


def compare_sources(
    first: TensorSource,
    second: TensorSource,
    *,
    device: str = "cpu",
    progress: Progress = SILENT,
    threads: int | None = None,
) -> list[TensorDifference]:
    """Decode both and compare every tensor of the same name and shape, element by element.

    Args:
        first, second: opened packs.
        device: where to decode; the result does not depend on it.
        progress: told about compared bytes of the first.
        threads: tensors compared at a time.

    Returns:
        One entry a name, sorted bytewise.
    """
    mine, theirs = ({spec.name: spec for spec in source.specs} for source in (first, second))
    shared = [spec for name, spec in mine.items() if name in theirs and theirs[name].shape == spec.shape]

    def compare(spec: TensorSpec, advance: Callable[[int], None]) -> TensorDifference:
        return _compare(first, spec, second, theirs[spec.name], device, advance)

    progress.start(sum(spec.nbytes for spec in shared), "bytes", "comparing")
    found = each_tensor(shared, compare, workers_for(device, threads), progress)
    progress.finish()
    found += [
        TensorDifference(name, "reshaped", _said(spec), _said(theirs[name]))
        for name, spec in mine.items()
        if name in theirs and theirs[name].shape != spec.shape
    ]
    found += [TensorDifference(name, "removed", _said(mine[name]), "") for name in mine.keys() - theirs.keys()]
    found += [TensorDifference(name, "added", "", _said(theirs[name])) for name in theirs.keys() - mine.keys()]
    return sorted(found, key=lambda item: item.name.encode())


def compare_manifests(first: StateManifest, second: StateManifest) -> list[TensorDifference]:
    """As :func:`compare_sources` where only digests are known: no sizes of differences."""
    mine, theirs = ({entry.name: entry for entry in state.entries} for state in (first, second))
    found = []
    for name in sorted(mine.keys() | theirs.keys(), key=str.encode):
        one, two = mine.get(name), theirs.get(name)
        labels = [f"{entry.dtype} {entry.shape_text}" if entry is not None else "" for entry in (one, two)]
        status: Status = "removed" if two is None else "added" if one is None else "changed"
        if one is not None and two is not None:
            status = "same" if one == two else "reshaped" if one.shape != two.shape else "changed"
        found.append(TensorDifference(name, status, labels[0], labels[1], one.elements if one else 0))
    return found


def _said(spec: TensorSpec) -> str:
    return f"{spec.dtype} {'x'.join(map(str, spec.shape)) or 'scalar'}"


def _compare(
    first: TensorSource,
    spec: TensorSpec,
    second: TensorSource,
    other: TensorSpec,
    device: str,
    advance: Callable[[int], None],
) -> TensorDifference:
    changed = flipped = far = 0
    largest = square = norm = 0.0
    for one, two in zip(blocks(first, spec, device), blocks(second, other, device), strict=True):
        advance(one.numel() * one.element_size())
        if spec.dtype == other.dtype:
            width = _INTEGERS[one.element_size()]
            bits = one.view(width).bitwise_xor(two.view(width))
            count = int(torch.count_nonzero(bits))
            if not count:
                wide = one.to(torch.float64)
                norm += float(torch.dot(wide, wide))
                continue
            changed += count
            flipped += _ones(bits[bits != 0])
        wide, narrow = one.to(torch.float64), two.to(torch.float64)
        gap = (narrow - wide).abs_()
        if spec.dtype != other.dtype:
            changed += int(torch.count_nonzero(gap))
        strange = ~gap.isfinite()
        if bool(strange.any()):
            # Infinities and what is not a number: changed beyond any measure, unless both sides have the same.
            apart = strange & ~((wide == narrow) | (wide.isnan() & narrow.isnan()))
            far += int(torch.count_nonzero(apart))
            largest = float("inf") if bool(apart.any()) else largest
            square = float("inf") if bool(apart.any()) else square
            gap, wide, narrow = (torch.where(strange, 0.0, values) for values in (gap, wide, narrow))
        far += int(torch.count_nonzero(gap > torch.maximum(wide.abs(), narrow.abs()) * _ROUNDING))
        largest = max(largest, float(gap.max()))
        square += float(torch.dot(gap, gap))
        norm += float(torch.dot(wide, wide))
    relative = (square / norm) ** 0.5 if norm else (0.0 if square == 0 else float("inf"))
    status: Status = "changed" if changed or spec.dtype != other.dtype else "same"
    return TensorDifference(
        spec.name, status, _said(spec), _said(other), spec.elements, changed, flipped, largest, relative, far
    )


def _ones(values: torch.Tensor) -> int:
    return sum(value.bit_count() for value in values.view(torch.uint8).tolist()) if values.numel() < 1 << 16 else -1


def layer_of(name: str) -> str:
    """The layer a tensor belongs to; its own name outside the layers."""
    match = _LAYER.match(name)
    return match[1] if match else name


def guess(differences: Sequence[TensorDifference]) -> str:
    """What kind of change this looks like, with the reason. A guess: only the numbers are findings."""
    differing = [item for item in differences if item.status != "same"]
    if not differing:
        return "none: the states are the same"
    if any(item.status in ("added", "removed", "reshaped") for item in differing):
        return "another architecture, or other names: tensors were added, removed or have other shapes"
    if any(item.relative is None for item in differing):
        return "unknown: of at least one side only digests are known"
    changed, flipped = sum(item.changed for item in differing), sum(item.flipped for item in differing)
    dtypes = [item for item in differing if item.first.split(" ")[0] != item.second.split(" ")[0]]
    if dtypes:
        if not any(item.far for item in differing):
            return (
                f"another dtype of the same weights: {len(dtypes)} tensor(s), nothing beyond rounding to bfloat16"
            )
        return "another dtype and other values"
    if 0 < flipped <= _FEW and flipped == changed:
        return f"bit flips: {flipped} bit(s) in {changed} element(s) of {len(differing)} tensor(s)"
    if not any(item.far for item in differing):
        return "other rounding of the same weights: another codec version or arithmetic profile"
    vectors = [item for item in differing if "x" not in item.second]
    worst = max(item.relative or 0.0 for item in differing)
    if worst > 1:
        return "another model, or damage: a tensor changed by more than its own size"
    if vectors:
        return "fine-tuned: norms or biases changed as well, which no codec here compresses"
    return "compressed in another way: matrices changed, norms and biases did not"
