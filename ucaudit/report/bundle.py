"""From an evidence bundle to a report. Nothing is rendered from a bundle whose files are not the signed ones, or
whose figures and verdicts do not follow from them: a rendering says PASS in large letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ucaudit.core.errors import DigestMismatchError, LedgerInconsistentError
from ucaudit.core.records import Statement
from ucaudit.core.tokenvalues import TokenValues
from ucaudit.evidence.bundle import LEDGER_ENTRY, LEDGER_PROOF, PACK_MANIFEST, STATE, OpenBundle, cited
from ucaudit.evidence.checks import Verification
from ucaudit.evidence.contents import check_contents
from ucaudit.evidence.endorsements import binding_problem, endorsement_of
from ucaudit.evidence.ledger import Checkpoint, Ledger, LedgerEntry, LedgerProof, verify_proof
from ucaudit.evidence.ledger.note import SignedNote
from ucaudit.evidence.signing import Envelope
from ucaudit.evidence.trust import Trust, TrustedKey, trusted_ledgers
from ucaudit.evidence.verify import verify_bundle
from ucaudit.report.change import Previous
from ucaudit.report.history import read_history
from ucaudit.report.render import render_html, render_pdf
from ucaudit.report.signoff import EndorsementFacts, LedgerFacts
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
    found = _examine(bundle, trust)
    statement = bundle.statement
    _check_subjects(bundle, statement)
    facts, proven = ledger_place(bundle, trust)
    history = None
    if ledger is not None:
        vkey = _vkey(ledger, trust)
        history = read_history(ledger, bundle.attestation.digest, proven, vkey)
    signer = found.signer
    return build_view(
        statement,
        envelope_digest=bundle.attestation.digest,
        signer_key_id=found.key_id,
        principal=signer.principal if signer else None,
        roles=signer.roles if signer else (),
        seen=found.seen,
        endorsements=found.endorsements,
        values=found.values,
        ledger=facts,
        profile=profile,
        payload_digest=bundle.attestation.payload_digest,
        state=bundle.state(),
        previous=[_previous(item, trust) for item in previous],
        history=history,
    )


@dataclass(frozen=True, slots=True)
class _Examined:
    """A bundle of which nothing was found wrong."""

    key_id: str
    signer: TrustedKey | None
    seen: str | None
    endorsements: list[EndorsementFacts]
    values: TokenValues | None


def _examine(bundle: OpenBundle, trust: Trust | None) -> _Examined:
    """Verify a bundle under a trust file; without one, that it follows from its files. Raises on any finding."""
    if trust is None:
        bundle.check_artefacts()
        result = Verification(envelope_digest=bundle.attestation.digest)
        check_contents(bundle, bundle.statement, bundle.record, result)
        raise_first(result)
        return _Examined(
            signature_hint(bundle.attestation), None, None, unchecked_endorsements(bundle), result.values
        )
    result = verify_bundle(bundle, trust)
    raise_first(result)
    signer = result.signers[0]
    seen = result.times.seen(bundle.attestation.digest)
    endorsements = [EndorsementFacts.checked(item) for item in result.endorsements]
    return _Examined(signer.key.key_id, signer, str(seen) if seen else None, endorsements, result.values)


def _previous(bundle: OpenBundle, trust: Trust | None) -> Previous:
    found = _examine(bundle, trust)
    principal = found.signer.principal if found.signer else None
    return Previous(bundle.record, bundle.attestation.digest, found.values, principal)


def _vkey(ledger: Path, trust: Trust | None) -> str | None:
    """The trust file's verifier key of this ledger."""
    if trust is None:
        return None
    origin = Ledger.open(ledger).origin
    return next((item.vkey for item in trusted_ledgers(trust) if item.origin == origin), None)


def signature_hint(envelope: Envelope) -> str:
    """The key that the envelope names as its signer's; nothing is checked."""
    return next((item.key_hint for item in envelope.signatures if item.key_hint), "")


def raise_first(result: Verification) -> None:
    """Any finding: nothing is rendered."""
    for check in result.failures:
        if check.error is not None:
            raise check.error


def _check_subjects(bundle: OpenBundle, statement: Statement) -> None:
    """The statement's subjects are printed as digests of files: they must be those of the manifests."""
    record = bundle.record
    expected = {PACK_MANIFEST: cited(record)[PACK_MANIFEST], STATE: cited(record)[STATE]}
    expected |= {f"pack/{path}": digest for path, digest in bundle.pack_manifest().by_path().items()}
    for item in statement.subjects:
        if expected.get(item.name) != item.sha256:
            raise DigestMismatchError(f"subject {item.name!r} is not what the record cites", subject=PACK_MANIFEST)


def unchecked_endorsements(bundle: OpenBundle) -> list[EndorsementFacts]:
    """Endorsements of this record, their signatures not judged."""
    found = []
    for envelope, statement in bundle.endorsements:
        problem = binding_problem(statement, bundle.attestation.digest, envelope.subject)
        if problem is not None:
            raise problem
        found.append(
            EndorsementFacts.of(endorsement_of(statement, envelope.subject), signature_hint(envelope), None)
        )
    return found


def ledger_place(bundle: OpenBundle, trust: Trust | None) -> tuple[LedgerFacts | None, Checkpoint | None]:
    """Where the bundle's own proof puts its record, and the checkpoint of that proof. Raises VerificationError."""
    data = bundle.ledger_proof
    if data is None:
        return None, None
    proof = LedgerProof.parse(data, subject=LEDGER_PROOF)
    leaf = proof.extra if proof.extra is not None else bundle.read(LEDGER_ENTRY, 1 << 16)
    entry = LedgerEntry.parse(leaf, subject=LEDGER_PROOF)
    if entry.envelope_sha256 != bundle.attestation.digest:
        raise LedgerInconsistentError("the proof is about another record", subject=LEDGER_PROOF)
    note = SignedNote.parse(proof.checkpoint, subject=LEDGER_PROOF)
    checkpoint = Checkpoint.parse(note.text, subject=LEDGER_PROOF)
    known = [item for item in trusted_ledgers(trust) if item.origin == checkpoint.origin] if trust else []
    for ledger in known:
        verify_proof(data, leaf, ledger.vkey)
    return LedgerFacts(checkpoint.origin, proof.index, checkpoint.size, checked=bool(known)), checkpoint
