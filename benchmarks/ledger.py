"""How fast a ledger of 100,000 entries is: appending, proving, checking, finding. Prints a table, or JSON.

    python benchmarks/ledger.py [--entries 100000] [--batch 100] [--directory DIR] [--json]

The directory must be on the disk that is to be measured: every checkpoint waits for it several times. Entries are
those of real plans in size and form. Exits 1 if a target is missed at 100,000 entries or more: 200 appended a
second with a checkpoint every batch, 10 ms a proof, 30 s for checking the whole ledger.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ucaudit.core.files import write_bytes
from ucaudit.evidence.keys import FileSigner, PublicKey
from ucaudit.evidence.ledger import (
    Ledger,
    find,
    ledger_entry,
    population_of,
    repair_ledger,
    verify_proof,
)

TARGETS = {"append": 200.0, "prove": 10.0, "verify": 30.0}


def make_signer() -> FileSigner:
    """A key of this run."""
    key = Ed25519PrivateKey.generate()
    return FileSigner(key, PublicKey.from_raw_ed25519(key.public_key().public_bytes_raw()))


def entry(number: int) -> bytes:
    """What a plan's entry looks like, about 400 bytes."""
    digest = hashlib.sha256(b"%d" % number).hexdigest()
    return ledger_entry(
        "plan",
        digest,
        "urn:ucaudit:predicate:plan:v1",
        "2026-03-01T12:00:00Z",
        pack_digest=digest[::-1],
        key_id=digest,
    )


def seconds(work: Callable[[], object]) -> float:
    """How long it takes once."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(directory: Path, entries: int, batch: int) -> dict[str, float]:
    """Every figure, in the units that :func:`main` prints."""
    signer = make_signer()
    ledger = Ledger.init(directory / "ledger", "bench.invalid/ledger", signer)
    made = [entry(number) for number in range(entries)]
    write = statistics.median(seconds(lambda: write_bytes(directory / "probe", b"x" * 8192)) for _ in range(20))
    appending = sum(
        seconds(lambda start=start: ledger.append(made[start : start + batch], signer))  # type: ignore[misc]
        for start in range(0, entries, batch)
    )
    draw = random.Random(1)
    indexes = [draw.randrange(entries) for _ in range(200)]
    proving = sorted(seconds(lambda index=index: ledger.prove(index)) for index in indexes)  # type: ignore[misc]
    proof = ledger.prove(indexes[0])
    checking = statistics.median(seconds(lambda: verify_proof(proof, None, ledger.vkey)) for _ in range(50))
    sizes = [draw.randrange(1, entries) for _ in range(50)]
    consistent = statistics.median(seconds(lambda size=size: ledger.prove_consistency(size)) for size in sizes)  # type: ignore[misc]
    last = hashlib.sha256(b"%d" % (entries - 1)).hexdigest()
    kept = list(ledger.entries())
    result = {
        "entries": entries,
        "batch": batch,
        "durableWriteMs": write * 1000,
        "appendPerSecond": entries / appending,
        "proveMedianMs": statistics.median(proving) * 1000,
        "prove99Ms": proving[len(proving) * 99 // 100 - 1] * 1000,
        "proveSlowestMs": proving[-1] * 1000,
        "proofBytes": len(proof),
        "checkProofMs": checking * 1000,
        "consistencyMs": consistent * 1000,
        "findMs": seconds(lambda: find(ledger, last)) * 1000,
        "populationSeconds": seconds(lambda: population_of(kept)),
        "verifySeconds": seconds(ledger.verify),
        "repairSeconds": seconds(lambda: repair_ledger(ledger.path)),
        "diskMb": sum(item.stat().st_size for item in ledger.path.rglob("*") if item.is_file()) / 1e6,
    }
    single = [entry(entries + number) for number in range(60)]
    result["appendOnePerSecond"] = len(single) / sum(
        seconds(lambda item=item: ledger.append([item], signer))  # type: ignore[misc]
        for item in single
    )
    return result


def table(found: dict[str, float]) -> str:
    """The figures for people; docs/ledger.md quotes them."""
    rows = [
        ("what", "measured", "target"),
        (
            "entries, each batch with a checkpoint",
            f"{found['entries']:,.0f} in batches of {found['batch']:.0f}",
            "",
        ),
        ("append", f"{found['appendPerSecond']:,.0f} entries/s", f">= {TARGETS['append']:.0f}"),
        ("append one at a time", f"{found['appendOnePerSecond']:,.0f} entries/s", ""),
        ("one durable write of 8 KiB here", f"{found['durableWriteMs']:.2f} ms", ""),
        (
            "inclusion proof: median, 99 of 100, slowest",
            f"{found['proveMedianMs']:.1f}, {found['prove99Ms']:.1f}, {found['proveSlowestMs']:.1f} ms",
            f"<= {TARGETS['prove']:.0f} ms",
        ),
        ("checking that proof without the ledger", f"{found['checkProofMs']:.2f} ms", ""),
        ("consistency proof, median", f"{found['consistencyMs']:.1f} ms", ""),
        ("finding an envelope's entry", f"{found['findMs']:.0f} ms", ""),
        ("ledger verify, the whole ledger", f"{found['verifySeconds']:.1f} s", f"<= {TARGETS['verify']:.0f} s"),
        ("matching plans and results (export)", f"{found['populationSeconds']:.1f} s", ""),
        ("ledger repair with nothing to repair", f"{found['repairSeconds']:.1f} s", ""),
        ("size on disk", f"{found['diskMb']:.0f} MB", ""),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def main() -> int:
    """Measure and print; 1 if a target is missed on a ledger large enough to tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--directory", type=Path, default=None, help="where to make it (default: /tmp)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as place:
        found = measure(Path(place), options.entries, options.batch)
    print(json.dumps(found) if options.json else table(found))
    missed = (
        found["appendPerSecond"] < TARGETS["append"]
        or found["prove99Ms"] > TARGETS["prove"]
        or found["verifySeconds"] > TARGETS["verify"]
    )
    return int(missed and options.entries >= 100_000)


if __name__ == "__main__":
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    sys.exit(main())
