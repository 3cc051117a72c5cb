"""JSON as signed evidence needs it: one meaning per document.

``json.loads`` and ``pydantic_core.from_json`` both accept duplicate keys (the last wins), and the former
accepts NaN and lone surrogates: two parsers can then read two records from the same signed bytes. This
parser refuses all of that, and anything nested deeper than :data:`MAX_DEPTH`.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

from ucaudit.core.errors import MalformedRecordError

MAX_DEPTH: Final = 32
MAX_NUMBER_LENGTH: Final = 40
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS: Final = re.compile(r"[\[\]{}]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def loads(data: bytes, *, subject: str) -> Any:  # noqa: ANN401 - a JSON value is any of six types
    """Parse one UTF-8 JSON document strictly.

    Args:
        data: the document's bytes; no byte-order mark.
        subject: the file name for error messages.

    Raises:
        MalformedRecordError: not UTF-8, not JSON, duplicate keys, NaN or infinity, a lone surrogate,
            an over-long number, or nesting deeper than :data:`MAX_DEPTH`.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedRecordError(f"not utf-8 at byte {error.start}", subject=subject) from error
    _check_depth(text, subject)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in items:
            if key in result:
                raise MalformedRecordError(f"duplicate json key {key[:80]!r}", subject=subject)
            if _SURROGATE.search(key):
                raise MalformedRecordError("lone surrogate in a json key", subject=subject)
            _check_string(value, subject)
            result[key] = value
        return result

    def constant(name: str) -> NoReturn:
        raise MalformedRecordError(f"json has no {name}", subject=subject)

    def integer(token: str) -> int:
        if len(token) > MAX_NUMBER_LENGTH:
            raise MalformedRecordError("number with too many digits", subject=subject)
        return int(token)

    def real(token: str) -> float:
        value = float(token)
        if len(token) > MAX_NUMBER_LENGTH or value in (float("inf"), float("-inf")):
            raise MalformedRecordError("number out of range", subject=subject)
        return value

    try:
        value = json.loads(
            text, object_pairs_hook=pairs, parse_constant=constant, parse_int=integer, parse_float=real
        )
    except json.JSONDecodeError as error:
        raise MalformedRecordError(f"not json: {error.msg} at byte {error.pos}", subject=subject) from error
    _check_strings(value, subject)
    return value


def _check_depth(text: str, subject: str) -> None:
    """Refuse deep nesting before the recursive parser sees it. Brackets inside strings do not count."""
    depth = 0
    for match in _BRACKETS.finditer(_STRING.sub('""', text)):
        depth += 1 if match.group() in "[{" else -1
        if depth > MAX_DEPTH:
            raise MalformedRecordError(f"nested deeper than {MAX_DEPTH} levels", subject=subject)


def _check_string(value: object, subject: str) -> None:
    if isinstance(value, str) and _SURROGATE.search(value):
        raise MalformedRecordError("lone surrogate in a json string", subject=subject)


def _check_strings(value: object, subject: str) -> None:
    """Strings in arrays and at the top level (object members were checked while parsing)."""
    _check_string(value, subject)
    if isinstance(value, list):
        for item in value:
            _check_strings(item, subject)
    elif isinstance(value, dict):
        for item in value.values():
            if isinstance(item, list | dict):
                _check_strings(item, subject)


def dumps(value: object) -> bytes:
    """Serialise for signing or storage: UTF-8, sorted keys, no spaces, no NaN.

    What was signed is always the stored bytes; nothing is ever re-serialised before a signature check.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode(
        "utf-8"
    )
