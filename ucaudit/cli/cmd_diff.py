"""``ucaudit diff``: two packs, checkpoints or states, tensor by tensor."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ucaudit.cli.common import (
    Output,
    arithmetic_option,
    compute_options,
    output_options,
    prepare_compute,
    printable,
    table,
)
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_FAIL, EXIT_PASS, StateDriftError

if TYPE_CHECKING:
    from ucaudit.core.digest import StateManifest
    from ucaudit.packs.codecs import TensorSource
    from ucaudit.packs.difference import TensorDifference

_SHOWN = 20
_INFINITE = float("inf")
_STATUSES = ("same", "changed", "reshaped", "added", "removed")


@click.command()
@click.argument("first", type=PATH)
@click.argument("second", type=PATH)
@click.option("--by-layer", is_flag=True, help="Sum up by layer instead of listing tensors.")
@click.option("--all", "show_all", is_flag=True, help="List every tensor, equal ones too.")
@arithmetic_option
@compute_options
@output_options
def diff(
    first: Path,
    second: Path,
    by_layer: bool,
    show_all: bool,
    arithmetic: str | None,
    device: str,
    threads: int | None,
    out: Output,
) -> int:
    """Say which tensors of FIRST and SECOND differ, and by how much.

    Each is a pack, a checkpoint, a .gguf file, or a STATE file, of which only
    digests are known. 'relative' is the norm of the difference over that of
    FIRST. --arithmetic is taken by the sides whose codec has that profile.
    Exits 1 if the states differ.
    """
    chosen = prepare_compute(device, threads)
    from ucaudit.packs.difference import compare_manifests, compare_sources, guess
    from ucaudit.packs.state import reconstruct_state

    with ExitStack() as stack:
        sides = [_side(path, stack) for path in (first, second)]
        if arithmetic is not None:
            _use(arithmetic, [source for source, _ in sides if source is not None])
        (one, known_one), (two, known_two) = sides
        if one is not None and two is not None:
            found = compare_sources(one, two, device=chosen, progress=out.progress, threads=threads)
        else:
            states = [
                known
                if source is None
                else reconstruct_state(source, device=chosen, progress=out.progress, threads=threads)
                for source, known in ((one, known_one), (two, known_two))
            ]
            assert states[0] is not None and states[1] is not None
            found = compare_manifests(states[0], states[1])
        profiles = [source.arithmetic_profile if source is not None else None for source in (one, two)]
    counts: Counter[str] = Counter(item.status for item in found)
    differ = sum(counts.values()) - counts["same"]
    code = EXIT_FAIL if differ else EXIT_PASS
    kind = guess(found)
    document: dict[str, Any] = {
        "first": {"name": first.name, "arithmeticProfile": profiles[0]},
        "second": {"name": second.name, "arithmeticProfile": profiles[1]},
        "counts": {status: counts[status] for status in _STATUSES},
        "guess": kind,
        "tensors": [_entry(item) for item in found if show_all or item.status != "same"],
        "layers": _layers(found),
    }
    out.result(document, _text(found, counts, kind, by_layer, show_all), code=code)
    if differ:
        out.finding(
            StateDriftError(
                f"{differ} of {len(found)} tensor(s) differ",
                subject=f"{first.name}, {second.name}",
                hint=f"it looks like this: {kind}",
            )
        )
    return code


def _side(path: Path, stack: ExitStack) -> tuple[TensorSource | None, StateManifest | None]:
    from ucaudit.core.digest import STATE_MANIFEST_NAME, StateManifest
    from ucaudit.core.files import read_limited
    from ucaudit.packs.codecs import open_source
    from ucaudit.packs.expected import MAX_STATE_BYTES

    bundle = path / STATE_MANIFEST_NAME
    if path.is_file() and path.suffix != ".gguf":
        return None, StateManifest.parse(read_limited(path, MAX_STATE_BYTES), subject=path.name)
    if bundle.is_file() and (path / "attestation.dsse.json").is_file():
        return None, StateManifest.parse(
            read_limited(bundle, MAX_STATE_BYTES), subject=f"{path.name}/{bundle.name}"
        )
    return stack.enter_context(open_source(path)), None


def _use(arithmetic: str, sources: list[TensorSource]) -> None:
    fitting = [source for source in sources if arithmetic in (source.profiles or (source.arithmetic_profile,))]
    if not fitting and sources:
        sources[0].use_profile(arithmetic)
    for source in fitting:
        source.use_profile(arithmetic)


def _entry(item: TensorDifference) -> dict[str, Any]:
    return {
        "name": item.name,
        "status": item.status,
        "first": item.first or None,
        "second": item.second or None,
        "elements": item.elements,
        "changed": item.changed,
        "maxError": _finite(item.largest),
        "relativeError": _finite(item.relative),
    }


def _finite(value: float | None) -> float | None:
    """JSON has no infinity: None where a size is unknown or beyond measure."""
    return value if value is not None and value != _INFINITE else None


def _layers(found: list[TensorDifference]) -> list[dict[str, Any]]:
    from ucaudit.packs.difference import layer_of

    groups: dict[str, list[TensorDifference]] = {}
    for item in found:
        groups.setdefault(layer_of(item.name), []).append(item)
    return [
        {
            "layer": layer,
            "tensors": len(items),
            "different": sum(item.status != "same" for item in items),
            "maxError": _finite(max((item.largest or 0.0 for item in items), default=0.0)),
            "relativeError": _finite(max((item.relative or 0.0 for item in items), default=0.0)),
        }
        for layer, items in groups.items()
    ]


def _text(found: list[TensorDifference], counts: Counter[str], kind: str, by_layer: bool, show_all: bool) -> str:
    words = ", ".join(
        f"{counts[status]} {status}" for status in ("same", "changed", "reshaped", "added", "removed")
    )
    lines = [words, f"guess: {kind}"]
    rows: list[tuple[str, ...]]
    header: tuple[str, ...]
    if by_layer:
        rows = [
            (
                f"{entry['different']} of {entry['tensors']}",
                _number(entry["maxError"]),
                _number(entry["relativeError"]),
                printable(entry["layer"]),
            )
            for entry in _layers(found)
            if show_all or entry["different"]
        ]
        header = ("different", "largest", "relative", "layer")
    else:
        chosen = [item for item in found if show_all or item.status != "same"]
        chosen.sort(key=lambda item: (-(_INFINITE if item.relative is None else item.relative), item.name))
        cut = chosen if show_all else chosen[:_SHOWN]
        rows = [
            (
                item.status,
                _number(item.largest),
                _number(item.relative),
                f"{item.changed:,}",
                printable(_label(item)),
            )
            for item in cut
        ]
        header = ("status", "largest", "relative", "elements", "tensor")
        if len(cut) < len(chosen):
            lines.append(f"the {len(cut)} largest of {len(chosen)}; --all lists every one")
    if rows:
        lines += ["", table(rows, header=header)]
    return "\n".join(lines)


def _label(item: TensorDifference) -> str:
    if item.first and item.second and item.first != item.second:
        return f"{item.name} ({item.first} → {item.second})"
    return item.name


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
