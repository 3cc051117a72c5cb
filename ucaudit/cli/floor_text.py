"""A floor's outcome in at most 80 columns: what ``floor``, ``verify`` and ``bound`` print of one."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, Final

from ucaudit.cli.common import table
from ucaudit.core.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS

if TYPE_CHECKING:
    from ucaudit.core.records import Floor, FloorAttempt, FloorResults, Interval, PublishedComparison

EXITS: Final = {"supported": EXIT_PASS, "refuted": EXIT_FAIL, "inconclusive": EXIT_INCONCLUSIVE}
"""Verdict → exit code of the contract."""
_LOUD: Final = {
    "supported": "SUPPORTED",
    "refuted": "REFUTED",
    "inconclusive": "INCONCLUSIVE",
}


def floor_lines(record: Floor, results: FloorResults | None = None) -> list[str]:
    """The outcome: levels, attempts, verdict, what would decide, and a published floor beside it."""
    found, protocol = results or record.results, record.protocol
    metric = "ln ratio" if protocol.metric == "pplRatio" else "mean KL"
    lines = [
        f"floor          {protocol.name}: {len(protocol.perturbations)} attempts, {len(protocol.seeds)} seeds "
        f"each, {found.windows} windows",
        f"margin         {protocol.margin:g} nats of {metric}, at {protocol.confidence:.4g}",
        "",
    ]
    levels = [(item.arm, _short(item.ratio), _short(item.kl)) for item in found.levels]
    lines += [*table(levels, header=("arm", "ratio", "mean KL, nats")).splitlines(), ""]
    lines += _attempts(found.attempts)
    if found.confirmation is not None:
        lines += ["", f"on {found.confirmation.windows} fresh windows", *_attempts(found.confirmation.attempts)]
    lines.append("")
    lines += _wrapped(f"verdict        {_LOUD[found.verdict]}: {found.reason}")
    if found.floor is not None:
        what = "floor" if found.verdict == "supported" else "new level"
        lines.append(f"{what:<15}{found.floor.arm}: ratio {_short(found.floor.ratio)}")
    if found.deciding is not None:
        lines += _wrapped(f"would decide   {_deciding(found)}")
    return lines


def published_lines(record: Floor, found: PublishedComparison | None) -> list[str]:
    """A published floor beside the measured level."""
    if found is None or record.protocol.published is None:
        return []
    text = f"published      {record.protocol.published.ratio}: {found.outcome.upper()}: {found.reason}"
    if found.lower is not None and found.upper is not None:
        text += f" ({found.lower:.5f} to {found.upper:.5f})"
    return _wrapped(text)


def floor_document(results: FloorResults, published: PublishedComparison | None) -> dict[str, Any]:
    """The figures for ``--json``."""
    return {
        "verdict": results.verdict,
        "reason": results.reason,
        "results": results.model_dump(mode="json", by_alias=True),
        "published": None if published is None else published.model_dump(mode="json", by_alias=True),
    }


def _attempts(attempts: tuple[FloorAttempt, ...]) -> list[str]:
    from ucaudit.report.forest import OUTCOMES

    rows = []
    for item in attempts:
        rows.append(
            (
                item.name[:24],
                item.direction,
                f"{item.improvement:+.5f} [{item.lower:+.5f}, {item.upper:+.5f}]",
                OUTCOMES[item.outcome],
            )
        )
    return table(rows, header=("attempt", "direction", "improvement, nats", "outcome")).splitlines()


def _deciding(found: FloorResults) -> str:
    deciding = found.deciding
    assert deciding is not None
    parts = []
    if deciding.windows is not None:
        parts.append(f"about {deciding.windows:,} windows with these seeds")
    if deciding.seeds is not None:
        parts.append(f"about {deciding.seeds:,} seeds with these windows")
    if deciding.both is not None:
        parts.append("about {:,} windows with {:,} seeds".format(*deciding.both))
    return ", or ".join(parts) if parts else "no number of windows or seeds: the improvement lies on the margin"


def _short(interval: Interval) -> str:
    from ucaudit.report.formatting import interval_decimals, number

    decimals = min(interval_decimals(interval.lower, interval.upper), 6)
    lower, estimate, upper = (number(x, decimals) for x in (interval.lower, interval.estimate, interval.upper))
    return f"{estimate} [{lower}, {upper}]"


def _wrapped(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, 80, subsequent_indent=" " * 15, break_on_hyphens=False)
