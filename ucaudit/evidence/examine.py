"""From an evidence bundle to facts that may be written down again, in a report or in somebody else's format.

Nothing is written from a bundle whose files are not the signed ones, or whose figures and verdicts do not follow
from them: a document says PASS in large letters.
"""

from __future__ import annotations

from dataclasses import dataclass

from ucaudit.core.digest import FileManifest
from ucaudit.core.errors import DigestMismatchError, LedgerInconsistentError
from ucaudit.core.records import Attestation, Endorsement, Statement
from ucaudit.core.tokenvalues import TokenValues
from ucaudit.evidence.bundle import LEDGER_ENTRY, LEDGER_PROOF, PACK_MANIFEST, STATE, OpenBundle, cited
from ucaudit.evidence.checks import Endorsed, Verification
from ucaudit.evidence.contents import check_contents
from ucaudit.evidence.endorsements import binding_problem, endorsement_of
from ucaudit.evidence.ledger import Checkpoint, LedgerEntry, LedgerProof, verify_proof
from ucaudit.evidence.ledger.note import SignedNote
from ucaudit.evidence.signing import Envelope
from ucaudit.evidence.trust import Trust, TrustedKey, trusted_ledgers
from ucaudit.evidence.verify import verify_bundle


@dataclass(frozen=True, slots=True)
class LedgerFacts:
    """Where the record is in a ledger; ``checked`` if the proof held under a ledger key of the trust file."""

    origin: str
    index: int
    size: int
    checked: bool = False


@dataclass(frozen=True, slots=True)
class EndorsementFacts:
    """A countersignature: who, as what, when, meaning what, under which key.

    ``principal`` is the trust file's name for the key, None if the key was not checked.
    """

    printed_name: str
    role: str
    meaning: str
    created: str
    key_id: str
    principal: str | None = None
    seen: str | None = None
    """A trusted time of the endorsement, as a clause; None if there is none."""

    @classmethod
    def checked(cls, item: Endorsed) -> EndorsementFacts:
        """From an endorsement whose signature, key, role and binding held."""
        return cls(
            item.printed_name,
            item.role,
            item.meaning,
            item.created,
            item.entry.key.key_id,
            item.entry.principal,
            str(item.seen) if item.seen else None,
        )

    @classmethod
    def of(cls, predicate: Endorsement, key_id: str, principal: str | None) -> EndorsementFacts:
        """From a signed endorsement."""
        return cls(predicate.printed_name, predicate.role, predicate.meaning, predicate.created, key_id, principal)


@dataclass(frozen=True, slots=True)
class Examined:
    """A bundle of which nothing was found wrong.

    Attributes:
        statement: the attestation's, and ``record`` its predicate.
        envelope_digest: SHA-256 of the envelope file: the fingerprint.
        payload_digest: SHA-256 of the signed payload.
        manifest: the pack's files.
        key_id: of the signer; without ``signer``, the one that the envelope names.
        signer: the trust file's entry, None if no key was checked.
        seen: a trusted time of the record, as a clause; None if there is none, or it was not checked.
        endorsements: countersignatures, their keys checked if the signer's was.
        values: per-token values, None if the record binds none.
        ledger: where the record is in a ledger, None without a proof.
        checkpoint: the proof's.
    """

    statement: Statement
    record: Attestation
    envelope_digest: str
    payload_digest: str
    manifest: FileManifest
    key_id: str
    signer: TrustedKey | None
    seen: str | None
    endorsements: tuple[EndorsementFacts, ...]
    values: TokenValues | None
    ledger: LedgerFacts | None
    checkpoint: Checkpoint | None

    @property
    def principal(self) -> str | None:
        """The trust file's name for the signer, None if no key was checked."""
        return self.signer.principal if self.signer is not None else None


def examine_bundle(bundle: OpenBundle, trust: Trust | None = None) -> Examined:
    """Verify a bundle under a trust file; without one, that it follows from its files.

    Args:
        bundle: opened. Its files are compared with the record's digests here, and figures, verdicts and
            determination derived again. It need not be closed yet, unless there is a trust file.
        trust: whatever :func:`verify_bundle` finds under it is refused; without it no key is checked.

    Raises:
        NotFoundError: a cited file is missing.
        DigestMismatchError: a cited file is not the one that was recorded, or a subject contradicts it.
        VerificationError: a record does not follow from its files; or ``trust`` is given, and the evidence does
            not hold under it.
        LedgerInconsistentError: the ledger proof is about another record, or does not hold.
        InputError: something in the bundle is malformed.
    """
    envelope, statement, record = bundle.attestation, bundle.statement, bundle.record
    if trust is None:
        bundle.check_artefacts()
        result = Verification(envelope_digest=envelope.digest)
        check_contents(bundle, statement, record, result)
        raise_first(result)
        key_id, signer, seen = signature_hint(envelope), None, None
        endorsements = unchecked_endorsements(bundle)
    else:
        result = verify_bundle(bundle, trust)
        raise_first(result)
        signer = result.signers[0]
        key_id = signer.key.key_id
        time = result.times.seen(envelope.digest)
        seen = str(time) if time else None
        endorsements = tuple(EndorsementFacts.checked(item) for item in result.endorsements)
    manifest = bundle.pack_manifest()
    _check_subjects(statement, record, manifest)
    ledger, checkpoint = ledger_place(bundle, trust)
    return Examined(
        statement=statement,
        record=record,
        envelope_digest=envelope.digest,
        payload_digest=envelope.payload_digest,
        manifest=manifest,
        key_id=key_id,
        signer=signer,
        seen=seen,
        endorsements=endorsements,
        values=result.values,
        ledger=ledger,
        checkpoint=checkpoint,
    )


def signature_hint(envelope: Envelope) -> str:
    """The key that the envelope names as its signer's; nothing is checked."""
    return next((item.key_hint for item in envelope.signatures if item.key_hint), "")


def raise_first(result: Verification) -> None:
    """Any finding: nothing is written."""
    for check in result.failures:
        if check.error is not None:
            raise check.error


def _check_subjects(statement: Statement, record: Attestation, manifest: FileManifest) -> None:
    """The statement's subjects are printed as digests of files: they must be those of the manifests."""
    expected = {PACK_MANIFEST: cited(record)[PACK_MANIFEST], STATE: cited(record)[STATE]}
    expected |= {f"pack/{path}": digest for path, digest in manifest.by_path().items()}
    for item in statement.subjects:
        if expected.get(item.name) != item.sha256:
            raise DigestMismatchError(f"subject {item.name!r} is not what the record cites", subject=PACK_MANIFEST)


def unchecked_endorsements(bundle: OpenBundle) -> tuple[EndorsementFacts, ...]:
    """Endorsements of this record, their signatures not judged."""
    found = []
    for envelope, statement in bundle.endorsements:
        problem = binding_problem(statement, bundle.attestation.digest, envelope.subject)
        if problem is not None:
            raise problem
        found.append(
            EndorsementFacts.of(endorsement_of(statement, envelope.subject), signature_hint(envelope), None)
        )
    return tuple(found)


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
