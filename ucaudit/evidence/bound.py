"""Every figure again from the saved per-token files, of a bundle or of a measurement that nobody signed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ucaudit.core import strictjson
from ucaudit.core.digest import sha256_file
from ucaudit.core.errors import InputError, MalformedRecordError, NotFoundError
from ucaudit.core.files import read_limited
from ucaudit.core.records import Attestation, Claim, Determination, Measurement, Results
from ucaudit.core.stats import (
    Judgement,
    VendorComparison,
    bootstrap_t_interval,
    compare_vendor_point,
    judge_at_most,
    t_interval,
)
from ucaudit.core.tokenvalues import TokenValues, load
from ucaudit.evidence.breakdown import Breakdown, break_down
from ucaudit.evidence.bundle import ATTESTATION, VALUE_FILES, open_bundle
from ucaudit.evidence.claims import (
    BOOTSTRAP_SEED,
    compute_results,
    determine,
    differences,
    judge_all,
    ratio_sample,
    tolerance_to_judge_by,
)

SUMMARY_FILE: Final = "measurement.json"
DEFAULT_CONFIDENCE: Final = 0.95
_MAX_SUMMARY: Final = 64 << 20
_DECIMAL: Final = re.compile(r"[0-9]{1,9}(?:\.(?P<decimals>[0-9]{1,12}))?")


@dataclass(frozen=True, slots=True)
class Published:
    """A vendor's point ratio as it was published.

    Attributes:
        ratio: as written, e.g. ``1.0066``; the decimals tell how it was rounded.
        windows: how many windows the vendor says it measured.
        seq_len: tokens a window; None if unknown.
        same_text: whether it was measured on this very text, which only the user can know.
    """

    ratio: str
    windows: int
    seq_len: int | None = None
    same_text: bool = False


@dataclass(frozen=True, slots=True)
class _Context:
    """What a measurement directory says of its values, beside the values."""

    seed: int = BOOTSTRAP_SEED
    tolerance: float = 0.0
    seq_len: int | None = None
    share: tuple[int, int, int] | None = None


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
        breakdown: by window, position and the reference's confidence.
        share: first window, end and number of the draw, if these are the values of a share only.
        comparison: with a published ratio, if one was given.
    """

    results: Results
    record: Attestation | None
    claims: tuple[Claim, ...]
    determination: Determination | None
    disagreements: tuple[str, ...]
    margin: float | None
    tolerance: float
    judgement: Judgement | None
    breakdown: Breakdown
    share: tuple[int, int, int] | None = None
    comparison: VendorComparison | None = None


def rederive(
    path: Path,
    *,
    margin: float | None = None,
    confidence: float | None = None,
    published: Published | None = None,
) -> Bound:
    """Recompute figures and verdicts.

    Args:
        path: a bundle, or a directory with the three per-token files (and ``measurement.json``, if ``measure`` made
            it: the numerical tolerance is in it, and is 0 without it).
        margin: a ratio to judge, above 0.
        confidence: two-sided; by default the record's, else 0.95. A record's own claims keep theirs.
        published: a vendor's point ratio to compare with.

    Raises:
        NotFoundError, MalformedRecordError: the files are missing or malformed.
        InputError: fewer than two windows, or a margin that is no ratio.
    """
    if margin is not None and not (margin > 0.0 and math.isfinite(margin)):
        raise InputError(f"a margin is a ratio above 0, found {margin!r}")
    require_measured(path)
    if not (path / ATTESTATION).exists():
        context = _from_summary(path / SUMMARY_FILE)
        values = load(path)
        shown = compute_results(values, confidence=confidence or DEFAULT_CONFIDENCE, seed=context.seed)
        return Bound(
            results=shown,
            record=None,
            claims=(),
            determination=None,
            disagreements=(),
            margin=margin,
            tolerance=context.tolerance,
            judgement=judge_margin(values, shown, margin, context.tolerance),
            breakdown=break_down(values, shown.ratio.confidence),
            share=context.share,
            comparison=_compare(values, shown, published, context.seq_len),
        )
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
    tolerance = tolerance_to_judge_by(record.measurement, values)
    return Bound(
        results=shown,
        record=record,
        claims=claims,
        determination=determine(claims, record.exceptions, record.created),
        disagreements=tuple(found),
        margin=margin,
        tolerance=tolerance,
        judgement=judge_margin(values, shown, margin, tolerance),
        breakdown=break_down(values, shown.ratio.confidence),
        comparison=_compare(values, shown, published, record.measurement.seq_len),
    )


def judge_margin(values: TokenValues, results: Results, margin: float | None, tolerance: float) -> Judgement | None:
    """Judge "the ratio is at most ``margin``" at the confidence and seed of ``results``; None without a margin."""
    if margin is None:
        return None
    windows, confidence = ratio_sample(values), results.ratio.confidence
    intervals = [
        t_interval(windows, confidence),
        bootstrap_t_interval(windows, confidence, seed=results.bootstrap_seed),
    ]
    return judge_at_most(windows, math.log(margin), intervals, tolerance=tolerance)


def _compare(
    values: TokenValues, results: Results, published: Published | None, seq_len: int | None
) -> VendorComparison | None:
    if published is None:
        return None
    match = _DECIMAL.fullmatch(published.ratio)
    if match is None:
        raise InputError(f"a published ratio is a number like 1.0066, found {published.ratio[:40]!r}")
    mismatch = None
    if not published.same_text:
        mismatch = "nothing says that it was measured on this text"
    elif published.seq_len is not None and seq_len is not None and published.seq_len != seq_len:
        mismatch = f"it was measured on windows of {published.seq_len} tokens, this on {seq_len}"
    return compare_vendor_point(
        ratio_sample(values),
        float(published.ratio),
        decimals=len(match["decimals"] or ""),
        vendor_windows=published.windows,
        confidence=results.ratio.confidence,
        mismatch=mismatch,
    )


def require_measured(path: Path) -> None:
    """Refuse a directory that holds neither a bundle nor a measurement. Raises NotFoundError, InputError."""
    hint = "give a bundle, its directory or .zip, or the directory that ucaudit measure wrote"
    try:
        names = {entry.name for entry in path.iterdir()}
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError("no such directory", subject=str(path), hint=hint) from error
    except OSError as error:
        raise InputError(f"cannot be listed: {error.strerror}", subject=str(path), hint=hint) from error
    if names.isdisjoint({ATTESTATION, SUMMARY_FILE, *VALUE_FILES}):
        raise NotFoundError("neither a bundle nor a measurement", subject=str(path), hint=hint)


def _from_summary(path: Path) -> _Context:
    """What a measurement directory's summary says; defaults where it has none."""
    if not path.exists():
        return _Context()
    subject = str(path)
    document = strictjson.loads(read_limited(path, _MAX_SUMMARY), subject=subject)
    try:
        measurement = Measurement.model_validate_json(strictjson.dumps(document["measurement"]))
        if "share" in document:
            first, end = document["share"]
            if not (type(first) is type(end) is int and 0 <= first < end <= measurement.n):
                raise ValueError("a share that is none")
            share = (first, end, measurement.n)
            return _Context(BOOTSTRAP_SEED, measurement.tolerance, measurement.seq_len, share)
        results = Results.model_validate_json(strictjson.dumps(document["results"]))
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedRecordError("not a measurement summary", subject=subject) from error
    return _Context(results.bootstrap_seed, measurement.tolerance, measurement.seq_len)
