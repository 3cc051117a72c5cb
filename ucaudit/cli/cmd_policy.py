"""``ucaudit policy``: write one, explain one."""

from __future__ import annotations

import textwrap
from pathlib import Path

import click

from ucaudit.cli.common import Output, output_options
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_FAIL, EXIT_PASS, RefusedError


@click.group()
def policy() -> None:
    """Write a commented policy, or explain one."""


@policy.command("init")
@click.option("--out", "path", type=PATH, default=Path("policy.toml"), show_default=True)
@click.option("--profile", type=click.Choice(["soc2", "sr-11-7", "fda"]), default="soc2", show_default=True)
@output_options
def init(path: Path, profile: str, out: Output) -> int:
    """Write a commented policy to fill in."""
    from ucaudit.core.files import write_text
    from ucaudit.evidence.policy import template

    if path.exists():
        raise RefusedError(
            "exists already and is never overwritten", subject=str(path), hint="choose another --out"
        )
    write_text(path, template(profile))
    out.result({"policy": str(path), "profile": profile}, str(path))
    return EXIT_PASS


@policy.command("check")
@click.argument("paths", metavar="POLICY...", nargs=-1, required=True, type=PATH)
@click.option("--strict", is_flag=True, help="Exit 1 if there is a warning.")
@output_options
def check(paths: tuple[Path, ...], strict: bool, out: Output) -> int:
    """Explain a policy in sentences and warn of settings that defeat themselves."""
    from ucaudit.evidence.explained import explain
    from ucaudit.evidence.policy import load_policy
    from ucaudit.evidence.weak_policy import warnings
    from ucaudit.packs.codecs import available

    parts, documents, found = [], [], 0
    for path in paths:
        loaded = load_policy(path)
        sentences, concerns = explain(loaded.policy), warnings(loaded.policy, codecs=available())
        found += len(concerns)
        lines = [*sentences, *(f"warning: {item}" for item in concerns)]
        filled = [textwrap.fill(line, 78, subsequent_indent="  ", break_on_hyphens=False) for line in lines]
        parts.append("\n".join([f"{path}:", *filled] if len(paths) > 1 else filled))
        documents.append(
            {"policy": str(path), "sha256": loaded.sha256, "sentences": sentences, "warnings": concerns}
        )
    code = EXIT_FAIL if strict and found else EXIT_PASS
    document = documents[0] if len(documents) == 1 else {"policies": documents}
    out.result(document, "\n\n".join(parts), code=code)
    return code
