"""``ucaudit plan``: pre-registration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ucaudit.cli.common import Output, key_options, key_password, output_options
from ucaudit.core.errors import EXIT_PASS, MalformedRecordError, RefusedError


class _PlanGroup(click.Group):
    """``plan PACK …`` makes a plan; ``plan abandon …`` gives one up."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Anything that does not start with ``abandon`` describes a new plan."""
        is_new = bool(args) and args[0] not in ("abandon", "make", "-h", "--help")
        return super().parse_args(ctx, ["make", *args] if is_new else args)


@click.group(cls=_PlanGroup)
def plan() -> None:
    """Pre-register a measurement in the ledger: ucaudit plan PACK [OPTIONS].

    See ucaudit plan make --help for the options, and ucaudit plan abandon --help
    for giving a plan up, with a reason that stays in the ledger.
    """


@plan.command("make")
@click.argument("pack", type=click.Path(path_type=Path))
@click.option("--reference", type=click.Path(path_type=Path), required=True, help="The uncompressed model.")
@click.option(
    "--policy", "policy_file", type=click.Path(path_type=Path), required=True, help="What will be judged."
)
@click.option("--corpus", type=click.Path(path_type=Path), help="Evaluation text (default: the policy's).")
@click.option("--ledger", "ledger_dir", type=click.Path(path_type=Path), required=True, help="The ledger.")
@click.option("--ledger-key", help="The ledger's key, if it is another one than --key.")
@click.option("--out", "path", type=click.Path(path_type=Path), required=True, help="Plan file to write.")
@key_options
@output_options
def make(
    pack: Path,
    reference: Path,
    policy_file: Path,
    corpus: Path | None,
    ledger_dir: Path,
    ledger_key: str | None,
    path: Path,
    key: str,
    password_file: Path | None,
    out: Output,
) -> int:
    """Commit pack, reference, text, sample size and claims to the ledger.

    Do this before you measure: attest refers to the plan, and whatever was done
    otherwise is recorded as a deviation.
    """
    from ucaudit.core.files import write_bytes
    from ucaudit.evidence.keys import load_signer
    from ucaudit.evidence.plan import plan_statement
    from ucaudit.evidence.policy import load_policy
    from ucaudit.evidence.registration import register
    from ucaudit.evidence.signing import sign
    from ucaudit.lab.planning import draft_plan

    if path.exists():
        raise RefusedError("exists already and is never overwritten", subject=str(path))
    loaded = load_policy(policy_file)
    signer = load_signer(key, password=key_password(key, password_file))
    ledger_signer = load_signer(ledger_key, password=key_password(ledger_key, None)) if ledger_key else signer
    drafted = draft_plan(pack, reference, loaded, corpus, progress=out.progress)
    envelope = sign(plan_statement(drafted).to_bytes(), signer, subject=path.name)
    index = register(ledger_dir, envelope, ledger_signer).index
    write_bytes(path, envelope.raw)
    document: dict[str, Any] = {"planDigest": envelope.digest, "plan": str(path), "ledgerIndex": index}
    out.status(f"committed to the ledger as entry {index}")
    out.result(document, envelope.digest)
    return EXIT_PASS


@plan.command("abandon")
@click.argument("plan_file", type=click.Path(path_type=Path))
@click.option("--reason", required=True, help="Why; it stays in the ledger.")
@click.option("--ledger", "ledger_dir", type=click.Path(path_type=Path), required=True, help="The ledger.")
@click.option("--ledger-key", help="The ledger's key, if it is another one than --key.")
@key_options
@output_options
def abandon(
    plan_file: Path,
    reason: str,
    ledger_dir: Path,
    ledger_key: str | None,
    key: str,
    password_file: Path | None,
    out: Output,
) -> int:
    """Give a plan up. Only its own key may do so, and the ledger keeps the reason."""
    from ucaudit.core.errors import UntrustedKeyError
    from ucaudit.core.files import read_limited
    from ucaudit.core.records import Plan
    from ucaudit.core.records.statement import parse_statement
    from ucaudit.evidence.keys import load_signer
    from ucaudit.evidence.plan import abandonment_statement
    from ucaudit.evidence.registration import register
    from ucaudit.evidence.signing import MAX_ENVELOPE_BYTES, Envelope, sign

    signer = load_signer(key, password=key_password(key, password_file))
    ledger_signer = load_signer(ledger_key, password=key_password(ledger_key, None)) if ledger_key else signer
    planned = Envelope.parse(read_limited(plan_file, MAX_ENVELOPE_BYTES), subject=str(plan_file))
    if not planned.signers([signer.public_key]):
        raise UntrustedKeyError("the plan was signed by another key", subject=str(plan_file))
    statement = parse_statement(planned.payload, subject=str(plan_file))
    if not isinstance(statement.predicate, Plan):
        raise MalformedRecordError("not a plan", subject=str(plan_file))
    envelope = sign(abandonment_statement(planned.digest, reason).to_bytes(), signer, subject="abandonment")
    index = register(ledger_dir, envelope, ledger_signer).index
    out.result({"planDigest": planned.digest, "ledgerIndex": index}, f"abandoned; entry {index}")
    return EXIT_PASS
