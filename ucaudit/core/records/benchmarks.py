"""``benchmarks.json``: what ``ucaudit matrix`` publishes. It is not signed; every row names the evidence that is.

docs/matrix.md describes it. Nothing here is a verdict of its own: figures and verdicts are those of the records,
derived again from their per-token files while the matrix was built.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from ucaudit.core.records.attestation import Interval
from ucaudit.core.records.base import Count, Name, Record, Sha256, Slug, Text, Timestamp, Tool

SCHEMA_URI: Final = "urn:ucaudit:schema:benchmarks:v1"
Status = Literal[
    "within bound",
    "excused",
    "out of bound",
    "inconclusive",
    "floor",
    "floor refuted",
    "open plan",
    "abandoned plan",
    "not verified",
    "absent",
]
STATUSES: Final[dict[Status, str]] = {
    "within bound": "every claim of the record holds",
    "excused": "a claim failed, and an exception in the record excuses it",
    "out of bound": "a claim failed",
    "inconclusive": "the data decide nothing",
    "floor": "no declared change of the encoder improved the pack by the margin or more",
    "floor refuted": "a declared change improved the pack by more than the margin, and again on fresh windows",
    "open plan": "planned in the ledger, with no result yet",
    "abandoned plan": "planned in the ledger and given up, with a reason",
    "not verified": "the evidence did not hold: nothing in it is believed",
    "absent": "in the ledger, and its evidence was not given",
}
"""Every status with what it means, in the order of a legend."""
ModelClass = Literal["dense", "MoE", "SSM", "unknown"]


class ClaimedFigure(Record):
    """A figure that somebody else published for a model, from their own registry."""

    model: Name
    ratio: Annotated[
        str, Field(pattern=r"^[0-9]{1,4}(\.[0-9]{1,18})?$", description="with the digits as published")
    ]
    windows: Annotated[int | None, Field(ge=1)] = None
    seq_len: Annotated[int | None, Field(ge=2)] = None
    source: str | None = None
    floor: Annotated[bool, Field(description="published as a floor")] = False


class ClaimedBeside(Record):
    """A published figure beside the measured one."""

    figure: ClaimedFigure
    outcome: Literal["better", "consistent", "worse", "cannot tell", "not comparable"]
    reason: Text


class LedgerPlace(Record):
    """Where a ledger has the row's evidence."""

    origin: Name
    index: Count
    recorded_at: Timestamp


class Bound(Record):
    """A limit that the record was judged by."""

    claim: Slug
    comparator: Literal["<=", ">=", "=="]
    threshold: float
    verdict: Literal["pass", "fail", "inconclusive"]


class FloorFigures(Record):
    """What is particular to a floor."""

    name: Slug
    metric: Literal["pplRatio", "meanKl"]
    margin: float
    attempts: tuple[Name, ...]
    seeds: Count
    reason: Text


class Row(Record):
    """One piece of evidence, or one entry of the ledger whose evidence is not here."""

    status: Status
    kind: Literal["pack", "floor", "plan", "unknown"]
    model: Annotated[Name | None, Field(description="the reference's name; None where nothing may be believed")] = (
        None
    )
    pack: Name | None = None
    model_class: Annotated[ModelClass, Field(description="from the names of the tensors in STATE")] = "unknown"
    codec: Name | None = None
    bits_on_disk: Annotated[float | None, Field(description="bits a compressed weight")] = None
    ratio: Interval | None = None
    kl: Interval | None = None
    n: Annotated[Count | None, Field(description="windows")] = None
    seq_len: Count | None = None
    bounds: tuple[Bound, ...] = ()
    floor: FloorFigures | None = None
    table: Annotated[Slug | None, Field(description="which table: rows of different texts are never in one")] = None
    signed_by: tuple[Name, ...] = ()
    created: Timestamp | None = None
    pack_digest: Sha256 | None = None
    envelope: Annotated[Sha256 | None, Field(description="SHA-256 of the record's envelope")] = None
    bundle: Annotated[Name | None, Field(description="folder of the evidence, relative to the one given")] = None
    ledger: LedgerPlace | None = None
    pack_files: Annotated[
        Literal["compared", "gone", "not asked"],
        Field(description="whether the pack itself was found, and its files compared"),
    ] = "not asked"
    claimed: ClaimedBeside | None = None
    notes: tuple[Text, ...] = ()


class TableOf(Record):
    """The rows that may be compared with each other: one text, one length of window, one compute type."""

    id: Slug
    corpus: Name
    corpus_sha256: Sha256
    seq_len: Count
    dtype: Name
    rows: Count


class PopulationSummary(Record):
    """What the ledger holds, and how much of it is here."""

    origin: Name
    vkey: str
    size: Count
    root: str
    results: Annotated[Count, Field(description="attestations and floors in the ledger")]
    shown: Annotated[Count, Field(description="of them, with evidence here that was verified")]
    absent: Annotated[
        Count, Field(description="of them, without evidence here, or with evidence that did not hold")
    ]
    open_plans: Count
    abandoned_plans: Count
    unreadable: Count


class Benchmarks(Record):
    """The whole file."""

    schema_uri: Annotated[Literal["urn:ucaudit:schema:benchmarks:v1"], Field(alias="schema")]
    generated: Timestamp
    tool: Tool
    population: Annotated[
        PopulationSummary | None, Field(description="None if no ledger was given: then rows may be missing unseen")
    ]
    tables: tuple[TableOf, ...]
    rows: tuple[Row, ...]
    claimed_without_evidence: tuple[ClaimedFigure, ...]
