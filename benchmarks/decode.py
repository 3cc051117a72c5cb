"""Is decoding the bottleneck of an audit? Reconstruct and digest a pack, beside digesting the same bytes.

    python benchmarks/decode.py PACK [--runs 5] [--plain]
    python benchmarks/decode.py --synthetic RANK [--width 2048]

Times ``reconstruct_state`` (decode every tensor, SHA-256 of each, as many threads as torch would use) and one
core's SHA-256 over the reconstructed bytes, in turns, and prints the best of each and their ratio. The pack's files
are read once before, so that the disk does not count. ``--plain`` leaves the compiled decoder out. ``--synthetic``
makes a pack of random weights: two layers, five bits in groups of 64, an overlay of that rank.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from pathlib import Path

import torch
from gpu_check import make_synthetic

from ucaudit.packs.codecs import open_source, ucq
from ucaudit.packs.state import reconstruct_state


def main() -> int:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path, nargs="?")
    parser.add_argument("--synthetic", type=int, metavar="RANK")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    if (options.pack is None) == (options.synthetic is None):
        parser.error("give a pack, or --synthetic")
    if options.plain:
        ucq.WORTHWHILE = 1 << 62
    if options.pack is not None:
        measure(options.pack, options.runs)
        return 0
    with tempfile.TemporaryDirectory(prefix="decode-") as place:
        pack, _, _ = make_synthetic(
            Path(place), hidden=options.width, layers=2, vocabulary=500, rank=options.synthetic
        )
        measure(pack, options.runs)
    return 0


def measure(pack: Path, runs: int) -> None:
    """Time one pack, and print."""
    with open_source(pack) as source:
        chunks: list[bytes] = []
        reconstruct_state(source, sink=lambda _, chunk: chunks.append(bytes(chunk)))  # warm, and the bytes
        total = sum(map(len, chunks))
        both, alone = [], []
        for _ in range(runs):
            began = time.perf_counter()
            reconstruct_state(source)
            middle = time.perf_counter()
            hasher = hashlib.sha256()
            for chunk in chunks:
                hasher.update(chunk)
            both.append(middle - began)
            alone.append(time.perf_counter() - middle)
    ranks = sorted({claim.rank for claim in getattr(source.manifest, "tensors", ()) if claim.kind == "ucq"})
    print(f"{total / 1e6:.0f} MB reconstructed, ranks {ranks}, {torch.get_num_threads()} threads")
    print(f"reconstruct and digest   {min(both):.3f} s  {total / min(both) / 1e9:.2f} GB/s")
    print(f"one core's SHA-256       {min(alone):.3f} s  {total / min(alone) / 1e9:.2f} GB/s")
    print(f"ratio                    {min(both) / min(alone):.2f}")


if __name__ == "__main__":
    raise SystemExit(main())
