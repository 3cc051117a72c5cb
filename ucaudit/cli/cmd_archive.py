"""``ucaudit archive``: a bundle as one file."""

from __future__ import annotations

from pathlib import Path

import click

from ucaudit.cli.common import Output, output_options
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_PASS


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--out", "target", type=PATH, required=True, help="The .zip to write.")
@output_options
def archive(bundle: Path, target: Path, out: Output) -> int:
    """Write a BUNDLE's files as one .zip, to send it or to keep it.

    The same bundle always gives the same bytes: nothing is compressed, and no
    time is kept. verify, bound, gate and report read the .zip as they read the
    directory. Nothing is judged here.
    """
    from ucaudit.cli.common import new_file
    from ucaudit.core.digest import sha256_file
    from ucaudit.core.files import require_writable_directory
    from ucaudit.evidence.archive import SUFFIX, write_archive
    from ucaudit.evidence.bundle import open_bundle

    if target.suffix.lower() != SUFFIX:
        raise click.UsageError(f"--out ends in {SUFFIX}, found {target.name!r}")
    new_file(target)
    require_writable_directory(target.parent)
    opened = open_bundle(bundle)
    write_archive(opened, target)
    document = {
        "path": str(target),
        "files": len(opened.files),
        "sha256": sha256_file(target),
        "exitCode": EXIT_PASS,
    }
    out.result(document, str(target))
    return EXIT_PASS
