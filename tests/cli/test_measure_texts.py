"""`ucaudit measure` and `attest` on texts with rows, and with the pack's calibration text at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import TEXT, ucaudit
from ucaudit.core import tokenvalues
from ucaudit.evidence.bundle import open_bundle

COMMON = ("--n", 6, "--seq-len", 32, "--threads", 1)
LONG = ("--seq-len", 128)  # windows that hold more than 13 words


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """Forty documents of evaluation prose."""
    text = TEXT.read_text(encoding="utf-8")
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [json.dumps({"content": text[1000 * index : 1000 * index + 1000]}) for index in range(40)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def measure(desk, corpus: Path, out: Path, *words):
    return ucaudit(
        "measure", desk.pack, "--reference", desk.reference, "--corpus", corpus, *COMMON, *words, "--out", out
    )


@pytest.mark.slow
def test_rows_of_a_file(desk, rows, tmp_path) -> None:
    done = measure(desk, rows, tmp_path / "o", "--text-column", "content", "--rows", "10:30", "--json")
    assert done.code == 0, done.err
    corpus = done.json["measurement"]["corpus"]
    assert (corpus["textColumn"], corpus["rows"], corpus["documents"]) == ("content", "10:30", 20)
    values = tokenvalues.load(tmp_path / "o")
    assert all(10 <= document < 30 for document in values.documents)
    assert done.json["measurement"]["calibrationOverlap"] == "not-checked"
    tail = measure(desk, rows, tmp_path / "p", "--text-column", "content", "--rows", "-20:", "--json")
    assert tail.json["measurement"]["corpus"]["rows"] == "20:40"


@pytest.mark.slow
def test_parquet_and_json_lines_with_the_same_rows_give_the_same_values(desk, rows, tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = [json.loads(line)["content"] for line in rows.read_text().splitlines()]
    pq.write_table(pa.table({"content": lines}), tmp_path / "rows.parquet", row_group_size=7)
    one = measure(desk, rows, tmp_path / "a", "--text-column", "content", "--n", 38, "--rows", ":12", "--json")
    other = measure(
        desk,
        tmp_path / "rows.parquet",
        tmp_path / "b",
        "--text-column",
        "content",
        "--n",
        38,
        "--rows",
        ":12",
        "--json",
    )
    assert (one.code, other.code) == (0, 0), one.err + other.err
    tokens = one.json["measurement"]["corpus"]["tokens"], other.json["measurement"]["corpus"]["tokens"]
    assert tokens[0] == tokens[1]
    shared = set(one.json["windows"]) & set(other.json["windows"])  # two files, two draws
    assert len(shared) > 5
    a, b = (tokenvalues.load(tmp_path / name) for name in "ab")
    for window in shared:
        first, second = a.windows.index(window), b.windows.index(window)
        assert a.documents[first] == b.documents[second]
        assert list(a.rows(a.pack)[first]) == list(b.rows(b.pack)[second])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 3, "line 1: no column 'text'; there are: content"),
        (("--text-column", "content", "--rows", "39:41"), 3, "rows 39:41 are asked for, there are 40"),
        (("--text-column", "content", "--rows", "x"), 3, "rows are given as A:B"),
        (
            ("--text-column", "content", "--rows", ":1", "--n", 60),
            3,
            "too short: 60 windows of 32 tokens are asked for",
        ),
    ],
)
def test_rows_that_do_not_serve(desk, rows, tmp_path, words, code, message) -> None:
    done = measure(desk, rows, tmp_path / "o", *words)
    assert (done.code, done.out) == (code, "")
    assert message in done.err


def test_another_text_that_shares_nothing(desk, tmp_path) -> None:
    done = measure(
        desk,
        desk.root / "text.txt",
        tmp_path / "o",
        "--calibration",
        desk.root / "calibration.txt",
        *LONG,
        "--json",
    )
    assert done.code == 0, done.err
    found = done.json["measurement"]
    assert found["calibrationOverlap"] == "none-found"
    assert found["overlapSearch"]["shared"] == 0
    assert found["overlapSearch"]["ngrams"] > 5
    assert found["overlapSearch"]["ngramWords"] == 13


@pytest.mark.slow
def test_text_of_the_calibration_is_refused_unless_forced(desk, tmp_path) -> None:
    seen = (desk.root / "calibration.txt").read_text(encoding="utf-8")
    (tmp_path / "edited.txt").write_text("A new beginning. " + seen, encoding="utf-8")
    unnoticed = measure(desk, tmp_path / "edited.txt", tmp_path / "o", "--json")
    assert unnoticed.json["measurement"]["calibrationOverlap"] == "not-checked"
    words = ("--calibration", desk.root / "calibration.txt", *LONG)
    refused = measure(desk, tmp_path / "edited.txt", tmp_path / "p", *words, "--json")
    assert (refused.code, refused.json["error"]["code"]) == (3, "unusable-corpus")
    assert "runs of 13 words also occur in the pack's calibration text calibration.txt" in refused.err
    forced = measure(desk, tmp_path / "edited.txt", tmp_path / "q", *words, "--allow-overlap", "--json")
    assert forced.code == 0, forced.err
    search = forced.json["measurement"]["overlapSearch"]
    assert (forced.json["measurement"]["calibrationOverlap"], search["shared"] > 0) == ("forced", True)


@pytest.mark.slow
def test_the_wrong_calibration_text(desk, tmp_path) -> None:
    done = measure(desk, desk.root / "text.txt", tmp_path / "o", "--calibration", desk.root / "text.txt")
    assert done.code == 3
    assert "not the calibration text of pack: expected sha-256" in done.err
    plain = ucaudit(
        "measure", desk.reference, "--reference", desk.reference, "--corpus", desk.root / "text.txt", *COMMON,
        "--calibration", desk.root / "calibration.txt", "--out", tmp_path / "p",
    )  # fmt: skip
    assert plain.code == 3
    assert "states no calibration text to compare it with" in plain.err


def test_an_attestation_reads_rows_from_the_policy(desk, rows, tmp_path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(
        f'[measurement]\ncorpus = "{rows}"\ntext_column = "content"\nrows = "-35:"\nn = 40\nseq_len = 128\n'
        "[claims]\nppl_ratio_max = 1.5\n"
    )
    done = ucaudit(
        "attest", desk.pack, "--reference", desk.reference, "--policy", policy, "--key", desk.key, "--threads", 1,
        "--calibration", desk.root / "calibration.txt", "--out", tmp_path / "bundle",
    )  # fmt: skip
    assert done.code in (0, 5), done.err
    record = open_bundle(tmp_path / "bundle").record
    corpus = record.measurement.corpus
    assert (corpus.text_column, corpus.rows, corpus.documents) == ("content", "5:40", 35)
    assert record.measurement.calibration_overlap == "none-found"
    assert record.results.documents == len(set(tokenvalues.load(tmp_path / "bundle").documents))
    assert any("shares no run of 13 words" in item.text for item in record.limitations)
    assert ucaudit("bound", tmp_path / "bundle", "--json").json["disagreements"] == []
    wrong = ucaudit(
        "attest", desk.pack, "--reference", desk.reference, "--policy", policy, "--key", desk.key,
        "--corpus", desk.root / "text.txt", "--out", tmp_path / "b2",
    )  # fmt: skip
    assert wrong.code == 3
    assert "a plain text has no rows and columns" in wrong.err
