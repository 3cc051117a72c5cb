"""Keeping a witness's cosignature with the checkpoint it belongs to."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from ucaudit.core.errors import LedgerInconsistentError, MalformedRecordError
from ucaudit.core.files import write_bytes
from ucaudit.evidence.ledger.cosignature import WitnessedTime, WitnessKey, witnessed_times
from ucaudit.evidence.ledger.note import LINE_START, NoteSignature, SignedNote
from ucaudit.evidence.ledger.store import Ledger
from ucaudit.evidence.ledger.writing import CHECKPOINT_NAME, COSIGNED_NAME, locked, make_durable_directory

_LOOK_BACK: Final = 64
"""How many checkpoints bare signature lines are tried on."""
_SUBJECT: Final = "cosignature"


def attach_cosignature(
    ledger: Ledger, cosigned: bytes, witnesses: Sequence[WitnessKey]
) -> tuple[WitnessedTime, ...]:
    """Keep a witness's cosignature of one of a ledger's checkpoints.

    It is kept beside that checkpoint for ever, and shown with the current one if that is it.

    Args:
        ledger: the ledger.
        cosigned: the cosigned checkpoint, or the signature lines alone, which are then looked for at the current
            checkpoint and the latest before it.
        witnesses: the keys of the witnesses to expect.

    Raises:
        MalformedRecordError: neither a checkpoint nor signature lines.
        LedgerInconsistentError: no line of these witnesses that holds, or a checkpoint of another tree.
        OutputError: it cannot be written.
    """
    with locked(ledger.path):
        head = ledger.recovered()
        note = _whole_note(ledger, cosigned, witnesses) if cosigned.startswith(LINE_START) else cosigned
        found = witnessed_times(note, ledger.key, witnesses, subject=_SUBJECT)
        if not found:
            raise LedgerInconsistentError(
                "no cosignature by the given witness",
                subject=_SUBJECT,
                hint="compare the witness's verifier key with the one that cosigned",
            )
        ledger.own_checkpoint(note, head)
        parsed = SignedNote.parse(note, subject=_SUBJECT)
        lines = [line for witness in witnesses for _, line in witness.times(parsed, subject=_SUBJECT)]
        size = found[0].size
        place = ledger.path / COSIGNED_NAME / str(size)
        make_durable_directory(place.parent)
        kept = SignedNote.parse(ledger.checkpoint_at(size), subject=str(place))
        write_bytes(place, kept.with_signatures(lines))
        if size == head.size:
            current = SignedNote.parse(ledger.checkpoint(), subject=CHECKPOINT_NAME)
            write_bytes(ledger.path / CHECKPOINT_NAME, current.with_signatures(lines))
    return found


def _whole_note(ledger: Ledger, cosigned: bytes, witnesses: Sequence[WitnessKey]) -> bytes:
    """The checkpoint that signature lines alone belong to, with them. Raises as :func:`attach_cosignature`."""
    try:
        lines = [NoteSignature.parse(line, subject=_SUBJECT) for line in cosigned.decode("utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise MalformedRecordError(f"not utf-8 at byte {error.start}", subject=_SUBJECT) from error
    notes = deque((note for note, _ in ledger.history.checkpoints()), maxlen=_LOOK_BACK)
    for note in reversed(notes):
        whole = SignedNote.parse(note, subject=_SUBJECT).with_signatures(lines)
        with suppress(LedgerInconsistentError):
            if witnessed_times(whole, ledger.key, witnesses, subject=_SUBJECT):
                return whole
    raise LedgerInconsistentError(
        f"the signature fits none of the last {len(notes)} checkpoints",
        subject=_SUBJECT,
        hint="attach the whole cosigned checkpoint, with its text",
    )
