"""Many packs before a gate: which packs, which policy for each, several at a time, one exit code."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Final

from ucaudit.core.errors import (
    EXIT_FAIL,
    EXIT_INCONCLUSIVE,
    EXIT_INPUT,
    EXIT_PASS,
    EXIT_UNAVAILABLE,
    InputError,
    MalformedPolicyError,
    NotFoundError,
    UcauditError,
    UnavailableError,
    unreadable,
)
from ucaudit.core.files import is_directory
from ucaudit.core.progress import SILENT, Progress
from ucaudit.evidence.policy import LoadedPolicy
from ucaudit.evidence.trust import Trust
from ucaudit.packs.judging import BESIDE, Full, Judged, judge_pack
from ucaudit.packs.memo import DigestCache, Identity, Kind
from ucaudit.packs.opened import usable_cores
from ucaudit.packs.reading import PackReading
from ucaudit.packs.sniff import PICKLE_SUFFIXES

PACK_PLACE: Final = "{pack}"
"""Stands for the pack's name in a path of evidence."""
MAX_PACKS: Final = 10_000
_WEIGHTS: Final = PICKLE_SUFFIXES | {".safetensors", ".gguf"}
_GRAVEST_FIRST: Final = (EXIT_FAIL, EXIT_INPUT, EXIT_UNAVAILABLE, EXIT_INCONCLUSIVE)


@dataclass(frozen=True, slots=True)
class Task:
    """One pack to judge.

    Attributes:
        pack: where it lies.
        evidence: a bundle, its ``.zip`` or a directory of bundles; None for what lies beside the pack.
        policy: the one that is for this pack.
    """

    pack: Path
    evidence: Path | None
    policy: LoadedPolicy


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one pack came to: a judgement, or the error for which there is none.

    Attributes:
        task: what was asked.
        judged: every check; None if nothing could be said.
        error: why nothing could be said.
        seconds: how long it took.
    """

    task: Task
    judged: Judged | None
    error: UcauditError | None
    seconds: float
    learned: Mapping[Identity, tuple[str, Kind]] = field(default_factory=dict, repr=False)

    @property
    def exit_code(self) -> int:
        """The pack's own exit code."""
        if self.judged is not None:
            return self.judged.result.exit_code
        return self.error.exit_code if self.error is not None else EXIT_FAIL

    @property
    def verdict(self) -> str:
        """``admitted``, ``refused``, ``inconclusive`` or ``error``."""
        if self.judged is None:
            return "error"
        return {EXIT_PASS: "admitted", EXIT_INCONCLUSIVE: "inconclusive"}.get(self.exit_code, "refused")


def total_exit_code(codes: Iterable[int]) -> int:
    """One exit code for many packs: 0 only if all are admitted; else 1, 3, 4, 5, whichever comes first of those
    that occurred. A refusal is never hidden behind a pack that could not be read."""
    found = set(codes)
    return next((code for code in _GRAVEST_FIRST if code in found), max(found, default=EXIT_PASS))


def packs_in(directory: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """What has to be judged in a directory: its directories, files with a suffix of weights, and links that lead
    nowhere. Of those, only directories and ``.gguf`` files can be admitted.

    Returns:
        These, and everything else, which is passed over: evidence beside one of them (``NAME.evidence``), what is
        hidden (its name begins with a dot), and files of other kinds; both sorted.

    Raises:
        NotFoundError: no such directory, or no pack in it.
    """
    if not is_directory(directory):
        raise NotFoundError("no such directory", subject=str(directory), hint="give the directory of the packs")
    try:
        entries = sorted(directory.iterdir())
        found = [path for path in entries if not path.name.startswith(".") and may_be_weights(path)]
    except OSError as error:
        raise unreadable(str(directory), error, what="cannot be listed") from error
    beside = {f"{path.name}{BESIDE}" for path in found}
    packs = tuple(path for path in found if path.name not in beside)
    if not packs:
        raise NotFoundError("no packs in it", subject=str(directory), hint="a pack is a directory or a .gguf file")
    return packs, tuple(path for path in entries if path not in packs)


def may_be_weights(path: Path) -> bool:
    """Whether somebody could load a model from it, by what it is and how it is called."""
    return path.is_dir() or path.suffix.lower() in _WEIGHTS or (path.is_symlink() and not path.exists())


def packs_listed(text: str) -> tuple[Path, ...]:
    """The paths of a list: one a line; blank lines and lines that begin with ``#`` are none."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(Path(line) for line in lines if line and not line.startswith("#"))


def evidence_for(pack: Path, evidence: Path | None) -> Path | None:
    """Where a pack's evidence lies, with its name for :data:`PACK_PLACE`."""
    if evidence is None or PACK_PLACE not in str(evidence):
        return evidence
    return Path(str(evidence).replace(PACK_PLACE, pack.name))


def choose_policies(
    packs: Sequence[Path], globs: Sequence[tuple[str, LoadedPolicy]], default: LoadedPolicy | None
) -> list[LoadedPolicy]:
    """The policy of each pack.

    Args:
        packs: as they were named.
        globs: pattern and policy. A pattern with a ``/`` is held against the whole path, another against the name.
        default: for a pack that no pattern names.

    Raises:
        MalformedPolicyError: two patterns with policies that differ name one pack; the first difference is told.
        InputError: a pattern that names no pack, which a typing error would be; or a pack without a policy.
    """
    used: set[str] = set()
    chosen = []
    for pack in packs:
        fits = [(glob, policy) for glob, policy in globs if _fits(pack, glob)]
        used.update(glob for glob, _ in fits)
        if len({policy.sha256 for _, policy in fits}) > 1:
            (one, first), (other, second) = (
                fits[0],
                next(item for item in fits if item[1].sha256 != fits[0][1].sha256),
            )
            raise MalformedPolicyError(
                f"two policies disagree about it: {one} says {first.path}, {other} says {second.path}"
                f"{_difference(first, second)}",
                subject=str(pack),
                hint="let only one pattern name a pack",
            )
        policy = fits[0][1] if fits else default
        if policy is None:
            raise InputError(
                "no policy is for this pack", subject=str(pack), hint="--policy FILE is for all others"
            )
        chosen.append(policy)
    for glob, policy in globs:
        if glob not in used:
            raise InputError(f"no pack fits the pattern {glob}", subject=str(policy.path), hint="see its spelling")
    return chosen


def _fits(pack: Path, glob: str) -> bool:
    return fnmatchcase(pack.as_posix() if "/" in glob else pack.name, glob)


def _difference(one: LoadedPolicy, other: LoadedPolicy) -> str:
    first, second = _settings(one.policy.model_dump()), _settings(other.policy.model_dump())
    for name, value in first.items():
        if second.get(name) != value:
            return f"; {name} is {value} in the one, {second.get(name)} in the other"
    return "; they say the same in other words"


def _settings(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        found |= _settings(value, f"{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def judge_one(
    task: Task,
    trust: Trust,
    *,
    full: Full | None = None,
    memo: DigestCache | None = None,
    progress: Progress = SILENT,
    threads: int | None = None,
    begun: PackReading | None = None,
) -> Outcome:
    """Judge one pack; what stands in the way of a judgement is part of the outcome.

    Its arguments are those of :func:`ucaudit.packs.judging.judge_pack`.
    """
    began = time.monotonic()
    judged: Judged | None = None
    problem: UcauditError | None = None
    try:
        judged = judge_pack(
            task.pack,
            task.evidence,
            task.policy.policy,
            trust,
            full=full,
            memo=memo,
            progress=progress,
            threads=threads,
            begun=begun,
        )
    except UcauditError as error:
        problem = error
    except PermissionError as error:
        problem = unreadable(str(error.filename or task.pack), error)
    return Outcome(task, judged, problem, time.monotonic() - began)


def judge_all(
    tasks: Sequence[Task],
    trust: Trust,
    *,
    jobs: int | None = None,
    full: Full | None = None,
    memo: DigestCache | None = None,
    done: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Judge many packs, each in a process of its own turn.

    Args:
        tasks: the packs.
        trust: the gate's trust file.
        jobs: packs at a time; by default the usable cores, but one after the other with ``full``, which uses all
            cores for one pack.
        full: also reconstruct each pack.
        memo: a cache that is shared; it is saved by whoever owns it.
        done: called with each outcome, in the order of ``tasks``.

    Returns:
        The outcomes, in the order of ``tasks``.

    Raises:
        UnavailableError: the system killed a process.
    """
    cores = usable_cores()
    workers = min(jobs or (1 if full else cores), len(tasks))
    outcomes = []
    if workers <= 1:
        results: Iterator[Outcome] = (judge_one(task, trust, full=full, memo=memo) for task in tasks)
    else:
        place = memo.path if memo is not None else None
        threads = max(1, cores // workers)
        results = _in_processes([(task, trust, full, place, threads) for task in tasks], workers)
    for outcome in results:
        if memo is not None and outcome.learned:
            memo.join(dict(outcome.learned))
        outcomes.append(outcome)
        done(outcome)
    return outcomes


_Work = tuple[Task, Trust, Full | None, Path | None, int]


def _in_processes(work: Sequence[_Work], workers: int) -> Iterator[Outcome]:
    import multiprocessing  # only here: most gates judge one pack
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    # A process of its own start: a fork would copy threads' locks in whatever state they are.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_die_quietly)
    try:
        yield from pool.map(_judge_in_process, work)
    except BrokenProcessPool as error:
        raise UnavailableError(
            "the system ended a process that judged a pack",
            hint="was there too little memory? --jobs 1 judges one pack after the other",
        ) from error
    finally:
        for child in multiprocessing.active_children():
            child.terminate()
        pool.shutdown(cancel_futures=True)


def _die_quietly() -> None:
    """An interrupt is the parent's to report."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)


@cache
def _cache_at(path: Path) -> DigestCache:
    return DigestCache(path)


def _judge_in_process(work: _Work) -> Outcome:
    task, trust, full, place, threads = work
    memo = _cache_at(place) if place is not None else None
    outcome = judge_one(task, trust, full=full, memo=memo, threads=threads)
    if outcome.judged is not None:
        outcome.judged.result.values = None  # megabytes that nobody asks for any more
    return replace(outcome, learned=memo.learned() if memo is not None else {})
