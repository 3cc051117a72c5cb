"""From an evidence bundle to a report. Nothing is rendered from a bundle that :mod:`ucaudit.evidence.examine`
refuses: a rendering says PASS in large letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ucaudit.evidence.bundle import STATE, OpenBundle
from ucaudit.evidence.examine import Examined, examine_bundle
from ucaudit.evidence.ledger import Ledger
from ucaudit.evidence.trust import Trust, trusted_ledgers
from ucaudit.report.change import Previous
from ucaudit.report.history import History, read_history
from ucaudit.report.pdf import Kind
from ucaudit.report.render import render_html, render_pdf
from ucaudit.report.view import MAX_LISTED, ReportView, build_view


def render_bundle(
    bundle: OpenBundle,
    profile: str,
    *,
    paper: str = "a4",
    trust: Trust | None = None,
    kind: Kind = "pdf",
    previous: Sequence[OpenBundle] = (),
    ledger: Path | None = None,
) -> bytes:
    """The report of a bundle, as a file's bytes. Arguments and errors as :func:`check_bundle` and the renderer."""
    return check_bundle(bundle, trust=trust, previous=previous, ledger=ledger).render(
        profile, paper=paper, kind=kind
    )


def bundle_view(
    bundle: OpenBundle,
    profile: str,
    *,
    trust: Trust | None = None,
    previous: Sequence[OpenBundle] = (),
    ledger: Path | None = None,
) -> ReportView:
    """What a report prints. Arguments and errors as :func:`check_bundle`, and those of the profile."""
    return check_bundle(bundle, trust=trust, previous=previous, ledger=ledger).view(profile)


@dataclass(frozen=True, slots=True)
class CheckedBundle:
    """A bundle that was checked once, for the reports of any number of profiles."""

    bundle: OpenBundle
    found: Examined
    previous: tuple[Previous, ...]
    history: History | None

    def view(self, profile: str) -> ReportView:
        """What the report of a profile prints.

        Args:
            profile: a profile's name, or the path of a profile file or folder.

        Raises:
            NotFoundError, InputError: the profile; a previous attestation that is not an earlier one.
        """
        found = self.found
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
            state=self.bundle.state(),
            previous=self.previous,
            history=self.history,
        )

    def render(self, profile: str, *, paper: str = "a4", kind: Kind = "pdf") -> bytes:
        """The report as a file's bytes. Errors as :meth:`view` and the renderer."""
        view = self.view(profile)
        if kind == "html":
            return render_html(view, paper=paper).encode("utf-8")
        if not view.profile.attach_record:
            return render_pdf(view, paper=paper)
        state = self.bundle.read(STATE) if view.tensors_total > MAX_LISTED else None
        return render_pdf(view, paper=paper, attach=self.bundle.attestation.raw, state=state)


def check_bundle(
    bundle: OpenBundle,
    *,
    trust: Trust | None = None,
    previous: Sequence[OpenBundle] = (),
    ledger: Path | None = None,
) -> CheckedBundle:
    """Check the bundle, and whatever the report draws on besides.

    Args:
        bundle: opened. Its files are compared with the record's digests here, and figures, verdicts and
            determination derived again. It need not be closed yet, unless there is a trust file.
        trust: whatever :func:`verify_bundle` finds under it is refused; without it the report says that no key
            was checked.
        previous: bundles of earlier attestations, checked in the same way; the latest is compared with this one.
        ledger: a ledger that holds the record, for its population and earlier results of the same pack.

    Raises:
        NotFoundError: a cited file is missing.
        DigestMismatchError: a cited file is not the one that was recorded, or a subject contradicts it.
        VerificationError: a record does not follow from its files; or ``trust`` is given, and the evidence does
            not hold under it.
        LedgerInconsistentError: the ledger proof is about another record, or does not hold; the ledger is another
            one, or lacks the record.
        InputError: something in the bundle is malformed.
    """
    found = examine_bundle(bundle, trust)
    history = None
    if ledger is not None:
        history = read_history(ledger, found.envelope_digest, found.checkpoint, _vkey(ledger, trust))
    return CheckedBundle(bundle, found, tuple(_previous(item, trust) for item in previous), history)


def _previous(bundle: OpenBundle, trust: Trust | None) -> Previous:
    found = examine_bundle(bundle, trust)
    return Previous(found.record, found.envelope_digest, found.values, found.principal)


def _vkey(ledger: Path, trust: Trust | None) -> str | None:
    """The trust file's verifier key of this ledger."""
    if trust is None:
        return None
    origin = Ledger.open(ledger).origin
    return next((item.vkey for item in trusted_ledgers(trust) if item.origin == origin), None)
