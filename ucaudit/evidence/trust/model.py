"""What a trust file says: whom to believe, for what, in which role, and when."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from datetime import datetime

from ucaudit.evidence.keys import PublicKey


def show_time(moment: datetime) -> str:
    """A moment as records write it."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


@dataclass(frozen=True, slots=True)
class Validity:
    """When a key may be believed. All times are UTC; None means no limit."""

    valid_from: datetime | None = None
    valid_until: datetime | None = None
    revoked_at: datetime | None = None
    revoked_reason: str | None = None

    @property
    def revocation(self) -> str:
        """The revocation as a clause; empty if there is none."""
        if self.revoked_at is None:
            return ""
        reason = f": {self.revoked_reason}" if self.revoked_reason else ""
        return f"revoked at {show_time(self.revoked_at)}{reason}"

    def outside(self, moment: datetime) -> str | None:
        """Why ``moment`` is not inside the window (both ends belong to it), or None. Ignores revocation."""
        if self.valid_from is not None and moment < self.valid_from:
            return f"not valid before {show_time(self.valid_from)}"
        if self.valid_until is not None and moment > self.valid_until:
            return f"expired at {show_time(self.valid_until)}"
        return None

    def objection(self, claimed: datetime, seen: datetime | None) -> str | None:
        """Why something signed does not lie inside the window, or None. Ignores revocation.

        Args:
            claimed: when it was signed, in the signer's own word: never before the window.
            seen: the latest moment at which, by a trusted time, it must have existed; judged if there is one.
        """
        if self.valid_from is not None and claimed < self.valid_from:
            return f"not valid before {show_time(self.valid_from)}"
        return self.outside(seen if seen is not None else claimed)


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """One signing key and what it is trusted for."""

    principal: str
    key: PublicKey
    roles: tuple[str, ...]
    predicate_types: tuple[str, ...]
    validity: Validity

    @property
    def person(self) -> str:
        """The principal in the form that is compared."""
        return _person(self.principal)

    def objection(self, predicate: str, claimed: datetime, seen: datetime | None = None) -> str | None:
        """Why a signature of this key does not count, or None.

        Args:
            predicate: the short name of the predicate type, like ``attestation``.
            claimed: when the signed record says it was made: the signer's own word.
            seen: the latest moment at which, by a trusted time, the signature must have existed; None without one.

        A revoked key counts only if ``seen`` lies before the revocation: a claimed time can be back-dated by
        whoever stole the key. Expiry is judged at ``seen`` if there is one, else at ``claimed``.
        """
        if predicate not in self.predicate_types:
            return f"not trusted for a record of type {predicate}"
        revoked = self.validity.revoked_at
        if revoked is not None and seen is None:
            return f"{self.validity.revocation}; no trusted time puts the signature before that"
        if revoked is not None and seen is not None and seen >= revoked:
            return f"{self.validity.revocation}; the signature was first seen at {show_time(seen)}"
        return self.validity.objection(claimed, seen)


@dataclass(frozen=True, slots=True)
class TrustedLedger:
    """A ledger whose checkpoints are believed."""

    origin: str
    vkey: str
    """``name+hex(key id)+base64(0x01 ‖ public key)`` (C2SP signed-note)."""
    validity: Validity = Validity()


@dataclass(frozen=True, slots=True)
class TrustedWitness:
    """A witness whose cosignatures, and the times in them, are believed."""

    name: str
    vkey: str
    """``name+hex(key id)+base64(0x04 ‖ public key)`` (C2SP tlog-cosignature)."""
    validity: Validity = Validity()


@dataclass(frozen=True, slots=True)
class TrustedAuthority:
    """A time-stamp authority (RFC 3161), pinned by its own certificate."""

    name: str
    certificate: bytes
    """DER of the certificate that signs the tokens."""
    issuers: tuple[bytes, ...]
    """DER of the certificates above it, up to the root; empty if it signed itself."""
    validity: Validity = Validity()


@dataclass(frozen=True, slots=True)
class Trust:
    """A trust file's content, revoked and expired entries too: a signature is first found, then judged."""

    keys: tuple[TrustedKey, ...] = ()
    ledgers: tuple[TrustedLedger, ...] = ()
    witnesses: tuple[TrustedWitness, ...] = ()
    authorities: tuple[TrustedAuthority, ...] = ()

    @property
    def public_keys(self) -> tuple[PublicKey, ...]:
        """All signing keys."""
        return tuple(entry.key for entry in self.keys)

    def entry(self, key: PublicKey) -> TrustedKey:
        """The entry of a key that is in this file."""
        return next(entry for entry in self.keys if entry.key.key_id == key.key_id)


def _person(principal: str) -> str:
    """Letter case and spelling variants do not make two people."""
    return " ".join(unicodedata.normalize("NFKC", principal).casefold().split())


def same_person(one: str, other: str) -> bool:
    """Whether two principals are written for the same person."""
    return _person(one) == _person(other)


def trusted_ledgers(trust: Trust) -> tuple[TrustedLedger, ...]:
    """The ledgers whose checkpoints count: a revoked ledger key could have signed another history."""
    return tuple(entry for entry in trust.ledgers if entry.validity.revoked_at is None)


def trusted_witnesses(trust: Trust) -> tuple[TrustedWitness, ...]:
    """The witnesses whose cosignatures count.

    A revoked witness is left out, whatever time its cosignature carries: whoever stole the key can write any
    time. Whether a cosignature's time lies inside a witness's window is for the caller to ask, with
    ``witness.validity.outside(moment)``.
    """
    return tuple(entry for entry in trust.witnesses if entry.validity.revoked_at is None)


def trusted_authorities(trust: Trust) -> tuple[TrustedAuthority, ...]:
    """The time-stamp authorities whose tokens count: a revoked one could have written any time."""
    return tuple(entry for entry in trust.authorities if entry.validity.revoked_at is None)
