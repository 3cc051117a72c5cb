"""All published JSON Schemas by name: signed statements, the pack manifest, the public matrix. Light."""

from __future__ import annotations

from typing import Any

from ucaudit.core.records.schema import DIALECT, schema_names, statement_schema


def all_schemas() -> dict[str, dict[str, Any]]:
    """Name → JSON Schema (2020-12). ``schemas/NAME.schema.json`` holds the same."""
    from ucaudit.core.records.benchmarks import SCHEMA_URI, Benchmarks
    from ucaudit.packs.manifest import UcqManifest

    result = {name: statement_schema(name) for name in schema_names()}
    manifest = UcqManifest.model_json_schema(by_alias=True, mode="serialization")
    result["pack-manifest"] = {"$schema": DIALECT, "$id": "urn:ucaudit:schema:pack-manifest:v1", **manifest}
    matrix = Benchmarks.model_json_schema(by_alias=True, mode="serialization")
    result["benchmarks"] = {"$schema": DIALECT, "$id": SCHEMA_URI, **matrix}
    return result
