"""Figures that somebody else published: a vendor's registry, or a ``benchmarks.json`` of ours.

Two layouts are read. Of a vendor's: an object with ``verified_records`` (or ``records``), a list of objects with
``model`` and ``ppl_ratio``, perhaps ``n``, ``seq_len``, ``hf`` and ``floor``; and ``methodology_summary`` with
``default_n`` and ``default_seq_len``. Of ours: ``rows`` with ``model`` and ``ratio``. Only these members are read;
figures keep the digits that they were published with, which tell how they were rounded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from ucaudit.core.errors import MalformedRecordError
from ucaudit.core.files import read_limited
from ucaudit.core.records.benchmarks import SCHEMA_URI, ClaimedFigure
from ucaudit.core.records.problems import first_problem

_MAX_REGISTRY: Final = 16 << 20
_MAX_RECORDS: Final = 10_000
_HINT: Final = "docs/matrix.md has the two layouts that are read"


class _Written(float):
    """A number that remembers how it was written."""

    text: str

    def __new__(cls, text: str) -> _Written:
        """From its JSON spelling."""
        made = super().__new__(cls, text)
        made.text = text
        return made


def read_registry(path: Path) -> tuple[ClaimedFigure, ...]:
    """Every figure of a registry file, in its order.

    Raises:
        NotFoundError: no such file.
        MalformedRecordError: not JSON, neither of the two layouts, or a record without a model or a ratio.
    """
    subject = str(path)
    try:
        document = json.loads(read_limited(path, _MAX_REGISTRY).decode("utf-8-sig"), parse_float=_Written)
    except (ValueError, RecursionError) as error:
        raise MalformedRecordError(f"not json: {error}", subject=subject, hint=_HINT) from error
    if not isinstance(document, dict):
        raise MalformedRecordError("a registry is a json object", subject=subject, hint=_HINT)
    if document.get("schema") == SCHEMA_URI:
        return _ours(document, subject)
    records = next((document[name] for name in ("verified_records", "records") if name in document), None)
    if not isinstance(records, list):
        raise MalformedRecordError("neither verified_records nor rows of a matrix", subject=subject, hint=_HINT)
    if len(records) > _MAX_RECORDS:
        raise MalformedRecordError(f"{len(records)} records, at most {_MAX_RECORDS}", subject=subject)
    summary = document.get("methodology_summary")
    defaults = summary if isinstance(summary, dict) else {}
    found = []
    for number, item in enumerate(records):
        place = f"{subject} record {number}"
        if not isinstance(item, dict) or not isinstance(item.get("model"), str):
            raise MalformedRecordError("a record without a model", subject=place, hint=_HINT)
        if "ppl_ratio" not in item:
            continue  # listed, and nothing is claimed of its perplexity
        figure = {
            "model": item["model"],
            "ratio": _written(item["ppl_ratio"], place),
            "windows": _count(item, defaults, "n", place),
            "seq_len": _count(item, defaults, "seq_len", place),
            "source": item.get("hf") if isinstance(item.get("hf"), str) else None,
            "floor": item.get("floor") is True,
        }
        found.append(_figure(figure, place))
    return tuple(found)


def _ours(document: dict[str, Any], subject: str) -> tuple[ClaimedFigure, ...]:
    found = []
    rows = document.get("rows")
    if not isinstance(rows, list) or len(rows) > _MAX_RECORDS:
        raise MalformedRecordError("rows is not a list of rows", subject=subject, hint=_HINT)
    for number, row in enumerate(rows):
        place = f"{subject} row {number}"
        if not isinstance(row, dict):
            raise MalformedRecordError("not a row", subject=place, hint=_HINT)
        ratio = row.get("ratio")
        if not isinstance(row.get("model"), str) or not isinstance(ratio, dict) or "estimate" not in ratio:
            continue
        figure = {
            "model": row["model"],
            "ratio": f"{float(ratio['estimate']):.6f}",
            "windows": row.get("n"),
            "seq_len": row.get("seqLen"),
            "source": None,
            "floor": row.get("kind") == "floor",
        }
        found.append(_figure(figure, place))
    return tuple(found)


def _figure(figure: dict[str, Any], place: str) -> ClaimedFigure:
    try:
        return ClaimedFigure.model_validate_json(json.dumps(figure))
    except ValidationError as error:
        raise MalformedRecordError(first_problem(error), subject=place, hint=_HINT) from error


def _written(value: object, place: str) -> str:
    if isinstance(value, _Written):
        return value.text
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise MalformedRecordError(f"ppl_ratio is no number: {str(value)[:40]!r}", subject=place, hint=_HINT)


def _count(item: dict[str, Any], defaults: dict[str, Any], name: str, place: str) -> int | None:
    value = item.get(name, defaults.get(f"default_{name}"))
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise MalformedRecordError(f"{name} is no count: {str(value)[:40]!r}", subject=place, hint=_HINT)
    return value
