"""``ucaudit bound``: every statistic and verdict again, from the saved per-token files alone."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ucaudit.cli.common import Output, output_options, table
from ucaudit.core.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS, VerificationError

if TYPE_CHECKING:
    from ucaudit.core.records import Interval
    from ucaudit.evidence.bound import Bound

_EXITS = {
    "pass": EXIT_PASS,
    "pass-with-exceptions": EXIT_PASS,
    "fail": EXIT_FAIL,
    "inconclusive": EXIT_INCONCLUSIVE,
}


@click.command()
@click.argument("evidence", type=click.Path(path_type=Path))
@click.option("--margin", type=float, help="Judge whether the ratio is at most this.")
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 0.999),
    help="Of the two-sided intervals  [default: the record's, else 0.95]",
)
@output_options
def bound(evidence: Path, margin: float | None, confidence: float | None, out: Output) -> int:
    """Recompute every statistic of EVIDENCE, a bundle or a measurement.

    Needs the per-token files alone. A bundle's record is compared with what they
    say, and its claims are judged again; its signature is not looked at, see
    `ucaudit verify`. Exits 1 if a figure disagrees, else by the verdict: on
    --margin if given, else on the record's claims.
    """
    from ucaudit.evidence.bound import rederive

    found = rederive(evidence, margin=margin, confidence=confidence)
    code = _exit_code(found)
    out.result(_document(found, code), _text(found))
    if (problem := _problem(found)) is not None:
        more = len(found.disagreements) - 1
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
        "error": {"code": problem.code, "message": str(problem), "hint": problem.hint} if problem else None,
        "exitCode": code,
    }


def _text(found: Bound) -> str:
    results = found.results
    effect = results.design_effect
    rows = [
        ("windows, tokens", f"{results.windows:,}, {results.tokens:,}"),
        ("perplexity ratio", _interval(results.ratio)),
        ("  bootstrap-t", _interval(results.ratio_bootstrap)),
        ("perplexity", f"reference {results.ppl_reference:.4f}, pack {results.ppl_pack:.4f}"),
        ("spread of windows", f"{results.sd_difference:.3g} nats"),
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
    lines = [table([(name, value) for name, value in rows])]
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
        lines += ["", *textwrap.wrap(sentence, 80, break_on_hyphens=False)]
    return "\n".join(lines)


def _interval(interval: Interval) -> str:
    from ucaudit.report.formatting import interval_decimals, number

    if "unbounded" in interval.method:
        return f"{interval.estimate:.6g}  not bounded: too few windows that differ"
    decimals = interval_decimals(interval.lower, interval.upper)
    lower, estimate, upper = (number(x, decimals) for x in (interval.lower, interval.estimate, interval.upper))
    return f"{estimate}  [{lower}, {upper}] at {interval.confidence:.4g}"


def _rank(percent: float) -> str:
    return "max" if percent == 100 else f"p{percent:g}"
