"""A page's transcript, run as a new user would: its commands in a shell, its workflow's steps as a runner does.

A ``console`` block holds commands after ``$ `` and what they print; ``…`` stands for any text. A block under the
comment ``<!-- runner: FILE -->`` is what the workflow in that file prints. All blocks share one directory, in the
order of the page.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(
    r"(?:^<!-- runner: (?P<workflow>\S+) -->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")


@dataclass
class Step:
    """One thing that was run: what the page says it prints, and what it printed."""

    command: str
    expected: str
    printed: str
    seconds: float = 0.0


def run_page(page: str, place: Path, environment: Mapping[str, str]) -> Iterator[Step]:
    """Run every block of a page in ``place``."""
    for block in _BLOCK.finditer(page):
        if block["workflow"]:
            ran = run_workflow(place / block["workflow"], place, environment)
            yield Step(block["workflow"], block["text"], "".join(item.log for item in ran))
        elif block["kind"] == "console":
            for command, expected in _commands(block["text"]):
                yield Step(command, expected, shell(command, place, environment))


def _commands(text: str) -> Iterator[tuple[str, str]]:
    """Commands, with their continued lines (``> ``), and what follows them."""
    command: list[str] = []
    printed: list[str] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            if command:
                yield "\n".join(command), "".join(printed)
            command, printed = [line[2:]], []
        elif line.startswith("> ") and not printed:
            command.append(line[2:])
        else:
            printed.append(line + "\n")
    if command:
        yield "\n".join(command), "".join(printed)


def shell(command: str, place: Path, environment: Mapping[str, str]) -> str:
    """What a command prints on both streams, in order."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=place,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    return done.stdout


def agrees(expected: str, printed: str) -> bool:
    """Whether a page's words are what was printed; ``…`` stands for any text, and ends of lines do not count."""
    wanted = "\n".join(line.rstrip() for line in expected.strip("\n").splitlines())
    found = "\n".join(line.rstrip() for line in printed.strip("\n").splitlines())
    pattern = ".*?".join(re.escape(part) for part in wanted.split("…"))
    return re.fullmatch(pattern, found, re.DOTALL) is not None


# --- a runner, as far as our own action needs one --------------------------------------------------------
@dataclass
class Ran:
    """One step of a composite action: its name, exit code, and log."""

    name: str
    code: int
    log: str
    outputs: dict[str, str] = field(default_factory=dict)
    summary: str = ""


def run_workflow(path: Path, place: Path, environment: Mapping[str, str]) -> list[Ran]:
    """Run the jobs of a workflow that checks out the repository and uses our action."""
    ran: list[Ran] = []
    for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
        for step in job["steps"]:
            name = step["uses"].split("@")[0]
            if name == "actions/checkout":
                continue  # ``place`` is the checkout
            assert name.endswith("/ucaudit"), f"not an action of ours: {name}"
            ran += run_action(step.get("with", {}), place, environment | step.get("env", {}))
    return ran


def run_action(given: Mapping[str, object], place: Path, environment: Mapping[str, str]) -> list[Ran]:
    """Run the steps of our composite action with these inputs, each in the shell that it names."""
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    unknown = given.keys() - action["inputs"].keys()
    assert not unknown, f"the action has no input {unknown}"
    missing = {name for name, item in action["inputs"].items() if item.get("required")} - given.keys()
    assert not missing, f"the action requires {missing}"
    inputs = {name: str(given.get(name, item.get("default", ""))) for name, item in action["inputs"].items()}
    inputs["program"] = inputs["program"] or environment.get("UCAUDIT_PROGRAM", "")
    known = {f"inputs.{name}": value for name, value in inputs.items()} | {"github.action_path": str(ROOT)}
    temporary = place.parent / f"{place.name}.runner"
    temporary.mkdir(exist_ok=True)
    ran: list[Ran] = []
    for number, step in enumerate(action["runs"]["steps"]):
        if "if" in step and not _holds(step["if"], known):
            continue
        files = {name: temporary / f"{number}-{name}" for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        for file in files.values():
            file.write_text("")
        assert step["shell"] == "bash"
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=place,
            env={
                **environment,
                "CI": "true",
                "GITHUB_ACTIONS": "true",
                "RUNNER_TEMP": str(temporary),
                **{name: str(file) for name, file in files.items()},
                **{name: _filled(str(value), known) for name, value in step.get("env", {}).items()},
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        outputs = dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())
        ran.append(
            Ran(step["name"], done.returncode, done.stdout, outputs, files["GITHUB_STEP_SUMMARY"].read_text())
        )
        if done.returncode:
            ran[-1].log += f"##[error]Process completed with exit code {done.returncode}.\n"
            break
    return ran


def _filled(text: str, known: Mapping[str, str]) -> str:
    return _EXPRESSION.sub(lambda match: known[match[1]], text)


def _holds(condition: str, known: Mapping[str, str]) -> bool:
    """``inputs.NAME == 'text'``, the only form our action has."""
    left, right = condition.split(" == ")
    return known[left] == right.strip("'")


def clean_environment(program: Path, home: Path) -> dict[str, str]:
    """A user's environment: ``ucaudit`` on the path, 80 columns, no colours, nothing of this test run's."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "PYTHONPATH", "TMPDIR")}
    return {
        **kept,
        "PATH": f"{program.parent}:{kept['PATH']}",
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "COLUMNS": "80",
        "UCAUDIT": str(ROOT),
        "UCAUDIT_PROGRAM": str(program),
        "GIT_CONFIG_NOSYSTEM": "1",
        "PYTHONUNBUFFERED": "1",
    }
