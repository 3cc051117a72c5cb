"""Countersignatures of a record: checked one by one, and made.

An endorsement is a statement of its own over the digest of the attestation's envelope, so it covers the record,
its signature and nothing else. 21 CFR 11.50 names its parts: printed name, time, meaning.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import ValidationError

from ucaudit import __version__
from ucaudit.core.errors import DigestMismatchError, InputError, MalformedRecordError, VerificationError
from ucaudit.core.records import Endorsement, Statement, Subject, Tool, make_statement, now, parse_time
from ucaudit.core.records.problems import first_problem
from ucaudit.evidence.authentic import find_signers, judge_keys
from ucaudit.evidence.bundle import ATTESTATION, OpenBundle
from ucaudit.evidence.checks import Endorsed, Verification
from ucaudit.evidence.signing import Envelope, read_statement
from ucaudit.evidence.times import CLOCK_SKEW
from ucaudit.evidence.trust import Trust

Meaning = Literal["authorship", "review", "approval", "responsibility"]
MEANINGS: Final[tuple[Meaning, ...]] = ("review", "approval", "authorship", "responsibility")


def endorsement_of(statement: Statement, subject: str) -> Endorsement:
    """The endorsement in a statement. Raises MalformedRecordError for any other record in the chain."""
    if not isinstance(statement.predicate, Endorsement):
        raise MalformedRecordError(f"holds a {statement.predicate_type}, not an endorsement", subject=subject)
    return statement.predicate


def binding_problem(statement: Statement, digest: str, subject: str) -> VerificationError | None:
    """Why an endorsement is not about the attestation envelope with this digest, or None."""
    predicate = endorsement_of(statement, subject)
    if predicate.attestation_digest != digest:
        other = predicate.attestation_digest[:16]
        return DigestMismatchError(f"endorses another attestation ({other}…)", subject=subject)
    if statement.subjects != (Subject(ATTESTATION, digest),):
        return DigestMismatchError("the statement's subject and its predicate disagree", subject=subject)
    return None


def check_endorsements(bundle: OpenBundle, trust: Trust, result: Verification) -> None:
    """Check every line of the chain after the first; what counts goes to ``result.endorsements``.

    Raises:
        MalformedRecordError: a signed line is not an endorsement.
    """
    lines: set[bytes] = set()
    said: set[tuple[str, str, str]] = set()
    for envelope in bundle.chain()[1:]:
        if envelope.raw.strip() in lines:
            problem = VerificationError("the same endorsement is listed twice", subject=envelope.subject)
            result.add("endorsement", "endorsement against the others", problem, "")
            continue
        lines.add(envelope.raw.strip())
        found = _check_one(envelope, bundle.attestation.digest, trust, result)
        if found is None:
            continue
        saying = (found.entry.key.key_id, found.role, found.meaning)
        if saying in said:
            detail = f"{found.printed_name} says the same again; it counts once"
            result.remark("endorsement", "warn", "endorsement against the others", detail)
        said.add(saying)
        result.endorsements.append(found)


def _check_one(envelope: Envelope, digest: str, trust: Trust, result: Verification) -> Endorsed | None:
    before = len(result.failures)
    signers = find_signers(envelope, trust, result, "endorsement")
    if not signers:
        return None
    if len(envelope.signatures) != 1:
        problem = VerificationError(
            f"{len(envelope.signatures)} signatures under one printed name", subject=envelope.subject
        )
        result.add("endorsement", "one signature an endorsement", problem, "")
    statement = read_statement(envelope)
    predicate = endorsement_of(statement, envelope.subject)
    good = judge_keys(signers, envelope, trust, "endorsement", predicate.created, result, role=predicate.role)
    saying = f"{predicate.printed_name}, {predicate.role}: {predicate.meaning}, {predicate.created}"
    bound = binding_problem(statement, digest, envelope.subject)
    result.add("endorsement", f"{envelope.subject} against the attestation", bound, saying)
    _time(predicate, result)
    if len(result.failures) > before or not good:
        return None
    return Endorsed(
        digest=envelope.digest,
        entry=good[0],
        printed_name=predicate.printed_name,
        role=predicate.role,
        meaning=predicate.meaning,
        created=predicate.created,
        seen=result.times.seen(envelope.digest),
    )


def _time(predicate: Endorsement, result: Verification) -> None:
    """It holds the attestation's digest, so it was made after it, whatever the clocks say."""
    record = result.record
    if record is not None and parse_time(record.created) - parse_time(predicate.created) > CLOCK_SKEW:
        detail = (
            f"{predicate.created} is before the record's own time, {record.created}; one of the clocks is wrong"
        )
        result.remark("claimed-time", "warn", "endorsement time of signing", detail)


def make_endorsement(digest: str, *, printed_name: str, role: str, meaning: Meaning) -> Statement:
    """The statement to sign.

    Args:
        digest: SHA-256 of the attestation's envelope file, hex.
        printed_name: the signer's name as a person writes it.
        role: small letters, digits, dots and hyphens.
        meaning: what the signature stands for.

    Raises:
        InputError: a name or role that no endorsement may hold.
    """
    tool = Tool(name="ucaudit", version=__version__)
    name = " ".join(printed_name.split())
    if not name:
        raise InputError("the printed name is empty", subject="name", hint="give the name as a person writes it")
    if not name.isprintable():
        raise InputError("the printed name holds control characters", subject=printed_name[:80])
    try:
        predicate = Endorsement(
            created=now(),
            tool=tool,
            attestation_digest=digest,
            printed_name=name,
            role=role,
            meaning=meaning,
        )
    except ValidationError as error:
        member = {"printed_name": "name", "printedName": "name"}
        place, _, problem = first_problem(error).partition(": ")
        hint = "a role has small letters, digits, dots and hyphens, like validator" if place == "role" else None
        raise InputError(problem, subject=member.get(place, place), hint=hint) from error
    return make_statement(predicate, [Subject(ATTESTATION, digest)])
