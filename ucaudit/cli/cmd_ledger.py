"""``ucaudit ledger``: start, extend, prove, check and export the append-only evidence ledger."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import click

from ucaudit.cli.common import Output, key_options, key_password, output_options
from ucaudit.core.errors import EXIT_PASS, NotFoundError

_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_TIME: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z", re.ASCII)

ledger_option = click.option(
    "--ledger", "directory", required=True, type=click.Path(path_type=Path), help="The ledger's directory."
)


@click.group()
def ledger() -> None:
    """The append-only evidence ledger.

    A Merkle tree on the file system with signed checkpoints. It shows that
    nothing was removed or changed since a checkpoint that somebody else kept.
    """


@ledger.command()
@ledger_option
@click.option("--origin", required=True, help="The ledger's name for ever, like example.com/evidence.")
@key_options
@output_options
def init(directory: Path, origin: str, key: str, password_file: Path | None, out: Output) -> int:
    """Start an empty ledger and print its verifier key."""
    from ucaudit.evidence.keys import load_signer
    from ucaudit.evidence.ledger import Ledger

    signer = load_signer(key, password=key_password(key, password_file))
    made = Ledger.init(directory, origin, signer)
    out.status("give this verifier key to whoever will check the ledger")
    out.result({"origin": made.origin, "vkey": made.vkey, "size": 0}, made.vkey)
    return EXIT_PASS


@ledger.command()
@ledger_option
@key_options
@click.argument("envelope", type=click.Path(path_type=Path))
@output_options
def append(directory: Path, key: str, password_file: Path | None, envelope: Path, out: Output) -> int:
    """Enter a signed ENVELOPE's digest and outcome.

    An envelope that is there already keeps its entry. The signature is not
    judged here; `ucaudit verify` does that.
    """
    from ucaudit.core.files import read_limited
    from ucaudit.evidence.keys import load_signer
    from ucaudit.evidence.ledger import Ledger, register
    from ucaudit.evidence.signing import MAX_ENVELOPE_BYTES, Envelope

    opened = Ledger.open(directory)
    parsed = Envelope.parse(read_limited(envelope, MAX_ENVELOPE_BYTES), subject=str(envelope))
    signer = load_signer(key, password=key_password(key, password_file))
    before = opened.size
    index = register(opened, parsed, signer)
    head = opened.head()
    if index < before:
        out.status("entered before; nothing was added")
    out.result(
        {
            "index": index,
            "size": head.size,
            "root": head.root.hex(),
            "envelopeSha256": parsed.digest,
            "added": index >= before,
        },
        f"entry {index} of {head.size} in {opened.origin}",
    )
    return EXIT_PASS


@ledger.command()
@ledger_option
@output_options
def checkpoint(directory: Path, out: Output) -> int:
    """Print the signed checkpoint.

    Somebody else should keep it: `verify --since` compares with it later.
    """
    from ucaudit.evidence.ledger import Ledger

    opened = Ledger.open(directory)
    note = opened.checkpoint()
    head = opened.key.open(note, subject=str(directory))
    text = note.decode("utf-8")
    document = {"origin": head.origin, "size": head.size, "root": head.root.hex(), "note": text}
    out.result(document, text.removesuffix("\n"))
    return EXIT_PASS


@ledger.command()
@ledger_option
@click.option("--index", type=click.IntRange(min=0), help="The entry's number.")
@click.option("--envelope", type=click.Path(path_type=Path), help="The envelope whose entry to prove.")
@click.option("--out", "target", type=click.Path(path_type=Path), help="Write the proof here.")
@output_options
def prove(directory: Path, index: int | None, envelope: Path | None, target: Path | None, out: Output) -> int:
    """Prove that an entry is in the ledger.

    The proof is self-contained: entry, hashes and signed checkpoint in one text.
    """
    from ucaudit.core.digest import sha256_file
    from ucaudit.core.files import write_bytes
    from ucaudit.evidence.ledger import Ledger, find

    if (index is None) == (envelope is None):
        raise click.UsageError("give either --index or --envelope")
    opened = Ledger.open(directory)
    if envelope is not None:
        digest = sha256_file(envelope)
        index = find(opened, digest)
        if index is None:
            raise NotFoundError(f"no entry for envelope {digest[:16]}…", subject=str(directory))
    proof = opened.prove(index or 0)
    if target is not None:
        write_bytes(target, proof)
    text = proof.decode("utf-8")
    document = {"index": index, "proof": text, "path": str(target) if target is not None else None}
    out.result(document, str(target) if target is not None else text.removesuffix("\n"))
    return EXIT_PASS


@ledger.command()
@ledger_option
@click.option("--since", type=click.Path(path_type=Path), help="An earlier checkpoint that you kept.")
@click.option("--vkey", help="The verifier key you trust; else the ledger's own word is taken.")
@output_options
def verify(directory: Path, since: Path | None, vkey: str | None, out: Output) -> int:
    """Recompute every hash from the entries.

    The result must be the root of the signed checkpoint, and with --since an
    extension of the checkpoint that was kept.
    """
    from ucaudit.core.files import read_limited
    from ucaudit.evidence.ledger import Ledger
    from ucaudit.evidence.ledger.note import MAX_NOTE_BYTES

    kept = read_limited(since, MAX_NOTE_BYTES) if since is not None else None
    found = Ledger.open(directory).verify(since=kept, vkey=vkey)
    lines = [
        f"entries     {found.size}: each has the hash in its tile, and all lead to root {found.root.hex()[:16]}…",
        f"checkpoint  signed by {'the given key' if found.pinned else 'the key the ledger names itself'}",
    ]
    if found.since is not None:
        lines.append(f"history     extends the checkpoint of {found.since} entries that was kept")
    else:
        lines.append("history     not compared with an earlier checkpoint (--since)")
    if not found.pinned:
        out.warn("without --vkey this shows only that the ledger agrees with itself")
    document = {
        "origin": found.origin,
        "size": found.size,
        "root": found.root.hex(),
        "vkey": found.vkey,
        "keyPinned": found.pinned,
        "since": found.since,
    }
    out.result(document, "\n".join(lines))
    return EXIT_PASS


@ledger.command()
@ledger_option
@click.option("--from", "start", help="First day or UTC time, like 2026-01-01 or 2026-01-01T09:00:00Z.")
@click.option("--to", "end", help="Last day or UTC time, inclusive.")
@click.option("--format", "form", type=click.Choice(["csv", "json"]), default="csv", show_default=True)
@click.option("--out", "target", type=click.Path(path_type=Path), help="Write the list here.")
@output_options
def export(directory: Path, start: str | None, end: str | None, form: str, target: Path | None, out: Output) -> int:
    """List every entry of a period: good, bad, open and abandoned.

    The ledger is checked first. Plans from before the period that were still
    open when it began are listed too.
    """
    from ucaudit.core.files import write_text
    from ucaudit.core.strictjson import dumps
    from ucaudit.evidence.ledger import Ledger, in_period, to_csv
    from ucaudit.evidence.ledger.population import population

    first = _moment(start, "T00:00:00Z", "--from")
    last = _moment(end, "T23:59:59Z", "--to")
    if first is not None and last is not None and first > last:
        raise click.UsageError("--from is later than --to")
    opened = Ledger.open(directory)
    entries: list[bytes] = []
    summary = opened.verify(sink=entries.extend)
    rows = in_period(population(entries), first, last)
    document = {
        "origin": summary.origin,
        "size": summary.size,
        "root": summary.root.hex(),
        "from": first,
        "to": last,
        "rows": [row.to_document() for row in rows],
    }
    text = to_csv(rows) if form == "csv" else dumps(document).decode("utf-8") + "\n"
    states = [row.status for row in rows]
    out.status(
        f"{len(rows)} of {summary.size} entries; plans: {states.count('open')} open, "
        f"{states.count('closed')} closed, {states.count('abandoned')} abandoned; "
        f"unreadable: {states.count('unreadable')}"
    )
    if target is not None:
        write_text(target, text)
        out.result({**document, "path": str(target)}, str(target))
    else:
        out.result(document, text.removesuffix("\n"))
    return EXIT_PASS


def _moment(text: str | None, rest_of_day: str, option: str) -> str | None:
    """A day or time from the command line as a record's time."""
    from ucaudit.core.records import parse_time

    if text is None:
        return None
    whole = text + rest_of_day if _DATE.fullmatch(text) else text
    try:
        if not _TIME.fullmatch(whole):
            raise ValueError
        parse_time(whole)
    except ValueError as error:
        raise click.BadParameter(
            "not a day like 2026-01-31 or a time like 2026-01-31T09:00:00Z", param_hint=option
        ) from error
    return whole
