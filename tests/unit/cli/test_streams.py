"""A command's exit code whatever becomes of its output: closed, full, or read only in part."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bundles import make_bundle, make_values

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def evidence(setting):
    return {
        "good": make_bundle(setting, setting.root / "streams-good"),
        "failed": make_bundle(setting, setting.root / "streams-failed", values=make_values(drift=0.1)),
    }


@pytest.fixture
def shell(setting, policy, monkeypatch):
    """Runs ``ucaudit gate`` on the setting's pack in a shell, with what is written behind it."""
    rules = policy()

    def command(behind, bundle, *words, pack=setting.pack, env=None):
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        line = f'"$0" -m ucaudit gate "$@" {behind}'
        given = (pack, "--evidence", bundle, "--policy", rules, "--trust", setting.trust, "-q", *words)
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", line, sys.executable, *map(str, given)],
            capture_output=True,
            timeout=120,
            check=False,
        )

    return command


@pytest.mark.parametrize("behind", ["| true", ">&-", "<&- >&- 2>&-", "2>&1 >/dev/null | true"])
@pytest.mark.parametrize(("which", "code"), [("good", 0), ("failed", 1), ("none", 3)])
def test_who_does_not_read_changes_no_verdict(shell, evidence, tmp_path, behind, which, code):
    bundle = evidence.get(which, tmp_path / "none")
    for words in ((), ("--json",)):
        ran = shell(behind, bundle, *words)
        assert ran.returncode == code
        assert b"Traceback" not in ran.stderr and b"bug" not in ran.stderr


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_full_disk_is_no_verdict(shell, evidence, words):
    ran = shell(">/dev/full", evidence["good"], *words)
    assert ran.returncode == 4
    assert b"standard output: cannot be written: No space left on device" in ran.stderr


def test_an_input_that_is_closed_lists_no_packs(setting, policy):
    line = '"$0" -m ucaudit gate --list - "$@" <&-'
    given = [sys.executable, "--policy", str(policy()), "--trust", str(setting.trust)]
    ran = subprocess.run(["bash", "-c", line, *given], capture_output=True, timeout=60, check=False, cwd=ROOT)
    assert ran.returncode == 3 and b"lists no packs" in ran.stderr


def test_a_name_that_is_no_unicode_is_escaped_in_json(shell, evidence, tmp_path):
    for env in ({}, {"PYTHONIOENCODING": "utf-8:strict"}):
        ran = shell("", evidence["good"], "--json", pack=f"{tmp_path}/pk\udcff", env=env)
        assert ran.returncode == 3
        assert "pk\udcff: no such" in json.loads(ran.stdout)["error"]["message"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_json_in_every_encoding(shell, evidence, tmp_path, encoding):
    name = f"{tmp_path}/é\N{PACKAGE}\udcff"
    ran = shell("", evidence["good"], "--json", pack=name, env={"PYTHONIOENCODING": encoding})
    assert ran.returncode == 3
    assert f"{name}: no such" in json.loads(ran.stdout.decode(encoding))["error"]["message"]


def test_a_reader_that_is_slow_gets_everything(tmp_path):
    """Standard output that does not wait, and a pipe that is full for a while."""
    code = (
        "import os, sys\nos.set_blocking(1, False)\n"
        "from ucaudit.cli.streams import settle_streams\nsettle_streams()\n"
        "sys.stdout.write('x' * 1_000_000)\nsys.stdout.flush()\n"
    )
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    time.sleep(1)
    assert running.communicate(timeout=60)[0] == b"x" * 1_000_000 and running.returncode == 0


@pytest.mark.parametrize("words", [(), ("trust",), ("ledger",)])
def test_no_words_get_the_help(run, words):
    ran = run(*words)
    assert ran.code == 2
    assert ran.err.startswith("Usage: ucaudit") and "\n  " in ran.err and "\N{REPLACEMENT CHARACTER}" not in ran.err
