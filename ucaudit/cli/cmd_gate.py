"""``ucaudit gate``: the check that CI runs before a pack is deployed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ucaudit.cli.common import Output, compute_options, key_password, output_options, prepare_compute
from ucaudit.cli.gate_asked import Asked, require_options, tasks_asked
from ucaudit.cli.gate_outputs import Outputs, sign_verdicts
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import UcauditError

if TYPE_CHECKING:
    from ucaudit.evidence.keys import Signer
    from ucaudit.packs.batch import Outcome
    from ucaudit.packs.memo import DigestCache
    from ucaudit.packs.reading import PackReading


@click.command()
@click.argument("packs", metavar="[PACK]...", nargs=-1, type=PATH)
@click.option("--each", type=PATH, metavar="DIR", help="Judge every pack in this directory.")
@click.option("--list", "listed", metavar="FILE", help="Judge the packs that FILE lists, one a line; - is stdin.")
@click.option(
    "--evidence",
    type=PATH,
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
@click.option("--trust", "trust", type=PATH, required=True, help="The gate's trust file.")
@click.option("--full", is_flag=True, help="Also reconstruct the pack, and name each drifted tensor.")
@click.option("--good", type=PATH, metavar="PACK", help="With --full: a good copy, to say how far tensors drifted.")
@click.option(
    "--jobs", type=click.IntRange(1, 256), help="Packs judged at a time  [default: the cores; 1 if --full]"
)
@click.option("--cache", type=PATH, metavar="FILE", help="Remember digests of unchanged files from run to run.")
@click.option("--junit", type=PATH, metavar="FILE", help="Write the checks as JUnit XML.")
@click.option(
    "--svr",
    type=PATH,
    metavar="FILE",
    help="Write a signed verdict (in-toto SVR v0.2); of many packs: a directory.",
)
@click.option("--svr-key", metavar="KEY", help="The gate's own private key, for --svr: a PEM file, or env:NAME.")
@click.option("--svr-id", metavar="URI", help="Who the verdict says has judged  [default: urn:ucaudit:gate:v1]")
@click.option("--password-file", type=PATH, help="File with the password of --svr-key.")
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
    asked = Asked(
        packs, each, listed, evidence, policies, trust, full, good, jobs, cache, junit, svr, svr_key, svr_id,
        password_file, github, device, threads,
    )  # fmt: skip
    require_options(asked)
    outputs = Outputs(asked, out)
    outputs.begin()
    outputs.warn_of_hidden()
    try:
        if outputs.problem is not None:
            raise outputs.problem
        with _begin_early(asked, out) as begun:
            outcomes = _judge(asked, outputs, out, begun)
    except UcauditError as error:
        outputs.fail(error)
        raise
    return outputs.finish(outcomes)


def _begin_early(asked: Asked, out: Output) -> AbstractContextManager[PackReading | None]:
    """One pack is hashed while the modules that judge it are loaded, which takes a quarter of a second."""
    if asked.many or asked.cache is not None:
        return nullcontext()
    from ucaudit.packs.reading import begin_early

    return begin_early(asked.packs[0], progress=out.progress, threads=asked.threads)


def _judge(asked: Asked, outputs: Outputs, out: Output, begun: PackReading | None) -> list[Outcome]:
    from ucaudit.evidence.trust import load_trust
    from ucaudit.packs.batch import judge_all, judge_one
    from ucaudit.packs.judging import Full

    trust = load_trust(asked.trust)
    tasks = tasks_asked(asked, outputs.packs)
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
        outcomes = [
            judge_one(
                tasks[0],
                trust,
                full=full,
                memo=memo,
                progress=out.progress,
                threads=asked.threads,
                begun=begun,
            )
        ]
    else:
        outcomes = judge_all(tasks, trust, jobs=asked.jobs, full=full, memo=memo, done=_line(len(tasks), out))
    if memo is not None:
        memo.save()
        if memo.problem is not None:
            out.warn(f"the cache was {memo.problem}")
    if signer is not None:
        sign_verdicts(asked, outcomes, outputs.verdicts, signer, out)
    return outcomes


def _cache(asked: Asked, out: Output) -> DigestCache | None:
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


def _signer(asked: Asked) -> Signer | None:
    if asked.svr_key is None:
        return None
    from ucaudit.evidence.keys import load_signer

    return load_signer(asked.svr_key, password=key_password(asked.svr_key, asked.password_file))
