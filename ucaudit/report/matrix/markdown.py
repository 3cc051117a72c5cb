"""The matrix as Markdown: the same rows as the page, for a repository or a model card."""

from __future__ import annotations

import re
from typing import Final

from ucaudit.core.records.benchmarks import STATUSES, Benchmarks, Row
from ucaudit.report.matrix import words

_SPECIAL: Final = re.compile(r"([\\`*_\[\]<>|#])")


def _cell(text: str) -> str:
    """Text that stays text: no markup, no link, no table border."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def markdown(matrix: Benchmarks) -> str:
    """The whole document."""
    lines = ["# Benchmarks from signed evidence", ""]
    lines += [
        f"Built {matrix.generated} by ucaudit {matrix.tool.version}; every row was verified while it was built."
    ]
    lines += ["", *(f"{sentence}" for sentence in population_sentences(matrix)), ""]
    for table in matrix.tables:
        lines += [f"## {_cell(table.corpus)}, windows of {table.seq_len} tokens, {_cell(table.dtype)}", ""]
        lines += [
            f"SHA-256 of the text: `{table.corpus_sha256}`. Rows of other texts are in tables of their own.",
            "",
        ]
        header = ["model", "class", "pack", "status", "ratio", "interval", "mean KL", "judged by", "n", "bits"]
        header += ["published", "ledger entry", "record"]
        lines += [_line(header), _line(["---"] * len(header))]
        lines += [_row(row) for row in matrix.rows if row.table == table.id]
        lines.append("")
    rest = [row for row in matrix.rows if row.table is None]
    if rest:
        lines += ["## Not in the tables", "", "Absent, not verified, open or abandoned: nothing is left out.", ""]
        lines += [_line(["status", "what", "ledger entry", "recorded", "record", "why"]), _line(["---"] * 6)]
        for row in rest:
            recorded = row.ledger.recorded_at if row.ledger else words.NONE
            digest = f"`{row.envelope}`" if row.envelope else words.NONE
            cells = [row.status, _cell(row.bundle or row.kind), words.place(row), recorded, digest]
            lines.append(_line([*cells, _cell("; ".join(row.notes))]))
        lines.append("")
    if matrix.claimed_without_evidence:
        lines += ["## Published, and without evidence here", ""]
        lines += [f"- {_cell(words.unmatched(item))}" for item in matrix.claimed_without_evidence]
        lines.append("")
    lines += ["## Words", ""]
    lines += [f"- **{status}**: {text}" for status, text in STATUSES.items()]
    return "\n".join(lines) + "\n"


def population_sentences(matrix: Benchmarks) -> list[str]:
    """What the ledger holds, and how much of it is here: the sentence that no page may lack."""
    found = matrix.population
    if found is None:
        return [
            "No ledger was given: this page shows what it was given, and cannot say what is missing.",
        ]
    sentences = [
        f"The ledger {found.origin} has {found.size} entries. {found.shown} of its {found.results} results are "
        f"shown here with evidence that was verified; {found.absent} are absent or did not verify.",
        f"Open plans: {found.open_plans}. Abandoned plans: {found.abandoned_plans}.",
    ]
    if found.unreadable:
        sentences.append(f"{found.unreadable} entries cannot be read by this release.")
    return sentences


def _row(row: Row) -> str:
    ratio, interval = words.figure(row.ratio)
    kl, _ = words.figure(row.kl)
    cells = [
        _cell(row.model or words.NONE),
        row.model_class,
        _cell(row.pack or words.NONE),
        f"**{row.status}**" if row.status != "within bound" else row.status,
        ratio,
        interval,
        kl,
        _cell(words.judged(row)),
        words.NONE if row.n is None else str(row.n),
        words.bits(row),
        _cell(words.claimed(row)),
        words.place(row),
        f"`{row.envelope}`" if row.envelope else words.NONE,
    ]
    return _line(cells)
