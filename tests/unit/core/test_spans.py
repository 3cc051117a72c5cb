"""Half-open spans, as options and policies write them."""

import pytest

from ucaudit.core.errors import InputError
from ucaudit.core.spans import resolve_span, span_fits


@pytest.mark.parametrize(
    ("text", "span"),
    [("0:10", (0, 10)), ("3:7", (3, 7)), ("3:", (3, 10)), (":7", (0, 7)), (":", (0, 10)), ("-4:", (6, 10)),
     ("-10:", (0, 10)), ("007:8", (7, 8))],
)  # fmt: skip
def test_spans(text: str, span: tuple[int, int]) -> None:
    assert resolve_span(text, 10, what="rows") == span
    assert span_fits(text, "{}:{}".format(*span)) is True


@pytest.mark.parametrize("text", ["0:11", "10:", "5:5", "7:3", ":0", "-11:", "-0:"])
def test_spans_that_are_not_there(text: str) -> None:
    with pytest.raises(InputError, match=f"rows {text} are asked for, there are 10"):
        resolve_span(text, 10, what="rows")


@pytest.mark.parametrize(
    "text", ["", "3", "3:4:5", "a:b", "1:-1", "-1:5", " 1:2", "1:2\n", "+1:2", "1.0:2", "9" * 16 + ":"]
)
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(InputError, match="rows are given as A:B"):
        resolve_span(text, 10, what="rows")


@pytest.mark.parametrize(
    ("asked", "resolved"), [("-4:", "5:10"), ("3:7", "3:8"), ("3:", "2:10"), (":7", "1:7"), (":7", "0:8")]
)
def test_other_rows_do_not_fit(asked: str, resolved: str) -> None:
    assert span_fits(asked, resolved) is False
