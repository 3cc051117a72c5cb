"""``ucaudit trust``: the keys that you trust."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ucaudit.cli.common import Output, output_options, printable, table
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_PASS

if TYPE_CHECKING:
    from datetime import datetime

    from ucaudit.evidence.trust import Trust, Validity

_file = click.option(
    "--file",
    "path",
    type=PATH,
    default=Path("trust.toml"),
    show_default=True,
    help="Trust file.",
)
_window = (
    click.option("--valid-from", help="Not before, like 2026-01-31T00:00:00Z."),
    click.option("--valid-until", help="Not after."),
)


@click.group()
def trust() -> None:
    """Edit and list the keys you trust."""


@trust.command("add")
@_file
@click.option("--key", "key_path", type=PATH, help="Public key (.pub) to trust.")
@click.option("--principal", help="Whose key it is, for example an e-mail address.")
@click.option("--role", "roles", multiple=True, help="Role of the key: developer, validator, … (repeatable).")
@click.option(
    "--predicate",
    "predicates",
    multiple=True,
    help="Only for this type of record (repeatable); all but seed if absent.",
)
@_window[0]
@_window[1]
@click.option("--ledger", "ledger_dir", type=PATH, help="Trust this ledger's checkpoint key.")
@click.option("--vkey", "vkeys", multiple=True, help="Trust a ledger or witness by its verifier key (repeatable).")
@click.option(
    "--authority",
    "authority",
    type=PATH,
    help="Trust a time-stamp authority: PEM of its own certificate, then of its issuers.",
)
@click.option("--name", help="What to call the --authority (default: its certificate's subject).")
@output_options
def add(
    path: Path,
    key_path: Path | None,
    principal: str | None,
    roles: tuple[str, ...],
    predicates: tuple[str, ...],
    valid_from: str | None,
    valid_until: str | None,
    ledger_dir: Path | None,
    vkeys: tuple[str, ...],
    authority: Path | None,
    name: str | None,
    out: Output,
) -> int:
    """Trust keys, ledgers, witnesses and time-stamp authorities.

    Compare a key's id with its owner over another channel first. Comments and
    other entries in the file stay as they are.
    """
    from ucaudit.evidence import trust as library

    if key_path is None and ledger_dir is None and not vkeys and authority is None:
        raise click.UsageError("nothing to add: give --key with --principal, --ledger, --vkey or --authority")
    if key_path is not None and not principal:
        raise click.UsageError("--key needs --principal")
    for option, value in (("--principal", principal), ("--name", name)):
        if value is not None and not value.isprintable():
            raise click.BadParameter("holds characters that do not print", param_hint=option)
    if key_path is None and (roles or predicates or principal):
        raise click.UsageError("--principal, --role and --predicate belong to a --key")
    # Everything is read before anything is written, so that one wrong option adds nothing.
    key = ledger = entry = None
    if key_path is not None:
        from ucaudit.evidence.keys import PublicKey

        key = PublicKey.load(key_path)
    if ledger_dir is not None:
        from ucaudit.evidence.ledger import Ledger

        ledger = Ledger.open(ledger_dir)
    if authority is not None:
        from ucaudit.evidence.timestamp import read_authority

        entry = read_authority(authority, name=name)
    for vkey in vkeys:
        library.read_vkey(vkey, subject="--vkey")
    added: dict[str, Any] = {"file": str(path)}
    what = []
    if key is not None and principal:
        library.add_key(
            path,
            key,
            principal,
            roles=roles,
            predicate_types=predicates or library.DEFAULT_PREDICATES,
            valid_from=valid_from,
            valid_until=valid_until,
        )
        added |= {"keyId": key.key_id, "principal": principal, "roles": list(roles)}
        what.append(f"{principal}: key {key.key_id}")
    if ledger is not None:
        library.add_ledger(path, ledger.origin, ledger.vkey)
        added["ledger"] = ledger.origin
        what.append(f"ledger {ledger.origin}")
    for vkey in vkeys:
        kind, named = library.add_vkey(path, vkey)
        added[kind] = named
        what.append(f"{kind} {named}")
    if entry is not None:
        library.add_authority(path, entry, valid_from=valid_from, valid_until=valid_until)
        added["authority"] = entry.name
        what.append(f"time-stamp authority {entry.name}")
    out.result(added, printable(f"{path}: trusted {' and '.join(what)}"))
    return EXIT_PASS


@trust.command("revoke")
@_file
@click.option("--key", "key_name", help="A key id or its first 8 digits, a .pub file, or the principal.")
@click.option("--ledger", "ledger_name", help="The ledger's origin.")
@click.option("--witness", "witness_name", help="The witness's name.")
@click.option("--authority", "authority_name", help="The time-stamp authority's name.")
@click.option("--at", "moment", help="From this UTC time on, like 2026-01-31T00:00:00Z (default: now).")
@click.option("--reason", required=True, help="Why, in a few words: stolen, superseded, left the company, …")
@output_options
def revoke_entry(
    path: Path,
    key_name: str | None,
    ledger_name: str | None,
    witness_name: str | None,
    authority_name: str | None,
    moment: str | None,
    reason: str,
    out: Output,
) -> int:
    """Stop trusting a key, ledger, witness or authority from a moment on.

    Give the moment from which the key may have been in other hands, not the
    one at which you noticed. What a revoked key signed counts only if a trusted
    time puts it before that moment: whoever stole it can write any date.
    """
    from ucaudit.core.records import now
    from ucaudit.evidence import trust as library

    named = {"key": key_name, "ledger": ledger_name, "witness": witness_name, "authority": authority_name}
    given = [(kind, name) for kind, name in named.items() if name is not None]
    if len(given) != 1:
        raise click.UsageError("give exactly one of --key, --ledger, --witness and --authority")
    if not reason.strip():
        raise click.UsageError("--reason is empty")
    kind, name = given[0]
    if kind == "key" and name.endswith(".pub"):
        from ucaudit.evidence.keys import PublicKey

        name = PublicKey.load(Path(name)).key_id
    content = library.load_trust(path)
    index = library.find_entry(content, kind, name, subject=str(path))
    at = moment or now()
    library.revoke(path, kind, index, at=at, reason=reason.strip())
    label = content.keys[index].key.key_id if kind == "key" else name
    document = {"file": str(path), "kind": kind, "name": label, "revokedAt": at, "reason": reason.strip()}
    out.result(document, printable(f"{path}: {kind} {label} revoked at {at}: {reason.strip()}"))
    return EXIT_PASS


@trust.command("import")
@_file
@click.option("--from", "source", type=PATH, required=True, help="OpenSSH allowed_signers file.")
@click.option("--role", "roles", multiple=True, help="Role to give every key (repeatable); the format has none.")
@click.option("--predicate", "predicates", multiple=True, help="Trust them for these types of record only.")
@output_options
def import_keys(path: Path, source: Path, roles: tuple[str, ...], predicates: tuple[str, ...], out: Output) -> int:
    """Add the keys of an OpenSSH allowed_signers file.

    Keys that are listed already stay as they are. Lines that cannot be taken
    over are named, with the reason.
    """
    from ucaudit.core.files import read_limited
    from ucaudit.evidence import trust as library
    from ucaudit.evidence.trust.allowed_signers import parse_allowed_signers
    from ucaudit.evidence.trust.file import MAX_TRUST_FILE

    data = read_limited(source, MAX_TRUST_FILE)
    keys, skipped = parse_allowed_signers(
        data, roles=roles, predicate_types=predicates or None, subject=str(source)
    )
    added, known = library.add_keys(path, keys)
    for item in skipped:
        out.warn(printable(f"{source}: {item.what} skipped: {item.reason}"))
    for entry in known:
        out.status(printable(f"{entry.principal}: key {entry.key.key_id[:16]}… is in {path} already"))
    document = {
        "file": str(path),
        "added": [{"principal": entry.principal, "keyId": entry.key.key_id} for entry in added],
        "known": [entry.key.key_id for entry in known],
        "skipped": [{"what": item.what, "reason": item.reason} for item in skipped],
    }
    lines = [printable(f"{entry.principal}: key {entry.key.key_id}") for entry in added]
    lines.append(f"{path}: {len(added)} added, {len(known)} there already, {len(skipped)} skipped")
    out.result(document, "\n".join(lines))
    return EXIT_PASS


@trust.command("export")
@_file
@click.option("--out", "target", type=PATH, help="Write the allowed_signers file here.")
@click.option("--namespace", "namespaces", multiple=True, help="Allow this one too, like git or file (repeatable).")
@output_options
def export_keys(path: Path, target: Path | None, namespaces: tuple[str, ...], out: Output) -> int:
    """Write the keys as an OpenSSH allowed_signers file.

    Record types become signature namespaces. Roles cannot be written; a revoked
    key is left out, because the format cannot say from when on.
    """
    import re

    from ucaudit.core.files import write_text
    from ucaudit.evidence.trust import load_trust
    from ucaudit.evidence.trust.allowed_signers import write_allowed_signers

    for namespace in namespaces:
        if not re.fullmatch(r"[A-Za-z0-9._@:/-]+", namespace):
            raise click.BadParameter(f"not a namespace: {namespace!r}", param_hint="--namespace")
    text, skipped = write_allowed_signers(load_trust(path).keys, namespaces=namespaces)
    for item in skipped:
        out.warn(printable(f"{item.what} left out: {item.reason}"))
    document = {
        "path": str(target) if target else None,
        "allowedSigners": text,
        "skipped": [{"what": item.what, "reason": item.reason} for item in skipped],
    }
    if target is not None:
        write_text(target, text)
    out.result(document, str(target) if target is not None else text.removesuffix("\n"))
    return EXIT_PASS


@trust.command("list")
@_file
@output_options
def list_keys(path: Path, out: Output) -> int:
    """List everything that a trust file trusts, or has stopped to trust."""
    from ucaudit.evidence.trust import load_trust

    content = load_trust(path)
    rows = [tuple(map(printable, row)) for row in _rows(content)]
    text = table(rows, header=("who", "role", "key id", "state")) if rows else "no keys"
    out.result(_document(content), text)
    return EXIT_PASS


def _document(content: Trust) -> dict[str, Any]:
    return {
        "keys": [
            {
                "principal": entry.principal,
                "keyId": entry.key.key_id,
                "algorithm": entry.key.algorithm,
                "roles": list(entry.roles),
                "predicateTypes": list(entry.predicate_types),
                **_validity(entry.validity),
            }
            for entry in content.keys
        ],
        "ledgers": [
            {"origin": entry.origin, "vkey": entry.vkey, **_validity(entry.validity)} for entry in content.ledgers
        ],
        "witnesses": [
            {"name": entry.name, "vkey": entry.vkey, **_validity(entry.validity)} for entry in content.witnesses
        ],
        "authorities": [
            {
                "name": entry.name,
                "certificateSha256": _certificate_id(entry.certificate),
                **_validity(entry.validity),
            }
            for entry in content.authorities
        ],
    }


def _rows(content: Trust) -> list[tuple[str, str, str, str]]:
    rows = [
        (
            entry.principal,
            ", ".join(entry.roles) or "-",
            entry.key.key_id[:16] + "…",
            _state(entry.validity),
        )
        for entry in content.keys
    ]
    rows += [
        (entry.origin, "ledger", entry.vkey.split("+", 2)[1], _state(entry.validity)) for entry in content.ledgers
    ]
    rows += [
        (entry.name, "witness", entry.vkey.split("+", 2)[1], _state(entry.validity)) for entry in content.witnesses
    ]
    rows += [
        (entry.name, "time stamps", _certificate_id(entry.certificate)[:16] + "…", _state(entry.validity))
        for entry in content.authorities
    ]
    return rows


def _certificate_id(der: bytes) -> str:
    from ucaudit.core.digest import sha256_hex

    return sha256_hex(der)


def _validity(validity: Validity) -> dict[str, str | None]:
    return {
        "validFrom": _time(validity.valid_from),
        "validUntil": _time(validity.valid_until),
        "revokedAt": _time(validity.revoked_at),
        "revokedReason": validity.revoked_reason,
    }


def _time(value: datetime | None) -> str | None:
    return value.strftime("%Y-%m-%dT%H:%M:%SZ") if value else None


def _state(validity: Validity) -> str:
    if validity.revoked_at:
        return f"revoked {_time(validity.revoked_at)}"
    start = f"from {_time(validity.valid_from)} " if validity.valid_from else ""
    end = f"until {_time(validity.valid_until)}" if validity.valid_until else ""
    return (start + end).strip() or "trusted"
