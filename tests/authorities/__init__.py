"""The formats' own encoders and decoders, each run by a script here in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from oracles import OracleAbsentError, locked, make_environment, oracle_directory, run_within
from safetensors.torch import load_file

from ucaudit.packs.codecs import open_source

HERE = Path(__file__).parent
BUDGET = 300.0
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "compressed_tensors": ("compressed-tensors==0.20.1",),
    "compressed_tensors_order": ("compressed-tensors==0.12.2",),
    "bitsandbytes": ("bitsandbytes==0.50.2",),
    "transformers": (),
    "sources": (),
}
"""Script → what its environment has besides this one's torch; nothing: this one does."""
SOURCES = {"gptqmodel": "7.7.0", "autoawq": "0.2.9", "nvidia-modelopt": "0.47.0"}
"""Releases of which ``run_sources.py`` loads some modules: installing them whole takes a GPU's toolkit."""
_WIDTHS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def source_release(package: str, release: str) -> Path:
    """The unpacked files of a release on PyPI, downloaded once; nothing of it is installed.

    Raises:
        OracleAbsentError: it cannot be had.
    """
    base = oracle_directory()
    place = base / f"source-{package}-{release}"
    with locked(base / f"source-{package}.lock"):
        if place.exists():
            return place
        with tempfile.TemporaryDirectory(dir=base) as folder:
            command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
            # pip prepares the metadata of what it downloads; AutoAWQ's set-up wants to see torch for that.
            command += ["--no-build-isolation"] if package == "autoawq" else []
            run_within(time.monotonic() + BUDGET, package, [*command, "--dest", folder, f"{package}=={release}"])
            [archive] = Path(folder).iterdir()
            inside = Path(folder) / "inside"
            if archive.suffix == ".whl":
                with zipfile.ZipFile(archive) as members:
                    members.extractall(inside)
                inside.replace(place)
            else:
                with tarfile.open(archive) as tar:
                    tar.extractall(inside, filter="data")
                next(inside.iterdir()).replace(place)
    return place


def run(name: str, out: Path, tensors: int = 10, *, budget: float = BUDGET) -> dict[str, Any]:
    """Let an authority write packs and what it decodes from them.

    Args:
        name: a key of :data:`ENVIRONMENTS`.
        out: an empty directory.
        tensors: packs a type.
        budget: seconds, environment included.

    Returns:
        ``{"authority": text, "cases": {case: {profile: file}}}``; see ``packs.py``.

    Raises:
        OracleAbsentError: its environment cannot be made, or it took too long.
    """
    end = time.monotonic() + budget
    python = Path(sys.executable)
    if ENVIRONMENTS[name]:
        environment = name.replace("_", "-")
        python = make_environment(environment, ENVIRONMENTS[name], share=True, budget=budget) / "bin" / "python"
    arguments: list[str] = [str(python), str(HERE / f"run_{name}.py"), str(out), str(tensors)]
    if name == "sources":
        arguments += [str(source_release(package, release)) for package, release in SOURCES.items()]
    surroundings = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    try:
        done = subprocess.run(
            arguments,
            capture_output=True,
            text=True,
            check=False,
            timeout=max(1.0, end - time.monotonic()),
            env=surroundings,
        )
    except subprocess.TimeoutExpired as error:
        raise OracleAbsentError(f"{name} took longer than {budget:.0f} s") from error
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads((out / "cases.json").read_text(encoding="utf-8"))
    return result


def differences(out: Path, cases: dict[str, dict[str, str]], names: Sequence[str] | None = None) -> list[str]:
    """A sentence for each tensor of the cases of which our bits are not the authority's."""
    found = []
    for name in cases if names is None else names:
        for profile, file in cases[name].items():
            with open_source(out / name, profile=profile) as source:
                for tensor, wanted in load_file(out / file).items():
                    ours, width = source.load(tensor), _WIDTHS[wanted.element_size()]
                    if ours.dtype != wanted.dtype or ours.shape != wanted.shape:
                        found.append(f"{name} {profile}: {ours.dtype} {ours.shape}, {wanted.dtype} {wanted.shape}")
                    elif not torch.equal(ours.view(width), wanted.view(width)):
                        wrong = int((ours.view(width) != wanted.view(width)).sum())
                        found.append(f"{name} {profile}: {wrong} of {wanted.numel()} elements differ")
    return found
