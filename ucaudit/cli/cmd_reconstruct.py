"""``ucaudit reconstruct``: a pack back to tensors, hashed, compared, and if asked written out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ucaudit.cli.common import Output, arithmetic_option, compute_options, output_options, prepare_compute
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_FAIL, EXIT_PASS, StateDriftError

if TYPE_CHECKING:
    from ucaudit.packs.expected import Expected

_NAMED = 20


@click.command()
@click.argument("pack", type=PATH)
@click.option("--out", "target", type=PATH, help="Write a checkpoint into this new directory.")
@click.option("--expect", help="A STATE file, a state digest, or a directory that holds a STATE file.")
@arithmetic_option
@compute_options
@output_options
def reconstruct(
    pack: Path,
    target: Path | None,
    expect: str | None,
    arithmetic: str | None,
    device: str,
    threads: int | None,
    out: Output,
) -> int:
    """Turn a PACK back into tensors and hash them.

    Prints the state digest. The bytes are the same on every device, at any
    number of threads. Without --expect the state is compared with the one that
    the pack publishes, if it does. Exits 1 if a tensor drifted.
    """
    from ucaudit.core.files import require_outside
    from ucaudit.packs.codecs import open_source
    from ucaudit.packs.expected import read_expected

    if target is not None:
        require_outside(target, pack)
    with open_source(pack, profile=arithmetic) as source:
        expected = read_expected(expect, source)
        chosen = prepare_compute(device, threads)
        from ucaudit.packs.checkpoint import write_checkpoint
        from ucaudit.packs.state import reconstruct_state

        if target is None:
            state = reconstruct_state(source, device=chosen, progress=out.progress)
        else:
            state = write_checkpoint(source, target, device=chosen, progress=out.progress)
        drift = expected.drift(state)
        document: dict[str, Any] = {
            "stateDigest": state.digest,
            "tensors": len(state.entries),
            "parameters": state.parameters,
            "codec": source.codec,
            "arithmeticProfile": source.arithmetic_profile,
            "device": chosen,
            "expected": expected.digest,
            "comparedWith": expected.origin,
            "matches": None if expected.digest is None else not drift,
            "drifted": drift,
            "out": str(target) if target else None,
        }
    code = EXIT_FAIL if drift else EXIT_PASS
    out.result(document, state.digest, code=code)
    if expected.digest is None:
        out.status("compared with nothing: the pack publishes no state, and --expect was not given")
    elif not drift:
        out.status(f"equals {expected.origin}")
    else:
        out.finding(_finding(expected, drift, pack.name, out))
    return code


def _finding(expected: Expected, drift: list[str], name: str, out: Output) -> StateDriftError:
    """What drifted. A digest alone does not say which tensors, nor how many."""
    if expected.state is None:
        hint = "only a whole STATE file tells which tensors drifted: --expect FILE"
        return StateDriftError(drift[0], subject=name, hint=hint)
    for sentence in [*drift[:_NAMED], *([f"… and {len(drift) - _NAMED} more"] if len(drift) > _NAMED else [])]:
        out.warn(sentence)
    return StateDriftError(
        f"{len(drift)} tensor(s) drifted from {expected.origin}",
        subject=name,
        hint="these are not the weights that were expected: compare the files with where they came from",
    )
