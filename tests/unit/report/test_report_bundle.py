"""From a signed bundle to a report, through the library and through the command."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import Setting, make_bundle, make_setting, make_values
from click.testing import CliRunner
from floors import make_floor
from people import Authority

from ucaudit.cli.cmd_report import report
from ucaudit.core.errors import (
    DigestMismatchError,
    InputError,
    LedgerInconsistentError,
    MissingExtraError,
    NotFoundError,
    OutputError,
    SignatureInvalidError,
    UnsupportedSchemaError,
    UntrustedKeyError,
    VerificationError,
)
from ucaudit.core.files import write_bytes
from ucaudit.core.records import Attestation, Endorsement, Subject, Tool, make_statement
from ucaudit.evidence import bundle as names
from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.keys import Signer, generate, load_signer
from ucaudit.evidence.signing import sign
from ucaudit.evidence.trust import add_key, load_trust, revoke
from ucaudit.report import bundle_view, render_bundle
from ucaudit.report.formatting import grouped


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return make_setting(tmp_path_factory.mktemp("report-setting"))


@pytest.fixture(scope="module")
def honest(setting: Setting) -> Path:
    return make_bundle(setting, setting.root / "honest")


@pytest.fixture
def copy(honest: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(honest, tmp_path / "bundle"))


def run(*words: object) -> Any:
    return CliRunner().invoke(report, [str(word) for word in words], catch_exceptions=True)


def test_facts_of_a_bundle(honest: Path, setting: Setting) -> None:
    opened = open_bundle(honest)
    view = bundle_view(opened, "soc2", trust=load_trust(setting.trust))
    assert view.fingerprint == opened.attestation.digest
    assert (view.signer.principal, view.signer.roles) == ("signer@tests.invalid", "developer")
    assert view.signer.key_id == setting.signer.public_key.key_id
    assert view.ledger[0].value == "tests.invalid/log"
    assert "holds under the ledger key" in view.ledger[2].value
    assert all(figure.svg for figure in view.charts)
    assert {fact.label for fact in view.files} == {
        "STATE",
        "manifest.json",
        "layer-00000.safetensors",
        "notes/.hidden",
    }
    assert view.plan[1].value.endswith("of tests.invalid/log")


def test_without_a_trust_file_nothing_is_vouched_for(honest: Path) -> None:
    view = bundle_view(open_bundle(honest), "soc2")
    assert view.signer.principal == "not assessed"
    assert "key not checked against a trust file" in view.signer.check
    assert "not checked" in view.ledger[2].value


def test_html_bytes(honest: Path) -> None:
    one, two = (render_bundle(open_bundle(honest), "fda", kind="html") for _ in range(2))
    assert one == two
    assert b"Signing block" in one


@pytest.mark.parametrize(
    "name",
    [
        "nll-pack.safetensors",
        "nll-reference.safetensors",
        "pair.safetensors",
        "STATE",
        "pack.SHA256SUMS",
        "reference.SHA256SUMS",
        "plan.dsse.json",
    ],
)
def test_an_edited_artefact_is_not_rendered(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[-2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(DigestMismatchError) as caught:
        bundle_view(open_bundle(copy), "soc2")
    assert caught.value.subject == name
    (copy / name).unlink()
    with pytest.raises(NotFoundError):
        bundle_view(open_bundle(copy), "soc2")


def call_it_a_pass(record: Attestation) -> Attestation:
    first = record.claims[0].model_copy(update={"verdict": "pass"})
    return record.model_copy(update={"determination": "pass", "claims": (first, *record.claims[1:])})


def flatter(record: Attestation) -> Attestation:
    ratio = record.results.ratio.model_copy(update={"estimate": 1.001, "lower": 1.0005, "upper": 1.0015})
    better = record.results.model_copy(update={"ratio": ratio})
    return call_it_a_pass(record).model_copy(update={"results": better})


@pytest.mark.parametrize("lie", [call_it_a_pass, flatter])
@pytest.mark.parametrize("checked", [True, False])
def test_a_record_that_does_not_follow_from_its_files_is_not_rendered(
    setting: Setting, tmp_path: Path, lie: Callable[[Attestation], Attestation], checked: bool
) -> None:
    """`verify` and `bound` refuse it: no report may say PASS for it."""
    values = make_values(drift=0.05)
    bundle = make_bundle(setting, tmp_path / "b", values=values, change_record=lie)
    out = tmp_path / "r.html"
    done = run(bundle, "--profile", "soc2", "--out", out, *(("--trust", setting.trust) if checked else ()))
    assert isinstance(done.exception, VerificationError), done.output
    assert done.exception.subject in ("claims", "results")
    assert not out.exists()


def test_a_deviation_that_the_record_hides_is_not_rendered(setting: Setting, tmp_path: Path) -> None:
    def hide(record: Attestation) -> Attestation:
        assert record.plan is not None
        return record.model_copy(update={"policy": record.policy.model_copy(update={"sha256": "8" * 64})})

    bundle = make_bundle(setting, tmp_path / "b", change_record=hide)
    with pytest.raises(VerificationError, match="undeclared deviation"):
        bundle_view(open_bundle(bundle), "soc2", trust=load_trust(setting.trust))


def test_a_foreign_key_is_refused(honest: Path, tmp_path: Path) -> None:
    _, _, key = generate(tmp_path, "other", password=None)
    add_key(tmp_path / "trust.toml", key, "other", roles=())
    with pytest.raises(UntrustedKeyError):
        bundle_view(open_bundle(honest), "soc2", trust=load_trust(tmp_path / "trust.toml"))


def test_a_revoked_key_is_refused(honest: Path, setting: Setting, tmp_path: Path) -> None:
    text = setting.trust.read_text(encoding="utf-8")
    line = 'roles = ["developer"]\n'
    assert line in text
    revoked = tmp_path / "trust.toml"
    revoked.write_text(text.replace(line, line + 'revoked-at = "2026-01-01T00:00:00Z"\n'), encoding="utf-8")
    with pytest.raises(UntrustedKeyError, match="revoked"):
        bundle_view(open_bundle(honest), "soc2", trust=load_trust(revoked))


def test_an_edited_envelope_is_refused(copy: Path, setting: Setting) -> None:
    path = copy / names.ATTESTATION
    document = json.loads(path.read_bytes())
    signature = document["signatures"][0]["sig"]
    document["signatures"][0]["sig"] = ("B" if signature[0] == "A" else "A") + signature[1:]
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(SignatureInvalidError):
        bundle_view(open_bundle(copy), "soc2", trust=load_trust(setting.trust))


def test_a_proof_of_another_record_is_refused(copy: Path, setting: Setting, tmp_path: Path) -> None:
    other = make_bundle(setting, tmp_path / "other", ratio_max=1.02)
    shutil.copy(other / names.LEDGER_PROOF, copy / names.LEDGER_PROOF)
    with pytest.raises(LedgerInconsistentError, match="another record"):
        bundle_view(open_bundle(copy), "soc2")


def endorse(copy: Path, setting: Setting, digest: str, closer: Signer | None = None) -> None:
    predicate = Endorsement(
        created="2026-11-24T12:00:00Z",
        tool=Tool(name="ucaudit", version="0"),
        attestation_digest=digest,
        printed_name="A. Person",
        role="validator",
        meaning="review",
    )
    statement = make_statement(predicate, [Subject(names.ATTESTATION, digest)])
    envelope = sign(statement.to_bytes(), setting.signer, subject="endorsement")
    chain = copy / names.CHAIN
    write_bytes(chain, chain.read_bytes() + envelope.raw)
    names.close_bundle(copy, closer or setting.signer)


def test_endorsements(copy: Path, setting: Setting, tmp_path: Path) -> None:
    endorse(copy, setting, open_bundle(copy).attestation.digest)
    opened = open_bundle(copy)
    with pytest.raises(UntrustedKeyError, match="not trusted in the role validator"):
        bundle_view(opened, "fda", trust=load_trust(setting.trust))
    both = tmp_path / "both.toml"
    both.write_text(
        setting.trust.read_text(encoding="utf-8").replace('["developer"]', '["developer", "validator"]')
    )
    for trust, principal in ((None, None), (load_trust(both), "signer@tests.invalid")):
        view = bundle_view(opened, "fda", trust=trust)
        assert "own key" in view.separation or trust is None
        (person,) = view.endorsements
        assert (person.printed_name, person.role, person.meaning) == ("A. Person", "validator", "review")
        assert person.principal == principal
    endorse(copy, setting, "0" * 64)
    with pytest.raises(VerificationError, match="endorses another attestation"):
        bundle_view(open_bundle(copy), "fda")


def test_a_trusted_time_is_printed_and_outlives_a_revocation(copy: Path, setting: Setting, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tsa")
    trust = Path(shutil.copy(setting.trust, tmp_path / "trust.toml"))
    authority.trusted_in(trust)
    before = bundle_view(open_bundle(copy), "soc2", trust=load_trust(trust))
    assert before.signer.seen.startswith("not assessed")
    write_bytes(copy / names.STAMP, authority.stamp(open_bundle(copy).attestation.raw))
    write_bytes(copy / "timestamp-2.tsr", authority.stamp((copy / names.PLAN).read_bytes()))
    names.close_bundle(copy, setting.signer)
    write_bytes(copy / names.CLOSING_STAMP, authority.stamp((copy / names.CLOSING).read_bytes()))
    revoke(trust, "key", 0, at="2099-01-01T00:00:00Z", reason="planned")
    view = bundle_view(open_bundle(copy), "soc2", trust=load_trust(trust))
    assert "time-stamp authority the authority" in view.signer.seen
    html = render_bundle(open_bundle(copy), "soc2", trust=load_trust(trust), kind="html").decode()
    assert view.signer.seen in html
    (copy / names.STAMP).unlink()
    names.close_bundle(copy, setting.signer)
    with pytest.raises(UntrustedKeyError, match="no trusted time"):
        bundle_view(open_bundle(copy), "soc2", trust=load_trust(trust))


def test_an_endorsement_under_an_unknown_key(copy: Path, setting: Setting, tmp_path: Path) -> None:
    private, _, _ = generate(tmp_path / "k", "stranger", password=None)
    stranger = Setting(setting.root, load_signer(str(private)), setting.trust, setting.ledger, setting.pack)
    endorse(copy, stranger, open_bundle(copy).attestation.digest, closer=setting.signer)
    with pytest.raises(UntrustedKeyError):
        bundle_view(open_bundle(copy), "fda", trust=load_trust(setting.trust))


def test_command_writes_html(honest: Path, setting: Setting, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "report.html"
    words = (honest, "--profile", "mrm", "--out", out, "--trust", setting.trust, "--json", "--quiet")
    done = run(*words)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["profile"] == "sr-11-7"
    assert document["keyChecked"] is True
    assert document["determination"] == "pass"
    assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--profile", "gdpr", "--out", "r.html"], NotFoundError),
        (["--profile", "soc2", "--out", "/proc/nowhere/r.html"], OutputError),
        (["--profile", "nothere.toml", "--out", "r.html"], NotFoundError),
    ],
)
def test_command_refusals(
    honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], error: type[Exception]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(honest, *words)
    assert isinstance(done.exception, error)
    assert list(tmp_path.iterdir()) == []


def test_command_usage_and_missing_bundle(honest: Path, tmp_path: Path) -> None:
    assert run(honest, "--profile", "soc2", "--out", tmp_path / "report.docx").exit_code == 2
    done = run(tmp_path / "none", "--profile", "soc2", "--out", tmp_path / "r.html")
    assert isinstance(done.exception, NotFoundError)


def test_command_without_the_extra(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "weasyprint", None)
    done = run(honest, "--profile", "soc2", "--out", tmp_path / "r.pdf")
    assert isinstance(done.exception, MissingExtraError)
    assert not (tmp_path / "r.pdf").exists()
    assert run(honest, "--profile", "soc2", "--out", tmp_path / "r.html").exit_code == 0


def test_errors_are_input_errors_where_nothing_can_be_said(copy: Path) -> None:
    (copy / names.LEDGER_PROOF).write_bytes(b"c2sp.org/tlog-proof@v1\n")
    with pytest.raises(InputError):
        bundle_view(open_bundle(copy), "soc2")


def test_previous_and_ledger_of_the_command(setting: Setting, honest: Path, tmp_path: Path) -> None:
    later = make_bundle(setting, tmp_path / "evidence" / "later", values=make_values(drift=0.05))
    make_floor(setting, tmp_path / "evidence" / "floor")
    shutil.copytree(honest, tmp_path / "evidence" / "earlier")
    for previous in (honest, tmp_path / "evidence"):
        out = tmp_path / f"{previous.name}.html"
        done = run(
            later, "--profile", "soc2", "--out", out, "--trust", setting.trust,
            "--previous", previous, "--ledger", setting.ledger,
        )  # fmt: skip
        assert done.exit_code == 0, done.exception
        text = out.read_text(encoding="utf-8")
        assert "The determination was PASS on" in text and "and is FAIL." in text
        assert "Claims with another verdict: ppl-ratio." in text
        assert "Earlier entries about the same pack digest, in tests.invalid/log" in text
        assert "was read and checked whole" in text


def test_a_previous_bundle_is_checked_like_the_record_itself(setting: Setting, copy: Path, tmp_path: Path) -> None:
    later = make_bundle(setting, tmp_path / "later")
    data = bytearray((copy / "nll-pack.safetensors").read_bytes())
    data[-2] ^= 1
    (copy / "nll-pack.safetensors").write_bytes(data)
    for words in ((), ("--trust", setting.trust)):
        done = run(later, "--profile", "soc2", "--out", tmp_path / "r.html", "--previous", copy, *words)
        assert isinstance(done.exception, VerificationError)
    assert not (tmp_path / "r.html").exists()


def test_folders_that_hold_nothing_earlier(setting: Setting, honest: Path, tmp_path: Path) -> None:
    shutil.copytree(honest, tmp_path / "only" / "itself")
    for place in (tmp_path / "only", tmp_path):
        done = run(honest, "--profile", "soc2", "--out", tmp_path / "r.html", "--previous", place)
        assert isinstance(done.exception, NotFoundError)
    done = run(honest, "--profile", "soc2", "--out", tmp_path / "r.html", "--previous", honest)
    assert "this record itself" in str(done.exception)


def test_another_ledger_is_refused(setting: Setting, honest: Path, tmp_path: Path) -> None:
    other = make_setting(tmp_path)
    done = run(honest, "--profile", "soc2", "--out", tmp_path / "r.html", "--ledger", other.ledger)
    assert isinstance(done.exception, LedgerInconsistentError)
    make_bundle(other, tmp_path / "b")
    done = run(honest, "--profile", "soc2", "--out", tmp_path / "r.html", "--ledger", other.ledger)
    assert isinstance(done.exception, LedgerInconsistentError)


def test_a_record_of_a_later_release_is_named(copy: Path, tmp_path: Path) -> None:
    path = copy / "attestation.dsse.json"
    envelope = json.loads(path.read_text())
    payload = json.loads(base64.b64decode(envelope["payload"]))
    payload["predicateType"] = payload["predicateType"].replace(":v1", ":v9")
    envelope["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    path.write_text(json.dumps(envelope))
    done = run(copy, "--profile", "soc2", "--out", tmp_path / "r.html")
    assert isinstance(done.exception, UnsupportedSchemaError), done.exception


def test_every_tensor_is_listed_or_the_list_attached(honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_bundle(honest)
    text = render_bundle(opened, "soc2", kind="html").decode()
    for entry in opened.state().entries:
        assert grouped(entry.digest) in text
    monkeypatch.setattr("ucaudit.report.view.MAX_LISTED", 1)
    monkeypatch.setattr("ucaudit.report.bundle.MAX_LISTED", 1)
    data = render_bundle(opened, "soc2")
    assert data.count(b"/EmbeddedFile") == 2
    assert render_bundle(opened, "fda").count(b"/EmbeddedFile") == 0
    assert "The digests of all 2 tensors are in" in render_bundle(opened, "fda", kind="html").decode()
