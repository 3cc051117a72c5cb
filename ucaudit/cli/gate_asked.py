"""What the command line of ``ucaudit gate`` asks for: which packs, with which evidence, by which policy."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ucaudit.core.errors import InputError
from ucaudit.core.files import read_limited

if TYPE_CHECKING:
    from ucaudit.evidence.policy import LoadedPolicy
    from ucaudit.packs.batch import Task


@dataclass(frozen=True, slots=True)
class Asked:
    """The command line."""

    packs: tuple[Path, ...]
    each: Path | None
    listed: str | None
    evidence: Path | None
    policies: tuple[str, ...]
    trust: Path
    full: bool
    good: Path | None
    jobs: int | None
    cache: Path | None
    junit: Path | None
    svr: Path | None
    svr_key: str | None
    svr_id: str | None
    password_file: Path | None
    github: bool
    device: str
    threads: int | None

    @property
    def many(self) -> bool:
        """Whether a table is wanted: also for the one pack of a directory or list."""
        return len(self.packs) != 1 or self.each is not None or self.listed is not None


def require_options(asked: Asked) -> None:
    """Options that go together, or exclude each other. Raises UsageError."""
    if not asked.packs and asked.each is None and asked.listed is None:
        raise click.UsageError("name a PACK, or --each DIR, or --list FILE")
    if asked.good is not None and not asked.full:
        raise click.UsageError("--good is for --full")
    if (asked.svr is None) != (asked.svr_key is None):
        raise click.UsageError("--svr and --svr-key go together")
    if asked.svr is None and (asked.svr_id or asked.password_file):
        raise click.UsageError("--svr-id and --password-file are for --svr")
    if asked.svr is not None and asked.cache is not None:
        raise click.UsageError("--svr signs what was read, and --cache leaves files unread: use one of them")


def packs_asked(asked: Asked) -> tuple[list[Path], tuple[Path, ...]]:
    """Every pack that is named, each once; and what was passed over."""
    if not asked.many:
        return list(asked.packs), ()
    import sys

    from ucaudit.packs.batch import MAX_PACKS, packs_in, packs_listed

    named = list(asked.packs)
    skipped: tuple[Path, ...] = ()
    if asked.each is not None:
        found, skipped = packs_in(asked.each)
        named += found
    if asked.listed is not None:
        more = packs_listed(sys.stdin.read() if asked.listed == "-" else _read_text(Path(asked.listed)))
        if not more:
            raise InputError("lists no packs", subject=asked.listed, hint="one path a line")
        named += more
    packs = list(dict.fromkeys(named))
    if len(packs) > MAX_PACKS:
        raise InputError(f"{len(packs)} packs, at most {MAX_PACKS} at a time")
    return packs, skipped


def tasks_asked(asked: Asked, packs: list[Path]) -> list[Task]:
    """Each pack with its evidence and policy."""
    from ucaudit.packs.batch import Task, choose_policies, evidence_for

    default, globs = _policies(asked.policies)
    chosen = choose_policies(packs, globs, default)
    return [
        Task(pack, evidence_for(pack, asked.evidence), policy) for pack, policy in zip(packs, chosen, strict=True)
    ]


def _policies(texts: tuple[str, ...]) -> tuple[LoadedPolicy | None, list[tuple[str, LoadedPolicy]]]:
    """The policy for all, and those for the packs of a pattern. A file is never taken for a pattern."""
    from ucaudit.evidence.policy import load_policy

    default: LoadedPolicy | None = None
    globs = []
    for text in texts:
        glob, separator, _ = text.partition("=")
        loaded = load_policy(file_of(text))
        if separator and not Path(text).exists():
            globs.append((glob, loaded))
        elif default is not None and default.sha256 != loaded.sha256:
            raise click.UsageError("--policy FILE was given twice; use --policy GLOB=FILE for some packs only")
        else:
            default = loaded
    return default, globs


def files_read(asked: Asked, packs: list[Path]) -> list[Path]:
    """What is read besides the packs, as far as it is there; of a directory of everybody's bundles, nothing."""
    from ucaudit.evidence.archive import SUFFIX
    from ucaudit.packs.batch import evidence_for
    from ucaudit.packs.judging import place_beside

    found = {evidence_for(pack, asked.evidence) or place_beside(pack, SUFFIX) for pack in packs}
    named = (
        asked.trust,
        *(file_of(text) for text in asked.policies),
        Path(asked.listed) if asked.listed not in (None, "-") else None,
        Path(asked.svr_key) if asked.svr_key is not None else None,
        asked.password_file,
        asked.good,
        *(path for path in found if not _is_directory(path)),
    )
    return [path for path in named if path is not None]


def _is_directory(path: Path) -> bool:
    with suppress(OSError):  # what may not be looked at is reported by whoever judges it
        return path.is_dir()
    return False


def file_of(text: str) -> Path:
    """The file in ``FILE`` or ``GLOB=FILE``."""
    glob, separator, file = text.partition("=")
    return Path(text) if not separator or not glob or Path(text).exists() else Path(file)


def _read_text(path: Path) -> str:
    try:
        return read_limited(path, 8 << 20).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"not utf-8 at byte {error.start}", subject=str(path), hint="one path a line") from error
