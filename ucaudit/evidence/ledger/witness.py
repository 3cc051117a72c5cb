"""A witness: somebody outside who remembers how large a ledger was, and cosigns only what extends that.

Offline and with files alone: the keeper sends a request (``ledger prove --old-size``), the witness answers with the
cosigned checkpoint. Request and answer are those of C2SP tlog-witness's ``add-checkpoint``, so a witness on the
network takes the same request. What the witness remembers lies in a directory of its own::

    witness.json          name and key, and of each ledger: its key, the last size, root, time and cosignature
    witness.lock          held while it cosigns

The new state is on the disk before the cosignature leaves. A witness that forgets, or whose state was copied and
used twice, could cosign two histories; its directory therefore belongs to one place only.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ucaudit.core import strictjson
from ucaudit.core.errors import (
    LedgerInconsistentError,
    MalformedRecordError,
    NotFoundError,
    OutputError,
    RefusedError,
    UnsupportedSchemaError,
)
from ucaudit.core.files import read_limited, write_bytes
from ucaudit.evidence.keys import Signer
from ucaudit.evidence.ledger.cosignature import WitnessedTime, WitnessKey, witnessed_times
from ucaudit.evidence.ledger.merkle import EMPTY_ROOT, HASH_BYTES
from ucaudit.evidence.ledger.note import NoteSignature, SignedNote, VerifierKey
from ucaudit.evidence.ledger.proof import ConsistencyProof
from ucaudit.evidence.ledger.writing import make_durable_directory

STATE_NAME: Final = "witness.json"
LOCK_NAME: Final = "witness.lock"
_FORMAT: Final = "ucaudit-witness"
_VERSION: Final = 1
_MAX_STATE: Final = 16 << 20
_LOG_MEMBERS: Final = {"vkey", "size", "root", "time", "cosignature"}


@dataclass(frozen=True, slots=True)
class WatchedLedger:
    """What a witness remembers of one ledger."""

    key: VerifierKey
    size: int = 0
    root: bytes = EMPTY_ROOT
    seconds: int = 0
    """When it last cosigned, since 1970; 0 before the first time."""
    line: str = ""
    """The cosignature it gave then, as a line."""


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A witness's answer."""

    note: bytes
    """The checkpoint with the new line."""
    line: str
    """The new line alone, with its line end."""
    time: WitnessedTime
    repeated: bool
    """Whether this very checkpoint had been cosigned before; then the answer is the same as then."""


class Witness:
    """A witness's directory."""

    def __init__(self, path: Path, key: WitnessKey) -> None:
        self.path = path
        self.key = key

    @classmethod
    def init(cls, path: Path, name: str, signer: Signer) -> Witness:
        """Start a witness that has seen nothing yet.

        Args:
            path: a directory that is empty or does not exist.
            name: its name for ever, like ``witness.example.com/w1``.
            signer: its Ed25519 key, used for nothing else: a cosignature does not bind the name.

        Raises:
            RefusedError: there is something in the directory already.
            MalformedRecordError, MalformedKeyError: unusable name or key.
            OutputError: it cannot be written.
        """
        key = WitnessKey.of(name, signer.public_key)
        make_durable_directory(path)
        witness = cls(path, key)
        with witness._locked():
            if any(item.name != LOCK_NAME for item in path.iterdir()):
                raise RefusedError("the directory is not empty", subject=str(path), hint="choose another --state")
            witness._save({})
        return witness

    @classmethod
    def open(cls, path: Path) -> Witness:
        """Open a witness's directory. Raises NotFoundError, MalformedRecordError, MalformedKeyError."""
        return cls(path, _load(path)[0])

    @property
    def ledgers(self) -> dict[str, WatchedLedger]:
        """What it remembers, by the ledgers' origins."""
        return _load(self.path)[1]

    @property
    def vkey(self) -> str:
        """The verifier key to give to whoever shall rely on this witness."""
        return self.key.encode()

    def cosign(
        self, request: bytes, signer: Signer, *, ledger_vkey: str | None = None, seconds: int | None = None
    ) -> Cosigned:
        """Check that a ledger's checkpoint extends what was seen before, remember it, and cosign it.

        Args:
            request: a consistency proof from the size seen last, as ``ledger prove --old-size`` writes it.
            signer: the witness's key.
            ledger_vkey: the ledger's verifier key; needed the first time, from its keeper over another channel.
            seconds: the time to state, since 1970; None is now.

        Raises:
            MalformedRecordError, MalformedKeyError: what cannot be read.
            RefusedError: an unknown ledger, another signing key, a proof from another size than the one seen
                last, or a clock that went backwards.
            LedgerInconsistentError: the ledger was rewritten, or the signature is not its key's. Nothing changes.
            OutputError: the state cannot be written; no cosignature was given.
        """
        if signer.public_key.spki != self.key.public.spki:
            raise RefusedError("the key given is not this witness's", subject=str(self.path))
        now = int(time.time()) if seconds is None else seconds
        proof = ConsistencyProof.parse(request, subject="request")
        note = SignedNote.parse(proof.checkpoint, subject="request")
        origin = note.text.partition("\n")[0]
        with self._locked():
            ledgers = _load(self.path)[1]
            known = _watched(ledgers, origin, ledger_vkey)
            if known.key.public.spki == self.key.public.spki:
                raise RefusedError(
                    "the witness's key is the ledger's own: that would be no outside witness", subject=origin
                )
            head = known.key.open(proof.checkpoint, subject="request")
            if proof.old != known.size:
                raise RefusedError(
                    f"the request starts at {proof.old} entries, this witness has seen {known.size}",
                    subject=origin,
                    hint=f"ucaudit ledger prove --old-size {known.size}",
                )
            try:
                proof.verify(known.key, known.root, subject="request")
            except LedgerInconsistentError as error:
                raise LedgerInconsistentError(
                    f"{error.message}: not cosigned",
                    subject=origin,
                    hint="keep the request and this witness's state: together they may prove a rewritten ledger",
                ) from error
            repeated = bool(known.line) and head.size == known.size
            if repeated:
                line = NoteSignature.parse(known.line, subject=STATE_NAME)
            else:
                if now < known.seconds:
                    raise RefusedError(
                        f"this machine's clock says {now}, the last cosignature was given at {known.seconds}",
                        subject=origin,
                        hint="set the clock right",
                    )
                line = self.key.sign(note.text, now, signer)
                ledgers[origin] = replace(
                    known, size=head.size, root=head.root, seconds=now, line=line.to_line().removesuffix("\n")
                )
                self._save(ledgers)
        own = [item for item in note.signatures if (item.name, item.key_id) == (known.key.name, known.key.key_id)]
        answer = SignedNote(note.text, tuple(own), b"").with_signatures([line])
        [given] = witnessed_times(answer, known.key, [self.key], subject="request")
        return Cosigned(answer, line.to_line(), given, repeated)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            lock = os.open(self.path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OutputError(f"cannot lock: {error.strerror}", subject=str(self.path)) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _save(self, ledgers: dict[str, WatchedLedger]) -> None:
        document = {
            "format": _FORMAT,
            "version": _VERSION,
            "vkey": self.vkey,
            "ledgers": {
                origin: {
                    "vkey": item.key.encode(),
                    "size": item.size,
                    "root": item.root.hex(),
                    "time": item.seconds,
                    "cosignature": item.line,
                }
                for origin, item in ledgers.items()
            },
        }
        write_bytes(self.path / STATE_NAME, strictjson.dumps(document) + b"\n")


def _watched(ledgers: dict[str, WatchedLedger], origin: str, vkey: str | None) -> WatchedLedger:
    """What is known of a ledger; a new one if its key is given. Raises RefusedError, MalformedKeyError."""
    given = VerifierKey.parse(vkey) if vkey is not None else None
    known = ledgers.get(origin)
    if known is None:
        if given is None:
            raise RefusedError(
                "this witness does not know the ledger", subject=origin[:200], hint="give its verifier key: --vkey"
            )
        if given.name != origin:
            raise RefusedError(f"the verifier key given is {given.name}'s", subject=origin[:200])
        return WatchedLedger(given)
    if given is not None and given.encode() != known.key.encode():
        raise RefusedError(
            f"this witness knows the ledger by another key, {known.key.encode()}", subject=origin[:200]
        )
    return known


def _load(path: Path) -> tuple[WitnessKey, dict[str, WatchedLedger]]:
    place = path / STATE_NAME
    try:
        data = read_limited(place, _MAX_STATE)
    except NotFoundError as error:
        raise NotFoundError(
            "not a witness's directory", subject=str(path), hint="start one with ucaudit ledger witness"
        ) from error
    document = strictjson.loads(data, subject=str(place))
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise MalformedRecordError("not a witness's state", subject=str(place))
    if document.get("version") != _VERSION:
        raise UnsupportedSchemaError(
            f"witness version {str(document.get('version'))[:40]}, expected {_VERSION}", subject=str(place)
        )
    ledgers, vkey = document.get("ledgers"), document.get("vkey")
    if (
        set(document) != {"format", "version", "vkey", "ledgers"}
        or not isinstance(ledgers, dict)
        or not isinstance(vkey, str)
    ):
        raise MalformedRecordError("missing or unknown members", subject=str(place))
    key = WitnessKey.parse(vkey, subject=str(place))
    return key, {origin: _entry(origin, item, str(place)) for origin, item in ledgers.items()}


def _entry(origin: str, item: Any, subject: str) -> WatchedLedger:  # noqa: ANN401 - any JSON value
    if not isinstance(item, dict) or set(item) != _LOG_MEMBERS:
        raise MalformedRecordError(f"{origin[:80]}: missing or unknown members", subject=subject)
    numbers = item["size"], item["time"]
    texts = item["vkey"], item["root"], item["cosignature"]
    if not all(type(value) is int and 0 <= value < 2**63 for value in numbers) or not all(
        isinstance(value, str) for value in texts
    ):
        raise MalformedRecordError(f"{origin[:80]}: a member has the wrong type", subject=subject)
    key = VerifierKey.parse(item["vkey"], subject=subject)
    try:
        root = bytes.fromhex(item["root"])
    except ValueError as error:
        raise MalformedRecordError(f"{origin[:80]}: the root is not hex", subject=subject) from error
    if key.name != origin or len(root) != HASH_BYTES:
        raise MalformedRecordError(f"{origin[:80]}: key or root is another's", subject=subject)
    if item["cosignature"]:
        NoteSignature.parse(item["cosignature"], subject=subject)
    return WatchedLedger(key, item["size"], root, item["time"], item["cosignature"])
