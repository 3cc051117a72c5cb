"""The ledger on a local file system: a directory that any static file server can publish.

::

    ledger.json           origin and verifier key
    checkpoint            the signed tree head; written last, it is what acknowledges an append
    tile/…                hashes and entries (see tiles)
    ledger.lock           held by whoever appends

An append that is interrupted before its checkpoint was never acknowledged: the old checkpoint still stands on
the old partial tiles, which are removed only after the checkpoint that covers the full ones is on the disk.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ucaudit.core import strictjson
from ucaudit.core.errors import (
    LedgerInconsistentError,
    MalformedKeyError,
    MalformedRecordError,
    NotFoundError,
    OutputError,
    RefusedError,
    UnsupportedSchemaError,
)
from ucaudit.core.files import is_temporary, make_directory, read_limited, sync_directory, write_bytes
from ucaudit.evidence.keys import Signer
from ucaudit.evidence.ledger.audit import EntrySink, LedgerSummary, check_extends, check_tree
from ucaudit.evidence.ledger.merkle import (
    EMPTY_ROOT,
    check_inclusion,
    consistency_proof,
    fold,
    hash_leaf,
    inclusion_proof,
    tree_root,
)
from ucaudit.evidence.ledger.note import MAX_NOTE_BYTES, Checkpoint, VerifierKey
from ucaudit.evidence.ledger.proof import LedgerProof
from ucaudit.evidence.ledger.tiles import (
    ENTRIES,
    MAX_ENTRY_BYTES,
    TILE_HEIGHT,
    TILE_WIDTH,
    Tiles,
    encode_bundle,
    tile_path,
)

CHECKPOINT_NAME: Final = "checkpoint"
SETTINGS_NAME: Final = "ledger.json"
LOCK_NAME: Final = "ledger.lock"
_FORMAT: Final = "ucaudit-ledger"
_VERSION: Final = 1
_MAX_SETTINGS: Final = 1 << 16


class Ledger:
    """An append-only list of entries with a signed Merkle root. Every method reads the current checkpoint."""

    def __init__(self, path: Path, key: VerifierKey) -> None:
        self.path = path
        self.key = key

    @classmethod
    def init(cls, path: Path, origin: str, signer: Signer) -> Ledger:
        """Start an empty ledger.

        Args:
            path: a directory that is empty or does not exist.
            origin: the ledger's name for ever, like ``example.com/evidence``.
            signer: its Ed25519 key.

        Raises:
            RefusedError: there is something in the directory already.
            MalformedRecordError, MalformedKeyError: unusable origin or key.
            OutputError: it cannot be written.
        """
        key = VerifierKey.of(origin, signer.public_key)
        note = key.sign(Checkpoint(origin, 0, EMPTY_ROOT), signer)
        _make_durable_directory(path)
        _refuse_used(path)  # before a lock file is left there, and again when nobody else can be at it
        ledger = cls(path, key)
        with ledger._locked():
            _refuse_used(path)
            write_bytes(path / SETTINGS_NAME, _settings(key))
            write_bytes(path / CHECKPOINT_NAME, note)
        return ledger

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """Open a ledger and check its checkpoint's signature.

        Raises:
            NotFoundError: no ledger there.
            MalformedRecordError, MalformedKeyError, UnsupportedSchemaError: unreadable settings or checkpoint.
            LedgerInconsistentError: the checkpoint is not signed by the ledger's key.
        """
        ledger = cls(path, _read_settings(path))
        ledger.head()
        return ledger

    @property
    def origin(self) -> str:
        """The ledger's name."""
        return self.key.name

    @property
    def vkey(self) -> str:
        """The verifier key text. It counts as trusted only if it also came from somewhere else."""
        return self.key.encode()

    @property
    def size(self) -> int:
        """The number of acknowledged entries."""
        return self.head().size

    def checkpoint(self) -> bytes:
        """The current signed note. Raises NotFoundError, MalformedRecordError."""
        try:
            return read_limited(self.path / CHECKPOINT_NAME, MAX_NOTE_BYTES)
        except NotFoundError as error:
            raise NotFoundError(
                "the ledger has no checkpoint", subject=str(self.path), hint="restore the checkpoint file"
            ) from error

    def head(self) -> Checkpoint:
        """The current checkpoint, its signature checked. Raises as :meth:`open`."""
        return self._open_note(self.checkpoint())

    def entry(self, index: int) -> bytes:
        """One entry; its hash is compared with the stored tree. Raises RefusedError, LedgerInconsistentError."""
        head = self.head()
        self._check_index(index, head)
        tiles = Tiles(self.path, head.size)
        entry = tiles.bundle(index // TILE_WIDTH)[index % TILE_WIDTH]
        if hash_leaf(entry) != tiles.hash(0, index):
            raise LedgerInconsistentError(
                f"entry {index} does not have the hash in its tile", subject=str(self.path)
            )
        return entry

    def entries(self) -> Iterator[bytes]:
        """All acknowledged entries in order, as stored; :meth:`verify` is what checks them."""
        tiles = Tiles(self.path, self.head().size)
        for bundle in range(-(-tiles.size // TILE_WIDTH)):
            yield from tiles.bundle(bundle)

    def prove(self, index: int) -> bytes:
        """A self-contained proof that entry ``index`` is in the ledger, against the current checkpoint.

        Raises:
            RefusedError: there is no such entry.
            LedgerInconsistentError: the stored tree does not lead to the signed root.
        """
        note = self.checkpoint()
        head = self._open_note(note)
        self._check_index(index, head)
        tiles = Tiles(self.path, head.size)
        entry = tiles.bundle(index // TILE_WIDTH)[index % TILE_WIDTH]
        hashes = inclusion_proof(index, head.size, tiles.hash)
        check_inclusion(index, head.size, hash_leaf(entry), hashes, head.root, subject=str(self.path))
        return LedgerProof(index, tuple(hashes), note, entry).to_bytes()

    def consistency(self, old: int, new: int) -> list[bytes]:
        """RFC 6962 proof that the tree of ``new`` entries extends that of ``old``. Raises RefusedError."""
        size = self.size
        if not 0 <= old <= new <= size:
            raise RefusedError(f"no consistency proof from {old} to {new}: the ledger has {size} entries")
        return consistency_proof(old, new, Tiles(self.path, size).hash)

    def append(self, entries: Sequence[bytes], signer: Signer) -> list[int]:
        """Add entries and sign a new checkpoint. Safe against other processes that append.

        The stored right edge of the tree is checked against the old checkpoint first, so a damaged ledger is
        never signed on.

        Returns:
            The index of each entry, all durable when this returns.

        Raises:
            RefusedError: another key than the ledger's, or an entry over 65,535 bytes.
            LedgerInconsistentError, MalformedRecordError: the ledger is damaged.
            OutputError: it cannot be written; nothing was acknowledged.
        """
        if signer.public_key.spki != self.key.public.spki:
            raise RefusedError(
                f"this ledger is signed by {self.key.public.key_id[:16]}…, the key given is "
                f"{signer.public_key.key_id[:16]}…",
                subject=str(self.path),
                hint="give the key that the ledger was made with",
            )
        for entry in entries:
            if len(entry) > MAX_ENTRY_BYTES:
                raise RefusedError(f"an entry of {len(entry)} bytes; at most {MAX_ENTRY_BYTES} fit")
        if not entries:
            return []
        with self._locked():
            head = self.head()
            before = Tiles(self.path, head.size)
            edge = self._checked_edge(before, head)
            after = Tiles(self.path, head.size + len(entries))
            self._write_bundles(head.size, [*edge, *entries])
            self._write_tiles(before, after, [hash_leaf(entry) for entry in entries])
            root = tree_root(after.size, after.hash)
            note = self.key.sign(Checkpoint(self.origin, after.size, root), signer)
            write_bytes(self.path / CHECKPOINT_NAME, note)
            self._prune(before, after)
        return list(range(head.size, after.size))

    def verify(
        self, *, since: bytes | None = None, vkey: str | None = None, sink: EntrySink | None = None
    ) -> LedgerSummary:
        """Read everything again, recompute every hash, and compare with the signed checkpoint.

        Args:
            since: an earlier checkpoint that the caller kept; the ledger must extend it.
            vkey: the verifier key that the caller trusts; the ledger's must be the same.
            sink: receives the entries in order as they are checked; they count once this returns.

        Raises:
            LedgerInconsistentError: anything contradicts anything.
            MalformedRecordError, MalformedKeyError: a file or argument that cannot be read.
        """
        if vkey is not None and VerifierKey.parse(vkey).encode() != self.vkey:
            raise LedgerInconsistentError(
                f"the ledger's verifier key is {self.vkey}, expected {vkey}", subject=str(self.path)
            )
        head = self.head()
        earlier = self.key.open(since, subject="earlier checkpoint") if since is not None else None
        tiles = Tiles(self.path, head.size)
        check_tree(tiles, head.root, sink)
        if earlier is not None:
            check_extends(earlier, head, tiles)
        return LedgerSummary(
            origin=self.origin,
            size=head.size,
            root=head.root,
            vkey=self.vkey,
            pinned=vkey is not None,
            since=earlier.size if earlier is not None else None,
        )

    def _open_note(self, note: bytes) -> Checkpoint:
        return self.key.open(note, subject=str(self.path / CHECKPOINT_NAME))

    def _check_index(self, index: int, head: Checkpoint) -> None:
        if not 0 <= index < head.size:
            raise RefusedError(f"no entry {index}: the ledger has {head.size}", subject=str(self.path))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            lock = os.open(self.path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OutputError(f"cannot lock the ledger: {error.strerror}", subject=str(self.path)) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _checked_edge(self, tiles: Tiles, head: Checkpoint) -> list[bytes]:
        """The entries of the last, partial bundle, once they and the tiles fit the signed root."""
        if tree_root(head.size, tiles.hash) != head.root:
            raise LedgerInconsistentError(
                "the stored tiles do not lead to the checkpoint's root", subject=str(self.path)
            )
        last, width = divmod(head.size, TILE_WIDTH)
        edge = tiles.bundle(last) if width else []
        if edge and [hash_leaf(entry) for entry in edge] != tiles.tile(0, last):
            raise LedgerInconsistentError(
                "stored entries do not have the hashes in their tile",
                subject=str(self.path / tile_path(ENTRIES, last, width)),
            )
        return edge

    def _write_bundles(self, old_size: int, run: Sequence[bytes]) -> None:
        first = old_size // TILE_WIDTH
        for number, start in enumerate(range(0, len(run), TILE_WIDTH), first):
            chunk = run[start : start + TILE_WIDTH]
            self._write(tile_path(ENTRIES, number, len(chunk)), encode_bundle(chunk))

    def _write_tiles(self, before: Tiles, after: Tiles, hashes: list[bytes]) -> None:
        """Write every tile that ``hashes``, new at level 0, change; full ones give the level above its news."""
        level = 0
        while hashes:
            first, width = divmod(before.size >> TILE_HEIGHT * level, TILE_WIDTH)
            run = [*(before.tile(level, first) if width else []), *hashes]
            hashes = []
            for number, start in enumerate(range(0, len(run), TILE_WIDTH), first):
                chunk = run[start : start + TILE_WIDTH]
                after.put(level, number, chunk)
                self._write(tile_path(level, number, len(chunk)), b"".join(chunk))
                if len(chunk) == TILE_WIDTH:
                    hashes.append(fold(chunk))
            level += 1

    def _write(self, name: str, data: bytes) -> None:
        path = self.path / name
        _make_durable_directory(path.parent)
        write_bytes(path, data)

    def _prune(self, before: Tiles, after: Tiles) -> None:
        """Remove the partial files of tiles that are full now (tlog-tiles allows it; readers fall back)."""
        level = 0
        while (old := before.size >> TILE_HEIGHT * level) or level == 0:
            number = old // TILE_WIDTH
            if after.width(level, number) == TILE_WIDTH:
                for kind in (level, ENTRIES) if level == 0 else (level,):
                    _remove_directory(self.path / f"{tile_path(kind, number)}.p")
            level += 1


def _settings(key: VerifierKey) -> bytes:
    """The content of ``ledger.json``."""
    members = {"format": _FORMAT, "version": _VERSION, "origin": key.name, "vkey": key.encode()}
    return strictjson.dumps(members) + b"\n"


def _read_settings(path: Path) -> VerifierKey:
    place = path / SETTINGS_NAME
    try:
        data = read_limited(place, _MAX_SETTINGS)
    except NotFoundError as error:
        raise NotFoundError("not a ledger", subject=str(path), hint="start one with ucaudit ledger init") from error
    settings = strictjson.loads(data, subject=str(place))
    if not isinstance(settings, dict) or settings.get("format") != _FORMAT:
        raise MalformedRecordError("not a ledger's settings", subject=str(place))
    if settings.get("version") != _VERSION:
        raise UnsupportedSchemaError(
            f"ledger version {str(settings.get('version'))[:40]}, expected {_VERSION}", subject=str(place)
        )
    if set(settings) != {"format", "version", "origin", "vkey"} or not isinstance(settings["vkey"], str):
        raise MalformedRecordError("missing or unknown members", subject=str(place))
    key = VerifierKey.parse(settings["vkey"], subject=str(place))
    if settings["origin"] != key.name:
        raise MalformedKeyError("origin and verifier key have different names", subject=str(place))
    if data != _settings(key):
        raise MalformedRecordError("the settings are not in their canonical spelling", subject=str(place))
    return key


def _refuse_used(path: Path) -> None:
    """Raise RefusedError unless the directory holds at most what an interrupted init leaves."""
    try:
        names = [item.name for item in path.iterdir()]
    except OSError as error:
        raise OutputError(f"cannot read the directory: {error.strerror}", subject=str(path)) from error
    if any(name not in (LOCK_NAME, SETTINGS_NAME) and not is_temporary(name) for name in names):
        raise RefusedError("the directory is not empty", subject=str(path), hint="choose another --ledger")


def _make_durable_directory(path: Path) -> None:
    """Create missing directories and make each one's name durable in its parent. Raises OutputError."""
    missing = [path]
    while not missing[-1].is_dir() and missing[-1].parent != missing[-1]:
        missing.append(missing[-1].parent)
    if len(missing) == 1:
        return
    make_directory(path)
    for directory in missing[1:]:
        try:
            sync_directory(directory)
        except OSError as error:
            raise OutputError(f"cannot write: {error.strerror}", subject=str(directory)) from error


def _remove_directory(path: Path) -> None:
    """Best effort: what is left over does no harm."""
    with suppress(OSError):
        for item in path.iterdir():
            item.unlink()
        path.rmdir()
