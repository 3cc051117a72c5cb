"""Examined records of every determination."""

from __future__ import annotations

import pytest
from factories import make_outcomes

from ucaudit.evidence.examine import Examined


@pytest.fixture(scope="session")
def outcomes() -> dict[str, Examined]:
    return make_outcomes()
