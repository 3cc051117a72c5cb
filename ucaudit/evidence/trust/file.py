"""Reading a trust file: TOML, strict, with did-you-mean for every mistyped member."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import tomllib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from ucaudit.core.errors import MalformedPolicyError, NotFoundError
from ucaudit.core.files import read_limited
from ucaudit.core.records import parse_time
from ucaudit.evidence.keys import PublicKey
from ucaudit.evidence.suggest import refuse_unknown
from ucaudit.evidence.trust.model import (
    Trust,
    TrustedAuthority,
    TrustedKey,
    TrustedLedger,
    TrustedWitness,
    Validity,
)

MAX_TRUST_FILE: Final = 1 << 20
MAX_CERTIFICATE: Final = 1 << 16
PREDICATES: Final = ("attestation", "plan", "abandonment", "seed", "endorsement", "floor", "floorplan", "bundle")
DEFAULT_PREDICATES: Final = tuple(name for name in PREDICATES if name != "seed")
"""What a key is trusted for if nothing is said. An outside party to a seed is somebody chosen: never by default."""
TABLES: Final = ("key", "ledger", "witness", "authority")
LEDGER_KEY_TYPE: Final = 0x01
WITNESS_KEY_TYPE: Final = 0x04
_VALIDITY: Final = ("valid-from", "valid-until", "revoked-at", "revoked-reason")
MEMBERS: Final = {
    "key": ("principal", "public-key", "roles", "predicate-types", *_VALIDITY),
    "ledger": ("origin", "vkey", *_VALIDITY),
    "witness": ("name", "vkey", *_VALIDITY),
    "authority": ("name", "certificate", "issuers", *_VALIDITY),
}
_ROLE: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,79}")


def load_trust(path: Path) -> Trust:
    """Read a trust file.

    Raises:
        NotFoundError: no such file.
        MalformedPolicyError: not TOML, unknown members, a malformed key or time, or an entry listed twice.
    """
    try:
        data = read_limited(path, MAX_TRUST_FILE)
    except NotFoundError as error:
        hint = "ucaudit trust add --file FILE makes one"
        raise NotFoundError("no such trust file", subject=str(path), hint=hint) from error
    return parse_trust(data, subject=str(path))


def parse_trust(data: bytes, *, subject: str) -> Trust:
    """A trust file's content from its bytes. Raises MalformedPolicyError, MalformedKeyError."""
    document = toml_document(data, subject=subject)
    refuse_unknown(document, TABLES, subject=subject, place="")
    trust = Trust(
        keys=tuple(_key(item, place) for item, place in _entries(document, "key", subject)),
        ledgers=tuple(_ledger(item, place) for item, place in _entries(document, "ledger", subject)),
        witnesses=tuple(_witness(item, place) for item, place in _entries(document, "witness", subject)),
        authorities=tuple(_authority(item, place) for item, place in _entries(document, "authority", subject)),
    )
    _refuse_twice((f"key {entry.key.key_id[:16]}…" for entry in trust.keys), subject)
    _refuse_twice((f"ledger {entry.origin}" for entry in trust.ledgers), subject)
    _refuse_twice((f"witness {entry.name}" for entry in trust.witnesses), subject)
    _refuse_twice((f"authority {entry.name}" for entry in trust.authorities), subject)
    return trust


def toml_document(data: bytes, *, subject: str) -> dict[str, Any]:
    """The TOML document. Raises MalformedPolicyError."""
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        hint = "docs/trust.md shows a trust file; ucaudit trust add writes one"
        raise MalformedPolicyError(f"not toml: {error}", subject=subject, hint=hint) from error
    except RecursionError as error:
        raise MalformedPolicyError("nested too deeply", subject=subject) from error


def parse_role(text: str, *, subject: str) -> str:
    """A role as endorsements spell it. Raises MalformedPolicyError."""
    if not _ROLE.fullmatch(text):
        raise MalformedPolicyError(
            f"{text[:80]!r} is not a role", subject=subject, hint="small letters, digits, dots and hyphens"
        )
    return text


def read_vkey(
    vkey: str, types: Sequence[int] = (LEDGER_KEY_TYPE, WITNESS_KEY_TYPE), *, subject: str
) -> tuple[int, str]:
    """The type and the name inside a verifier key ``name+hex(key id)+base64(type ‖ public key)``.

    Args:
        vkey: the text.
        types: the type bytes it may have: 0x01 is a ledger's key, 0x04 a witness's.
        subject: for messages.

    Raises:
        MalformedPolicyError: another form or type, or a key id that its name and key do not give.
    """
    parts = vkey.split("+", 2)
    try:
        blob = base64.b64decode(parts[2], validate=True) if len(parts) == 3 else b""
    except (binascii.Error, ValueError):
        blob = b""
    if len(blob) != 33 or not parts[0] or base64.b64encode(blob).decode("ascii") != parts[2]:
        raise MalformedPolicyError(
            f"not a verifier key: {vkey[:80]!r}", subject=subject, hint="it looks like name+1a2b3c4d+AbCd…="
        )
    if blob[0] not in types:
        raise MalformedPolicyError(
            f"a verifier key of type {blob[0]:#04x}, expected {' or '.join(f'{item:#04x}' for item in types)}",
            subject=subject,
            hint="0x01 is a ledger's key, 0x04 a witness's",
        )
    expected = hashlib.sha256(parts[0].encode("utf-8") + b"\n" + blob).hexdigest()[:8]
    if parts[1] != expected:
        raise MalformedPolicyError(
            f"the verifier key says id {parts[1][:16]}, its name and key give {expected}", subject=subject
        )
    return blob[0], parts[0]


def _entries(document: dict[str, Any], table: str, subject: str) -> list[tuple[dict[str, Any], str]]:
    value = document.get(table, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise MalformedPolicyError(f"write [[{table}]] tables", subject=subject)
    found = []
    for number, item in enumerate(value, start=1):
        place = f"{subject}: {table} {number}"
        refuse_unknown(item, MEMBERS[table], subject=place, place=table)
        found.append((item, place))
    return found


def _refuse_twice(names: Any, subject: str) -> None:  # noqa: ANN401 - any iterable of strings
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise MalformedPolicyError(f"{name} is listed twice", subject=subject)
        seen.add(name)


def _key(item: dict[str, Any], subject: str) -> TrustedKey:
    principal = _text(item, "principal", "key", subject)
    predicates = _strings(item, "predicate-types", DEFAULT_PREDICATES, subject)
    for predicate in predicates:
        if predicate not in PREDICATES:
            from difflib import get_close_matches

            close = get_close_matches(predicate, PREDICATES, n=1)
            hint = f"did you mean {close[0]}" if close else f"known: {', '.join(PREDICATES)}"
            raise MalformedPolicyError(f"unknown predicate type {predicate!r}", subject=subject, hint=hint)
    return TrustedKey(
        principal=principal,
        key=PublicKey.from_base64(_text(item, "public-key", "key", subject), subject=subject),
        roles=tuple(parse_role(role, subject=subject) for role in _strings(item, "roles", (), subject)),
        predicate_types=predicates,
        validity=_validity(item, subject),
    )


def _ledger(item: dict[str, Any], subject: str) -> TrustedLedger:
    for member in ("origin", "vkey"):
        if not isinstance(item.get(member), str):
            raise MalformedPolicyError("a ledger needs origin and vkey", subject=subject)
    _, inside = read_vkey(item["vkey"], (LEDGER_KEY_TYPE,), subject=subject)
    if inside != item["origin"]:
        raise MalformedPolicyError(
            f"the verifier key is of {inside[:80]!r}, not of {item['origin'][:80]!r}", subject=subject
        )
    return TrustedLedger(item["origin"], item["vkey"], _validity(item, subject))


def _witness(item: dict[str, Any], subject: str) -> TrustedWitness:
    name, vkey = _text(item, "name", "witness", subject), _text(item, "vkey", "witness", subject)
    _, inside = read_vkey(vkey, (WITNESS_KEY_TYPE,), subject=subject)
    if inside != name:
        raise MalformedPolicyError(f"the verifier key is of {inside[:80]!r}, not of {name[:80]!r}", subject=subject)
    return TrustedWitness(name, vkey, _validity(item, subject))


def _authority(item: dict[str, Any], subject: str) -> TrustedAuthority:
    return TrustedAuthority(
        name=_text(item, "name", "authority", subject),
        certificate=_certificate(_text(item, "certificate", "authority", subject), subject),
        issuers=tuple(_certificate(text, subject) for text in _strings(item, "issuers", (), subject)),
        validity=_validity(item, subject),
    )


def _certificate(text: str, subject: str) -> bytes:
    try:
        der = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedPolicyError("the certificate is not base64", subject=subject) from error
    if not der.startswith(b"\x30") or len(der) > MAX_CERTIFICATE:
        raise MalformedPolicyError("not a certificate (base64 of DER)", subject=subject)
    return der


def _validity(item: dict[str, Any], subject: str) -> Validity:
    reason = item.get("revoked-reason")
    if reason is not None and not isinstance(reason, str):
        raise MalformedPolicyError("revoked-reason is a string", subject=subject)
    validity = Validity(
        valid_from=_time(item, "valid-from", subject),
        valid_until=_time(item, "valid-until", subject),
        revoked_at=_time(item, "revoked-at", subject),
        revoked_reason=reason,
    )
    if reason is not None and validity.revoked_at is None:
        # Somebody meant to revoke: a reason without the time must not leave the key trusted.
        raise MalformedPolicyError("revoked-reason without revoked-at", subject=subject)
    start, end = validity.valid_from, validity.valid_until
    if start is not None and end is not None and start > end:
        raise MalformedPolicyError("valid-from is later than valid-until", subject=subject)
    return validity


def _text(item: dict[str, Any], member: str, table: str, subject: str) -> str:
    value = item.get(member)
    if not isinstance(value, str) or not value.strip():
        raise MalformedPolicyError(f"a {table} needs {member}", subject=subject)
    return value


def _strings(item: dict[str, Any], member: str, default: Sequence[str], subject: str) -> tuple[str, ...]:
    value = item.get(member, list(default))
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise MalformedPolicyError(f"{member} is a list of strings", subject=subject)
    return tuple(value)


def _time(item: dict[str, Any], member: str, subject: str) -> datetime | None:
    value = item.get(member)
    if value is None:
        return None
    try:
        return parse_time(value)
    except (TypeError, ValueError) as error:
        raise MalformedPolicyError(
            f"{member} is not a time like 2026-01-31T00:00:00Z", subject=subject, hint="a string, in quotes"
        ) from error
