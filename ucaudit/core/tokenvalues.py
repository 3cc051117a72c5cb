"""The per-token files: all that is needed to recompute every statistic, and no text.

``nll-reference.safetensors``, ``nll-pack.safetensors``
    ``logprob`` F32 [n, t]: natural-log probability of the true token; ``window`` I64 [n]: window indexes.
``pair.safetensors``
    ``kl`` F32 [n, t]: KL(reference‖pack) in nats over the whole vocabulary; ``top1`` U8 [n, t]: 1 where the most
    likely tokens agree; ``window`` I64 [n].
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from ucaudit.core.digest import sha256_file
from ucaudit.core.errors import MalformedPackError, MalformedRecordError
from ucaudit.core.files import open_regular
from ucaudit.core.tensorfile import read_header, read_tensor, write

REFERENCE_FILE: Final = "nll-reference.safetensors"
PACK_FILE: Final = "nll-pack.safetensors"
PAIR_FILE: Final = "pair.safetensors"
FILES: Final = (REFERENCE_FILE, PACK_FILE, PAIR_FILE)
MAX_TOKENS: Final = 1 << 26
MAX_MEAN: Final = 700.0
"""Nats a token, absolute. Past it a perplexity, exp(mean), is more than a double can hold."""
# A log-softmax in fp32 whose normaliser was rounded down can put a probability of 1 some ulps above 1. A KL summed
# in fp64 from two such log-softmaxes is off by p-weighted rounding: at most 2⁻²⁴ · (a few times ln of the
# vocabulary size) ≈ 3e-6. So 1e-5 lets rounding through, and stops what is no rounding: a truncated log-probability
# (a uint16 coding gives KLs near -1e-3), a logit instead of a log-probability, a swapped sign.
_ROUNDING: Final = 1e-5


@dataclass(frozen=True)
class TokenValues:
    """Values of n windows of t scored tokens each; the arrays are row-major, length n · t.

    Attributes:
        windows: ascending window indexes in the corpus.
        tokens: t, scored tokens a window.
        reference, pack: log-probabilities of the true tokens, nats, fp32 values.
        kl: KL(reference‖pack), nats, fp32 values.
        top1: 1 where the top-1 tokens agree, else 0.
    """

    windows: tuple[int, ...]
    tokens: int
    reference: array[float]
    pack: array[float]
    kl: array[float]
    top1: array[int]

    @property
    def n(self) -> int:
        """The number of windows."""
        return len(self.windows)

    def rows(self, values: array[float] | array[int]) -> list[Sequence[float]]:
        """One slice a window."""
        return [values[index * self.tokens : (index + 1) * self.tokens] for index in range(self.n)]

    def check(self, *, subject: str) -> TokenValues:
        """Refuse values that no measurement gives.

        Raises:
            MalformedRecordError: wrong lengths, windows not ascending, a value that is not finite or out of range,
                named by window and position.
        """
        count = self.n * self.tokens
        if not self.windows or self.tokens < 1:
            raise MalformedRecordError("no windows", subject=subject)
        if any(len(values) != count for values in (self.reference, self.pack, self.kl, self.top1)):
            raise MalformedRecordError("the values do not have one shape", subject=subject)
        if any(b <= a for a, b in zip(self.windows, self.windows[1:], strict=False)) or self.windows[0] < 0:
            raise MalformedRecordError("window indexes are not ascending", subject=subject)
        self._check_range("reference log-probability", self.reference, -math.inf, _ROUNDING, subject)
        self._check_range("pack log-probability", self.pack, -math.inf, _ROUNDING, subject)
        self._check_range("kl divergence", self.kl, -_ROUNDING, math.inf, subject)
        if max(self.top1) > 1:
            index = next(index for index, value in enumerate(self.top1) if value > 1)
            raise MalformedRecordError(f"top1 is neither 0 nor 1 {self._place(index)}", subject=subject)
        return self

    def _check_range(self, name: str, values: array[float], low: float, high: float, subject: str) -> None:
        # A sum of fp32 values fits a double, so it is finite exactly if they all are: faster than asking each.
        if not (math.isfinite(sum(values)) and min(values) >= low and max(values) <= high):
            for index, value in enumerate(values):
                if not (math.isfinite(value) and low <= value <= high):
                    raise MalformedRecordError(f"{name} is {value:.6g} {self._place(index)}", subject=subject)
        average = abs(sum(values)) / len(values)
        if not average <= MAX_MEAN:
            raise MalformedRecordError(
                f"mean {name} of {average:.4g} nats a token, at most {MAX_MEAN:g}", subject=subject
            )

    def _place(self, index: int) -> str:
        window, position = divmod(index, self.tokens)
        return f"in window {self.windows[window]} at token {position}"


def save(directory: Path, values: TokenValues) -> dict[str, str]:
    """Check the values and write the three files; equal values give equal bytes.

    Returns:
        File name → SHA-256.

    Raises:
        MalformedRecordError: as :meth:`TokenValues.check`; nothing is written then.
        OutputError: a file cannot be written.
    """
    values.check(subject=str(directory))
    shape = (values.n, values.tokens)
    window = ("I64", (values.n,), _bytes(array("q", values.windows)))
    write(directory / REFERENCE_FILE, {"logprob": ("F32", shape, _floats(values.reference)), "window": window})
    write(directory / PACK_FILE, {"logprob": ("F32", shape, _floats(values.pack)), "window": window})
    pair = {
        "kl": ("F32", shape, _floats(values.kl)),
        "top1": ("U8", shape, values.top1.tobytes()),
        "window": window,
    }
    write(directory / PAIR_FILE, pair)
    return {name: sha256_file(directory / name) for name in FILES}


def load(directory: Path) -> TokenValues:
    """Read and check the three files.

    Raises:
        NotFoundError: one is missing.
        MalformedRecordError: one is malformed, or they do not belong together.
    """
    reference, windows, tokens = _read(directory / REFERENCE_FILE, {"logprob": "F32"})
    pack, pack_windows, pack_tokens = _read(directory / PACK_FILE, {"logprob": "F32"})
    pair, pair_windows, pair_tokens = _read(directory / PAIR_FILE, {"kl": "F32", "top1": "U8"})
    if not (windows == pack_windows == pair_windows and tokens == pack_tokens == pair_tokens):
        raise MalformedRecordError("the three per-token files are not of one measurement", subject=str(directory))
    return TokenValues(
        windows=windows,
        tokens=tokens,
        reference=_array("f", reference["logprob"]),
        pack=_array("f", pack["logprob"]),
        kl=_array("f", pair["kl"]),
        top1=_array("B", pair["top1"]),
    ).check(subject=str(directory))


def _read(path: Path, wanted: dict[str, str]) -> tuple[dict[str, bytes], tuple[int, ...], int]:
    with open_regular(path) as handle:
        try:
            return _read_open(handle, {**wanted, "window": "I64"}, str(path))
        except MalformedPackError as error:  # a per-token file is part of a record, not of a pack
            raise MalformedRecordError(error.message, subject=error.subject) from error


def _read_open(
    handle: BinaryIO, wanted: dict[str, str], subject: str
) -> tuple[dict[str, bytes], tuple[int, ...], int]:
    tensors = read_header(handle, subject=subject).tensors
    if set(tensors) != set(wanted):
        raise MalformedRecordError(f"expected the tensors {', '.join(wanted)}", subject=subject)
    for name, dtype in wanted.items():
        if tensors[name].dtype != dtype:
            raise MalformedRecordError(f"{name} is {tensors[name].dtype}, expected {dtype}", subject=subject)
    shapes = {info.shape for name, info in tensors.items() if name != "window"}
    shape = shapes.pop()
    if shapes or len(shape) != 2 or tensors["window"].shape != shape[:1]:
        raise MalformedRecordError("the tensors do not have one shape [n, t]", subject=subject)
    if shape[0] * shape[1] > MAX_TOKENS:
        raise MalformedRecordError(f"{shape[0] * shape[1]} tokens, at most {MAX_TOKENS}", subject=subject)
    data = {name: read_tensor(handle, info, subject=subject) for name, info in tensors.items()}
    windows = tuple(_array("q", data.pop("window")))
    return data, windows, shape[1]


def _array(kind: str, data: bytes) -> array[Any]:
    result = array(kind, data)
    if sys.byteorder == "big":
        result.byteswap()
    return result


def _bytes(values: array[int] | array[float]) -> bytes:
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()


def _floats(values: array[float]) -> bytes:
    return _bytes(values if values.typecode == "f" else array("f", values))
