"""What is known of files already looked at, so that no file is read twice, in one run or, if asked, in the next.

A file is known by device, inode, size, modification time and change time together. The change time cannot be set
back by a file's owner, so content that was changed has another identity, with one exception: a clock that ticks in
milliseconds gives two writes within a tick the same time. What was written just before it was looked at is
therefore never kept for the next run (git treats its index in the same way).

A cache on disk is worth what its file permissions are worth: whoever can write it can say what a file holds. It is
off unless it is asked for, a stranger's is not read, and nothing that was decided by it is ever signed.
"""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import Any, Final, Literal

from ucaudit.core.digest import is_hex_digest
from ucaudit.core.errors import InputError, MalformedRecordError, NotFoundError, OutputError
from ucaudit.core.files import atomic_open, open_regular

Identity = tuple[int, ...]
"""Device, inode, size in bytes, modification time and change time in nanoseconds."""
Kind = Literal["plain", "container"]
"""What a file was held against when it was searched for a pickle: see :mod:`ucaudit.packs.sniff`."""

FORMAT: Final = "ucaudit-gate-cache/1"
_HEAD: Final = b'{"format"'
MAX_BYTES: Final = 256 << 20
MAX_ENTRIES: Final = 1_000_000
SETTLED_NS: Final = 2_000_000_000
"""How old a file's last change must be, when it is looked at, for its digest to be kept: 2 s, for coarse clocks."""


class DigestMemo:
    """Digests and pickle searches by identity, for one run. Methods may be called from several threads."""

    def __init__(self) -> None:
        self._digests: dict[Identity, str] = {}
        self._harmless: dict[Identity, Kind] = {}

    def digest(self, identity: Identity) -> str | None:
        """The SHA-256 of a file of this identity, if it is known."""
        return self._digests.get(identity)

    def add_digest(self, identity: Identity, digest: str) -> None:
        """A file was hashed."""
        self._digests[identity] = digest

    def is_harmless(self, identity: Identity, kind: Kind) -> bool:
        """Whether a file's content was searched for a pickle, as this kind of file, and none was found."""
        return self._harmless.get(identity) == kind

    def add_harmless(self, identity: Identity, kind: Kind) -> None:
        """A file was searched, and is no pickle."""
        self._harmless[identity] = kind


class DigestCache(DigestMemo):
    """A memo that a file carries from run to run.

    Attributes:
        hits: how many digests came from the file.
        problem: why the file could not be read or written, in words; None if all is well. A cache never decides
            whether the gate runs: without one the files are read.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.hits = 0
        self.problem: str | None = None
        self._carried: dict[Identity, tuple[str, Kind]] = {}
        self._began = time.time_ns()
        self._changed = False
        self._foreign = False
        self._load()

    def digest(self, identity: Identity) -> str | None:
        """As in a memo, and from the file."""
        known = super().digest(identity)
        if known is None and (carried := self._carried.get(identity)) is not None:
            self.hits += 1
            known = carried[0]
            self._digests[identity] = known
        return known

    def is_harmless(self, identity: Identity, kind: Kind) -> bool:
        """As in a memo, and from the file."""
        carried = self._carried.get(identity)
        return super().is_harmless(identity, kind) or (carried is not None and carried[1] == kind)

    def learned(self) -> dict[Identity, tuple[str, Kind]]:
        """What this run found out and may be kept: of files that had settled when it began."""
        limit = self._began - SETTLED_NS
        return {
            identity: (digest, self._harmless[identity])
            for identity, digest in self._digests.items()
            if identity in self._harmless and max(identity[3:5]) < limit and identity not in self._carried
        }

    def join(self, learned: dict[Identity, tuple[str, Kind]]) -> None:
        """Take over what another process learned with a cache of the same file."""
        self._carried.update(learned)
        self._changed = self._changed or bool(learned)

    def save(self) -> None:
        """Write the file if there is anything new; what goes wrong is put into :attr:`problem`."""
        self.join(self.learned())
        if not self._changed:
            return
        if self._foreign:
            self.problem = f"not kept: {self.path}: what lies there is left as it is"
            return
        kept = list(self._carried.items())[-MAX_ENTRIES:]
        entries = {" ".join(map(str, identity)): f"{digest} {kind}" for identity, (digest, kind) in kept}
        data = json.dumps({"format": FORMAT, "files": entries}, separators=(",", ":")).encode("ascii")
        try:
            with atomic_open(self.path, mode=0o600, sync=False) as handle:
                handle.write(data)
        except OutputError as error:
            self.problem = f"not kept: {error}"
        self._changed = False

    def _load(self) -> None:
        try:
            with open_regular(self.path) as handle:
                status = os.fstat(handle.fileno())
                head = handle.read(len(_HEAD))
                if head and head != _HEAD:
                    raise InputError("not a cache of ucaudit", subject=str(self.path))
                if (reason := _untrustworthy(status)) is not None:
                    self.problem = f"not read: {self.path}: {reason}"
                    return
                data = head + handle.read(MAX_BYTES + 1)
            self._carried = _parse(data)
        except NotFoundError:
            return  # the first run, or somebody cleaned up
        except MalformedRecordError as error:
            self.problem = f"not read: {error}"
        except (InputError, OSError) as error:
            self._foreign = True  # a device, a link, another's file: nothing of this run's may take its place
            self.problem = f"not read: {error}"


def _untrustworthy(status: os.stat_result) -> str | None:
    """Why a cache file may hold somebody else's word, or None."""
    if status.st_uid not in (os.geteuid(), 0):
        return "another user owns it"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "others may write to it"
    return None


def _parse(data: bytes) -> dict[Identity, tuple[str, Kind]]:
    """Raises MalformedRecordError."""
    wrong = "not a cache that this release wrote; it starts anew"
    if len(data) > MAX_BYTES:
        raise MalformedRecordError(wrong, subject="cache")
    try:
        document: Any = json.loads(data)
        if document["format"] != FORMAT:
            raise MalformedRecordError(wrong, subject="cache")
        found: dict[Identity, tuple[str, Kind]] = {}
        for key, value in document["files"].items():
            identity = tuple(map(int, key.split(" ")))
            digest, kind = value.split(" ")
            if len(identity) != 5 or not is_hex_digest(digest) or kind not in ("plain", "container"):
                raise MalformedRecordError(wrong, subject="cache")
            found[identity] = (digest, kind)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise MalformedRecordError(wrong, subject="cache") from error
    return found
