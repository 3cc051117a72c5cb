"""``ucaudit pull``: a pack or model from a Hugging Face hub, at a commit that is written down."""

from __future__ import annotations

from pathlib import Path

import click

from ucaudit.cli.common import Output, output_options
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_PASS


@click.command()
@click.argument("repository", metavar="REPO[@REVISION]")
@click.option("--out", "target", required=True, type=PATH, help="The new directory.")
@click.option("--include", multiple=True, metavar="PATTERN", help="Fetch only such paths; may be repeated.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave such paths out; may be repeated.")
@click.option("--endpoint", help="Another hub's address; else HF_ENDPOINT, else the public hub.")
@output_options
def pull(
    repository: str,
    target: Path,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    endpoint: str | None,
    out: Output,
) -> int:
    """Fetch a pack or model from the Hugging Face hub.

    The only command that touches the network. REVISION (a branch, tag or
    commit) is resolved to a commit, all files are fetched at it and checked
    against what the hub states, and DIR.pulled.json beside the directory says
    which commit it was and what each file's SHA-256 is. An interrupted run goes
    on where it stopped.
    """
    from ucaudit.interop.hub import pull as fetch

    name, _, revision = repository.partition("@")
    done = fetch(
        name,
        revision or None,
        target,
        include=include,
        exclude=exclude,
        endpoint=endpoint,
        progress=out.progress,
    )
    document = {
        "out": str(done.directory),
        "commit": done.commit,
        "record": str(done.record),
        "partial": done.partial,
        "files": len(done.files),
    }
    out.result(document, f"{done.directory}\ncommit {done.commit}", code=EXIT_PASS)
    if done.partial:
        out.status("partial: files of the repository were left out, as recorded")
    return EXIT_PASS
