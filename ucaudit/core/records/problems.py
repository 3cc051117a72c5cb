"""What is wrong with a document that does not fit its model, in one line: where, and what was expected there."""

from __future__ import annotations

from typing import Final

from pydantic import ValidationError

from ucaudit.core.records.base import SHA256_PATTERN, SLUG_PATTERN, TIMESTAMP_PATTERN

_FORMS: Final = {
    TIMESTAMP_PATTERN: "not a utc time like 2027-01-01T00:00:00Z",
    SHA256_PATTERN: "not a sha-256 of 64 lower-case hex digits",
    SLUG_PATTERN: "not a name of small letters, digits, dots and hyphens",
}
"""A regular expression → what it wants, in words."""


def first_problem(error: ValidationError, *, within: str = "") -> str:
    """The first problem as ``table[0].member: what was expected``.

    Args:
        error: pydantic's.
        within: the place of the model itself, if it is a part of something.
    """
    first = error.errors(include_url=False, include_input=False)[0]
    place = within
    for part in first["loc"]:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else part
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "string_pattern_mismatch":
        message = _FORMS.get(first["ctx"]["pattern"], message)
    # Only the first letter: the rest may be a pattern, or a value as it must be written.
    message = message[:1].lower() + message[1:]
    return f"{place}: {message}" if place else message
