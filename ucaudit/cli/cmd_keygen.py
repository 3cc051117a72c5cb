"""``ucaudit keygen``: a new signing key."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from ucaudit.cli.common import Output, output_options
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_PASS, InputError
from ucaudit.core.files import read_limited


@click.command()
@click.option("--out", "directory", type=PATH, required=True, help="Directory for the key pair.")
@click.option("--name", default="ucaudit", show_default=True, help="File name without ending.")
@click.option("--password-file", type=PATH, help="Encrypt the key with this file's content.")
@click.option("--no-password", is_flag=True, help="Do not encrypt the key (mode 0600 protects it alone).")
@output_options
def keygen(directory: Path, name: str, password_file: Path | None, no_password: bool, out: Output) -> int:
    """Make a new Ed25519 key pair: NAME.pem (private, mode 0600) and NAME.pub.

    Nothing is ever overwritten. Give NAME.pub, or the key id printed here, to
    those who shall trust you, over a channel that they trust already.
    """
    from ucaudit.evidence.keys import generate

    password = _password(password_file, no_password)
    private, public, key = generate(directory, name, password=password)
    document = {
        "keyId": key.key_id,
        "privateKey": str(private),
        "publicKey": str(public),
        "encrypted": bool(password),
    }
    out.status(f"private key {private}{'' if password else ' (not encrypted)'}\npublic key  {public}")
    out.result(document, key.key_id)
    return EXIT_PASS


def _password(password_file: Path | None, no_password: bool) -> bytes | None:
    if no_password:
        if password_file is not None:
            raise click.UsageError("--no-password and --password-file exclude each other")
        return None
    if password_file is not None:
        password = read_limited(password_file, 4096).rstrip(b"\r\n")
        if not password:
            raise InputError("the password file is empty", subject=str(password_file))
        return password
    if (value := os.environ.get("UCAUDIT_KEY_PASSWORD")) is not None:
        return value.encode("utf-8")
    if not sys.stdin.isatty():
        raise click.UsageError("no terminal to ask for a password: give --password-file or --no-password")
    return str(click.prompt("New password", hide_input=True, confirmation_prompt=True, err=True)).encode("utf-8")
