"""llama.cpp's own quantisers and dequantisers on one matrix, by ctypes on its library ``ggml-base``."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import torch

_C: Final = ("ggml.c", "ggml-quants.c", "ggml-alloc.c")
_CPP: Final = (
    "ggml.cpp",
    "ggml-backend.cpp",
    "ggml-backend-meta.cpp",
    "ggml-opt.cpp",
    "ggml-threading.cpp",
    "gguf.cpp",
)

TYPES: Final = {"Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13}
FALLBACK: Final = {"Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1"}
"""What llama.cpp takes where a row is no multiple of 256 columns (``llama_tensor_get_type`` of its quantiser)."""


def build(source: Path, out: Path) -> Path:
    """Compile ``libggml-base.so`` from llama.cpp's source tree into the directory ``out``; takes seconds."""
    out.mkdir(parents=True, exist_ok=True)
    library = out / "libggml-base.so"
    if library.exists():
        return library
    # What its build system would generate.
    (out / "ggml-version.h").write_text('#define GGML_VERSION "0"\n#define GGML_COMMIT "0"\n', encoding="utf-8")
    flags = ["-O3", "-march=native", "-w", "-fPIC", "-D_GNU_SOURCE", f"-I{out}"]
    flags += [f"-I{source / 'ggml' / part}" for part in ("include", "src")]

    def compile_file(name: str) -> str:
        compiler = ["gcc"] if name.endswith(".c") else ["g++", "-std=c++17"]
        target = str(out / f"{name}.o")
        subprocess.run([*compiler, *flags, "-c", source / "ggml" / "src" / name, "-o", target], check=True)
        return target

    with ThreadPoolExecutor() as pool:
        objects = list(pool.map(compile_file, (*_C, *_CPP)))
    subprocess.run(["g++", "-shared", "-o", library, *objects, "-lpthread", "-lm"], check=True)
    return library


class Ggml:
    """The library, loaded.

    Args:
        path: of ``libggml-base.so``.
    """

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.ggml_quantize_chunk.restype = ctypes.c_size_t
        self._library.ggml_quantize_init.argtypes = [ctypes.c_int]
        self._library.ggml_row_size.restype = ctypes.c_size_t
        self._library.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
        self._library.ggml_get_type_traits.restype = ctypes.POINTER(_Traits)

    def round_trip(
        self, weight: torch.Tensor, kind: str, importance: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, int, str]:
        """Quantise a matrix and take it back.

        Args:
            weight: [rows, columns].
            kind: one of :data:`TYPES`.
            importance: mean squares of the inputs, float32 [columns] (llama.cpp's "imatrix"); None for none.

        Returns:
            float32 [rows, columns], the bytes it took, and the type that was really used.
        """
        columns = weight.shape[1]
        if kind.endswith("_K") and columns % 256:
            kind = FALLBACK[kind]
        if columns % 32:  # no block fits: llama.cpp stores such a matrix in half precision
            return weight.half().float(), 2 * weight.numel(), "F16"
        stored = self.quantise(weight, TYPES[kind], importance)
        return self.dequantise(stored, TYPES[kind], weight.shape), len(stored), kind

    def quantise(self, weight: torch.Tensor, number: int, importance: torch.Tensor | None = None) -> bytes:
        """A matrix's blocks of the ggml type ``number``, which must fit its columns."""
        rows, columns = weight.shape
        self._library.ggml_quantize_init(number)
        source = weight.float().contiguous()
        size = int(self._library.ggml_row_size(number, columns)) * rows
        stored = ctypes.create_string_buffer(size)
        mass = None if importance is None else importance.float().contiguous()
        made = self._library.ggml_quantize_chunk(
            ctypes.c_int(number),
            ctypes.c_void_p(source.data_ptr()),
            stored,
            ctypes.c_int64(0),
            ctypes.c_int64(rows),
            ctypes.c_int64(columns),
            ctypes.c_void_p(None if mass is None else mass.data_ptr()),
        )
        if made != size:
            raise RuntimeError(f"ggml wrote {made} bytes, expected {size}")
        return stored.raw[:size]

    def dequantise(self, stored: bytes, number: int, shape: Sequence[int]) -> torch.Tensor:
        """ggml's own float32 of some blocks."""
        result = torch.empty(tuple(shape), dtype=torch.float32)
        traits = self._library.ggml_get_type_traits(number).contents
        traits.to_float(stored, ctypes.c_void_p(result.data_ptr()), ctypes.c_int64(result.numel()))
        return result


class _Traits(ctypes.Structure):
    """The head of ``struct ggml_type_traits``."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )
