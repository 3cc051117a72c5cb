"""Which keys are trusted, for what, in which role, and when. The trust file is the auditor's, never a bundle's.

Verification starts cold on an auditor's laptop and only reads: what edits a trust file is imported when asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from ucaudit.evidence.trust.file import DEFAULT_PREDICATES, PREDICATES, load_trust, parse_trust, read_vkey
from ucaudit.evidence.trust.model import (
    Trust,
    TrustedAuthority,
    TrustedKey,
    TrustedLedger,
    TrustedWitness,
    Validity,
    same_person,
    trusted_authorities,
    trusted_ledgers,
    trusted_witnesses,
)

if TYPE_CHECKING:
    from ucaudit.evidence.trust.edit import (
        add_authority,
        add_key,
        add_keys,
        add_ledger,
        add_vkey,
        find_entry,
        revoke,
    )

_EDITING: Final = (
    "add_authority",
    "add_key",
    "add_keys",
    "add_ledger",
    "add_vkey",
    "find_entry",
    "revoke",
)

__all__ = [
    "DEFAULT_PREDICATES",
    "PREDICATES",
    "Trust",
    "TrustedAuthority",
    "TrustedKey",
    "TrustedLedger",
    "TrustedWitness",
    "Validity",
    "add_authority",
    "add_key",
    "add_keys",
    "add_ledger",
    "add_vkey",
    "find_entry",
    "load_trust",
    "parse_trust",
    "read_vkey",
    "revoke",
    "same_person",
    "trusted_authorities",
    "trusted_ledgers",
    "trusted_witnesses",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name not in _EDITING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module("ucaudit.evidence.trust.edit"), name)
    globals()[name] = value
    return value
