"""Plain transformers, lm-evaluation-harness and llama.cpp's own statistics give the figures that we give.

The comparisons are those of ``benchmarks/agreement.py``, on less text. llama.cpp itself takes minutes to build and
is run by that program on demand; here only its statistics are compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import agreement
import pytest
from crosscheck import harness, llama_cpp, plain
from crosscheck.comparison import Comparison
from crosscheck.subject import Subject
from oracles import OracleAbsentError

pytestmark = pytest.mark.oracle

CHARACTERS = 6_000


@pytest.fixture(scope="module", params=agreement.MODELS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return agreement.measure_fixture(request.param, tmp_path_factory.mktemp("agree"), characters=CHARACTERS)


def require(rows: list[Comparison]) -> None:
    assert rows and not [row.row() for row in rows if not row.holds]


def test_plain_transformers(subject: Subject) -> None:
    require(plain.compare(subject))


def test_lm_evaluation_harness(subject: Subject, absent: Callable[[str], NoReturn]) -> None:
    try:
        rows, _ = harness.compare(subject)
    except OracleAbsentError as error:
        absent(str(error))
    require(rows)


def test_llama_cpp_statistics(subject: Subject, absent: Callable[[str], NoReturn]) -> None:
    try:
        rows = llama_cpp.compare_definitions(subject)
    except OracleAbsentError as error:
        absent(str(error))
    require(rows)


def test_the_harness_windows_that_are_redone_here() -> None:
    """Each token is scored once, in a window of full length; worked out by hand for a short text."""
    length = harness.SEQ_LEN
    tokens = list(range(1, 2 * length + 4))
    cut = [(window[0].tolist(), scored) for window, scored in harness.rolling_windows(tokens, 0)]
    assert cut[0] == ([0, *tokens[:length]], length)
    assert cut[1] == (tokens[length - 1 : 2 * length], length)
    assert cut[2] == (tokens[-length - 1 :], 3)
