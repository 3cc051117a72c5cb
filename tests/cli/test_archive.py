"""`ucaudit archive`, and the commands that read a .zip as they read the directory."""

from pathlib import Path

import pytest

from tests.bundles import make_bundle, make_setting
from tests.cli.conftest import ucaudit


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    make_bundle(make_setting(root), root / "bundle")
    made = ucaudit("archive", root / "bundle", "--out", root / "evidence.zip", "--json")
    assert (made.code, made.err) == (0, "")
    assert made.json["path"] == str(root / "evidence.zip")
    return root


def test_every_reader_says_the_same_of_both(root: Path) -> None:
    trust = ("--trust", root / "trust.toml", "--json")
    for words in (("verify", "--pack", root / "pack", *trust), ("bound", "--json")):
        command, *rest = words
        said = [ucaudit(command, root / name, *rest) for name in ("bundle", "evidence.zip")]
        assert said[0].code == said[1].code == 0
        assert said[0].json == said[1].json


def test_a_report_against_the_archive_of_its_bundle(root: Path) -> None:
    report = next((root / "bundle").glob("report-*.pdf"))
    words = ("--bundle", root / "evidence.zip", "--trust", root / "trust.toml", "--json")
    checked = ucaudit("verify", report, *words)
    assert checked.code == 0, checked.err
    assert [item["status"] for item in checked.json["checks"] if item["slug"] == "report"] == ["pass"]


def test_the_gate_names_the_archive_that_it_judged(root: Path) -> None:
    (root / "policy.toml").write_text("[claims]\nppl_ratio_max = 1.0125\n")
    words = ("--policy", root / "policy.toml", "--trust", root / "trust.toml", "--json")
    said = ucaudit("gate", root / "pack", "--evidence", root / "evidence.zip", *words)
    assert said.json["bundle"] == str(root / "evidence.zip")
    assert "attestation-signature" in {check["slug"] for check in said.json["checks"] if check["status"] == "pass"}


def test_what_it_does_not_write_over(root: Path) -> None:
    again = ucaudit("archive", root / "bundle", "--out", root / "evidence.zip")
    assert again.code != 0
    inside = ucaudit("archive", root / "bundle", "--out", root / "bundle" / "report-x.zip")
    assert inside.code != 0
    assert not (root / "bundle" / "report-x.zip").exists()
    assert ucaudit("archive", root / "bundle", "--out", root / "evidence.tar").code == 2


def test_an_endorsement_needs_the_directory(root: Path) -> None:
    before = (root / "evidence.zip").read_bytes()
    words = ("--key", root / "keys" / "signer.pem", "--name", "A", "--role", "validator", "--meaning", "review")
    said = ucaudit("countersign", root / "evidence.zip", *words)
    assert said.code == 3
    assert "unpack" in said.err
    assert (root / "evidence.zip").read_bytes() == before
