"""``ucaudit pack``: the encoder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from ucaudit.cli.common import Output, compute_options, output_options, prepare_compute, table
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_PASS, DeviceUnavailableError


def _number(_: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Not a number is in no range, and click lets it pass every one."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is not a number", param=parameter)
    return value


@click.command()
@click.argument("model", type=PATH)
@click.option("--out", "directory", type=PATH, required=True, help="Pack directory to make.")
@click.option("--bits", type=click.IntRange(2, 8), default=5, show_default=True, help="Bits of one code.")
@click.option(
    "--budget",
    type=click.FloatRange(2, 9),
    callback=_number,
    help="Bits a weight on disk, on average, instead of --bits: more where an error is felt more.",
)
@click.option("--group", type=click.IntRange(8, 1024), default=64, show_default=True, help="Columns a scale.")
@click.option("--rank", type=click.IntRange(0, 1040), default=16, show_default=True, help="Rank of the overlay.")
@click.option("--calibration", type=PATH, help="Text to calibrate on.")
@click.option("--seed", type=int, default=42, show_default=True, help="Of the draw of calibration sequences.")
@click.option(
    "--sequences", type=click.IntRange(4), default=128, show_default=True, help="Of the text, drawn by seed."
)
@click.option("--seq-len", type=click.IntRange(2), default=256, show_default=True, help="Tokens of a sequence.")
@click.option("--steps", type=click.IntRange(0), default=0, show_default=True, help="Training steps a layer.")
@click.option(
    "--kl-weight",
    type=click.FloatRange(0, 1e6),
    callback=_number,
    default=0.0,
    show_default=True,
    help="Weight of the output's divergence in training; holds the whole model in memory.",
)
@click.option("--dry-run", is_flag=True, help="Print size, bits a weight and expected time, and stop.")
@compute_options
@output_options
def pack(
    model: Path,
    directory: Path,
    bits: int,
    budget: float | None,
    group: int,
    rank: int,
    calibration: Path | None,
    seed: int,
    sequences: int,
    seq_len: int,
    steps: int,
    kl_weight: float,
    dry_run: bool,
    device: str,
    threads: int | None,
    out: Output,
) -> int:
    """Compress the bf16 checkpoint MODEL to an open pack whose bits decode the
    same everywhere.

    Prints the state digest: what every decoder must reconstruct.
    """
    chosen = click.get_current_context().get_parameter_source("bits")
    if budget is not None and chosen is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError("--budget finds each weight's bits: leave --bits out")
    if budget is not None and calibration is None:
        raise click.UsageError("--budget needs a text to weigh errors on: --calibration")
    if kl_weight and not steps:
        raise click.UsageError("--kl-weight has no effect without --steps")
    if steps and calibration is None:
        raise click.UsageError("--steps needs a text to train on: --calibration")
    if prepare_compute("cpu" if device == "auto" else device, threads) != "cpu":
        raise DeviceUnavailableError("the encoder runs on cpu only", subject=device, hint="--device cpu")
    from ucaudit.core.files import require_outside
    from ucaudit.lab.compress import Settings, compress, estimate
    from ucaudit.lab.compress_run import require_place
    from ucaudit.lab.compress_tensors import TensorSettings
    from ucaudit.packs.codecs import open_source

    require_place(directory)
    require_outside(directory, model)
    settings = Settings(
        TensorSettings(bits=bits, group=group, rank=rank),
        seed=seed,
        sequences=sequences,
        seq_len=seq_len,
        steps=steps,
        kl_weight=kl_weight,
        budget=budget,
    )
    with open_source(model) as source:
        if dry_run:
            expected = estimate(source, settings, calibrated=calibration is not None)
            figures: dict[str, Any] = {
                "bitsPerWeightCompressed": round(expected.bits_per_weight, 4),
                "compressedParameters": expected.compressed,
                "parameters": expected.parameters,
                "bytes": expected.tensor_bytes,
                "seconds": round(expected.seconds),
            }
            out.status("an estimate: name and shape tell which weights are compressed, packing sees what layers do")
            out.result(
                {"dryRun": True, **figures}, table([(name, f"{value:,}") for name, value in figures.items()])
            )
            return EXIT_PASS
        if calibration is None:
            out.warn("without --calibration weights are rounded one by one: expect a larger loss")
        files = source.pack.file_manifest().digest
        made = compress(
            source, directory, settings, calibration=calibration, source_digest=files, progress=out.progress
        )
    bits_per_weight = made.manifest.bits_per_weight
    document = {
        "pack": str(directory),
        "stateDigest": made.state.digest,
        "bitsPerWeight": bits_per_weight.model_dump(by_alias=True),
        "compressedParameters": made.manifest.compressed_parameters,
        "parameters": made.manifest.parameters,
    }
    if bits_per_weight.compressed_on_disk is not None:
        nominal = f"{bits} nominal" if budget is None else f"{budget:g} allowed"
        out.status(
            f"bits a weight: {nominal}, {bits_per_weight.compressed_on_disk:.3f} on disk for the compressed "
            f"weights, {bits_per_weight.whole_on_disk:.3f} for the whole model"
        )
    out.result(document, made.state.digest)
    return EXIT_PASS
