"""``ucaudit trust``: the keys that you trust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ucaudit.cli.common import Output, output_options, table
from ucaudit.core.errors import EXIT_PASS

_file = click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path),
    default=Path("trust.toml"),
    show_default=True,
    help="Trust file.",
)


@click.group()
def trust() -> None:
    """Edit and list the keys you trust."""


@trust.command("add")
@_file
@click.option("--key", "key_path", type=click.Path(path_type=Path), help="Public key (.pub) to trust.")
@click.option("--principal", help="Whose key it is, for example an e-mail address.")
@click.option("--role", "roles", multiple=True, help="Role of the key: developer, validator, … (repeatable).")
@click.option("--predicate", "predicates", multiple=True, help="Only for this type of record (repeatable).")
@click.option("--valid-from", help="Not before, like 2026-01-31T00:00:00Z.")
@click.option("--valid-until", help="Not after.")
@click.option("--ledger", "ledger_dir", type=click.Path(path_type=Path), help="Trust this ledger's checkpoint key.")
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
    out: Output,
) -> int:
    """Trust a key, a ledger, or both. Comments in the file stay as they are."""
    from ucaudit.evidence import trust as library
    from ucaudit.evidence.keys import PublicKey
    from ucaudit.evidence.ledger import Ledger

    if key_path is None and ledger_dir is None:
        raise click.UsageError("nothing to add: give --key with --principal, or --ledger")
    added: dict[str, Any] = {"file": str(path)}
    if key_path is not None:
        if not principal:
            raise click.UsageError("--key needs --principal")
        key = PublicKey.load(key_path)
        library.add_key(
            path,
            key,
            principal,
            roles=roles,
            predicate_types=predicates or library.PREDICATES,
            valid_from=valid_from,
            valid_until=valid_until,
        )
        added |= {"keyId": key.key_id, "principal": principal, "roles": list(roles)}
    if ledger_dir is not None:
        ledger = Ledger.open(ledger_dir)
        library.add_ledger(path, ledger.origin, ledger.vkey)
        added["ledger"] = ledger.origin
    what = [f"{principal}: key {added['keyId']}"] if "keyId" in added else []
    what += [f"ledger {added['ledger']}"] if "ledger" in added else []
    out.result(added, f"{path}: trusted {' and '.join(what)}")
    return EXIT_PASS


@trust.command("list")
@_file
@output_options
def list_keys(path: Path, out: Output) -> int:
    """List the keys and ledgers of a trust file."""
    from ucaudit.evidence.trust import load_trust

    content = load_trust(path)
    document = {
        "keys": [
            {
                "principal": entry.principal,
                "keyId": entry.key.key_id,
                "algorithm": entry.key.algorithm,
                "roles": list(entry.roles),
                "predicateTypes": list(entry.predicate_types),
                "validFrom": _time(entry.valid_from),
                "validUntil": _time(entry.valid_until),
                "revokedAt": _time(entry.revoked_at),
                "revokedReason": entry.revoked_reason,
            }
            for entry in content.keys
        ],
        "ledgers": [{"origin": entry.origin, "vkey": entry.vkey} for entry in content.ledgers],
    }
    rows = [
        (entry.principal, ", ".join(entry.roles) or "-", entry.key.key_id[:16] + "…", _state(entry))
        for entry in content.keys
    ]
    rows += [(entry.origin, "ledger", entry.vkey.split("+")[-2], "trusted") for entry in content.ledgers]
    text = table(rows, header=("principal", "role", "key id", "state")) if rows else "no keys"
    out.result(document, text)
    return EXIT_PASS


def _time(value: Any) -> str | None:  # noqa: ANN401 - datetime, imported only where it is made
    return value.strftime("%Y-%m-%dT%H:%M:%SZ") if value else None


def _state(entry: Any) -> str:  # noqa: ANN401 - TrustedKey, imported lazily
    if entry.revoked_at:
        return f"revoked {_time(entry.revoked_at)}"
    return f"until {_time(entry.valid_until)}" if entry.valid_until else "trusted"
