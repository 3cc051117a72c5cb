"""The append-only evidence ledger: a Merkle tree on disk, signed checkpoints, offline proofs.

Formats: RFC 6962 hashing, C2SP signed-note, tlog-checkpoint, tlog-tiles and tlog-proof.

Checking a proof needs none of the store, and verification starts cold on an auditor's laptop: what reads and writes
a ledger on disk, and cosignatures, are imported when they are first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from ucaudit.evidence.ledger.leaf import LedgerEntry, entry_for, ledger_entry
from ucaudit.evidence.ledger.note import Checkpoint, VerifierKey
from ucaudit.evidence.ledger.proof import (
    ConsistencyProof,
    LedgerProof,
    VerifiedProof,
    verify_envelope_proof,
    verify_proof,
)

if TYPE_CHECKING:
    from ucaudit.evidence.ledger.attach import attach_cosignature
    from ucaudit.evidence.ledger.audit import LedgerSummary
    from ucaudit.evidence.ledger.cosignature import (
        WitnessedTime,
        WitnessKey,
        earliest_by,
        proof_witnessed_times,
        witnessed_times,
    )
    from ucaudit.evidence.ledger.enter import find, find_seed, register
    from ucaudit.evidence.ledger.export import Export, export_period, in_period, to_csv
    from ucaudit.evidence.ledger.population import PopulationRow, population_of
    from ucaudit.evidence.ledger.repair import repair_ledger
    from ucaudit.evidence.ledger.store import Ledger
    from ucaudit.evidence.ledger.witness import Witness

_ON_DEMAND: Final = {
    "witnessed_times": "cosignature",
    "proof_witnessed_times": "cosignature",
    "earliest_by": "cosignature",
    "WitnessedTime": "cosignature",
    "WitnessKey": "cosignature",
    "Export": "export",
    "Ledger": "store",
    "LedgerSummary": "audit",
    "PopulationRow": "population",
    "Witness": "witness",
    "attach_cosignature": "attach",
    "export_period": "export",
    "find": "enter",
    "find_seed": "enter",
    "in_period": "export",
    "population_of": "population",
    "register": "enter",
    "repair_ledger": "repair",
    "to_csv": "export",
}

__all__ = [
    "Checkpoint",
    "ConsistencyProof",
    "Export",
    "Ledger",
    "LedgerEntry",
    "LedgerProof",
    "LedgerSummary",
    "PopulationRow",
    "VerifiedProof",
    "VerifierKey",
    "Witness",
    "WitnessKey",
    "WitnessedTime",
    "attach_cosignature",
    "earliest_by",
    "entry_for",
    "export_period",
    "find",
    "find_seed",
    "in_period",
    "ledger_entry",
    "population_of",
    "proof_witnessed_times",
    "register",
    "repair_ledger",
    "to_csv",
    "verify_envelope_proof",
    "verify_proof",
    "witnessed_times",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ucaudit.evidence.ledger.{_ON_DEMAND[name]}"), name)
    globals()[name] = value
    return value
