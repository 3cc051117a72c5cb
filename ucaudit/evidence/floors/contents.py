"""What a floor's bundle holds, against what its record says: digests, draw, figures and verdict derived again.

None of this needs a key, so a countersigner can ask it of a bundle before anybody is trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ucaudit.core.digest import FileManifest, sha256_file
from ucaudit.core.errors import CorpusError, DigestMismatchError, VerificationError
from ucaudit.core.records import Floor, FloorResults, Measurement, PublishedComparison, Statement, Subject
from ucaudit.core.tokenvalues import REFERENCE_FILE, TokenValues, load_run
from ucaudit.core.windows import draw
from ucaudit.evidence import bundle as names
from ucaudit.evidence.bundle import OpenBundle, run_name
from ucaudit.evidence.checks import Verification
from ucaudit.evidence.claims import DIGITS, compare_values, least_tolerance
from ucaudit.evidence.contents import check_forms
from ucaudit.evidence.floors.derive import DETERMINATIONS, compare_published, derive, winners
from ucaudit.evidence.floors.protocol import BASELINE

Values = dict[tuple[str, int], TokenValues]


@dataclass(frozen=True)
class Rederived:
    """A floor derived again from its bundle's per-token files."""

    results: FloorResults
    published: PublishedComparison | None
    values: Values
    fresh: Values | None


def cited_by_floor(record: Floor) -> dict[str, str]:
    """The bundle files that a floor binds by digest."""
    result = {
        names.REFERENCE_MANIFEST: record.reference.files_digest,
        names.STATE: record.reference.state_digest,
        names.PROTOCOL: record.protocol_file.sha256,
        names.PLAN: record.plan.envelope_digest,
    }
    for measured in (record.measurement, record.confirmation):
        if measured is not None:
            result |= {item.name: item.sha256 for item in measured.value_files}
    return result


def floor_subjects(record: Floor) -> list[Subject]:
    """The subjects of a floor: the protocol, the reference, and each pack that was made."""
    return [
        Subject(names.PROTOCOL, record.protocol_file.sha256),
        Subject(names.REFERENCE_MANIFEST, record.reference.files_digest),
        Subject(names.STATE, record.reference.state_digest),
        *(Subject(f"{run.arm}-{run.seed}/pack.SHA256SUMS", run.pack_digest) for run in record.runs),
    ]


def rederive_floor(bundle: OpenBundle, record: Floor) -> Rederived:
    """Every figure and the verdict again, from the per-token files.

    Raises:
        NotFoundError, MalformedRecordError: a file is missing or malformed.
        InputError: runs are missing, or not on the same windows.
    """
    values = {
        (run.arm, run.seed): load_run(bundle.path / REFERENCE_FILE, bundle.path / run_name(run.arm, run.seed))
        for run in record.runs
    }
    again = [run for run in record.runs if run.fresh_values is not None]
    fresh = None
    if again:
        front = bundle.path / names.FRESH_REFERENCE
        fresh = {
            (run.arm, run.seed): load_run(front, bundle.path / run_name(run.arm, run.seed, fresh=True))
            for run in again
        }
    states = {(run.arm, run.seed): run.state_digest for run in record.runs}
    results = derive(record.protocol, values, states, fresh)
    return Rederived(results, compare_published(record.protocol, results, values, fresh), values, fresh)


def floor_differences(record: Floor, again: Rederived) -> list[str]:
    """Figures and verdicts that do not follow from the values: sentences, empty if all agree."""
    found: list[str] = []
    compare_values("results", record.results.model_dump(), again.results.model_dump(), found)
    signed = None if record.published is None else record.published.model_dump()
    compare_values("published", signed, None if again.published is None else again.published.model_dump(), found)
    expected = DETERMINATIONS[again.results.verdict]
    if record.determination != expected:
        found.append(f"determination: signed {record.determination}, re-derived {expected}")
    return found


def check_floor_contents(bundle: OpenBundle, statement: Statement, record: Floor, result: Verification) -> None:
    """Forms, artefacts, subjects, runs, windows and figures, in this order."""
    check_forms(bundle, result)
    _artefacts(bundle, statement, record, result)
    _runs(record, result)
    if result.found_by("artefact") or result.found_by("runs"):
        result.remark("figures", "not-checked", "figures re-derived", "the per-token files are not the signed ones")
        return
    again = rederive_floor(bundle, record)
    changed = floor_differences(record, again)
    problem = None
    if changed:
        hint = "the signed figures do not follow from the signed values"
        problem = VerificationError(changed[0], subject="results", hint=hint)
    fine = f"{len(again.values)} encodings on {again.results.windows} windows re-derived to {DIGITS} digits"
    result.add("figures", "signed figures against the per-token files", problem, fine, level="re-derivable")
    if problem is None:
        what, fine = "signed verdict against the re-derived one", f"{again.results.verdict}"
        result.add("verdict", what, None, fine, level="re-derivable")
    _windows(record, again, result)
    if record.results.confirmation is None and winners(again.results):
        detail = f"{', '.join(winners(again.results))}: nobody measured it on fresh windows"
        result.remark("confirmation", "warn", "the winners on fresh windows", detail)


def _artefacts(bundle: OpenBundle, statement: Statement, record: Floor, result: Verification) -> None:
    values = 0
    for name, expected in cited_by_floor(record).items():
        what = f"{name} against the signed digest"
        problem = None
        if not bundle.has(name):
            problem = DigestMismatchError("the record cites it, the bundle lacks it", subject=name)
        elif (found := sha256_file(bundle.path / name)) != expected:
            problem = DigestMismatchError(
                f"expected sha-256 {expected[:16]}…, found {found[:16]}…",
                subject=name,
                hint="the file was changed after the record was signed",
            )
        if problem is None and name.endswith(".safetensors"):
            values += 1  # dozens of lines that say the same would hide the one that does not
        else:
            result.add("artefact", what, problem, f"sha-256 {expected[:16]}…")
    if values:
        result.add("artefact", "per-token files against the signed digests", None, f"{values} files agree")
    if not result.failures:
        FileManifest.parse(bundle.read(names.REFERENCE_MANIFEST), subject=names.REFERENCE_MANIFEST)
        bundle.state()
    same = list(statement.subjects) == floor_subjects(record)
    problem = None if same else DigestMismatchError("the statement's subjects and its predicate disagree")
    result.add("subjects", "statement subjects against the record", problem, f"{len(statement.subjects)} agree")


def _runs(record: Floor, result: Verification) -> None:
    """Every arm with every seed once, and the files that the record cites for them and no others."""
    protocol = record.protocol
    arms = [BASELINE, *(item.name for item in protocol.perturbations)]
    wanted = [(arm, seed) for arm in arms for seed in protocol.seeds]
    wrong = []
    if [(run.arm, run.seed) for run in record.runs] != wanted:
        wrong.append("the runs are not those of the protocol, each once, in its order")
    cited = {item.name: item.sha256 for item in record.measurement.value_files}
    expected = {run_name(run.arm, run.seed): run.values.sha256 for run in record.runs}
    if {name: cited.get(name) for name in expected} != expected or cited.keys() != {*expected, REFERENCE_FILE}:
        wrong.append("the measurement cites other per-token files than the runs do")
    again = {run.arm for run in record.runs if run.fresh_values is not None}
    fresh = {
        run_name(run.arm, run.seed, fresh=True): run.fresh_values.sha256
        for run in record.runs
        if run.fresh_values is not None
    }
    cited = {} if record.confirmation is None else {i.name: i.sha256 for i in record.confirmation.value_files}
    cited.pop(names.FRESH_REFERENCE, None)
    if cited != fresh or len(fresh) != len(again) * len(protocol.seeds) or (fresh and BASELINE not in again):
        wrong.append("the fresh windows' per-token files are not those of whole arms, the baseline's among them")
    problem = VerificationError("; ".join(wrong), subject="runs") if wrong else None
    what = "the encodings against the protocol"
    result.add("runs", what, problem, f"{len(arms)} arms with {len(protocol.seeds)} seeds each")


def _windows(record: Floor, again: Rederived, result: Verification) -> None:
    """The windows must be those that seed and text give; the fresh ones the next of the same draw."""
    protocol, measured = record.protocol, record.measurement
    first = next(iter(again.values.values()))
    wrong = _disagreements(measured, first, protocol.n, protocol.seq_len, protocol.seed, protocol.dtype)
    available, sha256 = measured.corpus.windows_available, measured.corpus.sha256
    try:
        drawn = draw(available, protocol.n, protocol.seed, sha256)
        if first.windows != drawn:
            wrong.append(f"the windows are not those that seed {protocol.seed} draws")
        if again.fresh and record.confirmation is not None:
            later = next(iter(again.fresh.values()))
            wrong += _disagreements(
                record.confirmation, later, protocol.confirm_n, protocol.seq_len, protocol.seed, protocol.dtype
            )
            both = draw(available, protocol.n + protocol.confirm_n, protocol.seed, sha256)
            if later.windows != tuple(sorted(set(both) - set(drawn))):
                wrong.append("the fresh windows are not the next of the same draw")
            if record.confirmation.corpus != measured.corpus:
                wrong.append("the fresh windows are of another text")
    except CorpusError as error:
        wrong.append(error.message)
    if available != measured.corpus.tokens // protocol.seq_len:
        wrong.append(f"{measured.corpus.tokens} tokens do not make {available} windows of {protocol.seq_len}")
    problem = VerificationError(wrong[0], subject="windows") if wrong else None
    fine = f"{first.n} of {available}, drawn by seed {protocol.seed}"
    if again.fresh:
        fine += f"; {protocol.confirm_n} fresh ones, the next of the draw"
    result.add("draw", "the windows against the draw by seed and text", problem, fine, level="re-derivable")


def _disagreements(
    measured: Measurement, values: TokenValues, n: int, seq_len: int, seed: int, dtype: str
) -> list[str]:
    pairs: Sequence[tuple[str, object, object]] = [
        ("n", measured.n, n),
        ("n", values.n, n),
        ("seq_len", measured.seq_len, seq_len),
        ("seed", measured.seed, seed),
        ("dtype", measured.dtype, dtype),
        ("scored tokens a window", values.tokens, seq_len - (measured.bos == "none")),
        ("scored tokens", measured.scored_tokens, values.n * values.tokens),
    ]
    wrong = [
        f"{what}: the record says {found}, the protocol {wanted}"
        for what, found, wanted in pairs
        if found != wanted
    ]
    least = least_tolerance(measured, values)
    if measured.tolerance < least:
        wrong.append(f"a tolerance of {measured.tolerance:g}, {measured.dtype} calls for {least:.3g} at least")
    return wrong
