"""Digits, groups and limits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ucaudit.core.records import Interval
from ucaudit.report.formatting import (
    bytes_text,
    estimate_text,
    exact,
    grouped,
    interval_decimals,
    interval_text,
    number,
    shortened,
    significant,
)


def interval(lower: float, upper: float) -> Interval:
    return Interval(estimate=(lower + upper) / 2, lower=lower, upper=upper, confidence=0.95, method="t")


def test_digest_in_groups_of_eight_is_whole() -> None:
    digest = "0123456789abcdef" * 4
    assert grouped(digest) == "01234567 89abcdef " * 3 + "01234567 89abcdef"
    assert grouped(digest).replace(" ", "") == digest


@pytest.mark.parametrize(
    ("lower", "upper", "estimate", "text"),
    [
        (1.00412, 1.00829, "1.0062", "1.0041 to 1.0083"),
        (1.01, 1.07, "1.040", "1.010 to 1.070"),
        (-0.0021, 0.0017, "−0.0002", "−0.0021 to 0.0017"),
        (1200.0, 1800.0, "1,500", "1,200 to 1,800"),
    ],
)
def test_no_more_digits_than_the_interval_supports(lower: float, upper: float, estimate: str, text: str) -> None:
    assert estimate_text(interval(lower, upper)) == estimate
    assert interval_text(interval(lower, upper)) == text


def test_rounding_never_moves_an_end_onto_or_across_the_limit() -> None:
    close = interval(1.0101, 1.01246)
    assert interval_text(close) == "1.0101 to 1.0125"
    assert interval_text(close, limit=1.0125) == "1.01010 to 1.01246"


@given(st.floats(0.5, 2), st.floats(1e-6, 0.2), st.floats(0.5, 2).map(lambda value: round(value, 4)))
def test_printed_bounds_tell_the_same_story(centre: float, half: float, limit: float) -> None:
    lower, upper = centre - half, centre + half
    decimals = interval_decimals(lower, upper, limit)
    for end in (lower, upper):
        if abs(end - limit) > 10.0**-(decimals):
            assert (round(end, decimals) > limit) == (end > limit)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (27.3941, "27.4"),
        (0.0123456, "0.0123"),
        (1e-9, "1.00e−9"),
        (-0.5, "−0.500"),
        (12345.6, "12,346"),
    ],
)
def test_significant(value: float, text: str) -> None:
    assert significant(value).replace("e−09", "e−9") == text


def test_edges() -> None:
    assert number(-0.00001, 2) == "0.00"
    assert number(math.inf, 2) == "inf"
    assert number(1e30, 2) == "1e+30"
    assert exact(1.0125) == "1.0125"
    assert exact(93.0) == "93"
    assert bytes_text(900) == "900 bytes"
    assert bytes_text(98_765_432) == "98,765,432 bytes (94.2 MiB)"
    assert shortened("a  b\nc", 10) == "a b c"
    assert shortened("abcdefghij", 5) == "abcd…"
