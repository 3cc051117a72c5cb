"""Write schemas/*.schema.json from the models, or with --check fail if they are not current."""

from __future__ import annotations

import sys
from pathlib import Path

from ucaudit.core.records.schema import render
from ucaudit.packs.schemas import all_schemas


def main() -> int:
    """Returns 0 if the files are (now) current."""
    folder = Path(__file__).resolve().parent.parent / "schemas"
    wanted = {f"{name}.schema.json": render(schema) for name, schema in all_schemas().items()}
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.schema.json")}
    if found == wanted:
        return 0
    if "--check" in sys.argv:
        stale = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        print(f"schemas are not current: {', '.join(stale)}; run scripts/schemas.py", file=sys.stderr)
        return 1
    for name in found.keys() - wanted.keys():
        (folder / name).unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
