"""What a GitHub runner is given: nothing that a pack's names say breaks out of it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ucaudit.cli.common import printable
from ucaudit.core.errors import DigestMismatchError, InputError
from ucaudit.evidence.checks import Verification
from ucaudit.evidence.policy import LoadedPolicy
from ucaudit.interop.github import MAX_ANNOTATIONS, commands, outputs, summary
from ucaudit.packs.batch import Outcome, Task
from ucaudit.packs.judging import Judged


def outcome(name="pack", failures=(), error=None):
    task = Task(Path(name), None, LoadedPolicy(None, Path("policy.toml"), "0" * 64))
    result = Verification()
    result.add("signers", "distinct trusted signers", None, "1 of 1 needed")
    for text in failures:
        result.add("pack-files", "files", DigestMismatchError(text, hint="ask"), "")
    return Outcome(task, None if error else Judged(result), error, 0.1)


def test_a_command_for_each_failure():
    lines = commands([outcome(), outcome("a,b:c", ["100% other\nsecond"]), outcome("d", error=InputError("odd"))])
    assert lines == [
        "::error title=ucaudit gate a%2Cb%3Ac%3A pack-files::files: 100%25 other%0Asecond%0Aask",
        "::error title=ucaudit gate d::no verdict: odd",
    ]


def test_no_more_than_a_runner_shows():
    lines = commands([outcome(failures=[f"file {number}" for number in range(30)])])
    assert len(lines) == MAX_ANNOTATIONS
    assert lines[-1] == "::error title=ucaudit gate::and 21 more: see the step's summary"


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_breaks_out_of_a_command(name, detail):
    for line in commands([outcome("x" + name.replace("\0", ""), [detail])]):
        assert "\n" not in line and "\r" not in line
        title = line.removeprefix("::error title=").split("::")[0]
        assert ":" not in title and "," not in title


@given(st.text(max_size=80))
def test_no_text_breaks_out_of_a_row(text):
    shown = summary([outcome("x" + text.replace("\0", "").replace("/", ""), [text])])
    table = shown.split("| --- | --- | --- |\n")[1].splitlines()
    row = table[0].replace("\\\\", "").replace("\\|", "")
    assert row.count("|") == 4
    assert "<" not in shown.replace("\\<", "")


def test_the_summary_says_what_failed():
    text = summary([outcome("good"), outcome("bad", ["a_b: expected <img src=x> @team"])])
    assert text.startswith("### ucaudit gate: 1 of 2 pack(s) admitted\n")
    assert "| good | ADMITTED | none |" in text
    assert "| bad | REFUSED | pack-files |" in text
    assert r"a\_b: expected \<img src=x\> @" + "\u200b" + "team" in text


def test_a_summary_has_a_size(monkeypatch):
    monkeypatch.setattr("ucaudit.interop.github.MAX_SUMMARY_BYTES", 2000)
    text = summary([outcome(failures=["é" * 100] * 40)])
    assert len(text.encode()) < 1200 and text.endswith("More than fits here: see the step's log.\n")


@pytest.mark.parametrize(("code", "verdict"), [(0, "admitted"), (1, "refused"), (3, "error"), (5, "inconclusive")])
def test_outputs(code, verdict):
    text = outputs([outcome(), outcome(failures=["x"])], code)
    assert text == f"verdict={verdict}\nexit-code={code}\nadmitted=1\nrefused=1\n"


def test_names_in_the_log_are_no_commands(monkeypatch):
    """A runner takes a line that begins with :: for a command, and wrapping decides where a line begins."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert printable("x ::add-mask::a ##[command]b") == "x : :add-mask: :a ## [command]b"
    monkeypatch.delenv("GITHUB_ACTIONS")
    assert printable("a::b") == "a::b"
