"""Which bundle of an evidence directory a pack is judged by.

Whoever can write to such a directory must not decide by it: signatures are checked before anything is ranked, and
no bundle is left out without a word. (That a whole bundle was taken away shows in the ledger, not in a directory.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ucaudit.core.errors import (
    DigestMismatchError,
    InputError,
    UcauditError,
    UnsignedError,
    UntrustedKeyError,
    VerificationError,
)
from ucaudit.core.files import read_limited
from ucaudit.core.records import Attestation, BundleClosing, Floor
from ucaudit.evidence.authentic import find_signers, judge_keys
from ucaudit.evidence.bundle import (
    ATTESTATION,
    CHAIN,
    CLOSING,
    RECORD_FORMS,
    SIGSTORE,
    OpenBundle,
    holds_bundle,
    open_bundle,
)
from ucaudit.evidence.checks import Verification
from ucaudit.evidence.signing import MAX_ENVELOPE_BYTES, Envelope, read_statement
from ucaudit.evidence.stamps import collect_times
from ucaudit.evidence.trust import Trust
from ucaudit.packs.reading import PackReading


@dataclass(frozen=True, slots=True)
class Selection:
    """The bundle to judge by, and what was passed over: (directory, why)."""

    bundle: OpenBundle
    passed_over: tuple[tuple[str, str], ...] = ()


def select_bundle(
    evidence: Path, pack: Path | PackReading, trust: Trust, *, excludes: Sequence[str] = ()
) -> Selection:
    """The bundle to judge a pack by.

    Args:
        evidence: a bundle, or a directory that holds bundles (not deeper, and none with a hidden name).
        pack: the pack, or one whose hashing has begun. Of several bundles the newest counts that attests exactly
            its files under a key that counts; if none does, the newest under a key that counts, so that the drift
            is named.
        trust: the gate's trust file.
        excludes: patterns that the policy leaves out of the pack digest.

    Raises:
        UnsignedError: a directory without any bundle.
        NotFoundError: no such directory.
        InputError, VerificationError: one of several bundles cannot be read or was edited, and it is about this
            pack, or cannot say which pack it is about: it may be the one that counts.
    """
    if not evidence.is_dir() or holds_bundle(evidence):
        return Selection(open_bundle(evidence))
    places = [path for path in sorted(evidence.iterdir()) if path.name[:1] != "." and holds_bundle(path)]
    if not places:
        raise UnsignedError("no evidence bundle in it", subject=str(evidence))
    if len(places) == 1:
        return Selection(open_bundle(places[0]))
    this = _Pack(pack, excludes)
    ranked: list[tuple[tuple[bool, str, bool], OpenBundle]] = []
    aside: list[tuple[Path, UcauditError]] = []
    for place in places:
        try:
            bundle = open_bundle(place)
            record = _counting(bundle, trust)
        except (InputError, VerificationError) as error:
            if _may_count(place, trust, this, error):
                raise _named(error, place) from error
            aside.append((place, error))
        else:
            ranked.append(((this.is_in(record), record.created, record.determination != "pass"), bundle))
    if not ranked:
        return Selection(open_bundle(aside[0][0]))  # whatever is wrong with it is then found and said
    best = max(ranked, key=lambda item: item[0])[1]
    return Selection(best, tuple((place.name, f"passed over: {error}") for place, error in aside))


class _Pack:
    """The pack's digest; a record may leave out other files than the policy, so there may be several."""

    def __init__(self, pack: Path | PackReading, excludes: Sequence[str]) -> None:
        self._reading = pack if isinstance(pack, PackReading) else PackReading(pack)
        self._digests = {tuple(excludes): self._digest(excludes)}

    def _digest(self, excludes: Sequence[str]) -> str:
        return self._reading.manifest(excludes).digest

    def is_in(self, record: Attestation) -> bool:
        """Whether a record attests exactly these files."""
        excludes = record.pack.excluded
        if excludes not in self._digests:
            self._digests[excludes] = ""
            with suppress(InputError):  # its excludes are no paths, or leave out everything
                self._digests[excludes] = self._digest(excludes)
        return self._digests[excludes] == record.pack.pack_digest


def _counting(bundle: OpenBundle, trust: Trust) -> Attestation:
    """The record, if a trusted key that counts signed it. Raises the finding otherwise, or an InputError."""
    result = Verification(envelope_digest=bundle.attestation.digest)
    signers = find_signers(bundle.attestation, trust, result, "attestation")
    if signers:
        record = bundle.record
        other = [item for item in _forms(bundle.path) if item.payload != bundle.attestation.payload]
        if any(item.subject != CLOSING for item in other):  # a record of elsewhere, put in the place of this one
            raise DigestMismatchError(f"{SIGSTORE} or {CHAIN} holds another record", subject=ATTESTATION)
        collect_times(bundle, trust, result)
        if judge_keys(signers, bundle.attestation, trust, "attestation", record.created, result):
            return record
    for check in result.failures:
        if check.error is not None:
            raise check.error
    raise AssertionError("no key counts, and no check says why")


def _may_count(place: Path, trust: Trust, this: _Pack, error: UcauditError) -> bool:
    """Whether a bundle that is out of order could be the one to judge by, for all that can be said."""
    forms = {envelope.subject: envelope for envelope in _forms(place)}
    attestation, closing = forms.get(ATTESTATION), forms.pop(CLOSING, None)
    made = {name: envelope for name, envelope in forms.items() if envelope.signers(trust.public_keys)}
    records = []
    for envelope in made.values():
        with suppress(InputError):
            records.append(read_statement(envelope).predicate)
    attested = [item for item in records if isinstance(item, Attestation)]
    if attested:
        rejected_key = isinstance(error, UntrustedKeyError) and ATTESTATION in made
        return not rejected_key and any(map(this.is_in, attested))
    if records and len(records) == len(forms) and all(isinstance(item, Floor) for item in records):
        return not _closes(closing, attestation, trust)  # signed about an encoder, and about no pack
    if attestation is None or made or _names_trusted(forms.values(), trust):
        return True
    # A stranger's, unless a trusted key closed the bundle over another record than lies there now.
    return not _closes(closing, attestation, trust)


def _closes(closing: Envelope | None, attestation: Envelope | None, trust: Trust) -> bool:
    """Whether no trusted key closed the bundle over another record than lies there now."""
    if closing is not None and attestation is not None and closing.signers(trust.public_keys):
        with suppress(InputError):
            predicate = read_statement(closing).predicate
            return not isinstance(predicate, BundleClosing) or predicate.attestation_digest == attestation.digest
    return True


def _names_trusted(envelopes: Iterable[Envelope], trust: Trust) -> bool:
    """Whether one of them says that a trusted key signed it. (None did, so it was edited.)"""
    known = {key.key_id for key in trust.public_keys}
    return any(item.key_hint in known for envelope in envelopes for item in envelope.signatures)


def _forms(place: Path) -> Iterator[Envelope]:
    """Every envelope in a directory that could hold or name its record, as far as they can be read."""
    for name in RECORD_FORMS:
        with suppress(InputError):
            data = read_limited(place / name, 4 * MAX_ENVELOPE_BYTES)
            if name.endswith(".jsonl"):
                data = data.split(b"\n", 1)[0]
            yield Envelope.parse(data, subject=name)


def _named(error: UcauditError, place: Path) -> UcauditError:
    """The same error, saying which bundle it is about."""
    subject = error.subject or ""
    if place.name not in Path(subject).parts:
        subject = f"{place.name}/{subject}" if subject else place.name
    hint = "one of several bundles, and it may be the one that counts: repair it, or take it out of the directory"
    return type(error)(error.message, subject=subject, hint=hint)
