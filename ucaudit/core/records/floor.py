"""The floor protocol, its plan, its outcome: does any declared change of the encoder improve a pack by δ or more?

docs/floors.md explains every figure. A protocol that supports a floor, one that refutes it and one that decides
nothing leave records of one form.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from ucaudit.core.records.attestation import (
    Determination,
    Environment,
    Interval,
    Limitation,
    Measurement,
    PlanReference,
    ReferenceIdentity,
)
from ucaudit.core.records.base import Count, Name, NamedDigest, Record, Sha256, Slug, Text, Timestamp, Tool

FloorMetric = Literal["pplRatio", "meanKl"]
Direction = Literal["capacity", "schedule", "objective"]
FloorVerdictName = Literal["supported", "refuted", "inconclusive"]
Agreement = Literal["better", "consistent", "worse", "cannot tell", "not comparable"]
MAX_RUNS = 80
"""Encodings of one protocol, (1 + perturbations) × seeds: all of them twice still fit into a bundle."""


class EncoderSettings(Record):
    """Everything the encoder is told but the seed and the text it calibrates on."""

    bits: Annotated[int, Field(ge=2, le=8)] = 5
    group: Annotated[int, Field(ge=8, le=1024)] = 64
    rank: Annotated[int, Field(ge=0, le=1040, description="of the low-rank overlay: capacity")] = 16
    steps: Annotated[int, Field(ge=0, le=100_000, description="of training, a layer: schedule")] = 0
    kl_weight: Annotated[
        float, Field(ge=0, le=1e6, description="of the divergence of the model's output: objective")
    ] = 0.0
    sequences: Annotated[int, Field(ge=1, le=100_000, description="of the calibration text")] = 128
    seq_len: Annotated[int, Field(ge=2, le=1_048_576, description="tokens of a calibration sequence")] = 256


class Perturbation(Record):
    """One attempt to do better: the baseline with one knob turned."""

    name: Slug
    direction: Direction
    settings: EncoderSettings


class PublishedFloor(Record):
    """A floor that somebody else published, as a claim to compare with."""

    model: Annotated[Name, Field(description="the model that it was published for")]
    ratio: Annotated[
        str,
        StringConstraints(pattern=r"^[0-9]{1,4}(\.[0-9]{1,9})?$"),
        Field(description="as published: the decimals tell how it was rounded"),
    ]
    windows: Annotated[int, Field(ge=1, le=10**9)]
    seq_len: Annotated[int | None, Field(ge=2)] = None
    same_model: Annotated[bool, Field(description="it was published for this very reference")] = False
    same_text: Annotated[bool, Field(description="it was measured on this very text")] = False
    source: Name | None = None


class FloorProtocol(Record):
    """What is tried, on what, and what would count: fixed before anything is encoded."""

    name: Slug
    metric: FloorMetric
    margin: Annotated[
        float, Field(gt=0, le=1, description="δ, the improvement that would matter: nats of ln ratio, or of KL")
    ]
    confidence: Annotated[float, Field(ge=0.5, le=0.999)]
    seeds: Annotated[tuple[int, ...], Field(min_length=1, max_length=60)]
    n: Annotated[int, Field(ge=2, le=1_000_000)]
    confirm_n: Annotated[int, Field(ge=2, le=1_000_000, description="fresh windows, if an attempt wins")]
    seq_len: Annotated[int, Field(ge=2, le=1_048_576)]
    seed: Annotated[int, Field(description="of the draw of windows")]
    dtype: Literal["fp32", "bf16"]
    baseline: EncoderSettings
    perturbations: Annotated[tuple[Perturbation, ...], Field(min_length=1, max_length=8)]
    published: PublishedFloor | None = None


class FloorPlan(Record):
    """A floor protocol committed to before a pack of it exists."""

    created: Timestamp
    tool: Tool
    protocol: FloorProtocol
    protocol_file: Annotated[NamedDigest, Field(description="the file that the protocol was read from")]
    reference_name: Name
    reference_files_digest: Sha256
    corpus_name: Name
    corpus_sha256: Sha256
    text_column: Name | None = None
    rows: str | None = None
    calibration: NamedDigest


class FloorRun(Record):
    """One encoding with one seed, and the files that hold what was measured of it."""

    arm: Annotated[Slug, Field(description="baseline, or the name of a perturbation")]
    seed: int
    pack_digest: Annotated[Sha256, Field(description="SHA-256 of the pack's own SHA256SUMS text")]
    state_digest: Sha256
    bits_on_disk: Annotated[float | None, Field(description="bits a compressed weight, counted on the files")]
    values: NamedDigest
    fresh_values: Annotated[NamedDigest | None, Field(description="on the fresh windows, if it was confirmed")] = (
        None
    )


class FloorLevel(Record):
    """Where an arm lies: the mean over windows and encoder seeds, with an interval that counts both."""

    arm: Slug
    ratio: Interval
    kl: Interval


class FloorAttempt(Record):
    """One perturbation against the baseline, on the same windows. Improvements are in the metric's unit, nats."""

    name: Slug
    direction: Direction
    improvement: Annotated[
        float, Field(description="baseline less perturbation; above 0 the perturbation is better")
    ]
    error: Annotated[float, Field(ge=0, description="its standard error")]
    df: Annotated[float | None, Field(description="degrees of freedom, Satterthwaite; None where the error is 0")]
    from_windows: Annotated[float, Field(ge=0, description="the variance that comes from the windows")]
    from_seeds: Annotated[float, Field(ge=0, description="the variance that comes from both arms' encoder seeds")]
    lower: Annotated[float, Field(description="one-sided bound at α")]
    upper: Annotated[float, Field(description="one-sided bound at α")]
    p_no_gain: Annotated[float, Field(ge=0, le=1, description='p-value of "the improvement is δ or more"')]
    p_gain: Annotated[
        float, Field(ge=0, le=1, description='p-value of "the improvement is at most δ", adjusted after Holm')
    ]
    outcome: Literal["no improvement", "within the margin", "open", "won", "changed nothing"]
    same_states: Annotated[Count, Field(description="seeds for which the encoder made the baseline's own state")]


class FloorConfirmation(Record):
    """The winners again, on windows that no attempt was measured on before."""

    windows: Count
    levels: tuple[FloorLevel, ...]
    attempts: tuple[FloorAttempt, ...]


class Deciding(Record):
    """What would decide an inconclusive protocol with power 0.9, if means and spreads are what they seem."""

    windows: Annotated[int | None, Field(description="with the seeds there are; None if no number would")]
    seeds: Annotated[int | None, Field(description="with the windows there are; None if no number would")]
    both: Annotated[tuple[int, int] | None, Field(description="windows and seeds together")]


class FloorResults(Record):
    """Figures and verdict, all of which follow from the per-token files and the protocol."""

    windows: Count
    documents: Count | None
    tokens: Annotated[Count, Field(description="scored tokens a window")]
    tolerance: Annotated[
        float, Field(ge=0, description="on an improvement: both arms may move by the numerical one")
    ]
    levels: tuple[FloorLevel, ...]
    attempts: tuple[FloorAttempt, ...]
    confirmation: FloorConfirmation | None
    verdict: FloorVerdictName
    reason: Text
    deciding: Deciding | None
    floor: Annotated[
        FloorLevel | None,
        Field(description="supported: the baseline's level; refuted: the confirmed winner's, on fresh windows"),
    ]


class PublishedComparison(Record):
    """A published floor beside what was measured here."""

    outcome: Agreement
    reason: Text
    lower: Annotated[float | None, Field(description="ratios that the publisher's protocol would report")]
    upper: float | None


class Floor(Record):
    """The predicate of a floor statement."""

    created: Timestamp
    tool: Tool
    determination: Annotated[Determination, Field(description="pass: supported; fail: refuted; inconclusive")]
    protocol: FloorProtocol
    protocol_file: NamedDigest
    reference: ReferenceIdentity
    calibration: NamedDigest
    measurement: Measurement
    confirmation: Annotated[Measurement | None, Field(description="the fresh windows, if there was a winner")]
    runs: tuple[FloorRun, ...]
    results: FloorResults
    published: PublishedComparison | None
    limitations: tuple[Limitation, ...]
    plan: PlanReference
    environment: Environment
