"""How long ``ucaudit --help`` and ``ucaudit verify`` take to start, above a bare interpreter.

    python benchmarks/startup.py [--json] [--runs 10] BUNDLE TRUST_FILE

Prints medians in milliseconds. Each command is run once unmeasured, so that bytecode is compiled, as an installed
package's is (PYTHONDONTWRITEBYTECODE is therefore ignored); then bare interpreter and commands take turns, so that
a busy moment on the machine weighs on all of them alike.

The budgets are those of the machine on which they were set, one that imports click (which is not ours) in 18 ms.
On a slower machine they are as much larger as click is slower there, and never smaller.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

BUDGETS_MS = {"ucaudit --help": 150.0, "ucaudit verify": 250.0}
BARE = "bare interpreter"
CLICK = "import click"
CLICK_MS = 18.0
"""Importing click on the machine of 2026-11-25, where ``--help`` took 26 ms and ``verify`` 225 ms."""
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def elapsed_ms(command: list[str]) -> float:
    """One run, which must succeed, in milliseconds."""
    began = time.perf_counter()
    subprocess.run(command, check=True, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - began) * 1000


def medians(commands: dict[str, list[str]], runs: int) -> dict[str, float]:
    """The median of ``runs`` runs of each command, in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for command in commands.values():
        elapsed_ms(command)
    for _ in range(runs):
        for name, command in commands.items():
            times[name].append(elapsed_ms(command))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> int:
    """Measure and print; returns 1 if a budget is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("trust")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    program = str(Path(sys.executable).with_name("ucaudit"))
    found = medians(
        {
            BARE: [sys.executable, "-c", "pass"],
            CLICK: [sys.executable, "-c", CLICK],
            "ucaudit --help": [program, "--help"],
            "ucaudit verify": [program, "verify", options.bundle, "--trust", options.trust],
        },
        options.runs,
    )
    above = {name: found[name] - found[BARE] for name in BUDGETS_MS}
    click = found[CLICK] - found[BARE]
    slower = max(1.0, click / CLICK_MS)
    budgets = {name: budget * slower for name, budget in BUDGETS_MS.items()}
    if options.json:
        print(json.dumps({"bareMs": found[BARE], "clickMs": click, "aboveMs": above, "budgetsMs": budgets}))
    else:
        print(f"{BARE:<18} {found[BARE]:6.1f} ms (median of {options.runs})")
        print(f"{CLICK:<18} {click:6.1f} ms above it: {slower:.2f} times the budgets' machine")
        for name, value in above.items():
            print(f"{name:<18} {value:6.1f} ms above it (budget {budgets[name]:.0f} ms)")
    return int(any(above[name] > budget for name, budget in budgets.items()))


if __name__ == "__main__":
    sys.exit(main())
