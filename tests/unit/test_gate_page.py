"""docs/gate.md: its tables are the code's, and its transcript is what happens."""

import ast
import os
import re
import sys
from pathlib import Path

import pytest
import yaml
from transcripts import agrees, clean_environment, run_action, run_page

from ucaudit.evidence.slugs import CHECKS, CLAIM_SLUG, KINDS, REASONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
VERIFY_ONLY = {"contents", "report", "report-closer", "rendering", "reference-files", "tokens"}
"""Checks that only `verify` makes: of a report, of an envelope without its bundle, of its spot check."""


def table(name):
    text = PAGE.split(f"<!-- table: {name} -->\n")[1].split("<!-- end -->")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
    return {slug.strip("`"): words for slug, words in rows}


def test_the_page_lists_every_check_and_every_reason():
    assert table("checks") == CHECKS
    assert table("reasons") == REASONS


def modules():
    """What a gate runs. Bundles of floors are no gate's evidence, and have checks of their own."""
    found = [*(ROOT / "ucaudit" / "evidence").rglob("*.py"), *(ROOT / "ucaudit" / "packs").rglob("*.py")]
    return [path for path in found if "floors" not in path.parts]


def slugs_in_the_code():
    """The first argument of every call that makes a check: words as they stand, and the patterns of f-strings."""
    names, patterns = set(), set()
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            receiver = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
            if not (called in ("remark", "rule") or (called == "add" and receiver.split(".")[-1] == "result")):
                continue
            first = node.args[0]
            if isinstance(first, ast.Constant):
                names.add(first.value)
            elif isinstance(first, ast.JoinedStr):
                patterns.add(ast.unparse(first))
    return names, patterns


def test_every_check_in_the_code_has_a_name_that_is_kept():
    names, patterns = slugs_in_the_code()
    assert len(names) > 40
    assert names - VERIFY_ONLY <= CHECKS.keys()
    assert patterns == {"f'{kind}-signature'", "f'{kind}-key'", "f'{kind}-key-hint'", "f'claim-{claim.id}'"}
    assert {f"KIND-{end}" for end in ("signature", "key", "key-hint")} | {CLAIM_SLUG} <= CHECKS.keys()


def test_every_name_in_the_table_is_used():
    source = "\n".join(path.read_text() for path in (ROOT / "ucaudit").rglob("*.py") if path.name != "slugs.py")
    computed = {f"{kind}-ledger-witness" for kind in ("plan", "seed")} | {
        "ledger-witness",
        "plan-order",
        "seed-order",
    }
    for slug in CHECKS.keys() - computed - {CLAIM_SLUG}:
        if not slug.startswith("KIND-"):
            assert f'"{slug}"' in source, slug
    for reason in REASONS:
        assert f'"{reason}"' in source, reason


def test_kinds_are_those_that_are_signed():
    source = "".join(path.read_text() for path in modules())
    made = set(re.findall(r'find_signers\([^"]*"([a-z]+)"\)', source))
    assert set(KINDS) | {"record"} == made


# --- the files of other platforms --------------------------------------------------------------------------
def test_the_pages_inputs_are_the_actions():
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    section = PAGE.split("## GitHub\n")[1].split("##")[0].split("Inputs:")[1].split("Inputs reach")[0]
    assert set(re.findall(r"`([a-z-]+)`", section)) == action["inputs"].keys()
    gate_step = action["runs"]["steps"][-1]
    for step in action["runs"]["steps"]:
        assert "${{" not in step["run"]  # an input is never text in a script
        assert set(re.findall(r"\$\{?(GATE_[A-Z_]+)", step["run"])) == step["env"].keys()
    for output in action["outputs"].values():
        assert output["value"].startswith("${{ steps." + gate_step["id"] + ".outputs.")


@pytest.fixture
def action(tmp_path):
    """Runs the action's steps with a program that says how it was called and exits with ``code``."""

    def run(code=0, says="", **given):
        stub = tmp_path / "stub"
        stub.write_text(f'#!/bin/sh\necho "$*"\n{says}\nexit {code}\n')
        stub.chmod(0o755)
        inputs = {"policy": "p.toml", "trust": "t.toml", "packs": "pack", "program": str(stub)} | given
        words = {name.replace("_", "-"): value for name, value in inputs.items()}
        return run_action(words, tmp_path, {"PATH": os.environ["PATH"]})[-1]

    return run


@pytest.mark.parametrize("code", [1, 2, 3, 70])
def test_the_action_has_outputs_however_the_gate_ends(action, code):
    ran = action(code)
    assert ran.code == code
    assert ran.outputs == {"verdict": "error", "exit-code": str(code), "admitted": "0", "refused": "0"}
    told = action(code, 'echo verdict=refused >>"$GITHUB_OUTPUT"')
    assert (told.code, told.outputs) == (code, {"verdict": "refused"})


@pytest.mark.parametrize("value", ["true", "True", "yes", "1", "false", "False", "no", ""])
def test_a_full_check_is_one_however_it_is_spelt(action, value):
    assert ("--full" in action(full=value).log) == (value.lower() in ("true", "yes", "1"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"full": "maybe"}, "the input full is neither true nor false"),
        ({"trust": ""}, "the input trust is empty"),
        ({"policy": ""}, "the input policy is empty"),
        ({"svr": "v.json"}, "the input svr needs svr-key"),
        ({"svr_key": "k.pem"}, "the input svr-key is for svr"),
    ],
)
def test_inputs_that_the_action_refuses(action, given, said):
    ran = action(**given)
    assert ran.code == 2 and ran.outputs["verdict"] == "error" and f"::error title=ucaudit gate::{said}" in ran.log
    assert "--trust" not in ran.log  # the gate was not started


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """`ucaudit` as a program on the path, of this interpreter."""
    place = tmp_path_factory.mktemp("bin") / "ucaudit"
    place.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ucaudit "$@"\n')
    place.chmod(0o755)
    return place


@pytest.fixture
def environment(program, tmp_path):
    (tmp_path / "home").mkdir()
    return clean_environment(program, tmp_path / "home") | {"PYTHONPATH": str(ROOT)}


@pytest.mark.slow
def test_the_transcript_is_what_happens(environment, tmp_path):
    place = tmp_path / "shop"
    place.mkdir()
    steps = list(run_page(PAGE, place, environment))
    for step in steps:
        assert agrees(step.expected, step.printed), (
            f"$ {step.command}\nthe page:\n{step.expected}\nis:\n{step.printed}"
        )
    workflow = [step.printed for step in steps if step.command.endswith("models.yml")]
    assert ["exit code 1." in printed for printed in workflow] == [True, False]  # red, then green


def test_agreement_can_fail():
    assert agrees("a …\nc\n", "a b\nc")
    assert not agrees("a\n", "b")
    assert not agrees("a …\n", "b a c")


def write_shop(place):
    """Two packs with odd names, one of them drifted, and what the gate needs."""
    import shutil

    fixtures = ROOT / "fixtures"
    for name in ("a $(touch hacked) 'b'", "c"):
        shutil.copytree(fixtures / "pack", place / "models" / name)
    for name in ("policy.toml", "trust.toml"):
        shutil.copy(fixtures / name, place / name)
    shutil.copytree(fixtures / "bundle", place / "evidence")
    (place / "models" / "c" / "STATE").write_text("x")


@pytest.mark.slow
def test_the_action_takes_odd_names_for_what_they_are(environment, tmp_path):
    place = tmp_path / "shop"
    place.mkdir()
    write_shop(place)
    given = {
        "packs": "models/a $(touch hacked) 'b'\nmodels/c\n",
        "evidence": "evidence",
        "policy": "policy.toml",
        "trust": "trust.toml",
        "junit": "gate.xml",
    }
    (ran,) = run_action(given, place, environment)
    assert ran.code == 1 and not (place / "hacked").exists()
    assert ran.outputs == {"verdict": "refused", "exit-code": "1", "admitted": "1", "refused": "1"}
    assert "| c | REFUSED | pack-files |" in ran.summary
    assert "::error title=ucaudit gate c%3A pack-files::" in ran.log
    assert (place / "gate.xml").read_bytes().count(b"<testsuite ") == 2
    (ran,) = run_action({**given, "packs": given["packs"].split("\n")[0]}, place, environment)
    assert (ran.code, ran.outputs["verdict"]) == (0, "admitted")
    (ran,) = run_action({**given, "policy": "nowhere.toml"}, place, environment)
    assert ran.code == 3 and "no such file" in ran.log


@pytest.mark.slow
def test_the_gitlab_job(environment, tmp_path):
    import subprocess

    place = tmp_path / "shop"
    place.mkdir()
    write_shop(place)
    job = yaml.safe_load((ROOT / "integrations" / "gitlab-ci.yml").read_text())[".ucaudit-gate"]
    assert job["artifacts"]["reports"]["junit"] == "$GATE_JUNIT" and job["artifacts"]["when"] == "always"

    def run(**variables):
        settings = {**job["variables"], "GATE_EVIDENCE": "evidence", "GATE_PROGRAM": environment["UCAUDIT_PROGRAM"]}
        done = subprocess.run(
            ["sh", "-ec", "\n".join(job["script"])],
            cwd=place,
            env={**environment, **settings, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    code, out = run(GATE_EACH="models")
    assert code == 1 and "1 of 2 ADMITTED" in out and not (place / "hacked").exists()
    assert (place / "ucaudit-gate.xml").exists()
    assert run(GATE_PACKS="models/a $(touch hacked) 'b'\n")[0] == 0
    assert run(GATE_EACH="models", GATE_POLICY="policy.toml\nno-such-*=policy.toml")[0] == 3


def test_the_hooks_are_commands():
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    from ucaudit.cli.main import COMMANDS

    for hook in hooks:
        assert hook["entry"].split()[0] == "ucaudit" and hook["entry"].split()[1] in COMMANDS
        assert hook["id"] in PAGE
