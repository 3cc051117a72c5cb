"""Verification of bundles: honest ones, failed ones, and one lie at a time."""

import json
import math
import shutil

import pytest
from bundles import make_bundle, make_setting, make_values

from ucaudit.core.errors import InputError, MalformedRecordError, NotFoundError, RefusedError, UnsafePathError
from ucaudit.core.records import make_statement
from ucaudit.evidence import bundle as names
from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.signing import sign
from ucaudit.evidence.trust import load_trust
from ucaudit.evidence.verify import check_report, verify_bundle
from ucaudit.packs.compare import check_files


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def honest(setting):
    return make_bundle(setting, setting.root / "honest")


@pytest.fixture
def copy(honest, tmp_path):
    return shutil.copytree(honest, tmp_path / "bundle")


def verify(path, setting):
    return verify_bundle(open_bundle(path), load_trust(setting.trust))


def failed(path, setting):
    return {check.slug for check in verify(path, setting).failures}


def test_an_honest_bundle(honest, setting):
    result = verify(honest, setting)
    assert result.authentic, result.failures
    assert result.record.determination == "pass"
    passed = {check.slug for check in result.checks if check.status == "pass"}
    assert {"attestation-signature", "figures", "claims", "plan", "ledger", "plan-ledger", "closing"} <= passed


def test_a_failed_claim_is_just_as_authentic(setting, tmp_path):
    result = verify(make_bundle(setting, tmp_path / "b", values=make_values(drift=0.1)), setting)
    assert result.authentic
    assert result.record.determination == "fail"
    assert result.record.claims[0].verdict == "fail"


def test_too_few_windows_never_pass(setting, tmp_path):
    result = verify(make_bundle(setting, tmp_path / "b", values=make_values(n=29)), setting)
    assert result.authentic
    assert result.record.determination == "inconclusive"
    assert result.record.claims[0].deciding_n == 30


def test_drift_from_the_published_state_is_a_failed_claim(setting, tmp_path):
    def drift(record):
        return record

    path = make_bundle(setting, tmp_path / "b", change_record=drift)
    record = open_bundle(path).record
    changed = record.reconstruction.model_copy(update={"matches_published": "no", "drifted": ("model.w",)})
    path = make_bundle(setting, tmp_path / "c", reconstruction=changed)
    result = verify(path, setting)
    assert result.authentic
    assert result.record.determination == "fail"


@pytest.mark.parametrize("name", [*names.VALUE_FILES, names.PACK_MANIFEST, names.STATE, names.REFERENCE_MANIFEST])
def test_a_changed_artefact(copy, setting, name):
    data = bytearray((copy / name).read_bytes())
    data[-2] ^= 1
    (copy / name).write_bytes(data)
    assert {"artefact", "closing"} <= failed(copy, setting)


@pytest.mark.parametrize("name", [names.README, names.report_name("soc2"), names.LEDGER_ENTRY])
def test_a_changed_file_that_only_the_closing_binds(copy, setting, name):
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data.replace(b"a", b"b", 1) if name != names.LEDGER_ENTRY else data)
    if name != names.LEDGER_ENTRY:
        assert failed(copy, setting) == {"closing"}


@pytest.mark.parametrize("name", [names.report_name("soc2"), names.CHAIN, names.LEDGER_PROOF, names.README])
def test_a_removed_file(copy, setting, name):
    (copy / name).unlink()
    assert "closing" in failed(copy, setting)


def test_an_added_file(copy, setting):
    (copy / "report-forged.pdf").write_bytes(b"%PDF")
    assert failed(copy, setting) == {"closing"}
    (copy / "malware.py").write_text("")
    with pytest.raises(MalformedRecordError):
        open_bundle(copy)


def test_a_bundle_that_was_never_closed(copy, setting):
    (copy / names.CLOSING).unlink()
    assert "closing" in failed(copy, setting)


def test_a_changed_payload(copy, setting):
    text = (copy / names.ATTESTATION).read_text()
    document = json.loads(text)
    payload = document["payload"]
    document["payload"] = payload[:200] + ("A" if payload[200] != "A" else "B") + payload[201:]
    (copy / names.ATTESTATION).write_text(json.dumps(document))
    result = verify(copy, setting)
    assert {check.slug for check in result.failures} == {"attestation-signature"}
    assert result.failures[0].error.code == "signature-invalid"
    assert result.record is None


def test_another_signer(copy, tmp_path):
    other = make_setting(tmp_path / "other")
    result = verify(copy, other)
    assert result.failures[0].error.code == "untrusted-key"
    assert result.record is None


def test_a_statement_of_another_type_is_no_attestation(copy, setting):
    closing = open_bundle(copy).closing
    (copy / names.ATTESTATION).write_bytes(closing.raw)
    with pytest.raises(InputError, match="not an attestation"):
        verify(copy, setting)


def test_a_closing_statement_of_another_bundle(copy, setting, tmp_path):
    other = make_bundle(setting, tmp_path / "other", values=make_values(seed=5))
    shutil.copy(other / names.CLOSING, copy / names.CLOSING)
    assert "closing" in failed(copy, setting)


def test_the_sigstore_form_must_hold_the_same_record(copy, setting, tmp_path):
    other = make_bundle(setting, tmp_path / "other", values=make_values(seed=6))
    shutil.copy(other / names.SIGSTORE, copy / names.SIGSTORE)
    assert {"same-record", "closing"} <= failed(copy, setting)


def lie(**changes):
    return lambda record: record.model_copy(update=changes)


def test_a_signer_who_lies_about_the_figures(setting, tmp_path):
    def flatter(record):
        ratio = record.results.ratio.model_copy(update={"estimate": 1.0, "lower": 0.999, "upper": 1.001})
        return record.model_copy(update={"results": record.results.model_copy(update={"ratio": ratio})})

    path = make_bundle(setting, tmp_path / "b", values=make_values(drift=0.1), change_record=flatter)
    assert "figures" in failed(path, setting)


def test_a_signer_who_lies_about_the_verdict(setting, tmp_path):
    def promote(record):
        claim = record.claims[0].model_copy(update={"verdict": "pass"})
        return record.model_copy(update={"claims": (claim, *record.claims[1:]), "determination": "pass"})

    path = make_bundle(setting, tmp_path / "b", values=make_values(drift=0.1), change_record=promote)
    assert {"claims", "determination"} <= failed(path, setting)


def test_a_signer_who_only_changes_the_determination(setting, tmp_path):
    path = make_bundle(
        setting, tmp_path / "b", values=make_values(drift=0.1), change_record=lie(determination="pass")
    )
    assert failed(path, setting) == {"determination"}


def test_a_hidden_deviation_from_the_plan(setting, tmp_path):
    def sneak(record):
        measured = record.measurement.model_copy(update={"seed": 43})
        return record.model_copy(update={"measurement": measured})

    path = make_bundle(setting, tmp_path / "b", change_record=sneak)
    assert "plan" in failed(path, setting)


def test_no_plan_and_no_ledger_are_remarked_not_failed(setting, tmp_path):
    result = verify(make_bundle(setting, tmp_path / "b", planned=False, on_ledger=False), setting)
    assert result.authentic
    warned = {check.slug for check in result.checks if check.status == "warn"}
    assert {"plan", "ledger"} <= warned


def test_a_ledger_proof_of_another_record(copy, setting, tmp_path):
    other = make_bundle(setting, tmp_path / "other", values=make_values(seed=8))
    for name in (names.LEDGER_PROOF, names.LEDGER_ENTRY):
        shutil.copy(other / name, copy / name)
    assert {"ledger", "closing"} <= failed(copy, setting)


def test_a_ledger_nobody_trusts(honest, setting, tmp_path):
    other = make_setting(tmp_path / "other")
    text = setting.trust.read_text().split("[[ledger]]")[0]
    stranger = other.trust.read_text().split("[[ledger]]")[1]
    (tmp_path / "trust.toml").write_text(f"{text}\n[[ledger]]{stranger}")
    result = verify_bundle(open_bundle(honest), load_trust(tmp_path / "trust.toml"))
    assert {check.slug for check in result.failures} == {"ledger", "plan-ledger"}


def test_subjects_must_be_the_predicates(copy, setting):
    statement = open_bundle(copy).statement
    record = statement.predicate
    subjects = [item for item in statement.subjects if item.name != names.STATE]
    subjects.append(type(subjects[0])(names.STATE, "0" * 64))
    envelope = sign(make_statement(record, subjects).to_bytes(), setting.signer, subject=names.ATTESTATION)
    (copy / names.ATTESTATION).write_bytes(envelope.raw)
    assert "subjects" in failed(copy, setting)


def test_report_against_the_closing(honest, setting, tmp_path):
    bundle = open_bundle(honest)
    result = verify(honest, setting)
    check_report(bundle, honest / names.report_name("soc2"), result)
    assert result.authentic
    edited = tmp_path / "edited.pdf"
    edited.write_bytes(b"%PDF-1.7 made up!")
    check_report(bundle, edited, result)
    assert [check.slug for check in result.failures] == ["report"]


def test_pack_files_are_named(honest, setting, tmp_path):
    pack = shutil.copytree(setting.pack, tmp_path / "pack")
    bundle = open_bundle(honest)
    result = verify(honest, setting)
    check_files(bundle, result.record, pack, result)
    assert result.authentic
    (pack / "manifest.json").write_bytes(b"[]")
    (pack / "extra.txt").write_bytes(b"")
    (pack / "notes/.hidden").unlink()
    check_files(bundle, result.record, pack, result)
    detail = result.failures[0].detail
    for word in ("manifest.json: expected", "extra.txt: not in", "notes/.hidden: missing"):
        assert word in detail


def test_directories_that_are_no_bundles(tmp_path, honest):
    with pytest.raises(NotFoundError):
        open_bundle(tmp_path / "absent")
    with pytest.raises(NotFoundError):
        open_bundle(tmp_path)
    linked = shutil.copytree(honest, tmp_path / "linked")
    (linked / "report-x.pdf").symlink_to("/etc/hostname")
    with pytest.raises(UnsafePathError):
        open_bundle(linked)


def test_nothing_half_written(setting, tmp_path):
    with pytest.raises(KeyboardInterrupt), names.staged(tmp_path / "out") as stage:
        (stage / "file").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("")
    with pytest.raises(RefusedError), names.staged(tmp_path / "used"):
        pass


def test_figures_are_finite(honest):
    results = open_bundle(honest).record.results
    assert results.ratio.lower < results.ratio.estimate < results.ratio.upper
    assert math.isclose(results.ratio.estimate, results.ppl_pack / results.ppl_reference, rel_tol=1e-9)


def test_a_plan_that_was_registered_after_the_result(setting, tmp_path):
    """A signer measures first, and registers a fitting plan afterwards."""
    # A plan of its own: another test's plan, signed in the same second, would be the same bytes, already entered.
    values = make_values(n=41)
    path = make_bundle(setting, tmp_path / "late", values=values, planned=True, late_plan=True)
    assert failed(path, setting) == {"plan-order"}
