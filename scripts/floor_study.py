"""Bring the figures in docs/floor-study.md up to date with its bundles, or with --check fail if they are not.

Every figure between the two marks is the record's own; nothing there is written by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ucaudit.core.records import Floor
from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.ledger import LedgerEntry
from ucaudit.evidence.signing import read_statement
from ucaudit.report.forest import VERDICTS, floor_section

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "floor-study.md"
BUNDLES = ROOT / "docs" / "floor-study" / "bundles"
BEGIN, END = "<!-- figures: scripts/floor_study.py -->", "<!-- end of figures -->"


def records() -> dict[str, Floor]:
    """Name → record of every bundle, in the order in which they were planned."""
    found = {}
    for path in BUNDLES.iterdir():
        record = read_statement(open_bundle(path).attestation).predicate
        assert isinstance(record, Floor)
        found[path.name] = record
    return dict(sorted(found.items(), key=lambda item: item[1].plan.ledger_index or 0))


def figures() -> str:
    """The section between the marks."""
    lines = [
        "| protocol | plan, result in the ledger | verdict | level of the floor: ratio, mean KL |",
        "|---|---|---|---|",
    ]
    made = records()
    for name, record in made.items():
        entry = LedgerEntry.parse((BUNDLES / name / "ledger-entry.json").read_bytes(), subject=name)
        plan = LedgerEntry.parse((BUNDLES / name / "plan-ledger-entry.json").read_bytes(), subject=name)
        section = floor_section(record)
        level = record.results.floor
        levels = {arm: (ratio, kl) for arm, ratio, kl in section.levels}
        shown = "–" if level is None else ", ".join(levels[level.arm])
        if level is not None and record.results.confirmation is not None:
            shown = f"{level.arm}, on fresh windows: {level.ratio.estimate:.4f}, {level.kl.estimate:.5f}"
        index = record.plan.ledger_index
        lines.append(
            f"| {name} | entry {index} ({plan.recorded_at}), then {entry.recorded_at} | "
            f"**{VERDICTS[record.results.verdict].lower()}** | {shown} |"
        )
    for name, record in made.items():
        section = floor_section(record)
        lines += [
            "",
            f"### {name}",
            "",
            f"Margin {section.margin} of {section.metric}. Verdict: {section.reason}.",
            "",
        ]
        lines += [
            "| attempt | direction | windows | improvement, nats | interval | outcome |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row.name} | {row.direction} | {row.windows} | {row.improvement} | {row.interval} | {row.outcome} |"
            for row in section.rows
        ]
        lines += ["", "| arm | ratio | mean KL, nats |", "|---|---|---|"]
        lines += [f"| {arm} | {ratio} | {kl} |" for arm, ratio, kl in section.levels]
        lines += ["", f"![Forest plot of {name}](floor-study/bundles/{name}/report-forest.svg)"]
    return "\n".join(lines)


def main() -> int:
    """Returns 0 if the page is (now) current."""
    text = PAGE.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    wanted = f"{head}{BEGIN}\n\n{figures()}\n\n{END}{tail}"
    if wanted == text:
        return 0
    if "--check" in sys.argv:
        print("docs/floor-study.md does not say what its bundles say; run scripts/floor_study.py", file=sys.stderr)
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
