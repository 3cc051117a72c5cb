"""``ucaudit ledger``: start, extend, prove, check and export the append-only evidence ledger."""

from __future__ import annotations

from pathlib import Path

import click

from ucaudit.cli.cmd_ledger_export import export
from ucaudit.cli.cmd_ledger_witness import (
    attach,
    cosign,
    ledger_option,
    ledger_vkeys,
    refresh,
    witness,
    witness_keys,
    witness_options,
)
from ucaudit.cli.common import Output, key_options, key_password, new_file, output_options
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_PASS, NotFoundError


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
@click.argument("envelope", type=PATH)
@output_options
def append(directory: Path, key: str, password_file: Path | None, envelope: Path, out: Output) -> int:
    """Enter a signed ENVELOPE's digest and outcome.

    An envelope that is there already keeps its entry. The signature is not
    judged here; `ucaudit verify` does that.
    """
    from ucaudit.core.files import read_limited
    from ucaudit.evidence.keys import load_signer
    from ucaudit.evidence.ledger import Ledger, find, register
    from ucaudit.evidence.signing import MAX_ENVELOPE_BYTES, Envelope

    opened = Ledger.open(directory)
    parsed = Envelope.parse(read_limited(envelope, MAX_ENVELOPE_BYTES), subject=str(envelope))
    signer = load_signer(key, password=key_password(key, password_file))
    known = find(opened, parsed.digest) is not None
    index = register(opened, parsed, signer)
    head = opened.head()
    if known:
        out.status("entered before; nothing was added")
    out.result(
        {
            "index": index,
            "size": head.size,
            "root": head.root.hex(),
            "envelopeSha256": parsed.digest,
            "added": not known,
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
@click.option("--index", type=click.IntRange(min=0), help="Prove the entry with this number.")
@click.option("--envelope", type=PATH, help="Prove the entry of this envelope.")
@click.option("--old-size", type=click.IntRange(min=0), help="Prove that the ledger extends its first N entries.")
@click.option("--size", type=click.IntRange(min=0), help="Against the checkpoint of this size, not the latest.")
@click.option("--out", "target", type=PATH, help="Write the proof here.")
@witness_options
@output_options
def prove(
    directory: Path,
    index: int | None,
    envelope: Path | None,
    old_size: int | None,
    size: int | None,
    target: Path | None,
    witnesses: tuple[str, ...],
    trust_file: Path | None,
    out: Output,
) -> int:
    """Prove an entry, or that nothing was rewritten.

    The proof is self-contained: entry, hashes and signed checkpoint in one text.
    With --trust or --witness it is made against the checkpoint that gives the
    entry its earliest witnessed time. --old-size makes a consistency proof, which
    is also the request to a witness (`ucaudit ledger cosign`).
    """
    from ucaudit.core.digest import sha256_file
    from ucaudit.core.files import write_bytes
    from ucaudit.evidence.ledger import Ledger, find

    if target is not None:
        new_file(target)
    if sum(item is not None for item in (index, envelope, old_size)) != 1:
        raise click.UsageError("give either --index, --envelope or --old-size")
    keys = witness_keys(witnesses, trust_file)
    if keys and (old_size is not None or size is not None):
        raise click.UsageError("--witness and --trust choose the checkpoint of an entry's proof themselves")
    opened = Ledger.open(directory)
    if envelope is not None:
        digest = sha256_file(envelope)
        index = find(opened, digest)
        if index is None:
            raise NotFoundError(f"no entry for envelope {digest[:16]}…", subject=str(directory))
    if old_size is not None:
        proof = opened.prove_consistency(old_size, size)
    elif keys:
        proof = opened.prove_witnessed(index or 0, keys)
    else:
        proof = opened.prove(index or 0, note=None if size is None else opened.checkpoint_at(size))
    if target is not None:
        write_bytes(target, proof)
    text = proof.decode("utf-8")
    document = {"index": index, "oldSize": old_size, "proof": text, "path": str(target) if target else None}
    out.result(document, str(target) if target is not None else text.removesuffix("\n"))
    return EXIT_PASS


@ledger.command()
@click.option("--ledger", "directory", type=PATH, help="The ledger's directory.")
@click.option("--proof", type=PATH, help="Check this proof alone, without the ledger.")
@click.option("--since", type=PATH, help="An earlier checkpoint that you kept.")
@click.option("--vkey", help="The verifier key you trust; else the trust file's, else the ledger's own word.")
@witness_options
@output_options
def verify(
    directory: Path | None,
    proof: Path | None,
    since: Path | None,
    vkey: str | None,
    witnesses: tuple[str, ...],
    trust_file: Path | None,
    out: Output,
) -> int:
    """Recompute every hash from the entries, and check every signature.

    The result must be the root of every checkpoint that was ever signed, and with
    --since an extension of the checkpoint that was kept. --proof checks a proof
    that `ucaudit ledger prove` wrote, for who does not have the ledger.
    """
    from ucaudit.core.files import read_limited
    from ucaudit.evidence.ledger import Ledger
    from ucaudit.evidence.ledger.note import MAX_NOTE_BYTES

    if (directory is None) == (proof is None):
        raise click.UsageError("give either --ledger or --proof")
    keys = witness_keys(witnesses, trust_file)
    kept = read_limited(since, MAX_NOTE_BYTES) if since is not None else None
    if proof is not None:
        from ucaudit.cli.cmd_ledger_witness import check_proof

        return check_proof(proof, kept, ledger_vkeys(vkey, trust_file), keys, out)
    assert directory is not None
    opened = Ledger.open(directory)
    trusted = {text.partition("+")[0]: text for text in ledger_vkeys(vkey, trust_file)}
    pinned = vkey or trusted.get(opened.origin)
    found = opened.verify(since=kept, vkey=pinned, witnesses=keys)
    lines = [
        f"entries     {found.size}: each has the hash in its tile, and all lead to root {found.root.hex()[:16]}…",
        f"checkpoint  signed by {'the given key' if found.pinned else 'the key the ledger names itself'}",
        f"history     {found.checkpoints} signed checkpoints, each extended by the next",
    ]
    if found.since is not None:
        lines.append(f"kept        the ledger extends the checkpoint of {found.since} entries that was kept")
    else:
        lines.append("kept        not compared with an earlier checkpoint (--since)")
    lines += [f"witness     {item.witness} had seen {item.size} entries by {item.text}" for item in found.witnessed]
    if found.unchecked_cosignatures:
        lines.append(f"witness     {found.unchecked_cosignatures} cosignatures by keys not given: not checked")
    if not found.witnessed:
        lines.append("time        no trusted witness: the times in the entries are the keeper's own word")
    lines += [f"left over   {name}: belongs to no checkpoint, ignored" for name in found.leftovers]
    if not found.pinned:
        out.warn("without --vkey or --trust this shows only that the ledger agrees with itself")
    document = {
        "origin": found.origin,
        "size": found.size,
        "root": found.root.hex(),
        "vkey": found.vkey,
        "keyPinned": found.pinned,
        "since": found.since,
        "checkpoints": found.checkpoints,
        "witnessed": [{"witness": item.witness, "size": item.size, "time": item.text} for item in found.witnessed],
        "uncheckedCosignatures": found.unchecked_cosignatures,
        "leftovers": list(found.leftovers),
    }
    out.result(document, "\n".join(lines))
    return EXIT_PASS


@ledger.command()
@ledger_option
@output_options
def repair(directory: Path, out: Output) -> int:
    """Put right what a crash or damage left.

    As far as entries and signatures allow: tiles are computed again from the
    entries, and the checkpoint is taken from the signed history. Nothing is
    signed, so no key is needed. An entry that was changed is reported.
    """
    from ucaudit.evidence.ledger import repair_ledger

    done = repair_ledger(directory)
    out.result({"repaired": done}, "\n".join(done) or "nothing to repair; the ledger was checked")
    return EXIT_PASS


for _command in (export, witness, cosign, attach, refresh):
    ledger.add_command(_command)
