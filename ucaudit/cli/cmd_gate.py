"""``ucaudit gate``: the check that CI runs before a pack is deployed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ucaudit.cli.common import Output, compute_options, key_password, output_options, prepare_compute
from ucaudit.core.errors import InputError, UcauditError
from ucaudit.core.files import read_limited

if TYPE_CHECKING:
    from ucaudit.evidence.checks import Verification
    from ucaudit.evidence.keys import Signer
    from ucaudit.evidence.policy import LoadedPolicy
    from ucaudit.packs.batch import Outcome, Task
    from ucaudit.packs.memo import DigestCache

_PATH = click.Path(path_type=Path)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The command line."""

    packs: tuple[Path, ...]
    each: Path | None
    listed: str | None
    evidence: Path | None
    policies: tuple[str, ...]
    trust: Path
    full: bool
    good: Path | None
    jobs: int | None
    cache: Path | None
    junit: Path | None
    svr: Path | None
    svr_key: str | None
    svr_id: str | None
    password_file: Path | None
    github: bool
    device: str
    threads: int | None

    @property
    def many(self) -> bool:
        """Whether a table is wanted: also for the one pack of a directory or list."""
        return len(self.packs) != 1 or self.each is not None or self.listed is not None


@click.command()
@click.argument("packs", metavar="[PACK]...", nargs=-1, type=_PATH)
@click.option("--each", type=_PATH, metavar="DIR", help="Judge every pack in this directory.")
@click.option("--list", "listed", metavar="FILE", help="Judge the packs that FILE lists, one a line; - is stdin.")
@click.option(
    "--evidence",
    type=_PATH,
    help="A bundle, its .zip, or a directory of bundles; {pack} stands for a pack's name  [default: PACK.evidence]",
)
@click.option(
    "--policy",
    "policies",
    metavar="FILE|GLOB=FILE",
    multiple=True,
    required=True,
    help="The gate's own policy; GLOB=FILE for some packs only. May be repeated.",
)
@click.option("--trust", "trust", type=_PATH, required=True, help="The gate's trust file.")
@click.option("--full", is_flag=True, help="Also reconstruct the pack, and name each drifted tensor.")
@click.option(
    "--good", type=_PATH, metavar="PACK", help="With --full: a good copy, to say how far tensors drifted."
)
@click.option(
    "--jobs", type=click.IntRange(1, 256), help="Packs judged at a time  [default: the cores; 1 if --full]"
)
@click.option("--cache", type=_PATH, metavar="FILE", help="Remember digests of unchanged files from run to run.")
@click.option("--junit", type=_PATH, metavar="FILE", help="Write the checks as JUnit XML.")
@click.option(
    "--svr",
    type=_PATH,
    metavar="FILE",
    help="Write a signed verdict (in-toto SVR v0.2); of many packs: a directory.",
)
@click.option("--svr-key", metavar="KEY", help="The gate's own private key, for --svr: a PEM file, or env:NAME.")
@click.option("--svr-id", metavar="URI", help="Who the verdict says has judged  [default: urn:ucaudit:gate:v1]")
@click.option("--password-file", type=_PATH, help="File with the password of --svr-key.")
@click.option("--github", is_flag=True, help="Annotations, step summary and outputs for a GitHub runner.")
@compute_options
@output_options
def gate(
    packs: tuple[Path, ...],
    each: Path | None,
    listed: str | None,
    evidence: Path | None,
    policies: tuple[str, ...],
    trust: Path,
    full: bool,
    good: Path | None,
    jobs: int | None,
    cache: Path | None,
    junit: Path | None,
    svr: Path | None,
    svr_key: str | None,
    svr_id: str | None,
    password_file: Path | None,
    github: bool,
    device: str,
    threads: int | None,
    out: Output,
) -> int:
    """Refuse a PACK that is unsigned, drifted, expired or out of bound.

    Every claim is recomputed from the evidence's per-token values against the
    gate's own policy. Exits 0 if the pack may be deployed, 1 if not, and 5 if
    not because a claim is inconclusive, with nothing else against it.

    Of many packs, each is judged: the exit code is 0 if all are admitted, else
    1 if any is refused, else 3 or 4 if one could not be judged, else 5.
    """
    asked = _Asked(
        packs, each, listed, evidence, policies, trust, full, good, jobs, cache, junit, svr, svr_key, svr_id,
        password_file, github, device, threads,
    )  # fmt: skip
    _require_options(asked)
    outputs = _Outputs(asked, out)
    outputs.begin()
    try:
        if outputs.problem is not None:
            raise outputs.problem
        outcomes = _judge(asked, outputs, out)
    except UcauditError as error:
        outputs.fail(error)
        raise
    return outputs.finish(outcomes)


def _require_options(asked: _Asked) -> None:
    """Options that go together, or exclude each other. Raises UsageError."""
    if not asked.packs and asked.each is None and asked.listed is None:
        raise click.UsageError("name a PACK, or --each DIR, or --list FILE")
    if asked.good is not None and not asked.full:
        raise click.UsageError("--good is for --full")
    if (asked.svr is None) != (asked.svr_key is None):
        raise click.UsageError("--svr and --svr-key go together")
    if asked.svr is None and (asked.svr_id or asked.password_file):
        raise click.UsageError("--svr-id and --password-file are for --svr")
    if asked.svr is not None and asked.cache is not None:
        raise click.UsageError("--svr signs what was read, and --cache leaves files unread: use one of them")


class _Outputs:
    """The files of a run: made unready before anything is judged, so that no run's green outlives it."""

    def __init__(self, asked: _Asked, out: Output) -> None:
        self._asked = asked
        self._out = out
        self.packs: list[Path] = list(asked.packs)
        self.skipped: tuple[Path, ...] = ()
        self.verdicts: list[Path] = []
        self.problem: UcauditError | None = None
        """Why it is not known which packs to judge. It is raised once the files of an earlier run are gone."""
        name = (
            asked.packs[0].name
            if not asked.many
            else str(asked.each or asked.listed or f"{len(asked.packs)} packs")
        )
        self._suite = f"ucaudit gate {name}"

    def begin(self) -> None:
        """Check where files may be written, and replace those of an earlier run."""
        from ucaudit.core.files import require_outside
        from ucaudit.evidence.bundle import refuse_inside_bundle

        asked = self._asked
        try:
            self.packs, self.skipped = _packs(asked)
            self.verdicts = _svr_files(asked, self.packs)
        except UcauditError as error:
            self.problem = error
        inputs = (*self.packs, asked.trust, *(_file_of(text) for text in asked.policies))
        for target in (asked.junit, asked.svr, asked.cache):
            if target is not None:
                refuse_inside_bundle(target)
                require_outside(target, *inputs)
        for target in self.verdicts:
            _remove(target)
        if asked.junit is not None:
            from ucaudit.interop.junit import junit_error

            _write(asked.junit, junit_error(self._suite, "unfinished", "the gate was started and did not finish"))

    def fail(self, error: UcauditError) -> None:
        """No pack could be judged."""
        if self._asked.junit is not None:
            from ucaudit.interop.junit import junit_error

            _write(self._asked.junit, junit_error(self._suite, error.code, str(error)))

    def finish(self, outcomes: list[Outcome]) -> int:
        """Write every file, print the result; returns the exit code."""
        from ucaudit.packs.batch import total_exit_code

        asked, out = self._asked, self._out
        code = total_exit_code(outcome.exit_code for outcome in outcomes)
        if asked.junit is not None:
            self._junit(asked.junit, outcomes)
        if asked.github:
            _github(outcomes, code)
        if asked.many:
            from ucaudit.cli.gate_table import complain_of_many, document_of_many, table_of_many

            out.result(document_of_many(outcomes, self.skipped, code), table_of_many(outcomes, out), code=code)
            complain_of_many(outcomes, out)
            return code
        (outcome,) = outcomes
        return self._one(outcome)

    def _one(self, outcome: Outcome) -> int:
        from ucaudit.cli.cmd_verify import complain, document, render, verdict

        if outcome.judged is None:
            assert outcome.error is not None
            raise outcome.error
        result, out = outcome.judged.result, self._out
        words = out.style(verdict(result, "ADMITTED", "REFUSED"), fg="green" if result.admitted else "red")
        gate_document = {
            **document(result, judged=True),
            "bundle": str(outcome.judged.evidence) if outcome.judged.evidence else None,
        }
        out.result(gate_document, f"{render(result, out)}\ngate           {words}")
        return complain(result, out)

    def _junit(self, target: Path, outcomes: list[Outcome]) -> None:
        from ucaudit.interop.junit import junit_error, junit_suites, junit_xml

        if self._asked.many:
            suites = [(f"ucaudit gate {item.task.pack}", _found(item)) for item in outcomes]
            _write(target, junit_suites(suites))
            return
        found = _found(outcomes[0])
        if isinstance(found, UcauditError):
            _write(target, junit_error(self._suite, found.code, str(found)))
        else:
            _write(target, junit_xml(self._suite, found))


def _judge(asked: _Asked, outputs: _Outputs, out: Output) -> list[Outcome]:
    from ucaudit.evidence.trust import load_trust
    from ucaudit.packs.batch import judge_all, judge_one
    from ucaudit.packs.judging import Full

    trust = load_trust(asked.trust)
    tasks = _tasks(asked, outputs.packs)
    signer = _signer(asked)
    if signer is not None:
        from ucaudit.interop.svr import require_own_key

        require_own_key(signer.public_key, trust, subject=str(asked.svr_key))
    full = None
    if asked.full:
        device = prepare_compute(asked.device, asked.threads)
        full = Full(device, asked.threads, asked.good)
    memo = _cache(asked, out)
    if len(tasks) == 1:
        outcomes = [judge_one(tasks[0], trust, full=full, memo=memo, progress=out.progress, threads=asked.threads)]
    else:
        outcomes = judge_all(tasks, trust, jobs=asked.jobs, full=full, memo=memo, done=_line(len(tasks), out))
    if memo is not None:
        memo.save()
        if memo.problem is not None:
            out.warn(f"the cache was {memo.problem}")
    if signer is not None:
        _sign(asked, outcomes, outputs.verdicts, signer, out)
    return outcomes


def _packs(asked: _Asked) -> tuple[list[Path], tuple[Path, ...]]:
    """Every pack that is named, each once; and what was passed over."""
    import sys

    from ucaudit.packs.batch import MAX_PACKS, packs_in, packs_listed

    named = list(asked.packs)
    skipped: tuple[Path, ...] = ()
    if asked.each is not None:
        found, skipped = packs_in(asked.each)
        named += found
    if asked.listed is not None:
        more = packs_listed(sys.stdin.read() if asked.listed == "-" else _read_text(Path(asked.listed)))
        if not more:
            raise InputError("lists no packs", subject=asked.listed, hint="one path a line")
        named += more
    packs = list(dict.fromkeys(named))
    if len(packs) > MAX_PACKS:
        raise InputError(f"{len(packs)} packs, at most {MAX_PACKS} at a time")
    return packs, skipped


def _tasks(asked: _Asked, packs: list[Path]) -> list[Task]:
    """Each pack with its evidence and policy."""
    from ucaudit.packs.batch import Task, choose_policies, evidence_for

    default, globs = _policies(asked.policies)
    chosen = choose_policies(packs, globs, default)
    return [
        Task(pack, evidence_for(pack, asked.evidence), policy) for pack, policy in zip(packs, chosen, strict=True)
    ]


def _policies(texts: tuple[str, ...]) -> tuple[LoadedPolicy | None, list[tuple[str, LoadedPolicy]]]:
    """The policy for all, and those for the packs of a pattern. A file is never taken for a pattern."""
    from ucaudit.evidence.policy import load_policy

    default: LoadedPolicy | None = None
    globs = []
    for text in texts:
        glob, separator, _ = text.partition("=")
        loaded = load_policy(_file_of(text))
        if separator and not Path(text).exists():
            globs.append((glob, loaded))
        elif default is not None and default.sha256 != loaded.sha256:
            raise click.UsageError("--policy FILE was given twice; use --policy GLOB=FILE for some packs only")
        else:
            default = loaded
    return default, globs


def _file_of(text: str) -> Path:
    """The file in ``FILE`` or ``GLOB=FILE``."""
    glob, separator, file = text.partition("=")
    return Path(text) if not separator or not glob or Path(text).exists() else Path(file)


def _read_text(path: Path) -> str:
    try:
        return read_limited(path, 8 << 20).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"not utf-8 at byte {error.start}", subject=str(path), hint="one path a line") from error


def _cache(asked: _Asked, out: Output) -> DigestCache | None:
    if asked.cache is None:
        return None
    from ucaudit.packs.memo import DigestCache

    memo = DigestCache(asked.cache)
    if memo.problem is not None:
        out.warn(f"the cache was {memo.problem}")
        memo.problem = None
    return memo


def _line(count: int, out: Output) -> Callable[[Outcome], None]:
    done = 0

    def tell(outcome: Outcome) -> None:
        nonlocal done
        done += 1
        out.status(f"  {done}/{count}  {outcome.verdict:12}  {outcome.task.pack}  {outcome.seconds:.1f} s")

    return tell


def _signer(asked: _Asked) -> Signer | None:
    if asked.svr_key is None:
        return None
    from ucaudit.evidence.keys import load_signer

    return load_signer(asked.svr_key, password=key_password(asked.svr_key, asked.password_file))


def _svr_files(asked: _Asked, packs: list[Path]) -> list[Path]:
    """Where each verdict goes: one file, or a file a pack in a directory."""
    if asked.svr is None:
        return []
    if not asked.many:
        return [asked.svr]
    from ucaudit.core.files import make_directory

    targets = [asked.svr / f"{pack.name}.svr.dsse.json" for pack in packs]
    for target in targets:
        if targets.count(target) > 1:
            raise InputError(
                "two packs of this name: their verdicts would have one file", subject=target.name, hint="rename one"
            )
    make_directory(asked.svr)
    return targets


def _sign(asked: _Asked, outcomes: list[Outcome], targets: list[Path], signer: Signer, out: Output) -> None:
    from ucaudit.core.digest import sha256_file
    from ucaudit.interop.svr import VERIFIER, signed_verdict

    trusted = ("trust file", sha256_file(asked.trust))
    for outcome, target in zip(outcomes, targets, strict=True):
        if outcome.judged is None or outcome.judged.files is None:
            continue
        policy = outcome.task.policy
        envelope = signed_verdict(
            outcome.judged.result,
            outcome.judged.files,
            ((policy.path.name, policy.sha256), trusted),
            signer,
            verifier=asked.svr_id or VERIFIER,
        )
        _write(target, envelope.raw)
        out.status(f"verdict signed: {target}")


def _github(outcomes: list[Outcome], code: int) -> None:
    """Annotations go to stderr, which a runner reads as well: stdout is the result's."""
    import os

    from ucaudit.interop.github import commands, outputs, summary

    for line in commands(outcomes):
        click.echo(line, err=True)
    for name, text in (("GITHUB_STEP_SUMMARY", summary(outcomes)), ("GITHUB_OUTPUT", outputs(outcomes, code))):
        place = os.environ.get(name)
        if not place:
            continue
        try:
            with Path(place).open("a", encoding="utf-8") as handle:
                handle.write(text)
        except OSError as error:
            click.echo(f"ucaudit: warning: {name} cannot be written: {error.strerror}", err=True)


def _found(outcome: Outcome) -> Verification | UcauditError:
    if outcome.judged is not None:
        return outcome.judged.result
    assert outcome.error is not None
    return outcome.error


def _remove(target: Path) -> None:
    """Raises OutputError for what is no file."""
    from ucaudit.core.files import output_error

    try:
        target.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(target, error) from error


def _write(target: Path, data: bytes) -> None:
    from ucaudit.core.files import write_bytes

    write_bytes(target, data)
