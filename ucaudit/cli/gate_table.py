"""How many packs' verdicts are shown: a table, what failed, one JSON object."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ucaudit.cli.cmd_verify import document
from ucaudit.cli.common import Output, printable, table
from ucaudit.packs.batch import Outcome

_WORDS = {"admitted": "ADMITTED", "refused": "REFUSED", "inconclusive": "INCONCLUSIVE", "error": "NO VERDICT"}
_NAME_WIDTH = 28


def table_of_many(outcomes: Sequence[Outcome], out: Output) -> str:
    """What failed in each pack, then a row a pack, then the count; 80 columns wide."""
    parts = []
    for outcome in outcomes:
        lines = _failures(outcome)
        if lines:
            parts += [f"{printable(str(outcome.task.pack))}", *lines, ""]
    rows = [
        (_short(outcome.task.pack.name), _WORDS[outcome.verdict], outcome.task.policy.path.name, _why(outcome))
        for outcome in outcomes
    ]
    parts.append(table(rows, header=("pack", "verdict", "policy", "checks failed"), wrap=80))
    admitted = sum(outcome.verdict == "admitted" for outcome in outcomes)
    total = f"{admitted} of {len(outcomes)} ADMITTED"
    parts += ["", f"gate           {out.style(total, fg='green' if admitted == len(outcomes) else 'red')}"]
    return "\n".join(parts)


def document_of_many(outcomes: Sequence[Outcome], skipped: Sequence[Path], code: int) -> dict[str, Any]:
    """The outcome as ``--json`` prints it."""
    return {
        "packs": [_entry(outcome) for outcome in outcomes],
        "skipped": [str(path) for path in skipped],
        **{
            verdict: sum(outcome.verdict == verdict for outcome in outcomes)
            for verdict in ("admitted", "refused", "inconclusive", "error")
        },
        "exitCode": code,
    }


def complain_of_many(outcomes: Sequence[Outcome], out: Output) -> None:
    """One error line on stderr, about the first pack that was not admitted."""
    bad = [outcome for outcome in outcomes if outcome.verdict != "admitted"]
    if not bad:
        return
    note = f" (and {len(bad) - 1} more pack(s))" if len(bad) > 1 and not out.as_json else ""
    first = bad[0]
    error = first.error
    if first.judged is not None:
        error = next((check.error for check in first.judged.result.failures if check.error), None)
    if error is not None:
        out.finding(error, note=note)


def _entry(outcome: Outcome) -> dict[str, Any]:
    found: dict[str, Any] = {
        "path": str(outcome.task.pack),
        "policy": str(outcome.task.policy.path),
        "verdict": outcome.verdict,
        "seconds": round(outcome.seconds, 3),
    }
    if outcome.judged is not None:
        bundle = outcome.judged.evidence
        return {**found, **document(outcome.judged.result, judged=True), "bundle": str(bundle) if bundle else None}
    error = outcome.error
    assert error is not None
    return {
        **found,
        "admitted": False,
        "checks": [],
        "error": {"code": error.code, "message": str(error), "hint": error.hint},
        "exitCode": error.exit_code,
    }


def _failures(outcome: Outcome) -> list[str]:
    if outcome.judged is None:
        return _wrapped("none  ", str(outcome.error))
    lines = []
    for check in outcome.judged.result.failures:
        lines += _wrapped("FAIL  ", f"{check.slug}: {check.what}: {check.detail}")
    return lines


def _wrapped(mark: str, text: str) -> list[str]:
    found = textwrap.wrap(printable(text), 80 - len(mark) - 2, break_on_hyphens=False) or [""]
    return [f"  {mark}{found[0]}", *(" " * (len(mark) + 2) + line for line in found[1:])]


def _why(outcome: Outcome) -> str:
    if outcome.judged is None:
        return outcome.error.code if outcome.error else ""
    return ", ".join(dict.fromkeys(check.slug for check in outcome.judged.result.failures)) or "none"


def _short(name: str) -> str:
    clean = printable(name)
    return clean if len(clean) <= _NAME_WIDTH else f"{clean[: _NAME_WIDTH - 1]}…"
