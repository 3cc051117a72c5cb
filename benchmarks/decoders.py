"""Every decoder beside its format's own: bits, speed, hostile cases. Writes the table of ``docs/formats.md``.

    python benchmarks/decoders.py [--docs docs/formats.md] [--quick]

Bits: ten tensors a type with odd shapes and extreme values, made and decoded by the authority
(``tests/authorities``, ``tests/oracle/test_gguf_authority.py``), compared on every bit. Speed: one large tensor
a type, one thread for both, the best of several; a ratio over 1 means that ours is faster. "compiled" serves in
large files where numba is installed; the seconds that compiling takes do not count here. Ours reads the file and
rounds to the final dtype; of the authorities only GPTQModel's reads a file. Hostile cases: files that contradict
their format, each with its error, counted from the tests. ``--quick`` leaves the environments of other packages
alone: GGUF only.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / part) for part in ("tests", "benchmarks", "fixtures", "tests/unit/packs")]

from ggml_blocks import extreme_blocks, quantised_blocks, random_blocks  # noqa: E402 - after the path is set
from gguf import GGMLQuantizationType  # noqa: E402
from gguf.quants import dequantize  # noqa: E402

from ucaudit.packs.codecs import TensorSource, gguf_fast, open_source  # noqa: E402
from ucaudit.packs.codecs.gguf_blocks import DECODERS, decode_blocks  # noqa: E402
from ucaudit.packs.codecs.gguf_header import BLOCK_FORMS  # noqa: E402

BEGIN, END = "<!-- table: python benchmarks/decoders.py -->", "<!-- end of table -->"
COLUMNS, CHUNK, TENSORS = 4096, 1 << 20, 10
GGUF_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    codec: str
    kind: str
    authority: str
    compared: int
    unequal: int
    ratio: float | None
    hostile: int
    compiled: float | None = None


def best(work: Callable[[], object], times: int) -> float:
    """The shortest of some runs, in seconds of processor time: what else the machine does counts little."""
    found = []
    for _ in range(times):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


def gguf_rows(hostile: int) -> list[Row]:
    """Every GGUF type beside ``gguf.quants`` and llama.cpp's C code."""
    from importlib.metadata import version

    from crosscheck import llama_cpp
    from ggml_quants import Ggml, build

    root = llama_cpp.source()
    ggml = Ggml(build(root, root / "ggml-base"))
    rows = []
    for number, (name, elements, _) in BLOCK_FORMS.items():
        if name not in DECODERS:
            continue
        kind = GGMLQuantizationType(number)
        samples = [random_blocks(np.random.default_rng(seed), name, 2 * seed + 1) for seed in range(TENSORS)]
        samples.append(extreme_blocks(name))
        if elements > 1:
            samples += [
                quantised_blocks(ggml, np.random.default_rng(seed), number, elements, 2 * seed + 3)
                for seed in range(TENSORS)
            ]
        unequal = 0
        for blocks in samples:
            ours = decode_blocks(name, torch.from_numpy(blocks)).numpy().view(np.uint32)
            wanted = [dequantize(blocks, kind).view(np.uint32)]
            if name in gguf_fast.FORMS:
                wanted.append(gguf_fast.decode_compiled(name, torch.from_numpy(blocks)).numpy().view(np.uint32))
            if elements > 1:
                wanted.append(ggml.dequantise(blocks.tobytes(), number, ours.shape).numpy().view(np.uint32))
            unequal += any(not np.array_equal(ours, values.reshape(ours.shape)) for values in wanted)
        count = GGUF_ELEMENTS // elements
        large = random_blocks(np.random.default_rng(0), name, count)
        matrix, tensor = large.reshape(GGUF_ELEMENTS // COLUMNS, -1), torch.from_numpy(large)
        step = CHUNK // elements

        def whole(
            decode: Callable[[str, torch.Tensor], torch.Tensor],
            name: str = name,
            tensor: torch.Tensor = tensor,
            step: int = step,
        ) -> None:
            for begin in range(0, len(tensor), step):
                decode(name, tensor[begin : begin + step])

        # In turns, so that what else the machine does meets all alike.
        theirs = ours = compiled = float("inf")
        for _ in range(5):
            theirs = min(theirs, best(lambda matrix=matrix, kind=kind: dequantize(matrix, kind), 1))  # type: ignore[misc]
            ours = min(ours, best(partial(whole, decode_blocks), 2))
            if name in gguf_fast.FORMS:
                compiled = min(compiled, best(partial(whole, gguf_fast.decode_compiled), 2))
        ratio = None if name == "F32" else theirs / ours
        faster = theirs / compiled if name in gguf_fast.FORMS else None
        authority = f"gguf {version('gguf')}, llama.cpp"
        rows.append(Row("gguf", name, authority, len(samples), unequal, ratio, hostile, faster))
    return rows


def checkpoint_rows(hostile: dict[str, int]) -> list[Row]:
    """Every quantised safetensors format beside its own package."""
    import authorities

    rows = []
    for script in authorities.ENVIRONMENTS:
        with tempfile.TemporaryDirectory() as folder:
            small, large = Path(folder) / "small", Path(folder) / "large"
            small.mkdir()
            large.mkdir()
            made = authorities.run(script, small, TENSORS)
            compared: dict[tuple[str, str], int] = defaultdict(int)
            unequal: dict[tuple[str, str], int] = defaultdict(int)
            for name, profiles in made["cases"].items():
                with open_source(small / name) as source:
                    key = source.codec, kind_of(name)
                compared[key] += len(profiles)
                unequal[key] += len(authorities.differences(small, made["cases"], [name]))
            timed = authorities.run(script, large, 0)
            ratios: dict[tuple[str, str], float] = {}
            for name, seconds in timed["seconds"].items():
                with open_source(large / name) as source:
                    [tensor] = [spec.name for spec in source.specs if "norm" not in spec.name]

                    def whole(source: TensorSource = source, tensor: str = tensor) -> None:
                        for _ in source.stream(tensor):
                            pass

                    key = source.codec, kind_of(name)
                    ratios.setdefault(key, seconds / best(whole, 5))
            for codec, kind in compared:
                key = codec, kind
                ratio = ratios.get(key)
                authority = made["authority"]
                rows.append(Row(codec, kind, authority, compared[key], unequal[key], ratio, hostile.get(codec, 0)))
    return rows


def kind_of(case: str) -> str:
    """``pack4-asym-group`` of ``pack4-asym-group-7``; GPTQ's column orders are one kind."""
    name = re.sub(r"-\d+$", "", case)
    return re.sub(r"-(?:plain|ordered)$", "", name) if name.startswith("gptq") else name


def hostile_cases() -> dict[str, int]:
    """Codec → the number of hostile cases in its tests."""
    import test_gguf
    import test_quantised

    counts: dict[str, int] = defaultdict(int)
    for vector, *_ in test_quantised.HOSTILE.values():
        counts[vector.split("/")[0]] += 1
    counts["gguf"] = len(test_gguf.HOSTILE)
    return counts


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| codec | type | authority | compared | bits equal | speed | hostile cases |",
        "|---|---|---|---:|---|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: (row.codec, row.kind)):
        equal = "all" if not row.unequal else f"**{row.unequal} differ**"
        speed = "–" if row.ratio is None else f"{row.ratio:.1f}"
        speed += "" if row.compiled is None else f", compiled {row.compiled:.1f}"
        lines.append(
            f"| {row.codec} | {row.kind} | {row.authority} | {row.compared} | {equal} | {speed} | {row.hostile} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Print the table, and put it into the document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    hostile = hostile_cases()
    rows = gguf_rows(hostile["gguf"])
    if not options.quick:
        rows += checkpoint_rows(hostile)
    made = (
        f"{datetime.datetime.now(tz=datetime.UTC).date()}, Python {platform.python_version()}, torch "
        f"{torch.__version__.split('+')[0]}, one core of {os.cpu_count()}"
    )
    text = f"{table(rows)}\n\nMeasured {made}."
    print(text)
    if options.docs is not None:
        document = options.docs.read_text(encoding="utf-8")
        before, rest = document.split(BEGIN, 1)
        after = rest.split(END, 1)[1]
        options.docs.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    return 1 if any(row.unequal for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
