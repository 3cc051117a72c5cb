"""The matrix as one HTML page that works from a file: no other file, no connection, and every row without scripts.

Rows and intervals are in the page as they are; the script only sorts and filters. The page's security policy allows
exactly its own script and style, by their SHA-256.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from html import escape
from typing import Final

from ucaudit.core.records.benchmarks import STATUSES, Benchmarks, Row, TableOf
from ucaudit.core.resources import resource_root
from ucaudit.report.formatting import grouped
from ucaudit.report.matrix import words
from ucaudit.report.matrix.markdown import population_sentences
from ucaudit.report.svg import Scale

_COLUMNS: Final[tuple[tuple[str, str, str], ...]] = (
    ("model", "Model", "text"),
    ("class", "Class", "text"),
    ("status", "Status", "text"),
    ("ratio", "Perplexity ratio", "number"),
    ("interval", "Interval", "number"),
    ("kl", "Mean KL, nats", "number"),
    ("judged", "Judged by", "text"),
    ("n", "Windows", "number"),
    ("bits", "Bits", "number"),
    ("published", "Published", "text"),
    ("evidence", "Evidence", "number"),
)
"""Slug, heading, how it is sorted."""
_REST: Final = (
    ("status", "Status", "text"),
    ("what", "What", "text"),
    ("entry", "Ledger entry", "number"),
    ("recorded", "Recorded", "text"),
    ("evidence", "Record", "text"),
    ("why", "Why", "text"),
)
_BAR: Final = 132.0
_HIGH: Final = 18.0


def render_page(matrix: Benchmarks, *, title: str = "Benchmarks from signed evidence") -> str:
    """The page's HTML.

    Args:
        matrix: what to show.
        title: of the page.
    """
    folder = resource_root("templates") / "matrix"
    template, style, script = (
        (folder / name).read_text(encoding="utf-8") for name in ("page.html", "style.css", "page.js")
    )
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_source(script)}",
            f"style-src {_source(style)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    rest = [row for row in matrix.rows if row.table is None]
    filled = {
        "title": escape(title),
        "policy": policy,
        "style": style,
        "script": script,
        "generated": escape(matrix.generated),
        "version": escape(matrix.tool.version),
        "population": "".join(f"<p>{escape(sentence)}</p>" for sentence in population_sentences(matrix)),
        "alarm": "" if matrix.population is not None else ' class="alarm"',
        "classes": _options(sorted({row.model_class for row in matrix.rows})),
        "statuses": _options([status for status in STATUSES if any(row.status == status for row in matrix.rows)]),
        "sorts": "".join(f'<option value="{slug}">{escape(heading)}</option>' for slug, heading, _ in _COLUMNS),
        "rows": str(len(matrix.rows)),
        "tables": "".join(
            _table(table, [r for r in matrix.rows if r.table == table.id]) for table in matrix.tables
        ),
        "rest": _rest(rest),
        "unmatched": _unmatched(matrix),
        "words": "".join(f"<dt>{escape(status)}</dt><dd>{escape(text)}</dd>" for status, text in STATUSES.items()),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], template)


def _source(text: str) -> str:
    """What a policy names an inline script or style by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _options(values: Sequence[str]) -> str:
    return "".join(f'<option value="{escape(value)}">{escape(value)}</option>' for value in values)


def _head(columns: Sequence[tuple[str, str, str]]) -> str:
    cells = "".join(
        f'<th scope="col" role="columnheader" data-sort="{slug}" data-kind="{kind}" aria-sort="none">'
        f'<button type="button">{escape(heading)}<span aria-hidden="true"></span></button></th>'
        for slug, heading, kind in columns
    )
    return f'<thead role="rowgroup"><tr role="row">{cells}</tr></thead>'


def _table(table: TableOf, rows: list[Row]) -> str:
    """One text's rows, with one scale for all their intervals."""
    ends = [end for row in rows if row.ratio is not None for end in (row.ratio.lower, row.ratio.upper)]
    limits = [item.threshold for row in rows for item in row.bounds if item.claim == "ppl-ratio"]
    scale = _scale(ends, limits)
    title = f"{escape(table.corpus)}, windows of {table.seq_len} tokens, {escape(table.dtype)}"
    where = f"from {scale.low:.4f} to {scale.high:.4f}"
    columns = [item for item in _COLUMNS if item[0] != "published" or any(row.claimed for row in rows)]
    body = "".join(_row(row, scale, columns) for row in rows)
    return (
        f'<section class="matrix"><h2 id="{table.id}">{title}</h2>'
        f'<p class="note">SHA-256 of the text: <code>{grouped(table.corpus_sha256)}</code>. Intervals are drawn '
        f"{where}, with lines at 1 and at the limit. Ratios of other texts cannot be compared with these: they are "
        f'in tables of their own.</p><div class="scroll"><table role="table" aria-labelledby="{table.id}">'
        f'{_head(columns)}<tbody role="rowgroup">{body}</tbody></table></div></section>'
    )


def _scale(ends: Sequence[float], limits: Sequence[float]) -> Scale:
    """Ratios on the drawing. A few intervals far away must not press all others flat: they are cut at the edge."""
    shown = sorted(ends)
    if len(shown) >= 20:
        low, high = shown[len(shown) // 40], shown[-1 - len(shown) // 40]
    else:
        low, high = (shown[0], shown[-1]) if shown else (1.0, 1.0)
    near = [limit for limit in limits if low - (high - low) <= limit <= high + 2 * (high - low)]
    low, high = min(low, 1.0, *near), max(high, 1.0, *near)
    air = (high - low) * 0.06 or 0.01
    return Scale(low - air, high + air, 2, _BAR - 2)


def _bar(row: Row, scale: Scale) -> str:
    """The interval as a small drawing; its numbers stand beside it, so it is hidden from screen readers."""
    if row.ratio is None:
        return ""
    low, middle, high = (scale(value) for value in (row.ratio.lower, row.ratio.estimate, row.ratio.upper))
    y = _HIGH / 2
    parts = [f'<line class="one" x1="{scale(1.0):.1f}" x2="{scale(1.0):.1f}" y1="0" y2="{_HIGH:.0f}"/>']
    limit = next((item.threshold for item in row.bounds if item.claim == "ppl-ratio"), None)
    if limit is not None and scale.low <= limit <= scale.high:
        parts.append(
            f'<line class="limit" x1="{scale(limit):.1f}" x2="{scale(limit):.1f}" y1="1" y2="{_HIGH - 1:.0f}"/>'
        )
    parts.append(f'<line class="bar" x1="{low:.1f}" x2="{max(high, low + 1):.1f}" y1="{y}" y2="{y}"/>')
    parts.append(f'<circle cx="{middle:.1f}" cy="{y}" r="3"/>')
    return (
        f'<svg aria-hidden="true" focusable="false" viewBox="0 0 {_BAR:.0f} {_HIGH:.0f}" width="{_BAR:.0f}" '
        f'height="{_HIGH:.0f}">{"".join(parts)}</svg>'
    )


def _cell(slug: str, heading: str, content: str, value: str | float | None = None, *, head: bool = False) -> str:
    """A cell; ``value`` is what it is sorted by, its text if there is none."""
    sorted_by = "" if value is None else f' data-v="{escape(str(value))}"'
    tag, role = ("th", 'scope="row" role="rowheader"') if head else ("td", 'role="cell"')
    return f'<{tag} {role} data-c="{slug}" data-label="{escape(heading)}"{sorted_by}>{content}</{tag}>'


def _row(row: Row, scale: Scale, columns: Sequence[tuple[str, str, str]]) -> str:
    ratio, interval = words.figure(row.ratio)
    kl, kl_interval = words.figure(row.kl)
    pack = f'<span class="sub">{escape(row.pack or "")}</span>' if row.pack else ""
    level = f" ({words.level(row)})" if row.ratio else ""
    kl_sub = f'<span class="sub">{escape(kl_interval)}</span>' if row.kl else ""
    claimed = escape(words.claimed(row))
    if row.claimed is not None:
        claimed += f'<span class="sub">{escape(words.claimed_reason(row))}</span>'
    judged = escape(words.judged(row))
    if row.floor is not None:
        judged += "".join(f'<span class="sub">{escape(item)}</span>' for item in row.floor.attempts)
    values = {
        "model": (f"{escape(row.model or words.NONE)}{pack}", row.model or ""),
        "class": (escape(row.model_class), None),
        "status": (f"<strong>{escape(row.status)}</strong>{_notes(row)}", list(STATUSES).index(row.status)),
        "ratio": (f'{ratio}<span class="sub">{escape(interval)}{level}</span>', _number(row.ratio)),
        "interval": (_bar(row, scale), None if row.ratio is None else row.ratio.upper - row.ratio.lower),
        "kl": (f"{kl}{kl_sub}", _number(row.kl)),
        "judged": (judged, None),
        "n": (words.NONE if row.n is None else str(row.n), row.n),
        "bits": (words.bits(row), row.bits_on_disk),
        "published": (claimed, None),
        "evidence": (_evidence(row), None if row.ledger is None else row.ledger.index),
    }
    cells = "".join(_cell(slug, heading, *values[slug], head=slug == "model") for slug, heading, _ in columns)
    return _tr(row, cells)


def _tr(row: Row, cells: str) -> str:
    return f'<tr role="row" data-status="{escape(row.status)}" data-class="{row.model_class}">{cells}</tr>'


def _number(interval: object) -> float | None:
    estimate = getattr(interval, "estimate", None)
    return estimate if isinstance(estimate, float) else None


def _notes(row: Row) -> str:
    return "".join(f'<span class="sub">{escape(note)}</span>' for note in row.notes)


def _evidence(row: Row) -> str:
    """Ledger entry, digest and folder; the digest is whole, behind its first digits."""
    parts = []
    if row.ledger is not None:
        parts.append(f'<span class="entry">entry {row.ledger.index}</span>')
    if row.envelope is not None:
        parts.append(
            f"<details><summary><code>{row.envelope[:8]}…</code></summary>"
            f"<code>{grouped(row.envelope)}</code></details>"
        )
    if row.bundle is not None:
        parts.append(f'<span class="sub">{escape(row.bundle)}</span>')
    if row.signed_by:
        parts.append(f'<span class="sub">{escape(", ".join(row.signed_by))}</span>')
    return "".join(parts) or words.NONE


def _rest(rows: list[Row]) -> str:
    if not rows:
        return ""
    body = ""
    for row in rows:
        recorded = row.ledger.recorded_at if row.ledger else words.NONE
        values = {
            "status": (f"<strong>{escape(row.status)}</strong>", list(STATUSES).index(row.status)),
            "what": (escape(row.bundle or f"a {row.kind}"), None),
            "entry": (words.place(row), None if row.ledger is None else row.ledger.index),
            "recorded": (escape(recorded), None),
            "evidence": (_evidence(row.model_copy(update={"bundle": None, "ledger": None})), row.envelope or ""),
            "why": (escape("; ".join(row.notes)), None),
        }
        body += _tr(row, "".join(_cell(slug, heading, *values[slug]) for slug, heading, _ in _REST))
    return (
        '<section class="matrix"><h2 id="rest">Absent, not verified, open or abandoned</h2>'
        '<p class="note">What the ledger holds and nobody gave, and what was given and did not hold. It is listed '
        'so that nothing is left out.</p><div class="scroll"><table role="table" aria-labelledby="rest">'
        f'{_head(_REST)}<tbody role="rowgroup">{body}</tbody></table></div></section>'
    )


def _unmatched(matrix: Benchmarks) -> str:
    if not matrix.claimed_without_evidence:
        return ""
    items = "".join(f"<li>{escape(words.unmatched(item))}</li>" for item in matrix.claimed_without_evidence)
    return f"<section><h2>Published, and without evidence here</h2><ul>{items}</ul></section>"
