"""From an evidence bundle to a report. Nothing is rendered from a bundle whose files are not the signed ones, or
whose figures and verdicts do not follow from them: a rendering says PASS in large letters.
"""

from __future__ import annotations

from typing import Literal

from ucaudit.core.errors import DigestMismatchError, LedgerInconsistentError
from ucaudit.core.records import Statement
from ucaudit.evidence.bundle import LEDGER_ENTRY, LEDGER_PROOF, PACK_MANIFEST, STATE, OpenBundle, cited
from ucaudit.evidence.checks import Verification
from ucaudit.evidence.contents import check_contents
from ucaudit.evidence.endorsements import binding_problem, endorsement_of
from ucaudit.evidence.ledger import Checkpoint, LedgerEntry, LedgerProof, verify_proof
from ucaudit.evidence.ledger.note import SignedNote
from ucaudit.evidence.signing import Envelope
from ucaudit.evidence.trust import Trust, trusted_ledgers
from ucaudit.evidence.verify import verify_bundle
from ucaudit.report.render import render_html, render_pdf
from ucaudit.report.view import EndorsementFacts, LedgerFacts, ReportView, build_view


def render_bundle(
    bundle: OpenBundle,
    profile: str,
    *,
    paper: str = "a4",
    trust: Trust | None = None,
    kind: Literal["pdf", "html"] = "pdf",
) -> bytes:
    """The report of a bundle, as a file's bytes. Arguments and errors as :func:`bundle_view` and the renderer."""
    view = bundle_view(bundle, profile, trust=trust)
    if kind == "html":
        return render_html(view, paper=paper).encode("utf-8")
    return render_pdf(view, paper=paper, attach=bundle.attestation.raw if view.profile.attach_record else None)


def bundle_view(bundle: OpenBundle, profile: str, *, trust: Trust | None = None) -> ReportView:
    """Check the bundle, and collect what a report prints.

    Args:
        bundle: opened. Its files are compared with the record's digests here, and figures, verdicts and
            determination derived again. It need not be closed yet, unless there is a trust file.
        profile: a profile's name, or the path of a profile file.
        trust: whatever :func:`verify_bundle` finds under it is refused; without it the report says that no key
            was checked.

    Raises:
        NotFoundError: a cited file, or the profile, is missing.
        DigestMismatchError: a cited file is not the one that was recorded, or a subject contradicts it.
        VerificationError: the record does not follow from its files; or ``trust`` is given, and the evidence does
            not hold under it.
        LedgerInconsistentError: the ledger proof is about another record, or does not hold.
        InputError: something in the bundle is malformed.
    """
    key_id, signer, seen = _hint(bundle.attestation), None, None
    statement, record = bundle.statement, bundle.record
    if trust is not None:
        result = verify_bundle(bundle, trust)
        _raise_first(result)
        signer = result.signers[0]
        key_id = signer.key.key_id
        seen = result.times.seen(bundle.attestation.digest)
        endorsements = [EndorsementFacts.checked(item) for item in result.endorsements]
    else:
        bundle.check_artefacts()
        result = Verification(envelope_digest=bundle.attestation.digest)
        check_contents(bundle, statement, record, result)
        _raise_first(result)
        endorsements = _unchecked_endorsements(bundle)
    _check_subjects(bundle, statement)
    return build_view(
        statement,
        envelope_digest=bundle.attestation.digest,
        signer_key_id=key_id,
        principal=signer.principal if signer else None,
        roles=signer.roles if signer else (),
        seen=str(seen) if seen else None,
        endorsements=endorsements,
        values=result.values,
        ledger=_ledger(bundle, trust),
        profile=profile,
        payload_digest=bundle.attestation.payload_digest,
    )


def _hint(envelope: Envelope) -> str:
    return next((item.key_hint for item in envelope.signatures if item.key_hint), "")


def _raise_first(result: Verification) -> None:
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


def _unchecked_endorsements(bundle: OpenBundle) -> list[EndorsementFacts]:
    """Endorsements of this record, their signatures not judged."""
    found = []
    for envelope, statement in bundle.endorsements:
        problem = binding_problem(statement, bundle.attestation.digest, envelope.subject)
        if problem is not None:
            raise problem
        found.append(EndorsementFacts.of(endorsement_of(statement, envelope.subject), _hint(envelope), None))
    return found


def _ledger(bundle: OpenBundle, trust: Trust | None) -> LedgerFacts | None:
    data = bundle.ledger_proof
    if data is None:
        return None
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
    return LedgerFacts(checkpoint.origin, proof.index, checkpoint.size, checked=bool(known))
