"""``ucaudit gate``: the check that CI runs before a pack is deployed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ucaudit.cli.common import Output, output_options
from ucaudit.core.errors import NotFoundError, UcauditError
from ucaudit.core.files import require_outside, write_bytes

if TYPE_CHECKING:
    from ucaudit.evidence.checks import Verification


@click.command()
@click.argument("pack", type=click.Path(path_type=Path))
@click.option(
    "--evidence",
    type=click.Path(path_type=Path),
    required=True,
    help="A bundle, its .zip, or a directory of bundles.",
)
@click.option(
    "--policy", "policy_file", type=click.Path(path_type=Path), required=True, help="The gate's own policy."
)
@click.option(
    "--trust", "trust_file", type=click.Path(path_type=Path), required=True, help="The gate's trust file."
)
@click.option("--full", is_flag=True, help="Also reconstruct the pack, and name each drifted tensor.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write the checks as JUnit XML.")
@output_options
def gate(
    pack: Path, evidence: Path, policy_file: Path, trust_file: Path, full: bool, junit: Path | None, out: Output
) -> int:
    """Refuse a PACK that is unsigned, drifted, expired or out of bound.

    Every claim is recomputed from the evidence's per-token values against the
    gate's own policy. Exits 0 if the pack may be deployed, 1 if not, and 5 if
    not because a claim is inconclusive, with nothing else against it.
    """
    from ucaudit.cli.cmd_verify import complain, document, render, verdict

    suite = f"ucaudit gate {pack.name}"
    if junit is not None:
        _begin_junit(junit, suite, pack, policy_file, trust_file)
    try:
        result, path = _judge(pack, evidence, policy_file, trust_file, full=full, out=out)
    except UcauditError as error:
        if junit is not None:
            from ucaudit.interop.junit import junit_error

            write_bytes(junit, junit_error(suite, error.code, str(error)))
        raise
    if junit is not None:
        from ucaudit.interop.junit import junit_xml

        write_bytes(junit, junit_xml(suite, result))
    words = out.style(verdict(result, "ADMITTED", "REFUSED"), fg="green" if result.admitted else "red")
    gate_document = {**document(result, judged=True), "bundle": str(path)}
    out.result(gate_document, f"{render(result, out)}\ngate           {words}")
    return complain(result, out)


def _begin_junit(junit: Path, suite: str, *inputs: Path) -> None:
    """Replace the file of an earlier run before anything else: a run that dies must not leave its green there."""
    from ucaudit.evidence.bundle import refuse_inside_bundle
    from ucaudit.interop.junit import junit_error

    refuse_inside_bundle(junit)
    require_outside(junit, *inputs)
    write_bytes(junit, junit_error(suite, "unfinished", "the gate was started and did not finish"))


def _judge(
    pack: Path, evidence: Path, policy_file: Path, trust_file: Path, *, full: bool, out: Output
) -> tuple[Verification, Path]:
    """Every check, and the bundle they are about."""
    from ucaudit.evidence.archive import bundle_directory
    from ucaudit.evidence.gate import apply_policy
    from ucaudit.evidence.policy import load_policy
    from ucaudit.evidence.trust import load_trust
    from ucaudit.evidence.verify import verify_bundle
    from ucaudit.packs.compare import check_files, check_state
    from ucaudit.packs.excluded import check_excluded
    from ucaudit.packs.opened import open_pack
    from ucaudit.packs.selection import select_bundle

    policy = load_policy(policy_file).policy
    trust = load_trust(trust_file)
    if not pack.exists():
        raise NotFoundError(
            "no such pack", subject=str(pack), hint="give the directory of the pack, or a .gguf file"
        )
    if pack.is_dir():
        open_pack(pack, excludes=policy.gate.exclude)
    with bundle_directory(evidence) as directory:
        selection = select_bundle(directory, pack, trust, excludes=policy.gate.exclude)
        bundle = selection.bundle
        result = verify_bundle(bundle, trust)
        for name, reason in selection.passed_over:
            result.remark("evidence", "warn", f"{name} beside the bundle", reason)
        if result.record is not None:
            whole = check_excluded(result.record, pack, result, allowed=policy.gate.exclude)
            if whole:
                check_files(bundle, result.record, pack, result, out.progress)
            if whole and full:
                check_state(bundle, pack, result, out.progress)
            apply_policy(result, policy)
    return result, evidence if directory != evidence else bundle.path
