"""Which keys are trusted, for what, in which role, and when. The trust file is the auditor's, never a bundle's."""

from ucaudit.evidence.trust.edit import add_authority, add_key, add_keys, add_ledger, add_vkey, find_entry, revoke
from ucaudit.evidence.trust.file import PREDICATES, load_trust, parse_role, parse_trust
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

__all__ = [
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
    "parse_role",
    "parse_trust",
    "revoke",
    "same_person",
    "trusted_authorities",
    "trusted_ledgers",
    "trusted_witnesses",
]
