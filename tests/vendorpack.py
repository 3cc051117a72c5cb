"""A small pack in the vendor's layout, made up: its payload is noise."""

from __future__ import annotations

import json
from pathlib import Path

MANIFEST = {
    "uc_pack_version": 1,
    "bpw": 5.0,
    "n_layers": 2,
    "aux_file": "aux.uc",
    "base_model_hf_id": "Qwen/Qwen3-0.6B",
}


def write(directory: Path, *, manifest: object = None, files: dict[str, bytes] | None = None) -> Path:
    """Write it; ``files`` adds or replaces files, and leaves out those whose value is None."""
    directory.mkdir(parents=True)
    content: dict[str, bytes | None] = {
        "manifest.json": json.dumps(MANIFEST if manifest is None else manifest).encode(),
        "layer_000.uc": b"first",
        "layer_001.uc": b"second",
        "aux.uc": b"aux",
        "config.json": b"{}",
        **(files or {}),
    }
    for name, data in content.items():
        if data is not None:
            (directory / name).write_bytes(data)
    return directory
