"""Adding to a closed bundle: an endorsement or a time stamp, and a new closing statement over all files.

The bundle is rebuilt beside itself and swapped in one step, under a lock: a killed run leaves the old bundle or the
new one, and of two countersigners at once neither loses an endorsement.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ucaudit.core.errors import DigestMismatchError, OutputError, RefusedError, VerificationError
from ucaudit.core.files import exchange_directories, locked_directory, write_bytes
from ucaudit.core.records import BundleClosing, Determination, Floor, now, parse_time
from ucaudit.evidence.authentic import roles_text
from ucaudit.evidence.bundle import (
    CHAIN,
    CLOSING,
    CLOSING_STAMP,
    MAX_ENDORSEMENTS,
    STAMP,
    OpenBundle,
    close_bundle,
    open_bundle,
)
from ucaudit.evidence.checks import Verification
from ucaudit.evidence.contents import check_closing, check_contents
from ucaudit.evidence.endorsements import (
    Meaning,
    binding_problem,
    endorsement_of,
    make_endorsement,
)
from ucaudit.evidence.floors.contents import check_floor_contents
from ucaudit.evidence.keys import Signer
from ucaudit.evidence.signing import Envelope, read_statement, sign
from ucaudit.evidence.stamps import stampable
from ucaudit.evidence.times import TrustedTime
from ucaudit.evidence.trust import Trust, trusted_authorities
from ucaudit.evidence.verify import verify_bundle

UNLISTED: Final = "the key is not in it"
"""Of a trust file: the one objection that adding the key answers."""


@dataclass(frozen=True, slots=True)
class Countersigned:
    """A new endorsement."""

    envelope: Envelope
    own_record: bool
    """Whether the same key made the record itself."""
    determination: Determination
    """What the endorsed record says."""
    objection: str | None = None
    """Why the trust file that was given will not accept the bundle as it is now, if it will not."""


@dataclass(frozen=True, slots=True)
class Stamped:
    """A time stamp that was put into a bundle."""

    name: str
    """The file's name there."""
    over: str
    """What it is over, for people."""
    time: TrustedTime


def countersign(
    path: Path,
    signer: Signer,
    *,
    printed_name: str,
    role: str,
    meaning: Meaning,
    trust: Trust | None = None,
) -> Countersigned:
    """Append a signed endorsement of a bundle's attestation, and close the bundle again under the same key.

    Args:
        path: the bundle's directory.
        signer: the endorser's key.
        printed_name, role, meaning: see :func:`ucaudit.evidence.endorsements.make_endorsement`.
        trust: if given, the bundle must verify against it; else only what needs no key is checked.

    Raises:
        RefusedError: the same key has said the same before, or the working directory is inside the bundle.
        VerificationError: the bundle does not hold together.
        InputError: it is malformed, or the name or role is.
        OutputError: it cannot be replaced.
    """
    with rebuilt(path) as (bundle, stage):
        require_sound(bundle, trust)
        statement = make_endorsement(
            bundle.attestation.digest, printed_name=printed_name, role=role, meaning=meaning
        )
        new = endorsement_of(statement, CHAIN)
        if len(bundle.endorsements) >= MAX_ENDORSEMENTS:
            full = f"holds {MAX_ENDORSEMENTS} endorsements already"
            raise RefusedError(full, subject=str(path), hint="no more fit into a bundle")
        for envelope, old in bundle.endorsements:
            said = endorsement_of(old, envelope.subject)
            if (said.role, said.meaning) == (new.role, new.meaning) and envelope.signers([signer.public_key]):
                raise RefusedError(
                    f"this key has endorsed the record already, in the role {new.role} and meaning {new.meaning}",
                    subject=envelope.subject,
                    hint="it stands already; another role or meaning is another endorsement",
                )
        made = sign(statement.to_bytes(), signer, subject="endorsement")
        chain = bundle.read(CHAIN) if bundle.has(CHAIN) else bundle.attestation.raw
        write_bytes(stage / CHAIN, chain + (b"" if chain.endswith(b"\n") else b"\n") + made.raw)
        close_bundle(stage, signer)
        own = bool(bundle.attestation.signers([signer.public_key]))
        record = read_statement(bundle.attestation).predicate
        determination = record.determination if isinstance(record, Floor) else bundle.record.determination
    return Countersigned(made, own, determination, None if trust is None else _objection(signer, role, trust))


def _objection(signer: Signer, role: str, trust: Trust) -> str | None:
    """Why a key does not count for an endorsement in a role, and for the closing statement that goes with it."""
    key = signer.public_key
    if key.key_id not in {known.key_id for known in trust.public_keys}:
        return UNLISTED
    entry = trust.entry(key)
    moment = parse_time(now())
    objection = entry.objection("endorsement", moment) or entry.objection("bundle", moment)
    if objection is None and role not in entry.roles:
        objection = f"the key is not trusted in the role {role} (its roles: {roles_text(entry)})"
    return objection


def attach_stamp(path: Path, response: bytes, trust: Trust, signer: Signer | None, *, subject: str) -> Stamped:
    """Verify a time-stamp response against the trust file's authorities, and put it into the bundle.

    A stamp over the closing statement needs no new one; any other is closed under ``signer``.

    Args:
        path: the bundle's directory.
        response: the authority's answer.
        trust: the verifier's trust file, with the authority in it.
        signer: the key that closes the bundle again; None for a stamp over the closing statement.
        subject: the response's file name, for messages.

    Raises:
        VerificationError: the token is over other bytes, not a trusted authority's, or the bundle is not sound.
        RefusedError: a key is needed to close the bundle again, or nothing would be added.
        MissingExtraError, MalformedRecordError, OutputError: as they say.
    """
    from ucaudit.evidence.timestamp import parse_token, verify_token

    token = parse_token(response, subject=subject)
    authority = verify_token(token, trusted_authorities(trust))
    time = TrustedTime(token.digest, token.moment, f"time-stamp authority {authority.name}")
    with rebuilt(path) as (bundle, stage):
        require_sound(bundle, None)
        closing = bundle.closing
        if closing is not None and token.digest == closing.digest:
            write_bytes(stage / CLOSING_STAMP, response)
            return Stamped(CLOSING_STAMP, CLOSING, time)
        about = stampable(bundle).get(token.digest)
        if about is None:
            raise DigestMismatchError(
                f"is over sha-256 {token.digest[:16]}…, which is no envelope of this bundle",
                subject=subject,
                hint=f"the attestation has {bundle.attestation.digest[:16]}…",
            )
        if any(bundle.read(name) == response for name in bundle.stamps):
            there = "this time stamp is in the bundle already"
            raise RefusedError(there, subject=str(path), hint="nothing is left to do")
        if signer is None:
            raise RefusedError("a new file needs a new closing statement", subject=str(path), hint="give --key")
        wanted = (STAMP, *(f"timestamp-{number}.tsr" for number in range(2, 100)))
        name = next((name for name in wanted if not bundle.has(name)), None)
        if name is None:
            raise RefusedError("holds 99 time stamps already", subject=str(path))
        write_bytes(stage / name, response)
        close_bundle(stage, signer)
    return Stamped(name, about, time)


def require_closed(bundle: OpenBundle, result: Verification) -> None:
    """The closing statement's list against the files, whoever signed it."""
    envelope = bundle.closing
    if envelope is None:
        unclosed = VerificationError("the bundle was never closed", subject=CLOSING)
        result.add("closing", "every file against the closing statement", unclosed, "")
        return
    statement = read_statement(envelope)
    predicate = statement.predicate
    if not isinstance(predicate, BundleClosing):
        wrong = VerificationError(f"holds a {statement.predicate_type}, not a closing", subject=CLOSING)
        result.add("closing", "every file against the closing statement", wrong, "")
        return
    check_closing(bundle, statement, predicate.files, predicate.attestation_digest, result)


def require_sound(bundle: OpenBundle, trust: Trust | None) -> None:
    """Nobody endorses what does not hold together. Raises the first finding."""
    if trust is not None:
        result = verify_bundle(bundle, trust, floors=True)
    else:
        result = Verification(envelope_digest=bundle.attestation.digest)
        statement = read_statement(bundle.attestation)
        if isinstance(statement.predicate, Floor):
            check_floor_contents(bundle, statement, statement.predicate, result)
        else:
            check_contents(bundle, bundle.statement, bundle.record, result)
        for envelope, statement in bundle.endorsements:
            problem = binding_problem(statement, bundle.attestation.digest, envelope.subject)
            result.add("endorsement", "endorsement against the attestation", problem, "")
        require_closed(bundle, result)
    for check in result.failures:
        if check.error is not None:
            raise check.error


@contextmanager
def rebuilt(path: Path) -> Iterator[tuple[OpenBundle, Path]]:
    """A copy of a bundle beside it, swapped with it at the end; nothing changes if the block raises."""
    place = path.resolve()
    if Path.cwd() == place or place in Path.cwd().parents:
        raise RefusedError(
            "the working directory is inside the bundle, which is about to be replaced",
            subject=str(path),
            hint="run this from outside",
        )
    open_bundle(path)
    with locked_directory(place):
        bundle = open_bundle(place)
        try:
            stage = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        except OSError as error:
            raise OutputError(f"cannot write: {error.strerror}", subject=str(place.parent)) from error
        try:
            for name in bundle.files:
                _link(place / name, stage / name)
            stage.chmod(place.stat().st_mode & 0o7777)
            yield bundle, stage
            exchange_directories(stage, place)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the file system has no hard links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target)
