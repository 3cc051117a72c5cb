"""Whether the signatures on a record are the ones that a policy demands: roles, k of n, nobody twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ucaudit.evidence.checks import Verification
from ucaudit.evidence.policy import Policy

DEVELOPER: Final = "developer"
"""The one role in which whoever made the record may count under ``distinct_signers``."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature that counts: of the record itself, or an endorsement."""

    key_id: str
    person: str
    """The principal, in the form that is compared."""
    roles: frozenset[str]
    meaning: str
    maker: bool
    """Whether it is under the record itself."""


def signatures_of(verification: Verification) -> tuple[Signature, ...]:
    """Every signature that counted: the record's makers, then its endorsers.

    The record's own signature says no role, so it stands for all that the trust file gives its key; an endorsement
    stands for the one role that it names.
    """
    makers = [
        Signature(entry.key.key_id, entry.person, frozenset(entry.roles), "authorship", True)
        for entry in verification.signers
    ]
    endorsers = [
        Signature(item.entry.key.key_id, item.entry.person, frozenset({item.role}), item.meaning, False)
        for item in verification.endorsements
    ]
    return (*makers, *endorsers)


def count_signers(signatures: Sequence[Signature], *, distinct: bool) -> int:
    """How many have signed: distinct keys, and with ``distinct`` distinct principals as well."""
    keys = len({item.key_id for item in signatures})
    return min(keys, len({item.person for item in signatures})) if distinct else keys


def eligible(
    signatures: Sequence[Signature], role: str, *, distinct: bool, meanings: Iterable[str] = ()
) -> tuple[Signature, ...]:
    """The signatures that may count for a role.

    With ``distinct``, nobody who made the record counts for any role but developer, neither with the same key nor
    with another key of the same principal.
    """
    wanted = frozenset(meanings)
    found = tuple(item for item in signatures if role in item.roles and (not wanted or item.meaning in wanted))
    if not distinct or role == DEVELOPER:
        return found
    keys = {item.key_id for item in signatures if item.maker}
    people = {item.person for item in signatures if item.maker}
    return tuple(item for item in found if item.key_id not in keys and item.person not in people)


def everyone_once(places: Sequence[frozenset[str]]) -> bool:
    """Whether each place can be given to a person of its own (bipartite matching by augmenting paths).

    Args:
        places: for every signature that is demanded, the people who may give it.
    """
    taken: dict[str, int] = {}

    def place(index: int, tried: set[str]) -> bool:
        for person in sorted(places[index] - tried):
            tried.add(person)
            if person not in taken or place(taken[person], tried):
                taken[person] = index
                return True
        return False

    return all(place(index, set()) for index in range(len(places)))


def demanded(policy: Policy, signatures: Sequence[Signature]) -> list[frozenset[str]]:
    """For every signature that the policy demands, the people who may give it.

    A threshold for a role covers a requirement of the same role.
    """
    gate = policy.gate
    places: list[frozenset[str]] = []
    covered = {item.role for item in gate.thresholds}
    for role in gate.required_roles:
        if role not in covered:
            places.append(frozenset(item.person for item in eligible(signatures, role, distinct=True)))
    for rule in gate.thresholds:
        people = frozenset(
            item.person for item in eligible(signatures, rule.role, distinct=True, meanings=rule.meanings)
        )
        places += [people] * rule.keys
    return places
