"""``ucaudit gate`` beside ``openssl dgst -sha256`` over the same files, and with a warm cache.

    python benchmarks/gate.py [--runs 5] [--work build/gate] [--json]

*Cold*: a pack of 200 files, 2 GB together, without ``--full`` and without a cache; "cold" is the program, not the
disk: both read from the system's page cache. openssl gets the same cores: on one core it is one process, on N cores
``xargs -P N`` runs N of them over equal shares of the files. The target is 5% and 250 ms above it.

*Warm cache*: ``gate --cache`` on a pack of 10,000 unchanged files, 1 s.

The two take turns, so that a busy moment weighs on both; the best time of each is compared, and the processor time
of the best run is given beside it, which another program's load hardly changes. Nothing here is a real model: the
packs are the tests' tiny ucq pack with random files beside it, and the evidence is of made-up per-token values, all
of which the gate verifies.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from bundles import Setting, make_bundle, make_setting  # noqa: E402

from ucaudit.core.records import Attestation  # noqa: E402
from ucaudit.packs.opened import open_pack, usable_cores  # noqa: E402

POLICY = "[measurement]\nn = 30\nseq_len = 8\n[claims]\nppl_ratio_max = 1.0125\n[gate]\nrequire_plan = true\n"
OVERHEAD, FACTOR, WARM_SECONDS = 0.25, 1.05, 1.0
# Installed packages are compiled to bytecode; so is what is measured here.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
    "PYTHONPATH": str(ROOT)
}


@dataclass
class Took:
    """The best run: seconds of the clock, and of all its processors."""

    seconds: float
    processor: float


def make_pack(place: Path, files: int, total: int) -> tuple[Setting, Path]:
    """The tests' pack with random files beside it, and a bundle that attests them all."""
    setting = make_setting(place)
    more = files - sum(path.is_file() for path in setting.pack.rglob("*"))
    size = total // more
    for number in range(more):
        out = setting.pack / "more" / f"{number // 1000:02}" / f"{number:05}.dat"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(b"data" + os.urandom(size))
    opened = open_pack(setting.pack)

    def change(record: Attestation) -> Attestation:
        pack = record.pack.model_copy(update={"bytes": opened.total_bytes, "files": files})
        return record.model_copy(update={"pack": pack})

    return setting, make_bundle(setting, place / "bundle", manifest=opened.file_manifest(), change_record=change)


def run(words: list[str], cores: set[int]) -> Took:
    """Run a command that must succeed on these cores."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(
        words,
        check=True,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    took = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Took(took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def best(commands: dict[str, list[str]], cores: set[int], runs: int) -> dict[str, Took]:
    """The best of ``runs`` runs of each, in turns, after one that is not counted."""
    found: dict[str, list[Took]] = {name: [] for name in commands}
    for number in range(runs + 1):
        for name, words in commands.items():
            took = run(words, cores)
            if number:
                found[name].append(took)
    return {name: min(times, key=lambda took: took.seconds) for name, times in found.items()}


def openssl_words(pack: Path, cores: int, listing: Path) -> list[str]:
    """openssl over every file: one process a core, each with an equal share."""
    names = [str(path) for path in sorted(pack.rglob("*")) if path.is_file()]
    listing.write_bytes(b"".join(name.encode() + b"\0" for name in names))
    share = -(-len(names) // cores)
    return ["xargs", "-0", "-a", str(listing), "-P", str(cores), "-n", str(share), "openssl", "dgst", "-sha256"]


def gate_words(setting: Setting, bundle: Path, policy: Path) -> list[str]:
    """The gate, as an installed program starts."""
    words = [sys.executable, "-m", "ucaudit", "gate", str(setting.pack), "--evidence", str(bundle)]
    return [*words, "--policy", str(policy), "--trust", str(setting.trust), "--quiet"]


def main() -> int:
    """Measure and print; returns 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="gate-", dir=options.work))
    try:
        found = measure(place, options.runs)
    finally:
        shutil.rmtree(place)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print("| what | cores | openssl | allowed | gate | processor time: openssl, gate | met |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for row in found:
            shown = (
                f"{row['allowed']:.2f} s",
                f"{row['gate']:.2f} s",
                row["processor"],
                "yes" if row["met"] else "NO",
            )
            print(f"| {row['what']} | {row['cores']} | {row['openssl']} | {' | '.join(map(str, shown))} |")
    return 0 if all(row["met"] for row in found) else 1


def measure(place: Path, runs: int) -> list[dict[str, object]]:
    """Every row of the table."""
    policy = place / "policy.toml"
    policy.write_text(POLICY, encoding="utf-8")
    every = sorted(os.sched_getaffinity(0))
    rows: list[dict[str, object]] = []
    setting, bundle = make_pack(place / "cold", 200, 2_000_000_000)
    for count in sorted({1, usable_cores()}):
        cores = set(every[:count])
        times = best(
            {
                "openssl": openssl_words(setting.pack, count, place / "files"),
                "gate": gate_words(setting, bundle, policy),
            },
            cores,
            runs,
        )
        rows.append(row("200 files, 2 GB", count, times["gate"], times["openssl"]))
    shutil.rmtree(place / "cold")
    setting, bundle = make_pack(place / "warm", 10_000, 100_000_000)
    time.sleep(3)  # a file that was only just written is not kept in the cache
    words = [*gate_words(setting, bundle, policy), "--cache", str(place / "cache.json")]
    for count in sorted({1, usable_cores()}):
        times = best({"gate": words}, set(every[:count]), runs)
        rows.append(row("10,000 unchanged files, --cache", count, times["gate"], None))
    return rows


def row(what: str, cores: int, gate: Took, openssl: Took | None) -> dict[str, object]:
    """A row of the table."""
    allowed = openssl.seconds * FACTOR + OVERHEAD if openssl else WARM_SECONDS
    processor = f"{openssl.processor:.2f} s, {gate.processor:.2f} s" if openssl else f"–, {gate.processor:.2f} s"
    return {
        "what": what,
        "cores": cores,
        "openssl": f"{openssl.seconds:.2f} s" if openssl else "–",
        "allowed": allowed,
        "gate": gate.seconds,
        "processor": processor,
        "met": gate.seconds <= allowed,
    }


if __name__ == "__main__":
    sys.exit(main())
