"""OpenSSH ``allowed_signers`` files, in and out (ssh-keygen(1), section ALLOWED SIGNERS).

What carries over: principal, key, validity window, and the predicate types, which are written as signature
namespaces (``urn:ucaudit:predicate:attestation:v1`` and so on), so that a key which is trusted for records here is
not trusted for commits there. The format has no place for roles, nor for a revocation and its time; a revoked key
is left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from ucaudit.core.errors import MalformedKeyError, MalformedPolicyError
from ucaudit.core.records.base import PREDICATE_PREFIX
from ucaudit.evidence.keys import PublicKey
from ucaudit.evidence.trust.file import DEFAULT_PREDICATES, PREDICATES
from ucaudit.evidence.trust.model import TrustedKey, Validity

MAX_LINES: Final = 10_000
_KEY_TYPES: Final = ("ssh-ed25519", "ecdsa-sha2-nistp256")
_NAMESPACES: Final = {name: f"{PREDICATE_PREFIX}{name}:v1" for name in PREDICATES}
_TIMES: Final = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_OPTION: Final = re.compile(r'([A-Za-z-]+)(?:="((?:[^"\\]|\\.)*)")?')
_FIELD: Final = re.compile(r'"([^"]*)"[ \t]+|([^ \t"]+)[ \t]+')


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that was left out, and why."""

    what: str
    reason: str


def parse_allowed_signers(
    data: bytes, *, roles: Sequence[str], predicate_types: Sequence[str] | None, subject: str
) -> tuple[list[TrustedKey], list[Skipped]]:
    """Read an ``allowed_signers`` file.

    Args:
        data: its bytes.
        roles: the roles to give every key; the format has none.
        predicate_types: what to trust every key for; None takes a line's namespaces, all but seed if none.
        subject: the file's name.

    Returns:
        The keys, and the lines that cannot be taken over: certificate authorities, patterns, key types that do not
        sign here, namespaces that are for something else.

    Raises:
        MalformedPolicyError: a line is not in the format.
    """
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise MalformedPolicyError(f"not utf-8 at byte {error.start}", subject=subject) from error
    if len(lines) > MAX_LINES:
        raise MalformedPolicyError(f"more than {MAX_LINES} lines", subject=subject)
    keys: list[TrustedKey] = []
    skipped: list[Skipped] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        found = _line(text, tuple(roles), predicate_types, f"{subject}: line {number}")
        if isinstance(found, str):
            skipped.append(Skipped(f"line {number}", found))
        elif found.key.key_id in {entry.key.key_id for entry in keys}:
            skipped.append(Skipped(f"line {number}", "the same key as on an earlier line"))
        else:
            keys.append(found)
    return keys, skipped


def write_allowed_signers(
    keys: Sequence[TrustedKey], *, namespaces: Sequence[str] = ()
) -> tuple[str, list[Skipped]]:
    """An ``allowed_signers`` file of those keys that it can express.

    Args:
        keys: of a trust file.
        namespaces: further signature namespaces to allow, such as ``git`` or ``file``.

    Returns:
        The text, and what was left out: revoked keys, and principals that the format would read as patterns.
    """
    lines = ["# made by ucaudit trust export: roles and revocations are in the trust file only"]
    skipped = []
    for entry in keys:
        label = f"{entry.principal}: key {entry.key.key_id[:16]}…"
        if entry.validity.revoked_at is not None:
            skipped.append(Skipped(label, f"{entry.validity.revocation}; this format cannot say so"))
            continue
        if re.search(r'[*?!,"\\\x00-\x1f\x7f]', entry.principal) or entry.principal.startswith("#"):
            skipped.append(Skipped(label, "its principal would be read as a pattern or a list"))
            continue
        if not entry.principal.isprintable():
            skipped.append(Skipped(label, "its principal holds characters that do not print"))
            continue
        principal = f'"{entry.principal}"' if re.search(r"\s", entry.principal) else entry.principal
        allowed = [_NAMESPACES[name] for name in entry.predicate_types] + list(namespaces)
        options = [f'namespaces="{",".join(allowed)}"']
        if entry.validity.valid_from is not None:
            options.append(f'valid-after="{entry.validity.valid_from:%Y%m%d%H%M%SZ}"')
        if entry.validity.valid_until is not None:
            options.append(f'valid-before="{entry.validity.valid_until:%Y%m%d%H%M%SZ}"')
        lines.append(f"{principal} {','.join(options)} {entry.key.openssh()}")
    return "\n".join(lines) + "\n", skipped


def _line(
    text: str, roles: tuple[str, ...], predicate_types: Sequence[str] | None, subject: str
) -> TrustedKey | str:
    """One line's key, or why it is skipped."""
    match = _FIELD.match(text)
    if match is None:
        raise MalformedPolicyError("no key after the principals", subject=subject)
    principal = match.group(1) if match.group(1) is not None else match.group(2)
    options, rest = _options(text[match.end() :], subject)
    kind, _, tail = rest.partition(" ")
    if not kind or not tail.strip():
        raise MalformedPolicyError("no key after the principals", subject=subject)
    if "cert-authority" in options:
        return "a certificate authority: trust the keys themselves"
    if re.search(r"[*?!,]", principal):
        return "names several principals or a pattern: give each key one principal"
    if kind not in _KEY_TYPES:
        return f"keys of type {kind[:60]} are not used here"
    try:
        key = PublicKey.from_openssh(f"{kind} {tail.split()[0]}", subject=subject)
    except MalformedKeyError as error:
        raise MalformedPolicyError(error.message, subject=subject) from error
    allowed = predicate_types
    if allowed is None:
        spaces = options.get("namespaces")
        allowed = DEFAULT_PREDICATES
        if spaces is not None:
            listed = spaces.split(",")
            allowed = [name for name, uri in _NAMESPACES.items() if uri in listed]
            if not allowed:
                return f"for other namespaces ({spaces[:60]}): --predicate says what to trust it for"
    validity = Validity(_time(options.get("valid-after"), subject), _time(options.get("valid-before"), subject))
    return TrustedKey(principal, key, roles, tuple(allowed), validity)


def _options(text: str, subject: str) -> tuple[dict[str, str], str]:
    """The options in front of a key, if there are any, and what follows them."""
    first = text.split(" ", 1)[0]
    if first.startswith(("ssh-", "ecdsa-", "sk-")):
        return {}, text
    found: dict[str, str] = {}
    position = 0
    while True:
        match = _OPTION.match(text, position)
        if match is None:
            raise MalformedPolicyError(f"malformed options at {text[position : position + 40]!r}", subject=subject)
        name, value = match.group(1).lower(), match.group(2)
        if name not in ("cert-authority", "namespaces", "valid-after", "valid-before"):
            raise MalformedPolicyError(f"unknown option {name[:40]!r}", subject=subject)
        if name in found or (value is None) != (name == "cert-authority"):
            raise MalformedPolicyError(f"malformed option {name!r}", subject=subject)
        found[name] = value or ""
        position = match.end()
        if text[position : position + 1] == ",":
            position += 1
            continue
        if text[position : position + 1] not in (" ", "\t"):
            raise MalformedPolicyError(f"malformed options at {text[position : position + 40]!r}", subject=subject)
        return found, text[position:].strip()


def _time(text: str | None, subject: str) -> datetime | None:
    """``YYYYMMDD`` or ``YYYYMMDDHHMM[SS]``, in this machine's time zone unless a Z follows, as OpenSSH has it."""
    if text is None:
        return None
    digits = text.removesuffix("Z").removesuffix("z")
    form = _TIMES.get(len(digits)) if digits.isascii() and digits.isdigit() else None
    if form is None:
        raise MalformedPolicyError(f"not a time like 20260131090000Z: {text[:40]!r}", subject=subject)
    try:
        moment = datetime.strptime(digits, form)
        return moment.replace(tzinfo=UTC) if digits != text else moment.astimezone(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise MalformedPolicyError(f"not a time: {text[:40]!r}", subject=subject) from error
