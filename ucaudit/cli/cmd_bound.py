"""``ucaudit bound``: every statistic and verdict again, from the saved per-token files alone."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ucaudit.cli.common import Output, output_options, table
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS, VerificationError

if TYPE_CHECKING:
    from ucaudit.core.records import Interval
    from ucaudit.core.stats import Interval as Estimate
    from ucaudit.evidence.bound import Bound
    from ucaudit.evidence.breakdown import Cell
    from ucaudit.evidence.bundle import OpenBundle

_EXITS = {
    "pass": EXIT_PASS,
    "pass-with-exceptions": EXIT_PASS,
    "fail": EXIT_FAIL,
    "inconclusive": EXIT_INCONCLUSIVE,
}
_COMPARED = {
    "better": EXIT_PASS,
    "consistent": EXIT_PASS,
    "worse": EXIT_FAIL,
    "cannot tell": EXIT_INCONCLUSIVE,
    "not comparable": EXIT_INCONCLUSIVE,
}


@click.command()
@click.argument("evidence", type=PATH)
@click.option("--margin", type=float, help="Judge whether the ratio is at most this.")
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 0.999),
    help="Of the two-sided intervals  [default: the record's, else 0.95]",
)
@click.option(
    "--by",
    type=click.Choice(["window", "position", "confidence"]),
    help="Print this breakdown in full instead of the summary.",
)
@click.option("--published", metavar="RATIO", help="Compare with a vendor's point ratio, as published: 1.0066.")
@click.option(
    "--published-n", type=click.IntRange(min=1), default=50, show_default=True, help="Windows it was measured on."
)
@click.option("--published-seq-len", type=click.IntRange(min=2), help="Tokens a window it was measured on.")
@click.option("--same-text", is_flag=True, help="It was measured on the text that was measured here.")
@output_options
def bound(
    evidence: Path,
    margin: float | None,
    confidence: float | None,
    by: str | None,
    published: str | None,
    published_n: int,
    published_seq_len: int | None,
    same_text: bool,
    out: Output,
) -> int:
    """Recompute every statistic of EVIDENCE, a bundle or a measurement.

    Needs the per-token files alone. A bundle's record is compared with what they
    say, and its claims are judged again; its signature is not looked at, see
    `ucaudit verify`. Exits 1 if a figure disagrees, else by the verdict: on
    --margin if given, else on --published, else on the record's claims.
    """
    from ucaudit.evidence.archive import bundle_directory
    from ucaudit.evidence.bound import Published, rederive, require_measured

    vendor = None if published is None else Published(published, published_n, published_seq_len, same_text)
    with bundle_directory(evidence) as directory:
        require_measured(directory)
        if (floor := _floor_in(directory)) is not None:
            if margin is not None or published is not None or by is not None or confidence is not None:
                raise click.UsageError("this is a floor: its protocol fixes margin, confidence and comparison")
            return _bound_floor(floor, out)
        found = rederive(directory, margin=margin, confidence=confidence, published=vendor)
    code = _exit_code(found)
    out.result(_document(found, code), _text(found) if by is None else _table(found, by))
    if (problem := _problem(found)) is not None:
        more = len(found.disagreements) - 1
        out.finding(problem, note=f" (and {more} more)" if more else "")
    return code


def _floor_in(directory: Path) -> OpenBundle | None:
    """The bundle, if it holds a floor; its signature is not looked at."""
    from ucaudit.evidence.bundle import ATTESTATION, open_bundle

    if not (directory / ATTESTATION).exists():
        return None
    bundle = open_bundle(directory)
    return bundle if bundle.is_floor else None


def _bound_floor(bundle: OpenBundle, out: Output) -> int:
    """A floor derived again from its per-token files, and what disagrees with the record."""
    from ucaudit.cli.floor_text import EXITS, floor_document, floor_lines, published_lines
    from ucaudit.core.records import Floor
    from ucaudit.evidence.floors.contents import floor_differences, rederive_floor
    from ucaudit.evidence.signing import read_statement

    record = read_statement(bundle.attestation).predicate
    assert isinstance(record, Floor)
    again = rederive_floor(bundle, record)
    changed = floor_differences(record, again)
    hint = "the record does not follow from its per-token files; trust neither"
    problem = VerificationError(changed[0], hint=hint) if changed else None
    code = EXIT_FAIL if changed else EXITS[again.results.verdict]
    document = {
        **floor_document(again.results, again.published),
        "disagreements": changed,
        "error": {"code": problem.code, "message": str(problem), "hint": problem.hint} if problem else None,
        "exitCode": code,
    }
    lines = [*floor_lines(record, again.results), *published_lines(record, again.published)]
    out.result(
        document, "\n".join([*lines, "(derived again from the per-token files; signature not checked here)"])
    )
    if problem is not None:
        more = len(changed) - 1
        out.finding(problem, note=f" (and {more} more)" if more else "")
    return code


def _problem(found: Bound) -> VerificationError | None:
    if not found.disagreements:
        return None
    hint = "the record does not follow from its per-token files; trust neither"
    return VerificationError(found.disagreements[0], hint=hint)


def _exit_code(found: Bound) -> int:
    if found.disagreements:
        return EXIT_FAIL
    if found.judgement is not None:
        return _EXITS[found.judgement.decision]
    if found.comparison is not None:
        return _COMPARED[found.comparison.outcome]
    return _EXITS[found.determination] if found.determination is not None else EXIT_PASS


def _document(found: Bound, code: int) -> dict[str, Any]:
    judgement, problem = found.judgement, _problem(found)
    return {
        "results": found.results.model_dump(mode="json", by_alias=True),
        "claims": [claim.model_dump(mode="json", by_alias=True) for claim in found.claims],
        "determination": found.determination,
        "disagreements": list(found.disagreements),
        "margin": found.margin,
        "tolerance": found.tolerance,
        "verdict": judgement.decision if judgement else None,
        "reason": judgement.reason if judgement else None,
        "decidingN": judgement.deciding_n if judgement else None,
        "breakdown": found.breakdown.to_json(),
        "share": None if found.share is None else dict(zip(("first", "end", "n"), found.share, strict=True)),
        "published": None
        if found.comparison is None
        else {
            "outcome": found.comparison.outcome,
            "reason": found.comparison.reason,
            "lower": found.comparison.lower,
            "upper": found.comparison.upper,
        },
        "error": {"code": problem.code, "message": str(problem), "hint": problem.hint} if problem else None,
        "exitCode": code,
    }


def _text(found: Bound) -> str:
    results = found.results
    effect = results.design_effect
    documents = "" if results.documents is None else f", from {results.documents:,} documents"
    rows = [
        ("windows, tokens", f"{results.windows:,}, {results.tokens:,}{documents}"),
        ("perplexity ratio", _interval(results.ratio)),
        ("  bootstrap-t", _interval(results.ratio_bootstrap)),
        ("perplexity", f"reference {results.ppl_reference:.4f}, pack {results.ppl_pack:.4f}"),
        ("spread of windows", _spread(found)),
        ("design effect", "none: tokens do not differ" if effect is None else f"{effect:.2f}"),
        ("mean KL, nats", _interval(results.kl)),
        ("  bootstrap-t", _interval(results.kl_bootstrap)),
        ("KL as observed", ", ".join(f"{_rank(p.percent)} {p.value:.2g}" for p in results.kl_percentiles[:3])),
        ("", ", ".join(f"{_rank(p.percent)} {p.value:.2g}" for p in results.kl_percentiles[3:])),
        ("top-1 agreement", _interval(results.top1)),
        ("rms Δp, TV bound", f"{results.rms_delta_p:.3g}, {results.tv_bound:.3g}"),
    ]
    if results.minimum_detectable_drift is not None:
        rows.append(("detectable drift", f"{results.minimum_detectable_drift:.2%} at this n, power 0.9"))
    lines = []
    if found.share is not None:
        first, end, n = found.share
        sentence = f"A share: windows {first} to {end} of the {n} drawn. Join all shares with: ucaudit merge"
        lines += [sentence, ""]
    lines += [table([(name, value) for name, value in rows]), ""]
    lines += [_cells("by position", found.breakdown.positions), ""]
    lines.append(_cells("by p(token)", found.breakdown.confidence))
    if found.determination is not None:
        lines.append("")
        lines += [
            f"claim {claim.id} {claim.comparator} {claim.threshold:g}: {claim.verdict.upper()}"
            for claim in found.claims
        ]
        lines.append(f"determination {found.determination.upper()} (signature not checked here)")
    if found.judgement is not None:
        sentence = (
            f"ratio <= {found.margin:.12g}: {found.judgement.decision.upper()}: {found.judgement.reason} "
            f"(numerical tolerance {found.tolerance:.2g})"
        )
        lines += ["", *_wrapped(sentence)]
    if found.comparison is not None:
        given = found.comparison
        sentence = f"published ratio: {given.outcome.upper()}: {given.reason}"
        if given.lower is not None and given.upper is not None:
            sentence += f" (its protocol would give {given.lower:.5f} to {given.upper:.5f})"
        lines += ["", *_wrapped(sentence)]
    return "\n".join(lines)


def _table(found: Bound, by: str) -> str:
    """One breakdown, in full."""
    breakdown = found.breakdown
    if by == "position":
        return _cells("by position", breakdown.positions)
    if by == "confidence":
        return _cells("by p(token)", breakdown.confidence, difference=True)
    known = found.results.documents is not None
    header = ("window", *(("document",) if known else ()), "NLL difference", "mean KL", "top-1")
    rows = [
        (
            str(row.window),
            *((str(row.document),) if known else ()),
            f"{row.difference:+.5f}",
            f"{row.kl:.5f}",
            f"{row.top1:.4f}",
        )
        for row in breakdown.windows
    ]
    return table(rows, header=header)


def _cells(title: str, cells: Sequence[Cell], *, difference: bool = False) -> str:
    """A table of cells. 80 columns hold two intervals: by confidence, agreement gives way to the difference."""
    by_position = title == "by position"
    shows_difference = by_position or difference
    header = [title, "tokens", *(["NLL difference"] if shows_difference else []), "mean KL"]
    rows = []
    for cell in cells:
        if by_position:
            name = f"{cell.low:.0f}" if cell.low == cell.high else f"{cell.low:.0f} to {cell.high:.0f}"
        else:
            name = f"{cell.low:g} to {cell.high:g}"
        columns = [f"  {name}", f"{cell.tokens:,}"]
        columns += [_short_interval(cell.difference)] if shows_difference else []
        columns.append(_short_interval(cell.kl))
        if not shows_difference:
            columns.append("" if cell.top1 is None else f"{cell.top1:.4f}")
        rows.append(tuple(columns))
    return table(rows, header=(*header, *([] if shows_difference else ["top-1"])))


def _short_interval(interval: Estimate | None) -> str:
    from ucaudit.report.formatting import interval_decimals, number

    if interval is None:
        return "too few windows"
    decimals = min(interval_decimals(interval.lower, interval.upper), 5)
    lower, estimate, upper = (number(x, decimals) for x in (interval.lower, interval.estimate, interval.upper))
    return f"{estimate} [{lower}, {upper}]"


def _spread(found: Bound) -> str:
    differences = sorted(row.difference for row in found.breakdown.windows)
    text = f"{found.results.sd_difference:.3g} nats, from {differences[0]:.3g} to {differences[-1]:.3g}"
    skewness = found.breakdown.skewness
    return text if skewness is None else f"{text}, skewness {skewness:.1f}"


def _wrapped(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, 80, break_on_hyphens=False)


def _interval(interval: Interval) -> str:
    from ucaudit.report.formatting import interval_decimals, number

    if "unbounded" in interval.method:
        return f"{interval.estimate:.6g}  not bounded: too few windows that differ"
    decimals = interval_decimals(interval.lower, interval.upper)
    lower, estimate, upper = (number(x, decimals) for x in (interval.lower, interval.estimate, interval.upper))
    return f"{estimate}  [{lower}, {upper}] at {interval.confidence:.4g}"


def _rank(percent: float) -> str:
    return "max" if percent == 100 else f"p{percent:g}"
