"""The report of a floor: its verdict, its plot, its plan; and nothing that does not follow from its files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from bundles import Setting, make_setting
from click.testing import CliRunner
from floors import make_floor, protocol, published

from ucaudit.cli.cmd_report import report
from ucaudit.core.errors import LedgerInconsistentError, VerificationError
from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.trust import load_trust
from ucaudit.report.floors import floor_report, render_floor

WON = {"rank-8": 0.002}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return make_setting(tmp_path_factory.mktemp("floor-report"))


@pytest.fixture(scope="module")
def supported(setting: Setting) -> Path:
    return make_floor(setting, setting.root / "supported", made=protocol(published=published()))


def run(*words: object) -> Any:
    return CliRunner().invoke(report, [str(word) for word in words], catch_exceptions=True)


def test_a_supported_floor(setting: Setting, supported: Path) -> None:
    bundle = open_bundle(supported)
    view = floor_report(bundle, "soc2", trust=load_trust(setting.trust))
    assert (view.verdict, view.style, view.key_note) == ("FLOOR SUPPORTED", "pass", "signer's key checked")
    text = render_floor(bundle, "soc2", kind="html").decode()
    assert "signer&#39;s key not checked" in text
    for run_row in view.runs:
        assert run_row.pack in text and run_row.state in text and run_row.values in text
    assert "A published floor beside this measurement" in text
    assert text.count("<svg") == 1 and "δ = " in text
    assert view.figure.svg is not None and "<script" not in text


def test_verdicts_in_words(setting: Setting, tmp_path: Path) -> None:
    first = protocol().perturbations[0].name
    refuted = make_floor(setting, tmp_path / "refuted", levels={first: 0.002})
    view = floor_report(open_bundle(refuted), "fda")
    assert (view.verdict, view.style) == ("FLOOR REFUTED", "fail")
    assert any("fresh" in row.windows for row in view.rows)
    text = render_floor(open_bundle(refuted), "fda", kind="html").decode()
    assert "at least one declared attempt improves" in text.lower()
    assert "carries no attachment" in text


def test_the_command(setting: Setting, supported: Path, tmp_path: Path) -> None:
    out = tmp_path / "floor.pdf"
    done = run(supported, "--profile", "mrm", "--out", out, "--trust", setting.trust, "--json")
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout)["determination"] == "pass"
    data = out.read_bytes()
    assert data.startswith(b"%PDF-1.7") and data.count(b"/EmbeddedFile") == 1
    for words in (("--previous", supported), ("--ledger", setting.ledger)):
        assert run(supported, "--profile", "mrm", "--out", tmp_path / "x.html", *words).exit_code == 2


@pytest.mark.parametrize("checked", [True, False])
def test_an_edited_bundle_is_not_rendered(setting: Setting, supported: Path, tmp_path: Path, checked: bool) -> None:
    copy = Path(shutil.copytree(supported, tmp_path / "copy"))
    victim = next(copy.glob("run-*.safetensors"))
    data = bytearray(victim.read_bytes())
    data[-2] ^= 1
    victim.write_bytes(data)
    words = ("--trust", setting.trust) if checked else ()
    done = run(copy, "--profile", "soc2", "--out", tmp_path / "r.html", *words)
    assert isinstance(done.exception, VerificationError), done.output
    assert not (tmp_path / "r.html").exists()


def test_a_plan_that_came_late_is_not_rendered(tmp_path: Path) -> None:
    # A ledger of its own: another test's plan of the same second would be this very plan, entered in time.
    setting = make_setting(tmp_path)
    late = make_floor(setting, tmp_path / "late", late_plan=True)
    trust = load_trust(setting.trust)
    with pytest.raises((LedgerInconsistentError, VerificationError)):
        floor_report(open_bundle(late), "soc2", trust=trust)
