"""``ucaudit verify``: offline verification of evidence."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ucaudit.cli.common import Output, output_options
from ucaudit.core.errors import EXIT_FAIL, EXIT_PASS

if TYPE_CHECKING:
    from ucaudit.core.records import Attestation
    from ucaudit.evidence.verify import Verification

_MARKS = {"pass": "ok  ", "fail": "FAIL", "warn": "note", "not-checked": "-   "}
_LOUD = {
    "pass": "the claims hold",
    "pass-with-exceptions": "PASS WITH EXCEPTIONS: a claim failed and is excused by an exception",
    "fail": "FAILED CLAIM: the record is authentic, and what it records is a failure",
    "inconclusive": "INCONCLUSIVE: the record is authentic, and too little data decided nothing",
}


@click.command()
@click.argument("evidence", type=click.Path(path_type=Path))
@click.option("--trust", "trust_file", type=click.Path(path_type=Path), required=True, help="Your trust file.")
@click.option(
    "--bundle", "bundle_path", type=click.Path(path_type=Path), help="For a report: the bundle it is from."
)
@click.option("--pack", "pack_path", type=click.Path(path_type=Path), help="Compare this pack's files as well.")
@click.option(
    "--policy", "policy_file", type=click.Path(path_type=Path), help="Judge by this policy; exit 1 if not met."
)
@click.option("--full", is_flag=True, help="Also reconstruct the pack and compare every tensor.")
@output_options
def verify(
    evidence: Path,
    trust_file: Path,
    bundle_path: Path | None,
    pack_path: Path | None,
    policy_file: Path | None,
    full: bool,
    out: Output,
) -> int:
    """Check a BUNDLE, or a REPORT.pdf against its --bundle, offline.

    Exits 0 if the evidence is authentic, whatever it says: an authentic record
    of a failed claim is announced loudly. With --policy, exits 1 unless the
    policy is met.
    """
    from ucaudit.evidence.bundle import open_bundle
    from ucaudit.evidence.trust import load_trust
    from ucaudit.evidence.verify import verify_bundle

    if full and pack_path is None:
        raise click.UsageError("--full needs --pack")
    trust = load_trust(trust_file)
    report = evidence if bundle_path is not None else None
    bundle = open_bundle(bundle_path if bundle_path is not None else _directory(evidence))
    result = verify_bundle(bundle, trust)
    if report is not None:
        from ucaudit.evidence.verify import check_report

        check_report(bundle, report, result)
    if pack_path is not None and result.record is not None:
        from ucaudit.packs.compare import check_files, check_state

        check_files(bundle, result.record, pack_path, result, out.progress)
        if full:
            check_state(bundle, pack_path, result, out.progress)
        else:
            result.remark("pack-state", "not-checked", "reconstructed tensors", "--full reconstructs the pack")
    if pack_path is None:
        result.remark("pack-files", "not-checked", "the pack's files", "--pack PACK compares them")
    if policy_file is not None:
        from ucaudit.evidence.gate import apply_policy
        from ucaudit.evidence.policy import load_policy

        policy = load_policy(policy_file).policy
        if result.authentic:
            apply_policy(bundle, result, policy)
    out.result(document(result), render(result, out))
    return complain(result, out)


def _directory(evidence: Path) -> Path:
    """A bundle may be named by its directory or by the envelope in it."""
    from ucaudit.core.errors import InputError
    from ucaudit.evidence.bundle import ATTESTATION

    if evidence.name == ATTESTATION:
        return evidence.parent
    if evidence.suffix in (".pdf", ".html"):
        raise InputError(
            "a report alone proves nothing about its wording", subject=str(evidence), hint="give --bundle BUNDLE"
        )
    return evidence


def document(result: Verification) -> dict[str, Any]:
    """The outcome as ``--json`` prints it."""
    record = result.record
    first = next((check.error for check in result.failures if check.error), None)
    return {
        "authentic": result.authentic,
        "determination": record.determination if record else None,
        "envelopeDigest": result.envelope_digest,
        "pack": record.pack.name if record else None,
        "packDigest": record.pack.pack_digest if record else None,
        "stateDigest": record.reconstruction.state_digest if record else None,
        "signers": [{"principal": entry.principal, "keyId": entry.key.key_id} for entry in result.signers],
        "checks": [check.as_json() for check in result.checks],
        "error": {"code": first.code, "message": str(first), "hint": first.hint} if first else None,
        "exitCode": EXIT_PASS if result.authentic else EXIT_FAIL,
    }


def render(result: Verification, out: Output) -> str:
    """The check list for people, at most 80 columns wide."""
    lines = []
    for check in result.checks:
        mark = _MARKS[check.status]
        colour = {"fail": "red", "pass": "green", "warn": "yellow"}.get(check.status)
        text = textwrap.wrap(f"{check.what}: {check.detail}", 74, break_on_hyphens=False) or [check.what]
        lines.append(f"{out.style(mark, fg=colour)}  {text[0]}")
        lines += [f"      {line}" for line in text[1:]]
    if result.record is not None:
        lines += ["", *summary(result.record, authentic=result.authentic)]
    else:
        lines += ["", "NOT AUTHENTIC: nothing in this bundle was believed."]
    return "\n".join(lines)


def summary(record: Attestation, *, authentic: bool) -> list[str]:
    """The record's outcome in a few lines."""
    ratio = record.results.ratio
    lines = [
        f"pack           {record.pack.name}  ({record.pack.codec}, {record.pack.arithmetic_profile})",
        f"pack digest    {record.pack.pack_digest}",
        f"state digest   {record.reconstruction.state_digest}",
        f"ratio          {ratio.estimate:.5f}  [{ratio.lower:.5f}, {ratio.upper:.5f}] at {ratio.confidence:.0%}, "
        f"n = {record.measurement.n}",
        *[
            f"claim          {claim.id} {claim.comparator} {claim.threshold:g}: {claim.verdict.upper()}"
            for claim in record.claims
        ],
    ]
    if authentic:
        lines.append(f"determination  {record.determination.upper()}: {_LOUD[record.determination]}")
    else:
        lines.append("determination  none: the evidence did not hold; see FAIL above")
    return lines


def complain(result: Verification, out: Output) -> int:
    """One error line a failed check, on stderr, and the exit code."""
    for check in result.failures[:5]:
        if check.error is not None:
            out.finding(check.error)
    return EXIT_PASS if result.authentic else EXIT_FAIL
