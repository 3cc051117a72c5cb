"""JSON Schemas of everything signed, for people who read records without this library."""

from __future__ import annotations

import json
from typing import Any

from ucaudit.core.records.base import Record
from ucaudit.core.records.statement import PREDICATES, STATEMENT_TYPE

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_names() -> tuple[str, ...]:
    """The schemas there are: one a predicate."""
    return tuple(uri.split(":")[3] for uri in PREDICATES)


def statement_schema(name: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of the signed payload with predicate ``name``. Raises KeyError."""
    uri, model = {uri.split(":")[3]: (uri, model) for uri, model in PREDICATES.items()}[name]
    predicate = model.model_json_schema(by_alias=True, mode="serialization")
    definitions = predicate.pop("$defs", {})
    definitions[model.__name__] = predicate
    digest = {"type": "object", "properties": {"sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"}}}
    return {
        "$schema": DIALECT,
        "$id": f"{uri}:statement",
        "title": f"in-toto statement with a ucaudit {name} predicate",
        "type": "object",
        "required": ["_type", "subject", "predicateType", "predicate"],
        "additionalProperties": False,
        "properties": {
            "_type": {"const": STATEMENT_TYPE},
            "subject": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "required": ["name", "digest"],
                    "additionalProperties": False,
                    "properties": {
                        "name": {"type": "string"},
                        "digest": {**digest, "required": ["sha256"], "additionalProperties": False},
                    },
                },
            },
            "predicateType": {"const": uri},
            "predicate": {"$ref": f"#/$defs/{model.__name__}"},
        },
        "$defs": definitions,
    }


def render(document: dict[str, Any]) -> str:
    """A schema as its file's text."""
    return json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def model_schema(model: type[Record], uri: str) -> dict[str, Any]:
    """The JSON Schema of a model that is not a predicate."""
    return {"$schema": DIALECT, "$id": uri, **model.model_json_schema(by_alias=True, mode="serialization")}
