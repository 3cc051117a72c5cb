"""Whether other people's software gives the same figures: prints the tables of docs/measurement.md.

    python benchmarks/agreement.py [dense] [moe] [mamba] [smollm2] [--demo DIRECTORY]

Three trained fixture models, all by default, are measured against a copy of themselves, plainly rounded to 4 bits,
whole and layer by layer. The same tokens go through plain transformers, lm-evaluation-harness, and llama.cpp's own
statistics (compiled from the source that the PyPI package llama-cpp-python carries). ``smollm2`` is the reference
of ``make demo``, below ``--demo``; for it llama.cpp itself is built too (minutes) and runs the GGUF file that the
reference was reconstructed from. Tools are kept in ``.ci-work/oracles``. Exits 1 if anything is not as asked, 4 if
a tool cannot be made ready.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT / "tests"), str(ROOT / "fixtures")]

from crosscheck import harness, llama_cpp, plain  # noqa: E402
from crosscheck.comparison import HEADER, Comparison  # noqa: E402
from crosscheck.subject import Subject, measure_subject  # noqa: E402
from oracles import OracleAbsentError  # noqa: E402

MODELS = ("dense", "moe", "mamba")
DEMO = "smollm2"
BITS = 4
CHARACTERS = 12_000
TEXTS = ROOT / "fixtures" / "text"


def measure_fixture(name: str, work: Path, *, characters: int = CHARACTERS) -> Subject:
    """One of the trained fixture models and its rounded copy."""
    model, text = ROOT / "fixtures" / "models" / name, TEXTS / "bench-evaluation.txt"
    return measure_subject(name, model, text, work, bits=BITS, characters=characters)


def compare_all(names: list[str], demo: Path, work: Path) -> tuple[dict[str, list[Comparison]], dict[str, str]]:
    """The tables, and the versions behind them. Raises OracleAbsentError."""
    tables: dict[str, list[Comparison]] = {}
    versions: dict[str, str] = {}
    for name in names:
        if name == DEMO:
            text = TEXTS / "evaluation.txt"
            subject = measure_subject(name, demo / "reference", text, work, bits=BITS, characters=CHARACTERS)
        else:
            subject = measure_fixture(name, work)
        print(f"{name}: {subject.windows.n} windows of {subject.windows.seq_len}", file=sys.stderr, flush=True)
        tables.setdefault("Plain transformers", []).extend(plain.compare(subject))
        rows, versions = harness.compare(subject)
        tables.setdefault("lm-evaluation-harness", []).extend(rows)
        rows = llama_cpp.compare_definitions(subject)
        tables.setdefault("llama.cpp's statistics, on given logits", []).extend(rows)
        if name == DEMO:
            [gguf] = (demo / "source").glob("*.gguf")
            tables["llama.cpp's own arithmetic"] = llama_cpp.compare_arithmetic(subject, gguf, work)
    return tables, versions


def main() -> int:
    """Measure, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", nargs="*", choices=[*MODELS, DEMO, []])
    parser.add_argument("--demo", type=Path, default=ROOT / "demo")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            tables, versions = compare_all(arguments.subject or list(MODELS), arguments.demo, Path(folder))
        except OracleAbsentError as error:
            print(f"agreement: {error}", file=sys.stderr)
            return 4
    for title, rows in tables.items():
        print(f"**{title}**\n\n{HEADER}")
        print("\n".join(row.row() for row in rows), end="\n\n")
    versions |= {"llama.cpp of llama-cpp-python": llama_cpp.VERSION, "Python": platform.python_version()}
    named = ", ".join(f"{name} {found}" for name, found in versions.items())
    print(f"{datetime.datetime.now(datetime.UTC).date()}: {named}; {platform.machine()}.")
    return 0 if all(row.holds for rows in tables.values() for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
