"""The predicates beside the attestation: plan, abandonment, endorsement, and a bundle's closing statement."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ucaudit.core.records.base import Count, Name, Record, Sha256, Slug, Text, Timestamp, Tool


class PlannedClaim(Record):
    """A promise with its threshold, fixed before the measurement."""

    id: Slug
    metric: Name
    comparator: Literal["<=", ">=", "=="]
    threshold: float
    confidence: Annotated[float, Field(gt=0, lt=1)]


class PlannedPack(Record):
    """The pack a plan is about."""

    name: Name
    pack_digest: Sha256
    arithmetic_profile: Name


class Plan(Record):
    """A measurement committed to before it is made."""

    created: Timestamp
    tool: Tool
    pack: PlannedPack
    reference_name: Name
    reference_files_digest: Sha256
    corpus_name: Name
    corpus_sha256: Sha256
    n: Annotated[int, Field(ge=1)]
    seq_len: Annotated[int, Field(ge=2)]
    seed: int
    dtype: Literal["fp32", "bf16"]
    claims: tuple[PlannedClaim, ...]
    perturbations: tuple[Text, ...]
    policy_sha256: Sha256
    outside_seed: Annotated[
        bool, Field(description="the seed of the windows is not this one: an outside party fixes it afterwards")
    ] = False


SeedSource = Literal["nonce", "witness"]


class SeedContribution(Record):
    """An outside party's part in the seed of a plan that was committed before. docs/ledger.md has the formula."""

    created: Timestamp
    tool: Tool
    plan_digest: Annotated[Sha256, Field(description="SHA-256 of the plan's envelope")]
    source: Annotated[
        SeedSource,
        Field(description="a random number of the signer, or a witness's cosignature of the plan's own checkpoint"),
    ]
    contributor: Annotated[Name, Field(description="printed name of the outside party, or the witness's key name")]
    value: Annotated[
        Sha256, Field(description="32 random bytes, or SHA-256 of the cosignature's time and signature; hex")
    ]


class Abandonment(Record):
    """A plan that will not be carried out, and why."""

    created: Timestamp
    tool: Tool
    plan_digest: Annotated[Sha256, Field(description="SHA-256 of the plan's envelope")]
    reason: Text


class Endorsement(Record):
    """Somebody's signature over an attestation, with what it means (21 CFR 11.50 names these parts)."""

    created: Timestamp
    tool: Tool
    attestation_digest: Annotated[Sha256, Field(description="SHA-256 of the attestation's envelope")]
    printed_name: Name
    role: Slug
    meaning: Literal["authorship", "review", "approval", "responsibility"]


class BundleClosing(Record):
    """The last statement of a bundle: its subjects are all other files, by digest."""

    created: Timestamp
    tool: Tool
    attestation_digest: Annotated[Sha256, Field(description="SHA-256 of the attestation's envelope")]
    files: Count
