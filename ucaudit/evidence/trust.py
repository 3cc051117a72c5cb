"""Which keys are trusted, for what, in which role, and when. The trust file is the auditor's, never a bundle's."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from ucaudit.core.errors import MalformedPolicyError, RefusedError
from ucaudit.core.files import read_limited, write_text
from ucaudit.core.records import now, parse_time
from ucaudit.evidence.keys import PublicKey
from ucaudit.evidence.suggest import refuse_unknown

_MAX_TRUST_FILE: Final = 1 << 20
PREDICATES: Final = ("attestation", "plan", "abandonment", "endorsement", "bundle")
_KEY_MEMBERS: Final = (
    "principal",
    "public-key",
    "roles",
    "valid-from",
    "valid-until",
    "predicate-types",
    "revoked-at",
    "revoked-reason",
)
_HEADER: Final = """\
# ucaudit trust file: the keys that you trust, for what, in which role, and when.
# Add keys with `ucaudit trust add`; compare a key's id with its owner over another channel first.
"""


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """One key and what it is trusted for."""

    principal: str
    key: PublicKey
    roles: tuple[str, ...]
    valid_from: datetime | None
    valid_until: datetime | None
    predicate_types: tuple[str, ...]
    revoked_at: datetime | None
    revoked_reason: str | None

    def objection(self, predicate: str, claimed: datetime) -> str | None:
        """Why a signature of this key does not count, or None.

        Args:
            predicate: the short name of the predicate type, like ``attestation``.
            claimed: when the signed record says it was made. A claimed time is the signer's own word; a
                revoked key therefore never counts here, since whoever stole it can back-date.
        """
        if self.revoked_at is not None:
            reason = f": {self.revoked_reason}" if self.revoked_reason else ""
            return f"revoked at {self.revoked_at:%Y-%m-%dT%H:%M:%SZ}{reason}"
        if predicate not in self.predicate_types:
            return f"not trusted for a record of type {predicate}"
        if self.valid_from is not None and claimed < self.valid_from:
            return f"not valid before {self.valid_from:%Y-%m-%dT%H:%M:%SZ}"
        if self.valid_until is not None and claimed > self.valid_until:
            return f"expired at {self.valid_until:%Y-%m-%dT%H:%M:%SZ}"
        return None


@dataclass(frozen=True, slots=True)
class TrustedLedger:
    """A ledger whose checkpoints are believed."""

    origin: str
    vkey: str


@dataclass(frozen=True, slots=True)
class Trust:
    """A trust file's content."""

    keys: tuple[TrustedKey, ...]
    ledgers: tuple[TrustedLedger, ...]

    @property
    def public_keys(self) -> tuple[PublicKey, ...]:
        """All keys, revoked and expired ones too: a signature is first found, then judged."""
        return tuple(entry.key for entry in self.keys)

    def entry(self, key: PublicKey) -> TrustedKey:
        """The entry of a key that is in this file."""
        return next(entry for entry in self.keys if entry.key.key_id == key.key_id)


def load_trust(path: Path) -> Trust:
    """Read a trust file.

    Raises:
        NotFoundError: no such file.
        MalformedPolicyError: not TOML, unknown members, a malformed key or time, or a key listed twice.
    """
    try:
        document = tomllib.loads(read_limited(path, _MAX_TRUST_FILE).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MalformedPolicyError(f"not toml: {error}", subject=str(path)) from error
    refuse_unknown(document, ("key", "ledger"), subject=str(path), place="")
    keys = tuple(
        _trusted_key(item, f"{path}: key {index + 1}") for index, item in enumerate(_tables(document, "key", path))
    )
    seen: set[str] = set()
    for entry in keys:
        if entry.key.key_id in seen:
            raise MalformedPolicyError(f"key {entry.key.key_id[:16]}… is listed twice", subject=str(path))
        seen.add(entry.key.key_id)
    ledgers = []
    for item in _tables(document, "ledger", path):
        refuse_unknown(item, ("origin", "vkey"), subject=str(path), place="ledger")
        if not isinstance(item.get("origin"), str) or not isinstance(item.get("vkey"), str):
            raise MalformedPolicyError("a ledger needs origin and vkey", subject=str(path))
        ledgers.append(TrustedLedger(item["origin"], item["vkey"]))
    return Trust(keys, tuple(ledgers))


def add_key(
    path: Path,
    key: PublicKey,
    principal: str,
    *,
    roles: Sequence[str],
    predicate_types: Sequence[str] = PREDICATES,
    valid_from: str | None = None,
    valid_until: str | None = None,
) -> None:
    """Append a key to a trust file, made if absent; comments in it stay as they are.

    Raises:
        RefusedError: the key is there already.
        MalformedPolicyError: the file, a time or a predicate type is malformed.
        OutputError: it cannot be written.
    """
    members: dict[str, Any] = {
        "principal": principal,
        "public-key": key.base64,
        "roles": list(roles),
        "predicate-types": list(predicate_types),
    }
    if valid_from:
        members["valid-from"] = valid_from
    if valid_until:
        members["valid-until"] = valid_until
    _trusted_key(members, str(path))
    text = _existing(path)
    if text != _HEADER and key.key_id in {entry.key.key_id for entry in load_trust(path).keys}:
        raise RefusedError(f"key {key.key_id[:16]}… is listed already", subject=str(path))
    block = "".join(f"{name} = {_toml(value)}\n" for name, value in members.items())
    write_text(path, f"{text}\n# key id {key.key_id}, added {now()}\n[[key]]\n{block}")


def add_ledger(path: Path, origin: str, vkey: str) -> None:
    """Append a ledger to a trust file, made if absent; nothing happens if the same ledger is there already.

    Raises:
        RefusedError: the origin is there with another key.
        OutputError: the file cannot be written.
    """
    text = _existing(path)
    if text != _HEADER:
        for known in load_trust(path).ledgers:
            if known.origin == origin:
                if known.vkey == vkey:
                    return
                raise RefusedError(f"ledger {origin} is listed with another key", subject=str(path))
    write_text(path, f"{text}\n[[ledger]]\norigin = {_toml(origin)}\nvkey = {_toml(vkey)}\n")


def _existing(path: Path) -> str:
    if not path.exists():
        return _HEADER
    load_trust(path)
    return read_limited(path, _MAX_TRUST_FILE).decode("utf-8")


def _tables(document: dict[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    value = document.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise MalformedPolicyError(f"write [[{name}]] tables", subject=str(path))
    return value


def _trusted_key(item: dict[str, Any], subject: str) -> TrustedKey:
    refuse_unknown(item, _KEY_MEMBERS, subject=subject, place="key")
    for member in ("principal", "public-key"):
        if not isinstance(item.get(member), str) or not item[member].strip():
            raise MalformedPolicyError(f"a key needs {member}", subject=subject)
    roles = _strings(item, "roles", (), subject)
    predicates = _strings(item, "predicate-types", PREDICATES, subject)
    for predicate in predicates:
        if predicate not in PREDICATES:
            raise MalformedPolicyError(
                f"unknown predicate type {predicate!r}", subject=subject, hint=f"known: {', '.join(PREDICATES)}"
            )
    reason = item.get("revoked-reason")
    return TrustedKey(
        principal=item["principal"],
        key=PublicKey.from_base64(item["public-key"], subject=subject),
        roles=roles,
        valid_from=_time(item, "valid-from", subject),
        valid_until=_time(item, "valid-until", subject),
        predicate_types=predicates,
        revoked_at=_time(item, "revoked-at", subject),
        revoked_reason=reason if isinstance(reason, str) else None,
    )


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
        raise MalformedPolicyError(f"{member} is not a time like 2026-01-31T00:00:00Z", subject=subject) from error


def _toml(value: str | list[str]) -> str:
    """A TOML basic string, or an array of them."""
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    safe = "".join(c if c.isprintable() else f"\\u{ord(c):04X}" for c in escaped)
    return f'"{safe}"'
