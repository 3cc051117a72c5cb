"""The policy: one TOML file that drives the plan, the attestation and the gate."""

from __future__ import annotations

import json
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, ValidationError

from ucaudit.core.digest import sha256_hex
from ucaudit.core.errors import MalformedPolicyError
from ucaudit.core.files import read_limited
from ucaudit.core.records.attestation import Context, PolicyExceptionRecord
from ucaudit.core.records.base import Name, Record, Sha256, Slug
from ucaudit.core.records.others import PlannedClaim
from ucaudit.core.records.problems import first_problem
from ucaudit.core.spans import SPAN_PATTERN
from ucaudit.evidence.suggest import refuse_unknown

_MAX_POLICY: Final = 1 << 20
_TEMPLATE_HINT: Final = "ucaudit policy init writes a commented policy to compare with"
MINIMUM_WINDOWS: Final = 30
CLAIM_IDS: Final = (
    "ppl-ratio",
    "mean-kl",
    "top1-agreement",
    "bits-per-weight",
    "files-match-manifest",
    "state-matches-published",
)
"""Every claim that a policy can make."""


def _snake(name: str) -> str:
    return name


class _Table(Record):
    """A policy table: the same strictness as a record, but snake_case as TOML users write."""

    model_config = ConfigDict(alias_generator=_snake)


class ReferencePin(_Table):
    """Which reference the claims are about. Without a pin a degraded reference flatters any pack."""

    state_digest: Sha256 | None = None
    source: str | None = None
    revision: str | None = None
    note: str | None = None


class MeasurementRules(_Table):
    """What must be measured, at least."""

    corpus: Name | None = None
    corpus_sha256: Sha256 | None = None
    text_column: Name | None = None
    rows: Annotated[str | None, Field(pattern=SPAN_PATTERN)] = None
    n: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    seq_len: Annotated[int, Field(ge=2, le=1_048_576)] = 1024
    seed: int = 42
    dtype: Literal["fp32", "bf16"] = "fp32"


class ClaimRules(_Table):
    """The promises to judge. ``confidence`` is that of the two-sided interval; one-sided alpha is half the rest."""

    ppl_ratio_max: Annotated[float, Field(gt=0, le=100)]
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    mean_kl_max: Annotated[float | None, Field(gt=0)] = None
    top1_agreement_min: Annotated[float | None, Field(gt=0, lt=1)] = None
    bits_per_weight_max: Annotated[float | None, Field(gt=0, le=32)] = None
    vendor_ppl_ratio: Annotated[float | None, Field(gt=0, le=100)] = None
    """What the vendor publishes. Nothing is judged by it: ``policy check`` compares the margin with it."""


class PolicyException(_Table):
    """A claim that may fail for now: who answers for it, why, until when."""

    claim: Name
    owner: Name
    rationale: Name
    expires: Name

    def record(self) -> PolicyExceptionRecord:
        """The exception as the record holds it. Raises ValidationError."""
        return PolicyExceptionRecord(**self.model_dump())


class Threshold(_Table):
    """So many distinct keys must have signed in a role, of all that the trust file gives it."""

    role: Slug
    keys: Annotated[int, Field(ge=1, le=20)]
    meanings: tuple[Literal["authorship", "review", "approval", "responsibility"], ...] = ()
    """Only endorsements with one of these meanings count; all if empty."""


class GateRules(_Table):
    """What a gate demands beyond an authentic, passing record."""

    max_age_days: Annotated[int, Field(ge=1, le=36_500)] = 365
    required_roles: tuple[Slug, ...] = ()
    min_signers: Annotated[int, Field(ge=1, le=20)] = 1
    distinct_signers: bool = False
    """No principal counts twice, and whoever made the record counts as its developer only."""
    thresholds: tuple[Threshold, ...] = ()
    require_trusted_time: bool = False
    allowed_codecs: tuple[str, ...] = ()
    allowed_profiles: tuple[str, ...] = ()
    """Arithmetic profiles, with their version: ``ucq-f32-bf16/1``."""
    require_ledger: bool = True
    require_plan: bool = False
    allow_inconclusive: bool = False
    exclude: tuple[str, ...] = ()
    exceptions: tuple[PolicyException, ...] = ()


class ReportText(_Table):
    """What the report prints as the institution's own words."""

    institution: str | None = None
    model_owner: str | None = None
    intended_use: str | None = None
    materiality: str | None = None
    monitoring_plan: str | None = None
    classification: str | None = None


class Policy(_Table):
    """A whole policy."""

    reference: ReferencePin = ReferencePin()
    measurement: MeasurementRules = MeasurementRules()
    claims: ClaimRules
    gate: GateRules = GateRules()
    report: ReportText = ReportText()

    def planned_claims(self, *, publishes_state: bool, has_manifest: bool = False) -> tuple[PlannedClaim, ...]:
        """The claims to judge, in report order.

        Args:
            publishes_state: whether the pack publishes a state: then matching it is a claim as well.
            has_manifest: whether the pack has a manifest of its own: then so is that its files are those claimed.
        """
        claims, confidence = self.claims, self.claims.confidence

        def claim(slug: str, metric: str, comparator: Literal["<=", ">=", "=="], threshold: float) -> PlannedClaim:
            return PlannedClaim(
                id=slug, metric=metric, comparator=comparator, threshold=threshold, confidence=confidence
            )

        result = [claim("ppl-ratio", "pplRatio", "<=", claims.ppl_ratio_max)]
        if claims.mean_kl_max is not None:
            result.append(claim("mean-kl", "meanKl", "<=", claims.mean_kl_max))
        if claims.top1_agreement_min is not None:
            result.append(claim("top1-agreement", "top1Agreement", ">=", claims.top1_agreement_min))
        if claims.bits_per_weight_max is not None:
            result.append(claim("bits-per-weight", "bitsPerWeight", "<=", claims.bits_per_weight_max))
        if has_manifest:
            result.append(claim("files-match-manifest", "contradictedFiles", "==", 0.0))
        if publishes_state:
            result.append(claim("state-matches-published", "driftedTensors", "==", 0.0))
        return tuple(result)

    def context(self) -> Context:
        """The institution's words as the record holds them."""
        return Context(**self.report.model_dump())

    def exception_records(self) -> tuple[PolicyExceptionRecord, ...]:
        """The exceptions as the record holds them."""
        return tuple(item.record() for item in self.gate.exceptions)


class LoadedPolicy:
    """A policy with the digest of the file it came from."""

    def __init__(self, policy: Policy, path: Path, sha256: str) -> None:
        self.policy = policy
        self.path = path
        self.sha256 = sha256

    def corpus_path(self) -> Path | None:
        """The corpus the policy names, relative to the policy's own directory."""
        name = self.policy.measurement.corpus
        return None if name is None else self.path.parent / name


def load_policy(path: Path) -> LoadedPolicy:
    """Read a policy file.

    Raises:
        NotFoundError: no such file.
        MalformedPolicyError: not TOML, an unknown setting (with did-you-mean), or a value out of range.
    """
    data = read_limited(path, _MAX_POLICY)
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MalformedPolicyError(f"not toml: {error}", subject=str(path), hint=_TEMPLATE_HINT) from error
    _refuse_typos(document, str(path))
    try:
        # By way of JSON, where strictness admits a list for a tuple, and still no "50" or true for a number.
        policy = Policy.model_validate_json(json.dumps(document, default=_moment))
    except ValidationError as error:
        raise MalformedPolicyError(first_problem(error), subject=str(path), hint=_TEMPLATE_HINT) from error
    for number, exception in enumerate(policy.gate.exceptions):
        try:
            exception.record()
        except ValidationError as error:
            problem = first_problem(error, within=f"gate.exceptions[{number}]")
            raise MalformedPolicyError(problem, subject=str(path), hint=_TEMPLATE_HINT) from error
    return LoadedPolicy(policy, path, sha256_hex(data))


def _moment(value: object) -> str:
    """A TOML date-time, which needs no quotes, as records write it; the model refuses anything else."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return str(value)


def _refuse_typos(document: dict[str, Any], subject: str) -> None:
    tables: dict[str, type[Record]] = {
        "reference": ReferencePin,
        "measurement": MeasurementRules,
        "claims": ClaimRules,
        "gate": GateRules,
        "report": ReportText,
    }
    refuse_unknown(document, tables, subject=subject, place="")
    for name, model in tables.items():
        table = document.get(name, {})
        if not isinstance(table, dict):
            raise MalformedPolicyError(f"[{name}] is a table", subject=subject)
        refuse_unknown(table, model.model_fields, subject=subject, place=name)
    nested: dict[str, type[Record]] = {"exceptions": PolicyException, "thresholds": Threshold}
    for name, model in nested.items():
        items = document.get("gate", {}).get(name, [])
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise MalformedPolicyError(f"write [[gate.{name}]] tables", subject=subject)
        for item in items:
            refuse_unknown(item, model.model_fields, subject=subject, place=f"gate.{name}")


TEMPLATE: Final = """\
# ucaudit policy. It drives the plan, the attestation and the gate; check it with `ucaudit policy check`.

[reference]
# The state digest of the reference (ucaudit reconstruct REFERENCE). Without this pin a degraded reference
# gives a ratio near 1, and any pack passes.
# state_digest = "…64 hex digits…"
# source = "where it comes from"
# revision = "commit"

[measurement]
# corpus = "evaluation.txt"          # relative to this file
# corpus_sha256 = "…64 hex digits…"
# text_column = "text"               # of a .jsonl or .parquet corpus
# rows = "-10000:"                   # which of its rows: A:B, or -K: for the last K
n = 50                               # windows; below 30 nothing can pass
seq_len = 1024                       # tokens a window
seed = 42                            # chooses the windows; the gate takes another from an outside party only
dtype = "fp32"

[claims]
# The whole interval must lie below this, so leave room above the point estimate that you expect:
# a margin equal to the vendor's own figure can hardly ever pass.
ppl_ratio_max = 1.0125
confidence = 0.95
# mean_kl_max = 0.02
# top1_agreement_min = 0.95
# bits_per_weight_max = 6.0
# vendor_ppl_ratio = 1.0066            # what the vendor publishes: policy check compares the margin with it

[gate]
max_age_days = 365
required_roles = {roles}
min_signers = 1                      # distinct trusted keys, endorsements (ucaudit countersign) included
distinct_signers = {distinct}         # nobody counts twice; who made the record counts as developer only
require_trusted_time = false         # a time stamp, or a checkpoint that a trusted witness cosigned
allowed_codecs = ["ucq"]
# allowed_profiles = ["ucq-f32-bf16/1"]  # the arithmetic, with its version: ucaudit inspect names it
require_ledger = true
require_plan = {plan}
allow_inconclusive = false
# [[gate.thresholds]]                # k of n: two of the keys that the trust file calls validator
# role = "validator"
# keys = 2
# meanings = ["approval"]
# [[gate.exceptions]]
# claim = "ppl-ratio"
# owner = "who answers for it"
# rationale = "why"
# expires = "2027-01-31T00:00:00Z"

[report]
# institution = ""
# model_owner = ""
# intended_use = ""
# materiality = ""
# monitoring_plan = ""                 # how the model in use is watched, and when this evidence is renewed
classification = "{classification}"
"""

_PROFILES: Final = {
    "soc2": {"roles": "[]", "plan": "false", "distinct": "false", "classification": "Confidential"},
    "sr-11-7": {"roles": '["validator"]', "plan": "true", "distinct": "true", "classification": "Internal"},
    "fda": {"roles": '["validator"]', "plan": "true", "distinct": "true", "classification": "Confidential"},
}


def template(profile: str) -> str:
    """A commented policy for ``soc2``, ``sr-11-7`` or ``fda``."""
    return TEMPLATE.format(**_PROFILES[profile])


def profiles() -> tuple[str, ...]:
    """The profiles :func:`template` knows."""
    return tuple(_PROFILES)
