"""The period report: every entry a row, exceptions named where the bundle is the one that the ledger names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from bundles import Setting, make_bundle, make_setting, make_values
from click.testing import CliRunner
from floors import make_floor

from ucaudit.cli.cmd_ledger import ledger as command
from ucaudit.core.digest import sha256_hex
from ucaudit.core.errors import InputError, NotFoundError
from ucaudit.core.records import Attestation, PolicyExceptionRecord
from ucaudit.evidence.claims import determine
from ucaudit.evidence.ledger import Export, Ledger, export_period
from ucaudit.report import period
from ucaudit.report.period import period_view, render_period

DRAWN = "2026-11-28T17:00:00Z"
OWNER = "Ω <owner>"


def excuse(record: Attestation) -> Attestation:
    item = PolicyExceptionRecord(claim="ppl-ratio", owner=OWNER, rationale="pilot", expires="2099-01-31T00:00:00Z")
    excused = record.model_copy(update={"exceptions": (item,)})
    return excused.model_copy(
        update={"determination": determine(excused.claims, excused.exceptions, excused.created)}
    )


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    made = make_setting(tmp_path_factory.mktemp("period"))
    evidence = made.root / "evidence"
    evidence.mkdir()
    make_bundle(made, evidence / "good")
    make_bundle(made, evidence / "bad", values=make_values(n=41, drift=0.05))
    make_bundle(made, evidence / "excused", values=make_values(n=42, drift=0.05), change_record=excuse)
    return made


@pytest.fixture(scope="module")
def made(setting: Setting) -> Export:
    ledger = Ledger.open(setting.ledger)
    entries: list[bytes] = []
    return export_period(ledger, ledger.verify(sink=entries.extend), entries, None, None)


def run(*words: object) -> Any:
    return CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=True)


def test_every_entry_is_a_row_and_failures_have_their_own_table(made: Export, setting: Setting) -> None:
    view = period_view(made, drawn=DRAWN, evidence=setting.root / "evidence")
    assert [row.index for row in view.rows] == list(range(view.total)) and view.total == 6
    assert [row.outcome for row in view.adverse] == ["FAIL, planned"]
    assert dict(view.counts)["of these PASS WITH EXCEPTIONS"] == 1
    assert [(row.claim, row.owner, row.state) for _, row in view.excuses] == [
        ("ppl-ratio", OWNER, "in force when signed; applied")
    ]
    assert view.unexplained == 0 and view.plans == ()
    assert view.fingerprint == sha256_hex(view.json)
    text = render_period(view, kind="html").decode()
    assert "Ω &lt;owner&gt;" in text and "None: every plan has its result." in text
    assert all(row.envelope in text for row in view.rows)


def test_a_floor_among_the_bundles_is_an_entry_and_no_record_of_a_pack(tmp_path: Path) -> None:
    other = make_setting(tmp_path)
    make_floor(other, tmp_path / "evidence" / "floor")
    ledger = Ledger.open(other.ledger)
    entries: list[bytes] = []
    export = export_period(ledger, ledger.verify(sink=entries.extend), entries, None, None)
    view = period_view(export, drawn=DRAWN, evidence=tmp_path / "evidence")
    assert [row.kind for row in view.rows] == ["floorplan", "floor"]
    assert view.excuses == ()


def test_without_bundles_owners_are_not_assessed(made: Export) -> None:
    text = render_period(period_view(made, drawn=DRAWN), kind="html").decode()
    assert "1 of the results passed with exceptions whose owner and expiry are not assessed" in text


def test_a_bundle_that_the_ledger_does_not_name_says_nothing(
    made: Export, setting: Setting, tmp_path: Path
) -> None:
    other = make_setting(tmp_path)
    (tmp_path / "evidence").mkdir()
    make_bundle(other, tmp_path / "evidence" / "b", values=make_values(drift=0.05), change_record=excuse)
    view = period_view(made, drawn=DRAWN, evidence=tmp_path / "evidence")
    assert view.excuses == () and view.unexplained == 1


def test_a_long_list_is_cut_and_says_so(made: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(period, "MAX_ROWS", 2)
    text = render_period(period_view(made, drawn=DRAWN), kind="html").decode()
    assert "2 of 6 entries are printed here." in text


def test_an_empty_period(setting: Setting) -> None:
    done = run("export", "--ledger", setting.ledger, "--to", "2001-01-01", "--report", setting.root / "none.html")
    assert done.exit_code == 0, done.output
    assert "The ledger has no entry in this period." in (setting.root / "none.html").read_text()


def test_the_command_writes_pdf_with_the_list_inside(setting: Setting, tmp_path: Path) -> None:
    out = tmp_path / "p.pdf"
    done = run("export", "--ledger", setting.ledger, "--report", out, "--json", "--trust", setting.trust)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["report"] == str(out) and len(document["rows"]) == 6
    data = out.read_bytes()
    assert data.startswith(b"%PDF-1.7") and data.count(b"/EmbeddedFile") == 2
    again = run("export", "--ledger", setting.ledger, "--report", out)
    assert "exists already" in str(again.exception)


def test_wrong_words(setting: Setting, tmp_path: Path) -> None:
    assert run("export", "--ledger", setting.ledger, "--report", tmp_path / "p.docx").exit_code == 2
    assert run("export", "--ledger", setting.ledger, "--evidence", tmp_path).exit_code == 2
    missing = run(
        "export", "--ledger", setting.ledger, "--report", tmp_path / "p.html", "--evidence", tmp_path / "no"
    )
    assert isinstance(missing.exception, NotFoundError)
    shutil.copytree(setting.root / "evidence" / "good", tmp_path / "e" / "b")
    (tmp_path / "e" / "b" / "attestation.dsse.json").write_text("{")
    broken = run(
        "export", "--ledger", setting.ledger, "--report", tmp_path / "p.html", "--evidence", tmp_path / "e"
    )
    assert isinstance(broken.exception, InputError)
    assert not (tmp_path / "p.html").exists()
