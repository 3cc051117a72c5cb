"""A vendor's audit receipt, recomputed field by field from the pack that it is about. Light.

A receipt is unsigned: whoever holds it can have written it. What it says of the pack's files is computed again;
what it says of the machine it was made on, and when, is not covered by anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from ucaudit.core import strictjson
from ucaudit.core.digest import FileManifest, sha256_hex
from ucaudit.core.errors import MalformedRecordError
from ucaudit.core.files import read_limited
from ucaudit.packs.opened import OpenedPack
from ucaudit.packs.vendor import VendorPack, fingerprint

MAX_RECEIPT_BYTES: Final = 16 << 20
Answer = Literal["matches", "contradicts", "not covered"]
_PARTS: Final = {"tool": dict, "pack": dict, "host": dict, "checks": dict, "files": list}


@dataclass(frozen=True, slots=True)
class Row:
    """One field: what the receipt says, what was found, and how the two relate."""

    field: str
    said: str
    found: str
    answer: Answer


def read_receipt(path: Path) -> dict[str, Any]:
    """Read a receipt of schema 1.0.

    Raises:
        NotFoundError, InputError: no such file.
        MalformedRecordError: not a receipt.
    """
    value = strictjson.loads(read_limited(path, MAX_RECEIPT_BYTES), subject=path.name)
    if not isinstance(value, dict) or not isinstance(value.get("schema_version"), str):
        raise MalformedRecordError("not a receipt: no schema_version", subject=path.name)
    for key, kind in _PARTS.items():
        if not isinstance(value.get(key), kind):
            raise MalformedRecordError(f"not a receipt: {key} is missing or no {kind.__name__}", subject=path.name)
    for entry in value["files"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise MalformedRecordError("a file of the receipt has no name", subject=path.name)
    names = [entry["name"] for entry in value["files"]]
    if len(names) != len(set(names)):
        raise MalformedRecordError("a file of the receipt is listed twice", subject=path.name)
    return value


def compare_receipt(
    receipt: dict[str, Any], pack: OpenedPack, vendor: VendorPack, files: FileManifest
) -> list[Row]:
    """Every field of the receipt, in its order, then the files it does not speak of."""
    return [
        _row("schema_version", receipt["schema_version"], "1.0"),
        *(_uncovered(f"tool.{key}", value) for key, value in receipt["tool"].items()),
        _uncovered("audited_at_utc", receipt.get("audited_at_utc")),
        *_pack_rows(receipt["pack"], vendor),
        *_host_rows(receipt["host"]),
        *_check_rows(receipt["checks"], pack, vendor),
        *_file_rows(receipt["files"], pack, vendor, files),
        _row("pack_fingerprint_sha256", receipt.get("pack_fingerprint_sha256"), vendor.fingerprint),
        *_itself(receipt),
        *(Row(f"file {name}", "nothing", "in the pack", "not covered") for name in _others(receipt, vendor, files)),
        *(_uncovered(key, receipt[key]) for key in receipt if key not in _KNOWN),
    ]


_KNOWN: Final = frozenset({"schema_version", "audited_at_utc", "pack_fingerprint_sha256", *_PARTS})


def _row(field: str, said: object, found: object) -> Row:
    same = type(said) is type(found) and said == found
    return Row(field, _text(said), _text(found), "matches" if same else "contradicts")


def _uncovered(field: str, said: object) -> Row:
    return Row(field, _text(said), "cannot be checked", "not covered")


def _text(value: object) -> str:
    if isinstance(value, dict | list):
        return f"{type(value).__name__} of {len(value)}"
    return "nothing" if value is None else str(value)[:120]


def _pack_rows(said: dict[str, Any], vendor: VendorPack) -> Iterator[Row]:
    found = {
        "manifest": vendor.manifest,
        "declared_layer_count": vendor.declared_layers,
        "observed_layer_file_count": len(vendor.layers),
        "bytes_on_disk": vendor.bytes_covered,
    }
    for key, value in said.items():
        yield _row(f"pack.{key}", value, found[key]) if key in found else _uncovered(f"pack.{key}", value)
    for key in found.keys() - said.keys():
        yield Row(f"pack.{key}", "nothing", _text(found[key]), "not covered")


def _host_rows(said: dict[str, Any]) -> Iterator[Row]:
    for key, value in said.items():
        if key == "host_fingerprint":
            text = "|".join(str(said.get(part, "")) for part in ("os", "os_release", "cpu_arch", "cpu_count"))
            yield _row("host.host_fingerprint", value, sha256_hex(text.encode()))
        else:
            yield _uncovered(f"host.{key}", value)


def _check_rows(said: dict[str, Any], pack: OpenedPack, vendor: VendorPack) -> Iterator[Row]:
    whole = vendor.aux is None or vendor.aux in vendor.covered
    counted = vendor.declared_layers is None or vendor.declared_layers == len(vendor.layers)
    filled = all(pack.size(path) > 0 for path in vendor.covered)
    found = {
        "manifest_present": True,
        "structure_ok": bool(vendor.layers) and whole and counted,
        "declared_layer_count_matches": counted,
        "no_zero_byte_files": filled,
    }
    for key, value in said.items():
        yield _row(f"checks.{key}", value, found[key]) if key in found else _uncovered(f"checks.{key}", value)
    for key in found.keys() - said.keys():
        yield Row(f"checks.{key}", "nothing", _text(found[key]), "not covered")


def _file_rows(
    said: list[dict[str, Any]], pack: OpenedPack, vendor: VendorPack, files: FileManifest
) -> Iterator[Row]:
    digests = {path.rsplit("/", 1)[-1]: (path, files.by_path()[path]) for path in vendor.covered}
    for entry in said:
        name = entry["name"]
        if name not in digests:
            yield Row(
                f"file {name[:120]}", _text(entry.get("sha256")), "not among the covered files", "contradicts"
            )
            continue
        path, digest = digests[name]
        yield _row(f"file {name} bytes", entry.get("bytes"), pack.size(path))
        yield _row(f"file {name} sha256", entry.get("sha256"), digest)
    listed = {entry["name"] for entry in said}
    for name in sorted(digests.keys() - listed):
        yield Row(f"file {name}", "nothing", digests[name][1], "contradicts")


def _itself(receipt: dict[str, Any]) -> Iterator[Row]:
    """Whether the receipt's fingerprint is that of its own list of files."""
    digests = {entry["name"]: str(entry.get("sha256")) for entry in receipt["files"]}
    own = fingerprint(digests)
    if own != receipt.get("pack_fingerprint_sha256"):
        yield Row(
            "the fingerprint of its own files", _text(receipt.get("pack_fingerprint_sha256")), own, "contradicts"
        )


def _others(receipt: dict[str, Any], vendor: VendorPack, files: FileManifest) -> list[str]:
    """Files of the pack that are neither listed nor covered by the fingerprint."""
    listed = {entry["name"] for entry in receipt["files"]} | {path.rsplit("/", 1)[-1] for path in vendor.covered}
    return [entry.path for entry in files.entries if entry.path.rsplit("/", 1)[-1] not in listed]
