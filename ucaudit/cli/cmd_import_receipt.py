"""``ucaudit import-receipt``: a vendor's unsigned receipt, computed again from the pack. Light."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from ucaudit.cli.common import Output, output_options, printable, table
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_FAIL, EXIT_PASS, DigestMismatchError


@click.command("import-receipt")
@click.argument("receipt", type=PATH)
@click.option("--pack", required=True, type=PATH, help="The pack the receipt is about.")
@output_options
def import_receipt(receipt: Path, pack: Path, out: Output) -> int:
    """Recompute a vendor's audit RECEIPT from its pack.

    Prints each field as 'matches', 'contradicts' or 'not covered'. A receipt is
    unsigned: one that matches says no more than the files themselves do. Exits
    1 if a field is contradicted.
    """
    from ucaudit.interop.receipts import compare_receipt, read_receipt
    from ucaudit.packs.opened import open_pack
    from ucaudit.packs.vendor import read_vendor_pack

    said = read_receipt(receipt)
    with open_pack(pack) as opened:
        progress = out.progress
        progress.start(opened.total_bytes, "bytes", "hashing the pack")
        files = opened.file_manifest(progress=progress.advance)
        progress.finish()
        rows = compare_receipt(said, opened, read_vendor_pack(opened, files), files)
    counts = Counter(row.answer for row in rows)
    code = EXIT_FAIL if counts["contradicts"] else EXIT_PASS
    document = {
        "receipt": receipt.name,
        "pack": pack.name,
        "matches": counts["matches"],
        "contradicts": counts["contradicts"],
        "notCovered": counts["not covered"],
        "fields": [
            {"field": row.field, "said": row.said, "found": row.found, "answer": row.answer} for row in rows
        ],
    }
    lines = table(
        [
            (
                row.answer,
                printable(row.field),
                _short(row.said, row.found, contradicted=row.answer == "contradicts"),
            )
            for row in rows
        ],
        header=("answer", "field", "receipt says"),
    )
    summary = ", ".join(f"{counts[answer]} {answer}" for answer in ("matches", "contradicts", "not covered"))
    out.result(document, f"{lines}\n\n{summary}", code=code)
    if code:
        first = next(row for row in rows if row.answer == "contradicts")
        out.finding(
            DigestMismatchError(
                f"{first.field}: the receipt says {first.said}, found {first.found}",
                subject=receipt.name,
                hint="the receipt is of another pack, or the pack was changed after it was made",
            )
        )
    return code


def _short(said: str, found: str, contradicted: bool) -> str:
    width = 12 if contradicted else 24
    first, second = (text if len(text) <= width else f"{text[: width - 1]}…" for text in (said, found))
    return printable(f"{first}, found {second}" if contradicted else first)
