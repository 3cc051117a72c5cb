"""Entering an envelope in a ledger, with the proof that a bundle carries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ucaudit.evidence.keys import Signer
from ucaudit.evidence.ledger import Ledger, find, find_seed
from ucaudit.evidence.ledger import register as enter
from ucaudit.evidence.signing import Envelope


@dataclass(frozen=True, slots=True)
class Registered:
    """An envelope's place in a ledger, with what proves it offline."""

    origin: str
    index: int
    entry: bytes
    proof: bytes


def register(directory: Path, envelope: Envelope, signer: Signer) -> Registered:
    """Enter an envelope in a ledger, unless it is there: a plan, an attestation, or an abandonment.

    Args:
        directory: the ledger.
        envelope: what to enter; the entry's kind and content follow from its statement.
        signer: the ledger's own key.

    Raises:
        RefusedError: a statement that no ledger holds, or a key that is not the ledger's.
        LedgerInconsistentError, OutputError: see :class:`ucaudit.evidence.ledger.Ledger`.
    """
    ledger = Ledger.open(directory)
    return _placed(ledger, enter(ledger, envelope, signer))


def find_entry(directory: Path, envelope_digest: str) -> Registered | None:
    """The ledger entry of an envelope that was entered before, with a proof.

    The proof is against the smallest checkpoint with the entry that a witness cosigned, which carries the earliest
    witnessed time; without one, against the ledger as it is now.
    """
    ledger = Ledger.open(directory)
    index = find(ledger, envelope_digest)
    return None if index is None else _placed(ledger, index)


def first_seed(directory: Path, plan_digest: str) -> Registered | None:
    """The first outside party's seed that was entered for a plan: the one that counts. None if none came yet."""
    ledger = Ledger.open(directory)
    found = find_seed(ledger, plan_digest)
    return None if found is None else _placed(ledger, found[0])


def _placed(ledger: Ledger, index: int) -> Registered:
    return Registered(ledger.origin, index, ledger.entry(index), ledger.prove_cosigned(index))
