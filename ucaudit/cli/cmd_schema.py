"""``ucaudit schema``: the JSON Schemas."""

from __future__ import annotations

import click

from ucaudit.cli.common import Output, output_options
from ucaudit.core.errors import EXIT_PASS


@click.command()
@click.argument("name", required=False)
@output_options
def schema(name: str | None, out: Output) -> int:
    """Print the JSON Schema called NAME; without NAME, list the names."""
    import json

    from ucaudit.packs.schemas import all_schemas

    schemas = all_schemas()
    if name is None:
        out.result({"schemas": sorted(schemas)}, "\n".join(sorted(schemas)))
        return EXIT_PASS
    if name not in schemas:
        raise click.UsageError(f"no schema {name!r}; there are {', '.join(sorted(schemas))}")
    shown = json.dumps(schemas[name], indent=2, ensure_ascii=False, sort_keys=True)
    out.result(schemas[name], shown, code=None)
    return EXIT_PASS
