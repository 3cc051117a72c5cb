"""A second decoder of the ucq pack format, from docs/pack-format.md alone, and a writer of test packs.

It shares no code with ucaudit's decoder: bit streams are read as Python integers, the arithmetic is done once
in exact fractions with explicit rounding, and once in numpy float32, one operation at a time. Run as a
program, it prints the test vectors.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from ucaudit.core import tensorfile
from ucaudit.core.digest import StateEntry, StateManifest

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}


@dataclass
class Stored:
    """The stored parts of one compressed tensor, as numpy arrays in their own dtypes (bf16 as uint16)."""

    shape: tuple[int, ...]
    bits: int
    group: int
    codes: np.ndarray
    levels: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None = None
    u: np.ndarray | None = None
    v: np.ndarray | None = None
    rows: np.ndarray | None = None
    cols: np.ndarray | None = None

    @property
    def rank(self) -> int:
        return 0 if self.u is None else self.u.shape[1]

    def parts(self) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
        arrays = {
            "codes": ("U8", self.codes),
            "levels": ("I8", self.levels),
            "scales": ("F16", self.scales),
            "zeros": ("I8", self.zeros),
            "overlay_u": ("I8", self.u),
            "overlay_v": ("I8", self.v),
            "overlay_rows": ("BF16", self.rows),
            "overlay_cols": ("BF16", self.cols),
        }
        return {
            suffix: (dtype, array.shape, array.tobytes())
            for suffix, (dtype, array) in arrays.items()
            if array is not None
        }


# --- reading codes ---------------------------------------------------------------------------------------
def pack_row(codes: list[int], bits: int) -> bytes:
    """Eight codes take ``bits`` bytes; the row is one little-endian integer, element 0 lowest."""
    blocks = -(-len(codes) // 8)
    value = 0
    for index, code in enumerate(codes):
        value |= code << (bits * index)
    return value.to_bytes(blocks * bits, "little")


def unpack_row(data: bytes, bits: int, columns: int) -> list[int]:
    value = int.from_bytes(data, "little")
    return [value >> (bits * index) & ((1 << bits) - 1) for index in range(columns)]


# --- exact arithmetic ------------------------------------------------------------------------------------
def rounded(value: Fraction, precision: int, lowest: int = -126) -> Fraction:
    """To nearest, ties to even, ``precision`` significant bits, exponent not below ``lowest`` (subnormal)."""
    if value == 0:
        return value
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, lowest) - precision + 1)
    count, rest = divmod(size, unit)
    count += rest * 2 > unit or (rest * 2 == unit and count % 2)
    return (1 if value > 0 else -1) * count * unit


def float32(value: Fraction) -> Fraction:
    return rounded(value, 24)


def bf16_value(pattern: int) -> Fraction:
    return Fraction(struct.unpack("<f", struct.pack("<I", pattern << 16))[0])


def bf16_pattern(value: Fraction, negative_zero: bool) -> int:
    """The bit pattern of a number that is exactly a bfloat16."""
    if value == 0:
        return 0x8000 if negative_zero else 0
    word = struct.unpack("<I", struct.pack("<f", float(value)))[0]
    assert word & 0xFFFF == 0
    return word >> 16


def decode_exact(stored: Stored) -> list[int]:
    """bfloat16 patterns in row-major order, every step in fractions. Signs of zero follow IEEE 754 §6.3."""
    columns = stored.shape[-1]
    result = []
    for r in range(stored.codes.shape[0]):
        row = unpack_row(stored.codes[r].tobytes(), stored.bits, columns)
        for c, code in enumerate(row):
            g = c // stored.group
            q = int(stored.levels[code]) - (int(stored.zeros[r, g]) if stored.zeros is not None else 0)
            m = Fraction(q) * Fraction(float(stored.scales[r, g]))
            assert float32(m) == m, "the profile says that this product is exact"
            minus = q < 0  # also of the zero that a negative integer and a zero scale make
            total = m
            if stored.rank:
                product = sum(int(a) * int(b) for a, b in zip(stored.u[r], stored.v[:, c], strict=True))
                first = float32(product * bf16_value(int(stored.rows[r])))
                second = float32(first * bf16_value(int(stored.cols[c])))
                other = (product < 0) ^ bool(stored.rows[r] >> 15) ^ bool(stored.cols[c] >> 15)
                total = float32(m + second)
                # A sum is −0 only if both addends are; an exact cancellation gives +0.
                minus = minus and other if m == second == 0 else total < 0
            result.append(bf16_pattern(rounded(total, 8), minus))
    return result


# --- numpy float32, one operation at a time --------------------------------------------------------------
def bf16_array(patterns: np.ndarray) -> np.ndarray:
    return (patterns.astype(np.uint32) << 16).view(np.float32)


def decode_numpy(stored: Stored) -> np.ndarray:
    """bfloat16 patterns as uint16 [rows, columns]."""
    columns = stored.shape[-1]
    codes = np.array([unpack_row(row.tobytes(), stored.bits, columns) for row in stored.codes])
    spread = np.arange(columns) // stored.group
    q = stored.levels.astype(np.int32)[codes]
    if stored.zeros is not None:
        q = q - stored.zeros.astype(np.int32)[:, spread]
    m = q.astype(np.float32) * stored.scales.astype(np.float32)[:, spread]
    # An integer zero has no sign: 0 · scale is +0, and q.astype gives +0 as the format demands.
    if stored.rank:
        # Through integers, so that a zero sum is +0.
        product = (stored.u.astype(np.int64) @ stored.v.astype(np.int64)).astype(np.float32)
        a = np.multiply(product, bf16_array(stored.rows)[:, None], dtype=np.float32)
        b = np.multiply(a, bf16_array(stored.cols)[None, :], dtype=np.float32)
        m = np.add(m, b, dtype=np.float32)
    wide = m.astype(np.float64)  # rounding by value, not by bit tricks: spacing of bfloat16 around each number
    exponent = np.maximum(np.frexp(wide)[1] - 1, -126)
    unit = np.ldexp(1.0, exponent - 7)
    value = (np.rint(wide / unit) * unit).astype(np.float32)
    value = np.copysign(value, m)
    return (value.view(np.uint32) >> 16).astype(np.uint16)


# --- packs -----------------------------------------------------------------------------------------------
def random_stored(
    seed: int,
    shape: tuple[int, ...],
    *,
    bits: int = 5,
    group: int = 8,
    rank: int = 0,
    zeros: bool = False,
    uniform: bool = True,
    spread: int = 6,
) -> Stored:
    """Random parts. ``spread`` is how many powers of two the scales and factors range over, each way."""
    rng = np.random.default_rng(seed)
    columns = shape[-1]
    rows = int(np.prod(shape[:-1]))
    groups = -(-columns // group)
    half = 1 << (bits - 1)
    levels = (
        np.arange(-half, half, dtype=np.int8) if uniform else rng.integers(-128, 128, size=2 * half).astype(np.int8)
    )
    codes = [pack_row([int(code) for code in rng.integers(0, 2 * half, columns)], bits) for _ in range(rows)]
    scales = np.ldexp(rng.uniform(0.5, 1, (rows, groups)), rng.integers(-spread, spread + 1, (rows, groups)) - 6)

    def factor(size: int) -> np.ndarray:
        values = np.ldexp(rng.uniform(-1, 1, size), rng.integers(-spread, spread + 1, size) - 6).astype(np.float32)
        return (values.view(np.uint32) >> 16).astype(np.uint16)

    return Stored(
        shape,
        bits,
        group,
        np.frombuffer(b"".join(codes), dtype=np.uint8).reshape(rows, -1),
        levels,
        scales.astype(np.float16),
        rng.integers(-128, 128, (rows, groups)).astype(np.int8) if zeros else None,
        rng.integers(-127, 128, (rows, rank)).astype(np.int8) if rank else None,
        rng.integers(-127, 128, (rank, columns)).astype(np.int8) if rank else None,
        factor(rows) if rank else None,
        factor(columns) if rank else None,
    )


def write_pack(
    directory: Path,
    compressed: dict[str, Stored],
    raw: dict[str, tuple[str, tuple[int, ...], bytes]] | None = None,
    *,
    ties: list[list[str]] | None = None,
    state: bytes | None = None,
) -> dict[str, object]:
    """Write a whole pack, its STATE computed by :func:`decode_numpy` unless given; returns the manifest."""
    raw = {} if raw is None else raw
    directory.mkdir(parents=True, exist_ok=True)
    files: dict[str, dict[str, tuple[str, tuple[int, ...], bytes]]] = {}
    claims: list[dict[str, object]] = []
    entries = []
    for name, stored in compressed.items():
        file = (
            f"layer-{int(name.split('.')[2]):05d}.safetensors"
            if name.startswith("model.layers.")
            else "other.safetensors"
        )
        for suffix, part in stored.parts().items():
            files.setdefault(file, {})[f"{name}.{suffix}"] = part
        claims.append(
            {
                "name": name, "file": file, "kind": "ucq", "dtype": "BF16", "shape": list(stored.shape),
                "bits": stored.bits, "group": stored.group, "rank": stored.rank, "zeros": stored.zeros is not None,
            }
        )  # fmt: skip
        if state is None:
            digest = hashlib.sha256(decode_numpy(stored).astype("<u2").tobytes()).hexdigest()
            entries.append(StateEntry(name, "BF16", stored.shape, digest))
    for name, (dtype, shape, data) in raw.items():
        files.setdefault("other.safetensors", {})[name] = (dtype, shape, data)
        claims.append(
            {"name": name, "file": "other.safetensors", "kind": "raw", "dtype": dtype, "shape": list(shape)}
        )
        entries.append(StateEntry(name, dtype, shape, hashlib.sha256(data).hexdigest()))
    for file, tensors in files.items():
        tensorfile.write(directory / file, tensors)
    published = StateManifest.build(entries).to_bytes() if state is None else state
    (directory / "STATE").write_bytes(published)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    parameters = sum(int(np.prod(claim["shape"])) for claim in claims)
    packed = sum(int(np.prod(stored.shape)) for stored in compressed.values())
    stored_bytes = sum(len(part[2]) for stored in compressed.values() for part in stored.parts().values())
    whole = sum((directory / file).stat().st_size for file in files)
    manifest: dict[str, object] = {
        "format": "ucq", "formatVersion": 1, "codec": "ucq", "codecVersion": 1,
        "arithmeticProfile": "ucq-f32-bf16/1", "name": directory.name,
        "createdBy": {"name": "ucq_oracle", "version": "1"}, "settings": {"bits": 5},
        "source": {"name": "random", "stateDigest": None, "filesDigest": None, "source": None,
                   "revision": None, "license": None, "note": None},
        "calibration": None,
        "bitsPerWeight": {"nominal": 5.0, "compressedOnDisk": 8 * stored_bytes / packed if packed else None,
                          "wholeOnDisk": 8 * whole / parameters},
        "parameters": parameters, "compressedParameters": packed,
        "stateDigest": hashlib.sha256(published).hexdigest(), "ties": ties or [],
        "files": [], "tensors": claims,
    }  # fmt: skip
    write_manifest(directory, manifest)
    return manifest


def write_manifest(directory: Path, manifest: dict[str, object]) -> None:
    """Claim every file that is there, then write ``manifest.json``."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != "manifest.json")
    manifest["files"] = [
        {
            "path": path.relative_to(directory).as_posix(),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "size": path.stat().st_size,
        }
        for path in paths
    ]
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1))


# --- vectors ---------------------------------------------------------------------------------------------
def _pattern(value: float) -> int:
    word: int = struct.unpack("<I", struct.pack("<f", value))[0]
    assert word & 0xFFFF == 0, value
    return word >> 16


def by_hand(
    codes: list[list[int]], scales: list[list[float]], *, bits: int, group: int, levels: list[int] | None = None,
    zeros: list[list[int]] | None = None, u: list[list[int]] | None = None, v: list[list[int]] | None = None,
    rows: list[float] | None = None, cols: list[float] | None = None,
) -> Stored:  # fmt: skip
    half = 1 << (bits - 1)
    return Stored(
        (len(codes), len(codes[0])), bits, group,
        np.array([list(pack_row(row, bits)) for row in codes], dtype=np.uint8),
        np.array(levels if levels is not None else range(-half, half), dtype=np.int8),
        np.array(scales, dtype=np.float16),
        np.array(zeros, dtype=np.int8) if zeros is not None else None,
        np.array(u, dtype=np.int8) if u is not None else None,
        np.array(v, dtype=np.int8) if v is not None else None,
        np.array([_pattern(x) for x in rows], dtype=np.uint16) if rows is not None else None,
        np.array([_pattern(x) for x in cols], dtype=np.uint16) if cols is not None else None,
    )  # fmt: skip


def cases() -> dict[str, Stored]:
    """Every published vector."""
    result = {f"bits-{bits}-odd-tail": random_stored(bits, (3, 21), bits=bits, group=8) for bits in range(2, 9)}
    result["group-longer-than-row"] = random_stored(20, (2, 5), bits=5, group=64)
    result["group-of-one"] = random_stored(21, (2, 9), bits=3, group=1)
    result["one-column"] = random_stored(22, (4, 1), bits=5, group=32, rank=2)
    result["zeros-and-levels"] = random_stored(23, (3, 17), bits=6, group=5, zeros=True, uniform=False)
    result["overlay-rank-1"] = random_stored(24, (4, 19), bits=5, group=8, rank=1)
    result["overlay-rank-16"] = random_stored(25, (5, 32), bits=5, group=16, rank=16)
    result["overlay-zeros-levels"] = random_stored(26, (4, 33), bits=7, group=16, rank=5, zeros=True, uniform=False)
    result["experts"] = random_stored(27, (2, 3, 11), bits=4, group=4, rank=3)
    result["signs-of-zero"] = by_hand([[0, 4, 7]], [[0.0]], bits=3, group=8)
    result["signs-of-zero-overlay"] = by_hand(
        [[0, 0, 4, 4]], [[0.0]], bits=3, group=8, u=[[1]], v=[[0, -1, 0, 1]], rows=[2.0**-100], cols=[2.0**-100] * 4
    )
    result["largest-product"] = by_hand([[0, 255]], [[65504.0]], bits=8, group=8, zeros=[[127]])
    result["subnormal-scale"] = by_hand([[0, 1, 2, 3]], [[2.0**-24]], bits=2, group=4)
    result["halfway-to-even"] = by_hand(
        [[129, 131, 1, 255]], [[1.0, 1.0, 1.0, 1.0]], bits=8, group=1, zeros=[[-128, -128, 127, -128]]
    )
    result["subnormal-result"] = by_hand(
        [[4, 4, 4, 4]],
        [[0.0]],
        bits=3,
        group=8,
        u=[[1]],
        v=[[1, 3, -5, 127]],
        rows=[2.0**-70],
        cols=[2.0**-63, 2.0**-64, 2.0**-63, 2.0**-70],
    )
    # fl(fl(P·row)·col) and P·row·col differ, and m cancels the leading digits: contraction shows
    result["cancellation"] = by_hand(
        [[12]], [[60992.0]], bits=8, group=8,
        u=[[127] * 269 + [85]], v=[[127]] * 268 + [[96], [1]], rows=[1.4609375], cols=[1.1171875],
    )  # fmt: skip
    return result


def as_json() -> str:
    vectors = []
    for name, stored in cases().items():
        vectors.append(
            {
                "name": name, "shape": list(stored.shape), "bits": stored.bits, "group": stored.group,
                "rank": stored.rank, "zeros": stored.zeros is not None,
                "parts": {
                    suffix: {"dtype": dtype, "shape": list(shape), "hex": data.hex()}
                    for suffix, (dtype, shape, data) in stored.parts().items()
                },
                "bf16": np.array(decode_exact(stored), dtype="<u2").tobytes().hex(),
            }
        )  # fmt: skip
    return json.dumps({"profile": "ucq-f32-bf16/1", "vectors": vectors}, indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_json())
