"""UltraCompress packs: everything that can be said without decoding their payload, which is not public. Light.

Facts this stands on: a ``manifest.json`` (UTF-8, a byte-order mark allowed), ``layer_*.uc`` files, a file that the
manifest names as ``aux_file``; beside them ``ultracompress.json`` (files with size and SHA-256) and
``SHA256_MANIFEST.json``. The vendor's fingerprint covers the manifest, the layer files and the auxiliary file, and
nothing else: a changed tokenizer or configuration leaves it as it was, so everything outside it is listed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ucaudit.core import strictjson
from ucaudit.core.digest import FileManifest, is_hex_digest, sha256_hex
from ucaudit.core.errors import (
    InputError,
    MalformedPackError,
    MalformedRecordError,
    UnsafePathError,
)
from ucaudit.core.files import read_limited
from ucaudit.packs.detect import MANIFEST_NAME
from ucaudit.packs.opened import OpenedPack

LAYER: Final = re.compile(r"layer_[^/]*\.uc")
DESCRIPTION_NAME: Final = "ultracompress.json"
DIGESTS_NAME: Final = "SHA256_MANIFEST.json"
_MAX_REGISTRY: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class VendorPack:
    """The findings.

    Attributes:
        manifest: the vendor's manifest.
        declared_layers: its ``n_layers``; None if it says nothing.
        layers: the layer files, sorted.
        aux: the auxiliary file it names.
        covered: the files that the vendor's fingerprint covers, sorted.
        fingerprint: the vendor's, recomputed.
        bytes_covered: the size of the covered files.
        outside: files that no fingerprint, description or digest list of the vendor covers.
        contradictions: sentences, one for each claim that the files contradict.
        notes: sentences about what could not be compared.
    """

    manifest: dict[str, Any]
    declared_layers: int | None
    layers: tuple[str, ...]
    aux: str | None
    covered: tuple[str, ...]
    fingerprint: str
    bytes_covered: int
    outside: tuple[str, ...]
    contradictions: tuple[str, ...]
    notes: tuple[str, ...] = ()
    claims: dict[str, str | int | float] = field(default_factory=dict)


def read_vendor_pack(pack: OpenedPack, files: FileManifest) -> VendorPack:
    """Read the vendor's manifests and hold them against the files.

    Args:
        pack: the opened pack.
        files: its files' digests.

    Raises:
        MalformedPackError: a manifest that is missing, no object, or with values of another type.
        UnsafePathError: an auxiliary file outside the pack.
    """
    manifest = _object(pack, MANIFEST_NAME)
    declared = _typed(pack, manifest, "n_layers", int)
    aux = _aux(pack, manifest)
    digests = files.by_path()
    layers = tuple(sorted(path for path in digests if LAYER.fullmatch(path)))
    covered = tuple(sorted({MANIFEST_NAME, *layers, *([aux] if aux is not None and aux in digests else [])}))
    wrong: list[str] = []
    notes: list[str] = []
    if not layers:
        wrong.append("no layer_*.uc file")
    if declared is None:
        notes.append("the manifest does not say how many layers there are")
    elif declared != len(layers):
        wrong.append(f"n_layers: the manifest says {declared}, there are {len(layers)} layer files")
    if aux is not None and aux not in digests:
        wrong.append(f"{aux}: named as auxiliary file, but missing")
    wrong += [f"{path}: empty" for path in covered if pack.size(path) == 0]
    listed = dict(_described(pack, digests, wrong))
    listed |= dict(_listed(pack, digests, wrong, notes))
    claims = _claims(pack, manifest)
    return VendorPack(
        manifest,
        declared,
        layers,
        aux,
        covered,
        fingerprint({path: digests[path] for path in covered}),
        sum(map(pack.size, covered)),
        tuple(sorted(digests.keys() - {*covered} - listed.keys() - {DESCRIPTION_NAME, DIGESTS_NAME})),
        tuple(wrong),
        tuple(notes),
        claims,
    )


def fingerprint(digests: dict[str, str]) -> str:
    """The vendor's fingerprint: SHA-256 of the sorted lines ``basename:hex``, without a last line end."""
    lines = sorted(f"{path.rsplit('/', 1)[-1]}:{digest}" for path, digest in digests.items())
    return sha256_hex("\n".join(lines).encode("utf-8"))


def _object(pack: OpenedPack, path: str) -> dict[str, Any]:
    if not pack.has(path):
        raise MalformedPackError("the pack's manifest is missing", subject=f"{pack.name}/{path}")
    subject = f"{pack.name}/{path}"
    try:
        value = strictjson.loads(pack.read(path).removeprefix(b"\xef\xbb\xbf"), subject=subject)
    except MalformedRecordError as error:
        raise MalformedPackError(error.message, subject=subject) from error
    if not isinstance(value, dict):
        raise MalformedPackError("expected a json object", subject=subject)
    return value


def _typed(pack: OpenedPack, manifest: dict[str, Any], key: str, kind: type) -> Any:  # noqa: ANN401 - JSON
    value = manifest.get(key)
    if value is not None and type(value) is not kind:
        raise MalformedPackError(
            f"{key}: expected {kind.__name__}, found {str(value)[:40]!r}", subject=f"{pack.name}/{MANIFEST_NAME}"
        )
    return value


def _aux(pack: OpenedPack, manifest: dict[str, Any]) -> str | None:
    name = _typed(pack, manifest, "aux_file", str)
    if name is None:
        return None
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name:
        raise UnsafePathError(
            f"aux_file {name[:80]!r} is not a path inside the pack",
            subject=f"{pack.name}/{MANIFEST_NAME}",
            hint="do not use this pack: its manifest names a file outside it",
        )
    return str(name)


def _described(pack: OpenedPack, digests: dict[str, str], wrong: list[str]) -> Iterator[tuple[str, str]]:
    """The files of ``ultracompress.json`` with their digests; what does not agree goes to ``wrong``."""
    if not pack.has(DESCRIPTION_NAME):
        return
    files = _object(pack, DESCRIPTION_NAME).get("files")
    if not isinstance(files, dict):
        return
    for name, entry in files.items():
        digest = entry.get("sha256") if isinstance(entry, dict) else None
        size = entry.get("size_bytes") if isinstance(entry, dict) else None
        yield from _compare(name, digest, digests, DESCRIPTION_NAME, wrong)
        if name in digests and type(size) is int and size != pack.size(name):
            wrong.append(f"{name}: {DESCRIPTION_NAME} says {size} bytes, found {pack.size(name)}")


def _listed(
    pack: OpenedPack, digests: dict[str, str], wrong: list[str], notes: list[str]
) -> Iterator[tuple[str, str]]:
    """The files of ``SHA256_MANIFEST.json``, in any of the layouts that such lists have."""
    if not pack.has(DIGESTS_NAME):
        return
    subject = f"{pack.name}/{DIGESTS_NAME}"
    try:
        value = strictjson.loads(pack.read(DIGESTS_NAME).removeprefix(b"\xef\xbb\xbf"), subject=subject)
    except MalformedRecordError as error:
        raise MalformedPackError(error.message, subject=subject) from error
    entries = list(_digest_entries(value))
    if not entries:
        notes.append(f"{DIGESTS_NAME}: its layout is not known, nothing was compared with it")
    for name, digest in entries:
        yield from _compare(name.removeprefix("./"), digest, digests, DIGESTS_NAME, wrong)


def _digest_entries(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        inside = value.get("files", value)
        if isinstance(inside, list):
            yield from _digest_entries(inside)
        elif isinstance(inside, dict):
            for name, entry in inside.items():
                digest = entry.get("sha256") if isinstance(entry, dict) else entry
                if isinstance(digest, str) and is_hex_digest(digest.lower()):
                    yield name, digest.lower()
    elif isinstance(value, list):
        for entry in value:
            if isinstance(entry, dict):
                name = entry.get("name") or entry.get("path") or entry.get("file") or entry.get("filename")
                digest = entry.get("sha256") or entry.get("hash") or entry.get("digest")
                if isinstance(name, str) and isinstance(digest, str):
                    yield name, digest.lower()


def _compare(
    name: str, digest: object, digests: dict[str, str], where: str, wrong: list[str]
) -> Iterator[tuple[str, str]]:
    if not isinstance(digest, str):
        wrong.append(f"{name[:200]}: {where} gives no digest")
    elif name not in digests:
        wrong.append(f"{name[:200]}: in {where}, but not in the pack")
    else:
        if digests[name] != digest:
            wrong.append(f"{name}: {where} says sha-256 {digest[:16]}…, found {digests[name][:16]}…")
        yield name, digest


def _claims(pack: OpenedPack, manifest: dict[str, Any]) -> dict[str, str | int | float]:
    """What the vendor's files say of the pack; none of it is checked here."""
    found: dict[str, str | int | float] = {}
    described = _object(pack, DESCRIPTION_NAME) if pack.has(DESCRIPTION_NAME) else {}
    for source, keys in (
        (manifest, ("schema", "uc_pack_version", "bpw", "base_model_hf_id")),
        (described, ("model_id", "base_model", "method", "method_version", "bpw", "license", "created_at")),
    ):
        for key in keys:
            value: Any = source.get(key)
            if isinstance(value, str):
                found[key] = value[:200]
            elif type(value) is int or type(value) is float:
                found[key] = value
    return found


def registry_claims(path: Path, names: set[str]) -> list[dict[str, str | int | float]]:
    """The records of a local copy of the vendor's registry (``docs/benchmarks.json``) that are about a pack.

    Args:
        path: the file.
        names: what the pack and its base model are called; compared without case and owner.

    Raises:
        NotFoundError, InputError: no such file, or not in the registry's layout.
    """
    value = strictjson.loads(read_limited(path, _MAX_REGISTRY), subject=path.name)
    records = value.get("verified_records") if isinstance(value, dict) else None
    if not isinstance(records, list):
        raise InputError(
            "no list of verified_records",
            subject=str(path),
            hint="give a copy of docs/benchmarks.json of the vendor's repository",
        )
    defaults = value.get("methodology_summary") if isinstance(value.get("methodology_summary"), dict) else {}
    wanted = {_plain(name) for name in names}
    found = []
    for record in records:
        if not isinstance(record, dict) or type(record.get("ppl_ratio")) not in (int, float):
            continue
        called = {_plain(str(record.get(key, ""))) for key in ("model", "hf")}
        if called & wanted:
            kept = {
                key: record[key]
                for key in ("model", "hf", "ppl_ratio", "n", "seq_len", "seed", "data_slice", "verified_at")
                if type(record.get(key)) in (str, int, float)
            }
            for key in ("n", "seq_len", "seed"):
                if type(defaults.get(f"default_{key}")) is int:
                    kept.setdefault(key, defaults[f"default_{key}"])
            found.append(kept)
    return found


def _plain(name: str) -> str:
    return name.rsplit("/", 1)[-1].casefold().strip()


def names_of(pack: OpenedPack, vendor: VendorPack) -> set[str]:
    """What a pack and its base model are called, for :func:`registry_claims`."""
    names = {pack.name}
    names |= {
        str(vendor.claims[key]) for key in ("model_id", "base_model_hf_id", "base_model") if key in vendor.claims
    }
    return names


__all__ = ["VendorPack", "fingerprint", "names_of", "read_vendor_pack", "registry_claims"]
