"""Every figure again from the saved per-token files, of a bundle or of a measurement that nobody signed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from ucaudit.core import strictjson
from ucaudit.core.digest import sha256_file
from ucaudit.core.errors import InputError, MalformedRecordError
from ucaudit.core.files import read_limited
from ucaudit.core.records import Attestation, Claim, Determination, Measurement, Results
from ucaudit.core.stats import Judgement, bootstrap_t_interval, judge_at_most, t_interval
from ucaudit.core.tokenvalues import TokenValues, load
from ucaudit.evidence.bundle import ATTESTATION, open_bundle
from ucaudit.evidence.claims import (
    BOOTSTRAP_SEED,
    compute_results,
    determine,
    differences,
    judge_all,
    window_differences,
)

SUMMARY_FILE: Final = "measurement.json"
DEFAULT_CONFIDENCE: Final = 0.95
_MAX_SUMMARY: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Bound:
    """What the per-token files say.

    Attributes:
        results: every figure, recomputed.
        record: the bundle's record, None for bare files. Its signature was not judged here.
        claims: the record's claims, judged again at its own confidence.
        determination: what those claims amount to; None for bare files.
        disagreements: figures, verdicts and files that are not what the record says.
        margin: the ratio that was asked about.
        tolerance: the numerical tolerance on ln ratio that the judgement used.
        judgement: of "the ratio is at most the margin", if a margin was given.
    """

    results: Results
    record: Attestation | None
    claims: tuple[Claim, ...]
    determination: Determination | None
    disagreements: tuple[str, ...]
    margin: float | None
    tolerance: float
    judgement: Judgement | None


def rederive(path: Path, *, margin: float | None = None, confidence: float | None = None) -> Bound:
    """Recompute figures and verdicts.

    Args:
        path: a bundle, or a directory with the three per-token files (and ``measurement.json``, if ``measure`` made
            it: the numerical tolerance is in it, and is 0 without it).
        margin: a ratio to judge, above 0.
        confidence: two-sided; by default the record's, else 0.95. A record's own claims keep theirs.

    Raises:
        NotFoundError, MalformedRecordError: the files are missing or malformed.
        InputError: fewer than two windows, or a margin that is no ratio.
    """
    if margin is not None and not (margin > 0.0 and math.isfinite(margin)):
        raise InputError(f"a margin is a ratio above 0, found {margin!r}")
    if not (path / ATTESTATION).exists():
        seed, signed_tolerance = _from_summary(path / SUMMARY_FILE)
        values = load(path)
        shown = compute_results(values, confidence=confidence or DEFAULT_CONFIDENCE, seed=seed)
        judgement = judge_margin(values, shown, margin, signed_tolerance)
        return Bound(shown, None, (), None, (), margin, signed_tolerance, judgement)
    bundle = open_bundle(path)
    record = bundle.record
    values = load(bundle.path)
    signed = record.results
    again = compute_results(values, confidence=signed.ratio.confidence, seed=signed.bootstrap_seed)
    claims = judge_all(record, again, values)
    found = [
        f"{item.name} is not the file that was signed"
        for item in record.measurement.value_files
        if sha256_file(bundle.path / item.name) != item.sha256
    ]
    found += differences(signed, again)
    found += [
        f"claim {old.id}: signed {old.verdict}, re-derived {new.verdict}"
        for old, new in zip(record.claims, claims, strict=True)
        if old.verdict != new.verdict
    ]
    shown = again
    if confidence is not None and confidence != signed.ratio.confidence:
        shown = compute_results(values, confidence=confidence, seed=signed.bootstrap_seed)
    tolerance = record.measurement.tolerance
    return Bound(
        results=shown,
        record=record,
        claims=claims,
        determination=determine(claims, record.exceptions, record.created),
        disagreements=tuple(found),
        margin=margin,
        tolerance=tolerance,
        judgement=judge_margin(values, shown, margin, tolerance),
    )


def judge_margin(values: TokenValues, results: Results, margin: float | None, tolerance: float) -> Judgement | None:
    """Judge "the ratio is at most ``margin``" at the confidence and seed of ``results``; None without a margin."""
    if margin is None:
        return None
    windows, confidence = window_differences(values), results.ratio.confidence
    intervals = [
        t_interval(windows, confidence),
        bootstrap_t_interval(windows, confidence, seed=results.bootstrap_seed),
    ]
    return judge_at_most(windows, math.log(margin), intervals, tolerance=tolerance)


def _from_summary(path: Path) -> tuple[int, float]:
    """The bootstrap seed and numerical tolerance of a measurement directory; defaults where it has no summary."""
    if not path.exists():
        return BOOTSTRAP_SEED, 0.0
    subject = str(path)
    document = strictjson.loads(read_limited(path, _MAX_SUMMARY), subject=subject)
    try:
        measurement = Measurement.model_validate_json(strictjson.dumps(document["measurement"]))
        results = Results.model_validate_json(strictjson.dumps(document["results"]))
    except (KeyError, TypeError, ValidationError) as error:
        raise MalformedRecordError("not a measurement summary", subject=subject) from error
    return results.bootstrap_seed, measurement.tolerance
