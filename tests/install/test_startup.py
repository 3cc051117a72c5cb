"""Starting is fast: the budgets stand in benchmarks/startup.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.alone]


def test_startup_budgets() -> None:
    """Other work on the machine only ever adds time, so the best of three medians is nearest to the truth.

    The budgets come with the medians: a machine on which click loads more slowly has as much more time.
    """
    command = [sys.executable, ROOT / "benchmarks" / "startup.py", "--json"]
    fixtures = [ROOT / "fixtures" / "bundle", ROOT / "fixtures" / "trust.toml"]
    medians = []
    for _ in range(3):
        done = subprocess.run([*command, *fixtures], capture_output=True, text=True, timeout=300, check=False)
        assert done.stdout, done.stderr
        medians.append(json.loads(done.stdout))
    for name in ("ucaudit --help", "ucaudit verify"):
        assert min(found["aboveMs"][name] / found["budgetsMs"][name] for found in medians) <= 1, medians
