"""Who made a signature, and whether that key counts: found first by trying every trusted key, then judged."""

from __future__ import annotations

from typing import Final

from ucaudit.core.errors import (
    MalformedRecordError,
    SignatureInvalidError,
    UntrustedKeyError,
    VerificationError,
)
from ucaudit.core.records import parse_time
from ucaudit.evidence.checks import Verification
from ucaudit.evidence.keys import PublicKey
from ucaudit.evidence.signing import Envelope
from ucaudit.evidence.times import CLOCK_SKEW
from ucaudit.evidence.trust import Trust, TrustedKey

_EDITED: Final = "the envelope was edited after it was signed, or it names a key that did not sign it"


def find_signers(envelope: Envelope, trust: Trust, result: Verification, kind: str) -> tuple[PublicKey, ...]:
    """The trusted keys that made the envelope's signatures, each once; empty if the check failed.

    A signature that names a trusted key and does not hold under it is a failure even beside a good one: whoever
    reads the names would count a second signer.
    """
    signers = envelope.signers(trust.public_keys)
    what = f"{kind} signature against the trust file"
    if not signers:
        result.add(f"{kind}-signature", what, _nobody(envelope, trust), "")
        return ()
    result.add(
        f"{kind}-signature", what, None, "signed by key " + " and ".join(f"{k.key_id[:16]}…" for k in signers)
    )
    wrong = envelope.wrong_hints(signers)
    if wrong:
        result.remark(f"{kind}-key-hint", "warn", "the envelope's key hint", f"names another key: {wrong[0][:80]}")
    known = {key.key_id for key in trust.public_keys}
    for hint in envelope.unmade_by(signers):
        if hint in known:
            problem = SignatureInvalidError(
                f"a further signature names trusted key {hint[:16]}… and is not its", subject=envelope.subject
            )
            result.add(f"{kind}-signature", f"further {kind} signature", problem, "")
        else:
            named = hint[:64] or "no key"
            detail = f"made by no trusted key (it names {named}); it counts for nothing"
            result.remark(f"{kind}-signature", "warn", f"further {kind} signature", detail)
    return signers


def _nobody(envelope: Envelope, trust: Trust) -> VerificationError:
    hinted = {item.key_hint for item in envelope.signatures} & {key.key_id for key in trust.public_keys}
    if hinted:
        return SignatureInvalidError(
            f"the signature does not fit the signed bytes under trusted key {min(hinted)[:16]}…",
            subject=envelope.subject,
            hint=_EDITED,
        )
    claimed = next((item.key_hint for item in envelope.signatures if item.key_hint), "no key")
    return UntrustedKeyError(
        f"no trusted key made this signature (it names {claimed[:64]})",
        subject=envelope.subject,
        hint="compare the key id with its owner, then ucaudit trust add",
    )


def judge_keys(
    signers: tuple[PublicKey, ...],
    envelope: Envelope,
    trust: Trust,
    kind: str,
    created: str,
    result: Verification,
    *,
    role: str | None = None,
    also: tuple[str, ...] = (),
) -> tuple[TrustedKey, ...]:
    """Judge the keys that made a record: type of record, role, validity, revocation.

    Args:
        signers: from :func:`find_signers`.
        envelope: what they signed; its trusted time is looked up in ``result.times``.
        trust: the verifier's trust file.
        kind: the short name of the predicate type.
        created: when the record says it was made.
        result: gets a check for every key, and one about the time.
        role: the role in which the record says it was signed, if it says so.
        also: further types, of which a key may be trusted for one instead of for ``kind``.

    Returns:
        The entries that count.

    Raises:
        MalformedRecordError: ``created`` is no date.
    """
    try:
        claimed = parse_time(created)
    except ValueError as error:
        raise MalformedRecordError(f"not a date: {created}", subject=envelope.subject) from error
    time = result.times.seen(envelope.digest)
    seen = time.moment if time else None
    good = []
    for key in signers:
        entry = trust.entry(key)
        counts_as = next((name for name in (kind, *also) if name in entry.predicate_types), kind)
        objection = entry.objection(counts_as, claimed, seen)
        if objection is None and role is not None and role not in entry.roles:
            objection = f"not trusted in the role {role} (the trust file says {roles_text(entry)})"
        problem = None
        if objection is not None:
            hint = "ask the signer for evidence under a key that counts; ucaudit trust list shows yours"
            reason = _reason(entry, counts_as, objection)
            problem = UntrustedKeyError(objection, subject=f"key {key.key_id[:16]}…", hint=hint, reason=reason)
        fine = f"{entry.principal} ({role or roles_text(entry)})"
        if result.add(f"{kind}-key", f"{kind} key's validity, type and role", problem, fine):
            good.append(entry)
    what = f"{kind} time of signing"
    if time is not None:
        contradiction = None
        if claimed - time.moment > CLOCK_SKEW:
            contradiction = VerificationError(f"claims {created}, and was {time}", subject=envelope.subject)
        result.add("claimed-time", what, contradiction, f"claimed {created}, {time}")
    elif any(entry.validity.valid_until or entry.validity.valid_from for entry in good):
        detail = f"{created} is the signer's own word: validity was judged at it, for want of a trusted time"
        result.remark("claimed-time", "warn", what, detail)
    return tuple(good)


def _reason(entry: TrustedKey, predicate: str, objection: str) -> str:
    """Why a key does not count, as a slug."""
    if predicate not in entry.predicate_types:
        return "key-type"
    if entry.validity.revocation and objection.startswith(entry.validity.revocation):
        return "key-revoked"
    if objection.startswith("expired at"):
        return "key-expired"
    return "key-role" if objection.startswith("not trusted in the role") else "key-not-yet-valid"


def roles_text(entry: TrustedKey) -> str:
    """A key's roles for people."""
    return ", ".join(entry.roles) or "no role"
