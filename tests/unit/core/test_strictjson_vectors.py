"""JSONTestSuite's documents: what is no JSON is refused, and of what is JSON only what has two meanings."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from ucaudit.core import strictjson
from ucaudit.core.errors import MalformedRecordError

VECTORS = Path(__file__).parents[2] / "vectors" / "json" / "jsontestsuite.json"

STRICTER = {
    "y_object_duplicated_key": "duplicate json key",
    "y_object_duplicated_key_and_value": "duplicate json key",
    "y_number_double_close_to_zero": "number out of range",
}
"""JSON that is refused on purpose: two parsers may take another of two members, and no figure needs 78 digits."""

READ = {
    "i_number_double_huge_neg_exp",
    "i_number_real_underflow",
    "i_number_too_big_neg_int",
    "i_number_too_big_pos_int",
}
"""Where the standard leaves the choice to the parser: only numbers that round, or that Python holds whole."""


def documents():
    for name, data, times, end in json.loads(VECTORS.read_text(encoding="ascii"))["cases"]:
        yield name, base64.b64decode(data) * times + end.encode()


def answer(document):
    try:
        strictjson.loads(document, subject="vector")
    except MalformedRecordError as error:
        return str(error)
    return None


def test_json_test_suite():
    found = {name: answer(document) for name, document in documents()}
    assert len(found) == 318
    accepted = {name for name, reason in found.items() if reason is None}
    assert not {name for name in accepted if name.startswith("n_")}
    assert {name for name in found if name.startswith("y_")} - accepted == STRICTER.keys()
    for name, reason in STRICTER.items():
        assert reason in found[name]
    assert {name for name in accepted if name.startswith("i_")} == READ


def test_what_is_read_is_what_python_reads():
    """The strict parser adds refusals and changes no value."""
    for name, document in documents():
        if answer(document) is None:
            assert strictjson.loads(document, subject=name) == json.loads(document)
