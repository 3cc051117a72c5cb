"""The append-only evidence ledger: a Merkle tree on disk, signed checkpoints, offline proofs.

Formats: RFC 6962 hashing, C2SP signed-note, tlog-checkpoint, tlog-tiles and tlog-proof.

Checking a proof needs none of the store, and verification starts cold on an auditor's laptop: what reads and writes
a ledger on disk is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from ucaudit.evidence.ledger.leaf import LedgerEntry, entry_for, ledger_entry
from ucaudit.evidence.ledger.note import Checkpoint, VerifierKey
from ucaudit.evidence.ledger.proof import LedgerProof, VerifiedProof, verify_envelope_proof, verify_proof

if TYPE_CHECKING:
    from ucaudit.evidence.ledger.audit import LedgerSummary
    from ucaudit.evidence.ledger.population import PopulationRow, find, in_period, register, to_csv
    from ucaudit.evidence.ledger.store import Ledger

_ON_DEMAND: Final = {
    "Ledger": "store",
    "LedgerSummary": "audit",
    "PopulationRow": "population",
    "find": "population",
    "in_period": "population",
    "register": "population",
    "to_csv": "population",
}

__all__ = [
    "Checkpoint",
    "Ledger",
    "LedgerEntry",
    "LedgerProof",
    "LedgerSummary",
    "PopulationRow",
    "VerifiedProof",
    "VerifierKey",
    "entry_for",
    "find",
    "in_period",
    "ledger_entry",
    "register",
    "to_csv",
    "verify_envelope_proof",
    "verify_proof",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ucaudit.evidence.ledger.{_ON_DEMAND[name]}"), name)
    globals()[name] = value
    return value
