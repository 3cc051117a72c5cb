"""What documents for other people's programs share: identifiers, figures, and one spelling of JSON."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from ucaudit.core.digest import sha256_hex
from ucaudit.core.errors import MalformedRecordError
from ucaudit.core.records import Attestation, Claim, Interval, parse_time
from ucaudit.evidence.examine import Examined

GOVERNS: Final = (
    "A rendering of a signed record, made by ucaudit. The record governs: it has the SHA-256 that is given here as "
    "fingerprint. Nothing here says that a model, a system or an organisation meets a standard, or that equal "
    "perplexity means equal quality in a task."
)
NOT_ASSESSED: Final = "not assessed"
ENVELOPE_MEDIA_TYPE: Final = "application/vnd.dsse+json"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure.

    Attributes:
        slug: its name for programs.
        name: its name for people.
        unit: of value and interval.
        interval: None for a figure that is described, not estimated.
        metric: what claims about it call it; None if no claim can be made of it.
    """

    slug: str
    name: str
    unit: str
    value: float
    interval: Interval | None
    metric: str | None


def measured_figures(record: Attestation) -> tuple[Figure, ...]:
    """The figures of a record that other formats have a place for."""
    results, bits = record.results, record.pack.bits_per_weight
    estimates = (
        ("perplexity-ratio", "Perplexity ratio, pack to reference", "1", results.ratio, "pplRatio"),
        ("mean-kl-divergence", "Mean KL divergence from the reference", "nats per token", results.kl, "meanKl"),
        ("top-1-agreement", "Top-1 agreement with the reference", "share of tokens", results.top1, "top1Agreement"),
    )
    described = (
        ("perplexity-pack", "Perplexity of the pack on this text and tokenizer", "1", results.ppl_pack, None),
        ("perplexity-reference", "Perplexity of the reference on these tokens", "1", results.ppl_reference, None),
        (
            "bits-per-weight-compressed", "Storage of the compressed tensors", "bits per weight",
            bits.compressed_on_disk, "bitsPerWeight",
        ),
        ("bits-per-weight-whole", "Storage of all tensors", "bits per weight", bits.whole_on_disk, None),
    )  # fmt: skip
    found = [
        Figure(slug, name, unit, interval.estimate, interval, metric)
        for slug, name, unit, interval, metric in estimates
    ]
    found += [
        Figure(slug, name, unit, value, None, metric)
        for slug, name, unit, value, metric in described
        if value is not None
    ]
    return tuple(found)


def observed_value(claim: Claim, record: Attestation) -> float | None:
    """What was observed of a claim; None if there was nothing to compare with, for which the record has a zero."""
    if claim.metric == "driftedTensors" and record.reconstruction.matches_published == "none-published":
        return None
    if claim.metric == "contradictedFiles" and record.pack.matches_manifest == "no-manifest":
        return None
    return claim.observed


def observed_words(claim: Claim, record: Attestation) -> str:
    """:func:`observed_value` with every digit that the record has."""
    value = observed_value(claim, record)
    return NOT_ASSESSED if value is None else number(value)


def require_distinct_claims(record: Attestation) -> None:
    """These formats refer to a claim by its id. Raises MalformedRecordError."""
    ids = [claim.id for claim in record.claims]
    for claim_id in ids:
        if ids.count(claim_id) > 1:
            raise MalformedRecordError(
                "two claims of the record have one id: a reference to it would be ambiguous",
                subject=f"claim {claim_id}",
                hint="the report as PDF or HTML can be made all the same",
            )


def determination_words(record: Attestation) -> str:
    """``PASS WITH EXCEPTIONS``."""
    return record.determination.replace("-", " ").upper()


def key_words(found: Examined) -> str:
    """What was checked of the signature."""
    if found.principal is None:
        return "signer's key not checked"
    return f"signer's key checked: {found.principal}"


def excused(record: Attestation) -> dict[str, str]:
    """The claims that an exception in force when the record was signed excuses, and until when at the latest."""
    at = parse_time(record.created)
    ordered = sorted(record.exceptions, key=lambda item: parse_time(item.expires))
    return {item.claim: item.expires for item in ordered if parse_time(item.expires) >= at}


def sample_words(record: Attestation) -> str:
    """The text and the part of it that was scored."""
    measured = record.measurement
    rows = f", rows {measured.corpus.rows}" if measured.corpus.rows is not None else ""
    return f"{measured.corpus.name}{rows}, {measured.n} windows of {measured.seq_len} tokens"


def one_line(text: str, otherwise: str = "not stated") -> str:
    """``text`` on one line without outer blanks; formats have fields that may not be empty."""
    return " ".join(text.split()) or otherwise


def number(value: float) -> str:
    """A number with every digit that the record has."""
    return repr(value)


def relative_reference(path: str) -> str:
    """A file's path as a relative URI reference."""
    return f"./{quote(path)}"


def identifier(fingerprint: str, *parts: str) -> str:
    """A UUID (version 5) for a thing that a record speaks of: the same for the same record and name.

    Args:
        fingerprint: SHA-256 of the record's envelope; the name space.
        parts: what the thing is.
    """
    space = uuid.uuid5(uuid.NAMESPACE_URL, f"urn:ucaudit:envelope:{fingerprint}")
    return str(uuid.uuid5(space, "/".join(parts)))


def document_identifier(fingerprint: str, kind: str, content: object) -> str:
    """A UUID for a document: another one as soon as anything in it differs."""
    return identifier(fingerprint, kind, sha256_hex(json_bytes(content)))


def json_bytes(document: object) -> bytes:
    """Indented UTF-8 JSON, the same for the same content."""
    return (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def without_empty(members: dict[str, Any]) -> dict[str, Any]:
    """Only members that hold something: most formats forbid empty lists and null."""
    return {name: value for name, value in members.items() if value is not None and value not in ([], {}, "")}
