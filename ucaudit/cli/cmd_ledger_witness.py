"""``ucaudit ledger witness``, ``cosign`` and ``attach``, and what several ledger commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ucaudit.cli.common import Output, key_options, key_password, output_options
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_PASS, LedgerInconsistentError, RefusedError, VerificationError

if TYPE_CHECKING:
    from ucaudit.evidence.ledger import WitnessKey

F = TypeVar("F", bound=Callable[..., Any])

ledger_option = click.option("--ledger", "directory", required=True, type=PATH, help="The ledger's directory.")
state_option = click.option("--state", required=True, type=PATH, help="The witness's own directory.")


def witness_options(function: F) -> F:
    """Add ``--witness`` and ``--trust``; the command receives ``witnesses`` and ``trust_file``."""
    function = click.option("--trust", "trust_file", type=PATH, help="Trust file with ledgers and witnesses.")(
        function
    )
    return click.option("--witness", "witnesses", multiple=True, help="Verifier key of a witness you trust.")(
        function
    )


def witness_keys(witnesses: Sequence[str], trust_file: Path | None) -> list[WitnessKey]:
    """The witnesses to believe: those given, and those of the trust file that are not revoked."""
    from ucaudit.evidence.ledger import WitnessKey

    texts = list(witnesses)
    if trust_file is not None:
        from ucaudit.evidence.trust import load_trust, trusted_witnesses

        texts += [item.vkey for item in trusted_witnesses(load_trust(trust_file))]
    return [WitnessKey.parse(text) for text in dict.fromkeys(texts)]


def ledger_vkeys(vkey: str | None, trust_file: Path | None) -> list[str]:
    """The ledger keys to believe: the one given, or those of the trust file that are not revoked."""
    if vkey is not None:
        return [vkey]
    if trust_file is None:
        return []
    from ucaudit.evidence.trust import load_trust, trusted_ledgers

    return [item.vkey for item in trusted_ledgers(load_trust(trust_file))]


@click.command()
@state_option
@click.option("--name", required=True, help="The witness's name for ever, like witness.example.com/w1.")
@key_options
@output_options
def witness(state: Path, name: str, key: str, password_file: Path | None, out: Output) -> int:
    """Start a witness for other parties' ledgers.

    A witness is somebody outside who remembers what a ledger showed. Prints the
    verifier key to give to whoever shall rely on the witness. Use a key of its
    own, and keep the directory in one place: a copy of it could cosign another
    history.
    """
    from ucaudit.evidence.keys import load_signer
    from ucaudit.evidence.ledger import Witness

    made = Witness.init(state, name, load_signer(key, password=key_password(key, password_file)))
    out.status("give this verifier key to whoever shall rely on the witness")
    out.result({"name": name, "vkey": made.vkey}, made.vkey)
    return EXIT_PASS


@click.command()
@state_option
@click.option("--vkey", help="The ledger's verifier key; needed the first time.")
@click.option("--out", "target", type=PATH, help="Write the cosigned checkpoint here.")
@key_options
@click.argument("request", type=PATH)
@output_options
def cosign(
    state: Path,
    vkey: str | None,
    target: Path | None,
    key: str,
    password_file: Path | None,
    request: Path,
    out: Output,
) -> int:
    """As a witness, cosign a ledger's checkpoint.

    REQUEST is what `ucaudit ledger prove --old-size N` wrote, where N is the size
    that this witness saw last (0 the first time). It is cosigned only if it
    extends what was seen before; this is remembered before anything is printed.
    """
    from ucaudit.core.files import read_limited, write_bytes
    from ucaudit.evidence.keys import load_signer
    from ucaudit.evidence.ledger import Witness
    from ucaudit.evidence.ledger.proof import MAX_PROOF_BYTES

    opened = Witness.open(state)
    signer = load_signer(key, password=key_password(key, password_file))
    given = opened.cosign(read_limited(request, MAX_PROOF_BYTES), signer, ledger_vkey=vkey)
    if given.repeated:
        out.status("cosigned before; the same cosignature is given again")
    if target is not None:
        write_bytes(target, given.note)
    text = given.note.decode("utf-8")
    document = {
        "witness": given.time.witness,
        "origin": given.time.origin,
        "size": given.time.size,
        "time": given.time.text,
        "note": text,
        "line": given.line,
        "path": str(target) if target is not None else None,
    }
    out.result(document, str(target) if target is not None else text.removesuffix("\n"))
    return EXIT_PASS


@click.command()
@ledger_option
@witness_options
@click.argument("cosigned", type=PATH)
@output_options
def attach(
    directory: Path, witnesses: tuple[str, ...], trust_file: Path | None, cosigned: Path, out: Output
) -> int:
    """Keep a witness's COSIGNED checkpoint with the ledger.

    Also takes the bare signature lines that a witness on the network answers.
    Proofs made from now on can show the witnessed time.
    """
    from ucaudit.core.files import read_limited
    from ucaudit.evidence.ledger import Ledger, attach_cosignature
    from ucaudit.evidence.ledger.note import MAX_NOTE_BYTES

    keys = witness_keys(witnesses, trust_file)
    if not keys:
        raise click.UsageError("give the witness's verifier key: --witness, or --trust with one in it")
    found = attach_cosignature(Ledger.open(directory), read_limited(cosigned, MAX_NOTE_BYTES), keys)
    rows = [{"witness": item.witness, "size": item.size, "time": item.text} for item in found]
    out.result(
        {"witnessed": rows},
        "\n".join(f"{item.witness} had seen {item.size} entries by {item.text}" for item in found),
    )
    return EXIT_PASS


@click.command()
@ledger_option
@key_options
@click.argument("bundle", type=PATH)
@output_options
def refresh(directory: Path, key: str, password_file: Path | None, bundle: Path, out: Output) -> int:
    """Give a closed BUNDLE proofs with witnessed times.

    A witness cosigns after the bundle was made; from then on the ledger can prove
    since when the record was in it at the latest. The bundle is closed again.
    """
    from ucaudit.evidence.keys import load_signer
    from ucaudit.evidence.refresh import refresh_proofs

    signer = load_signer(key, password=key_password(key, password_file))
    replaced = refresh_proofs(bundle, directory, signer)
    text = "\n".join(f"{name}: replaced" for name in replaced) or "nothing new; the bundle was left as it is"
    out.result({"bundle": str(bundle), "replaced": replaced}, text)
    return EXIT_PASS


def check_proof(
    path: Path, kept: bytes | None, vkeys: Sequence[str], witnesses: Sequence[WitnessKey], out: Output
) -> int:
    """Check a proof file alone: of an entry, or of consistency with a kept checkpoint.

    Raises:
        RefusedError: no key to check it with, or no kept checkpoint to compare it with.
        InputError, LedgerInconsistentError: what is wrong with it.
    """
    from ucaudit.core.files import read_limited
    from ucaudit.evidence.ledger import ConsistencyProof, VerifierKey, proof_witnessed_times, witnessed_times
    from ucaudit.evidence.ledger.merkle import EMPTY_ROOT
    from ucaudit.evidence.ledger.proof import MAX_PROOF_BYTES

    if not vkeys:
        raise RefusedError(
            "a proof needs the ledger's verifier key", subject=str(path), hint="give --vkey or --trust"
        )
    data, subject = read_limited(path, MAX_PROOF_BYTES), str(path)
    if data.startswith(b"old "):
        proof = ConsistencyProof.parse(data, subject=subject)
        if kept is None and proof.old:
            raise RefusedError(
                f"this proves that the first {proof.old} entries were extended; which they were is for you to say",
                subject=subject,
                hint="give the checkpoint you kept: --since",
            )

        def check(vkey: str) -> tuple[dict[str, Any], str]:
            key = VerifierKey.parse(vkey)
            earlier = key.open(kept, subject="earlier checkpoint") if kept is not None else None
            if earlier is not None and earlier.size != proof.old:
                raise LedgerInconsistentError(
                    f"proves from {proof.old} entries, the kept checkpoint has {earlier.size}", subject=subject
                )
            head = proof.verify(key, earlier.root if earlier else EMPTY_ROOT, subject=subject)
            times = witnessed_times(proof.checkpoint, key, witnesses, subject=subject)
            document = {"origin": head.origin, "size": head.size, "oldSize": proof.old, "witnessed": _rows(times)}
            return document, f"{head.size} entries of {head.origin} extend the first {proof.old}" + _seen(times)

    else:

        def check(vkey: str) -> tuple[dict[str, Any], str]:
            shown, times = proof_witnessed_times(
                data, None, vkey, [key.encode() for key in witnesses], subject=subject
            )
            entry = shown.leaf.decode("utf-8", "replace")
            document = {
                "origin": shown.origin,
                "size": shown.size,
                "index": shown.index,
                "entry": entry,
                "witnessed": _rows(times),
            }
            return document, f"entry {shown.index} of {shown.size} in {shown.origin}{_seen(times)}\n{entry}"

    problem: VerificationError | None = None
    for vkey in vkeys:
        try:
            document, text = check(vkey)
        except VerificationError as error:
            problem = problem or error
        else:
            out.result(document, text)
            return EXIT_PASS
    assert problem is not None
    raise problem


def _rows(times: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"witness": item.witness, "size": item.size, "time": item.text} for item in times]


def _seen(times: Sequence[Any]) -> str:
    if not times:
        return "\nno trusted witness cosigned this checkpoint: it shows no time"
    return "".join(f"\n{item.witness} had seen it by {item.text}" for item in times)
