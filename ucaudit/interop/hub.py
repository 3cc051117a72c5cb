"""Fetching a model or pack from a Hugging Face hub: one resolved commit, every file checked, nothing left half
done.

A branch name means other files tomorrow. The revision is resolved to a commit first, everything is fetched at
that commit, and what was fetched is written down beside the directory: the commit, and every file's SHA-256.
Large files are held against the SHA-256 that the hub states for them, others against their git object.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ucaudit.core import strictjson
from ucaudit.core.digest import check_name
from ucaudit.core.errors import (
    DigestMismatchError,
    InputError,
    MalformedRecordError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    UnsafePathError,
    missing_extra,
)
from ucaudit.core.files import read_limited, write_bytes
from ucaudit.core.progress import SILENT, Progress

_REPOSITORY: Final = re.compile(r"\w[\w.-]{0,95}(?:/\w[\w.-]{0,95})?", re.ASCII)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MAX_FILES: Final = 100_000
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the hub lists it: its path, size, SHA-256 (of large files) and git object."""

    path: str
    size: int
    sha256: str | None
    blob: str | None


@dataclass(frozen=True, slots=True)
class Pulled:
    """What was fetched.

    Attributes:
        directory: where it lies.
        commit: the resolved commit.
        record: the file beside it that says so.
        partial: whether files of the repository were left out.
        files: path → SHA-256.
    """

    directory: Path
    commit: str
    record: Path
    partial: bool
    files: dict[str, str]


def pull(
    repository: str,
    revision: str | None,
    out: Path,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    endpoint: str | None = None,
    progress: Progress = SILENT,
) -> Pulled:
    """Fetch a repository's files at one commit into a new directory.

    An interrupted run leaves ``OUT.pulling``, from which the same call goes on.

    Args:
        repository: ``owner/name``.
        revision: a branch, tag or commit; the default branch if None.
        out: the directory to make.
        include, exclude: patterns of paths as :mod:`fnmatch` has them.
        endpoint: another hub's address; else ``HF_ENDPOINT``, else the public one.
        progress: told about fetched bytes.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        InputError: not a repository's name; no file left.
        NotFoundError: no such repository or revision, or no access to it.
        UnsafePathError: a file of the repository has a path that leads out of it.
        RefusedError: ``out`` exists.
        DigestMismatchError: a file is not the one the hub stated.
        UnavailableError: the hub cannot be reached.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise missing_extra("hub", error.name or "huggingface_hub") from error
    if not _REPOSITORY.fullmatch(repository):
        raise InputError(
            f"not a repository: {repository[:100]!r}", hint="write it as owner/name or owner/name@revision"
        )
    record = out.with_name(f"{out.name}.pulled.json")
    if out.exists() or out.is_symlink() or record.exists():
        raise RefusedError("exists already and is never overwritten", subject=str(out), hint="choose another --out")
    address = endpoint or os.environ.get("HF_ENDPOINT") or None
    with _hub_errors(repository, revision):
        api = huggingface_hub.HfApi(endpoint=address)
        info = api.model_info(repository, revision=revision, files_metadata=True)
    commit, listed = _listing(info, repository)
    chosen = [item for item in listed if _wanted(item.path, include, exclude)]
    if not chosen:
        raise InputError(
            f"none of {len(listed)} files is left by --include and --exclude", subject=f"{repository}@{commit}"
        )
    stage = out.with_name(f"{out.name}.pulling")
    _same_commit(stage, commit, repository)
    progress.start(sum(item.size for item in chosen), "bytes", f"fetching {repository}@{commit[:12]}")
    digests: dict[str, str] = {}
    for item in chosen:
        with _hub_errors(repository, commit):
            huggingface_hub.hf_hub_download(
                repository,
                item.path,
                revision=commit,
                local_dir=stage,
                endpoint=address,
                tqdm_class=_silent(progress.advance),
            )
        digests[item.path] = _checked(stage / item.path, item, f"{repository}@{commit[:12]}")
    progress.finish()
    document = {
        "repository": repository,
        "requestedRevision": revision,
        "commit": commit,
        "partial": len(chosen) < len(listed),
        "include": list(include),
        "exclude": list(exclude),
        "leftOut": sorted(item.path for item in listed if item not in chosen),
        "files": [
            {
                "path": item.path,
                "size": item.size,
                "sha256": digests[item.path],
                "checkedAgainst": "sha-256" if item.sha256 else "git object" if item.blob else "size",
            }
            for item in chosen
        ],
    }
    shutil.rmtree(stage / ".cache", ignore_errors=True)
    stage.rename(out)
    write_bytes(record, strictjson.dumps(document) + b"\n")
    _note(stage).unlink(missing_ok=True)
    return Pulled(out, commit, record, len(chosen) < len(listed), digests)


def _listing(info: Any, repository: str) -> tuple[str, list[RemoteFile]]:  # noqa: ANN401 - the hub's own class
    commit = info.sha
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise MalformedRecordError(f"the hub states no commit, but {str(commit)[:80]!r}", subject=repository)
    siblings = info.siblings or []
    if len(siblings) > _MAX_FILES:
        raise InputError(f"{len(siblings)} files, at most {_MAX_FILES} are fetched", subject=repository)
    result = []
    for sibling in siblings:
        path = check_name(str(sibling.rfilename), subject=repository)
        if any(part in ("", ".", "..") for part in path.split("/")) or path.startswith(".cache/"):
            raise UnsafePathError(f"the repository has a file {path[:200]!r}", subject=repository)
        large = sibling.lfs
        digest = (
            (large.get("sha256") if isinstance(large, dict) else getattr(large, "sha256", None)) if large else None
        )
        result.append(RemoteFile(path, int(sibling.size or 0), digest, None if large else sibling.blob_id))
    return commit, sorted(result, key=lambda item: item.path.encode())


def _wanted(path: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    inside = not include or any(fnmatch.fnmatchcase(path, pattern) for pattern in include)
    return inside and not any(fnmatch.fnmatchcase(path, pattern) for pattern in exclude)


def _note(stage: Path) -> Path:
    return stage.with_name(f"{stage.name}.commit")


def _same_commit(stage: Path, commit: str, repository: str) -> None:
    """What an interrupted run left may only be continued at the same commit."""
    note = _note(stage)
    mine = f"{repository} {commit}\n".encode()
    if stage.exists() and (not note.is_file() or read_limited(note, 4096) != mine):
        raise RefusedError(
            "an interrupted run of another repository or commit lies there",
            subject=str(stage),
            hint="the branch has moved on, or --out was used before: remove it, or name the earlier commit",
        )
    write_bytes(note, mine)


def _checked(path: Path, item: RemoteFile, subject: str) -> str:
    """The SHA-256 of a fetched file, held against what the hub stated."""
    if path.is_symlink() or not path.is_file():
        raise DigestMismatchError("not a file after it was fetched", subject=f"{subject}/{item.path}")
    size = path.stat().st_size
    whole, git = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            whole.update(chunk)
            git.update(chunk)
    found = whole.hexdigest()
    wrong = (
        f"{size} bytes, the hub states {item.size}"
        if size != item.size
        else f"sha-256 {found[:16]}…, the hub states {item.sha256[:16]}…"
        if item.sha256 is not None and found != item.sha256
        else f"git object {git.hexdigest()[:16]}…, the hub states {item.blob[:16]}…"
        if item.blob is not None and len(item.blob) == 40 and git.hexdigest() != item.blob
        else None
    )
    if wrong is not None:
        path.unlink()
        raise DigestMismatchError(
            wrong, subject=f"{subject}/{item.path}", hint="it was removed: the same command fetches it again"
        )
    return found


@contextmanager
def _hub_errors(repository: str, revision: str | None) -> Iterator[None]:
    """The hub library's many errors as ours."""
    from huggingface_hub import errors

    subject = f"{repository}@{revision}" if revision else repository
    try:
        yield
    except (errors.RepositoryNotFoundError, errors.GatedRepoError) as error:
        raise NotFoundError(
            "the hub has no such repository, or gives no access to it",
            subject=subject,
            hint="check the name; for a private or gated one set HF_TOKEN",
        ) from error
    except (errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise _unreachable(subject, error) from error
        raise NotFoundError("the hub has no such revision or file", subject=subject) from error
    except errors.HFValidationError as error:
        raise InputError(f"the hub does not take this name: {str(error)[:200]}", subject=subject) from error
    except (errors.HfHubHTTPError, errors.HTTPError, ConnectionError, TimeoutError) as error:
        raise _unreachable(subject, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise MalformedRecordError(
            f"the hub's answer cannot be read: {type(error).__name__}: {str(error)[:200]}", subject=subject
        ) from error


def _unreachable(subject: str, error: Exception) -> UnavailableError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UnavailableError(
        f"the hub cannot be reached: {first[:200]}",
        subject=subject,
        hint="the same command goes on where it stopped; --endpoint names a mirror",
    )


def _silent(advance: Callable[[int], None]) -> type:
    """A stand-in for the hub library's progress bar that tells ours."""
    from tqdm.std import tqdm

    class Bar(tqdm):  # type: ignore[misc,type-arg,unused-ignore]
        def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - tqdm's own
            options.pop("name", None)
            options["disable"] = True
            super().__init__(*arguments, **options)

        def update(self, n: float | None = 1) -> bool | None:
            advance(int(n or 0))
            return None

    return Bar
