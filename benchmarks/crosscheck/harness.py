"""EleutherAI's lm-evaluation-harness, in an environment of its own that shares only torch and transformers.

The harness cuts a text into windows of L scored tokens, each behind one context token: the last of the window
before, and a prefix token at the start. ucaudit's windows stand alone and score L − 1. Either cut is given to the
other side: ucaudit's scoring runs on the harness's windows, and the harness's on ucaudit's.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from oracles import make_environment

from ucaudit.lab.corpus import Windows
from ucaudit.models.forward import score_window
from ucaudit.models.runtime import load_model, load_tokenizer
from ucaudit.packs.codecs import open_source

from .comparison import Comparison, to_digits
from .subject import SEQ_LEN, Subject

REQUIREMENTS = ("lm_eval==0.4.13", "accelerate==1.15.0", "peft==0.21.2", "datasets==5.2.0")
BUDGET = 300.0


def ask(model: Path, text: str, windows: Windows) -> dict[str, Any]:
    """What the harness says of a model. Raises OracleAbsentError where it cannot be installed."""
    place = make_environment("lm-eval", REQUIREMENTS, budget=BUDGET, share=True)
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "text.jsonl"
        rows.write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
        request = {
            "model": str(model.resolve()),
            "text": str(rows),
            "seq_len": SEQ_LEN,
            "windows": [windows.input_ids(position)[0].tolist() for position in range(windows.n)],
        }
        done = subprocess.run(
            [place / "bin" / "python", Path(__file__).with_name("inside_harness.py")],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
            env={"HF_HOME": folder, "HOME": folder, "PATH": "/usr/bin:/bin"},
        )
    if done.returncode != 0:
        raise RuntimeError(f"lm-evaluation-harness failed:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def rolling_windows(tokens: list[int], prefix: int) -> Iterator[tuple[torch.Tensor, int]]:
    """The harness's cut of a text: token ids [1, L + 1], and how many of the last ones are scored.

    All L are, each window standing behind the last token of the one before, or the prefix. The text's end is scored
    in a window of full length too, with more context.
    """
    behind = [prefix, *tokens]
    for begin in range(0, len(tokens), SEQ_LEN):
        end = min(begin + SEQ_LEN, len(tokens))
        yield torch.tensor([behind[max(0, end - SEQ_LEN) : end + 1]]), end - begin


def log_likelihoods(subject: Subject, prefix: int) -> tuple[float, float]:
    """Of the whole text under the harness's cut, by ucaudit's scoring: reference and pack."""
    sums = [0.0, 0.0]
    with open_source(subject.reference) as reference, open_source(subject.pack) as pack:
        text = subject.text.read_text(encoding="utf-8")
        tokens = list(load_tokenizer(reference).encode(text, add_special_tokens=False))
        models = [load_model(source, dtype=torch.float32, device="cpu") for source in (reference, pack)]
        for window, scored in rolling_windows(tokens, prefix):
            scores = score_window(models[0], models[1], window, name="window")
            sums[0] += float(scores.reference[-scored:].double().sum())
            sums[1] += float(scores.pack[-scored:].double().sum())
    return sums[0], sums[1]


def compare(subject: Subject) -> tuple[list[Comparison], dict[str, str]]:
    """Perplexities of both models, and the versions that gave them."""
    text = subject.text.read_text(encoding="utf-8")
    words, size = len(re.split(r"\s+", text)), len(text.encode())
    answers = {which: ask(getattr(subject, which), text, subject.windows) for which in ("reference", "pack")}
    ours = log_likelihoods(subject, answers["reference"]["prefix"])
    found = []
    for which, total in zip(answers, ours, strict=True):
        answer, values = answers[which], subject.whole.values
        measured = math.exp(-math.fsum(getattr(values, which)) / (values.n * values.tokens))
        name = f"{subject.name}, {which}"
        found += [
            to_digits(name, "perplexity, ucaudit's windows", measured, answer["windows_perplexity"]),
            to_digits(name, "word perplexity, its windows", math.exp(-total / words), answer["word_perplexity"]),
            to_digits(name, "byte perplexity, its windows", math.exp(-total / size), answer["byte_perplexity"]),
        ]
    return found, answers["reference"]["versions"]
