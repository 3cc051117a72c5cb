"""What changed since an earlier attestation: identity, conditions, claims, and the two packs on the same tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ucaudit.core.errors import InputError
from ucaudit.core.records import Attestation, Interval, parse_time
from ucaudit.core.stats import Sample, t_interval
from ucaudit.core.tokenvalues import TokenValues
from ucaudit.report.formatting import (
    NOT_ASSESSED,
    confidence_text,
    determination_words,
    estimate_text,
    grouped,
    interval_text,
)
from ucaudit.report.results import claim_row

ABSENT: Final = "not in that record"


@dataclass(frozen=True, slots=True)
class Previous:
    """An earlier attestation whose bundle was checked like the one that is rendered.

    Attributes:
        record: what it says.
        envelope_digest: its fingerprint.
        values: its per-token values, for the paired comparison; None if they are not at hand.
        principal: the trust file's name for its signer, None if the key was not checked.
    """

    record: Attestation
    envelope_digest: str
    values: TokenValues | None
    principal: str | None = None


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """One property then and now."""

    name: str
    before: str
    now: str
    changed: bool
    code: bool = False


@dataclass(frozen=True, slots=True)
class ClaimChange:
    """One claim then and now."""

    id: str
    limit_before: str
    observed_before: str
    verdict_before: str
    limit: str
    observed: str
    verdict: str


@dataclass(frozen=True, slots=True)
class ChangeView:
    """Section 7."""

    summary: str
    rows: tuple[ChangeRow, ...]
    claims: tuple[ClaimChange, ...]
    paired: str


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One attestation of a version history."""

    created: str
    pack: str
    pack_digest: str
    determination: str
    fingerprint: str
    signer: str


def in_order(now: Attestation, envelope_digest: str, previous: Sequence[Previous]) -> tuple[Previous, ...]:
    """The earlier attestations, the latest first.

    Raises:
        InputError: one of them is this record, was made after it, or is given twice.
    """
    seen = {envelope_digest}
    for item in previous:
        if item.envelope_digest in seen:
            what = "this record itself" if item.envelope_digest == envelope_digest else "given twice"
            raise InputError(f"a previous attestation is {what}", subject=item.envelope_digest)
        seen.add(item.envelope_digest)
        if parse_time(item.record.created) > parse_time(now.created):
            raise InputError(
                f"a previous attestation was made later, at {item.record.created}; this one at {now.created}",
                subject=item.envelope_digest,
            )
    return tuple(sorted(previous, key=lambda item: parse_time(item.record.created), reverse=True))


def compare(now: Attestation, values: TokenValues | None, previous: Previous) -> ChangeView:
    """This record against the one before it."""
    before = previous.record
    rows = _rows(before, now, previous)
    claims = _claims(before, now)
    changed = [row.name.lower() for row in rows if row.changed]
    verdicts = [row.id for row in claims if row.verdict != row.verdict_before]
    parts = [
        f"The determination was {determination_words(before.determination)} on {before.created} "
        f"and is {determination_words(now.determination)}.",
        f"Changed: {', '.join(changed)}."
        if changed
        else "Pack, reference, text, sample, policy and tool are the same.",
        f"Claims with another verdict: {', '.join(verdicts)}." if verdicts else "No claim has another verdict.",
    ]
    return ChangeView(" ".join(parts), rows, claims, _paired(now, values, previous))


def version_rows(
    now: Attestation, envelope_digest: str, signer: str | None, previous: Sequence[Previous]
) -> tuple[VersionRow, ...]:
    """This record and the earlier ones, the latest first."""
    every = [(now, envelope_digest, signer)]
    every += [(item.record, item.envelope_digest, item.principal) for item in previous]
    return tuple(
        VersionRow(
            record.created,
            record.pack.name,
            grouped(record.pack.pack_digest),
            determination_words(record.determination),
            grouped(digest),
            name or "key not checked",
        )
        for record, digest, name in every
    )


def _rows(before: Attestation, now: Attestation, previous: Previous) -> tuple[ChangeRow, ...]:
    def row(name: str, then: object, since: object, *, code: bool = False) -> ChangeRow:
        texts = ["none" if value is None else str(value) for value in (then, since)]
        return ChangeRow(name, texts[0], texts[1], changed=texts[0] != texts[1], code=code)

    def digest(name: str, then: str, since: str) -> ChangeRow:
        return row(name, grouped(then), grouped(since), code=True)

    def sample(record: Attestation) -> str:
        measured = record.measurement
        return f"{measured.n:,} windows of {measured.seq_len:,} tokens, seed {measured.seed}"

    def codec(record: Attestation) -> str:
        return f"{record.pack.codec} {record.pack.codec_version}, {record.pack.arithmetic_profile}"

    def tool(record: Attestation) -> str:
        libraries = record.environment.libraries or record.measurement.libraries
        names = ", ".join(f"{name} {version}" for name, version in sorted(libraries.items()))
        return f"{record.tool.name} {record.tool.version}; {names}"

    def excused(record: Attestation) -> str:
        return ", ".join(sorted(f"{item.claim} until {item.expires[:10]}" for item in record.exceptions)) or "none"

    return (
        row("Pack", before.pack.name, now.pack.name),
        digest("Pack digest", before.pack.pack_digest, now.pack.pack_digest),
        digest("State digest", before.reconstruction.state_digest, now.reconstruction.state_digest),
        row("Codec", codec(before), codec(now)),
        row("Reference", before.reference.name, now.reference.name),
        digest("Reference state", before.reference.state_digest, now.reference.state_digest),
        row("Evaluation text", before.measurement.corpus.name, now.measurement.corpus.name),
        digest("Text digest", before.measurement.corpus.sha256, now.measurement.corpus.sha256),
        row("Sample", sample(before), sample(now)),
        digest("Scored tokens", before.measurement.tokens_digest, now.measurement.tokens_digest),
        digest("Policy digest", before.policy.sha256, now.policy.sha256),
        row("Exceptions", excused(before), excused(now)),
        row("Tool and libraries", tool(before), tool(now)),
    )


def _claims(before: Attestation, now: Attestation) -> tuple[ClaimChange, ...]:
    olds = {claim.id: claim for claim in before.claims}
    news = {claim.id: claim for claim in now.claims}
    result = []
    for slug in [*news, *(slug for slug in olds if slug not in news)]:
        cells: list[str] = []
        for record, claims in ((before, olds), (now, news)):
            if slug not in claims:
                cells += [ABSENT, "–", "–"]
                continue
            published = record.reconstruction.matches_published != "none-published"
            row = claim_row(claims[slug], published=published)
            interval = f" ({row.interval})" if claims[slug].interval else ""
            cells += [row.limit, f"{row.observed}{interval}", row.verdict]
        result.append(ClaimChange(slug, *cells))
    return tuple(result)


def _paired(now: Attestation, values: TokenValues | None, previous: Previous) -> str:
    """The two packs on the same tokens, as a sentence; the reason, where they cannot be compared."""
    before, others = previous.record, previous.values
    if before.measurement.tokens_digest != now.measurement.tokens_digest:
        return (
            f"{NOT_ASSESSED} side by side: the two records scored different tokens, so their ratios are not paired."
        )
    if values is None or others is None or values.windows != others.windows or values.n < 2:
        return f"{NOT_ASSESSED} side by side: the per-token files of both records were not given."
    rows = zip(others.rows(others.pack), values.rows(values.pack), strict=True)
    differences = [(math.fsum(then) - math.fsum(since)) / values.tokens for then, since in rows]
    level = now.results.ratio.confidence
    found = t_interval(Sample.of(differences, values.documents), level)
    ratio = Interval(
        estimate=math.exp(found.estimate),
        lower=math.exp(found.lower),
        upper=math.exp(found.upper),
        confidence=level,
        method="t",
    )
    if found.lower > 0:
        reading = "this pack predicts worse than the previous one"
    elif found.upper < 0:
        reading = "this pack predicts better than the previous one"
    elif not any(differences):
        return "Both packs gave every token the same probability."
    else:
        reading = "no difference is shown"
    return (
        f"On the same {values.n:,} windows the perplexity of this pack is {estimate_text(ratio, limit=1.0)} times "
        f"that of the previous one ({confidence_text(level)} interval {interval_text(ratio, limit=1.0)}): "
        f"{reading}. "
        "Derived by this rendering from the per-token files of both bundles; neither record holds this figure."
    )
