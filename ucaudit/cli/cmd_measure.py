"""``ucaudit measure``: a pack's perplexity against its reference's, on the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ucaudit.cli.common import Output, compute_options, output_options, overlap_options, prepare_compute, table
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_PASS

if TYPE_CHECKING:
    from ucaudit.core.records import Interval, Results


@click.command()
@click.argument("pack", type=PATH)
@click.option("--reference", type=PATH, required=True, help="The uncompressed model.")
@click.option(
    "--corpus",
    type=PATH,
    required=True,
    help="Evaluation text: UTF-8, .jsonl or .parquet.",
)
@click.option("--text-column", metavar="NAME", help="Column of a .jsonl or .parquet text  [default: text]")
@click.option("--rows", metavar="A:B", help="Rows of a .jsonl or .parquet text; -K: for the last K.")
@click.option("--n", type=click.IntRange(min=2), default=50, show_default=True, help="Windows to draw.")
@click.option("--seq-len", type=click.IntRange(min=2), default=1024, show_default=True, help="Tokens a window.")
@click.option("--seed", type=int, default=42, show_default=True, help="Of the draw.")
@click.option("--dtype", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option(
    "--memory",
    type=click.FloatRange(min=0, min_open=True),
    help="Gigabytes that may be used, on the device; by default what is free. Models that do not fit are run "
    "layer by layer.",
)
@overlap_options
@click.option("--windows", "share", metavar="A:B", help="Measure a share: the A-th up to the B-th drawn window.")
@click.option("--out", "directory", type=PATH, required=True, help="Where the values go.")
@compute_options
@output_options
def measure(
    pack: Path,
    reference: Path,
    corpus: Path,
    text_column: str | None,
    rows: str | None,
    calibration: Path | None,
    n: int,
    seq_len: int,
    seed: int,
    dtype: str,
    allow_overlap: bool,
    memory: float | None,
    share: str | None,
    directory: Path,
    device: str,
    threads: int | None,
    out: Output,
) -> int:
    """Measure PACK's perplexity against --reference on the same tokens of a text.

    Writes the values of every token (no text), and measurement.json. Interrupted,
    it keeps the finished windows; the same command goes on from there. With
    --windows it measures a share of the draw; `ucaudit merge` joins the shares.
    """
    device = prepare_compute(device, threads)
    from ucaudit.core.files import remove_empty, require_outside
    from ucaudit.lab.corpus import load_corpus
    from ucaudit.lab.measure import measure as run
    from ucaudit.lab.measure import prepare_output, write_measurement
    from ucaudit.lab.measure_memory import choose_execution
    from ucaudit.lab.measure_plan import plan_measurement
    from ucaudit.packs.codecs import open_source

    require_outside(directory, pack, reference)
    state = prepare_output(directory)
    text = load_corpus(corpus, column=text_column, rows=rows)
    with open_source(pack) as source, open_source(reference) as original:
        plan = plan_measurement(
            *(source, original, text),
            n=n,
            seq_len=seq_len,
            seed=seed,
            dtype=dtype,
            allow_overlap=allow_overlap,
            calibration=calibration,
            share=share,
        )
        budget = None if memory is None else int(memory * 1e9)
        execution = choose_execution(plan.memory, device, budget=budget)
        out.status(
            f"{plan.windows.n} of {plan.windows.available} windows of {seq_len} tokens, about "
            f"{execution.memory_bytes / 1e9:.1f} GB and {plan.seconds(device):.0f} s, {execution}"
        )
        try:
            measured = run(
                source,
                original,
                text,
                n=n,
                seq_len=seq_len,
                seed=seed,
                dtype=dtype,
                device=device,
                threads=threads,
                state_dir=state,
                progress=out.progress,
                allow_overlap=allow_overlap,
                memory_bytes=budget,
                calibration=calibration,
                share=share,
            )
        except BaseException:
            remove_empty(directory)  # what failed before the first window leaves nothing behind
            raise
        results, document = write_measurement(measured, directory)
    if results is None:
        shown = (
            f"{plan.windows.n} of {n} windows in {directory}; join all shares with: ucaudit merge DIR… --out DIR"
        )
    else:
        shown = results_text(results, directory)
    out.result({**document, "directory": str(directory)}, shown)
    return EXIT_PASS


def results_text(results: Results, directory: Path) -> str:
    """The figures of a measurement, as ``measure`` and ``merge`` print them."""
    rows = [
        ("perplexity ratio", _interval(results.ratio, 5)),
        ("  bootstrap-t", _interval(results.ratio_bootstrap, 5)),
        ("perplexity", f"reference {results.ppl_reference:.4f}, pack {results.ppl_pack:.4f}"),
        ("KL divergence", f"{_interval(results.kl, 6)} nats a token"),
        ("top-1 agreement", _interval(results.top1, 4)),
        ("windows, tokens", f"{results.windows:,}, {results.tokens:,}"),
        ("values", str(directory)),
    ]
    return table([(name, value) for name, value in rows])


def _interval(interval: Interval, digits: int) -> str:
    return (
        f"{interval.estimate:.{digits}f}  ({interval.confidence:.0%} interval "
        f"{interval.lower:.{digits}f} to {interval.upper:.{digits}f})"
    )
