"""Where the evidence lies: bundles below a directory, and packs by their digest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ucaudit.core.errors import InputError, MalformedRecordError, NotFoundError, UcauditError
from ucaudit.evidence.archive import SUFFIX
from ucaudit.evidence.bundle import holds_bundle
from ucaudit.packs.opened import open_pack

MAX_BUNDLES: Final = 10_000
_MAX_DEPTH: Final = 8


def find_bundles(directory: Path) -> list[Path]:
    """Every bundle below a directory, whole or damaged, as a directory or as a ``.zip``, in the order of names.

    Hidden directories are not looked into: an interrupted run's work lies there.

    Raises:
        NotFoundError: no such directory, or no bundle in it.
        MalformedRecordError: more than 10,000.
    """
    if not directory.is_dir():
        raise NotFoundError(
            "no such directory", subject=str(directory), hint="give the folder that holds the bundles"
        )
    found = list(_below(directory, 0))
    if not found:
        raise NotFoundError(
            "no bundle in it", subject=str(directory), hint="ucaudit attest and ucaudit floor make them"
        )
    if len(found) > MAX_BUNDLES:
        raise MalformedRecordError(f"{len(found)} bundles, at most {MAX_BUNDLES}", subject=str(directory))
    return found


def _below(directory: Path, depth: int) -> Iterator[Path]:
    if holds_bundle(directory):
        yield directory
        return
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"cannot be listed: {error.strerror}", subject=str(directory)) from error
    for entry in entries:
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        if entry.is_dir() and depth < _MAX_DEPTH:
            yield from _below(Path(entry.path), depth + 1)
        elif entry.is_file() and entry.name.endswith(SUFFIX):
            yield Path(entry.path)


def index_packs(directory: Path | None) -> dict[str, Path]:
    """Pack digest → directory, of every pack below ``directory``; empty without one.

    Raises:
        NotFoundError: no such directory.
    """
    if directory is None:
        return {}
    if not directory.is_dir():
        raise NotFoundError(
            "no such directory", subject=str(directory), hint="give the folder that holds the packs"
        )
    found = {}
    for path in sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith(".")):
        try:
            with open_pack(path) as opened:
                found[opened.file_manifest().digest] = path
        except UcauditError:
            continue  # not a pack, or not a safe one: whatever row needs it says that its pack is gone
    return found
