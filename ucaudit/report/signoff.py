"""Who stands behind a record: the signer, endorsements, the ledger; as the sign-off section prints them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ucaudit.evidence.examine import EndorsementFacts, LedgerFacts
from ucaudit.evidence.trust import same_person
from ucaudit.report.facts import Fact
from ucaudit.report.formatting import NOT_ASSESSED


@dataclass(frozen=True, slots=True)
class SignerView:
    """The key that signed the record, and whether anybody checked it."""

    key_id: str
    principal: str
    roles: str
    created: str
    seen: str
    check: str
    checked: bool

    @property
    def note(self) -> str:
        """What every page says of the signature."""
        return "signer's key checked" if self.checked else "signer's key not checked"


def endorsed_by_another(key_id: str, principal: str | None, endorsements: Sequence[EndorsementFacts]) -> bool:
    """Whether at least one endorsement is by another key and, where both are known, another person."""
    return any(
        item.key_id != key_id
        and not (principal is not None and item.principal is not None and same_person(item.principal, principal))
        for item in endorsements
    )


def signer_view(
    created: str, key_id: str, principal: str | None, roles: Sequence[str], seen: str | None
) -> SignerView:
    """Who signed, and what was checked of it."""
    trusted = seen or f"{NOT_ASSESSED}: no time stamp or witness was checked for this rendering"
    if principal is None:
        check = "key not checked against a trust file: the key id is the one that the envelope names"
        return SignerView(
            key_id or NOT_ASSESSED, NOT_ASSESSED, NOT_ASSESSED, created, trusted, check, checked=False
        )
    check = "the signature holds under this key, and the trust file used for this rendering lists it"
    return SignerView(key_id, principal, ", ".join(roles) or "none listed", created, trusted, check, checked=True)


def separation_words(key_id: str, principal: str | None, endorsements: Sequence[EndorsementFacts]) -> str:
    """Whether somebody other than the signer stands behind the record."""
    if not endorsements:
        return f"{NOT_ASSESSED}: nobody has endorsed the record"
    others = [item for item in endorsements if item.key_id != key_id]
    if not others:
        return "every endorsement was made with the record's own key"
    named = [item.principal for item in others if item.principal is not None]
    who = ""
    if principal is not None and named:
        if all(same_person(name, principal) for name in named):
            return "every endorsement was made by the record's own principal, at least one of them with another key"
        who = " of another principal"
    return f"at least one endorsement was made with another key{who} than the record's"


def ledger_facts(ledger: LedgerFacts | None) -> tuple[Fact, ...]:
    """Where the record is in a ledger, as a table."""
    if ledger is None:
        return (Fact("Ledger entry", f"{NOT_ASSESSED}: no ledger proof was given"),)
    check = (
        "the proof holds under the ledger key of the trust file"
        if ledger.checked
        else "proof not checked against a trust file"
    )
    return (
        Fact("Ledger", ledger.origin, "code"),
        Fact(
            "Entry", f"number {ledger.index:,} (counted from 0) of {ledger.size:,} entries at the time of the proof"
        ),
        Fact("Proof", check),
        Fact(
            "What it shows",
            "consistency with checkpoints that somebody else kept; without an outside witness, not the time",
        ),
    )
