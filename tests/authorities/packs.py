"""Small quantised checkpoints for scripts that run a format's own encoder and decoder, in its own environment.

Needs torch and safetensors only. A case is a directory ``OUT/NAME`` with ``config.json`` and
``model.safetensors``, and ``OUT/NAME.expected.safetensors`` with what the authority decodes; ``OUT/cases.json``
says which profile that is.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

OUT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
TENSORS = int(sys.argv[2]) if len(sys.argv) > 2 else 10
SPEED = TENSORS == 0
"""Whether one large tensor a type is decoded for its time, in one thread, instead of small ones for their bits."""
LARGE = (2048, 4096)
CASES: dict[str, dict] = {}
SECONDS: dict[str, float] = {}


def weights(rows: int, columns: int, seed: int) -> torch.Tensor:
    """float32 [rows, columns]: normal numbers, a row of zeros, one of tiny and one of large numbers."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=generator)
    values[0] = 0.0
    values[1] *= 1e-6
    values[2] *= 1e3
    return values


def timed(name: str, decode: Callable[[], object]) -> None:
    """Note the best of three processor times that the authority takes for a case, if they are asked for."""
    if SPEED and name not in SECONDS:
        torch.set_num_threads(1)
        times = []
        for _ in range(3):
            began = time.process_time()
            decode()
            times.append(time.process_time() - began)
        SECONDS[name] = min(times)


def add(name: str, section: dict | None, stored: dict, expected: dict, profile: str, **config: object) -> None:
    """Write a case; a second call of the same name adds what the same files give by another profile."""
    folder = OUT / name
    if name not in CASES:
        folder.mkdir(parents=True)
        whole = {"model_type": "llama", "torch_dtype": "bfloat16", **config}
        if section is not None:
            whole["quantization_config"] = section
        (folder / "config.json").write_text(json.dumps(whole, indent=1), encoding="utf-8")
        plain = {"model.norm.weight": torch.arange(8, dtype=torch.bfloat16)}
        save({**plain, **stored}, folder / "model.safetensors")
    file = f"{name}.{len(CASES.get(name, {}))}.expected.safetensors"
    save(expected, OUT / file)
    CASES.setdefault(name, {})[profile] = file


def save(tensors: dict, path: Path) -> None:
    save_file({key: value.detach().contiguous().clone() for key, value in tensors.items()}, path)


def finish(authority: str) -> None:
    """Write the list of cases."""
    text = json.dumps({"authority": authority, "cases": CASES, "seconds": SECONDS}, indent=1)
    (OUT / "cases.json").write_text(text, encoding="utf-8")
