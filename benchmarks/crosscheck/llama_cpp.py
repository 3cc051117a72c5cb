"""llama.cpp, from the source that the PyPI package llama-cpp-python carries.

Two checks. Its definitions: ``perplexity.cpp`` is compiled by itself, and its ``--kl-divergence`` runs on logits
that it is given (``given_logits.cpp``), which takes seconds. Its arithmetic: the whole ``llama-perplexity`` is
built, which takes minutes, and runs a GGUF file.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy
import torch
from oracles import OracleAbsentError, locked, make_environment, oracle_directory, run_within

from ucaudit.core.tokenvalues import TokenValues
from ucaudit.evidence.claims import BOOTSTRAP_SEED, compute_results
from ucaudit.models.forward import compare_logits

from .comparison import Comparison, to_digits, to_share
from .subject import Subject, later_part

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
BUILD_TOOLS = ("scikit-build-core==1.1.2", "cmake==4.4.5", "ninja==1.13.2")
BUDGET = 300.0
BUILD_BUDGET = 1800.0
CLOSE = 0.005
AVERAGES = ("Mean PPL(base)", "Mean PPL(Q)", "Mean KLD", "RMS Δp", "Same top p")


def source() -> Path:
    """llama.cpp's source tree, downloaded once. Raises OracleAbsentError."""
    tools = make_environment("llama-cpp-tools", BUILD_TOOLS, budget=BUDGET)
    base = oracle_directory()
    place = base / f"llama-cpp-{VERSION}"
    with locked(base / "llama-cpp.lock"):
        if place.exists():
            return place
        with tempfile.TemporaryDirectory(dir=base) as folder:
            # pip prepares metadata even where it only downloads: that takes the package's build backend.
            command = [tools / "bin" / "python", "-m", "pip", "download", "-q", "--disable-pip-version-check"]
            command += ["--no-deps", "--no-build-isolation", "--no-binary", PACKAGE, "--dest", folder]
            environment = {**os.environ, "PATH": f"{tools / 'bin'}:{os.environ.get('PATH', '')}"}
            run_within(time.monotonic() + BUDGET, PACKAGE, [*command, f"{PACKAGE}=={VERSION}"], env=environment)
            [archive] = Path(folder).glob("*.tar.gz")
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
            [root] = Path(folder).glob("*/vendor/llama.cpp")
            shutil.move(root, place)
    return place


def definitions() -> Path:
    """The program that runs llama.cpp's statistics on given logits. Raises OracleAbsentError."""
    root = source()
    ours = Path(__file__).with_name("given_logits.cpp")
    program = root / "given-logits"
    with locked(oracle_directory() / "llama-cpp.lock"):
        if program.exists() and program.stat().st_mtime >= ours.stat().st_mtime:
            return program
        compiler = shutil.which("c++") or shutil.which("g++")
        if compiler is None:
            raise OracleAbsentError("no C++ compiler (g++)")
        parts = ("include", "ggml/include", "common", "vendor", "tools/perplexity")
        command = [compiler, "-std=c++17", "-O2", "-w", "-ffunction-sections", "-fdata-sections"]
        command += [f"-I{root / part}" for part in parts] + [str(ours), "-o", str(program)]
        run_within(time.monotonic() + BUDGET, program.name, [*command, "-Wl,--gc-sections", "-lpthread"])
    return program


def whole_tools() -> Path:
    """The directory of ``llama-perplexity`` and ``llama-quantize``, built once. Raises OracleAbsentError."""
    root = source()
    tools = make_environment("llama-cpp-tools", BUILD_TOOLS, budget=BUDGET)
    build = root / "build"
    with locked(oracle_directory() / "llama-cpp.lock"):
        if (build / "bin" / "llama-perplexity").exists():
            return build / "bin"
        switches = ["CURL=OFF", "OPENSSL=OFF", "BUILD_TESTS=OFF", "BUILD_EXAMPLES=OFF", "BUILD_SERVER=OFF"]
        end = time.monotonic() + BUILD_BUDGET
        environment = {**os.environ, "PATH": f"{tools / 'bin'}:{os.environ.get('PATH', '')}"}
        configure = ["cmake", "-G", "Ninja", "-S", root, "-B", build, "-DCMAKE_BUILD_TYPE=Release"]
        configure += ["-DBUILD_SHARED_LIBS=OFF", *(f"-DLLAMA_{switch}" for switch in switches)]
        run_within(end, "llama.cpp", configure, env=environment)
        targets = ["--target", "llama-quantize", "llama-perplexity"]
        run_within(end, "llama.cpp", ["cmake", "--build", build, *targets], env=environment)
    return build / "bin"


# --- the definitions, on the same logits ----------------------------------------------------------------------


def statistics(windows: torch.Tensor, *logits: Iterable[torch.Tensor]) -> dict[str, float]:
    """Run llama.cpp's ``perplexity`` on the base and its ``kl_divergence`` on the other: figures by printed names.

    Args:
        windows: int32 [n, length].
        logits: of the base model, then of the other: fp32 [length, vocabulary] for each window.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, scratch = Path(folder) / "logits", Path(folder) / "scratch"
        with given.open("wb") as handle:
            for part in logits:
                for rows in part:
                    if not handle.tell():
                        shape = [windows.shape[1], rows.shape[1], windows.shape[0]]
                        handle.write(numpy.array(shape, "<i4").tobytes())
                        handle.write(windows.numpy().astype("<i4").tobytes())
                    handle.write(rows.float().numpy().astype("<f4").tobytes())
        printed = subprocess.run([definitions(), given, scratch], check=True, capture_output=True, text=True).stdout
    lines = re.findall(r"^ *([^:\n]+?) *: +([-+.\de]+)", printed.partition("====== Perplexity")[2], re.M)
    return {re.sub(r" +", " ", name): float(value) for name, value in lines}


def on_its_grid(logits: torch.Tensor) -> torch.Tensor:
    """The nearest logits that llama.cpp's 16-bit coding of a base model holds exactly.

    It keeps 65,536 levels from each row's largest logit down by 16 (or to the smallest one); what lies below counts
    as nothing, and is left alone here.
    """
    top = logits.amax(-1, keepdim=True)
    low = torch.maximum(logits.amin(-1, keepdim=True), top - 16)
    step = (top - low) / 65535
    return torch.where(logits > low, low + ((logits - low) / step).round() * step, logits)


def interpolated(values: Sequence[float], share: float) -> float:
    """A percentile of sorted values as llama.cpp defines it: linear between neighbours."""
    at = share * (len(values) - 1)
    low = int(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (at - low) * (values[high] - values[low])


def figures(values: TokenValues) -> dict[str, float]:
    """ucaudit's statistics, by llama.cpp's names."""
    ours = compute_results(values, confidence=0.95, seed=BOOTSTRAP_SEED)
    ordered = sorted(values.kl)
    return {
        "Mean PPL(base)": ours.ppl_reference,
        "Mean PPL(Q)": ours.ppl_pack,
        "Mean ln(PPL(Q)/PPL(base))": ours.mean_difference,
        "Mean KLD": ours.kl.estimate,
        "Median KLD": interpolated(ordered, 0.5),
        "90.0% KLD": interpolated(ordered, 0.9),
        "99.0% KLD": interpolated(ordered, 0.99),
        "99.9% KLD": interpolated(ordered, 0.999),
        "Maximum KLD": ours.kl_percentiles[-1].value,
        "RMS Δp": 100 * ours.rms_delta_p,
        "Same top p": 100 * ours.top1.estimate,
    }


def values_of(base: Iterable[torch.Tensor], pack: Iterable[torch.Tensor], windows: torch.Tensor) -> TokenValues:
    """ucaudit's values for given logits, less the terms of KL that llama.cpp leaves out: those of p below e⁻¹⁶."""
    columns: list[list[torch.Tensor]] = [[], [], [], []]
    for index, (first, second) in enumerate(zip(base, pack, strict=True)):
        scores = compare_logits(first, second, windows[index, 1:].long(), name=f"window {index}")
        p, q = (torch.log_softmax(rows[:-1].double(), -1) for rows in (first, second))
        left_out = torch.where(p < -16, p.exp() * (p - q), 0.0).sum(-1)
        parts = (scores.reference, scores.pack, scores.kl - left_out, scores.top1)
        for column, part in zip(columns, parts, strict=True):
            column.append(part)
    *floats, top1 = (torch.cat(column).tolist() for column in columns)
    arrays = [array("f", column) for column in floats]
    return TokenValues(tuple(range(len(windows))), windows.shape[1] - 1, *arrays, array("B", top1))


def compare_definitions(subject: Subject) -> list[Comparison]:
    """Statistics of the second half of each window, which is what llama.cpp scores.

    First with the base's logits moved to the levels that llama.cpp's file format has, so that both sides see the
    same ones; then those of the measurement, where the coding, and the terms that it leaves out, average out.
    """
    windows, half = subject.windows.ids, subject.windows.seq_len // 2

    def theirs(change: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        return statistics(windows, map(change, subject.logits(subject.reference)), subject.logits(subject.pack))

    same = values_of(map(on_its_grid, subject.logits(subject.reference)), subject.logits(subject.pack), windows)
    rows = []
    for name, values, printed, digits in (
        (subject.name, same, theirs(on_its_grid), 4),
        # Its 16 bits move these by up to a unit in the fourth digit.
        (f"{subject.name}, as measured", subject.whole.values, theirs(lambda logits: logits), 3),
    ):
        ours = figures(later_part(values, half))
        chosen = ours if values is same else AVERAGES
        rows += [to_digits(name, figure, ours[figure], printed[figure], digits) for figure in chosen]
    return rows


# --- its arithmetic -------------------------------------------------------------------------------------------

EXACT_CACHE = ("-ctk", "f32", "-ctv", "f32", "-fa", "off")
"""Keys and values in fp32; by default llama.cpp keeps them in fp16."""


def perplexity(tools: Path, model: Path, text: Path, window: int, options: Sequence[str] = ()) -> float:
    """What ``llama-perplexity`` says of a GGUF file."""
    command = [tools / "llama-perplexity", "-m", model, "-f", text, "-t", str(os.cpu_count() or 1)]
    command += ["-c", str(window), "-b", str(window), "-ub", str(window), *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    found = re.search(r"PPL = ([\d.]+)", done.stdout + done.stderr)
    if found is None:
        raise RuntimeError(f"llama-perplexity said nothing of use:\n{done.stderr[-2000:]}")
    return float(found[1])


def convert(tools: Path, model: Path, out: Path, kind: str) -> Path:
    """A GGUF file in another precision."""
    subprocess.run(
        [tools / "llama-quantize", "--allow-requantize", model, out, kind], capture_output=True, check=True
    )
    return out


def compare_arithmetic(subject: Subject, gguf: Path, work: Path) -> list[Comparison]:
    """llama.cpp's perplexity of a GGUF file, as it is and step by step towards fp32, and ours of its weights.

    ``subject.reference`` must be the file's reconstruction: its weights in fp32, rounded once to bf16.
    """
    tools = whole_tools()
    window = subject.windows.seq_len
    values = later_part(subject.whole.values, window // 2)
    ours = math.exp(-math.fsum(values.reference) / (values.n * values.tokens))
    wide = convert(tools, gguf, work / "f32.gguf", "F32")
    narrow = convert(tools, wide, work / "bf16.gguf", "BF16")
    same = convert(tools, narrow, work / "f32-of-bf16.gguf", "F32")
    steps = {
        "as the file is": (gguf, ()),
        "and keys and values in fp32": (gguf, EXACT_CACHE),
        "and the weights in fp32": (wide, EXACT_CACHE),
        "and these rounded to bf16": (same, EXACT_CACHE),
    }
    found = []
    for step, (model, options) in steps.items():
        theirs = perplexity(tools, model, subject.text, window, options)
        found.append(to_share(subject.name, f"perplexity, {step}", ours, theirs, CLOSE))
    return [*found, to_digits(subject.name, "perplexity, same weights", ours, theirs)]
