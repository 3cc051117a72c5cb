"""``ucaudit attest``: the main job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ucaudit.cli.common import (
    Output,
    compute_options,
    key_options,
    key_password,
    output_options,
    overlap_options,
    prepare_compute,
    table,
)
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS, RefusedError

if TYPE_CHECKING:
    from ucaudit.evidence.bundle import OpenBundle
    from ucaudit.lab.signed import Outcome

_EXITS = {
    "pass": EXIT_PASS,
    "pass-with-exceptions": EXIT_PASS,
    "fail": EXIT_FAIL,
    "inconclusive": EXIT_INCONCLUSIVE,
}


@click.command()
@click.argument("pack", type=PATH)
@click.option("--reference", type=PATH, required=True, help="The uncompressed model.")
@click.option("--policy", "policy_file", type=PATH, required=True, help="What to judge.")
@click.option("--corpus", type=PATH, help="Evaluation text (default: the policy's).")
@overlap_options
@click.option("--ledger", "ledger_dir", type=PATH, help="Enter the record in this ledger.")
@click.option("--ledger-key", help="The ledger's key, if it is another one than --key.")
@click.option("--plan", "plan_file", type=PATH, help="The plan made beforehand.")
@click.option("--seed", "seed_file", type=PATH, help="What an outside party contributed to the seed.")
@click.option("--profile", "profiles", multiple=True, help="Report to render: soc2, sr-11-7, fda (repeatable).")
@click.option("--paper", type=click.Choice(["a4", "letter"]), default="a4", show_default=True)
@click.option(
    "--previous",
    "earlier",
    multiple=True,
    type=PATH,
    help="An earlier bundle that the reports compare with (repeatable).",
)
@click.option("--out", "bundle", type=PATH, required=True, help="Bundle directory to make.")
@click.option("--dry-run", is_flag=True, help="Check everything, estimate time and memory, and stop.")
@key_options
@compute_options
@output_options
def attest(
    pack: Path,
    reference: Path,
    policy_file: Path,
    corpus: Path | None,
    calibration: Path | None,
    allow_overlap: bool,
    ledger_dir: Path | None,
    ledger_key: str | None,
    plan_file: Path | None,
    seed_file: Path | None,
    profiles: tuple[str, ...],
    paper: Literal["a4", "letter"],
    earlier: tuple[Path, ...],
    bundle: Path,
    dry_run: bool,
    key: str,
    password_file: Path | None,
    device: str,
    threads: int | None,
    out: Output,
) -> int:
    """Reconstruct PACK, digest it, measure it against --reference, judge the
    policy's claims, sign the outcome whatever it is, and write the bundle.

    Exits 0 if the claims hold, 1 if one failed, 5 if the data decides nothing.
    The bundle is written in all three cases.
    """
    from ucaudit.evidence.keys import load_signer
    from ucaudit.evidence.policy import load_policy

    policy = load_policy(policy_file)
    signer = load_signer(key, password=key_password(key, password_file))
    ledger_signer = load_signer(ledger_key, password=key_password(ledger_key, None)) if ledger_key else None
    if profiles:
        _report_preflight(profiles, earlier)
    elif earlier:
        raise click.UsageError("--previous is for the reports of --profile")
    device = prepare_compute(device, threads)
    from ucaudit.lab.attest import Request
    from ucaudit.lab.attest import attest as run

    request = Request(
        pack=pack,
        reference=reference,
        policy=policy,
        signer=signer,
        out=bundle,
        corpus=corpus,
        ledger=ledger_dir,
        ledger_signer=ledger_signer,
        plan=plan_file,
        seed=seed_file,
        render=(lambda opened: _render(opened, profiles, paper, earlier, ledger_dir)) if profiles else None,
        device=device,
        threads=threads,
        calibration=calibration,
        allow_overlap=allow_overlap,
    )
    if dry_run:
        from ucaudit.lab.estimate import estimate
        from ucaudit.lab.preflight import preflight

        figures = estimate(preflight(request), device)
        out.result(
            {"dryRun": True, **figures, "exitCode": EXIT_PASS},
            table([(name, f"{value}") for name, value in figures.items()]),
        )
        return EXIT_PASS
    outcome = run(request, progress=out.progress)
    code = _exit_code(outcome)
    out.result(_document(outcome, code), _text(outcome))
    if outcome.render_error is not None:
        out.warn("the bundle is complete but for its reports: ucaudit report makes them")
        out.finding(outcome.render_error)
    return code


def _exit_code(outcome: Outcome) -> int:
    """The claims decide; that reports could not be rendered shows only where they hold."""
    code = _EXITS[outcome.record.determination]
    return outcome.render_error.exit_code if outcome.render_error is not None and code == EXIT_PASS else code


def _report_preflight(profiles: tuple[str, ...], earlier: tuple[Path, ...]) -> None:
    from ucaudit.core.errors import NotFoundError
    from ucaudit.report.pdf import require_weasyprint
    from ucaudit.report.profiles import load_profile

    for profile in profiles:
        load_profile(profile)
    if len(set(profiles)) != len(profiles):
        raise RefusedError("a profile is named twice", subject=", ".join(profiles))
    for path in earlier:
        if not path.exists():
            raise NotFoundError("no such bundle", subject=str(path))
    require_weasyprint()


def _render(
    opened: OpenBundle,
    profiles: tuple[str, ...],
    paper: Literal["a4", "letter"],
    earlier: tuple[Path, ...],
    ledger: Path | None,
) -> Mapping[str, bytes]:
    from ucaudit.evidence.bundle import report_name
    from ucaudit.report import check_bundle, load_profile
    from ucaudit.report.previous import previous_bundles

    with previous_bundles(earlier, opened) as previous:
        checked = check_bundle(opened, previous=previous, ledger=ledger)
        return {
            report_name(load_profile(profile).slug): checked.render(profile, paper=paper) for profile in profiles
        }


def _document(outcome: Outcome, code: int) -> dict[str, Any]:
    record, problem = outcome.record, outcome.render_error
    return {
        "determination": record.determination,
        "bundle": str(outcome.bundle),
        "envelopeDigest": outcome.envelope_digest,
        "ledgerIndex": outcome.ledger_index,
        "packDigest": record.pack.pack_digest,
        "stateDigest": record.reconstruction.state_digest,
        "bitsPerWeight": record.pack.bits_per_weight.model_dump(by_alias=True),
        "ratio": record.results.ratio.model_dump(by_alias=True),
        "meanKl": record.results.kl.model_dump(by_alias=True),
        "claims": [claim.model_dump(mode="json", by_alias=True) for claim in record.claims],
        "reports": list(outcome.reports),
        "takenUp": outcome.taken_up,
        "error": {"code": problem.code, "message": str(problem), "hint": problem.hint} if problem else None,
        "exitCode": code,
    }


def _text(outcome: Outcome) -> str:
    from ucaudit.cli.cmd_verify import summary

    return "\n".join([*summary(outcome.record, authentic=True), f"bundle         {outcome.bundle}"])
