"""The small parts of an OSCAL document: identifiers, properties, components."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from ucaudit.core.records import Attestation, Claim
from ucaudit.evidence.examine import Examined
from ucaudit.interop.common import key_words, measured_figures, number, observed_words, one_line, without_empty
from ucaudit.interop.mapping import Control

NAMESPACE: Final = "urn:ucaudit:oscal"
"""Of our property names."""
Json = dict[str, Any]
_MARKUP: Final = re.compile(r"[\\*`~^<>&\[\]{}]")
_MARKUP_FIELDS: Final = frozenset({"title", "description", "statement", "prose", "remarks"})
_NOT_IN_TOKEN: Final = re.compile(r"[^A-Za-z0-9._-]+")


def escaped(value: Any) -> Any:  # noqa: ANN401 - any part of a JSON document
    """The same content with everything escaped that OSCAL's markup fields (CommonMark) would read as markup."""
    if isinstance(value, list):
        return [escaped(item) for item in value]
    if isinstance(value, dict):
        return {
            name: _MARKUP.sub(r"\\\g<0>", item)
            if name in _MARKUP_FIELDS and isinstance(item, str)
            else escaped(item)
            for name, item in value.items()
        }
    return value


def control_tokens(rows: Sequence[Control]) -> list[str]:
    """An OSCAL token for every row, from its identifiers: ``PI1.3``, ``V-benchmarking``; no two alike."""
    found: list[str] = []
    for row in rows:
        plain = _NOT_IN_TOKEN.sub("-", row.ids[0]).strip("-.") or "control"
        token = base = plain if plain[0].isalpha() else f"_{plain}"
        count = 1
        while token in found:
            count += 1
            token = f"{base}-{count}"
        found.append(token)
    return found


def claim_props(claim: Claim, record: Attestation) -> Iterable[Json]:
    """Verdict, limit, value and interval."""
    yield from properties(
        ("verdict", claim.verdict),
        ("level", claim.level),
        ("metric", claim.metric),
        ("comparator", claim.comparator),
        ("threshold", number(claim.threshold)),
        ("observed", observed_words(claim, record)),
        ("sample-size", str(claim.sample_size)),
    )
    if claim.interval is not None:
        yield from properties(
            ("interval-lower", number(claim.interval.lower)),
            ("interval-upper", number(claim.interval.upper)),
            ("interval-confidence", number(claim.interval.confidence)),
            ("interval-method", claim.interval.method),
        )
    if claim.deciding_n is not None:
        yield property_("deciding-windows", str(claim.deciding_n))


def figure_props(record: Attestation) -> Iterable[Json]:
    """Every figure with its interval."""
    for figure in measured_figures(record):
        yield property_(figure.slug, number(figure.value), remarks=f"{figure.name}; unit: {figure.unit}")
        if figure.interval is not None:
            yield property_(f"{figure.slug}-lower", number(figure.interval.lower))
            yield property_(f"{figure.slug}-upper", number(figure.interval.upper))
            confidence, method = figure.interval.confidence, figure.interval.method
            yield property_(f"{figure.slug}-confidence", number(confidence), remarks=one_line(method))


def identity_props(record: Attestation) -> list[Json]:
    """The digests that identify pack, state, reference and text."""
    return properties(
        ("pack-digest-sha256", record.pack.pack_digest),
        ("state-digest-sha256", record.reconstruction.state_digest),
        ("state-matches-published", record.reconstruction.matches_published),
        ("reference-files-digest-sha256", record.reference.files_digest),
        ("reference-state-digest-sha256", record.reference.state_digest),
        ("text-digest-sha256", record.measurement.corpus.sha256),
        ("tokenizer-digest-sha256", record.measurement.tokenizer_digest),
        ("scored-tokens-digest-sha256", record.measurement.tokens_digest),
    )


def signature_words(found: Examined) -> str:
    """Who stands behind the record, in words."""
    ledger = found.ledger
    if ledger is None:
        place = "no ledger proof was given"
    else:
        checked = "holds under a trusted ledger key" if ledger.checked else "was not checked against a trust file"
        place = f"entry {ledger.index} (counted from 0) of {ledger.origin}, whose proof {checked}"
    return f"{sentence(key_words(found))} Endorsements: {len(found.endorsements)}. Ledger: {place}."


def signature_props(found: Examined) -> Iterable[Json]:
    """Who stands behind the record."""
    yield from properties(
        ("signer-key-id", found.key_id or "not named"),
        ("signer", found.principal or "not checked"),
        ("trusted-time", found.seen or "none"),
    )
    for item in found.endorsements:
        who = item.principal or "key not checked"
        yield property_(
            "endorsement", item.printed_name,
            remarks=f"role {item.role}; meaning: {item.meaning}; {item.created}; {who}",
        )  # fmt: skip


def component(uuid: str, kind: str, title: str, description: str, props: Sequence[tuple[str, str]]) -> Json:
    """A component of local-definitions."""
    return without_empty(
        {
            "uuid": uuid,
            "type": kind,
            "title": one_line(title),
            "description": description,
            "props": properties(*props),
            "status": {"state": "other", "remarks": "The record is about files, not about a system in operation."},
        }
    )


def properties(*items: tuple[str, str]) -> list[Json]:
    """Properties of our name space."""
    return [property_(name, value) for name, value in items]


def property_(name: str, value: str, *, remarks: str | None = None) -> Json:
    """One property of our name space; its value is one line and never empty."""
    prop = {"name": name, "ns": NAMESPACE, "value": one_line(value)}
    return prop if remarks is None else prop | {"remarks": remarks}


def sentence(text: str) -> str:
    """A reason of the record, which has no capital letter and no full stop, as a sentence."""
    return f"{text[:1].upper()}{text[1:]}."
