"""From an evidence bundle to a report. Nothing is rendered from a bundle that :mod:`ucaudit.evidence.examine`
refuses: a rendering says PASS in large letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ucaudit.evidence.bundle import STATE, OpenBundle
from ucaudit.evidence.examine import examine_bundle
from ucaudit.evidence.ledger import Ledger
from ucaudit.evidence.trust import Trust, trusted_ledgers
from ucaudit.report.change import Previous
from ucaudit.report.history import read_history
from ucaudit.report.render import render_html, render_pdf
from ucaudit.report.view import MAX_LISTED, ReportView, build_view


def render_bundle(
    bundle: OpenBundle,
    profile: str,
    *,
    paper: str = "a4",
    trust: Trust | None = None,
    kind: Literal["pdf", "html"] = "pdf",
    previous: Sequence[OpenBundle] = (),
    ledger: Path | None = None,
) -> bytes:
    """The report of a bundle, as a file's bytes. Arguments and errors as :func:`bundle_view` and the renderer."""
    view = bundle_view(bundle, profile, trust=trust, previous=previous, ledger=ledger)
    if kind == "html":
        return render_html(view, paper=paper).encode("utf-8")
    if not view.profile.attach_record:
        return render_pdf(view, paper=paper)
    state = bundle.read(STATE) if view.tensors_total > MAX_LISTED else None
    return render_pdf(view, paper=paper, attach=bundle.attestation.raw, state=state)


def bundle_view(
    bundle: OpenBundle,
    profile: str,
    *,
    trust: Trust | None = None,
    previous: Sequence[OpenBundle] = (),
    ledger: Path | None = None,
) -> ReportView:
    """Check the bundle, and collect what a report prints.

    Args:
        bundle: opened. Its files are compared with the record's digests here, and figures, verdicts and
            determination derived again. It need not be closed yet, unless there is a trust file.
        profile: a profile's name, or the path of a profile file or folder.
        trust: whatever :func:`verify_bundle` finds under it is refused; without it the report says that no key
            was checked.
        previous: bundles of earlier attestations, checked in the same way; the latest is compared with this one.
        ledger: a ledger that holds the record, for its population and earlier results of the same pack.

    Raises:
        NotFoundError: a cited file, or the profile, is missing.
        DigestMismatchError: a cited file is not the one that was recorded, or a subject contradicts it.
        VerificationError: a record does not follow from its files; or ``trust`` is given, and the evidence does
            not hold under it.
        LedgerInconsistentError: the ledger proof is about another record, or does not hold; the ledger is another
            one, or lacks the record.
        InputError: something in the bundle is malformed, or a previous attestation is not an earlier one.
    """
    found = examine_bundle(bundle, trust)
    history = None
    if ledger is not None:
        history = read_history(ledger, found.envelope_digest, found.checkpoint, _vkey(ledger, trust))
    return build_view(
        found.statement,
        envelope_digest=found.envelope_digest,
        signer_key_id=found.key_id,
        principal=found.principal,
        roles=found.signer.roles if found.signer else (),
        seen=found.seen,
        endorsements=found.endorsements,
        values=found.values,
        ledger=found.ledger,
        profile=profile,
        payload_digest=found.payload_digest,
        state=bundle.state(),
        previous=[_previous(item, trust) for item in previous],
        history=history,
    )


def _previous(bundle: OpenBundle, trust: Trust | None) -> Previous:
    found = examine_bundle(bundle, trust)
    return Previous(found.record, found.envelope_digest, found.values, found.principal)


def _vkey(ledger: Path, trust: Trust | None) -> str | None:
    """The trust file's verifier key of this ledger."""
    if trust is None:
        return None
    origin = Ledger.open(ledger).origin
    return next((item.vkey for item in trusted_ledgers(trust) if item.origin == origin), None)
