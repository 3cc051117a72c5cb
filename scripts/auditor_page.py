"""Write docs/verify.html from auditor/ and schemas/, or with --check fail if it is not current.

One file without any reference to another: scripts and styles are put in, and the page's security policy allows
exactly these two by their SHA-256 and no connection at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "verify.html"
SCRIPTS = ("bytes", "strictjson", "schema", "keys", "dsse", "ledger", "bundle", "archive", "verify", "ui")
KINDS = ("attestation", "plan", "endorsement", "bundle")
ANNOTATIONS = {"title", "description", "default", "$id", "$schema"}


def bare(schema: Any, *, names: bool = False) -> Any:  # noqa: ANN401 - a JSON value
    """A schema without its annotations. ``names``: the keys are members' names, not keywords."""
    if isinstance(schema, dict):
        kept = {key: value for key, value in schema.items() if names or key not in ANNOTATIONS}
        return {key: bare(value, names=not names and key in ("properties", "$defs")) for key, value in kept.items()}
    return [bare(item) for item in schema] if isinstance(schema, list) else schema


def source(text: str) -> str:
    """What a policy names an inline script or style by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def render() -> str:
    """The page."""
    folder = ROOT / "auditor"
    schemas = {
        kind: bare(json.loads((ROOT / "schemas" / f"{kind}.schema.json").read_text(encoding="utf-8")))
        for kind in KINDS
    }
    parts = [(folder / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    data = json.dumps(schemas, sort_keys=True, separators=(",", ":"))
    code = f"const SCHEMAS = {data};\n" + "\n".join(parts)
    version = hashlib.sha256(code.encode()).hexdigest()[:16]
    script = f'"use strict";\n(() => {{\nconst VERSION = "{version}";\n{code}}})();\n'
    if "</script" in script.lower():
        raise ValueError("a script may not hold its own end")
    style = (folder / "style.css").read_text(encoding="utf-8")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {source(script)}",
            f"style-src {source(style)}",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )
    filled = {"policy": policy, "style": style, "script": script}
    template = (folder / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], template)


def main() -> int:
    """Returns 0 if the page is (now) current."""
    page = render()
    if "--check" not in sys.argv:
        PAGE.write_text(page, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page:
        print("docs/verify.html is not current; run scripts/auditor_page.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
