"""Codecs side by side: what each makes of the same models, on the same text, with the same statistic.

    python benchmarks/codecs.py [--models dense moe mamba] [--bits 5 4 3] [--windows 60] [--no-ggml]
                                [--only ROWS] [--checkpoint DIR --calibration TEXT --corpus TEXT [--permute]]

Prints one Markdown table a model: bits a weight on disk of the compressed matrices (scales, levels and overlays
counted), what the same setting takes at 4096 × 4096 (with the rank in proportion to the width, in brackets), the
perplexity ratio and the mean KL divergence with their 95% intervals, and seconds to encode.

``rounding``: nearest, one scale a group of 64. ``Q5_0``, ``Q5_K`` …: llama.cpp's own quantiser, built from the
source in the PyPI package llama-cpp-python; ``imatrix``: with the mean squares of the calibration text's inputs.
``GPTQ``: error feedback on a symmetric uniform grid, groups of 64, most active columns first (the published recipe,
run by this project's pipeline). ``ucq``: ``ucaudit pack``; ``budget``: with bits shared out by sensitivity. All
decode to bfloat16, and compress the same matrices.

``--checkpoint`` measures another Llama-like model than the fixtures; ``--permute`` mixes its hidden and
feed-forward channels first, which leaves its function as it is and breaks up a grid that its weights came with.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as on the command line; read once, when torch is loaded

import torch
from safetensors import safe_open
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "fixtures"), str(ROOT / "tests"), str(ROOT / "benchmarks")]

from ggml_quants import Ggml, build  # noqa: E402 - after the path is set
from measure_models import figures  # noqa: E402
from rounding import is_rounded, plain_rounding  # noqa: E402

from ucaudit.lab import compress_tensors  # noqa: E402
from ucaudit.lab.compress import Settings, compress  # noqa: E402
from ucaudit.lab.compress_quantise import Grid  # noqa: E402
from ucaudit.lab.compress_tensors import Inputs, TensorSettings  # noqa: E402
from ucaudit.lab.measure import measure  # noqa: E402
from ucaudit.packs.codecs import open_source  # noqa: E402

SEQ_LEN, SEED, GROUP = 256, 42, 64
LARGE = 4096
K_QUANTS = {5: ("Q5_0", "Q5_K"), 4: ("Q4_0", "Q4_K"), 3: ("Q3_K",)}
K_BITS = {"Q5_0": 5.5, "Q5_K": 5.5, "Q4_0": 4.5, "Q4_K": 4.5, "Q3_K": 3.4375}


@dataclass(frozen=True)
class Bench:
    """A model, its texts, and where its packs may lie."""

    model: Path
    calibration: Path
    corpus: Path
    windows: int
    work: Path
    only: re.Pattern[str] | None = None

    def measured(self, pack: Path) -> dict[str, list[float]]:
        """Ratio, KL and top-1 with their intervals."""
        with open_source(pack) as candidate, open_source(self.model) as reference:
            found = measure(
                candidate,
                reference,
                self.corpus,
                n=self.windows,
                seq_len=SEQ_LEN,
                seed=SEED,
                state_dir=self.work / "state",
            )
        shutil.rmtree(self.work / "state", ignore_errors=True)
        return figures(found)

    def row(self, name: str, at_large: str, make: Callable[[Path], float]) -> None:
        """Make a pack, measure it, print its row, and drop it. ``make`` returns the bits a weight on disk."""
        if self.only is not None and self.only.search(name) is None:
            return
        out = self.work / "pack"
        shutil.rmtree(out, ignore_errors=True)
        began = time.monotonic()
        bits = make(out)
        seconds = time.monotonic() - began
        found = self.measured(out)
        ratio, kl = found["ratio"], found["meanKl"]
        print(
            f"| {name} | {bits:.3f} | {at_large} | {ratio[0]:.5f} | {ratio[1]:.5f} – {ratio[2]:.5f} "
            f"| {kl[0]:.5f} | {kl[1]:.5f} – {kl[2]:.5f} | {seconds:.0f} |",
            flush=True,
        )


def at_large(settings: TensorSettings, width: int) -> str:
    """Bits a weight at 4096 × 4096 for a setting used at ``width``, its rank scaled alike."""
    rank = round(settings.rank * LARGE / width)
    bits = replace(settings, rank=rank).bits_on_disk(LARGE, LARGE)
    return f"{bits:.3f}" + f" ({rank})" * bool(rank)


def rewritten(model: Path, out: Path, change: Callable[[str, torch.Tensor], tuple[torch.Tensor, float]]) -> float:
    """A copy of a one-file checkpoint with its compressible matrices changed.

    ``change(name, weight)`` returns the new weight and the bits it takes; returned are the bits a weight over all.
    """
    out.mkdir(parents=True)
    tensors, bits, count = {}, 0.0, 0
    with safe_open(model / "model.safetensors", "pt") as source:
        for name in sorted(source.keys()):  # not a dictionary
            tensor = source.get_tensor(name)
            if is_rounded(name, tensor.shape):
                changed, taken = change(name, tensor)
                tensor = changed.to(torch.bfloat16)
                bits, count = bits + taken, count + tensor.numel()
            tensors[name] = tensor.contiguous()
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    for path in model.glob("*.json"):
        if path.name not in {"training.json", "manifest.json"}:
            shutil.copyfile(path, out / path.name)
    return bits / count


def rounding(model: Path, bits: int, out: Path) -> float:
    """Nearest, with one scale a group."""

    def change(_: str, weight: torch.Tensor) -> tuple[torch.Tensor, float]:
        groups = -(-weight.shape[1] // GROUP)
        return plain_rounding(weight, bits, GROUP), bits * weight.numel() + 16 * weight.shape[0] * groups

    return rewritten(model, out, change)


def with_ggml(model: Path, ggml: Ggml, kind: str, importance: dict[str, torch.Tensor] | None, out: Path) -> float:
    """llama.cpp's quantiser."""

    def change(name: str, weight: torch.Tensor) -> tuple[torch.Tensor, float]:
        result, size, _ = ggml.round_trip(weight, kind, None if importance is None else importance.get(name))
        return result, 8.0 * size

    return rewritten(model, out, change)


def encoded(bench: Bench, settings: Settings, out: Path) -> float:
    """``ucaudit pack``."""
    with open_source(bench.model) as source:
        made = compress(source, out, settings, calibration=bench.calibration)
    return float(made.manifest.bits_per_weight.compressed_on_disk or 0)


@contextmanager
def published_gptq() -> Iterator[None]:
    """The encoder restricted to GPTQ's grid: uniform, symmetric, the scale that covers a group's largest weight."""

    def uniform(_: torch.Tensor, __: torch.Tensor, bits: int, ___: int) -> Grid:
        half = 1 << (bits - 1)
        return Grid.of(torch.arange(-half, half, dtype=torch.int8))

    def covering(weight: torch.Tensor, _: torch.Tensor, grid: Grid, group: int) -> torch.Tensor:
        padded = torch.nn.functional.pad(weight, (0, -weight.shape[1] % group))
        largest = padded.view(len(weight), -1, group).abs().amax(-1)
        return (largest * 2 / (len(grid.levels) - 1)).half()

    def as_they_are(_: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, *__: object) -> object:
        return codes, scales

    with (
        mock.patch.object(compress_tensors, "fit_grid", uniform),
        mock.patch.object(compress_tensors, "fit_scales", covering),
        mock.patch.object(compress_tensors, "refine", as_they_are),
    ):
        yield


def input_squares(bench: Bench) -> dict[str, torch.Tensor]:
    """Mean squares of each matrix's inputs, as the encoder sees them at eight bits."""
    found: dict[str, torch.Tensor] = {}
    encode = compress_tensors.encode_weights

    def noting(weights, inputs: Inputs | None, settings, **options):  # noqa: ANN001, ANN003, ANN202
        if inputs is not None:
            found.update(dict.fromkeys(weights, inputs.moment.diagonal().clone()))
        return encode(weights, inputs, settings, **options)

    with mock.patch("ucaudit.lab.compress_layer.encode_weights", noting), tempfile.TemporaryDirectory() as folder:
        encoded(bench, Settings(TensorSettings(bits=8, rank=0)), Path(folder) / "pack")
    return found


def permuted(model: Path, out: Path) -> Path:
    """A Llama-like one-file checkpoint with its hidden and feed-forward channels in random order."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    generator = torch.Generator().manual_seed(SEED)
    hidden = torch.randperm(config["hidden_size"], generator=generator)
    out.mkdir(parents=True)
    with safe_open(model / "model.safetensors", "pt") as source:
        tensors = {name: source.get_tensor(name) for name in source.keys()}  # noqa: SIM118
    wide = {
        layer: torch.randperm(config["intermediate_size"], generator=generator)
        for layer in range(config["num_hidden_layers"])
    }
    for name, tensor in tensors.items():
        writes = name.endswith(("o_proj.weight", "down_proj.weight", "norm.weight"))
        mixed = tensor[hidden] if writes else tensor[:, hidden]
        if ".mlp." in name:
            order = wide[int(name.split(".")[2])]
            mixed = mixed[:, order] if "down_proj" in name else mixed[order]
        tensors[name] = mixed.contiguous()
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    for path in model.glob("*.json"):
        shutil.copyfile(path, out / path.name)
    return out


def table(
    title: str,
    bench: Bench,
    bits: list[int],
    ranks: list[int],
    steps: list[int],
    budgets: list[float] | None,
    ggml: Ggml | None,
) -> None:
    """Print one model's table."""
    print(f"\n### {title}\n")
    print("| codec | bits on disk | at 4096² | ratio | 95% | mean KL, nats | 95% | encode, s |")
    print("|---|---|---|---|---|---|---|---|")
    width = json.loads((bench.model / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    squares = input_squares(bench) if ggml is not None else None
    for count in bits:
        plain = f"{count + 16 / GROUP:.3f}"
        bench.row(f"rounding {count}", plain, lambda out, count=count: rounding(bench.model, count, out))
        if ggml is not None:
            for kind in K_QUANTS.get(count, ()):
                for suffix, importance in (("", None), (", imatrix", squares)):
                    if suffix and not kind.endswith("K"):
                        continue
                    bench.row(
                        kind + suffix,
                        f"{K_BITS[kind]:.3f}",
                        lambda out, kind=kind, importance=importance: with_ggml(
                            bench.model, ggml, kind, importance, out
                        ),
                    )
        with published_gptq():
            settings = Settings(TensorSettings(bits=count, group=GROUP, rank=0))
            bench.row(f"GPTQ {count}", plain, lambda out, settings=settings: encoded(bench, settings, out))
        for group, rank, step in [
            (GROUP, 0, 0),
            (32, 0, 0),
            *((GROUP, rank, 0) for rank in ranks),
            *((32, rank, 0) for rank in ranks[:1]),
            *((GROUP, 0, step) for step in steps),
        ]:
            settings = Settings(TensorSettings(bits=count, group=group, rank=rank), steps=step)
            name = f"ucq {count}, group {group}" + f", rank {rank}" * bool(rank) + f", {step} steps" * bool(step)
            bench.row(
                name,
                at_large(settings.tensors, width),
                lambda out, settings=settings: encoded(bench, settings, out),
            )
        alike = [K_BITS[K_QUANTS[count][-1]]] if count in K_QUANTS else []
        for budget in alike if budgets is None else budgets:
            for group, step in [(GROUP, 0), (128, 0), *((GROUP, step) for step in steps[:1])]:
                settings = Settings(TensorSettings(group=group, rank=0), budget=budget, steps=step)
                bench.row(
                    f"ucq, group {group}, budget {budget:g}" + f", {step} steps" * bool(step),
                    f"{budget:.3f}",
                    lambda out, settings=settings: encoded(bench, settings, out),
                )


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=["dense", "moe", "mamba"])
    parser.add_argument("--bits", nargs="*", type=int, default=[5, 4, 3])
    parser.add_argument("--ranks", nargs="*", type=int, default=[3, 6])
    parser.add_argument("--steps", nargs="*", type=int, default=[300, 500])
    parser.add_argument("--budgets", nargs="*", type=float, help="bits a weight  [default: the K-quant's]")
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--only", type=re.compile, help="only the rows whose name matches this expression")
    parser.add_argument("--no-ggml", action="store_true")
    parser.add_argument("--ggml-source", type=Path, help="llama.cpp's source tree; otherwise from PyPI")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--permute", action="store_true")
    parser.add_argument("--calibration", type=Path, default=ROOT / "fixtures" / "text" / "bench-calibration.txt")
    parser.add_argument("--corpus", type=Path, default=ROOT / "fixtures" / "text" / "bench-evaluation.txt")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        ggml = None
        if not options.no_ggml:
            if options.ggml_source is None:
                from crosscheck.llama_cpp import source

                options.ggml_source = source()
            ggml = Ggml(build(options.ggml_source, work / "ggml"))
        models = {name: ROOT / "fixtures" / "models" / name for name in options.models}
        if options.checkpoint is not None:
            name = options.checkpoint.name + ", channels permuted" * options.permute
            model = options.checkpoint
            models = {name: permuted(model, work / "permuted") if options.permute else model}
        for name, model in models.items():
            bench = Bench(model, options.calibration, options.corpus, options.windows, work, options.only)
            table(name, bench, options.bits, options.ranks, options.steps, options.budgets, ggml)
    return 0


if __name__ == "__main__":
    sys.exit(main())
