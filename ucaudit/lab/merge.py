"""``measurement.json``, and joining the shares of one measurement into the whole.

A share is a measurement of some of the drawn windows (``--windows A:B``). Its record describes the whole draw, so
two shares fit together exactly if their records are equal but for the digests of their files. What comes out of
joining them all is, byte for byte, what one machine of the same kind would have written. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from ucaudit import __version__
from ucaudit.core import strictjson, tokenvalues
from ucaudit.core.digest import sha256_file
from ucaudit.core.errors import InputError, MalformedRecordError, RefusedError
from ucaudit.core.files import read_limited, require_writable_directory, write_bytes
from ucaudit.core.records import Measurement, NamedDigest, Results
from ucaudit.core.tokenvalues import TokenValues
from ucaudit.evidence.bound import SUMMARY_FILE
from ucaudit.evidence.claims import BOOTSTRAP_SEED, compute_results

__all__ = ["SUMMARY_CONFIDENCE", "SUMMARY_FILE", "Share", "merge", "read_share", "summary_document"]

SUMMARY_FORMAT: Final = "ucaudit-measurement/1"
SUMMARY_CONFIDENCE: Final = 0.95
_MAX_SUMMARY: Final = 64 << 20
_KEYS: Final = frozenset({"format", "tool", "packDigest", "referenceDigest", "windows", "measurement", "share"})
_LISTED: Final = 3
_CONSEQUENCES: Final = frozenset(
    {"bytes", "scoredTokens", "tokens", "tokensDigest", "tolerance", "windowing", "windowsAvailable"}
)
"""Fields that differ because another one does; that one is named first."""


@dataclass(frozen=True)
class Share:
    """One directory of a divided measurement, checked.

    Attributes:
        path: where it lies.
        first, end: which of the drawn windows it holds, by their place in the draw.
        document: its ``measurement.json``.
        record: the measurement in it.
        values: of its windows.
    """

    path: Path
    first: int
    end: int
    document: dict[str, Any]
    record: Measurement
    values: TokenValues


def summary_document(
    record: Measurement,
    results: Results | None,
    *,
    pack_digest: str,
    reference_digest: str,
    windows: Sequence[int],
    share: tuple[int, int] | None = None,
) -> dict[str, object]:
    """What is in ``measurement.json``: with ``results`` for a whole measurement, with ``share`` for a part."""
    document: dict[str, object] = {
        "format": SUMMARY_FORMAT,
        "tool": {"name": "ucaudit", "version": __version__},
        "packDigest": pack_digest,
        "referenceDigest": reference_digest,
        "windows": list(windows),
        "measurement": record.model_dump(mode="json", by_alias=True),
    }
    if results is not None:
        document["results"] = results.model_dump(mode="json", by_alias=True)
    if share is not None:
        document["share"] = list(share)
    return document


def read_share(path: Path) -> Share:
    """Read one share and check it against its own files.

    Raises:
        NotFoundError: there is no measurement in ``path``.
        RefusedError: it is a whole measurement, or its files are not those that were measured.
        MalformedRecordError: it is no measurement at all.
    """
    subject = str(path / SUMMARY_FILE)
    document = strictjson.loads(read_limited(path / SUMMARY_FILE, _MAX_SUMMARY), subject=subject)
    if not isinstance(document, dict) or document.get("format") != SUMMARY_FORMAT:
        raise MalformedRecordError(f"not a measurement of format {SUMMARY_FORMAT}", subject=subject)
    if "share" not in document:
        raise RefusedError(
            "a whole measurement, not a share", subject=str(path), hint="a share is made with measure --windows A:B"
        )
    try:
        record = Measurement.model_validate_json(strictjson.dumps(document["measurement"]))
        first, end = document["share"]
        named, indexes = set(document), document["windows"]
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedRecordError("not the summary of a share", subject=subject) from error
    if named != _KEYS or not (type(first) is type(end) is int and 0 <= first < end <= record.n):
        raise MalformedRecordError("not the summary of a share", subject=subject)
    for item in record.value_files:
        if item.name not in tokenvalues.FILES or sha256_file(path / item.name) != item.sha256:
            raise RefusedError(
                "edited since it was measured: its sha-256 is not the recorded one", subject=str(path / item.name)
            )
    values = tokenvalues.load(path)
    if len(record.value_files) != len(tokenvalues.FILES) or list(values.windows) != indexes:
        raise MalformedRecordError("the summary does not describe its files", subject=subject)
    if values.n != end - first or values.tokens * record.n != record.scored_tokens:
        raise MalformedRecordError(
            f"the share {first}:{end} has {values.n} windows of {values.tokens} values", subject=subject
        )
    return Share(path, first, end, document, record, values)


def merge(paths: Sequence[Path], out: Path) -> tuple[Results, dict[str, object]]:
    """Join the shares of one measurement and write it as if it had been made in one piece.

    Args:
        paths: the shares' directories, in any order.
        out: where the measurement goes.

    Returns:
        The figures, and what is in ``measurement.json``.

    Raises:
        RefusedError: ``out`` is in use; shares differ in what they measured or how (the differences are named),
            overlap, or leave a gap; a file was edited.
        NotFoundError, MalformedRecordError: a directory holds no share.
        OutputError: ``out`` cannot be written.
    """
    if not paths:
        raise InputError("no shares to join")
    if (out / SUMMARY_FILE).exists():
        raise RefusedError("holds a finished measurement", subject=str(out), hint="choose another --out")
    shares = sorted((read_share(path) for path in paths), key=lambda share: (share.first, share.end))
    for share in shares[1:]:
        _require_alike(shares[0], share)
    _require_complete(shares)
    values = tokenvalues.join([share.values for share in shares], subject=str(out))
    results = compute_results(values, confidence=SUMMARY_CONFIDENCE, seed=BOOTSTRAP_SEED)
    require_writable_directory(out)
    saved = tokenvalues.save(out, values)
    files = tuple(NamedDigest(name=name, sha256=saved[name]) for name in sorted(saved))
    first = shares[0]
    document = summary_document(
        first.record.model_copy(update={"value_files": files}),
        results,
        pack_digest=first.document["packDigest"],
        reference_digest=first.document["referenceDigest"],
        windows=values.windows,
    )
    document["tool"] = first.document["tool"]
    write_bytes(out / SUMMARY_FILE, strictjson.dumps(document) + b"\n")
    return results, document


def _require_alike(one: Share, other: Share) -> None:
    """Equal in everything but which windows they hold, and the files that hold them."""
    found = list(_differences("", _comparable(one), _comparable(other)))
    if found:
        found.sort(key=lambda item: (item[0].rpartition(".")[2] in _CONSEQUENCES, item[0]))
        listed = [f"{place} is {there}, {one.path} has {here}" for place, here, there in found[:_LISTED]]
        more = f"; and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        raise RefusedError(
            "; ".join(listed) + more,
            subject=str(other.path),
            hint="shares must measure the same inputs in the same way, on one kind of machine",
        )


def _comparable(share: Share) -> dict[str, Any]:
    document = {key: value for key, value in share.document.items() if key not in ("share", "windows")}
    measurement = {key: value for key, value in document["measurement"].items() if key != "valueFiles"}
    return {**document, "measurement": measurement}


def _differences(place: str, one: object, other: object) -> Iterator[tuple[str, str, str]]:
    """Every place where two JSON values differ, with what is there in both."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from _differences(f"{place}.{key}" if place else key, one.get(key), other.get(key))
    elif type(one) is not type(other) or one != other:
        yield place, strictjson.dumps(one).decode()[:100], strictjson.dumps(other).decode()[:100]


def _require_complete(shares: Sequence[Share]) -> None:
    n = shares[0].record.n
    for one, other in pairwise(shares):
        if other.first < one.end:
            raise RefusedError(
                f"holds windows {other.first}:{other.end}, {one.path} {one.first}:{one.end}: they overlap",
                subject=str(other.path),
            )
    places = [0, *(place for share in shares for place in (share.first, share.end)), n]
    gaps = [f"{a}:{b}" for a, b in zip(places[::2], places[1::2], strict=True) if a < b]
    if gaps:
        raise RefusedError(
            f"windows {', '.join(gaps)} of the {n} drawn are missing",
            subject=str(shares[0].path),
            hint=f"measure them with --windows {gaps[0]} and the other options as before",
        )
