"""Bundles and ledger → :class:`Benchmarks`. Nothing that was given or that the ledger holds is left out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ucaudit import __version__
from ucaudit.core.errors import UntrustedKeyError
from ucaudit.core.progress import SILENT, Progress
from ucaudit.core.records import Tool, now
from ucaudit.core.records.benchmarks import (
    SCHEMA_URI,
    Benchmarks,
    ClaimedFigure,
    LedgerPlace,
    PopulationSummary,
    Row,
    TableOf,
)
from ucaudit.evidence.trust import load_trust, trusted_ledgers
from ucaudit.report.matrix.find import find_bundles, index_packs
from ucaudit.report.matrix.rows import Found, beside, prepare, read_bundle

if TYPE_CHECKING:
    from ucaudit.evidence.ledger import PopulationRow

_FEW: Final = 8
"""Bundles that are read in this process: more are worth starting others."""


@dataclass(frozen=True)
class MatrixRequest:
    """What a matrix is made of.

    Attributes:
        evidence: the folder of bundles.
        trust: the trust file.
        ledger: the ledger directory, for the population.
        packs: a folder of packs, to compare their files with the bundles.
        claimed: figures that were published elsewhere.
        claimed_corpus: SHA-256 of the text that these were measured on, if somebody vouches for that.
        workers: processes; None for as many as there are processors.
    """

    evidence: Path
    trust: Path
    ledger: Path | None = None
    packs: Path | None = None
    claimed: tuple[ClaimedFigure, ...] = ()
    claimed_corpus: str | None = None
    workers: int | None = None


def build_matrix(
    request: MatrixRequest, *, progress: Progress = SILENT, on_passed_over: Callable[[str, str], None] | None = None
) -> Benchmarks:
    """Verify every bundle, and place it.

    Args:
        request: what it is made of.
        progress: told of every bundle.
        on_passed_over: called with the name and the reason of whatever may be evidence and is no row.

    Raises:
        NotFoundError, InputError, MalformedPolicyError: the folder, the trust file, or the ledger.
        UntrustedKeyError: the ledger is not among those of the trust file.
        LedgerInconsistentError: the ledger does not hold together.
    """
    population, origin = (None, "") if request.ledger is None else _population(request)
    evidence = find_bundles(request.evidence)
    paths = evidence.bundles
    if on_passed_over is not None:
        for item in evidence.passed_over:
            on_passed_over(_name(item.path, request.evidence), item.why)
    packs = None if request.packs is None else index_packs(request.packs)
    names = [_name(path, request.evidence) for path in paths]
    found = _once(_read_all(request, packs, paths, names, progress))
    found, unmatched = _with_claims(found, request)
    tables, found = _in_tables(found)
    rows = [item.row for item in found]
    summary = None
    if population is not None:
        rows, summary = _with_population(rows, population[1], population[0], origin)
    return Benchmarks(
        schema_uri=SCHEMA_URI,
        generated=now(),
        tool=Tool(name="ucaudit", version=__version__),
        population=summary,
        tables=tables,
        rows=tuple(rows),
        claimed_without_evidence=unmatched,
    )


def _name(path: Path, root: Path) -> str:
    name = path.relative_to(root).as_posix()
    text = path.resolve().name if name == "." else name
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)[
        :500
    ]


def _read_all(
    request: MatrixRequest,
    packs: dict[str, Path] | None,
    paths: Sequence[Path],
    names: Sequence[str],
    progress: Progress,
) -> list[Found]:
    progress.start(len(paths), "bundles", "verifying")
    found = []
    workers = min(request.workers or os.cpu_count() or 1, len(paths))
    if workers < 2 or len(paths) < _FEW:
        prepare(request.trust, packs)
        for path, name in zip(paths, names, strict=True):
            found.append(read_bundle(path, name))
            progress.advance()
    else:
        with ProcessPoolExecutor(workers, initializer=prepare, initargs=(request.trust, packs)) as pool:
            for item in pool.map(read_bundle, paths, names, chunksize=4):
                found.append(item)
                progress.advance()
    progress.finish()
    return found


def _once(found: Iterable[Found]) -> list[Found]:
    """The same record in two folders is one row, which says so; one that did not hold does not stand in for it."""
    result: list[Found] = []
    places: dict[str, int] = {}
    for item in found:
        digest = item.row.envelope
        if digest is None or item.row.status == "not verified":
            result.append(item)
            continue
        if digest in places:
            first = result[places[digest]]
            note = f"the same record lies in {item.row.bundle}"
            row = first.row.model_copy(update={"notes": (*first.row.notes, note)})
            result[places[digest]] = replace(first, row=row)
            continue
        places[digest] = len(result)
        result.append(item)
    return result


def plain_name(name: str) -> str:
    """A model's name without its owner, case and punctuation: what two spellings of it have in common."""
    return "".join(character for character in name.rpartition("/")[2].casefold() if character.isalnum())


def _with_claims(found: list[Found], request: MatrixRequest) -> tuple[list[Found], tuple[ClaimedFigure, ...]]:
    """Published figures beside the rows of their model, and those that no row is about."""
    by_name: dict[str, ClaimedFigure] = {}
    for figure in request.claimed:
        by_name.setdefault(plain_name(figure.model), figure)
    used: set[str] = set()
    result = []
    for item in found:
        name = next((plain_name(alias) for alias in item.aliases if plain_name(alias) in by_name), None)
        if name is None or item.row.claimed is not None:
            result.append(item)
            continue
        used.add(name)
        claimed = beside(item, by_name[name], claimed_corpus=request.claimed_corpus)
        result.append(replace(item, row=item.row.model_copy(update={"claimed": claimed})))
    return result, tuple(figure for figure in request.claimed if plain_name(figure.model) not in used)


def _in_tables(found: list[Found]) -> tuple[tuple[TableOf, ...], list[Found]]:
    """One table a text, length of window and compute type: ratios of different texts are not comparable."""
    keys: dict[tuple[str, str, int, str, str], list[Found]] = {}
    rest = []
    for item in found:
        measured = item.measured
        if measured is None:
            rest.append(item)
            continue
        corpus = measured.corpus
        key = (corpus.name, corpus.sha256, measured.seq_len, measured.dtype, corpus.rows or "")
        keys.setdefault(key, []).append(item)
    tables, placed = [], []
    for number, group in enumerate(sorted(keys), start=1):
        name, sha256, seq_len, precision, rows = group
        slug = f"text-{number}"
        members = sorted(
            keys[group], key=lambda item: (item.row.model or "", item.row.pack or "", item.row.bundle or "")
        )
        title = name if not rows else f"{name}, rows {rows}"
        tables.append(
            TableOf(
                id=slug, corpus=title, corpus_sha256=sha256, seq_len=seq_len, dtype=precision, rows=len(members)
            )
        )
        placed += [replace(item, row=item.row.model_copy(update={"table": slug})) for item in members]
    return tuple(tables), [*placed, *rest]


def _population(request: MatrixRequest) -> tuple[tuple[PopulationSummary, list[PopulationRow]], str]:
    """The ledger, fully checked, and every entry of it."""
    from ucaudit.evidence.ledger import Ledger, population_of

    assert request.ledger is not None
    ledger = Ledger.open(request.ledger)
    if ledger.vkey not in {item.vkey for item in trusted_ledgers(load_trust(request.trust))}:
        raise UntrustedKeyError(
            f"the trust file does not name this ledger ({ledger.origin})",
            subject=str(request.ledger),
            hint="compare its verifier key with its owner, then ucaudit trust add --vkey",
        )
    entries: list[bytes] = []
    summary = ledger.verify(sink=entries.extend)
    rows = population_of(entries)
    states = [row.status for row in rows]
    return (
        PopulationSummary(
            origin=ledger.origin,
            vkey=ledger.vkey,
            size=summary.size,
            root=summary.root.hex(),
            results=sum(row.entry is not None and row.entry.kind in ("attestation", "floor") for row in rows),
            shown=0,
            absent=0,
            open_plans=states.count("open"),
            abandoned_plans=states.count("abandoned"),
            unreadable=states.count("unreadable"),
        ),
        rows,
    ), ledger.origin


def _with_population(
    rows: list[Row], population: list[PopulationRow], summary: PopulationSummary, origin: str
) -> tuple[list[Row], PopulationSummary]:
    """Every row with its place in the ledger, and a row for everything in the ledger that is not here."""
    good = {
        row.envelope: number for number, row in enumerate(rows) if row.envelope and row.status != "not verified"
    }
    bad = {row.envelope: number for number, row in enumerate(rows) if row.envelope and row.status == "not verified"}
    placed = list(rows)
    more: list[Row] = []
    shown = 0
    for entry in population:
        said = entry.entry
        if said is None:
            text = f"entry {entry.index} of {origin} cannot be read by this release: {'; '.join(entry.notes)}"
            more.append(Row(status="absent", kind="unknown", notes=(text,)))
            continue
        place = LedgerPlace(origin=origin, index=entry.index, recorded_at=said.recorded_at)
        if said.kind in ("plan", "floorplan") and entry.status in ("open", "abandoned"):
            more.append(_plan(entry, place))
        if said.kind not in ("attestation", "floor"):
            continue
        number = good.get(said.envelope_sha256)
        if number is not None:
            shown += placed[number].ledger is None
            notes = (*placed[number].notes, *entry.notes)
            placed[number] = placed[number].model_copy(update={"ledger": place, "notes": notes})
        elif (number := bad.get(said.envelope_sha256)) is not None:
            placed[number] = placed[number].model_copy(update={"ledger": place})
        else:
            text = f"entered as {said.determination}; its evidence was not given"
            more.append(
                Row(
                    status="absent",
                    kind="pack" if said.kind == "attestation" else "floor",
                    pack_digest=said.pack_digest,
                    envelope=said.envelope_sha256,
                    ledger=place,
                    notes=(text, *entry.notes),
                )
            )
    missing = f"not in the ledger {origin}"
    placed = [
        row
        if row.ledger is not None or row.status == "not verified"
        else row.model_copy(update={"notes": (*row.notes, missing)})
        for row in placed
    ]
    return [*placed, *more], summary.model_copy(update={"shown": shown, "absent": summary.results - shown})


def _plan(entry: PopulationRow, place: LedgerPlace) -> Row:
    said = entry.entry
    assert said is not None
    opened = entry.status == "open"
    text = "planned, and no result yet" if opened else f"given up, entry {entry.related}"
    return Row(
        status="open plan" if opened else "abandoned plan",
        kind="floor" if said.kind == "floorplan" else "plan",
        pack_digest=said.pack_digest,
        envelope=said.envelope_sha256,
        ledger=place,
        notes=(text, *entry.notes),
    )
