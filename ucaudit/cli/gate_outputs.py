"""What ``ucaudit gate`` writes and prints: its result, JUnit, signed verdicts, a GitHub runner's files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ucaudit.cli.common import Output, printable
from ucaudit.cli.gate_asked import Asked, files_read, packs_asked
from ucaudit.core.errors import InputError, OutputError, RefusedError, UcauditError

if TYPE_CHECKING:
    from ucaudit.evidence.checks import Verification
    from ucaudit.evidence.keys import Signer
    from ucaudit.packs.batch import Outcome


class Outputs:
    """The files of a run: made unready before anything is judged, so that no run's green outlives it."""

    def __init__(self, asked: Asked, out: Output) -> None:
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
        asked = self._asked
        try:
            self.packs, self.skipped = packs_asked(asked)
            self.verdicts = _svr_files(asked, self.packs)
        except UcauditError as error:
            self.problem = error
        self._require_places()
        replaced = self.verdicts if asked.junit is None else [*self.verdicts, asked.junit]
        for target in replaced:
            _require_replaceable(target)
        for target in self.verdicts:
            _remove(target)
        if asked.junit is not None:
            from ucaudit.interop.junit import junit_error

            _write(asked.junit, junit_error(self._suite, "unfinished", "the gate was started and did not finish"))

    def _require_places(self) -> None:
        """No output may be an input, lie in one, or be another output. Raises RefusedError."""
        asked = self._asked
        named = (
            ("--junit", asked.junit),
            ("--cache", asked.cache),
            *(("--svr", path) for path in self.verdicts or ([asked.svr] if asked.svr is not None else [])),
        )
        places = [(option, path) for option, path in named if path is not None]
        if not places:
            return
        from ucaudit.core.files import require_outside
        from ucaudit.evidence.bundle import refuse_inside_bundle

        inputs = [*self.packs, *files_read(asked, self.packs)]
        taken: dict[str, str] = {}
        for option, path in places:
            refuse_inside_bundle(path)
            require_outside(path, *inputs)
            other = taken.setdefault(os.path.realpath(path), option)
            if other != option:
                raise RefusedError(
                    f"{other} and {option} name one file", subject=str(path), hint="give each a file of its own"
                )

    def warn_of_hidden(self) -> None:
        """Say what of a directory is not judged although a model may lie in it."""
        from ucaudit.packs.batch import may_be_weights

        hidden = [path.name for path in self.skipped if path.name.startswith(".") and may_be_weights(path)]
        if hidden:
            names = ", ".join(printable(name) for name in hidden[:5]) + (", …" if len(hidden) > 5 else "")
            self._out.warn(f"hidden, and not judged: {names}")

    def fail(self, error: UcauditError) -> None:
        """No pack could be judged."""
        if self._asked.github:
            from ucaudit.interop.github import command_of_error, outputs

            _to_runner([command_of_error(error)], {"GITHUB_OUTPUT": outputs([], error.exit_code)})
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


def _svr_files(asked: Asked, packs: list[Path]) -> list[Path]:
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


def sign_verdicts(asked: Asked, outcomes: list[Outcome], targets: list[Path], signer: Signer, out: Output) -> None:
    """Sign what came out for each pack, and write it; a pack without a verdict has none."""
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
    from ucaudit.interop.github import commands, outputs, summary

    texts = {"GITHUB_STEP_SUMMARY": summary(outcomes), "GITHUB_OUTPUT": outputs(outcomes, code)}
    _to_runner(commands(outcomes), texts)


def _to_runner(annotations: list[str], texts: dict[str, str]) -> None:
    """Annotations go to stderr, which a runner reads as well: stdout is the result's."""
    for line in annotations:
        click.echo(line, err=True)
    for name, text in texts.items():
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


def _require_replaceable(target: Path) -> None:
    """Raises OutputError for a device, a pipe or a directory."""
    if os.path.lexists(target) and not target.is_file():
        what = "is a directory" if target.is_dir() else "not a regular file"
        raise OutputError(f"cannot write: {what}", subject=str(target), hint="choose another output path")


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
