"""Bringing a closed bundle's ledger proofs up to date: a witness cosigns after the bundle was made."""

from __future__ import annotations

from pathlib import Path

from ucaudit.core.errors import NotFoundError
from ucaudit.core.files import write_bytes
from ucaudit.evidence import bundle as names
from ucaudit.evidence.amend import rebuilt, require_sound
from ucaudit.evidence.bundle import OpenBundle, close_bundle
from ucaudit.evidence.keys import Signer
from ucaudit.evidence.ledger import LedgerProof
from ucaudit.evidence.ledger.note import SignedNote
from ucaudit.evidence.registration import Registered, find_entry


def refresh_proofs(path: Path, ledger: Path, signer: Signer) -> list[str]:
    """Replace a bundle's ledger proofs by ones that show the earliest witnessed time, and close it again.

    Args:
        path: the bundle's directory.
        ledger: the ledger's directory, with the cosignatures attached.
        signer: the key that closes the bundle again.

    Returns:
        The names of the proofs that were replaced or added; if none, nothing was changed.

    Raises:
        NotFoundError: the record is not in this ledger.
        VerificationError: the bundle does not hold together.
        OutputError: it cannot be replaced.
    """
    replaced = []
    with rebuilt(path) as (bundle, stage):
        require_sound(bundle, None)
        for envelope, proof, entry in (
            (bundle.attestation, names.LEDGER_PROOF, names.LEDGER_ENTRY),
            (bundle.envelope(names.PLAN), names.PLAN_PROOF, names.PLAN_ENTRY),
            (bundle.envelope(names.SEED), names.SEED_PROOF, names.SEED_ENTRY),
        ):
            if envelope is None:
                continue
            placed = find_entry(ledger, envelope.digest)
            if placed is None:
                raise NotFoundError(f"has no entry for {envelope.subject}", subject=str(ledger))
            if _is_news(bundle, placed, proof):
                write_bytes(stage / proof, placed.proof)
                write_bytes(stage / entry, placed.entry)
                replaced.append(proof)
        if replaced:
            close_bundle(stage, signer)
    return replaced


def _is_news(bundle: OpenBundle, placed: Registered, name: str) -> bool:
    """Whether the bundle has no proof, or the new one is against a checkpoint with other cosignatures."""
    if not bundle.has(name):
        return True
    note = SignedNote.parse(LedgerProof.parse(placed.proof).checkpoint, subject=name)
    return len(note.signatures) > 1 and placed.proof != bundle.read(name, 1 << 20)
