"""Texts with rows: JSON Lines and Parquet, honest and hostile."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ucaudit.core.errors import CorpusError, InputError, MissingExtraError, NotFoundError
from ucaudit.lab import texts
from ucaudit.lab.texts import load_corpus

ROWS = ["one fish", "two fish", "", "red fish", "blue  fish\n"]


def write_json_lines(path: Path, values: list, column: str = "text") -> Path:
    path.write_text("".join(json.dumps({"id": i, column: v}) + "\n" for i, v in enumerate(values)))
    return path


def write_parquet(path: Path, values: list, column: str = "text", **options) -> Path:
    table = pa.table({"id": list(range(len(values))), column: values})
    pq.write_table(table, path, **options)
    return path


@pytest.fixture(params=["jsonl", "ndjson", "parquet", "parquet-groups"])
def rows_file(request, tmp_path):
    kind = request.param.split("-")[0]
    path = tmp_path / f"t.{kind}"
    if kind == "parquet":
        return write_parquet(path, ROWS, row_group_size=2 if "-" in request.param else None)
    return write_json_lines(path, ROWS)


def test_every_row_with_text_is_a_document(rows_file: Path) -> None:
    corpus = load_corpus(rows_file)
    assert corpus.texts == ("one fish", "two fish", "red fish", "blue  fish\n")
    assert (corpus.rows, corpus.column, corpus.span) == ((0, 1, 3, 4), "text", (0, 5))
    assert corpus.sha256 == hashlib.sha256(rows_file.read_bytes()).hexdigest()
    assert (corpus.name, corpus.size) == (rows_file.name, rows_file.stat().st_size)
    assert corpus.pieces() == ["one fish\n\n", "two fish\n\n", "red fish\n\n", "blue  fish\n"]
    assert corpus.text == "one fish\n\ntwo fish\n\nred fish\n\nblue  fish\n"
    assert "fish" not in repr(corpus)


@pytest.mark.parametrize(
    ("rows", "span", "taken"),
    [
        ("1:4", (1, 4), (1, 3)),
        (":2", (0, 2), (0, 1)),
        ("3:", (3, 5), (3, 4)),
        ("-2:", (3, 5), (3, 4)),
        ("-5:", (0, 5), (0, 1, 3, 4)),
        (":", (0, 5), (0, 1, 3, 4)),
        ("4:5", (4, 5), (4,)),
    ],
)
def test_rows_keep_their_numbers_in_the_file(rows_file: Path, rows: str, span, taken) -> None:
    corpus = load_corpus(rows_file, rows=rows)
    assert (corpus.span, corpus.rows) == (span, taken)
    assert corpus.texts == tuple(ROWS[row] for row in taken)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("3:6", "rows 3:6 are asked for, there are 5"),
        ("2:2", "rows 2:2 are asked for"),
        ("-6:", "rows -6: are asked for, there are 5"),
        ("1", "rows are given as A:B, A:, :B or -K:, found '1'"),
        ("a:b", "found 'a:b'"),
        ("1:-2", "found '1:-2'"),
        ("١:٢", "found '١:٢'"),
        ("2:3", r"no text in column 'text' of rows 2:3"),
    ],
)
def test_rows_that_are_not_there(rows_file: Path, rows: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        load_corpus(rows_file, rows=rows)


def test_another_column(tmp_path: Path) -> None:
    for path in (
        write_json_lines(tmp_path / "t.jsonl", ["a", "b"], "content"),
        write_parquet(tmp_path / "t.parquet", ["a", "b"], "content"),
    ):
        corpus = load_corpus(path, column="content")
        assert (corpus.texts, corpus.column) == (("a", "b"), "content")
        with pytest.raises(CorpusError, match=r"no column 'text'; there are: id, content") as caught:
            load_corpus(path)
        assert caught.value.hint == "name it with --text-column"
        with pytest.raises(CorpusError, match=r"column 'id' is int(64)?, a text is expected"):
            load_corpus(path, column="id")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the text is empty: it has no rows"),
        (b'{"text": "a"}\nnot json\n', "line 2: not json"),
        (b'{"text": "a"}\n{"text": "b"\n', "line 2: not json"),
        (b'{"text": "a"}\n\n{"text": "b"}\n', "line 2 is blank, a JSON object is expected"),
        (b'["a"]\n', "line 1: a JSON object is expected"),
        (b'"a"\n', "line 1: a JSON object is expected"),
        (b'{"text": "a"}\n{"txt": "b"}\n', "line 2: no column 'text'; there are: txt"),
        (b"{}\n", "line 1: no column 'text'; there are: none"),
        (b'{"text": "a"}\n{"text": null}\n', "line 2: column 'text' is null, a text is expected"),
        (b'{"text": ["a"]}\n', "line 1: column 'text' is list, a text is expected"),
        (b'{"text": "a", "text": "b"}\n', "line 1: duplicate json key 'text'"),
        (b'{"text": "a\\u0000b"}\n', "line 1: not a text: a NUL character"),
        (b'{"text": "\\ud800"}\n', "line 1: lone surrogate"),
        (b'{"text": "caf\xe9"}\n', "line 1: not utf-8 at byte 13"),
        (b'\xef\xbb\xbf{"text": "a"}\n', "byte-order mark"),
        (b"[" * 100_000 + b"\n", "line 1: nested deeper than 32 levels"),
        (b'{"text": "  "}\n', "the text is empty: no text in column 'text' of rows 0:1"),
        (b"PAR1\x00\x01", "line 1: not json"),
    ],
)
def test_lines_that_are_no_rows(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "t.jsonl").write_bytes(data)
    with pytest.raises(CorpusError, match=message) as caught:
        load_corpus(tmp_path / "t.jsonl")
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith(str(tmp_path / "t.jsonl"))


def test_a_bad_line_outside_the_rows_taken_is_no_concern(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(b'nonsense\n{"text": "a"}\n{"text": "b"}')
    assert load_corpus(tmp_path / "t.jsonl", rows="1:").texts == ("a", "b")


def test_long_lines_and_much_text(tmp_path: Path, monkeypatch) -> None:
    path = write_json_lines(tmp_path / "t.jsonl", ["x" * 50, "y" * 50])
    table = write_parquet(tmp_path / "t.parquet", ["x" * 50, "y" * 50])
    monkeypatch.setattr(texts, "MAX_CORPUS_BYTES", 100)
    with pytest.raises(CorpusError, match="line 2: more than 100 bytes of text") as caught:
        load_corpus(path)
    assert caught.value.hint == "take fewer rows with --rows A:B"
    with pytest.raises(CorpusError, match="row 1: more than 100 bytes of text"):
        load_corpus(table)
    assert load_corpus(path, rows=":1").texts == load_corpus(table, rows="0:1").texts == ("x" * 50,)
    monkeypatch.setattr(texts, "_MAX_LINE", 20)
    monkeypatch.setattr(texts, "_CHUNK", 7)
    with pytest.raises(CorpusError, match="line 1 is longer than 20 bytes"):
        load_corpus(path)


def test_lines_are_found_whatever_the_buffer(tmp_path: Path, monkeypatch) -> None:
    path = write_json_lines(tmp_path / "t.jsonl", [f"row {index}" for index in range(50)])
    whole = load_corpus(path)
    for size in (1, 3, 64):
        monkeypatch.setattr(texts, "_CHUNK", size)
        assert load_corpus(path) == whole


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the text is empty"),
        (b"PAR1", "cannot be read as parquet"),
        (b"just text, no table at all\n" * 10, "cannot be read as parquet"),
        (b"PAR1" + bytes(200) + b"PAR1", "cannot be read as parquet"),
    ],
)
def test_files_that_are_no_parquet(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "t.parquet").write_bytes(data)
    with pytest.raises(CorpusError, match=message) as caught:
        load_corpus(tmp_path / "t.parquet")
    assert caught.value.exit_code == 3


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", ["some words of text"] * 400, compression="snappy")
    data = bytearray(path.read_bytes())
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CorpusError, match="cannot be read as parquet"):
        load_corpus(path)
    refused = 0
    for place in range(4, len(data) - 8, 7):  # whatever bit flips: text or our own error, never a crash
        flipped = bytearray(data)
        flipped[place] ^= 0xFF
        path.write_bytes(flipped)
        try:
            load_corpus(path)
        except CorpusError:
            refused += 1
    assert refused > 0


def test_parquet_columns_of_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": pa.array(["a", "b"], pa.large_string())}), path)
    assert load_corpus(path).texts == ("a", "b")
    for values, kind in (
        (pa.array([b"a"], pa.binary()), "binary"),
        (pa.array([["a"]]), "list"),
        (pa.array([{"a": "b"}]), "struct"),
    ):
        pq.write_table(pa.table({"text": values}), path)
        with pytest.raises(CorpusError, match=f"column 'text' is {kind}"):
            load_corpus(path)
    write_parquet(path, ["a", None])
    with pytest.raises(CorpusError, match="row 1: column 'text' is null, a text is expected"):
        load_corpus(path)
    invalid = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff"))
    pq.write_table(pa.table({"text": invalid}), path)
    with pytest.raises(CorpusError, match="row 1: not utf-8 at byte 0"):
        load_corpus(path)
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    with pytest.raises(CorpusError, match="the text is empty: it has no rows"):
        load_corpus(path)


def test_a_row_group_that_would_unpack_to_too_much(tmp_path: Path, monkeypatch) -> None:
    path = write_parquet(tmp_path / "t.parquet", ["a" * 10_000] * 100)
    monkeypatch.setattr(texts, "MAX_CORPUS_BYTES", 1000)
    with pytest.raises(CorpusError, match="row group 0 unpacks to"):
        load_corpus(path, rows="0:1")


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch) -> None:
    path = write_parquet(tmp_path / "t.parquet", ["a"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match="this needs the parquet extra") as caught:
        load_corpus(path)
    assert (caught.value.exit_code, caught.value.hint) == (4, "pip install 'ucaudit[parquet]'")


def test_plain_texts_have_neither_rows_nor_columns(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("words")
    for options, message in (({"column": "text"}, "--text-column 'text'"), ({"rows": "1:2"}, "--rows '1:2'")):
        with pytest.raises(InputError, match=f"a plain text has no rows and columns: {message} means nothing"):
            load_corpus(tmp_path / "t.txt", **options)
    corpus = load_corpus(tmp_path / "t.txt")
    assert (corpus.rows, corpus.column, corpus.span, corpus.text) == (None, None, None, "words")


def test_parquet_under_another_name_says_what_to_do(tmp_path: Path) -> None:
    write_parquet(tmp_path / "t.parquet", ["a"]).rename(tmp_path / "t.txt")
    with pytest.raises(CorpusError, match="NUL byte") as caught:
        load_corpus(tmp_path / "t.txt")
    assert caught.value.hint == "a Parquet file is read as one if its name ends in .parquet"


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_missing_and_special_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFoundError):
        load_corpus(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="not a regular file"):
        load_corpus(tmp_path / name)
