"""The stable name of every check, for scripts that read ``--json`` or JUnit: a released slug keeps its meaning.

``docs/gate.md`` prints this table; a test compares the two, and finds a check in the code that is not in it.
"""

from __future__ import annotations

from typing import Final

KINDS: Final = ("attestation", "plan", "seed", "endorsement", "bundle")
"""What is signed: slugs with ``KIND`` stand for one of each."""
CLAIM_SLUG: Final = "claim-ID"
"""One check a claim of the gate's policy, such as ``claim-ppl-ratio``."""

CHECKS: Final[dict[str, str]] = {
    # --- which evidence -----------------------------------------------------------------------------------------
    "evidence": "there is evidence for the pack at all; other bundles that were passed over are remarked",
    "pack-subject": "the evidence is about this pack and not about another (by digest, whatever the names)",
    # --- who signed ---------------------------------------------------------------------------------------------
    "KIND-signature": "a key of the trust file made the signature",
    "KIND-key": "that key counts: not revoked, not expired, trusted for this type of record and in this role",
    "KIND-key-hint": "the envelope names the key that signed it (a remark)",
    "claimed-time": "the signer's own word for the time, beside a trusted time where there is one",
    "timestamp": "an RFC 3161 time stamp is over the evidence and by a trusted authority",
    "endorsement": "an endorsement is about this record, in a role its key has, and counted once",
    "signers": "enough distinct trusted keys signed",
    "role": "every required role signed",
    "threshold": "enough keys of a role signed, with the meaning that is asked for",
    "distinct-signers": "nobody counts twice",
    "trusted-time": "a trusted time of signing, if the policy requires one",
    # --- when ---------------------------------------------------------------------------------------------------
    "age": "the evidence is no older than the policy allows",
    "future": "it was not signed in the future",
    # --- the bundle is whole ------------------------------------------------------------------------------------
    "same-record": "the other forms of the record hold the same bytes",
    "artefact": "each file that the record cites has the signed digest",
    "subjects": "the statement's subjects are the record's files",
    "closing": "every file is listed in the closing statement, and no other is there",
    # --- the pack -----------------------------------------------------------------------------------------------
    "excluded-files": "nothing that a loader reads is left out of the pack digest",
    "excludes": "the record leaves out no more than the policy allows",
    "pack-files": "every file of the pack has the attested digest: changed, missing and added files are named",
    "pack-format": "codec, arithmetic profile, size and bits a weight are what the record says",
    "format-checked": "the pack's format could be looked at here",
    "pack-manifest": "the pack's own manifest agrees with its files as the record says",
    "published-state": "the state that the pack publishes is the one that was attested",
    "pack-state": "with --full: every reconstructed tensor has the attested digest",
    "cache": "how many files were known from an earlier run and not read (a remark)",
    # --- the figures --------------------------------------------------------------------------------------------
    "figures": "the signed figures follow from the per-token files",
    "sample-size": "number and length of the windows fit the per-token files",
    "corpus-size": "the text's size fits the number of its windows",
    "documents": "the documents fit the text",
    "draw": "the windows are those that seed and text give",
    "bootstrap-seed": "the resampling used the fixed seed",
    "tolerance": "the verdicts allow for no less than the compute type's error",
    "claims": "the signed verdicts follow from the figures",
    "determination": "the determination follows from the verdicts",
    # --- the policy ---------------------------------------------------------------------------------------------
    "claims-by-policy": "the claims could be judged by the gate's own policy",
    CLAIM_SLUG: "the claim holds by the gate's own threshold and confidence, recomputed from the per-token files",
    "exception-used": "an exception of the policy excuses a claim (a remark)",
    "exception-expired": "an exception of the policy is over (a remark; the claim itself fails)",
    "exception-unused": "an exception of the policy excuses nothing (a remark)",
    "reference": "the reference is the pinned one",
    "corpus": "the text is the pinned one",
    "text-column": "the text's column is the pinned one",
    "rows": "the text's rows are the pinned ones",
    "codec": "the codec is allowed",
    "profile": "the arithmetic profile is allowed",
    "n": "at least the policy's number of windows",
    "seq-len": "windows of at least the policy's length",
    "seed": "the policy's seed or an outside party's, and the one that the plan gives",
    "dtype": "the policy's compute type",
    "confidence": "at least the policy's confidence",
    # --- the history --------------------------------------------------------------------------------------------
    "plan": "what was measured is what was planned, or a declared deviation",
    "plan-kept": "no deviation from the plan, if the policy requires one",
    "plan-required": "a plan proven in a trusted ledger, if the policy requires one",
    "plan-first": "the ledger shows the plan before the result, if the policy requires a plan",
    "ledger-required": "the record is proven in a trusted ledger, if the policy requires it",
    "ledger": "the record's ledger entry",
    "plan-ledger": "the plan's ledger entry",
    "seed-ledger": "the ledger entry of the outside party's seed",
    "ledger-witness": "the witnesses' cosignatures on the checkpoint that proves the record",
    "plan-ledger-witness": "those on the checkpoint that proves the plan",
    "seed-ledger-witness": "those on the checkpoint that proves the seed",
    "plan-order": "the plan was entered before the result",
    "plan-seed-order": "the plan was entered before the outside party's seed",
    "seed-order": "the seed was entered before the result",
    "seed-source": "the seed is an outside party's",
    "seed-reference": "the record cites the seed that the bundle holds",
}
"""Slug → what holds if the check passes."""

REASONS: Final[dict[str, str]] = {
    "unsigned": "no evidence",
    "untrusted-key": "signed, and by no key of the trust file",
    "signature-invalid": "the signed bytes were changed, or the signature is another key's",
    "key-revoked": "the key was revoked, and no trusted time puts the signature before that",
    "key-expired": "the key had expired",
    "key-not-yet-valid": "the key was not valid yet",
    "key-role": "the key is not trusted in this role",
    "key-type": "the key is not trusted for this type of record",
    "replayed-evidence": "evidence of another pack",
    "file-drift": "a file of the pack was changed, added or removed",
    "state-drift": "a reconstructed tensor is another",
    "digest-mismatch": "another file is not the signed one",
    "policy-violation": "authentic, and not what the policy demands",
    "inconclusive": "authentic, and too little data to decide",
    "ledger-inconsistent": "a ledger proof contradicts itself or the record",
    "verification-failed": "something signed does not follow from what is there",
}
"""The ``reason`` of a failed check, where its slug has several."""
