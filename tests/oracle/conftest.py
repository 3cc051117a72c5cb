"""Third-party tools that check us, each in a virtual environment of its own (:mod:`oracles`).

``UCAUDIT_ORACLES=require`` turns an absent tool into a failure (CI does that); otherwise its tests are skipped
with the reason.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import oracles
import pytest

OracleEnv = Callable[..., Path]

# Last: its modules must not hide anybody's package.
sys.path.append(str(oracles.ROOT / "benchmarks"))


def oracle_absent(reason: str) -> NoReturn:
    """Skip, or fail where every oracle must be there."""
    if os.environ.get("UCAUDIT_ORACLES") == "require":
        pytest.fail(f"oracle required but absent: {reason}", pytrace=False)
    pytest.skip(f"oracle absent: {reason}")


def make_environment(
    name: str, requirements: Sequence[str], *, budget: float = oracles.DEFAULT_BUDGET, share: bool = False
) -> Path:
    """As :mod:`oracles` does; where it cannot be made, does not return: see :func:`oracle_absent`."""
    try:
        return oracles.make_environment(name, requirements, budget=budget, share=share)
    except oracles.OracleAbsentError as error:
        oracle_absent(str(error))


@pytest.fixture(scope="session")
def oracle_env() -> OracleEnv:
    """``oracle_env(name, requirements, budget=seconds)`` → the directory of a virtual environment with them."""
    return make_environment


@pytest.fixture(scope="session")
def absent() -> Callable[[str], NoReturn]:
    """:func:`oracle_absent`, for tools that come from the system."""
    return oracle_absent
