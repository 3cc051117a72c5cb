"""A record as a CycloneDX 1.7 bill of materials of one machine-learning model.

The pack is the component; its files are parts of it, each with its SHA-256. Figures and their intervals are in the
model card, the uncompressed reference is an ancestor, and the policy's claims are declarations: one that held has
evidence, one that failed is a counter-claim, one that could not be decided is neither. No conformance is scored.
Schema: https://cyclonedx.org/docs/1.7/json/.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from ucaudit import __version__
from ucaudit.core.records import Attestation, Claim
from ucaudit.evidence.bundle import ATTESTATION, PACK_MANIFEST, STATE, cited
from ucaudit.evidence.examine import Examined
from ucaudit.interop.common import (
    GOVERNS,
    determination_words,
    document_identifier,
    excused,
    json_bytes,
    key_words,
    measured_figures,
    number,
    observed_words,
    one_line,
    relative_reference,
    require_distinct_claims,
    sample_words,
    without_empty,
)

SPEC_VERSION: Final = "1.7"
_SCHEMA: Final = f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json"
_SPDX: Final = {
    name.lower(): name
    for name in (
        "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0",
        "CC-BY-SA-4.0", "CC0-1.0", "ISC", "MIT", "MPL-2.0", "Unlicense",
    )
}  # fmt: skip
"""Identifiers of SPDX that models carry; any other licence is written as a name."""
_VERDICTS: Final = {"pass": "", "fail": "Does not hold: ", "inconclusive": "Not decided: "}

_Json = dict[str, Any]


def cyclonedx_json(found: Examined) -> bytes:
    """The bill of materials of a pack, with what was measured of it.

    Args:
        found: a bundle that was examined.

    Returns:
        UTF-8 JSON, the same bytes for the same argument. The only time in it is the record's; serial number is a
        UUID (version 5) of fingerprint and content.

    Raises:
        MalformedRecordError: two claims of the record have one id.
    """
    require_distinct_claims(found.record)
    record = found.record
    content: _Json = {
        "version": 1,
        "metadata": {
            "timestamp": record.created,
            "tools": {"components": [*_tools(record)]},
            "component": _pack(found),
        },
        "declarations": _declarations(found),
        "definitions": {"standards": [_policy(record)]},
        "properties": _properties(
            ("fingerprint", found.envelope_digest),
            ("determination", record.determination),
            ("signer", found.principal or "not checked"),
            ("signerKeyId", found.key_id or "not named"),
            ("note", GOVERNS),
        ),
    }
    serial = document_identifier(found.envelope_digest, "cyclonedx", content)
    head = {"$schema": _SCHEMA, "bomFormat": "CycloneDX", "specVersion": SPEC_VERSION}
    return json_bytes({**head, "serialNumber": f"urn:uuid:{serial}", **content})


def _tools(record: Attestation) -> Iterable[_Json]:
    measured = {"type": "application", "name": record.tool.name, "version": record.tool.version}
    yield measured | {"description": "Measured and signed."}
    yield {"type": "application", "name": "ucaudit", "version": __version__, "description": "Wrote this document."}


def _pack(found: Examined) -> _Json:
    record = found.record
    pack = record.pack
    return without_empty(
        {
            "type": "machine-learning-model",
            "bom-ref": "pack",
            "name": pack.name,
            # A pack has no version of its own; its digest says which one it is.
            "version": f"sha256:{pack.pack_digest}",
            "description": f"Compressed model, codec {pack.codec} {pack.codec_version}. "
            f"Determination {determination_words(record)} against its reference ({key_words(found)}).",
            "licenses": _license(pack.license),
            "pedigree": _pedigree(record),
            "externalReferences": [*_references(found)],
            "components": [
                {
                    "type": "file",
                    "bom-ref": f"pack/{entry.path}",
                    "name": entry.path,
                    "hashes": _hashes(entry.digest),
                }
                for entry in found.manifest.entries
            ],
            "modelCard": _model_card(record),
            "properties": _properties(
                ("packDigest", pack.pack_digest),
                ("stateDigest", record.reconstruction.state_digest),
                ("stateMatchesPublished", record.reconstruction.matches_published),
                ("codec", f"{pack.codec} {pack.codec_version}"),
                ("arithmeticProfile", pack.arithmetic_profile),
                ("tensors", str(record.reconstruction.tensors)),
                ("parameters", str(record.reconstruction.parameters)),
                ("bytes", str(pack.bytes)),
                *(("excludedFromDigest", pattern) for pattern in pack.excluded),
            ),
        }
    )


def _license(text: str | None) -> list[_Json]:
    if not text or not text.strip():
        return []
    known = _SPDX.get(text.strip().lower())
    named = {"id": known} if known is not None else {"name": text}
    return [{"license": {**named, "acknowledgement": "declared"}}]


def _pedigree(record: Attestation) -> _Json:
    reference = record.reference
    ancestor = without_empty(
        {
            "type": "machine-learning-model",
            "bom-ref": "reference",
            "name": reference.name,
            "version": f"sha256:{reference.files_digest}",
            "description": f"The uncompressed model, stored as {reference.dtype}.",
            "properties": _properties(
                ("filesDigest", reference.files_digest),
                ("stateDigest", reference.state_digest),
                ("arithmeticProfile", reference.arithmetic_profile),
                *(
                    (name, text)
                    for name, text in (
                        ("source", reference.source),
                        ("revision", reference.revision),
                        ("note", reference.note),
                    )
                    if text
                ),
            ),
        }
    )
    return {
        "ancestors": [ancestor],
        "notes": "The reference of the measurement. That the pack was made from it is the pack's own statement; "
        "what was measured is how close the two are.",
    }


def _references(found: Examined) -> Iterable[_Json]:
    """The files of the evidence bundle, by digest; addresses are relative to the bundle."""
    files = {ATTESTATION: found.envelope_digest} | cited(found.record)
    for name, digest in files.items():
        kind = "attestation" if name == ATTESTATION else "evidence"
        words = "the signed record" if name == ATTESTATION else "bound by the record"
        yield {
            "type": kind,
            "url": relative_reference(name),
            "comment": f"{name} of the evidence bundle: {words}",
            "hashes": _hashes(digest),
        }


def _model_card(record: Attestation) -> _Json:
    use = record.context.intended_use
    figures = measured_figures(record)
    details = [
        (f"metric.{figure.slug}.{name}", value)
        for figure in figures
        if figure.interval is not None
        for name, value in (
            ("confidence", number(figure.interval.confidence)),
            ("method", figure.interval.method),
        )
    ]
    units = [(f"metric.{figure.slug}.unit", figure.unit) for figure in figures]
    return {
        "bom-ref": "model-card",
        "modelParameters": {"datasets": [*_datasets(record)]},
        "quantitativeAnalysis": {
            "performanceMetrics": [
                without_empty(
                    {
                        "type": figure.slug,
                        "value": number(figure.value),
                        "slice": "" if figure.slug.startswith("bits-") else sample_words(record),
                        "confidenceInterval": {
                            "lowerBound": number(figure.interval.lower),
                            "upperBound": number(figure.interval.upper),
                        }
                        if figure.interval is not None
                        else {},
                    }
                )
                for figure in figures
            ]
        },
        "considerations": without_empty(
            {
                "useCases": [use] if use and use.strip() else [],
                "technicalLimitations": [item.text for item in record.limitations],
            }
        ),
        "properties": _properties(*units, *details),
    }


def _datasets(record: Attestation) -> Iterable[_Json]:
    measured, calibration = record.measurement, record.pack.calibration
    corpus = measured.corpus
    yield {
        "type": "dataset",
        "bom-ref": "evaluation-text",
        "name": corpus.name,
        "description": f"Evaluation text. Scored: {sample_words(record)}; {measured.scored_tokens} tokens.",
        "contents": {
            "properties": _properties(
                ("sha256", corpus.sha256),
                ("tokenizerDigest", measured.tokenizer_digest),
                ("scoredTokensDigest", measured.tokens_digest),
                ("windowing", measured.windowing),
                ("seed", str(measured.seed)),
                ("calibrationOverlap", measured.calibration_overlap),
            )
        },
    }
    if calibration is not None:
        yield {
            "type": "dataset",
            "bom-ref": "calibration-text",
            "name": calibration.name,
            "description": "Calibration text of the encoder, as the pack states it; not checked.",
            "contents": {"properties": _properties(("sha256", calibration.sha256))},
        }


def _policy(record: Attestation) -> _Json:
    """The policy as a standard of the signer's own: one requirement a claim."""
    return {
        "bom-ref": "policy",
        "name": record.policy.name,
        "version": f"sha256:{record.policy.sha256}",
        "description": "The signer's own policy, named by its digest: the limits of the measurement.",
        "requirements": [
            {"bom-ref": f"policy/{claim.id}", "identifier": claim.id, "title": claim.id, "text": claim.text}
            for claim in record.claims
        ],
    }


def _declarations(found: Examined) -> _Json:
    record = found.record
    who = found.principal or f"key {found.key_id or 'not named'}, not checked against a trust file"
    return {
        "assessors": [{"bom-ref": "signer", "organization": {"name": who}}],
        "attestations": [
            {
                "summary": f"{determination_words(record)}. {len(record.claims)} claims of the policy, measured on "
                f"{one_line(sample_words(record))}.",
                "assessor": "signer",
                "map": [_mapped(claim, excused(record)) for claim in record.claims],
            }
        ],
        "claims": [_claim(claim, record) for claim in record.claims],
        "evidence": [*_evidence(record)],
    }


def _mapped(claim: Claim, excuses: dict[str, str]) -> _Json:
    """A requirement and the claim about it. A score of conformance is never given; the reason is, in words."""
    names = {"pass": "claims", "fail": "counterClaims"}
    where = {names[claim.verdict]: [f"claim/{claim.id}"]} if claim.verdict in names else {}
    until = excuses.get(claim.id)
    if claim.verdict == "pass":
        return {"requirement": f"policy/{claim.id}", **where}
    words = f"{claim.verdict}: {claim.reason}"
    if until is not None:
        words += f"; excused by an exception of the policy until {until}"
    return {"requirement": f"policy/{claim.id}", **where, "conformance": {"rationale": words}}


def _claim(claim: Claim, record: Attestation) -> _Json:
    rests = "evidence/values" if claim.level == "re-derivable" else "evidence/digests"
    return without_empty(
        {
            "bom-ref": f"claim/{claim.id}",
            "target": "pack",
            # Of a claim that failed, what is declared is that it does not hold: then the figures are its evidence.
            "predicate": f"{_VERDICTS[claim.verdict]}{claim.text}",
            "reasoning": f"{claim.reason}. Observed: {observed_words(claim, record)} {_interval_words(claim)}, "
            f"limit {claim.comparator} {number(claim.threshold)}; {claim.level}.",
            "evidence": [rests] if claim.verdict != "inconclusive" else [],
        }
    )


def _interval_words(claim: Claim) -> str:
    if claim.interval is None:
        return "(counted, no interval)"
    ends = f"{number(claim.interval.lower)} to {number(claim.interval.upper)}"
    return f"(interval {ends}, confidence {number(claim.interval.confidence)}, {claim.interval.method})"


def _evidence(record: Attestation) -> Iterable[_Json]:
    values = [item.name for item in record.measurement.value_files]
    for ref, words, names in (
        ("values", "Per-token values: every figure follows from them again.", values),
        ("digests", "The lists of the pack's files and of its reconstructed tensors.", [PACK_MANIFEST, STATE]),
    ):
        yield {
            "bom-ref": f"evidence/{ref}",
            "propertyName": f"ucaudit:{ref}",
            "description": words,
            "data": [{"name": name, "contents": {"url": relative_reference(name)}} for name in names],
            "created": record.created,
        }


def _hashes(digest: str) -> list[_Json]:
    return [{"alg": "SHA-256", "content": digest}]


def _properties(*items: tuple[str, str]) -> list[_Json]:
    return [{"name": f"ucaudit:{name}", "value": value} for name, value in items]
