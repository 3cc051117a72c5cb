"""Whether other people's software gives the same figures: prints the tables of docs/measurement.md.

    python benchmarks/agreement.py [--with-llama-cpp] [--demo DIRECTORY]

The three trained fixture models are measured against a copy of themselves, plainly rounded to 4 bits, whole and
layer by layer. The same tokens go through plain transformers, lm-evaluation-harness, and llama.cpp's own statistics
(compiled from the source that the PyPI package llama-cpp-python carries). ``--with-llama-cpp`` also
builds llama.cpp itself (minutes) and runs the GGUF file of ``make demo`` in it; it takes the file and its
reconstruction from ``--demo``. Tools are kept in ``.ci-work/oracles``. Exits 1 if anything is not as asked, 4 if a
tool cannot be made ready.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
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
BITS = 4
CHARACTERS = 40_000
TEXTS = ROOT / "fixtures" / "text"


def measure_fixture(name: str, work: Path, *, characters: int = CHARACTERS) -> Subject:
    """One of the trained fixture models and its rounded copy."""
    model = ROOT / "fixtures" / "models" / name
    return measure_subject(name, model, TEXTS / "bench-evaluation.txt", work, bits=BITS, characters=characters)


def measure_demo(reference: Path, work: Path, *, characters: int = CHARACTERS) -> Subject:
    """The reference checkpoint of ``make demo`` and its rounded copy."""
    return measure_subject(
        "SmolLM2-135M", reference, TEXTS / "evaluation.txt", work, bits=BITS, characters=characters
    )


def print_table(title: str, rows: list[Comparison]) -> None:
    """A heading and a table."""
    print(f"\n**{title}**\n\n{HEADER}")
    for row in rows:
        print(row.row())


def main() -> int:
    """Measure, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--with-llama-cpp", action="store_true")
    parser.add_argument("--demo", type=Path, default=ROOT / "demo")
    arguments = parser.parse_args()
    tables: dict[str, list[Comparison]] = {"Plain transformers": [], "lm-evaluation-harness": []}
    definitions = tables["llama.cpp's statistics on the same logits"] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        try:
            for name in MODELS:
                subject = measure_fixture(name, work)
                print(f"{name}: {subject.windows.n} windows of {subject.windows.seq_len}", file=sys.stderr)
                tables["Plain transformers"] += plain.compare(subject)
                rows, versions = harness.compare(subject)
                tables["lm-evaluation-harness"] += rows
                definitions += llama_cpp.compare_definitions(subject)
            if arguments.with_llama_cpp:
                reference = arguments.demo / "reference"
                [gguf] = (arguments.demo / "source").glob("*.gguf")
                subject = measure_demo(reference, work)
                tables["Plain transformers"] += plain.compare(subject)
                tables["lm-evaluation-harness"] += harness.compare(subject)[0]
                definitions += llama_cpp.compare_definitions(subject)
                tables["llama.cpp's arithmetic"] = llama_cpp.compare_arithmetic(subject, gguf, work)
        except OracleAbsentError as error:
            print(f"agreement: {error}", file=sys.stderr)
            return 4
    for title, rows in tables.items():
        print_table(title, rows)
    versions |= {"tokenizers": importlib.metadata.version("tokenizers")}
    named = ", ".join(f"{name} {found}" for name, found in versions.items())
    day = datetime.datetime.now(datetime.UTC).date()
    print(
        f"\n{day}: {named}, llama.cpp of {llama_cpp.PACKAGE} {llama_cpp.VERSION}; Python "
        f"{platform.python_version()}, {os.cpu_count()} cores {platform.machine()}."
    )
    return 0 if all(row.holds for rows in tables.values() for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
