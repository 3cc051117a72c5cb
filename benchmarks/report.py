"""How long reports take, and how much memory.

    python benchmarks/report.py profiles BUNDLE       # all three profiles as PDF, in one process
    python benchmarks/report.py large [--tensors 10000]

``large`` renders a made-up record of a model with very many tensors: 126 layers, 10,000 tensors, 4,000 pack files,
200 windows of 1,024 tokens. Its STATE is attached, as for any record with more than 2,000 tensors.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from factories import digest_of, make_attestation, make_attestation_statement, make_values  # noqa: E402

from ucaudit.core.digest import StateEntry, StateManifest  # noqa: E402
from ucaudit.core.records import LayerError  # noqa: E402
from ucaudit.evidence.bundle import open_bundle  # noqa: E402
from ucaudit.report import build_view, profile_names, render_bundle  # noqa: E402
from ucaudit.report.render import render_pdf  # noqa: E402


def timed(name: str, work: Callable[[], bytes]) -> float:
    """Run, print, and return the seconds."""
    start = time.perf_counter()
    size = len(work())
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{name:12} {seconds:6.1f} s   {size / 1e6:6.2f} MB   peak {peak:.2f} GB")
    return seconds


def profiles(bundle: Path) -> None:
    """The three profiles of a bundle."""
    opened = open_bundle(bundle)
    total = sum(timed(name, lambda name=name: render_bundle(opened, name)) for name in profile_names())
    print(f"{'together':12} {total:6.1f} s")


def large(tensors: int) -> None:
    """One report of a very large record."""
    values = make_values(n=200, tokens=1023)
    state = StateManifest.build(
        StateEntry(f"model.layers.{i % 126}.mlp.experts.{i}.w", "BF16", (4096, 4096), digest_of(f"t{i}"))
        for i in range(tensors)
    )
    errors = tuple(LayerError(layer=f"model.layers.{i}", relative_error=0.03, parameters=1) for i in range(126))
    record = make_attestation(values=values)
    reconstruction = record.reconstruction.model_copy(update={"tensors": tensors, "layer_errors": errors})
    record = record.model_copy(
        update={"reconstruction": reconstruction, "pack": record.pack.model_copy(update={"files": 4000})}
    )
    view = build_view(
        make_attestation_statement(record, files=4000),
        envelope_digest=digest_of("envelope"),
        signer_key_id=digest_of("key"),
        principal="release@example.org",
        endorsements=(),
        values=values,
        ledger=None,
        profile="soc2",
        state=state,
    )
    timed(f"{tensors:,}", lambda: render_pdf(view, attach=b"{}", state=state.to_bytes()))


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("profiles").add_argument("bundle", type=Path)
    commands.add_parser("large").add_argument("--tensors", type=int, default=10_000)
    arguments = parser.parse_args()
    if arguments.command == "profiles":
        profiles(arguments.bundle)
    else:
        large(arguments.tensors)


if __name__ == "__main__":
    main()
