"""``ucaudit verify``: offline verification of evidence."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ucaudit.cli.common import Output, compute_options, output_options, prepare_compute, printable
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_INCONCLUSIVE

if TYPE_CHECKING:
    from ucaudit.core.records import Attestation, Floor
    from ucaudit.evidence.bundle import OpenBundle
    from ucaudit.evidence.checks import Endorsed, Verification
    from ucaudit.evidence.trust import Trust
    from ucaudit.lab.spotcheck import Spots

_MARKS = {"pass": "ok  ", "fail": "FAIL", "warn": "note", "not-checked": "-   "}
_LOUD = {
    "pass": "the claims hold",
    "pass-with-exceptions": "a claim failed and is excused by an exception",
    "fail": "FAILED CLAIM: the record is authentic, and what it records is a failure",
    "inconclusive": "the record is authentic, and there was too little data to decide",
}


@click.command()
@click.argument("evidence", type=PATH)
@click.option("--trust", "trust_file", type=PATH, required=True, help="Your trust file.")
@click.option("--bundle", "bundle_path", type=PATH, help="For a report: the bundle it is from.")
@click.option("--pack", "pack_path", type=PATH, help="Compare this pack's files as well.")
@click.option("--policy", "policy_file", type=PATH, help="Judge by this policy; exit 1 if not met.")
@click.option("--full", is_flag=True, help="Also reconstruct the pack and compare every tensor.")
@click.option(
    "--spot-check",
    "spots",
    type=click.IntRange(min=1),
    metavar="K",
    help="Decode K tensors and measure K windows again; needs --pack, --reference and --corpus.",
)
@click.option("--reference", type=PATH, help="For --spot-check: the uncompressed model.")
@click.option("--corpus", type=PATH, help="For --spot-check: the evaluation text.")
@click.option("--nonce", metavar="HEX", help="For --spot-check: draw as this nonce says  [default: a new one]")
@compute_options
@output_options
def verify(
    evidence: Path,
    trust_file: Path,
    bundle_path: Path | None,
    pack_path: Path | None,
    policy_file: Path | None,
    full: bool,
    spots: int | None,
    reference: Path | None,
    corpus: Path | None,
    nonce: str | None,
    device: str,
    threads: int | None,
    out: Output,
) -> int:
    """Check a BUNDLE (or its .zip), or a REPORT.pdf against its --bundle, offline.

    An envelope that lies alone, or a report without its bundle, is checked as far
    as its signature goes. The record inside a bundle stands for the bundle.

    Exits 0 if the evidence is authentic, whatever it says: an authentic record
    of a failed claim is announced loudly. With --policy, exits 1 unless the
    policy is met, or 5 if nothing stands in its way but an inconclusive claim.

    Invented per-token values pass all of this. --spot-check does a part of the
    work again, drawn by a nonce that the signer cannot have known: what differs
    from the record is found with a chance that is printed.
    """
    from ucaudit.evidence.trust import load_trust

    if full and pack_path is None:
        raise click.UsageError("--full needs --pack")
    _require_spot_options(spots, pack_path, reference, corpus, nonce)
    if full or spots is not None:
        device = prepare_compute(device, threads)
    trust = load_trust(trust_file)
    place = bundle_path if bundle_path is not None else _bundle_of(evidence)
    if place is None:
        if pack_path is not None or policy_file is not None:
            raise click.UsageError("--pack and --policy need the bundle: give its directory")
        result = _without_bundle(evidence, trust)
        out.result(document(result), render(result, out))
        return complain(result, out)
    from ucaudit.evidence.archive import bundle_directory

    judged = policy_file is not None
    report = evidence if bundle_path is not None else None
    with bundle_directory(place) as directory:
        asked = _Asked(report, pack_path, policy_file, full, spots, reference, corpus, nonce, device, threads)
        result, looked = _with_bundle(directory, trust, asked, out)
    answer, text = document(result, judged=judged), render(result, out)
    if judged:
        text += f"\npolicy         {verdict(result, 'MET', 'NOT MET')}"
    if looked is not None:
        answer["spotCheck"] = looked.as_json()
        text += f"\n{_repeat(looked)}"
    out.result(answer, text)
    return complain(result, out)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the command line asks about a bundle."""

    report: Path | None
    pack: Path | None
    policy: Path | None
    full: bool
    spots: int | None
    reference: Path | None
    corpus: Path | None
    nonce: str | None
    device: str
    threads: int | None


def _with_bundle(directory: Path, trust: Trust, asked: _Asked, out: Output) -> tuple[Verification, Spots | None]:
    """Everything that was asked about a bundle, and about a report of it."""
    policy = None
    if asked.policy is not None:
        from ucaudit.evidence.policy import load_policy

        policy = load_policy(asked.policy).policy
    from ucaudit.evidence.bundle import open_bundle
    from ucaudit.evidence.verify import check_report, verify_bundle

    bundle = open_bundle(directory)
    result = verify_bundle(bundle, trust, floors=True)
    if asked.report is not None:
        check_report(bundle, asked.report, result)
    if result.floor is not None:
        if asked.pack is not None or policy is not None or asked.spots is not None:
            raise click.UsageError("this bundle holds a floor, which is about many packs and no policy")
        return result, None
    if asked.pack is not None and result.record is not None:
        from ucaudit.packs.compare import check_files, check_state
        from ucaudit.packs.excluded import check_excluded

        whole = check_excluded(result.record, asked.pack, result, allowed=policy.gate.exclude if policy else ())
        if whole:
            check_files(bundle, result.record, asked.pack, result, out.progress)
        if whole and asked.full:
            check_state(bundle, asked.pack, result, out.progress, device=asked.device, threads=asked.threads)
        elif asked.spots is None:
            result.remark("pack-state", "not-checked", "reconstructed tensors", "--full reconstructs the pack")
    looked = _look(bundle, result, asked, out)
    if asked.pack is None:
        result.remark("pack-files", "not-checked", "the pack's files", "--pack PACK compares them")
    if policy is not None and result.authentic:
        from ucaudit.evidence.gate import apply_policy

        apply_policy(result, policy)
    return result, looked


def _require_spot_options(
    count: int | None, pack: Path | None, reference: Path | None, corpus: Path | None, nonce: str | None
) -> None:
    """The options of a spot check come together or not at all. Raises UsageError."""
    if count is not None:
        if pack is None or reference is None or corpus is None:
            raise click.UsageError("--spot-check needs --pack, --reference and --corpus")
        return
    for name, value in {"--reference": reference, "--corpus": corpus, "--nonce": nonce}.items():
        if value is not None:
            raise click.UsageError(f"{name} is for --spot-check K")


def _look(bundle: OpenBundle, result: Verification, asked: _Asked, out: Output) -> Spots | None:
    if asked.spots is None or asked.pack is None or asked.reference is None or asked.corpus is None:
        return None
    from ucaudit.evidence.spots import SpotDraw
    from ucaudit.lab.spotcheck import SpotInputs, spot_check

    inputs = SpotInputs(
        asked.pack, asked.reference, asked.corpus, asked.spots, device=asked.device, threads=asked.threads
    )
    draw = SpotDraw.make(bundle.attestation.digest, asked.nonce)
    out.status(f"spot check by nonce {draw.nonce}")
    return spot_check(bundle, result, inputs, draw, out.progress)


def _repeat(looked: Spots) -> str:
    origin = "given: worth what is known of its origin" if looked.draw.given else "drawn now; --nonce repeats it"
    return f"spot check     nonce {origin}\nnonce          {looked.draw.nonce}"


def _bundle_of(evidence: Path) -> Path | None:
    """A bundle may be named by its directory, its .zip or the record in it; None if this is none of them."""
    from ucaudit.core.errors import InputError, unreadable
    from ucaudit.evidence.archive import is_archive
    from ucaudit.evidence.bundle import bundle_around

    if evidence.suffix == ".html":
        raise InputError(
            "a report alone proves nothing about its wording", subject=str(evidence), hint="give --bundle BUNDLE"
        )
    try:
        alone = evidence.is_file() and not is_archive(evidence)
        return bundle_around(evidence) or (None if alone else evidence)
    except OSError as error:
        raise unreadable(str(evidence), error) from error


def _without_bundle(evidence: Path, trust: Trust) -> Verification:
    """A single envelope, or the record attached to a PDF."""
    from ucaudit.core.files import read_limited
    from ucaudit.evidence.signing import MAX_ENVELOPE_BYTES, Envelope
    from ucaudit.evidence.verify import verify_envelope

    if evidence.suffix.lower() != ".pdf":
        return verify_envelope(
            Envelope.parse(read_limited(evidence, MAX_ENVELOPE_BYTES), subject=evidence.name), trust
        )
    from ucaudit.evidence.pdfrecord import attached_record

    result = verify_envelope(attached_record(evidence), trust)
    result.remark(
        "rendering",
        "not-checked",
        f"the wording of {evidence.name}",
        "record authentic, rendering unchecked: --bundle BUNDLE compares it" if result.authentic else "unchecked",
    )
    return result


def document(result: Verification, *, judged: bool = False) -> dict[str, Any]:
    """The outcome as ``--json`` prints it; ``admitted`` is None if no policy was applied."""
    record = result.record
    first = next((check.error for check in result.failures if check.error), None)
    return {
        "authentic": result.authentic,
        "admitted": result.admitted if judged else None,
        "determination": record.determination if record else result.floor.determination if result.floor else None,
        "envelopeDigest": result.envelope_digest,
        "floor": _floor_document(result),
        "pack": record.pack.name if record else None,
        "packDigest": record.pack.pack_digest if record else None,
        "stateDigest": record.reconstruction.state_digest if record else None,
        "signers": [{"principal": entry.principal, "keyId": entry.key.key_id} for entry in result.signers],
        "endorsements": [item.as_json() for item in result.endorsements],
        "checks": [check.as_json() for check in result.checks],
        "error": {"code": first.code, "message": str(first), "hint": first.hint} if first else None,
        "exitCode": result.exit_code,
    }


def render(result: Verification, out: Output) -> str:
    """The check list for people, at most 80 columns wide."""
    lines = []
    for check in result.checks:
        mark = _MARKS[check.status]
        colour = {"fail": "red", "pass": "green", "warn": "yellow"}.get(check.status)
        level = f" [{check.level}]" if check.status in ("pass", "fail") else ""
        sentence = printable(f"{check.what}: {check.detail}{level}")
        text = textwrap.wrap(sentence, 74, break_on_hyphens=False) or [check.what]
        lines.append(f"{out.style(mark, fg=colour)}  {text[0]}")
        lines += [f"      {line}" for line in text[1:]]
    if result.record is not None:
        derived = any(check.slug == "determination" and check.status == "pass" for check in result.checks)
        words = summary(
            result.record, authentic=result.authentic, derived=derived, endorsements=result.endorsements
        )
        lines += ["", *map(printable, words)]
    elif result.floor is not None and result.authentic:
        lines += ["", *map(printable, _floor_lines(result.floor))]
    elif result.signers and result.authentic:
        lines += ["", "AUTHENTIC: a trusted key signed this envelope; nothing else was checked."]
    elif result.found_by("evidence"):
        lines += ["", "UNSIGNED: there is no evidence to believe."]
    else:
        lines += ["", "NOT AUTHENTIC: nothing in this bundle was believed."]
    return "\n".join(lines)


def _floor_document(result: Verification) -> dict[str, Any] | None:
    from ucaudit.cli.floor_text import floor_document

    record = result.floor
    return (
        None
        if record is None
        else {"name": record.protocol.name, **floor_document(record.results, record.published)}
    )


def _floor_lines(record: Floor) -> list[str]:
    from ucaudit.cli.floor_text import floor_lines, published_lines

    return [*floor_lines(record), *published_lines(record, record.published)]


def verdict(result: Verification, good: str, bad: str) -> str:
    """What a policy comes to, with what stands in its way."""
    if result.admitted:
        return good
    count = f"{len(result.failures)} check(s) failed"
    if not result.authentic:
        return f"{bad}: {count}"
    if result.exit_code == EXIT_INCONCLUSIVE:
        return f"{bad}: inconclusive, the evidence is authentic and decides too little"
    return f"{bad}: {count} of the policy; the evidence is authentic"


def summary(
    record: Attestation, *, authentic: bool, derived: bool = True, endorsements: Sequence[Endorsed] = ()
) -> list[str]:
    """The record's outcome in a few lines; ``derived``: its verdicts were derived again here."""
    endorsed = [
        line
        for item in endorsements
        for line in textwrap.wrap(
            f"{item.printed_name} ({item.entry.principal}) as {item.role}: {item.meaning}, "
            f"{item.created}, {item.seen or 'their own word for the time'}",
            80,
            initial_indent="endorsed       ",
            subsequent_indent=" " * 15,
            break_on_hyphens=False,
        )
    ]
    ratio = record.results.ratio
    lines = [
        f"pack           {record.pack.name}  ({record.pack.codec}, {record.pack.arithmetic_profile})",
        f"pack digest    {record.pack.pack_digest}",
        f"state digest   {record.reconstruction.state_digest}",
        f"ratio          {ratio.estimate:.5f}  [{ratio.lower:.5f}, {ratio.upper:.5f}] at {ratio.confidence:.0%}, "
        f"n = {record.measurement.n}",
        *[
            f"claim          {claim.id} {claim.comparator} {claim.threshold:g}: {claim.verdict.upper()} "
            f"[{claim.level}]"
            for claim in record.claims
        ],
        *endorsed,
    ]
    if authentic and not derived:
        lines.append(f"determination  {record.determination.upper()}, as recorded: nothing was derived again")
    elif authentic:
        lines += textwrap.wrap(
            f"determination  {record.determination.upper()}: {_LOUD[record.determination]}",
            80,
            subsequent_indent=" " * 15,
            break_on_hyphens=False,
        )
    else:
        lines.append("determination  none: the evidence did not hold; see FAIL above")
    return lines


def complain(result: Verification, out: Output) -> int:
    """One error line on stderr, about the first failed check, and the exit code. All of them are in the list."""
    first = next((check.error for check in result.failures if check.error), None)
    if first is not None:
        more = len(result.failures) - 1
        out.finding(first, note=f" (and {more} more: see FAIL above)" if more and not out.as_json else "")
    return result.exit_code
