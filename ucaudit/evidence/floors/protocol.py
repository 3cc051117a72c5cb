"""``PROTOCOL.toml``: what a floor protocol declares, read strictly. docs/floors.md describes every setting.

A perturbation turns exactly the knob of its direction, and turns it up: whatever else it changed would be an
attempt at something that nobody declared, and a smaller rank or a shorter schedule is no attempt to do better.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, ValidationError

from ucaudit.core.digest import sha256_hex
from ucaudit.core.errors import MalformedProtocolError
from ucaudit.core.files import read_limited
from ucaudit.core.records import (
    Direction,
    EncoderSettings,
    FloorProtocol,
    NamedDigest,
    Perturbation,
    PublishedFloor,
    Record,
)
from ucaudit.core.records.base import Name, Sha256, Slug
from ucaudit.core.records.floor import MAX_RUNS, FloorMetric
from ucaudit.core.records.problems import first_problem
from ucaudit.core.spans import SPAN_PATTERN
from ucaudit.core.stats import MINIMUM_SEEDS
from ucaudit.evidence.suggest import refuse_unknown

BASELINE: Final = "baseline"
KNOBS: Final[dict[Direction, str]] = {"capacity": "rank", "schedule": "steps", "objective": "kl_weight"}
"""Direction → the one setting that its perturbations change."""
MAX_SEED: Final = 2**31 - 1
_MAX_PROTOCOL: Final = 1 << 20


class _Table(Record):
    """Snake case, as TOML users write."""

    model_config = ConfigDict(alias_generator=lambda name: name)


class _Model(_Table):
    path: Name
    state_digest: Sha256 | None = None
    source: str | None = None
    revision: str | None = None
    note: str | None = None


class _Measurement(_Table):
    corpus: Name
    corpus_sha256: Sha256 | None = None
    text_column: Name | None = None
    rows: Annotated[str | None, Field(pattern=SPAN_PATTERN)] = None
    n: Annotated[int, Field(ge=2, le=1_000_000)] = 60
    confirm_n: Annotated[int | None, Field(ge=2, le=1_000_000)] = None
    seq_len: Annotated[int, Field(ge=2, le=1_048_576)] = 1024
    seed: int = 42
    dtype: Literal["fp32", "bf16"] = "fp32"


class _Claim(_Table):
    metric: FloorMetric
    margin: Annotated[float, Field(gt=0, le=1)]
    confidence: Annotated[float, Field(ge=0.5, le=0.999)] = 0.95
    seeds: Annotated[tuple[int, ...], Field(max_length=60)] = (1, 2, 3, 4, 5)


class _Baseline(EncoderSettings):
    model_config = ConfigDict(alias_generator=lambda name: name)
    calibration: Name
    calibration_sha256: Sha256 | None = None


class _Perturbation(_Table):
    name: Slug
    direction: Direction
    bits: int | None = None
    group: int | None = None
    rank: int | None = None
    steps: int | None = None
    kl_weight: float | None = None
    sequences: int | None = None
    seq_len: int | None = None


class _Published(PublishedFloor):
    model_config = ConfigDict(alias_generator=lambda name: name)


class _File(_Table):
    name: Slug
    model: _Model
    measurement: _Measurement
    floor: _Claim
    baseline: _Baseline
    perturbation: Annotated[tuple[_Perturbation, ...], Field(min_length=1, max_length=8)]
    published: _Published | None = None


_TABLES: Final[dict[str, type[Record]]] = {
    "model": _Model,
    "measurement": _Measurement,
    "floor": _Claim,
    "baseline": _Baseline,
    "published": _Published,
}


@dataclass(frozen=True)
class LoadedProtocol:
    """A protocol with the file it came from and the files it names.

    Attributes:
        protocol: what is signed.
        path: the file.
        data: its bytes.
        model, corpus, calibration: as the file names them, relative to its own directory.
        pins: expected SHA-256 of the corpus and of the calibration text, and the reference's state, where given.
        text_column, rows: of a corpus with rows.
        source, revision, note: what is said of the reference.
    """

    protocol: FloorProtocol
    path: Path
    data: bytes
    model: Path
    corpus: Path
    calibration: Path
    pins: dict[str, str | None]
    text_column: str | None
    rows: str | None
    source: str | None
    revision: str | None
    note: str | None

    @property
    def file(self) -> NamedDigest:
        """The file by name and digest."""
        return NamedDigest(name=self.path.name, sha256=sha256_hex(self.data))


def load_protocol(path: Path) -> LoadedProtocol:
    """Read a protocol file.

    Raises:
        NotFoundError: no such file.
        MalformedProtocolError: not TOML, an unknown setting (with did-you-mean), a value out of range, or a
            perturbation that is none: the baseline again, one that differs in more than its knob, or one that
            another repeats.
    """
    data = read_limited(path, _MAX_PROTOCOL)
    subject = str(path)
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MalformedProtocolError(f"not toml: {error}", subject=subject) from error
    _refuse_typos(document, subject)
    try:
        # By way of JSON, where strictness admits a list for a tuple, and still no "50" or true for a number.
        file = _File.model_validate_json(json.dumps(document, default=str))
    except (ValidationError, ValueError) as error:
        raise MalformedProtocolError(_first(error), subject=subject) from error
    seeds = file.floor.seeds
    if len(set(seeds)) < MINIMUM_SEEDS or len(set(seeds)) != len(seeds):
        what = "named twice" if len(set(seeds)) != len(seeds) else f"{len(seeds)} of them"
        raise MalformedProtocolError(
            f"floor.seeds: at least {MINIMUM_SEEDS} different encoder seeds are needed, {what}", subject=subject
        )
    if any(not 0 <= seed <= MAX_SEED for seed in seeds):
        raise MalformedProtocolError(f"floor.seeds: a seed lies between 0 and {MAX_SEED}", subject=subject)
    baseline = EncoderSettings(**file.baseline.model_dump(exclude={"calibration", "calibration_sha256"}))
    attempts = tuple(_attempt(item, baseline, subject) for item in file.perturbation)
    _refuse_repeats(attempts, subject)
    if (count := (1 + len(attempts)) * len(seeds)) > MAX_RUNS:
        raise MalformedProtocolError(f"{count} encodings are asked for, at most {MAX_RUNS}", subject=subject)
    rules, claim = file.measurement, file.floor
    protocol = FloorProtocol(
        name=file.name,
        metric=claim.metric,
        margin=claim.margin,
        confidence=claim.confidence,
        seeds=seeds,
        n=rules.n,
        confirm_n=rules.confirm_n or rules.n,
        seq_len=rules.seq_len,
        seed=rules.seed,
        dtype=rules.dtype,
        baseline=baseline,
        perturbations=attempts,
        published=None if file.published is None else PublishedFloor(**file.published.model_dump()),
    )
    here = path.parent
    return LoadedProtocol(
        protocol=protocol,
        path=path,
        data=data,
        model=here / file.model.path,
        corpus=here / rules.corpus,
        calibration=here / file.baseline.calibration,
        pins={
            "corpus": rules.corpus_sha256,
            "calibration": file.baseline.calibration_sha256,
            "state": file.model.state_digest,
        },
        text_column=rules.text_column,
        rows=rules.rows,
        source=file.model.source,
        revision=file.model.revision,
        note=file.model.note,
    )


def _attempt(item: _Perturbation, baseline: EncoderSettings, subject: str) -> Perturbation:
    """The perturbation's whole settings. Raises MalformedProtocolError if it is not one."""
    place = f"perturbation {item.name}"
    if item.name == BASELINE:
        raise MalformedProtocolError(f"{place}: the name is the baseline's", subject=subject)
    knob = KNOBS[item.direction]
    given = item.model_dump(exclude={"name", "direction"}, exclude_none=True)
    before = baseline.model_dump()
    changed = sorted(name for name, value in given.items() if value != before[name])
    others = [name for name in changed if name != knob]
    if others:
        raise MalformedProtocolError(
            f"{place}: differs from the baseline in {', '.join(others)}; the knob of {item.direction} is {knob}, "
            "and nothing else may change",
            subject=subject,
            hint=f"make it a baseline of its own, or leave {others[0]} out",
        )
    if knob not in changed:
        raise MalformedProtocolError(
            f"{place}: equal to the baseline: {knob} is {before[knob]:g} in both",
            subject=subject,
            hint=f"a perturbation in the direction {item.direction} gives another {knob}",
        )
    if given[knob] < before[knob]:
        raise MalformedProtocolError(
            f"{place}: {knob} goes down from {before[knob]:g} to {given[knob]:g}: that is no attempt to do better",
            subject=subject,
            hint=f"give a larger {knob}",
        )
    if item.direction == "objective" and not baseline.steps:
        raise MalformedProtocolError(
            f"{place}: equal to the baseline: kl_weight has no effect without training",
            subject=subject,
            hint="give [baseline] steps",
        )
    try:
        # Validated as JSON: the same strictness as the file's.
        settings = EncoderSettings.model_validate_json(json.dumps({**before, knob: given[knob]}))
    except ValidationError as error:
        raise MalformedProtocolError(f"{place}: {_first(error)}", subject=subject) from error
    return Perturbation(name=item.name, direction=item.direction, settings=settings)


def _refuse_repeats(attempts: tuple[Perturbation, ...], subject: str) -> None:
    names: dict[str, None] = {}
    seen: dict[EncoderSettings, str] = {}
    for item in attempts:
        if item.name in names:
            raise MalformedProtocolError(f"two perturbations are called {item.name}", subject=subject)
        names[item.name] = None
        if (other := seen.get(item.settings)) is not None:
            raise MalformedProtocolError(f"perturbation {item.name}: the same as {other}", subject=subject)
        seen[item.settings] = item.name


def _refuse_typos(document: dict[str, Any], subject: str) -> None:
    known = _File.model_fields
    refuse_unknown(document, known, subject=subject, place="", error=MalformedProtocolError)
    for name, model in _TABLES.items():
        table = document.get(name, {})
        if not isinstance(table, dict):
            raise MalformedProtocolError(f"[{name}] is a table", subject=subject)
        refuse_unknown(table, model.model_fields, subject=subject, place=name, error=MalformedProtocolError)
    items = document.get("perturbation", [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise MalformedProtocolError("write [[perturbation]] tables", subject=subject)
    for item in items:
        fields = _Perturbation.model_fields
        refuse_unknown(item, fields, subject=subject, place="perturbation", error=MalformedProtocolError)


def _first(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    return first_problem(error)
