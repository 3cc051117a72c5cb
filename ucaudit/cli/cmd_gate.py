"""``ucaudit gate``: the check that CI runs before a pack is deployed."""

from __future__ import annotations

from pathlib import Path

import click

from ucaudit.cli.common import Output, output_options
from ucaudit.core.errors import EXIT_FAIL, EXIT_PASS, NotFoundError


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
    gate's own policy. Exits 0 if the pack may be deployed, 1 if not.
    """
    from ucaudit.cli.cmd_verify import complain, document, render
    from ucaudit.evidence.archive import bundle_directory
    from ucaudit.evidence.bundle import refuse_inside_bundle
    from ucaudit.evidence.gate import apply_policy
    from ucaudit.evidence.policy import load_policy
    from ucaudit.evidence.trust import load_trust
    from ucaudit.evidence.verify import verify_bundle
    from ucaudit.packs.compare import check_files, check_state, select_bundle
    from ucaudit.packs.opened import open_pack

    if junit is not None:
        refuse_inside_bundle(junit)
    policy = load_policy(policy_file).policy
    trust = load_trust(trust_file)
    if not pack.exists():
        raise NotFoundError(
            "no such pack", subject=str(pack), hint="give the directory of the pack, or a .gguf file"
        )
    if pack.is_dir():
        open_pack(pack, excludes=policy.gate.exclude)
    with bundle_directory(evidence) as directory:
        bundle = select_bundle(directory, pack, excludes=policy.gate.exclude)
        result = verify_bundle(bundle, trust)
        if result.record is not None:
            check_files(bundle, result.record, pack, result, out.progress)
            if full:
                check_state(bundle, pack, result, out.progress)
            apply_policy(result, policy)
    if junit is not None:
        from ucaudit.core.files import write_bytes
        from ucaudit.interop.junit import junit_xml

        write_bytes(junit, junit_xml(f"ucaudit gate {pack.name}", result))
    admitted = result.authentic
    judged = evidence if directory != evidence else bundle.path
    verdict = "ADMITTED" if admitted else f"REFUSED: {len(result.failures)} check(s) failed"
    gate_document = {**document(result), "admitted": admitted, "bundle": str(judged)}
    colour = "green" if admitted else "red"
    out.result(gate_document, f"{render(result, out)}\ngate           {out.style(verdict, fg=colour)}")
    complain(result, out)
    return EXIT_PASS if admitted else EXIT_FAIL
