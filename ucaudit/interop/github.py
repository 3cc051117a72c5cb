"""What a GitHub runner shows: annotations (workflow commands), the step's summary, the step's outputs.

Source: GitHub's documentation of workflow commands. A value must not break out of its command, and a pack's file
names are a stranger's words: everything is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from ucaudit.core.errors import UcauditError
from ucaudit.evidence.checks import Check
from ucaudit.packs.batch import Outcome

MAX_ANNOTATIONS: Final = 10
"""A runner shows no more of one kind a step."""
MAX_SUMMARY_BYTES: Final = 1 << 20
_ROWS: Final = 50
_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]<>()#+!|~&-])")
_MARKS: Final = {
    "admitted": "ADMITTED",
    "refused": "REFUSED",
    "inconclusive": "INCONCLUSIVE",
    "error": "NO VERDICT",
}


def commands(outcomes: Sequence[Outcome]) -> list[str]:
    """Annotations: an error for each check that failed and each pack without a verdict, at most ten in all."""
    found = list(_errors(outcomes))
    if len(found) > MAX_ANNOTATIONS:
        rest = len(found) - MAX_ANNOTATIONS + 1
        found = [*found[: MAX_ANNOTATIONS - 1], ("ucaudit gate", f"and {rest} more: see the step's summary")]
    return [f"::error title={_property(title)}::{_data(text)}" for title, text in found]


def command_of_error(error: UcauditError) -> str:
    """The annotation of a run in which no pack could be judged."""
    hint = f"\n{error.hint}" if error.hint else ""
    return f"::error title=ucaudit gate::{_data(f'no verdict: {error}{hint}')}"


def _errors(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, str]]:
    for outcome in outcomes:
        title = f"ucaudit gate {outcome.task.pack.name}"
        if outcome.judged is None:
            yield title, f"no verdict: {outcome.error}"
            continue
        for check in outcome.judged.result.failures:
            hint = f"\n{check.error.hint}" if check.error and check.error.hint else ""
            yield f"{title}: {check.slug}", f"{check.what}: {check.detail}{hint}"


def summary(outcomes: Sequence[Outcome]) -> str:
    """The step's summary in Markdown: a table of the packs, then what failed in each."""
    admitted = sum(outcome.verdict == "admitted" for outcome in outcomes)
    parts = [
        f"### ucaudit gate: {admitted} of {len(outcomes)} pack(s) admitted\n",
        "| pack | verdict | checks failed |",
        "| --- | --- | --- |",
    ]
    for outcome in outcomes:
        failed = _slugs(outcome)
        parts.append(f"| {_text(outcome.task.pack.name)} | {_MARKS[outcome.verdict]} | {failed} |")
    for outcome in outcomes:
        parts += _details(outcome)
    text = "\n".join(parts) + "\n"
    data = text.encode("utf-8", "replace")
    if len(data) <= MAX_SUMMARY_BYTES // 2:
        return text
    cut = data[: MAX_SUMMARY_BYTES // 2].decode("utf-8", "ignore").rpartition("\n")[0]
    return f"{cut}\n\nMore than fits here: see the step's log.\n"


def _slugs(outcome: Outcome) -> str:
    if outcome.judged is None:
        return _text(outcome.error.code if outcome.error else "error")
    return ", ".join(dict.fromkeys(check.slug for check in outcome.judged.result.failures)) or "none"


def _details(outcome: Outcome) -> Iterator[str]:
    if outcome.judged is None:
        yield f"\n**{_text(outcome.task.pack.name)}**: {_text(str(outcome.error))}"
        return
    failures = outcome.judged.result.failures
    if not failures:
        return
    yield f"\n**{_text(outcome.task.pack.name)}**\n"
    for check in failures[:_ROWS]:
        yield f"- `{check.slug}` {_text(_sentence(check))}"
    if len(failures) > _ROWS:
        yield f"- and {len(failures) - _ROWS} more"


def _sentence(check: Check) -> str:
    return f"{check.what}: {check.detail}"


def outputs(outcomes: Sequence[Outcome], code: int) -> str:
    """``name=value`` lines for the step's outputs: ``verdict``, ``exit-code``, ``admitted``, ``refused``."""
    admitted = sum(outcome.verdict == "admitted" for outcome in outcomes)
    verdict = {0: "admitted", 1: "refused", 5: "inconclusive"}.get(code, "error")
    return f"verdict={verdict}\nexit-code={code}\nadmitted={admitted}\nrefused={len(outcomes) - admitted}\n"


def _data(text: str) -> str:
    return _printable(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _text(text: str) -> str:
    """Markdown that shows ``text`` as it is: no markup, no HTML, no line breaks, no mentions."""
    one_line = " ".join(_printable(text).split())
    return _SPECIAL.sub(r"\\\1", one_line).replace("@", "@\u200b")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
