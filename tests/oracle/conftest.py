"""Third-party tools that check us, each in a virtual environment of its own.

``UCAUDIT_ORACLES=require`` turns an absent tool into a failure (CI does that); otherwise its tests are skipped
with the reason. ``UCAUDIT_ORACLE_DIR`` says where the environments are kept between runs.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[2]
DEFAULT_BUDGET = 300.0
OracleEnv = Callable[..., Path]


def oracle_absent(reason: str) -> NoReturn:
    """Skip, or fail where every oracle must be there."""
    if os.environ.get("UCAUDIT_ORACLES") == "require":
        pytest.fail(f"oracle required but absent: {reason}", pytrace=False)
    pytest.skip(f"oracle absent: {reason}")


def oracle_directory() -> Path:
    """Where tools and their caches live between runs."""
    place = Path(os.environ.get("UCAUDIT_ORACLE_DIR") or ROOT / ".ci-work" / "oracles")
    place.mkdir(parents=True, exist_ok=True)
    return place.resolve()


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """One test process at a time."""
    with place.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def make_environment(name: str, requirements: Sequence[str], *, budget: float = DEFAULT_BUDGET) -> Path:
    """Create, or find again, the virtual environment ``name`` with exactly these ``requirements``.

    Args:
        name: a directory name.
        requirements: pinned pip requirements; others than last time rebuild the environment.
        budget: seconds for everything.

    Returns:
        The environment's directory. Does not return where it cannot be made: see :func:`oracle_absent`.
    """
    base = oracle_directory()
    place, stamp = base / name, base / name / ".complete"
    wanted = "\n".join([sys.version.split()[0], *requirements])
    end = time.monotonic() + budget
    with locked(base / f"{name}.lock"):
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
            return place
        shutil.rmtree(place, ignore_errors=True)
        pip = [str(place / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        for command in ([sys.executable, "-m", "venv", str(place)], [*pip, *requirements]):
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=max(1.0, end - time.monotonic()), check=False
                )
            except subprocess.TimeoutExpired:
                oracle_absent(f"{name} was not installed within {budget:.0f} s")
            if done.returncode != 0:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                oracle_absent(f"{name} cannot be installed: {last}")
        stamp.write_text(wanted, encoding="utf-8")
    return place


@pytest.fixture(scope="session")
def oracle_env() -> OracleEnv:
    """``oracle_env(name, requirements, budget=seconds)`` → the directory of a virtual environment with them."""
    return make_environment


@pytest.fixture(scope="session")
def absent() -> Callable[[str], NoReturn]:
    """:func:`oracle_absent`, for tools that come from the system."""
    return oracle_absent
