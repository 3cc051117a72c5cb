"""`ucaudit bound` on bare per-token files and on bundles, honest and not."""

from __future__ import annotations

import json
from array import array
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bundles import make_bundle, make_setting, make_values
from tests.cli.conftest import ucaudit
from ucaudit.core import tokenvalues
from ucaudit.core.records import Interval
from ucaudit.evidence.bundle import open_bundle


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bound")
    setting = make_setting(root)
    make_bundle(setting, root / "good")
    make_bundle(setting, root / "failed", values=make_values(drift=0.05), ratio_max=1.01)
    make_bundle(setting, root / "open", values=make_values(n=20), ratio_max=1.0125)
    (root / "bare").mkdir()
    tokenvalues.save(root / "bare", make_values())
    return root


def test_bare_files(root: Path) -> None:
    done = ucaudit("bound", root / "bare")
    assert done.code == 0
    assert done.err == ""
    lines = done.out.splitlines()
    assert lines[0].split() == ["windows,", "tokens", "40,", "640"]
    assert [line.split()[:3:2] for line in lines[1:2]] == [["perplexity", "1.00373"]]
    assert lines[1].endswith("[1.00277, 1.00469] at 0.95")
    assert max(map(len, lines)) <= 80
    assert "determination" not in done.out


@pytest.mark.parametrize(
    ("margin", "code", "verdict"), [(1.0125, 0, "pass"), (1.001, 1, "fail"), (1.004, 5, "inconclusive")]
)
def test_margin_sets_the_exit_code(root: Path, margin: float, code: int, verdict: str) -> None:
    done = ucaudit("bound", root / "bare", "--margin", margin, "--json")
    assert (done.code, done.json["exitCode"], done.json["verdict"]) == (code, code, verdict)
    text = ucaudit("bound", root / "bare", "--margin", margin)
    assert f"ratio <= {margin}: {verdict.upper()}: " in text.out
    assert max(map(len, text.out.splitlines())) <= 80


def test_confidence_widens_the_interval(root: Path) -> None:
    wide, usual = (
        ucaudit("bound", root / "bare", "--json", *words).json["results"]["ratio"]
        for words in (("--confidence", 0.99), ())
    )
    assert (wide["confidence"], usual["confidence"]) == (0.99, 0.95)
    assert wide["lower"] < usual["lower"] < usual["upper"] < wide["upper"]


@pytest.mark.parametrize(
    ("name", "code", "determination"), [("good", 0, "pass"), ("failed", 1, "fail"), ("open", 5, "inconclusive")]
)
def test_bundle_gives_the_signed_figures(root: Path, name: str, code: int, determination: str) -> None:
    done = ucaudit("bound", root / name, "--json")
    assert (done.code, done.json["determination"], done.json["disagreements"]) == (code, determination, [])
    assert [claim["id"] for claim in done.json["claims"]] == ["ppl-ratio", "state-matches-published"]
    text = ucaudit("bound", root / name)
    assert f"determination {determination.upper()} (signature not checked here)" in text.out
    assert max(map(len, text.out.splitlines())) <= 80


def test_record_that_lies_about_its_figures(root: Path) -> None:
    def lie(record):
        ratio = record.results.ratio
        better = Interval(**{**ratio.model_dump(), "estimate": ratio.estimate - 0.001})
        return record.model_copy(update={"results": record.results.model_copy(update={"ratio": better})})

    make_bundle(make_setting(root / "liar"), root / "lying", change_record=lie)
    done = ucaudit("bound", root / "lying", "--json")
    assert done.code == 1
    assert len(done.json["disagreements"]) == 1
    assert "ratio.estimate" in done.json["disagreements"][0]
    assert done.err.startswith("ucaudit: error: results.ratio.estimate: signed ")


def test_edited_per_token_file(root: Path, tmp_path: Path) -> None:
    values = make_values()
    values.pack[3] -= 0.25
    edited = root / "good" / tokenvalues.PACK_FILE
    before = edited.read_bytes()
    tokenvalues.save(tmp_path, values)
    try:
        edited.write_bytes((tmp_path / tokenvalues.PACK_FILE).read_bytes())
        done = ucaudit("bound", root / "good", "--json")
    finally:
        edited.write_bytes(before)
    assert done.code == 1
    assert done.json["disagreements"][0] == "nll-pack.safetensors is not the file that was signed"


def test_identical_arms(tmp_path: Path) -> None:
    values = make_values()
    zero = array("f", bytes(4 * len(values.kl)))
    tokenvalues.save(tmp_path, replace(values, pack=values.reference, kl=zero, top1=array("B", b"\1" * len(zero))))
    done = ucaudit("bound", tmp_path, "--margin", 1.0)
    assert done.code == 0
    assert "ratio <= 1: PASS" in done.out
    assert "1.0000  [1.0000, 1.0000] at 0.95" in done.out


def test_too_few_windows_to_bound(tmp_path: Path) -> None:
    tokenvalues.save(tmp_path, make_values(n=2))
    done = ucaudit("bound", tmp_path, "--margin", 1.01)
    assert done.code == 5
    assert "not bounded: too few windows that differ" in done.out


def test_tolerance_and_seed_come_from_the_measurement(root: Path, tmp_path: Path) -> None:
    tokenvalues.save(tmp_path, make_values())
    record = open_bundle(root / "good").record
    measurement = record.measurement.model_copy(update={"tolerance": 0.006})
    summary = {
        "measurement": measurement.model_dump(mode="json", by_alias=True),
        "results": record.results.model_copy(update={"bootstrap_seed": 7}).model_dump(mode="json", by_alias=True),
    }
    (tmp_path / "measurement.json").write_text(json.dumps(summary))
    done = ucaudit("bound", tmp_path, "--margin", 1.01, "--json")
    assert (done.code, done.json["tolerance"], done.json["results"]["bootstrapSeed"]) == (5, 0.006, 7)
    assert ucaudit("bound", root / "bare", "--margin", 1.01).code == 0


def test_damaged_summary(tmp_path: Path) -> None:
    tokenvalues.save(tmp_path, make_values())
    for text, message in (
        ("{}", "not a measurement summary"),
        ("[", "not json"),
        ("[]", "not a measurement summary"),
    ):
        (tmp_path / "measurement.json").write_text(text)
        done = ucaudit("bound", tmp_path)
        assert (done.code, done.out) == (3, "")
        assert message in done.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("nowhere",), 3, "no such"),
        (("bare", "--margin", "0"), 3, "a margin is a ratio above 0"),
        (("bare", "--margin", "nan"), 3, "a margin is a ratio above 0"),
        (("bare", "--confidence", "1"), 2, "0.5<=x<=0.999"),
    ],
)
def test_bad_input(root: Path, words: tuple[str, ...], code: int, message: str) -> None:
    done = ucaudit("bound", *words, cwd=root)
    assert (done.code, done.out) == (code, "")
    assert "ucaudit: error: " in done.err
    assert message in done.err


def test_one_window_has_no_interval(tmp_path: Path) -> None:
    tokenvalues.save(tmp_path, make_values(n=1))
    done = ucaudit("bound", tmp_path, "--json")
    assert done.code == 3
    assert "at least 2 windows, found 1" in json.dumps(done.json)


# --- breakdowns --------------------------------------------------------------------------------------------
def test_breakdowns_are_in_the_summary_and_in_json(root: Path) -> None:
    done = ucaudit("bound", root / "bare")
    for line in ("by position", "  1 ", "  2 to 4 ", "  5 to 16 ", "by p(token)", "  0.1 to 0.5 ", "skewness"):
        assert line in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    broken = ucaudit("bound", root / "bare", "--json").json["breakdown"]
    assert [row["window"] for row in broken["windows"]] == list(tokenvalues.load(root / "bare").windows)
    assert sum(cell["tokens"] for cell in broken["positions"]) == 640
    assert sum(cell["tokens"] for cell in broken["referenceConfidence"]) == 640
    results = ucaudit("bound", root / "bare", "--json").json["results"]
    assert broken["positions"][0].keys() == {"low", "high", "tokens", "difference", "kl", "top1"}
    means = [row["difference"] for row in broken["windows"]]
    assert sum(means) / 40 == pytest.approx(results["meanDifference"])


@pytest.mark.parametrize(
    ("by", "header", "rows"),
    [
        ("window", "window  NLL difference  mean KL  top-1", 40),
        ("position", "by position  tokens  NLL difference", 3),
        ("confidence", "by p(token)    tokens  NLL difference", 5),
    ],
)
def test_one_breakdown_in_full(root: Path, by: str, header: str, rows: int) -> None:
    done = ucaudit("bound", root / "bare", "--by", by)
    lines = done.out.splitlines()
    assert (done.code, lines[0].startswith(header), len(lines)) == (0, True, rows + 1)
    assert max(map(len, lines)) <= 80


def test_documents_are_the_units_where_the_files_name_them(tmp_path: Path) -> None:
    values = replace(make_values(n=60), documents=tuple(index // 2 for index in range(60)))
    tokenvalues.save(tmp_path, values)
    done = ucaudit("bound", tmp_path, "--margin", 1.0125, "--json")
    assert (done.code, done.json["results"]["documents"]) == (0, 30)
    assert done.json["results"]["ratio"]["method"] == "student-t over documents"
    assert ucaudit("bound", tmp_path).out.startswith("windows, tokens    60, 960, from 30 documents\n")
    assert ucaudit("bound", tmp_path, "--by", "window").out.splitlines()[3].split()[:2] == [
        str(values.windows[2]),
        "1",
    ]
    tokenvalues.save(tmp_path, replace(values, documents=tuple(index // 3 for index in range(60))))
    few = ucaudit("bound", tmp_path, "--margin", 1.0125)
    assert few.code == 5
    assert "20 documents are too few to pass: at least 30 are" in few.out


# --- a published ratio -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "code", "outcome"),
    [
        (("1.0037", "--same-text"), 0, "consistent"),
        (("1.0005", "--same-text"), 1, "worse"),
        (("1.0200", "--same-text"), 0, "better"),
        (("1.003", "--same-text", "--published-n", "1"), 5, "cannot tell"),
        (("1.0037",), 5, "not comparable"),
    ],
)
def test_published_ratio(root: Path, words: tuple[str, ...], code: int, outcome: str) -> None:
    done = ucaudit("bound", root / "bare", "--published", *words, "--json")
    assert (done.code, done.json["published"]["outcome"]) == (code, outcome)
    text = ucaudit("bound", root / "bare", "--published", *words)
    assert f"published ratio: {outcome.upper()}: " in text.out
    assert max(map(len, text.out.splitlines())) <= 80


def test_published_on_windows_of_another_length(root: Path) -> None:
    words = ("--published", "1.0037", "--same-text", "--published-seq-len", 1024)
    done = ucaudit("bound", root / "good", *words, "--json")
    assert (done.code, done.json["published"]["outcome"]) == (5, "not comparable")
    assert done.json["published"]["reason"] == "it was measured on windows of 1024 tokens, this on 17"


@pytest.mark.parametrize("ratio", ["x", "1,0037", "-1.0", "nan", "1e3", "0.0", ".5", "1." + "0" * 40])
def test_published_ratios_that_are_none(root: Path, ratio: str) -> None:
    done = ucaudit("bound", root / "bare", "--published=" + ratio, "--same-text")
    assert (done.code, done.out) == (3, "")
    assert "published ratio is" in done.err


def test_a_margin_outweighs_a_published_ratio(root: Path) -> None:
    done = ucaudit("bound", root / "bare", "--published", "1.0005", "--same-text", "--margin", 1.0125)
    assert done.code == 0
