"""A real ``ucq`` pack of a few kilobytes, made and decoded by hand, for tests that must not wait for torch.

One compressed weight of 16 × 64 with 5 bits a code, and one tensor stored as it is. All scales are 1, so a decoded
weight is the level itself, a small whole number, which bf16 holds exactly.
"""

from __future__ import annotations

import io
import struct

from ucaudit.core import strictjson, tensorfile
from ucaudit.core.digest import StateEntry, StateManifest, sha256_hex
from ucaudit.core.records import BitsPerWeight, Tool
from ucaudit.packs.manifest import ARITHMETIC_PROFILE, FileClaim, RawTensor, Source, UcqManifest, UcqTensor

ROWS, COLUMNS, BITS, GROUP = 16, 64, 5, 64
TENSORS = "layer-00000.safetensors"
UNCLAIMED = {"notes/.hidden": b"?"}


def bf16(values) -> bytes:
    """Small whole numbers as little-endian bf16: the upper half of a float32."""
    return b"".join(struct.pack("<f", value)[2:] for value in values)


def tiny_state() -> StateManifest:
    """What the pack decodes to."""
    weights = [_code(row, column) - 2 ** (BITS - 1) for row in range(ROWS) for column in range(COLUMNS)]
    return StateManifest.build(
        [
            StateEntry("model.norm", "BF16", (COLUMNS,), sha256_hex(bf16([1] * COLUMNS))),
            StateEntry("model.w", "BF16", (ROWS, COLUMNS), sha256_hex(bf16(weights))),
        ]
    )


def _code(row: int, column: int) -> int:
    return (7 * row + 3 * column) % 2**BITS


def _codes() -> bytes:
    packed = b""
    for row in range(ROWS):
        stream = sum(_code(row, column) << (BITS * column) for column in range(COLUMNS))
        packed += stream.to_bytes(COLUMNS * BITS // 8, "little")
    return packed


def _container() -> bytes:
    half = 2 ** (BITS - 1)
    container = io.BytesIO()
    tensorfile.write(
        container,
        {
            "model.w.codes": ("U8", (ROWS, COLUMNS * BITS // 8), _codes()),
            "model.w.levels": ("I8", (2**BITS,), struct.pack(f"<{2**BITS}b", *range(-half, half))),
            "model.w.scales": ("F16", (ROWS, 1), struct.pack("<e", 1.0) * ROWS),
            "model.norm": ("BF16", (COLUMNS,), bf16([1] * COLUMNS)),
        },
    )
    return container.getvalue()


def tiny_bits() -> BitsPerWeight:
    """Bits a weight: nominal, and counted on the files."""
    compressed = 8 * (ROWS * COLUMNS * BITS // 8 + 2**BITS + 2 * ROWS) / (ROWS * COLUMNS)
    whole = 8 * len(_container()) / (ROWS * COLUMNS + COLUMNS)
    return BitsPerWeight(nominal=float(BITS), compressed_on_disk=compressed, whole_on_disk=whole)


def tiny_pack(*, state: StateManifest | None = None) -> dict[str, bytes]:
    """The files by path. ``state``: what it publishes instead of the truth."""
    published = (state or tiny_state()).to_bytes()
    claimed = {"STATE": published, TENSORS: _container()}
    parameters = ROWS * COLUMNS + COLUMNS
    manifest = UcqManifest(
        format="ucq",
        format_version=1,
        codec="ucq",
        codec_version=1,
        arithmetic_profile=ARITHMETIC_PROFILE,
        name="pack",
        created_by=Tool(name="ucaudit", version="0.0.0"),
        settings={"bits": BITS, "group": GROUP},
        source=Source(
            name="reference",
            state_digest=None,
            files_digest=None,
            source=None,
            revision=None,
            license="Apache-2.0",
            note=None,
        ),
        calibration=None,
        bits_per_weight=tiny_bits(),
        parameters=parameters,
        compressed_parameters=ROWS * COLUMNS,
        state_digest=sha256_hex(published),
        ties=(),
        files=tuple(
            FileClaim(path=path, sha256=sha256_hex(data), size=len(data)) for path, data in claimed.items()
        ),
        tensors=(
            RawTensor(name="model.norm", file=TENSORS, kind="raw", dtype="BF16", shape=(COLUMNS,)),
            UcqTensor(
                name="model.w",
                file=TENSORS,
                kind="ucq",
                dtype="BF16",
                shape=(ROWS, COLUMNS),
                bits=BITS,
                group=GROUP,
                rank=0,
                zeros=False,
            ),
        ),
    )
    document = manifest.model_dump(mode="json", by_alias=True)
    return {"manifest.json": strictjson.dumps(document) + b"\n", **claimed, **UNCLAIMED}
