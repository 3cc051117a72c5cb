"""Is a GPU's answer the CPU's? Decoding must agree to the bit, measuring within the recorded tolerance.

    python benchmarks/gpu_check.py --pack DIR --reference DIR --corpus FILE [--n 8] [--seq-len 256]
    python benchmarks/gpu_check.py --synthetic [--hidden 1024 --layers 4 --vocabulary 8192]

Prints one JSON object. Every tensor of the pack, and every vector of every other
format, is decoded on both devices and hashed; the decoders are timed;
the same windows are measured on both, in fp32 and bf16, and the GPU's run is repeated. ``--synthetic`` makes a
random model, its pack and a text on the spot. ``--device cpu`` tries the script itself on a machine without a GPU.

Exit codes: 0 all agree, 1 something differs, 4 no usable CUDA device.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from ucaudit.core.errors import EXIT_FAIL, EXIT_PASS, EXIT_UNAVAILABLE
from ucaudit.core.stats.tolerance import FP32_TOLERANCE
from ucaudit.core.tokenvalues import TokenValues
from ucaudit.evidence.claims import window_differences
from ucaudit.lab.measure import Measurement, measure
from ucaudit.lab.measure_settings import device_class, tolerance
from ucaudit.packs.codecs import TensorSource, open_source
from ucaudit.packs.state import reconstruct_state


def check_decoding(pack: TensorSource, device: str) -> dict[str, object]:
    """State digests on both devices, and the decoders' speed without hashing."""
    on_cpu = reconstruct_state(pack, device="cpu")
    on_device = reconstruct_state(pack, device=device)
    size = sum(spec.nbytes for spec in pack.specs)
    return {
        "tensors": len(pack.specs),
        "decodedBytes": size,
        "stateDigestCpu": on_cpu.digest,
        "stateDigestDevice": on_device.digest,
        "drifted": on_device.drift_from(on_cpu),
        "gigabytesPerSecondCpu": size / seconds_to_decode(pack, "cpu") / 1e9,
        "gigabytesPerSecondDevice": size / seconds_to_decode(pack, device) / 1e9,
    }


def check_formats(device: str) -> dict[str, object]:
    """Every vector of every format, by each of its profiles, on both devices; names what differs."""
    folder = Path(__file__).resolve().parent.parent / "fixtures" / "vectors"
    packs = [path.parent for path in folder.glob("*/*/expect.json")] + list(folder.glob("*/*.gguf"))
    drifted, compared = [], 0
    for path in sorted(packs):
        with open_source(path) as source:
            profiles = source.profiles or (source.arithmetic_profile,)
        for profile in profiles:
            with open_source(path, profile=profile) as source:
                found = reconstruct_state(source, device=device).drift_from(reconstruct_state(source))
            compared += 1
            drifted += [f"{path.parent.name}/{path.name} {profile}: {line}" for line in found]
    return {"statesCompared": compared, "drifted": drifted}


def seconds_to_decode(pack: TensorSource, device: str) -> float:
    """The better of two passes over all tensors, each left on the device and dropped."""
    best = math.inf
    for _ in range(2):
        began = time.perf_counter()
        for spec in pack.specs:
            pack.load(spec.name, device=device)
        synchronise(device)
        best = min(best, time.perf_counter() - began)
    return best


def check_measuring(
    pack: TensorSource, reference: TensorSource, corpus: Path, device: str, dtype: str, n: int, seq_len: int
) -> dict[str, object]:
    """The same windows on the CPU, on the device, and on the device again."""
    runs: list[Measurement] = []
    times: list[float] = []
    for where in ("cpu", device, device):
        with tempfile.TemporaryDirectory() as state:
            began = time.perf_counter()
            runs.append(
                measure(
                    *(pack, reference, corpus),
                    n=n,
                    seq_len=seq_len,
                    seed=42,
                    dtype=dtype,
                    device=where,
                    state_dir=Path(state),
                )
            )
            times.append(time.perf_counter() - began)
    cpu, first, second = (run.values for run in runs)
    allowed = tolerance(runs[0].settings, cpu.n * cpu.tokens)
    moved = abs(log_ratio(first) - log_ratio(cpu))
    return {
        "dtype": dtype,
        "windows": cpu.n,
        "scoredTokens": cpu.n * cpu.tokens,
        "settingsDevice": runs[1].settings.to_record(),
        "libraries": runs[1].settings.libraries,
        "secondsCpu": times[0],
        "secondsDevice": times[1],
        "secondsDeviceAgain": times[2],
        "logRatioCpu": log_ratio(cpu),
        "logRatioDevice": log_ratio(first),
        "logRatioMoved": moved,
        "tolerance": allowed,
        "withinTolerance": moved <= allowed,
        "maxLogprobMoved": max(largest(cpu.reference, first.reference), largest(cpu.pack, first.pack)),
        "rmsLogprobMoved": rms(cpu.reference, first.reference),
        "maxKlMoved": largest(cpu.kl, first.kl),
        "top1Changed": sum(a != b for a, b in zip(cpu.top1, first.top1, strict=True)),
        "deviceRepeatsToTheBit": first == second,
    }


def log_ratio(values: TokenValues) -> float:
    """ln of the perplexity ratio."""
    differences = window_differences(values)
    return math.fsum(differences) / len(differences)


def largest(a: object, b: object) -> float:
    """The largest absolute difference."""
    return max(abs(x - y) for x, y in zip(a, b, strict=True))  # type: ignore[call-overload]


def rms(a: object, b: object) -> float:
    """The root of the mean square difference: the per-token noise between two implementations."""
    squares = [(x - y) ** 2 for x, y in zip(a, b, strict=True)]  # type: ignore[call-overload]
    return math.sqrt(math.fsum(squares) / len(squares))


def synchronise(device: str) -> None:
    """Wait until the device has done all it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


# --- a model, a pack and a text made on the spot -------------------------------------------------------------
def make_synthetic(
    root: Path, *, hidden: int, layers: int, vocabulary: int, rank: int = 16
) -> tuple[Path, Path, Path]:
    """A random Llama in bf16 with a tokenizer, its five-bit pack with overlays, and a text of random words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    reference, corpus = root / "reference", root / "text.txt"
    words = [f"w{index}" for index in range(vocabulary - 1)]
    chooser = random.Random(7)
    corpus.write_text(" ".join(chooser.choices(words, k=40_000)), encoding="utf-8")
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 64),
        num_key_value_heads=max(1, hidden // 128),
        max_position_embeddings=4096,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(10)  # else every distribution is flat and nothing could differ
    model.to(torch.bfloat16).save_pretrained(reference)
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0} | {w: i + 1 for i, w in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(reference / "tokenizer.json"))
    (reference / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return write_pack(reference, root / "pack", rank), reference, corpus


def write_pack(reference: Path, target: Path, rank: int) -> Path:
    """Plain five-bit rounding in groups of 64, and a small random overlay unless ``rank`` is 0."""
    from ucaudit.packs.codecs.tensors import raw_bytes
    from ucaudit.packs.codecs.ucq_encode import EncodedOverlay, EncodedTensor, PackDescription, PackWriter
    from ucaudit.packs.manifest import Source

    target.mkdir()
    writer = PackWriter(target)
    generator = torch.Generator().manual_seed(11)
    with open_source(reference) as source:
        encoded, raw = [], {}
        for spec in source.specs:
            weight = source.load(spec.name)
            if ".layers." not in spec.name or len(spec.shape) != 2:
                raw[spec.name] = (spec.dtype, spec.shape, bytes(raw_bytes(weight)))
                continue
            rows, columns = spec.shape
            groups = torch.nn.functional.pad(weight.float(), (0, -columns % 64)).view(rows, -1, 64)
            scales = (groups.abs().amax(-1) / 15).half()
            codes = (groups / scales.float().clamp_min(1e-8).unsqueeze(-1)).round().clamp(-16, 15) + 16
            overlay = None
            if rank:
                overlay = EncodedOverlay(
                    u=torch.randint(-127, 128, (rows, rank), generator=generator, dtype=torch.int8),
                    v=torch.randint(-127, 128, (rank, columns), generator=generator, dtype=torch.int8),
                    rows=(torch.rand(rows, generator=generator) * 1e-4).bfloat16(),
                    cols=(torch.rand(columns, generator=generator) * 1e-4).bfloat16(),
                )
            encoded.append(
                EncodedTensor(
                    name=spec.name,
                    shape=spec.shape,
                    bits=5,
                    group=64,
                    codes=codes.to(torch.uint8).view(rows, -1)[:, :columns].contiguous(),
                    levels=torch.arange(-16, 16, dtype=torch.int8),
                    scales=scales,
                    overlay=overlay,
                )
            )
        writer.write_tensors("layer-00000.safetensors", encoded=encoded, raw={})
        writer.write_tensors("other.safetensors", encoded=[], raw=raw)
        for name in source.carried_files():
            with source.open_carried(name) as handle:
                writer.write_file(name, handle.read())
        ties = source.ties
    unknown = dict.fromkeys(("state_digest", "files_digest", "source", "revision", "license", "note"))
    writer.finish(
        PackDescription(
            name="synthetic",
            settings={"bits": 5, "group": 64, "rank": rank},
            source=Source(name="synthetic", **unknown),
            calibration=None,
            nominal_bits=5.0,
            ties=ties,
        )
    )
    return target


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pack", type=Path)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--synthetic", action="store_true", help="make model, pack and text on the spot")
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    found = parser.parse_args()
    if not found.synthetic and not (found.pack and found.reference and found.corpus):
        parser.error("give --pack, --reference and --corpus, or --synthetic")
    return found


def main() -> int:
    """Run all checks and print."""
    given = options()
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("gpu_check: error: no usable CUDA device\n")
        sys.stderr.write("gpu_check: hint: run it where torch.cuda.is_available(), or try it with --device cpu\n")
        return EXIT_UNAVAILABLE
    root = Path(tempfile.mkdtemp(prefix="ucaudit-gpu-"))
    try:
        paths = (given.pack, given.reference, given.corpus)
        if given.synthetic:
            paths = make_synthetic(root, hidden=given.hidden, layers=given.layers, vocabulary=given.vocabulary)
        with open_source(paths[0]) as pack, open_source(paths[1]) as reference:
            decoding = check_decoding(pack, given.device)
            formats = check_formats(given.device)
            measuring = [
                check_measuring(pack, reference, paths[2], given.device, dtype, given.n, given.seq_len)
                for dtype in ("fp32", "bf16")
            ]
    finally:
        shutil.rmtree(root, ignore_errors=True)
    agree = not decoding["drifted"] and not formats["drifted"]
    agree = agree and all(run["withinTolerance"] and run["deviceRepeatsToTheBit"] for run in measuring)
    document = {
        "agree": agree,
        "device": device_class(given.device),
        "cpu": device_class("cpu"),
        "python": sys.version.split()[0],
        "synthetic": given.synthetic,
        "fp32Tolerance": FP32_TOLERANCE,
        "decoding": decoding,
        "formats": formats,
        "measuring": measuring,
    }
    print(json.dumps(document, indent=1))
    return EXIT_PASS if agree else EXIT_FAIL


if __name__ == "__main__":
    sys.exit(main())
