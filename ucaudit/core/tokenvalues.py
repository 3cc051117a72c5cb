"""The per-token files: all that is needed to recompute every statistic, and no text.

``nll-reference.safetensors``, ``nll-pack.safetensors``
    ``logprob`` F32 [n, t]: natural-log probability of the true token; ``window`` I64 [n]: window indexes.
``pair.safetensors``
    ``kl`` F32 [n, t]: KL(reference‖pack) in nats over the whole vocabulary; ``top1`` U8 [n, t]: 1 where the most
    likely tokens agree; ``window`` I64 [n].

Where several packs are measured on the same windows (docs/floors.md) there is the reference's file as above, and
one file a run: ``logprob``, ``kl``, ``top1`` and ``window``.

Where the text says which document a window comes from, all three files also hold ``document`` I64 [n]: the number
of the row that holds most of the window's tokens.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
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
        documents: the document each window comes from, where the text says so.
    """

    windows: tuple[int, ...]
    tokens: int
    reference: array[float]
    pack: array[float]
    kl: array[float]
    top1: array[int]
    documents: tuple[int, ...] | None = None

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
        if any(b <= a for a, b in pairwise(self.windows)) or self.windows[0] < 0:
            raise MalformedRecordError("window indexes are not ascending", subject=subject)
        if self.documents is not None:
            # Windows are cut from one stream, so their documents cannot go back.
            falling = any(b < a for a, b in pairwise(self.documents))
            if len(self.documents) != self.n or falling or self.documents[0] < 0:
                raise MalformedRecordError("document numbers are not one a window, ascending", subject=subject)
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
    shape, places = (values.n, values.tokens), _where(values)
    write(directory / REFERENCE_FILE, {"logprob": ("F32", shape, _floats(values.reference)), **places})
    write(directory / PACK_FILE, {"logprob": ("F32", shape, _floats(values.pack)), **places})
    pair = {"kl": ("F32", shape, _floats(values.kl)), "top1": ("U8", shape, values.top1.tobytes())}
    write(directory / PAIR_FILE, {**pair, **places})
    return {name: sha256_file(directory / name) for name in FILES}


def _where(values: TokenValues) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    places: dict[str, tuple[str, tuple[int, ...], bytes]] = {
        "window": ("I64", (values.n,), _bytes(array("q", values.windows)))
    }
    if values.documents is not None:
        places["document"] = ("I64", (values.n,), _bytes(array("q", values.documents)))
    return places


def load(directory: Path) -> TokenValues:
    """Read and check the three files.

    Raises:
        NotFoundError: one is missing.
        MalformedRecordError: one is malformed, or they do not belong together.
    """
    reference, places, tokens = _read(directory / REFERENCE_FILE, {"logprob": "F32"})
    pack, pack_places, pack_tokens = _read(directory / PACK_FILE, {"logprob": "F32"})
    pair, pair_places, pair_tokens = _read(directory / PAIR_FILE, {"kl": "F32", "top1": "U8"})
    if not (places == pack_places == pair_places and tokens == pack_tokens == pair_tokens):
        raise MalformedRecordError("the three per-token files are not of one measurement", subject=str(directory))
    return TokenValues(
        windows=places["window"],
        tokens=tokens,
        reference=_array("f", reference["logprob"]),
        pack=_array("f", pack["logprob"]),
        kl=_array("f", pair["kl"]),
        top1=_array("B", pair["top1"]),
        documents=places.get("document"),
    ).check(subject=str(directory))


def save_reference(path: Path, values: TokenValues) -> str:
    """Write the reference's file alone, once for several runs; its SHA-256. Raises as :func:`save`."""
    values.check(subject=str(path))
    logprob = ("F32", (values.n, values.tokens), _floats(values.reference))
    write(path, {"logprob": logprob, **_where(values)})
    return sha256_file(path)


def save_run(path: Path, values: TokenValues) -> str:
    """Write what was measured of one pack as one file; its SHA-256. Raises as :func:`save`."""
    values.check(subject=str(path))
    shape = (values.n, values.tokens)
    tensors = {
        "logprob": ("F32", shape, _floats(values.pack)),
        "kl": ("F32", shape, _floats(values.kl)),
        "top1": ("U8", shape, values.top1.tobytes()),
    }
    write(path, {**tensors, **_where(values)})
    return sha256_file(path)


def load_run(reference: Path, run: Path) -> TokenValues:
    """Read and check a run and the reference's file that goes with it.

    Raises:
        NotFoundError: one is missing.
        MalformedRecordError: one is malformed, or they do not belong together.
    """
    first, places, tokens = _read(reference, {"logprob": "F32"})
    own, own_places, own_tokens = _read(run, {"logprob": "F32", "kl": "F32", "top1": "U8"})
    if places != own_places or tokens != own_tokens:
        raise MalformedRecordError(f"it is not on the windows of {reference.name}", subject=str(run))
    return TokenValues(
        windows=places["window"],
        tokens=tokens,
        reference=_array("f", first["logprob"]),
        pack=_array("f", own["logprob"]),
        kl=_array("f", own["kl"]),
        top1=_array("B", own["top1"]),
        documents=places.get("document"),
    ).check(subject=str(run))


def join(parts: Sequence[TokenValues], *, subject: str = "values") -> TokenValues:
    """One set of values from several with disjoint windows, in any order.

    Raises:
        MalformedRecordError: window lengths differ, only some know their documents, or a window is there twice.
    """
    first = parts[0]
    if any(part.tokens != first.tokens for part in parts):
        raise MalformedRecordError("the parts' windows differ in length", subject=subject)
    if any((part.documents is None) != (first.documents is None) for part in parts):
        raise MalformedRecordError("only some of the parts know their documents", subject=subject)
    order = sorted(
        (window, number, row) for number, part in enumerate(parts) for row, window in enumerate(part.windows)
    )
    twice = [a[0] for a, b in pairwise(order) if a[0] == b[0]]
    if twice:
        raise MalformedRecordError(f"window {twice[0]} is there twice", subject=subject)
    columns: dict[str, array[Any]] = {name: array("f") for name in ("reference", "pack", "kl")}
    columns["top1"] = array("B")
    documents = []
    for _, number, row in order:
        part, begin = parts[number], row * first.tokens
        for name, column in columns.items():
            column.extend(getattr(part, name)[begin : begin + first.tokens])
        if part.documents is not None:
            documents.append(part.documents[row])
    return TokenValues(
        windows=tuple(window for window, _, _ in order),
        tokens=first.tokens,
        reference=columns["reference"],
        pack=columns["pack"],
        kl=columns["kl"],
        top1=columns["top1"],
        documents=tuple(documents) if first.documents is not None else None,
    ).check(subject=subject)


_PLACES: Final[tuple[str, ...]] = ("window", "document")
_Read = tuple[dict[str, bytes], dict[str, tuple[int, ...]], int]


def _read(path: Path, wanted: dict[str, str]) -> _Read:
    """A file's tensors of values, where its windows lie, and how many values each has."""
    with open_regular(path) as handle:
        try:
            return _read_open(handle, {**wanted, "window": "I64"}, str(path))
        except MalformedPackError as error:  # a per-token file is part of a record, not of a pack
            raise MalformedRecordError(error.message, subject=error.subject) from error


def _read_open(handle: BinaryIO, wanted: dict[str, str], subject: str) -> _Read:
    tensors = read_header(handle, subject=subject).tensors
    if set(tensors) - {"document"} != set(wanted):
        raise MalformedRecordError(f"expected the tensors {', '.join(wanted)}", subject=subject)
    for name, info in tensors.items():
        if info.dtype != wanted.get(name, "I64"):
            expected = wanted.get(name, "I64")
            raise MalformedRecordError(f"{name} is {info.dtype}, expected {expected}", subject=subject)
    shapes = {info.shape for name, info in tensors.items() if name not in _PLACES}
    shape = shapes.pop()
    if shapes or len(shape) != 2 or any(tensors[name].shape != shape[:1] for name in _PLACES if name in tensors):
        raise MalformedRecordError("the tensors do not have one shape [n, t]", subject=subject)
    if shape[0] * shape[1] > MAX_TOKENS:
        raise MalformedRecordError(f"{shape[0] * shape[1]} tokens, at most {MAX_TOKENS}", subject=subject)
    data = {name: read_tensor(handle, info, subject=subject) for name, info in tensors.items()}
    places = {name: tuple(_array("q", data.pop(name))) for name in _PLACES if name in data}
    return data, places, shape[1]


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
