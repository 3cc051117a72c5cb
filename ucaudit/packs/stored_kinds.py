"""Which quantisation the stored tensors of a safetensors checkpoint have, from their names, dtypes and shapes.
Light.

What ``config.json`` calls itself is compared with this and never believed alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from ucaudit.core import tensorfile
from ucaudit.core.errors import MalformedPackError
from ucaudit.core.tensorfile import TensorInfo
from ucaudit.packs.opened import OpenedPack

FLOAT8: Final = ("F8_E4M3", "F8_E5M2")
METHODS: Final[dict[str, frozenset[str]]] = {
    "awq": frozenset({"awq"}),
    "bitsandbytes": frozenset({"bitsandbytes"}),
    "compressed-tensors": frozenset({"compressed-tensors"}),
    "fp8": frozenset({"fp8", "fbgemm_fp8"}),
    "gptq": frozenset({"gptq"}),
    "mxfp4": frozenset({"mxfp4"}),
    "nvfp4": frozenset({"modelopt"}),
}
"""Codec → the ``quant_method`` that a checkpoint of it may state."""


def stored_tensors(pack: OpenedPack, files: Sequence[str]) -> dict[str, TensorInfo]:
    """The tensors of some safetensors files by name. Raises MalformedPackError."""
    result: dict[str, TensorInfo] = {}
    for name in files:
        with pack.open(name) as handle:
            result |= tensorfile.read_header(handle, subject=f"{pack.name}/{name}").tensors
    return result


def stored_kinds(tensors: Mapping[str, TensorInfo], method: str | None, *, subject: str) -> dict[str, str]:
    """The codecs whose compressed weights are among the tensors, each with the name of one of them.

    Args:
        tensors: from :func:`stored_tensors`.
        method: what ``config.json`` states; it only tells apart who reads a float8 weight with a scale.
        subject: the pack's name, for errors.

    Raises:
        MalformedPackError: a ``qweight`` that fits neither of the two layouts that have one.
    """
    found: dict[str, str] = {}
    for name, info in tensors.items():
        kind = _kind(name, info, tensors, method, subject)
        if kind is not None:
            found.setdefault(kind, name)
    return found


def _kind(
    name: str, info: TensorInfo, tensors: Mapping[str, TensorInfo], method: str | None, subject: str
) -> str | None:
    module, _, last = name.rpartition(".")
    if last == "qweight":
        return _packed_rows(module, info, tensors, subject)
    if last == "weight_packed":
        return "compressed-tensors"
    if last == "SCB" or ".quant_state.bitsandbytes__" in name:
        return "bitsandbytes"
    if last == "weight_scale_2":
        return "nvfp4"
    if last == "weight_scale_inv":
        return "fp8"
    if last == "weight_scale" and f"{module}.weight" in tensors and f"{module}.weight_scale_2" not in tensors:
        dtype = tensors[f"{module}.weight"].dtype
        if dtype in FLOAT8:
            return "compressed-tensors" if method == "compressed-tensors" else "fp8"
        return "compressed-tensors" if dtype == "I8" else None
    if name.endswith("_blocks") and f"{name.removesuffix('_blocks')}_scales" in tensors and info.dtype == "U8":
        return "mxfp4"
    return None


def _packed_rows(module: str, info: TensorInfo, tensors: Mapping[str, TensorInfo], subject: str) -> str:
    scales = tensors.get(f"{module}.scales")
    rows = scales.shape[-1] if scales is not None and scales.shape else 0
    if len(info.shape) == 2 and rows:
        if info.shape[1] == rows:
            return "gptq"
        if info.shape[1] * 8 == rows:
            return "awq"
    raise MalformedPackError(
        f"tensor {info.name!r} {list(info.shape)} with scales {list(scales.shape) if scales else 'missing'} "
        "is neither gptq nor awq",
        subject=subject,
    )
