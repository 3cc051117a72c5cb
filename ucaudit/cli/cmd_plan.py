"""``ucaudit plan``: pre-registration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ucaudit.cli.cmd_ledger_witness import ledger_vkeys, witness_keys, witness_options
from ucaudit.cli.common import Output, key_options, key_password, output_options
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_PASS, MalformedRecordError, NotFoundError, RefusedError

if TYPE_CHECKING:
    from ucaudit.core.records import Statement


class _PlanGroup(click.Group):
    """``plan PACK …`` makes a plan; ``plan abandon …`` and the others deal with one that was made."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Anything that does not start with another command's name describes a new plan."""
        is_new = bool(args) and args[0] not in (*self.commands, "-h", "--help")
        return super().parse_args(ctx, ["make", *args] if is_new else args)


@click.group(cls=_PlanGroup)
def plan() -> None:
    """Pre-register a measurement in the ledger: ucaudit plan PACK [OPTIONS].

    See ucaudit plan make --help for the options; plan abandon for giving a plan
    up, with a reason that stays in the ledger; plan contribute for an outside
    party's part in the seed; plan list for what is open.
    """


@plan.command("make")
@click.argument("pack", type=PATH)
@click.option("--reference", type=PATH, required=True, help="The uncompressed model.")
@click.option("--policy", "policy_file", type=PATH, required=True, help="What will be judged.")
@click.option("--corpus", type=PATH, help="Evaluation text (default: the policy's).")
@click.option("--ledger", "ledger_dir", type=PATH, required=True, help="The ledger.")
@click.option("--ledger-key", help="The ledger's key, if it is another one than --key.")
@click.option("--perturbation", "perturbations", multiple=True, help="What else will be measured (repeatable).")
@click.option("--outside-seed", is_flag=True, help="Leave the windows' seed to an outside party.")
@click.option("--out", "path", type=PATH, required=True, help="Plan file to write.")
@key_options
@output_options
def make(
    pack: Path,
    reference: Path,
    policy_file: Path,
    corpus: Path | None,
    ledger_dir: Path,
    ledger_key: str | None,
    perturbations: tuple[str, ...],
    outside_seed: bool,
    path: Path,
    key: str,
    password_file: Path | None,
    out: Output,
) -> int:
    """Commit pack, reference, text, sample size and claims to the ledger.

    Do this before you measure: attest refers to the plan, and whatever was done
    otherwise is recorded as a deviation. With --outside-seed the windows are drawn
    by a seed that does not exist yet: see ucaudit plan contribute.
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
    drafted = draft_plan(
        pack,
        reference,
        loaded,
        corpus,
        perturbations=perturbations,
        outside_seed=outside_seed,
        progress=out.progress,
    )
    envelope = sign(plan_statement(drafted).to_bytes(), signer, subject=path.name)
    index = register(ledger_dir, envelope, ledger_signer).index
    write_bytes(path, envelope.raw)
    document: dict[str, Any] = {"planDigest": envelope.digest, "plan": str(path), "ledgerIndex": index}
    out.status(f"committed to the ledger as entry {index}")
    if outside_seed:
        out.status("waiting for an outside party's seed: ucaudit plan contribute, then ucaudit ledger append")
    out.result(document, envelope.digest)
    return EXIT_PASS


@plan.command("abandon")
@click.argument("plan_file", type=PATH)
@click.option("--reason", required=True, help="Why; it stays in the ledger.")
@click.option("--ledger", "ledger_dir", type=PATH, required=True, help="The ledger.")
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
    from ucaudit.core.records import FloorPlan, Plan
    from ucaudit.evidence.keys import load_signer
    from ucaudit.evidence.plan import abandonment_statement
    from ucaudit.evidence.registration import register
    from ucaudit.evidence.signing import MAX_ENVELOPE_BYTES, Envelope, read_statement, sign

    signer = load_signer(key, password=key_password(key, password_file))
    ledger_signer = load_signer(ledger_key, password=key_password(ledger_key, None)) if ledger_key else signer
    planned = Envelope.parse(read_limited(plan_file, MAX_ENVELOPE_BYTES), subject=str(plan_file))
    if not planned.signers([signer.public_key]):
        raise UntrustedKeyError("the plan was signed by another key", subject=str(plan_file))
    statement = read_statement(planned)
    if not isinstance(statement.predicate, Plan | FloorPlan):
        raise MalformedRecordError("not a plan", subject=str(plan_file))
    envelope = sign(abandonment_statement(planned.digest, reason).to_bytes(), signer, subject="abandonment")
    index = register(ledger_dir, envelope, ledger_signer).index
    out.result({"planDigest": planned.digest, "ledgerIndex": index}, f"abandoned; entry {index}")
    return EXIT_PASS


@plan.command("contribute")
@click.argument("plan_file", type=PATH)
@click.option("--name", help="Your printed name, for a random number that you contribute.")
@click.option("--proof", type=PATH, help="The plan's ledger proof; checked first.")
@click.option("--vkey", help="The ledger's verifier key, for --proof; else the trust file's.")
@click.option("--from-witness", is_flag=True, help="Take the witness's cosignature of the plan instead.")
@click.option("--ledger", "ledger_dir", type=PATH, help="The ledger, for --from-witness.")
@click.option("--out", "path", type=PATH, required=True, help="Contribution to write.")
@witness_options
@key_options
@output_options
def contribute(
    plan_file: Path,
    name: str | None,
    proof: Path | None,
    vkey: str | None,
    from_witness: bool,
    ledger_dir: Path | None,
    path: Path,
    witnesses: tuple[str, ...],
    trust_file: Path | None,
    key: str,
    password_file: Path | None,
    out: Output,
) -> int:
    """Add an outside party's part to a plan's seed.

    The plan was made with --outside-seed. An auditor draws and signs a random
    number with a key of their own (--name). Or it is taken from a witness's
    cosignature of the checkpoint that ends with the plan (--from-witness). Enter
    the result with `ucaudit ledger append`; the first one for a plan counts.
    """
    from ucaudit.core.files import read_limited, write_bytes
    from ucaudit.core.records import Plan
    from ucaudit.evidence.keys import load_signer
    from ucaudit.evidence.seed import contribution_statement, effective_seed
    from ucaudit.evidence.signing import MAX_ENVELOPE_BYTES, Envelope, read_statement, sign

    if from_witness == (name is not None):
        raise click.UsageError("give either --name or --from-witness")
    if from_witness and ledger_dir is None:
        raise click.UsageError("--from-witness needs --ledger")
    if path.exists():
        raise RefusedError("exists already and is never overwritten", subject=str(path))
    planned = Envelope.parse(read_limited(plan_file, MAX_ENVELOPE_BYTES), subject=str(plan_file))
    statement = read_statement(planned)
    if not isinstance(statement.predicate, Plan):
        raise MalformedRecordError("not a plan", subject=str(plan_file))
    if not statement.predicate.outside_seed:
        raise RefusedError("this plan fixed its own seed", subject=str(plan_file), hint="plan with --outside-seed")
    signer = load_signer(key, password=key_password(key, password_file))
    if name is not None:
        if planned.signers([signer.public_key]):
            raise RefusedError("the plan was signed by this key: no outside party", subject=str(plan_file))
        if proof is not None:
            _check_plan_proof(proof, planned.digest, ledger_vkeys(vkey, trust_file))
        else:
            out.warn("the plan's place in the ledger was not checked: --proof")
        made = contribution_statement(planned.digest, name)
    else:
        assert ledger_dir is not None
        made = _witness_statement(ledger_dir, planned.digest, witnesses, trust_file)
    envelope = sign(made.to_bytes(), signer, subject=path.name)
    write_bytes(path, envelope.raw)
    value: Any = made.predicate
    seed = effective_seed(planned.digest, value.value)
    out.status(f"the seed will be {seed}; enter the contribution: ucaudit ledger append")
    out.result({"planDigest": planned.digest, "contribution": str(path), "seed": seed}, str(path))
    return EXIT_PASS


def _check_plan_proof(proof: Path, plan_digest: str, vkeys: list[str]) -> None:
    """Raises the first problem unless one of the keys shows that the plan was entered."""
    from ucaudit.core.errors import VerificationError
    from ucaudit.core.files import read_limited
    from ucaudit.evidence.ledger import verify_envelope_proof
    from ucaudit.evidence.ledger.proof import MAX_PROOF_BYTES

    if not vkeys:
        raise click.UsageError("--proof needs the ledger's verifier key: --vkey or --trust")
    data = read_limited(proof, MAX_PROOF_BYTES)
    problem: VerificationError | None = None
    for vkey in vkeys:
        try:
            verify_envelope_proof(data, plan_digest, vkey, subject=str(proof))
        except VerificationError as error:
            problem = problem or error
        else:
            return
    assert problem is not None
    raise problem


def _witness_statement(
    directory: Path, plan_digest: str, witnesses: tuple[str, ...], trust_file: Path | None
) -> Statement:
    """The contribution that a witness's cosignature of the plan's own checkpoint is."""
    from ucaudit.evidence.ledger import Ledger, find, proof_witnessed_times
    from ucaudit.evidence.seed import contribution_statement, witness_contribution

    keys = witness_keys(witnesses, trust_file)
    if not keys:
        raise click.UsageError("--from-witness needs the witness's verifier key: --witness or --trust")
    opened = Ledger.open(directory)
    index = find(opened, plan_digest)
    if index is None:
        raise NotFoundError("the ledger has no entry for this plan", subject=str(directory))
    shown, times = proof_witnessed_times(
        opened.prove_cosigned(index), None, opened.vkey, [item.encode() for item in keys]
    )
    item = witness_contribution(shown, times)
    return contribution_statement(plan_digest, item.witness, source="witness", value=item.digest)


@plan.command("list")
@click.option("--ledger", "ledger_dir", type=PATH, required=True, help="The ledger.")
@click.option("--all", "everything", is_flag=True, help="Closed and abandoned plans as well.")
@output_options
def list_plans(ledger_dir: Path, everything: bool, out: Output) -> int:
    """List the open plans: neither measured nor given up."""
    from ucaudit.cli.common import table
    from ucaudit.evidence.ledger import Ledger, population_of
    from ucaudit.evidence.ledger.leaf import PLANS

    opened = Ledger.open(ledger_dir)
    entries: list[bytes] = []
    opened.verify(sink=entries.extend)
    wanted = ("open", "closed", "abandoned") if everything else ("open",)
    rows = [
        row
        for row in population_of(entries)
        if row.entry is not None and row.entry.kind in PLANS and row.status in wanted
    ]
    lines = [
        (
            str(row.index),
            row.entry.recorded_at,
            row.status,
            row.entry.envelope_sha256[:16] + "…",
            "; ".join(row.notes),
        )
        for row in rows
        if row.entry is not None
    ]
    text = table(lines, header=("entry", "entered", "status", "plan", "notes")) if lines else "no open plan"
    out.result({"plans": [row.to_document(opened.origin) for row in rows]}, text)
    return EXIT_PASS
