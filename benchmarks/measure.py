"""What a measurement costs: its speed beside plain transformers, and its memory as models get deeper.

    python benchmarks/measure.py throughput MODEL PACK [--corpus TEXT] [--n 8] [--seq-len 256] [--threads 2]
    python benchmarks/measure.py memory DIRECTORY [--layers 8 16 32]

``throughput`` measures a checkpoint against its pack three ways, taking turns in one process: with transformers
alone (both models by ``from_pretrained`` on reconstructed checkpoints; log-probabilities, KL and top-1 from whole
logits), with both models in memory, and layer by layer. Loading is not counted for the first two; it is counted for
the third, whose loading is part of the way it works. Ratios above 1 mean faster than transformers alone.

``memory`` makes random Llama-like checkpoints of 64 million parameters a layer (bf16, vocabulary 8,192) and their
plainly rounded packs below DIRECTORY (12 GB for 32 layers), measures each in a process of its own with
``--memory 1.6``, n = 4, seq_len = 256, fp32, and prints the processes' peak resident memory.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HIDDEN, WIDE, VOCABULARY, HEADS = 2048, 7680, 8192, 16
MEMORY_GB = 1.6
ROOT = Path(__file__).resolve().parent.parent


def plain(models, windows) -> list[list[float]]:  # noqa: ANN001
    """The values of each window as anybody would compute them with transformers."""
    import torch

    result = []
    for position in range(windows.n):
        ids = windows.input_ids(position)
        with torch.inference_mode():
            first, second = (model(input_ids=ids, use_cache=False).logits[0, :-1].float() for model in models)
            p, q = torch.log_softmax(first.double(), -1), torch.log_softmax(second.double(), -1)
            targets = ids[0, 1:, None]
            chosen = [torch.log_softmax(logits, -1).gather(-1, targets) for logits in (first, second)]
            kl = (p.exp() * (p - q)).sum(-1)
            agree = first.argmax(-1) == second.argmax(-1)
        result.append([float(chosen[0].sum()), float(chosen[1].sum()), float(kl.sum()), float(agree.sum())])
    return result


def throughput(arguments: argparse.Namespace) -> None:
    """Print the times and the ratios."""
    import torch
    from transformers import AutoModelForCausalLM

    from ucaudit.lab.measure import WholePair, _encode
    from ucaudit.lab.measure_plan import plan_measurement
    from ucaudit.lab.measure_settings import pinned_arithmetic
    from ucaudit.lab.measure_state import StateDirectory
    from ucaudit.lab.measure_stream import StreamedPair, Streaming
    from ucaudit.models.runtime import load_model
    from ucaudit.packs.checkpoint import write_checkpoint
    from ucaudit.packs.codecs import open_source

    times: dict[str, list[float]] = {"transformers": [], "in memory": [], "layer by layer": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        open_source(arguments.pack) as pack,
        open_source(arguments.model) as reference,
        pinned_arithmetic("fp32", "cpu", arguments.threads),
    ):
        root = Path(folder)
        windows = plan_measurement(
            pack, reference, arguments.corpus, n=arguments.n, seq_len=arguments.seq_len, seed=42
        ).windows
        write_checkpoint(pack, root / "pack")
        write_checkpoint(reference, root / "reference")
        everything = list(range(windows.n))

        def by_layers(run: int) -> list[bytes]:
            state = StateDirectory(root / f"s{run}", "k" * 64, windows.scored)
            state.prepare()
            pair = StreamedPair(reference, pack, Streaming(torch.float32, "cpu", True))
            return [_encode(scores) for scores in pair.scores(windows, everything, state, SILENT)]

        from ucaudit.core.progress import SILENT

        whole = WholePair(*(load_model(source, dtype=torch.float32, device="cpu") for source in (reference, pack)))
        theirs = [
            AutoModelForCausalLM.from_pretrained(root / name, dtype=torch.float32).eval()
            for name in ("reference", "pack")
        ]
        state = StateDirectory(root / "w", "k" * 64, windows.scored)
        for run in range(arguments.runs + 1):
            outcomes = {}
            for name, work in (
                ("transformers", lambda: plain(theirs, windows)),
                ("in memory", lambda: [_encode(s) for s in whole.scores(windows, everything, state, SILENT)]),
                ("layer by layer", lambda run=run: by_layers(run)),
            ):
                began = time.perf_counter()
                outcomes[name] = work()
                if run:  # the first round warms up
                    times[name].append(time.perf_counter() - began)
            assert outcomes["in memory"] == outcomes["layer by layer"], "the two ways give other bytes"
    base = statistics.median(times["transformers"])
    print(
        f"{windows.n} windows of {windows.seq_len} tokens, {arguments.threads} threads, median of {arguments.runs}"
    )
    for name, found in times.items():
        median = statistics.median(found)
        paired = [other / mine for other, mine in zip(times["transformers"], found, strict=True)]
        print(
            f"{name:16} {median:8.2f} s   {base / median:5.2f} x   (pairs {min(paired):.2f} to {max(paired):.2f})"
        )


def make_deep_model(path: Path, layers: int) -> Path:
    """A random checkpoint with a shard a layer, and its pack; both are kept for the next call."""
    import torch
    from safetensors.torch import save_file

    reference = path / f"deep-{layers}"
    if path.joinpath(f"deep-{layers}-pack").exists():
        return reference
    reference.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(ROOT / "tests"))
    from tinymodels import make_tokenizer

    make_tokenizer(reference)
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": WIDE,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-6,
    }
    (reference / "config.json").write_text(json.dumps(config) + "\n")
    weight_map: dict[str, str] = {}

    def shard(name: str, shapes: dict[str, tuple[int, ...]], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            key: (
                torch.randn(shape, generator=generator) * shape[-1] ** -0.5 if len(shape) > 1 else torch.ones(shape)
            ).bfloat16()
            for key, shape in shapes.items()
        }
        save_file(tensors, reference / name, {"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, name))

    for index in range(layers):
        at = f"model.layers.{index}."
        square = {f"{at}self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        wide = {f"{at}mlp.{name}_proj.weight": (WIDE, HIDDEN) for name in ("gate", "up")}
        norms = {f"{at}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
        shapes = {**square, **wide, f"{at}mlp.down_proj.weight": (HIDDEN, WIDE), **norms}
        shard(f"layer-{index:05d}.safetensors", shapes, index)
    shard(
        "outer.safetensors",
        {
            "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
            "lm_head.weight": (VOCABULARY, HIDDEN),
            "model.norm.weight": (HIDDEN,),
        },
        -1,
    )
    (reference / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    make_rounded_pack(reference, path / f"deep-{layers}-pack")
    return reference


def make_rounded_pack(reference: Path, out: Path) -> None:
    """A pack by plain rounding, one tensor at a time."""
    import torch

    from ucaudit.evidence.bundle import staged
    from ucaudit.packs.codecs import open_source
    from ucaudit.packs.codecs.tensors import raw_bytes
    from ucaudit.packs.codecs.ucq_encode import EncodedTensor, PackDescription, PackWriter
    from ucaudit.packs.manifest import Source

    levels = torch.arange(-16, 16, dtype=torch.int8)
    with open_source(reference) as source, staged(out) as stage:
        writer = PackWriter(stage)
        files: dict[str, list[str]] = {}
        for spec in source.specs:
            number = next((part for part in spec.name.split(".") if part.isdigit()), None)
            file = "other.safetensors" if number is None else f"layer-{int(number):05d}.safetensors"
            files.setdefault(file, []).append(spec.name)
        for file, names in sorted(files.items()):
            encoded, raw = [], {}
            for name in names:
                spec = source.spec(name)
                weight = source.load(name)
                if len(spec.shape) == 1 or file == "other.safetensors":
                    raw[name] = (spec.dtype, spec.shape, bytes(raw_bytes(weight)))
                    continue
                blocks = weight.float().view(spec.shape[0], -1, 64)
                scales = (blocks.abs().amax(-1) / 15).half()
                codes = (blocks / scales.float().clamp_min(2**-24).unsqueeze(-1)).round_().clamp_(-15, 15).add_(16)
                flat = codes.to(torch.uint8).view(spec.shape)
                encoded.append(EncodedTensor(name, spec.shape, 5, 64, flat, levels, scales))
            writer.write_tensors(file, encoded=encoded, raw=raw)
        for carried in source.carried_files():
            with source.open_carried(carried) as handle:
                writer.write_file(carried, handle.read())
        writer.finish(
            PackDescription(
                name=out.name,
                settings={"method": "plain rounding"},
                source=Source(
                    name=reference.name,
                    state_digest="0" * 64,
                    files_digest=None,
                    source=None,
                    revision=None,
                    license=None,
                    note=None,
                ),
                calibration=None,
                nominal_bits=5.0,
                ties=(),
            )
        )


def peak_resident() -> int:
    """Bytes, of this process alone. Not ``ru_maxrss``: a child inherits that from the process that started it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    if found is None:
        sys.exit("the memory benchmark needs Linux's /proc")
    return int(found[1]) << 10


def measure_once(reference: Path, corpus: Path, out: Path) -> None:
    """In a process of its own: measure, and print the peak of resident memory in bytes."""
    from ucaudit.lab.measure import measure
    from ucaudit.packs.codecs import open_source

    began = time.perf_counter()
    with open_source(reference.with_name(f"{reference.name}-pack")) as pack, open_source(reference) as original:
        digests = {"pack_digest": "0" * 64, "reference_digest": "0" * 64}
        found = measure(
            pack,
            original,
            corpus,
            n=4,
            seq_len=256,
            seed=42,
            state_dir=out,
            memory_bytes=int(MEMORY_GB * 1e9),
            **digests,
        )
    print(
        json.dumps(
            {"peak": peak_resident(), "seconds": time.perf_counter() - began, "mode": found.settings.execution}
        )
    )


def memory(arguments: argparse.Namespace) -> None:
    """Print a row a depth."""
    print("layers   parameters   peak resident   time")
    for layers in arguments.layers:
        reference = make_deep_model(arguments.directory, layers)
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "once", str(reference), str(arguments.corpus), f"{folder}/s"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        row = json.loads(done.stdout.splitlines()[-1])
        parameters = layers * (4 * HIDDEN**2 + 3 * HIDDEN * WIDE) + 2 * VOCABULARY * HIDDEN
        print(
            f"{layers:6}   {parameters / 1e6:8.0f} M   {row['peak'] / 1e9:10.2f} GB   {row['seconds']:5.0f} s",
            flush=True,
        )


def main() -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    text = ROOT / "fixtures" / "text" / "evaluation.txt"
    part = parts.add_parser("throughput")
    part.add_argument("model", type=Path)
    part.add_argument("pack", type=Path)
    part.add_argument("--corpus", type=Path, default=text)
    part.add_argument("--n", type=int, default=8)
    part.add_argument("--seq-len", type=int, default=256)
    part.add_argument("--threads", type=int, default=2)
    part.add_argument("--runs", type=int, default=3)
    part.set_defaults(work=throughput)
    part = parts.add_parser("memory")
    part.add_argument("directory", type=Path)
    part.add_argument("--layers", type=int, nargs="+", default=[8, 16, 32])
    part.add_argument("--corpus", type=Path, default=text)
    part.set_defaults(work=memory)
    part = parts.add_parser("once")
    part.add_argument("model", type=Path)
    part.add_argument("corpus", type=Path)
    part.add_argument("out", type=Path)
    part.set_defaults(work=lambda a: measure_once(a.model, a.corpus, a.out))
    arguments = parser.parse_args()
    arguments.work(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
