"""The attestation: what was audited, against what, how, with which outcome. Good and bad outcomes look alike."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ucaudit.core.records.base import Count, Name, NamedDigest, Record, Sha256, Slug, Text, Timestamp, Tool

Determination = Literal["pass", "pass-with-exceptions", "fail", "inconclusive"]
Verdict = Literal["pass", "fail", "inconclusive"]
Level = Literal["recorded-only", "re-derivable", "re-measured"]
Settings = dict[str, str | int | float | bool | None]


class BitsPerWeight(Record):
    """Storage cost. ``nominal`` counts code bits alone; the others are measured on the pack's files."""

    nominal: float | None
    compressed_on_disk: Annotated[
        float | None, Field(description="8 × bytes of everything stored for compressed tensors / their parameters")
    ]
    whole_on_disk: Annotated[float, Field(description="8 × bytes of the tensor files / all parameters")]


class Calibration(Record):
    """The text that the encoder saw, as the pack states it."""

    name: Name
    sha256: Sha256
    tokens: Count
    sequences: Count
    seq_len: Count
    seed: int


class PackIdentity(Record):
    """The pack: what it is and every byte of it."""

    name: Name
    codec: Name
    codec_version: int
    arithmetic_profile: Name
    pack_digest: Annotated[Sha256, Field(description="SHA-256 of pack.SHA256SUMS")]
    files: Count
    bytes: Count
    bits_per_weight: BitsPerWeight
    license: str | None
    unclaimed_files: tuple[Name, ...]
    excluded: Annotated[tuple[Name, ...], Field(description="patterns the policy excludes from the pack digest")]
    settings: Annotated[Settings, Field(description="encoder settings as the pack states them")]
    calibration: Calibration | None
    matches_manifest: Annotated[
        Literal["yes", "no", "no-manifest"],
        Field(description="whether every file is the one that the pack's own manifest claims"),
    ] = "no-manifest"
    contradictions: Annotated[
        tuple[Text, ...], Field(description="claims of the pack's own manifest that its files contradict")
    ] = ()


class ReferenceIdentity(Record):
    """The uncompressed model that the pack is compared with."""

    name: Name
    files_digest: Annotated[Sha256, Field(description="SHA-256 of the reference's own SHA256SUMS text")]
    state_digest: Sha256
    dtype: Name
    arithmetic_profile: Name
    source: str | None
    revision: str | None
    note: str | None


class Tie(Record):
    """A tensor that the model shares with another and the files do not repeat."""

    name: Name
    same_as: Name


class LayerError(Record):
    """Relative reconstruction error of one layer: ‖W_pack − W_ref‖_F / ‖W_ref‖_F over its tensors."""

    layer: Name
    relative_error: Annotated[float, Field(ge=0)]
    parameters: Count


class Reconstruction(Record):
    """The pack turned back into tensors."""

    state_digest: Annotated[Sha256, Field(description="SHA-256 of STATE")]
    tensors: Count
    parameters: Count
    ties: tuple[Tie, ...]
    matches_published: Literal["yes", "no", "none-published"]
    drifted: Annotated[tuple[Name, ...], Field(description="tensors that differ from the published state")]
    device_class: Name
    layer_errors: tuple[LayerError, ...]


class Corpus(Record):
    """The evaluation text. The last three are of a text with rows, and None for a plain one."""

    name: Name
    sha256: Annotated[Sha256, Field(description="SHA-256 of the whole file")]
    bytes: Count
    tokens: Count
    windows_available: Count
    text_column: Name | None = None
    rows: Annotated[
        str | None, Field(pattern=r"^[0-9]{1,15}:[0-9]{1,15}$", description="rows taken, A up to but without B")
    ] = None
    documents: Annotated[Count | None, Field(description="rows among them that hold any text")] = None


class OverlapSearch(Record):
    """A search of the drawn windows for runs of words that the pack's calibration text holds as well."""

    ngram_words: Count
    ngrams: Annotated[Count, Field(description="runs of words in the drawn windows")]
    shared: Annotated[Count, Field(description="how many of them also occur in the calibration text")]


class Measurement(Record):
    """How the per-token values came about, in enough detail to repeat it."""

    corpus: Corpus
    tokenizer_digest: Sha256
    tokens_digest: Annotated[Sha256, Field(description="SHA-256 of the token ids that were scored")]
    windowing: Text
    bos: Literal["prepended", "none"]
    n: Annotated[int, Field(ge=1)]
    seq_len: Annotated[int, Field(ge=2)]
    seed: int
    dtype: Literal["fp32", "bf16"]
    scored_tokens: Count
    tolerance: Annotated[float, Field(ge=0, description="numerical tolerance on ln ratio")]
    calibration_overlap: Annotated[
        Literal["none-known", "not-checked", "none-found", "forced"],
        Field(
            description="with the pack's calibration text. none-known, of older records, and not-checked: not the "
            "same file, passages not searched; none-found: searched; forced: the same text or shared passages"
        ),
    ]
    overlap_search: OverlapSearch | None = None
    compute: Settings
    libraries: dict[str, str]
    value_files: tuple[NamedDigest, ...]


class Interval(Record):
    """An estimate with its two-sided interval."""

    estimate: float
    lower: float
    upper: float
    confidence: Annotated[float, Field(gt=0, lt=1)]
    method: Name


class Percentile(Record):
    """An observed percentile; no bound on unseen tokens."""

    percent: Annotated[float, Field(ge=0, le=100)]
    value: float


class Results(Record):
    """Figures that anyone can recompute from the per-token files with ``ucaudit bound``."""

    windows: Count
    documents: Annotated[
        Count | None, Field(description="documents the windows come from; None where windows are the units")
    ] = None
    tokens: Count
    ppl_reference: float
    ppl_pack: float
    mean_difference: Annotated[float, Field(description="mean over windows of NLL(pack) − NLL(reference), nats")]
    sd_difference: float
    design_effect: float | None
    ratio: Interval
    ratio_bootstrap: Interval
    bootstrap_seed: int
    bootstrap_resamples: Count
    kl: Annotated[Interval, Field(description="mean KL(reference‖pack), nats per token")]
    kl_bootstrap: Interval
    kl_percentiles: tuple[Percentile, ...]
    top1: Annotated[Interval, Field(description="share of tokens whose most likely next token agrees")]
    rms_delta_p: float
    tv_bound: Annotated[float, Field(description="bound on the mean total variation: sqrt(mean KL / 2)")]
    minimum_detectable_drift: Annotated[
        float | None,
        Field(description="smallest ratio − 1 that this n tells from no drift, power 0.9"),
    ]


class Claim(Record):
    """One promise and what the measurement says of it."""

    id: Slug
    text: Text
    metric: Name
    comparator: Literal["<=", ">=", "=="]
    threshold: float
    observed: float
    interval: Interval | None
    sample_size: Count
    verdict: Verdict
    level: Level
    reason: Text
    deciding_n: Annotated[int | None, Field(description="windows that would decide an inconclusive claim")]


class Limitation(Record):
    """Something a reader must know before relying on the result."""

    id: Slug
    text: Text


class PolicyExceptionRecord(Record):
    """A failed claim that somebody answers for until a date."""

    claim: Slug
    owner: Name
    rationale: Text
    expires: Timestamp


class SeedReference(Record):
    """The outside party's contribution from which the seed of the windows follows."""

    envelope_digest: Annotated[Sha256, Field(description="SHA-256 of the contribution's envelope")]
    source: Literal["nonce", "witness"]
    contributor: Name
    value: Sha256
    ledger_index: int


class PlanReference(Record):
    """The pre-registration that this result belongs to."""

    envelope_digest: Sha256
    ledger_origin: str | None
    ledger_index: int | None
    deviations: tuple[Text, ...]
    seed: Annotated[
        SeedReference | None, Field(description="if the plan left the seed to an outside party and it came")
    ] = None


class Context(Record):
    """What the institution says of itself and the model; never checked by ucaudit."""

    institution: str | None = None
    model_owner: str | None = None
    intended_use: str | None = None
    materiality: str | None = None
    monitoring_plan: str | None = None
    classification: str | None = None


class Environment(Record):
    """The machine class; no host name, user name, path, address or serial number."""

    python: Name
    system: Name
    machine: Name
    libraries: dict[str, str]


class Attestation(Record):
    """The predicate of an attestation statement."""

    created: Timestamp
    tool: Tool
    determination: Determination
    pack: PackIdentity
    reference: ReferenceIdentity
    reconstruction: Reconstruction
    measurement: Measurement
    results: Results
    claims: Annotated[tuple[Claim, ...], Field(min_length=1)]
    limitations: tuple[Limitation, ...]
    exceptions: tuple[PolicyExceptionRecord, ...]
    plan: PlanReference | None
    policy: NamedDigest
    context: Context
    environment: Environment
