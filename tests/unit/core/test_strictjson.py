"""JSON with one meaning: what two parsers could read differently is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ucaudit.core import strictjson
from ucaudit.core.errors import MalformedRecordError


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b'{"a":1,"a":2}', "duplicate"),
        (b'{"a":{"b":1,"b":1}}', "duplicate"),
        (b'[{"x":0,"x":0}]', "duplicate"),
        (b'{"\\u0061":1,"a":2}', "duplicate"),
        (b"NaN", "no NaN"),
        (b'{"a":Infinity}', "no Infinity"),
        (b'{"a":-Infinity}', "no -Infinity"),
        (b'"\\ud800"', "surrogate"),
        (b'{"a":["\\udfff"]}', "surrogate"),
        (b'{"\\ud800":1}', "surrogate"),
        (b"[" * 33 + b"]" * 33, "nested"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "nested"),
        (b"1e999", "range"),
        (b"9" * 5000, "digits"),
        (b"\xff", "utf-8"),
        (b"\xef\xbb\xbf{}", "not json"),
        (b"", "not json"),
        (b"{}x", "not json"),
        (b'{"a":1,}', "not json"),
        (b"{'a':1}", "not json"),
        (b'"\x01"', "not json"),
    ],
)
def test_refused(document, reason):
    with pytest.raises(MalformedRecordError, match=reason):
        strictjson.loads(document, subject="test")


def test_deep_nesting_is_refused_before_it_is_parsed():
    with pytest.raises(MalformedRecordError, match="nested"):
        strictjson.loads(b"[" * 1_000_000, subject="test")


def test_brackets_in_strings_do_not_count():
    text = json.dumps({"a": "[[[[" * 50 + '\\"{{{{'}).encode()
    assert strictjson.loads(text, subject="test")["a"].startswith("[[[[")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), children, max_size=4)
    ),
    max_leaves=20,
)


@given(json_values)
def test_what_is_written_is_read(value):
    assert strictjson.loads(strictjson.dumps(value), subject="test") == value
