"""Editing a trust file as a person would: a block appended, a line put in; comments and other entries stay.

Every edit is checked before it is written: the new text must parse to the old document plus exactly the change
that was meant. The file is replaced atomically.
"""

from __future__ import annotations

import base64
import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ucaudit.core.errors import MalformedPolicyError, RefusedError
from ucaudit.core.files import read_limited, write_text
from ucaudit.core.records import now
from ucaudit.evidence.keys import PublicKey
from ucaudit.evidence.trust.file import (
    DEFAULT_PREDICATES,
    LEDGER_KEY_TYPE,
    MAX_TRUST_FILE,
    load_trust,
    parse_trust,
    read_vkey,
    toml_document,
)
from ucaudit.evidence.trust.model import Trust, TrustedAuthority, TrustedKey, Validity, show_time

HEADER: Final = """\
# ucaudit trust file: the keys that you trust, for what, in which role, and when.
# Add keys with `ucaudit trust add`; compare a key's id with its owner over another channel first.
"""


def add_key(
    path: Path,
    key: PublicKey,
    principal: str,
    *,
    roles: Sequence[str],
    predicate_types: Sequence[str] = DEFAULT_PREDICATES,
    valid_from: str | None = None,
    valid_until: str | None = None,
) -> None:
    """Append a key to a trust file, made if absent.

    Raises:
        RefusedError: the key is there already.
        MalformedPolicyError: the file, a role, a time or a predicate type is malformed.
        OutputError: it cannot be written.
    """
    if any(entry.key.key_id == key.key_id for entry in _existing(path).keys):
        raise RefusedError(f"key {key.key_id[:16]}… is listed already", subject=str(path))
    members: dict[str, Any] = {
        "principal": principal,
        "public-key": key.base64,
        "roles": list(roles),
        "predicate-types": list(predicate_types),
        **_window(valid_from, valid_until),
    }
    _append(path, "key", [(members, f"key id {key.key_id}, added {now()}")])


def add_keys(path: Path, keys: Sequence[TrustedKey]) -> tuple[list[TrustedKey], list[TrustedKey]]:
    """Append those keys that are not in a trust file yet, in one step.

    Returns:
        Those that were added, and those that were there already (they are left as they are).

    Raises:
        MalformedPolicyError, OutputError: as :func:`add_key`.
    """
    known = {entry.key.key_id for entry in _existing(path).keys}
    new = [entry for entry in keys if entry.key.key_id not in known]
    blocks = []
    for entry in new:
        window = entry.validity
        members: dict[str, Any] = {
            "principal": entry.principal,
            "public-key": entry.key.base64,
            "roles": list(entry.roles),
            "predicate-types": list(entry.predicate_types),
            **_window(
                show_time(window.valid_from) if window.valid_from else None,
                show_time(window.valid_until) if window.valid_until else None,
            ),
        }
        blocks.append((members, f"key id {entry.key.key_id}, imported {now()}"))
    if blocks:
        _append(path, "key", blocks)
    return new, [entry for entry in keys if entry.key.key_id in known]


def add_ledger(path: Path, origin: str, vkey: str) -> None:
    """Append a ledger to a trust file, made if absent; nothing happens if the same ledger is there already.

    Raises:
        RefusedError: the origin is there with another key.
        OutputError: the file cannot be written.
    """
    for known in _existing(path).ledgers:
        if known.origin == origin:
            if known.vkey == vkey:
                return
            raise RefusedError(f"ledger {origin} is listed with another key", subject=str(path))
    _append(path, "ledger", [({"origin": origin, "vkey": vkey}, f"added {now()}")])


def add_vkey(path: Path, vkey: str) -> tuple[str, str]:
    """Append whatever a verifier key belongs to: a ledger (type 0x01) or a witness (type 0x04).

    Returns:
        ``("ledger" or "witness", name)``.

    Raises:
        MalformedPolicyError: not a verifier key.
        RefusedError: the name is there with another key.
        OutputError: the file cannot be written.
    """
    kind, name = read_vkey(vkey, subject="vkey")
    if kind == LEDGER_KEY_TYPE:
        add_ledger(path, name, vkey)
        return "ledger", name
    for known in _existing(path).witnesses:
        if known.name == name:
            if known.vkey == vkey:
                return "witness", name
            raise RefusedError(f"witness {name} is listed with another key", subject=str(path))
    _append(path, "witness", [({"name": name, "vkey": vkey}, f"added {now()}")])
    return "witness", name


def add_authority(
    path: Path,
    authority: TrustedAuthority,
    *,
    valid_from: str | None = None,
    valid_until: str | None = None,
) -> None:
    """Append a time-stamp authority with its certificates.

    Raises:
        RefusedError: the name is there already.
        MalformedPolicyError, OutputError: as :func:`add_key`.
    """
    if any(known.name == authority.name for known in _existing(path).authorities):
        raise RefusedError(f"authority {authority.name} is listed already", subject=str(path))
    members: dict[str, Any] = {
        "name": authority.name,
        "certificate": base64.b64encode(authority.certificate).decode("ascii"),
        "issuers": [base64.b64encode(der).decode("ascii") for der in authority.issuers],
        **_window(valid_from, valid_until),
    }
    _append(path, "authority", [(members, f"time-stamp authority, added {now()}")])


def revoke(path: Path, table: str, index: int, *, at: str, reason: str) -> None:
    """Mark an entry as revoked: from that moment on nothing it signs counts.

    Args:
        path: the trust file.
        table: ``key``, ``ledger``, ``witness`` or ``authority``.
        index: the entry's position among those of its table.
        at: UTC time, like ``2026-01-31T00:00:00Z``.
        reason: in a few words; it is printed with every refusal.

    Raises:
        RefusedError: revoked already at an earlier or the same moment.
        MalformedPolicyError: the file cannot be edited safely (an inline table), or a malformed time.
        OutputError: it cannot be written.
    """
    data = read_limited(path, MAX_TRUST_FILE)
    validity = _validity_of(parse_trust(data, subject=str(path)), table, index)
    if validity.revoked_at is not None:
        raise RefusedError(
            f"this {table} is {validity.revocation}",
            subject=str(path),
            hint=f"to change revoked-at {show_time(validity.revoked_at)}, edit the file",
        )
    document = toml_document(data, subject=str(path))
    expected = copy.deepcopy(document)
    expected[table][index] |= {"revoked-at": at, "revoked-reason": reason}
    lines = data.decode("utf-8").splitlines(keepends=True)
    added = f"revoked-at = {toml_value(at)}\nrevoked-reason = {toml_value(reason)}\n"
    header = re.compile(rf"\s*\[\[\s*{table}\s*\]\]\s*(#.*)?")
    places = [number for number, line in enumerate(lines) if header.fullmatch(line.rstrip("\r\n"))]
    # Text in a multi-line string may look like a header, so the right place is the one that gives the right result.
    for number in places:
        ending = "" if lines[number].endswith("\n") else "\n"
        text = "".join([*lines[: number + 1], ending, added, *lines[number + 1 :]])
        try:
            fits = toml_document(text.encode("utf-8"), subject=str(path)) == expected
        except MalformedPolicyError:
            continue
        if fits:
            parse_trust(text.encode("utf-8"), subject=str(path))
            write_text(path, text)
            return
    raise MalformedPolicyError(
        f"cannot be edited safely: its {table} entries are not [[{table}]] tables",
        subject=str(path),
        hint=f"add to the entry: {added.strip()}".replace("\n", " and "),
    )


def find_entry(trust: Trust, table: str, name: str, *, subject: str) -> int:
    """The position of an entry: a key by the start of its id or by its only principal, others by name.

    Raises:
        RefusedError: nothing, or more than one thing, is called that.
    """
    names = {
        "key": [(entry.key.key_id, entry.principal) for entry in trust.keys],
        "ledger": [("", entry.origin) for entry in trust.ledgers],
        "witness": [("", entry.name) for entry in trust.witnesses],
        "authority": [("", entry.name) for entry in trust.authorities],
    }[table]
    found = [
        number
        for number, (key_id, label) in enumerate(names)
        if label == name or (len(name) >= 8 and key_id.startswith(name.lower()))
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        raise RefusedError(f"no {table} called {name!r}", subject=subject, hint="see ucaudit trust list")
    raise RefusedError(
        f"{len(found)} entries are called {name!r}", subject=subject, hint="give the key id, or its first 8 digits"
    )


def toml_value(value: str | Sequence[str]) -> str:
    """A TOML basic string, or an array of them."""
    if not isinstance(value, str):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    safe = "".join(c if c.isprintable() else _escape(c) for c in escaped)
    return f'"{safe}"'


def _escape(character: str) -> str:
    return f"\\u{ord(character):04X}" if ord(character) < 0x10000 else f"\\U{ord(character):08X}"


def _window(valid_from: str | None, valid_until: str | None) -> dict[str, str]:
    return {name: value for name, value in (("valid-from", valid_from), ("valid-until", valid_until)) if value}


def _existing(path: Path) -> Trust:
    return load_trust(path) if path.exists() else Trust()


def _validity_of(trust: Trust, table: str, index: int) -> Validity:
    tables: Mapping[str, Sequence[Any]] = {
        "key": trust.keys,
        "ledger": trust.ledgers,
        "witness": trust.witnesses,
        "authority": trust.authorities,
    }
    validity = tables[table][index].validity
    assert isinstance(validity, Validity)
    return validity


def _append(path: Path, table: str, entries: Sequence[tuple[Mapping[str, Any], str]]) -> None:
    """Append tables, each under a comment, if the whole file then reads as the old content and these entries."""
    subject = str(path)
    text = read_limited(path, MAX_TRUST_FILE).decode("utf-8") if path.exists() else HEADER
    expected = toml_document(text.encode("utf-8"), subject=subject)
    new = text if text.endswith("\n") or not text else f"{text}\n"
    for members, comment in entries:
        expected.setdefault(table, []).append(dict(members))
        block = "".join(f"{name} = {toml_value(value)}\n" for name, value in members.items())
        new += f"\n# {comment}\n[[{table}]]\n{block}"
    parse_trust(new.encode("utf-8"), subject=subject)
    if toml_document(new.encode("utf-8"), subject=subject) != expected:
        raise MalformedPolicyError("cannot be extended without changing its meaning", subject=subject)
    write_text(path, new)
