"""Findings of a validation, from the record: what a reviewer would write down, in the order of gravity.

Severity is the profile's rule, not the tool's judgement: a profile says how grave each kind is, by its own version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from ucaudit.core.records import Attestation

Severity = Literal["high", "medium", "low"]
FindingSlug = Literal[
    "claim-failed",
    "claim-inconclusive",
    "exception-applied",
    "key-not-checked",
    "plan-deviation",
    "not-pre-registered",
    "no-endorsement",
    "no-trusted-time",
    "not-in-a-ledger",
    "unclaimed-files",
    "overlap-not-excluded",
    "state-not-published",
]
NOT_SET: Final = "not set by the profile"
_ORDER: Final = ("high", "medium", "low", NOT_SET)


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: its kind, what was found, and how grave the profile calls it."""

    slug: FindingSlug
    text: str
    severity: str


def findings(
    record: Attestation,
    severity: Mapping[FindingSlug, Severity],
    *,
    excused: frozenset[str],
    key_checked: bool,
    endorsed: bool,
    trusted_time: bool,
    in_ledger: bool,
) -> tuple[Finding, ...]:
    """All findings, the gravest first.

    Args:
        record: the attestation.
        severity: the profile's rule.
        excused: claims that an exception in force excuses.
        key_checked: whether the signer's key was checked against a trust file.
        endorsed: whether somebody other than the signer endorsed the record.
        trusted_time: whether a time other than the signer's own is shown.
        in_ledger: whether the record is shown to be in a ledger.
    """
    found: list[tuple[FindingSlug, str]] = []
    for claim in record.claims:
        if claim.verdict == "pass":
            continue
        kind: FindingSlug = "claim-failed" if claim.verdict == "fail" else "claim-inconclusive"
        found.append((kind, f"{claim.id}: {claim.reason}"))
        if claim.id in excused:
            found.append(("exception-applied", f"{claim.id} is excused by an exception; section 6 names its owner"))
    if record.plan is None:
        found.append(("not-pre-registered", "the measurement was not planned in a ledger beforehand"))
    else:
        found += [("plan-deviation", text) for text in record.plan.deviations]
    conditions: tuple[tuple[bool, FindingSlug, str], ...] = (
        (not key_checked, "key-not-checked", "the signer's key was not checked against a trust file"),
        (not endorsed, "no-endorsement", "no second person has endorsed the record"),
        (not trusted_time, "no-trusted-time", "the record's time is the signer's own word"),
        (not in_ledger, "not-in-a-ledger", "no ledger entry is shown: other results could have been left out"),
        (
            bool(record.pack.unclaimed_files),
            "unclaimed-files",
            f"files of the pack that no manifest claims: {len(record.pack.unclaimed_files):,}",
        ),
        (
            record.measurement.calibration_overlap != "none-found",
            "overlap-not-excluded",
            "that the evaluation text was seen in calibration is not excluded",
        ),
        (
            record.reconstruction.matches_published == "none-published",
            "state-not-published",
            "the pack publishes no state to compare the reconstruction with",
        ),
    )
    found += [(slug, text) for holds, slug, text in conditions if holds]
    rows = [Finding(slug, text, severity.get(slug, NOT_SET)) for slug, text in found]
    return tuple(sorted(rows, key=lambda row: _ORDER.index(row.severity)))
