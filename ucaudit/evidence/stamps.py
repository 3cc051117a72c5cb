"""The time stamps of a bundle: which envelopes they are over, and what they show."""

from __future__ import annotations

from ucaudit.core.errors import DigestMismatchError, MissingExtraError, VerificationError
from ucaudit.evidence.bundle import CLOSING, CLOSING_STAMP, PLAN, OpenBundle
from ucaudit.evidence.checks import Verification
from ucaudit.evidence.times import TrustedTime
from ucaudit.evidence.trust import Trust, trusted_authorities


def stampable(bundle: OpenBundle) -> dict[str, str]:
    """What a time stamp of this bundle may be over: SHA-256 of the envelope → what it is.

    The closing statement is not among them: its stamp has a file of its own.
    """
    found = {envelope.digest: envelope.subject for envelope in bundle.chain()[1:]}
    if (plan := bundle.envelope(PLAN)) is not None:
        found[plan.digest] = PLAN
    return {**found, bundle.attestation.digest: bundle.attestation.subject}


def collect_times(bundle: OpenBundle, trust: Trust, result: Verification) -> None:
    """Check every time stamp in the bundle, and add what it shows to ``result.times``.

    A token that cannot be checked here (no extra, no authority in the trust file) is listed as not checked.

    Raises:
        MalformedRecordError: a file is not a time-stamp response.
        MalformedKeyError: a pinned certificate cannot be read.
    """
    stamps = [*bundle.stamps, *([CLOSING_STAMP] if bundle.has(CLOSING_STAMP) else [])]
    if not stamps:
        return
    from ucaudit.evidence.timestamp import MAX_TOKEN_BYTES, parse_token, require_available, verify_token

    authorities = trusted_authorities(trust)
    reason = None if authorities else "not checked: the trust file names no time-stamp authority"
    try:
        require_available()
    except MissingExtraError:
        reason = "not checked: install ucaudit[timestamp]"
    if reason is not None:
        for name in stamps:
            result.remark("timestamp", "not-checked", f"{name} against the time-stamp authority", reason)
        return
    over = stampable(bundle)
    closing = bundle.closing
    for name in stamps:
        what = f"{name} against the time-stamp authority"
        token = parse_token(bundle.read(name, MAX_TOKEN_BYTES), subject=name)
        about = over.get(token.digest)
        if name == CLOSING_STAMP:
            about = CLOSING if closing is not None and closing.digest == token.digest else None
        if about is None:
            problem: VerificationError = DigestMismatchError(
                f"is over sha-256 {token.digest[:16]}…, which is no envelope of this bundle", subject=name
            )
            result.add("timestamp", what, problem, "")
            continue
        try:
            authority = verify_token(token, authorities)
        except VerificationError as error:
            result.add("timestamp", what, error, "")
            continue
        time = TrustedTime(token.digest, token.moment, f"time-stamp authority {authority.name}")
        result.times.add(time)
        result.add("timestamp", what, None, f"{about} {time}")
