"""``ucaudit floor``: a floor protocol from its file to its bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ucaudit.cli.common import (
    Output,
    compute_options,
    key_options,
    key_password,
    output_options,
    prepare_compute,
    table,
)
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_PASS, DeviceUnavailableError

if TYPE_CHECKING:
    from ucaudit.core.records import Floor


@click.command()
@click.argument("protocol", type=PATH)
@click.option("--out", "bundle", type=PATH, required=True, help="Bundle directory to make.")
@click.option("--ledger", "ledger_dir", type=PATH, required=True, help="The ledger.")
@click.option("--ledger-key", help="The ledger's key, if it is another one than --key.")
@click.option("--work", type=PATH, help="Keep finished stages here, for other protocols too.")
@click.option("--drop-packs", is_flag=True, help="Keep one pack at a time; a winner is encoded again.")
@click.option("--dry-run", is_flag=True, help="Check everything, estimate time and disk, and stop.")
@key_options
@compute_options
@output_options
def floor(
    protocol: Path,
    bundle: Path,
    ledger_dir: Path,
    ledger_key: str | None,
    work: Path | None,
    drop_packs: bool,
    dry_run: bool,
    key: str,
    password_file: Path | None,
    device: str,
    threads: int | None,
    out: Output,
) -> int:
    """Carry out the floor protocol in PROTOCOL.toml.

    Commits the plan to the ledger, then encodes the baseline and every declared
    change of the encoder with several seeds each, measures all of them on the same
    windows, and gives one verdict. An attempt that wins is measured again, on fresh
    windows. The same command goes on where it was interrupted.

    Exits 0 if the floor is supported, 1 if it is refuted, 5 if the data decides
    nothing. The bundle is written in all three cases.
    """
    from ucaudit.evidence.floors.protocol import load_protocol
    from ucaudit.evidence.keys import load_signer

    loaded = load_protocol(protocol)
    signer = load_signer(key, password=key_password(key, password_file))
    ledger_signer = load_signer(ledger_key, password=key_password(ledger_key, None)) if ledger_key else None
    if prepare_compute("cpu" if device == "auto" else device, threads) != "cpu":
        raise DeviceUnavailableError("the encoder runs on cpu only", subject=device, hint="--device cpu")
    from ucaudit.cli.floor_text import EXITS, floor_document, floor_lines, published_lines
    from ucaudit.lab.floor import FloorRequest, run_floor
    from ucaudit.lab.floor_preflight import figures, floor_preflight

    request = FloorRequest(
        protocol=loaded,
        signer=signer,
        out=bundle,
        ledger=ledger_dir,
        ledger_signer=ledger_signer,
        given_work=work,
        drop_packs=drop_packs,
        threads=threads,
        render=_render,
    )
    if dry_run:
        found = figures(request, floor_preflight(request))
        text = table([(name, f"{value}") for name, value in found.items()])
        out.result({"dryRun": True, **found, "exitCode": EXIT_PASS}, text)
        return EXIT_PASS
    outcome = run_floor(request, progress=out.progress)
    record = outcome.record
    code = EXITS[record.results.verdict]
    document = {
        "determination": record.determination,
        "bundle": str(outcome.bundle),
        "envelopeDigest": outcome.envelope_digest,
        "ledgerIndex": outcome.ledger_index,
        "planIndex": record.plan.ledger_index,
        **floor_document(record.results, record.published),
        "exitCode": code,
    }
    lines = [*floor_lines(record), *published_lines(record, record.published)]
    out.result(document, "\n".join([*lines, f"bundle         {outcome.bundle}"]))
    return code


def _render(record: Floor) -> Mapping[str, bytes]:
    from ucaudit.evidence.bundle import report_name
    from ucaudit.report.forest import forest_plot

    svg = forest_plot(record).svg or ""
    # On its own, without the report's fonts, another sans-serif does.
    alone = svg.replace("font-family=\"'IBM Plex Sans'\"", "font-family=\"'IBM Plex Sans', sans-serif\"")
    return {report_name("forest", "svg"): alone.encode("utf-8")}
