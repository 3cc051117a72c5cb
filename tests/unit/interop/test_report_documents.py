"""``ucaudit report`` to the formats of other people's programs: what is written, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from bundles import Setting, make_bundle, make_setting, make_values
from click.testing import CliRunner
from floors import make_floor

from ucaudit.cli.cmd_report import report
from ucaudit.core.digest import sha256_hex
from ucaudit.core.errors import (
    DigestMismatchError,
    InputError,
    NotFoundError,
    OutputError,
    RefusedError,
    UntrustedKeyError,
    VerificationError,
)
from ucaudit.core.records import Attestation
from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.examine import Examined, examine_bundle
from ucaudit.evidence.keys import generate
from ucaudit.evidence.trust import add_key, load_trust
from ucaudit.interop.cyclonedx import cyclonedx_json
from ucaudit.interop.model_index import model_index_yaml
from ucaudit.interop.oscal import oscal_json
from ucaudit.report import load_profile, profile_names

ENDS: dict[str, tuple[str, ...]] = {
    "oscal.json": ("--profile", "soc2"),
    "cdx.json": (),
    "model-index.yaml": (),
}
# What no document may say of a model, a signer or itself. "effective challenge" is SR 11-7's own term,
# "effective n" a number of windows.
FORBIDDEN = re.compile(
    r"(?<![a-z])(compliant|compliance|certif\w+|validated|safe|effective(?![ -]challenge| n over)|clinically|"
    r"unbiased|guarantee\w*|independent validation|equivalent|tamper-?proof|verified)(?![a-z])",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return make_setting(tmp_path_factory.mktemp("documents"))


@pytest.fixture(scope="module")
def honest(setting: Setting) -> Path:
    return make_bundle(setting, setting.root / "honest")


def run(*words: object) -> Any:
    return CliRunner().invoke(report, [str(word) for word in words], catch_exceptions=True)


@pytest.mark.parametrize("end", ENDS)
def test_a_document_is_written_without_the_report_extra(
    honest: Path, setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    for library in ("jinja2", "weasyprint", "segno", "yaml"):
        monkeypatch.setitem(sys.modules, library, None)
    out = tmp_path / "deep" / f"release.{end}"
    done = run(honest, *ENDS[end], "--out", out, "--trust", setting.trust, "--json", "--quiet")
    assert done.exit_code == 0, done.exception
    said = json.loads(done.stdout)
    data = out.read_bytes()
    assert said["sha256"] == sha256_hex(data)
    assert said["format"] == {"oscal.json": "oscal", "cdx.json": "cyclonedx"}.get(end, "model-index")
    assert said["profile"] == ("soc2" if ENDS[end] else None)
    fingerprint = open_bundle(honest).attestation.digest
    assert said["envelopeDigest"] == fingerprint
    assert fingerprint.encode() in data
    assert b"signer@tests.invalid" in data
    again = tmp_path / f"again.{end}"
    assert run(honest, *ENDS[end], "--out", again, "--trust", setting.trust).exit_code == 0
    assert again.read_bytes() == data


@pytest.mark.parametrize("end", ENDS)
def test_a_failed_result_is_written_like_a_passed_one(setting: Setting, tmp_path: Path, end: str) -> None:
    bundle = make_bundle(setting, tmp_path / "b", values=make_values(drift=0.05))
    out = tmp_path / f"f.{end}"
    done = run(bundle, *ENDS[end], "--out", out)
    assert done.exit_code == 0, done.exception
    text = out.read_text(encoding="utf-8")
    assert "FAIL" in text
    assert "not checked" in text
    assert ('"satisfied"' in text) is False
    if end == "oscal.json":
        assert '"not-satisfied"' in text


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("name", ["nll-pack.safetensors", "STATE", "pack.SHA256SUMS", "reference.SHA256SUMS"])
def test_an_edited_bundle_is_refused(
    honest: Path, setting: Setting, tmp_path: Path, end: str, checked: bool, name: str
) -> None:
    copy = Path(shutil.copytree(honest, tmp_path / "bundle"))
    data = bytearray((copy / name).read_bytes())
    data[-2] ^= 1
    (copy / name).write_bytes(data)
    out = tmp_path / f"x.{end}"
    done = run(copy, *ENDS[end], "--out", out, *(("--trust", setting.trust) if checked else ()))
    assert isinstance(done.exception, DigestMismatchError), done.output
    assert not out.exists()
    (copy / name).unlink()
    done = run(copy, *ENDS[end], "--out", out)
    assert isinstance(done.exception, NotFoundError), done.output


def call_it_a_pass(record: Attestation) -> Attestation:
    first = record.claims[0].model_copy(update={"verdict": "pass"})
    return record.model_copy(update={"determination": "pass", "claims": (first, *record.claims[1:])})


@pytest.mark.parametrize("end", ENDS)
def test_a_record_that_does_not_follow_from_its_files_is_refused(
    setting: Setting, tmp_path: Path, end: str
) -> None:
    values = make_values(drift=0.05)
    bundle = make_bundle(setting, tmp_path / "b", values=values, change_record=call_it_a_pass)
    done = run(bundle, *ENDS[end], "--out", tmp_path / f"x.{end}")
    assert isinstance(done.exception, VerificationError), done.output
    assert done.exception.subject == "claims"
    assert [item.name for item in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("end", ENDS)
def test_a_foreign_key_is_refused(honest: Path, tmp_path: Path, end: str) -> None:
    _, _, key = generate(tmp_path, "other", password=None)
    add_key(tmp_path / "trust.toml", key, "other", roles=())
    done = run(honest, *ENDS[end], "--out", tmp_path / f"x.{end}", "--trust", tmp_path / "trust.toml")
    assert isinstance(done.exception, UntrustedKeyError)


@pytest.mark.parametrize("end", ENDS)
def test_places_that_are_refused(honest: Path, tmp_path: Path, end: str) -> None:
    there = tmp_path / f"there.{end}"
    there.write_text("mine", encoding="utf-8")
    for out, error in (
        (there, RefusedError),
        (honest / f"x.{end}", RefusedError),
        (Path("/proc/nowhere") / f"x.{end}", OutputError),
    ):
        done = run(honest, *ENDS[end], "--out", out)
        assert isinstance(done.exception, error), done.output
    assert there.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "r.json"], ".oscal.json"),
        (["--out", "r.cdx.xml"], ".cdx.json"),
        (["--out", "r.yaml"], ".model-index.yaml"),
        (["--out", "oscal.json"], ".oscal.json"),
        (["--out", "r.oscal.json"], "missing option --profile"),
        (["--out", "r.pdf"], "missing option --profile"),
        (["--out", "r.html"], "missing option --profile"),
        (["--out", "r.cdx.json", "--profile", "soc2"], "no control mapping"),
        (["--out", "r.model-index.yml", "--profile", "soc2"], "no control mapping"),
        (["--out", "r.cdx.json", "--previous", "b"], "--previous is for pdf and html"),
        (["--out", "r.cdx.json", "--ledger", "l"], "--ledger is for pdf and html"),
        (["--out", "r.oscal.json", "--profile", "soc2", "--paper", "a4"], "--paper is for pdf and html"),
    ],
)
def test_usage(
    honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(honest, *words)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("end", ENDS)
def test_a_floor_has_no_such_form(setting: Setting, tmp_path: Path, end: str) -> None:
    record = open_bundle(make_floor(setting, tmp_path / "floor"))
    done = run(record.path, *ENDS[end], "--out", tmp_path / f"x.{end}")
    assert type(done.exception) is InputError
    assert "holds a floor" in done.exception.message
    assert not (tmp_path / f"x.{end}").exists()


def test_suffixes_in_any_case_and_an_unknown_profile(honest: Path, tmp_path: Path) -> None:
    assert run(honest, "--out", tmp_path / "R.MODEL-INDEX.YML").exit_code == 0
    assert "model-index" in yaml.safe_load((tmp_path / "R.MODEL-INDEX.YML").read_text(encoding="utf-8"))
    done = run(honest, "--profile", "gdpr", "--out", tmp_path / "r.oscal.json")
    assert isinstance(done.exception, NotFoundError)


@pytest.mark.parametrize("case", ["pass", "fail", "inconclusive", "pass-with-exceptions"])
def test_no_document_claims_too_much(outcomes: dict[str, Examined], case: str) -> None:
    found = outcomes[case]
    made: list[bytes] = [cyclonedx_json(found), model_index_yaml(found)]
    made += [oscal_json(found, load_profile(profile)) for profile in profile_names()]
    for data in made:
        assert FORBIDDEN.findall(data.decode()) == []
    assert FORBIDDEN.findall("it is certified; SR 11-7 effective challenge; validated_") == [
        "certified",
        "validated",
    ]


def test_examined_from_a_bundle(honest: Path, setting: Setting) -> None:
    opened = open_bundle(honest)
    unchecked, checked = examine_bundle(opened), examine_bundle(opened, load_trust(setting.trust))
    assert (unchecked.principal, checked.principal) == (None, "signer@tests.invalid")
    assert unchecked.key_id == checked.key_id == setting.signer.public_key.key_id
    assert unchecked.ledger is not None and checked.ledger is not None
    assert (unchecked.ledger.checked, checked.ledger.checked) == (False, True)
    assert checked.manifest.digest == checked.record.pack.pack_digest


@pytest.mark.parametrize(
    "writer", [cyclonedx_json, model_index_yaml, lambda found: oscal_json(found, load_profile("fda"))]
)
def test_nothing_but_the_records_time(outcomes: dict[str, Examined], writer: Callable[[Examined], bytes]) -> None:
    found = outcomes["pass"]
    times = set(re.findall(r"\d{4}-\d{2}-\d{2}T[0-9:.Z+]+", writer(found).decode()))
    assert times <= {found.record.created}
