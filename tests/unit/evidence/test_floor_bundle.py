"""A floor's bundle: verified, derived again, and every way of saying something else than its values say."""

from __future__ import annotations

import json
import shutil

import pytest
from bundles import make_setting
from click.testing import CliRunner
from floors import ATTEMPTS, make_floor, protocol, published

from ucaudit.cli.main import cli
from ucaudit.core.errors import InputError, MalformedRecordError
from ucaudit.core.records import Floor, FloorPlan
from ucaudit.evidence.amend import countersign
from ucaudit.evidence.archive import write_archive
from ucaudit.evidence.bundle import open_bundle, run_name
from ucaudit.evidence.ledger import Ledger, population_of
from ucaudit.evidence.plan import abandonment_statement
from ucaudit.evidence.registration import register
from ucaudit.evidence.signing import read_statement, sign
from ucaudit.evidence.trust import load_trust
from ucaudit.evidence.verify import verify_bundle

REFUTED = {"rank-4": 0.006}


@pytest.fixture
def setting(tmp_path):
    return make_setting(tmp_path)


def verified(setting, bundle):
    return verify_bundle(open_bundle(bundle), load_trust(setting.trust), floors=True)


def record_of(bundle) -> Floor:
    record = read_statement(open_bundle(bundle).attestation).predicate
    assert isinstance(record, Floor)
    return record


def rows(setting):
    entries: list[bytes] = []
    Ledger.open(setting.ledger).verify(sink=entries.extend)
    return population_of(entries)


def run(*words):
    """Exit code and output of the command, errors as the real one has them."""
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "ucaudit", *map(str, words)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_a_supported_floor_verifies(setting, tmp_path):
    bundle = make_floor(setting, tmp_path / "floor")
    result = verified(setting, bundle)
    assert result.authentic and not result.failures, [check.detail for check in result.failures]
    record = result.floor
    assert record is not None and result.record is None
    assert (record.results.verdict, record.determination) == ("supported", "pass")
    assert record.results.floor is not None and record.results.floor.arm == "baseline"
    passed = {check.slug: check for check in result.checks if check.status == "pass"}
    assert {"figures", "verdict", "draw", "plan", "plan-order", "ledger", "plan-ledger", "closing"} <= passed.keys()
    assert passed["figures"].level == "re-derivable"
    planned, floor = rows(setting)
    assert (planned.status, planned.related, floor.status, floor.related) == ("closed", 1, "planned", 0)
    assert floor.entry.determination == "pass"


def test_a_winner_that_is_confirmed_refutes(setting, tmp_path):
    record = verified(setting, make_floor(setting, tmp_path / "floor", levels=REFUTED)).floor
    assert record is not None
    results = record.results
    assert (results.verdict, record.determination) == ("refuted", "fail")
    assert [item.outcome for item in results.attempts][:1] == ["won"]
    assert results.floor is not None and results.floor.arm == "rank-4"
    assert results.confirmation is not None
    # The level to publish is that on the windows that chose nothing.
    assert results.floor in results.confirmation.levels and results.floor not in results.levels


def test_a_winner_on_the_first_windows_alone_decides_nothing(setting, tmp_path):
    bundle = make_floor(setting, tmp_path / "floor", levels=REFUTED, fresh_levels={})
    record = verified(setting, bundle).floor
    assert record is not None and record.results.verdict == "inconclusive"
    assert "not confirmed on fresh windows" in record.results.reason
    assert record.results.floor is None and record.results.deciding is not None


def test_an_unconfirmed_winner_is_remarked(setting, tmp_path):
    result = verified(setting, make_floor(setting, tmp_path / "floor", levels=REFUTED, confirm=False))
    assert result.authentic
    remark = next(check for check in result.checks if check.slug == "confirmation")
    assert remark.status == "warn" and "rank-4" in remark.detail


def test_an_attempt_that_changed_nothing_supports_nothing(setting, tmp_path):
    record = verified(setting, make_floor(setting, tmp_path / "floor", idle="kl-0.1")).floor
    assert record is not None and record.results.verdict == "inconclusive"
    assert record.results.reason.startswith("kl-0.1 changed nothing")
    assert record.results.attempts[2].outcome == "changed nothing"


def test_an_open_floor_says_what_would_decide(setting, tmp_path):
    record = verified(setting, make_floor(setting, tmp_path / "floor", levels={"rank-4": 0.0091})).floor
    assert record is not None and record.results.verdict == "inconclusive"
    assert record.results.attempts[0].outcome == "open"
    deciding = record.results.deciding
    assert deciding is not None and deciding.both is not None
    assert deciding.both[0] > 40 and deciding.both[1] > 5


def changed_results(**members):
    return lambda record: record.model_copy(update={"results": record.results.model_copy(update=members)})


LIES = {
    "a verdict that the values do not give": (
        {"levels": {"rank-4": 0.0091}, "change_record": changed_results(verdict="supported")},
        "figures",
        "results.verdict: signed 'supported', re-derived 'inconclusive'",
    ),
    "a determination that the verdict does not give": (
        {"levels": REFUTED, "change_record": lambda r: r.model_copy(update={"determination": "pass"})},
        "figures",
        "determination: signed pass, re-derived fail",
    ),
    "a smaller tolerance": (
        {"change_record": changed_results(tolerance=0.0)},
        "figures",
        "results.tolerance",
    ),
    "a margin that was not planned": (
        {"planned": protocol(margin=0.0005)},
        "plan",
        "undeclared deviation: protocol.margin: planned 0.0005, done 0.001",
    ),
    "an attempt that was planned and left out": (
        {"made": protocol(perturbations=ATTEMPTS[:2]), "planned": protocol()},
        "plan",
        "undeclared deviation: protocol.perturbations",
    ),
    "a plan made after the result": ({"late_plan": True}, "plan-order", "planned after the fact"),
    "another draw of windows": (
        {"change_record": lambda r: r.model_copy(update={"protocol": r.protocol.model_copy(update={"seed": 7})})},
        "draw",
        "seed: the record says 42, the protocol 7",
    ),
    "a run left out": (
        {"change_record": lambda r: r.model_copy(update={"runs": r.runs[:-1]})},
        "runs",
        "the runs are not those of the protocol",
    ),
    "a run that another stands in for": (
        {
            "change_record": lambda r: r.model_copy(
                update={"runs": (r.runs[0], r.runs[1].model_copy(update={"values": r.runs[0].values}), *r.runs[2:])}
            )
        },
        "runs",
        "cites other per-token files than the runs do",
    ),
    "a per-token file exchanged afterwards": (
        {"change_files": lambda stage: shutil.copy(stage / run_name("kl-0.1", 1), stage / run_name("rank-4", 1))},
        "artefact",
        "run-rank-4-1.safetensors",
    ),
    "a per-token file taken away": (
        {"change_files": lambda stage: (stage / run_name("rank-4", 2)).unlink()},
        "artefact",
        "the record cites it, the bundle lacks it",
    ),
    "another protocol file": (
        {"change_files": lambda stage: (stage / "protocol.toml").write_text("name = 'other'")},
        "artefact",
        "protocol.toml",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_found_out(setting, tmp_path, name):
    options, slug, message = LIES[name]
    result = verified(setting, make_floor(setting, tmp_path / "floor", **options))
    assert not result.authentic
    assert any(check.slug == slug and message in check.detail for check in result.failures), [
        (check.slug, check.detail) for check in result.failures
    ]


def test_a_fresh_window_that_was_measured_before_is_found_out(setting, tmp_path):
    """Confirming on other windows than the next of the draw: here another number of them was declared."""

    def change(record):
        return record.model_copy(update={"protocol": record.protocol.model_copy(update={"confirm_n": 30})})

    result = verified(setting, make_floor(setting, tmp_path / "floor", levels=REFUTED, change_record=change))
    assert any("the record says 40, the protocol 30" in check.detail for check in result.failures)


def test_a_key_must_be_trusted_for_floors(setting, tmp_path):
    bundle = make_floor(setting, tmp_path / "floor")
    text = setting.trust.read_text()
    setting.trust.write_text(text.replace('"floor", ', "").replace("[[key]]", "[[key]]", 1))
    limited = setting.trust.read_text()
    if "predicate-types" not in limited:
        limited = limited.replace("[[key]]\n", '[[key]]\npredicate-types = ["attestation", "plan", "bundle"]\n', 1)
        setting.trust.write_text(limited)
    result = verified(setting, bundle)
    assert any(check.slug == "floor-key" for check in result.failures)


@pytest.mark.parametrize(
    ("changes", "outcome", "reason"),
    [
        ({}, "not comparable", "it was published for Some-8B, and nothing says that this is the same reference"),
        ({"same_model": True}, "not comparable", "nothing says that it was measured on this text"),
        (
            {"same_model": True, "same_text": True, "seq_len": 1024},
            "not comparable",
            "it was measured on windows of 1024 tokens, this on 9",
        ),
        ({"same_model": True, "same_text": True, "ratio": "1.0010"}, "worse", "below all"),
        ({"same_model": True, "same_text": True, "ratio": "1.0300"}, "better", "above all"),
        ({"same_model": True, "same_text": True, "ratio": "1.0101"}, "consistent", "inside"),
        ({"same_model": True, "same_text": True, "ratio": "1.01", "windows": 1}, "cannot tell", "wider"),
    ],
)
def test_a_published_floor_is_compared(setting, tmp_path, changes, outcome, reason):
    made = protocol(published=published(**changes))
    found = verified(setting, make_floor(setting, tmp_path / "floor", made=made)).floor
    assert found is not None and found.published is not None
    assert found.published.outcome == outcome and reason in found.published.reason


def test_a_floor_of_kl_is_not_compared_with_one_of_the_ratio(setting, tmp_path):
    made = protocol(metric="meanKl", published=published(same_model=True, same_text=True))
    found = verified(setting, make_floor(setting, tmp_path / "floor", made=made)).floor
    assert found is not None and found.published is not None and found.results.verdict == "supported"
    assert "floor of the ratio was published" in found.published.reason


def test_countersigned_and_archived(setting, tmp_path):
    bundle = make_floor(setting, tmp_path / "floor")
    countersign(bundle, setting.signer, printed_name="V. L.", role="developer", meaning="review")
    result = verified(setting, bundle)
    assert result.authentic and len(result.endorsements) == 1
    write_archive(open_bundle(bundle), tmp_path / "floor.zip")
    code, said, _ = run("bound", tmp_path / "floor.zip", "--json")
    assert (code, json.loads(said)["verdict"]) == (0, "supported")


def test_no_countersigning_of_what_does_not_hold(setting, tmp_path):
    bundle = make_floor(setting, tmp_path / "floor", change_record=changed_results(verdict="refuted"))
    with pytest.raises(Exception, match=r"results\.verdict"):
        countersign(bundle, setting.signer, printed_name="V. L.", role="developer", meaning="review")


def test_bound_and_verify_say_the_verdict(setting, tmp_path):
    bundle = make_floor(setting, tmp_path / "floor", levels=REFUTED)
    runner = CliRunner()
    said = runner.invoke(cli, ["bound", str(bundle)], standalone_mode=False)
    assert said.return_value == 1
    words = " ".join(said.output.split())
    assert "verdict REFUTED: improved by more than 0.001, and again on fresh windows: rank-4" in words
    assert "new level      rank-4: ratio 1.00" in said.output
    assert max(map(len, said.output.splitlines())) <= 80
    said = runner.invoke(cli, ["verify", str(bundle), "--trust", str(setting.trust)], standalone_mode=False)
    assert said.return_value == 0 and "REFUTED" in said.output
    assert max(map(len, said.output.splitlines())) <= 80
    document = json.loads(
        runner.invoke(cli, ["verify", str(bundle), "--trust", str(setting.trust), "--json"]).output.splitlines()[0]
    )
    assert document["floor"]["verdict"] == "refuted" and document["determination"] == "fail"


def test_bound_finds_a_lie_without_a_key(setting, tmp_path):
    bundle = make_floor(setting, tmp_path / "floor", change_record=changed_results(verdict="refuted"))
    said = CliRunner().invoke(cli, ["bound", str(bundle), "--json"], standalone_mode=False)
    assert said.return_value == 1
    found = json.loads(said.output.splitlines()[0])
    assert found["verdict"] == "supported" and found["disagreements"][0].startswith("results.verdict")


@pytest.mark.parametrize(
    "words", [["bound", "--margin", "1.01"], ["verify", "--pack", "."], ["verify", "--policy", "p.toml"]]
)
def test_options_that_a_floor_has_no_answer_to(setting, tmp_path, words):
    bundle = make_floor(setting, tmp_path / "floor")
    (tmp_path / "p.toml").write_text("[claims]\nppl_ratio_max = 1.1\n")
    trust = ["--trust", str(setting.trust)] if words[0] == "verify" else []
    words = [str(tmp_path / word) if word == "p.toml" else word for word in words]
    said = CliRunner().invoke(cli, [words[0], str(bundle), *words[1:], *trust])
    assert said.exit_code == 2


def test_a_floor_is_no_attestation_of_a_pack(setting, tmp_path):
    with pytest.raises(MalformedRecordError, match="not an attestation"):
        _ = open_bundle(make_floor(setting, tmp_path / "floor")).record


def test_a_floor_plan_can_be_given_up_and_nothing_else_closes_it(setting, tmp_path):
    make_floor(setting, tmp_path / "one")
    plan = open_bundle(tmp_path / "one").envelope("plan.dsse.json")
    assert plan is not None and isinstance(read_statement(plan).predicate, FloorPlan)
    gone = sign(abandonment_statement(plan.digest, "why not").to_bytes(), setting.signer, subject="a")
    register(setting.ledger, gone, setting.signer)
    last = rows(setting)[-1]
    assert last.notes == ("plan-already-closed",)


def test_values_must_be_of_one_protocol():
    from floors import all_values, first_and_fresh

    from ucaudit.evidence.floors.derive import derive

    made = protocol()
    first, later = first_and_fresh(made)
    values = all_values(made, first, {})
    del values["kl-0.1", 5]
    with pytest.raises(InputError, match=r"kl-0.1 with seed 5 was not measured"):
        derive(made, values, {})
    values = all_values(made, first, {}) | all_values(made, later, {}, ["rank-4"])
    with pytest.raises(InputError, match="rank-4 with seed 1 lies on other windows"):
        derive(made, values, {})
