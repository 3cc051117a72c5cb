"""``ucaudit merge``: one measurement from the shares that several machines made of it."""

from __future__ import annotations

from pathlib import Path

import click

from ucaudit.cli.common import Output, output_options
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_PASS


@click.command()
@click.argument("shares", nargs=-1, required=True, type=PATH)
@click.option("--out", "directory", type=PATH, required=True, help="Where the values go.")
@output_options
def merge(shares: tuple[Path, ...], directory: Path, out: Output) -> int:
    """Join SHARES, the outputs of `ucaudit measure --windows A:B`, into one measurement.

    They must be shares of one draw, measured in the same way; what differs is
    named. Nothing may be missing, overlap or have been edited. The outcome is, to
    the byte, what one machine of the same kind would have written.
    """
    from ucaudit.cli.cmd_measure import results_text
    from ucaudit.lab.merge import merge as run

    results, document = run(shares, directory)
    out.result({**document, "directory": str(directory)}, results_text(results, directory))
    return EXIT_PASS
