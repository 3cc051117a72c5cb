"""The ledger on a local file system: a directory that any static file server can publish.

::

    ledger.json           origin and verifier key
    checkpoint            the signed tree head, written last
    history               every checkpoint that was signed (see history)
    cosigned/<size>       the checkpoints that a witness cosigned
    tile/…                hashes and entries (see tiles)
    ledger.lock           held by whoever writes

:mod:`~ucaudit.evidence.ledger.writing` says in which order an append writes them. An interrupted append was never
acknowledged: the old checkpoint still stands on the old partial tiles, which are removed only after the
checkpoint that covers the full ones is on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ucaudit.core.errors import (
    LedgerInconsistentError,
    NotFoundError,
    OutputError,
    RefusedError,
)
from ucaudit.core.files import is_temporary, read_limited, write_bytes
from ucaudit.evidence.keys import Signer
from ucaudit.evidence.ledger.cosignature import WitnessKey, witnessed_times
from ucaudit.evidence.ledger.history import HISTORY_NAME, History
from ucaudit.evidence.ledger.merkle import (
    EMPTY_ROOT,
    check_inclusion,
    consistency_proof,
    hash_leaf,
    inclusion_proof,
    tree_root,
)
from ucaudit.evidence.ledger.note import (
    MAX_NOTE_BYTES,
    Checkpoint,
    VerifierKey,
)
from ucaudit.evidence.ledger.proof import ConsistencyProof, LedgerProof
from ucaudit.evidence.ledger.settings import SETTINGS_NAME, encode_settings, read_settings
from ucaudit.evidence.ledger.tiles import MAX_ENTRY_BYTES, TILE_WIDTH, Tiles
from ucaudit.evidence.ledger.writing import (
    CHECKPOINT_NAME,
    COSIGNED_NAME,
    LOCK_NAME,
    REPAIR_HINT,
    checked_edge,
    cosigned_sizes,
    locked,
    make_durable_directory,
    prune,
    recover,
    write_entries,
)

if TYPE_CHECKING:
    from ucaudit.evidence.ledger.audit import EntrySink, LedgerSummary


class Ledger:
    """An append-only list of entries with a signed Merkle root. Every method reads the current checkpoint."""

    def __init__(self, path: Path, key: VerifierKey) -> None:
        self.path = path
        self.key = key
        self.history = History(path, key)

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
        make_durable_directory(path)
        _refuse_used(path)  # before a lock file is left there, and again when nobody else can be at it
        ledger = cls(path, key)
        with locked(path):
            _refuse_used(path)
            write_bytes(path / SETTINGS_NAME, encode_settings(key))
            (path / HISTORY_NAME).unlink(missing_ok=True)  # of a start that was interrupted
            ledger.history.append(note)
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
        ledger = cls(path, read_settings(path))
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
            raise NotFoundError("the ledger has no checkpoint", subject=str(self.path), hint=REPAIR_HINT) from error

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

    def search(self, needle: bytes) -> Iterator[tuple[int, bytes]]:
        """Index and bytes of every acknowledged entry that contains ``needle``, in order."""
        tiles = Tiles(self.path, self.head().size)
        for number in range(-(-tiles.size // TILE_WIDTH)):
            if tiles.bundle_contains(number, needle):
                for offset, entry in enumerate(tiles.bundle(number)):
                    if needle in entry:
                        yield number * TILE_WIDTH + offset, entry

    def prove(self, index: int, *, note: bytes | None = None) -> bytes:
        """A self-contained proof that entry ``index`` is in the ledger.

        Args:
            index: the entry's number.
            note: the checkpoint to prove it against, one of this ledger's; the current one by default.

        Raises:
            RefusedError: there is no such entry, or the checkpoint is from before it.
            LedgerInconsistentError: the stored tree does not lead to the signed root.
        """
        current = self.checkpoint()
        head = self._open_note(current)
        self._check_index(index, head)
        chosen = current if note is None else note
        shown = head if note is None else self.own_checkpoint(note, head)
        if index >= shown.size:
            raise RefusedError(
                f"entry {index} is not in the checkpoint of {shown.size} entries", subject=str(self.path)
            )
        tiles = Tiles(self.path, head.size)
        entry = tiles.bundle(index // TILE_WIDTH)[index % TILE_WIDTH]
        hashes = inclusion_proof(index, shown.size, tiles.hash)
        check_inclusion(index, shown.size, hash_leaf(entry), hashes, shown.root, subject=str(self.path))
        return LedgerProof(index, tuple(hashes), chosen, entry).to_bytes()

    def prove_cosigned(self, index: int) -> bytes:
        """As :meth:`prove`, against the smallest kept checkpoint with this entry that any witness cosigned.

        It carries the earliest witnessed time, whoever will trust which witness. Without one, against the current
        checkpoint.
        """
        sizes = [size for size in cosigned_sizes(self.path) if size > index]
        return self.prove(index, note=self.checkpoint_at(sizes[0]) if sizes else None)

    def prove_witnessed(self, index: int, witnesses: Sequence[WitnessKey]) -> bytes:
        """As :meth:`prove`, against the kept checkpoint that gives the entry the earliest witnessed time.

        Raises:
            RefusedError: none of the witnesses has cosigned a checkpoint with this entry yet.
        """
        best: tuple[int, bytes] | None = None
        for size in cosigned_sizes(self.path):
            if size <= index:
                continue
            note = self.checkpoint_at(size)
            times = witnessed_times(note, self.key, witnesses, subject=f"{self.path}/{COSIGNED_NAME}/{size}")
            if times and (best is None or times[0].seconds < best[0]):
                best = (times[0].seconds, note)
        if best is None:
            raise RefusedError(
                f"no given witness has cosigned a checkpoint with entry {index}",
                subject=str(self.path),
                hint="have the current checkpoint cosigned, then ucaudit ledger attach",
            )
        return self.prove(index, note=best[1])

    def checkpoint_at(self, size: int) -> bytes:
        """The signed checkpoint of exactly ``size`` entries, with its cosignatures if it has any.

        Raises:
            RefusedError: none was ever signed.
        """
        try:
            return read_limited(self.path / COSIGNED_NAME / str(size), MAX_NOTE_BYTES)
        except NotFoundError:
            note = self.history.find(size)
        if note is None:
            hint = f"the ledger has {self.size} entries, and one checkpoint for every time that it was added to"
            raise RefusedError(
                f"no checkpoint of {size} entries was ever signed", subject=str(self.path), hint=hint
            )
        return note

    def root_at(self, size: int) -> bytes:
        """The root of the tree of the first ``size`` entries, from the stored tiles. Raises RefusedError."""
        head = self.head()
        if not 0 <= size <= head.size:
            raise RefusedError(f"no tree of {size} entries: the ledger has {head.size}", subject=str(self.path))
        return tree_root(size, Tiles(self.path, head.size).hash)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """RFC 6962 proof that the tree of ``new`` entries extends that of ``old``. Raises RefusedError."""
        size = self.size
        if not 0 <= old <= new <= size:
            raise RefusedError(
                f"no consistency proof from {old} to {new}: the ledger has {size} entries", subject=str(self.path)
            )
        return consistency_proof(old, new, Tiles(self.path, size).hash)

    def prove_consistency(self, old: int, new: int | None = None) -> bytes:
        """A self-contained proof that a checkpoint extends the first ``old`` entries: a witness's request.

        Args:
            old: the size of the earlier tree.
            new: that of the later checkpoint; the current one by default.

        Raises:
            RefusedError: there are no such trees or no such checkpoint.
        """
        note = self.checkpoint() if new is None else self.checkpoint_at(new)
        head = self.key.open(note, subject=str(self.path))
        return ConsistencyProof(old, tuple(self.consistency(old, head.size)), note).to_bytes()

    def append(self, entries: Sequence[bytes], signer: Signer) -> list[int]:
        """Add entries and sign a new checkpoint. Safe against other processes that append.

        What an interrupted append left is put right first, and the stored right edge of the tree is checked
        against the checkpoint, so a damaged ledger is never signed on.

        Returns:
            The index of each entry, all durable when this returns.

        Raises:
            RefusedError: another key than the ledger's, or an entry over 65,535 bytes.
            LedgerInconsistentError, MalformedRecordError: the ledger is damaged.
            OutputError: it cannot be written; nothing was acknowledged.
        """
        self._check_append(entries, signer)
        if not entries:
            return []
        with locked(self.path):
            return self._extend(self.recovered(), entries, signer)

    def append_unless(self, decide: Callable[[], bytes | int], signer: Signer) -> int:
        """Add the entry that ``decide`` makes, or none if it finds one: asked while nobody else can append.

        Args:
            decide: returns an entry to add, or the index of the entry that makes it unnecessary.
            signer: the ledger's key.

        Returns:
            The index of the entry, new or old. Raises as :meth:`append`, and whatever ``decide`` raises.
        """
        self._check_append((), signer)
        with locked(self.path):
            head = self.recovered()
            decided = decide()
            if isinstance(decided, int):
                return decided
            self._check_append((decided,), signer)
            return self._extend(head, (decided,), signer)[0]

    def verify(
        self,
        *,
        since: bytes | None = None,
        vkey: str | None = None,
        witnesses: Sequence[WitnessKey] = (),
        sink: EntrySink | None = None,
    ) -> LedgerSummary:
        """Read everything again, recompute every hash, and compare with every checkpoint that was ever signed.

        Args:
            since: an earlier checkpoint that the caller kept; the ledger must extend it.
            vkey: the verifier key that the caller trusts; the ledger's must be the same.
            witnesses: trusted witnesses, whose cosignatures are checked.
            sink: receives the entries in order as they are checked; they count once this returns.

        Raises:
            LedgerInconsistentError: anything contradicts anything.
            MalformedRecordError, MalformedKeyError, NotFoundError: a file or argument that cannot be read.
        """
        from ucaudit.evidence.ledger.audit import audit

        if vkey is not None and VerifierKey.parse(vkey).encode() != self.vkey:
            raise LedgerInconsistentError(
                f"the ledger's verifier key is {self.vkey}, expected {vkey}", subject=str(self.path)
            )
        return audit(self, since=since, pinned=vkey is not None, witnesses=witnesses, sink=sink)

    def _open_note(self, note: bytes) -> Checkpoint:
        return self.key.open(note, subject=str(self.path / CHECKPOINT_NAME))

    def _check_index(self, index: int, head: Checkpoint) -> None:
        if not 0 <= index < head.size:
            hint = f"entries are counted from 0: the last is {head.size - 1}" if head.size else "it is empty"
            raise RefusedError(f"no entry {index}: the ledger has {head.size}", subject=str(self.path), hint=hint)

    def require_key(self, signer: Signer) -> None:
        """Refuse a key that is not the ledger's, before work that shall end in an entry. Raises RefusedError."""
        if signer.public_key.spki != self.key.public.spki:
            raise RefusedError(
                f"this ledger is signed by {self.key.public.key_id[:16]}…, the key given is "
                f"{signer.public_key.key_id[:16]}…",
                subject=str(self.path),
                hint="give the key that the ledger was made with",
            )

    def _check_append(self, entries: Sequence[bytes], signer: Signer) -> None:
        self.require_key(signer)
        for entry in entries:
            if len(entry) > MAX_ENTRY_BYTES:
                raise RefusedError(f"an entry of {len(entry)} bytes; at most {MAX_ENTRY_BYTES} fit")

    def recovered(self) -> Checkpoint:
        """The checkpoint after what a crash left was put right. Only for whoever holds the lock."""
        return recover(self.path, self.head(), self.history)

    def _extend(self, head: Checkpoint, entries: Sequence[bytes], signer: Signer) -> list[int]:
        """See :mod:`ucaudit.evidence.ledger.writing` for the order."""
        before = Tiles(self.path, head.size)
        edge = checked_edge(before, head)
        after = Tiles(self.path, head.size + len(entries))
        write_entries(before, after, edge, entries)
        note = self.key.sign(Checkpoint(self.origin, after.size, tree_root(after.size, after.hash)), signer)
        self.history.append(note)
        write_bytes(self.path / CHECKPOINT_NAME, note)
        prune(before, after)
        return list(range(head.size, after.size))

    def own_checkpoint(self, note: bytes, head: Checkpoint) -> Checkpoint:
        """A checkpoint of this very tree, at most as large. Raises LedgerInconsistentError."""
        checkpoint = self.key.open(note, subject="checkpoint")
        if (
            checkpoint.size > head.size
            or tree_root(checkpoint.size, Tiles(self.path, head.size).hash) != checkpoint.root
        ):
            raise LedgerInconsistentError(
                f"a checkpoint of {checkpoint.size} entries that this ledger of {head.size} does not extend",
                subject=str(self.path),
                hint="keep it: it may show that the ledger was rewritten",
            )
        return checkpoint


def _refuse_used(path: Path) -> None:
    """Raise RefusedError unless the directory holds at most what an interrupted init leaves."""
    try:
        names = [item.name for item in path.iterdir()]
    except OSError as error:
        raise OutputError(f"cannot read the directory: {error.strerror}", subject=str(path)) from error
    if any(name not in (LOCK_NAME, SETTINGS_NAME, HISTORY_NAME) and not is_temporary(name) for name in names):
        raise RefusedError("the directory is not empty", subject=str(path), hint="choose another --ledger")
