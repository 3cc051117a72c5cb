"""The public matrix: every row verified while it is built, nothing left out, nothing mixed, nothing believed."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil

import pytest
from bundles import make_bundle, make_setting, make_values, remeasured
from click.testing import CliRunner
from floors import make_floor, protocol, published

from ucaudit.cli.main import cli
from ucaudit.core.digest import StateEntry, StateManifest
from ucaudit.core.errors import InputError, MalformedRecordError, NotFoundError, UntrustedKeyError
from ucaudit.core.records.benchmarks import STATUSES, Benchmarks
from ucaudit.evidence.archive import write_archive
from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.ledger import Ledger
from ucaudit.evidence.plan import abandonment_statement
from ucaudit.evidence.registration import register
from ucaudit.evidence.signing import sign
from ucaudit.interop.registry import read_registry
from ucaudit.report.matrix.build import MatrixRequest, build_matrix, plain_name
from ucaudit.report.matrix.find import find_bundles
from ucaudit.report.matrix.markdown import markdown
from ucaudit.report.matrix.page import render_page
from ucaudit.report.matrix.rows import class_of

TEXT = "d" * 64


@pytest.fixture
def setting(tmp_path):
    return make_setting(tmp_path)


def named(name, **members):
    def change(record):
        reference = record.reference.model_copy(update={"name": name, **members})
        return record.model_copy(update={"reference": reference})

    return change


def evidence(setting, name, **options):
    return make_bundle(setting, setting.root / "evidence" / name, planned=options.pop("planned", False), **options)


def build(setting, **options) -> Benchmarks:
    request = MatrixRequest(
        evidence=setting.root / "evidence", trust=setting.trust, ledger=setting.ledger, workers=1, **options
    )
    return build_matrix(request)


def by_bundle(matrix):
    return {row.bundle: row for row in matrix.rows}


def test_one_row_a_bundle_good_or_bad(setting):
    evidence(setting, "good", change_record=named("Good-1B"))
    evidence(setting, "bad", values=make_values(drift=0.05), change_record=named("Bad-1B"))
    evidence(setting, "open", values=make_values(n=10, drift=0.012), change_record=named("Open-1B"))
    make_floor(setting, setting.root / "evidence" / "floor")
    make_floor(setting, setting.root / "evidence" / "gone", levels={"rank-4": 0.005})
    rows = by_bundle(matrix := build(setting))
    assert {name: row.status for name, row in rows.items()} == {
        "good": "within bound",
        "bad": "out of bound",
        "open": "inconclusive",
        "floor": "floor",
        "gone": "floor refuted",
    }
    assert rows["good"].model == "Good-1B" and rows["good"].n == 40 and rows["good"].ledger.index == 0
    assert rows["good"].signed_by == ("signer@tests.invalid",)
    assert rows["floor"].floor.attempts[0] == "rank-4 (capacity): not better by δ"
    # A refuted floor's level is the winner's, on the windows that confirmed it.
    assert rows["gone"].pack == "rank-4, 5 seeds" and rows["gone"].ratio.estimate < rows["floor"].ratio.estimate
    assert matrix.population.results == matrix.population.shown == 5 and matrix.population.absent == 0
    assert [row.status for row in matrix.rows if row.table is None] == []


def test_a_row_that_was_taken_away_is_said_to_be_absent(setting):
    evidence(setting, "good")
    evidence(setting, "bad", values=make_values(drift=0.05))
    shutil.rmtree(setting.root / "evidence" / "bad")
    matrix = build(setting)
    absent = [row for row in matrix.rows if row.status == "absent"]
    assert len(absent) == 1 and absent[0].ledger.index == 1 and absent[0].pack_digest
    assert absent[0].notes[0] == "entered as fail; its evidence was not given"
    assert (matrix.population.shown, matrix.population.absent) == (1, 1)
    for text in (markdown(matrix), render_page(matrix)):
        assert "1 of its 2 results are" in text and "1 are absent or did not verify" in text
        assert absent[0].envelope[:8] in text


def test_evidence_that_does_not_hold_is_a_row_and_is_not_believed(setting):
    evidence(setting, "good")
    bad = evidence(setting, "changed", change_record=named("Flattering-70B"))
    (bad / "STATE").write_bytes(b"x")
    odd = evidence(setting, "odd", change_record=named("Odd-1B"))
    (odd / "run.sh").write_text("")
    rows = by_bundle(matrix := build(setting))
    assert rows["changed"].status == rows["odd"].status == "not verified"
    assert "STATE" in rows["changed"].notes[0] and "no file of this name" in rows["odd"].notes[0]
    assert rows["changed"].ratio is None and rows["changed"].model is None
    assert rows["changed"].ledger.index == 1 and rows["odd"].ledger.index == 2  # no second row says "absent"
    assert len(matrix.rows) == 3 and matrix.population.absent == 2
    assert "Flattering" not in render_page(matrix) + markdown(matrix)
    assert str(setting.root) not in render_page(matrix) + markdown(matrix) + matrix.model_dump_json()


def test_plans_without_a_result_are_rows(setting):
    evidence(setting, "planned", planned=True)
    shutil.copytree(setting.root / "evidence" / "planned", setting.root / "other")
    plan = open_bundle(setting.root / "other").envelope("plan.dsse.json")
    # Two more plans: one stays open, one is given up.
    from floors import make_floor as floor

    floor(setting, setting.root / "unfinished")
    import floors

    again = floors.protocol(name="another")
    floor(setting, setting.root / "unfinished-2", made=again)
    entries: list[bytes] = []
    Ledger.open(setting.ledger).verify(sink=entries.extend)
    assert plan is not None
    # A plan alone, as an interrupted protocol leaves it.
    from bundles import draft_record, make_plan
    from tinypack import tiny_state

    from ucaudit.core.digest import FileManifest

    values = make_values(seed=9)
    record = draft_record(values, {"nll-pack.safetensors": "0" * 64}, manifest=FileManifest(()), state=tiny_state())
    opened, _ = make_plan(setting, record)
    given_up, _ = make_plan(setting, record.model_copy(update={"created": "2026-01-01T00:00:00Z"}))
    register(
        setting.ledger,
        sign(abandonment_statement(given_up.digest, "no time").to_bytes(), setting.signer, subject="a"),
        setting.signer,
    )
    matrix = build(setting)
    found = {row.envelope: row.status for row in matrix.rows if row.kind == "plan"}
    assert found == {opened.digest: "open plan", given_up.digest: "abandoned plan"}
    assert (matrix.population.open_plans, matrix.population.abandoned_plans) == (1, 1)


def test_texts_are_never_mixed_in_one_table(setting):
    evidence(setting, "one", values=make_values(seed=1))
    evidence(setting, "two", values=make_values(seed=2))
    other = "e" * 64
    from ucaudit.core.windows import draw

    values = make_values(seed=3)
    moved = type(values)(draw(400, 40, 42, other), *[getattr(values, n) for n in ("tokens", "reference", "pack")],
                         values.kl, values.top1)  # fmt: skip
    evidence(setting, "three", values=moved, change_record=remeasured({"sha256": other, "name": "other.txt"}))
    evidence(setting, "long", values=make_values(tokens=24))
    matrix = build(setting)
    assert not [row.bundle for row in matrix.rows if row.status == "not verified"]
    assert [(table.corpus, table.seq_len, table.rows) for table in matrix.tables] == [
        ("evaluation.txt", 17, 2),
        ("evaluation.txt", 25, 1),
        ("other.txt", 17, 1),
    ]
    page = render_page(matrix)
    for table in matrix.tables:
        part = page[page.index(f'id="{table.id}"') :].split("</table>")[0]
        assert part.count("<tr ") - 1 == table.rows
    assert "Ratios of other texts cannot be compared" in page


def test_the_same_record_twice_is_one_row(setting):
    evidence(setting, "a")
    shutil.copytree(setting.root / "evidence" / "a", setting.root / "evidence" / "b")
    matrix = build(setting)
    assert len(matrix.rows) == 1 and "the same record lies in b" in matrix.rows[0].notes
    # A damaged copy does not stand in for the good one, nor hide it.
    (setting.root / "evidence" / "b" / "STATE").write_bytes(b"x")
    assert [row.status for row in build(setting).rows] == ["within bound", "not verified"]


def test_without_a_ledger_it_says_that_it_cannot_see_what_is_missing(setting):
    evidence(setting, "a")
    matrix = build_matrix(MatrixRequest(setting.root / "evidence", setting.trust, workers=1))
    assert matrix.population is None
    assert "cannot say what is missing" in markdown(matrix)
    assert '<div id="population" class="alarm">' in render_page(matrix)


def test_a_ledger_that_nobody_trusts(setting, tmp_path):
    evidence(setting, "a")
    (tmp_path / "other").mkdir()
    other = make_setting(tmp_path / "other")
    with pytest.raises(UntrustedKeyError, match="does not name this ledger"):
        build_matrix(MatrixRequest(setting.root / "evidence", setting.trust, ledger=other.ledger, workers=1))


def test_evidence_of_another_ledger_is_remarked(setting):
    evidence(setting, "a", on_ledger=False)
    assert "not in the ledger tests.invalid/log" in build(setting).rows[0].notes


def test_no_evidence(setting):
    with pytest.raises(NotFoundError, match="no such directory"):
        build(setting)
    (setting.root / "evidence").mkdir()
    with pytest.raises(NotFoundError, match="no bundle in it"):
        build(setting)


def test_an_archive_is_a_row_however_its_name_is_written_and_however_deep(setting):
    first = evidence(setting, "a")
    deep = first.parent.joinpath(*(["d"] * 20))
    deep.mkdir(parents=True)
    evidence(setting, "b", change_record=named("Other-1B")).rename(deep / "b")
    write_archive(open_bundle(first), first.parent / "copy.ZIP")
    (first.parent / "broken.ZIP").write_bytes(b"PK")
    rows = by_bundle(build(setting))
    assert set(rows) == {"a", "/".join(["d"] * 20 + ["b"]), "broken.ZIP"}
    assert "the same record lies in copy.ZIP" in rows["a"].notes
    assert rows["broken.ZIP"].status == "not verified" and "not a .zip as" in rows["broken.ZIP"].notes[0]
    (first.parent.joinpath(*(["d"] * 65))).mkdir(parents=True)
    with pytest.raises(InputError, match="nested deeper than 64"):
        build(setting)


def test_what_is_passed_over_is_named(setting):
    good = evidence(setting, "a")
    folder, outside = good.parent, setting.root / "outside"
    shutil.copytree(good, outside / "b")
    shutil.copytree(good, folder / ".a.stage")
    shutil.copytree(good, folder / ".old" / "2025" / "a")
    (folder / ".empty" / "below").mkdir(parents=True)
    (folder / ".empty" / "lib64").symlink_to("below")
    (folder / ".note").write_text("x")
    (folder / "sub").mkdir()
    os.mkfifo(folder / "pipe.zip")
    write_archive(open_bundle(good), outside / "c.zip")
    links = {"link": "b", "linked.zip": "c.zip", "under-another-name": "c.zip", "folder": ".", "gone.zip": "gone"}
    for name, target in links.items():
        (folder / name).symlink_to(outside / target)
    (folder / "esc\x1b").symlink_to(outside)
    (folder / "same").symlink_to(good)  # a row already
    (folder / "latest").symlink_to(folder / "sub")  # and so is all that lies here
    (folder / "text").symlink_to(folder / ".note")
    said = run(setting, "--out", setting.root / "site", "--json", "-q")
    assert said.return_value == 0
    passed = {item["path"]: item["why"] for item in json.loads(said.stdout)["passedOver"]}
    expected = {**dict.fromkeys(links, "a link"), "esc\N{REPLACEMENT CHARACTER}": "a link"}
    assert passed == expected | {".a.stage": "hidden", ".old": "hidden", "pipe.zip": "not a regular file"}
    for name, why in passed.items():
        assert f"ucaudit: warning: {name}: passed over, and no row: {why}\n" in said.stderr
    assert "\x1b" not in said.stderr
    for number in range(10):
        (folder / f"more{number}").symlink_to(outside)
    said = run(setting, "--out", setting.root / "site", "-q")
    assert "9 more were passed over: --json names them all" in said.stderr


def test_evidence_behind_a_link_alone_is_no_empty_folder(setting):
    good = evidence(setting, "a")
    (setting.root / "links").mkdir()
    (setting.root / "links" / "a").symlink_to(good)
    with pytest.raises(NotFoundError, match="no bundle in it") as caught:
        find_bundles(setting.root / "links")
    assert "is a link" in caught.value.hint


def test_packs_are_compared_or_gone(setting):
    evidence(setting, "a")
    (setting.root / "packs").mkdir()
    gone = build(setting, packs=setting.root / "packs").rows[0]
    assert gone.pack_files == "gone" and "its pack was not found" in " ".join(gone.notes)
    assert gone.status == "within bound"  # the evidence holds; that the pack is gone is said beside it
    shutil.copytree(setting.pack, setting.root / "packs" / "p")
    assert build(setting, packs=setting.root / "packs").rows[0].pack_files == "compared"
    assert build(setting).rows[0].pack_files == "not asked"


# --- published figures --------------------------------------------------------------------------------------
def registry(tmp_path, records, **more):
    path = tmp_path / "registry.json"
    path.write_text(json.dumps({"verified_records": records, **more}))
    return path


VENDOR = '{"methodology_summary": {"default_n": 30, "default_seq_len": 17}, "verified_records": [%s]}'


def test_claimed_beside_measured(setting, tmp_path):
    evidence(setting, "a", change_record=named("Some-8B"))
    path = tmp_path / "r.json"
    path.write_text(
        VENDOR % '{"model": "Org/some_8b", "ppl_ratio": 1.00400, "hf": "x/y"}, {"model": "Z", "ppl_ratio": 1}'
    )
    figures = read_registry(path)
    assert [(item.ratio, item.windows, item.seq_len) for item in figures] == [("1.00400", 30, 17), ("1", 30, 17)]
    row = build(setting, claimed=figures).rows[0]
    assert row.claimed.outcome == "not comparable" and "nothing says" in row.claimed.reason
    matrix = build(setting, claimed=figures, claimed_corpus=TEXT)
    assert matrix.rows[0].claimed.outcome == "consistent"
    assert [item.model for item in matrix.claimed_without_evidence] == ["Z"]
    assert "Published, and without evidence here" in render_page(matrix)
    other = build(setting, claimed=figures, claimed_corpus="0" * 64).rows[0]
    assert (other.claimed.outcome, other.claimed.reason) == ("not comparable", "it was measured on another text")


def test_a_floor_shows_what_its_protocol_was_compared_with(setting):
    made = protocol(published=published(same_model=True, same_text=True, ratio="1.0300"))
    make_floor(setting, setting.root / "evidence" / "floor", made=made)
    row = build(setting).rows[0]
    assert (row.claimed.outcome, row.claimed.figure.floor) == ("better", True)


def test_our_own_layout_is_read_back(setting, tmp_path):
    evidence(setting, "a", change_record=named("Some-8B"))
    path = tmp_path / "benchmarks.json"
    path.write_text(build(setting).model_dump_json(by_alias=True))
    [figure] = read_registry(path)
    assert (figure.model, figure.windows, figure.seq_len) == ("Some-8B", 40, 17)
    assert Benchmarks.model_validate_json(path.read_bytes()).rows[0].model == "Some-8B"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "a registry is a json object"),
        ("{", "not json"),
        ("{}", "neither verified_records nor rows"),
        ('{"verified_records": 5}', "neither verified_records nor rows"),
        ('{"verified_records": [{}]}', "a record without a model"),
        ('{"verified_records": [{"model": "a", "ppl_ratio": "1.0"}]}', "ppl_ratio is no number"),
        ('{"verified_records": [{"model": "a", "ppl_ratio": true}]}', "ppl_ratio is no number"),
        ('{"verified_records": [{"model": "a", "ppl_ratio": -1.5}]}', "ratio"),
        ('{"verified_records": [{"model": "a", "ppl_ratio": 1e400}]}', "ratio"),
        ('{"verified_records": [{"model": "a", "ppl_ratio": 1.0, "n": "many"}]}', "n is no count"),
        ('{"verified_records": [{"model": "a", "ppl_ratio": 1.0, "seq_len": 1}]}', "seq_len"),
        ("[" * 100_000, "not json"),
    ],
)
def test_a_registry_that_is_none(tmp_path, text, message):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(MalformedRecordError, match=message):
        read_registry(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("Org/Qwen3-8B", "qwen3_8b", True), ("Qwen3-8B", "Qwen3-80B", False), ("Phi-4", "phi 4", True)],
)
def test_names_of_one_model(one, other, same):
    assert (plain_name(one) == plain_name(other)) is same


# --- the page -----------------------------------------------------------------------------------------------
def test_names_are_text_and_never_markup(setting):
    evil = "<script>alert(1)</script>|`\"'&"
    evidence(setting, "a", change_record=named(evil))
    page, text = render_page(matrix := build(setting)), markdown(matrix)
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;|`&quot;" in page
    assert r"\<script\>alert(1)\</script\>\|\`" in text


def test_the_page_is_whole_and_calls_nobody(setting):
    evidence(setting, "a")
    page = render_page(build(setting))
    for kind in ("script", "style"):
        [content] = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page and not re.search(r"(src|href)=\"(?!#)", page)
    assert not re.search(r"https?://", page) and "{{" not in page
    assert page.count("<h1>") == 1 and 'lang="en"' in page and page.count('scope="col"') >= 10


def test_every_status_is_explained(setting):
    evidence(setting, "a")
    page = render_page(build(setting))
    assert all(f"<dt>{status}</dt><dd>" in page for status in STATUSES)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.layers.0.mlp.up_proj.weight"], "dense"),
        (["model.layers.1.mlp.experts.0.up_proj.weight", "model.norm.weight"], "MoE"),
        (["backbone.layers.0.mixer.A_log", "backbone.norm_f.weight"], "SSM"),
        (["blk.0.ffn_up_exps.weight"], "MoE"),
        ([], "unknown"),
    ],
)
def test_the_class_follows_from_the_tensors(names, expected):
    entries = tuple(StateEntry(name, "BF16", (1,), "0" * 64) for name in sorted(names))
    assert class_of(StateManifest(entries)) == expected


# --- the command --------------------------------------------------------------------------------------------
def run(setting, *words):
    command = ["matrix", str(setting.root / "evidence"), "--trust", str(setting.trust), *map(str, words)]
    return CliRunner().invoke(cli, command, standalone_mode=False)


def test_the_command_writes_three_files_and_replaces_its_own(setting):
    evidence(setting, "a")
    out = setting.root / "site"
    said = run(setting, "--ledger", setting.ledger, "--out", out, "-q")
    assert said.return_value == 0 and "1 rows in 1 tables: 1 within bound" in said.output
    assert {path.name for path in out.iterdir()} == {"benchmarks.json", "benchmarks.md", "index.html"}
    (setting.root / "evidence" / "a" / "STATE").write_bytes(b"x")
    said = run(setting, "--ledger", setting.ledger, "--out", out, "--json", "-q")
    assert said.return_value == 1
    document = json.loads(said.stdout)
    assert document["byStatus"] == {"not verified": 1} and document["exitCode"] == 1
    assert json.loads((out / "benchmarks.json").read_text())["schema"] == "urn:ucaudit:schema:benchmarks:v1"


def test_the_command_writes_into_no_bundle(setting):
    bundle = evidence(setting, "a")
    with pytest.raises(Exception, match="lies inside the bundle"):
        run(setting, "--out", bundle / "site").exception and (_ for _ in ()).throw(
            run(setting, "--out", bundle / "site").exception
        )
    assert not (bundle / "site").exists()
