"""Label and value pairs from the record, grouped as the report prints them. A missing value says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from ucaudit.core.records import Attestation, Corpus, Measurement, PlanReference
from ucaudit.report.formatting import NOT_ASSESSED, bytes_text, exact, grouped, shortened, significant
from ucaudit.report.profiles import Profile


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of a table of facts."""

    label: str
    value: str
    kind: Literal["text", "code", "digest"] = "text"


_COVER_LINE: Final = 52
_OVERLAP = {
    "none-known": "none known: the evaluation text is not the pack's calibration text",
    "not-checked": f"{NOT_ASSESSED}: not the same file; passages were not searched for",
    "none-found": "none: another file, and no run of 13 words of the windows is in the calibration text",
    "forced": "measured all the same: the text is the pack's calibration text, or shares passages with it",
}
_MATCHES = {
    "yes": "yes: every tensor equals the published state",
    "no": "no: tensors drifted, see below",
    "none-published": f"{NOT_ASSESSED}: the pack publishes no state",
}


def cover_facts(record: Attestation, profile: Profile, principal: str | None, key_id: str) -> tuple[Fact, ...]:
    """What the cover names."""
    measured = record.measurement
    signer = principal if principal is not None else f"key {key_id[:16]}…, not checked"
    rows = (
        ("Pack", record.pack.name),
        ("Reference", record.reference.name),
        ("Signed", record.created),
        ("Profile", f"{profile.slug}, version {profile.version}"),
        ("Evaluation text", measured.corpus.name),
        ("Sample", f"{measured.n:,} windows of {measured.seq_len:,} tokens"),
        ("Institution", _given(record.context.institution)),
        ("Model owner", _given(record.context.model_owner)),
        ("Signer", signer),
    )
    # One line each: the cover must leave page 2 to the limitations. Section 3 has the whole text.
    return tuple(Fact(label, shortened(value, _COVER_LINE)) for label, value in rows)


def context_facts(record: Attestation) -> tuple[Fact, ...]:
    """What the institution says of itself and the model."""
    context = record.context
    return (
        Fact("Institution", _given(context.institution)),
        Fact("Model owner", _given(context.model_owner)),
        Fact("Intended use", _given(context.intended_use)),
        Fact("Materiality", _given(context.materiality)),
        Fact("Monitoring plan", _given(context.monitoring_plan)),
        Fact("Classification", _given(context.classification)),
    )


def pack_facts(record: Attestation) -> tuple[Fact, ...]:
    """The pack and what it reconstructs to."""
    pack, state = record.pack, record.reconstruction
    bits = pack.bits_per_weight
    facts = [
        Fact("Pack", pack.name),
        Fact("Codec", f"{pack.codec}, version {pack.codec_version}"),
        Fact("Arithmetic profile", pack.arithmetic_profile, "code"),
        Fact("Files", f"{pack.files:,} files, {bytes_text(pack.bytes)}"),
        Fact("Pack digest", grouped(pack.pack_digest), "digest"),
        Fact("Storage, code bits alone", _bits(bits.nominal)),
        Fact("Storage, compressed tensors on disk", _bits(bits.compressed_on_disk)),
        Fact("Storage, all tensors on disk", _bits(bits.whole_on_disk)),
        Fact("Licence", _given(pack.license)),
        Fact("Files no manifest claims", _listed(pack.unclaimed_files, "none found")),
        Fact("Files excluded by the policy", _listed(pack.excluded, "none")),
        Fact("State digest", grouped(state.state_digest), "digest"),
        Fact(
            "Reconstructed", f"{state.tensors:,} tensors, {state.parameters:,} parameters, on {state.device_class}"
        ),
        Fact("Equals the published state", _MATCHES[state.matches_published]),
        Fact("Tensors that drifted", _listed(state.drifted, _no_drift(state.matches_published))),
        Fact(
            "Tensors shared with another", _listed([f"{tie.name} is {tie.same_as}" for tie in state.ties], "none")
        ),
    ]
    return tuple(facts)


def _no_drift(matches: str) -> str:
    return NOT_ASSESSED if matches == "none-published" else "none"


def reference_facts(record: Attestation) -> tuple[Fact, ...]:
    """The uncompressed model."""
    reference = record.reference
    return (
        Fact("Reference", reference.name),
        Fact("Source", _given(reference.source)),
        Fact("Revision", _given(reference.revision), "code"),
        Fact("Stored as", f"{reference.dtype}, arithmetic profile {reference.arithmetic_profile}"),
        Fact("Digest of its files", grouped(reference.files_digest), "digest"),
        Fact("State digest", grouped(reference.state_digest), "digest"),
        Fact("Note", _given(reference.note, "none")),
    )


def measurement_facts(record: Attestation) -> tuple[Fact, ...]:
    """How it was measured."""
    measured = record.measurement
    corpus = measured.corpus
    return (
        Fact(
            "Evaluation text",
            f"{corpus.name}, {bytes_text(corpus.bytes)}, {_rows(corpus)}{corpus.tokens:,} tokens",
        ),
        Fact(
            "Sample",
            f"{measured.n:,} of {corpus.windows_available:,} windows of {measured.seq_len:,} tokens; "
            f"{measured.scored_tokens:,} tokens scored",
        ),
        Fact("Windowing", measured.windowing),
        Fact(
            "First token of a window",
            "a BOS token is put in front" if measured.bos == "prepended" else "no BOS token",
        ),
        Fact("Compute", f"{measured.dtype} ({_settings(measured.compute)})"),
        Fact("Numerical tolerance", f"{significant(measured.tolerance, 1)} on the logarithm of the ratio"),
        Fact("Overlap with the calibration text", _overlap(measured)),
        Fact("Calibration of the pack", _calibration(record)),
    )


def _rows(corpus: Corpus) -> str:
    if corpus.rows is None or corpus.documents is None:
        return ""
    return f"column {corpus.text_column} of rows {corpus.rows}, {corpus.documents:,} documents, "


def _overlap(measured: Measurement) -> str:
    words, search = _OVERLAP[measured.calibration_overlap], measured.overlap_search
    if search is None:
        return words
    return f"{words} ({search.shared:,} of {search.ngrams:,} runs of {search.ngram_words} words)"


def _calibration(record: Attestation) -> str:
    calibration = record.pack.calibration
    if calibration is None:
        return f"{NOT_ASSESSED}: the pack states none"
    return (
        f"{calibration.name}: {calibration.sequences:,} sequences of {calibration.seq_len:,} tokens, "
        f"seed {calibration.seed}, as the pack states it"
    )


def tool_facts(record: Attestation) -> tuple[Fact, ...]:
    """Tool, environment and policy."""
    environment = record.environment
    return (
        Fact("Tool", f"{record.tool.name} {record.tool.version}"),
        Fact("Environment", f"Python {environment.python}, {environment.system}, {environment.machine}"),
        Fact("Libraries", _settings(environment.libraries or record.measurement.libraries)),
        Fact("Policy", record.policy.name),
        Fact("Policy digest", grouped(record.policy.sha256), "digest"),
    )


def plan_facts(plan: PlanReference | None) -> tuple[Fact, ...]:
    """The pre-registration, if there is one."""
    if plan is None:
        return (Fact("Pre-registration", "none: the measurement was not planned in a ledger beforehand"),)
    if plan.ledger_origin is None or plan.ledger_index is None:
        place = f"{NOT_ASSESSED}: the record names no ledger entry of the plan"
    else:
        place = f"entry number {plan.ledger_index:,} (counted from 0) of {plan.ledger_origin}"
    return (
        Fact("Plan", grouped(plan.envelope_digest), "digest"),
        Fact("Place of the plan", place),
        Fact("Deviations from the plan", "; ".join(plan.deviations) or "none declared"),
    )


def digest_facts(record: Attestation, envelope_digest: str, payload_digest: str | None) -> tuple[Fact, ...]:
    """Every digest of the record, whole."""
    measured = record.measurement
    rows = [
        ("Signed envelope (fingerprint)", envelope_digest),
        ("Signed payload", payload_digest),
        ("Pack: pack.SHA256SUMS", record.pack.pack_digest),
        ("Pack: STATE", record.reconstruction.state_digest),
        ("Reference: reference.SHA256SUMS", record.reference.files_digest),
        ("Reference: STATE", record.reference.state_digest),
        ("Evaluation text", measured.corpus.sha256),
        ("Tokenizer", measured.tokenizer_digest),
        ("Scored token ids", measured.tokens_digest),
        ("Calibration text", record.pack.calibration.sha256 if record.pack.calibration else None),
        ("Policy", record.policy.sha256),
        ("Plan", record.plan.envelope_digest if record.plan else None),
        *((item.name, item.sha256) for item in measured.value_files),
    ]
    absent = {
        "Plan": "none: the measurement was not pre-registered",
        "Calibration text": f"{NOT_ASSESSED}: the pack states none",
    }
    return tuple(
        Fact(label, grouped(digest), "digest") if digest else Fact(label, absent.get(label, NOT_ASSESSED))
        for label, digest in rows
    )


def seed_facts(record: Attestation) -> tuple[Fact, ...]:
    """Seeds, and the digests of text and tokenizer."""
    measured, results = record.measurement, record.results
    calibration = record.pack.calibration
    return (
        Fact("Evaluation text, SHA-256", grouped(measured.corpus.sha256), "digest"),
        Fact("Tokenizer, SHA-256", grouped(measured.tokenizer_digest), "digest"),
        Fact("Seed of the draw of windows", f"{measured.seed}{_from_outside(record)}"),
        Fact("Seed of the bootstrap", f"{results.bootstrap_seed} ({results.bootstrap_resamples:,} resamples)"),
        Fact("Seed of the calibration", str(calibration.seed) if calibration else NOT_ASSESSED),
    )


def _from_outside(record: Attestation) -> str:
    seed = record.plan.seed if record.plan is not None else None
    if seed is None:
        return ""
    how = "a random number" if seed.source == "nonce" else "its cosignature of the plan"
    return f", which follows from what {seed.contributor} contributed after the plan: {how}"


def record_facts(record: Attestation, predicate_type: str) -> tuple[Fact, ...]:
    """The record's key fields, by their own names where a reader may want to look them up."""
    return (
        Fact("predicateType", predicate_type, "code"),
        Fact("created", record.created, "code"),
        Fact("tool", f"{record.tool.name} {record.tool.version}", "code"),
        Fact("determination", record.determination, "code"),
        Fact("claims", ", ".join(f"{claim.id}: {claim.verdict}" for claim in record.claims), "code"),
        Fact("limitations", ", ".join(item.id for item in record.limitations) or "none", "code"),
        Fact("pack.settings", _settings(record.pack.settings), "code"),
        Fact("measurement.compute", _settings(record.measurement.compute), "code"),
        Fact("measurement.libraries", _settings(record.measurement.libraries), "code"),
        Fact("environment.libraries", _settings(record.environment.libraries), "code"),
    )


def _given(value: str | None, otherwise: str = f"{NOT_ASSESSED}: not stated") -> str:
    return value if value and value.strip() else otherwise


def _bits(value: float | None) -> str:
    return f"{NOT_ASSESSED}: not stated" if value is None else f"{significant(value, 4)} bits per weight"


def _listed(names: Iterable[str], otherwise: str, most: int = 20) -> str:
    items = list(names)
    if not items:
        return otherwise
    more = f", and {len(items) - most:,} more" if len(items) > most else ""
    return f"{len(items):,}: {', '.join(items[:most])}{more}"


def _settings(settings: Mapping[str, object]) -> str:
    if not settings:
        return "none recorded"
    return ", ".join(f"{name} {_value(value)}" for name, value in sorted(settings.items()))


def _value(value: object) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return "on" if value else "off"
    return exact(value) if isinstance(value, float) else str(value)
