"""A gate's verdict as an in-toto Simple Verification Result v0.2, signed with a key of the gate's own.

Source: https://github.com/in-toto/attestation, spec/predicates/svr.md (version 0.2): ``verifier.id``,
``verifier.policies`` as resource descriptors, ``timeCreated``, and the names of the properties that were found to
hold. What does not hold is not among them: there is no property for a refusal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from ucaudit.core import strictjson
from ucaudit.core.digest import PACK_MANIFEST_NAME, FileManifest
from ucaudit.core.errors import RefusedError
from ucaudit.core.records.statement import MAX_SUBJECTS, STATEMENT_TYPE
from ucaudit.evidence.checks import Verification
from ucaudit.evidence.keys import PublicKey, Signer
from ucaudit.evidence.signing import Envelope, sign
from ucaudit.evidence.trust import Trust

PREDICATE_TYPE: Final = "https://in-toto.io/attestation/svr/v0.2"
VERIFIER: Final = "urn:ucaudit:gate:v1"
"""The verifier's identity where none is given; the version grows when a property comes to mean something else."""
ADMITTED: Final = "UCAUDIT_GATE_ADMITTED"
PROPERTIES: Final[dict[str, tuple[str, ...]]] = {
    "UCAUDIT_FILES_MATCH": ("pack-files",),
    "UCAUDIT_STATE_RECONSTRUCTED": ("pack-state",),
    "UCAUDIT_LEDGER_PROVEN": ("ledger",),
    "UCAUDIT_PLAN_PRE_REGISTERED": ("plan", "plan-ledger", "plan-order"),
    "UCAUDIT_REFERENCE_PINNED": ("reference",),
    "UCAUDIT_CORPUS_PINNED": ("corpus",),
}
"""Property → the checks that must all be there and have passed. Besides these: :data:`ADMITTED`;
``UCAUDIT_EVIDENCE_AUTHENTIC``; and ``UCAUDIT_CLAIM_…`` for each claim that holds by the gate's policy."""


def properties(result: Verification) -> list[str]:
    """What was found to hold, sorted; :data:`ADMITTED` is among it only if nothing failed."""
    status: dict[str, set[str]] = {}
    for check in result.checks:
        status.setdefault(check.slug, set()).add(check.status)
    found = {
        name
        for name, slugs in PROPERTIES.items()
        if result.authentic and all(status.get(slug) == {"pass"} for slug in slugs)
    }
    if result.record is not None and result.authentic:
        found.add("UCAUDIT_EVIDENCE_AUTHENTIC")
        found |= {
            f"UCAUDIT_{slug.upper().replace('-', '_')}"
            for slug, seen in status.items()
            if slug.startswith("claim-") and seen == {"pass"}
        }
        if result.admitted:
            found.add(ADMITTED)
    return sorted(found)


def signed_verdict(
    result: Verification,
    files: FileManifest,
    policies: Sequence[tuple[str, str]],
    signer: Signer,
    *,
    verifier: str = VERIFIER,
    at: datetime | None = None,
) -> Envelope:
    """Sign what a gate found out about one pack.

    Args:
        result: every check.
        files: the pack's files as the gate hashed them; the subjects are their list and each of them, under
            ``pack/``, as in an attestation.
        policies: name and SHA-256 of the files that the gate judged by.
        signer: the gate's key.
        verifier: URI of the gate.
        at: when it was judged; now by default.

    Returns:
        A DSSE envelope with one signature.
    """
    moment = (at or datetime.now(UTC)).astimezone(UTC)
    subjects = list(_subjects(files))
    document = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "verifier": {
                "id": verifier,
                "policies": [{"name": name, "digest": {"sha256": digest}} for name, digest in policies],
            },
            "timeCreated": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "properties": properties(result),
        },
    }
    return sign(strictjson.dumps(document), signer, subject="verdict")


def _subjects(files: FileManifest) -> Iterator[tuple[str, str]]:
    """The list of files stands for all of them; each file is named too as long as that is no burden."""
    yield PACK_MANIFEST_NAME, files.digest
    if len(files.entries) < MAX_SUBJECTS:
        yield from ((f"pack/{entry.path}", entry.digest) for entry in files.entries)


def require_own_key(key: PublicKey, trust: Trust, *, subject: str) -> None:
    """Refuse a key that makes evidence: who signs the evidence must not also sign that it was checked.

    Raises:
        RefusedError: the trust file lists the key.
    """
    for entry in trust.keys:
        if entry.key.key_id == key.key_id:
            raise RefusedError(
                f"this is the key of {entry.principal}, whose evidence the gate judges",
                subject=subject,
                hint="a gate needs a key of its own: ucaudit keygen",
            )
