"""Where the evidence lies: bundles below a directory, and packs by their digest."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ucaudit.core.errors import InputError, MalformedRecordError, NotFoundError, UcauditError
from ucaudit.core.files import is_directory
from ucaudit.evidence.archive import SUFFIX
from ucaudit.evidence.bundle import holds_bundle
from ucaudit.packs.opened import open_pack

MAX_BUNDLES: Final = 10_000
_MAX_DEPTH: Final = 64


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Something below the folder that may be evidence, and is no row."""

    path: Path
    why: Literal["a link", "hidden", "not a regular file"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What lies below a folder, in the order of names."""

    bundles: tuple[Path, ...]
    passed_over: tuple[PassedOver, ...]


def find_bundles(directory: Path) -> Evidence:
    """Every bundle below a directory, whole or damaged, as a directory or as a ``.zip``.

    Links are not followed, and hidden names not read: an interrupted run's work lies there. What of them may be
    evidence is named.

    Raises:
        NotFoundError: no such directory, or no bundle in it.
        InputError: a directory that cannot be listed, or one nested too deep to look into.
        MalformedRecordError: more than 10,000.
    """
    if not is_directory(directory):
        raise NotFoundError(
            "no such directory", subject=str(directory), hint="give the folder that holds the bundles"
        )
    walk = _Walk()
    walk.below(directory, 0)
    found, passed = walk.found, walk.passed
    if not found:
        hint = "ucaudit attest and ucaudit floor make them"
        if passed:
            hint = f"{passed[0].path} is {passed[0].why}: give the folder itself, under a plain name"
        raise NotFoundError("no bundle in it", subject=str(directory), hint=hint)
    if len(found) > MAX_BUNDLES:
        raise MalformedRecordError(f"{len(found)} bundles, at most {MAX_BUNDLES}", subject=str(directory))
    # A link to what was looked into already hides nothing.
    seen = {os.path.realpath(path) for path in (*walk.walked, *found)}
    return Evidence(tuple(found), tuple(item for item in passed if os.path.realpath(item.path) not in seen))


class _Walk:
    """The walk below one folder: what was found, passed over, and looked into."""

    def __init__(self) -> None:
        self.found: list[Path] = []
        self.passed: list[PassedOver] = []
        self.walked: list[Path] = []

    def below(self, directory: Path, depth: int) -> None:
        """Look into a directory."""
        if holds_bundle(directory):
            self.found.append(directory)
            return
        if depth > _MAX_DEPTH:
            raise InputError(
                f"directories nested deeper than {_MAX_DEPTH}",
                subject=str(directory),
                hint="give a folder that is nearer to the bundles",
            )
        self.walked.append(directory)
        for entry in _entries(directory):
            path = Path(entry.path)
            if entry.name.startswith("."):
                if _hides_evidence(path, depth + 1):
                    self.passed.append(PassedOver(path, "hidden"))
            elif entry.is_symlink():
                if _leads_to_evidence(path, any_folder=True):
                    self.passed.append(PassedOver(path, "a link"))
            elif entry.is_dir():
                self.below(path, depth + 1)
            elif _named_as_archive(path):
                if entry.is_file():
                    self.found.append(path)
                else:
                    self.passed.append(PassedOver(path, "not a regular file"))


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        hint = "give yourself permission to read it, or move it out of this folder"
        raise InputError(f"cannot be listed: {error.strerror}", subject=str(directory), hint=hint) from error


def _named_as_archive(path: Path) -> bool:
    return path.suffix.lower() == SUFFIX


def _leads_to_evidence(link: Path, *, any_folder: bool) -> bool:
    """Whether a link leads to an archive, to a bundle, or, if wanted, to any folder: bundles may lie in it."""
    target = Path(os.path.realpath(link))
    if _named_as_archive(link) or _named_as_archive(target):
        return True
    return target.is_dir() and (any_folder or holds_bundle(target))


def _hides_evidence(path: Path, depth: int) -> bool:
    """Whether a hidden name is or leads to a bundle or an archive, or is a directory with one anywhere below.

    One that cannot be looked into counts as well.
    """
    try:
        if path.is_symlink():
            return _leads_to_evidence(path, any_folder=False)
        if not path.is_dir():
            return _named_as_archive(path)
        return (
            depth > _MAX_DEPTH
            or holds_bundle(path)
            or any(_hides_evidence(Path(entry.path), depth + 1) for entry in _entries(path))
        )
    except (InputError, OSError):
        return True


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
