"""The per-token files: round trip, pinned bytes, and values that no measurement gives."""

from __future__ import annotations

import math
import struct
from array import array
from dataclasses import replace
from pathlib import Path

import pytest

from ucaudit.core import tensorfile
from ucaudit.core.errors import MalformedRecordError, NotFoundError
from ucaudit.core.tokenvalues import FILES, PACK_FILE, PAIR_FILE, REFERENCE_FILE, TokenValues, join, load, save


def make(n: int = 3, tokens: int = 4) -> TokenValues:
    count = n * tokens
    return TokenValues(
        windows=tuple(range(5, 5 + 2 * n, 2)),
        tokens=tokens,
        reference=array("f", [-0.5 - index / 8 for index in range(count)]),
        pack=array("f", [-0.75 - index / 8 for index in range(count)]),
        kl=array("f", [index / 64 for index in range(count)]),
        top1=array("B", [index % 2 for index in range(count)]),
    )


def rewrite(path: Path, **changes: tuple[str, tuple[int, ...], bytes] | None) -> None:
    """Replace or drop tensors of a file."""
    with path.open("rb") as handle:
        header = tensorfile.read_header(handle, subject="x")
        tensors = {
            name: (info.dtype, info.shape, tensorfile.read_tensor(handle, info, subject="x"))
            for name, info in header.tensors.items()
        }
    for name, change in changes.items():
        if change is None:
            del tensors[name]
        else:
            tensors[name] = change
    tensorfile.write(path, tensors)


def test_round_trip_and_equal_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    digests = save(tmp_path / "a", make())
    assert load(tmp_path / "a") == make()
    assert save(tmp_path / "b", load(tmp_path / "a")) == digests
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(FILES)


def test_double_arrays_are_stored_as_fp32(tmp_path: Path) -> None:
    values = replace(make(), reference=array("d", [-0.1] * 12))
    save(tmp_path, values)
    assert load(tmp_path).reference == array("f", [-0.1] * 12)


def test_layout_is_what_the_documentation_says(tmp_path: Path) -> None:
    save(tmp_path, make(2, 3))
    with (tmp_path / PAIR_FILE).open("rb") as handle:
        tensors = tensorfile.read_header(handle, subject="x").tensors
        found = {name: (info.dtype, info.shape) for name, info in tensors.items()}
        assert found == {"window": ("I64", (2,)), "kl": ("F32", (2, 3)), "top1": ("U8", (2, 3))}
        assert tensorfile.read_tensor(handle, tensors["window"], subject="x") == struct.pack("<2q", 5, 7)
    with (tmp_path / REFERENCE_FILE).open("rb") as handle:
        tensors = tensorfile.read_header(handle, subject="x").tensors
        raw = tensorfile.read_tensor(handle, tensors["logprob"], subject="x")
        assert struct.unpack("<6f", raw)[:2] == (-0.5, -0.625)


def test_rows() -> None:
    values = make(2, 3)
    assert [list(row) for row in values.rows(values.top1)] == [[0, 1, 0], [1, 0, 1]]
    assert values.n == 2


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("reference", math.nan, "reference log-probability is nan in window 7 at token 1"),
        ("pack", -math.inf, "pack log-probability is -inf in window 7 at token 1"),
        ("pack", math.inf, "pack log-probability is inf"),
        ("pack", 2e-5, "pack log-probability is 2e-05 in window 7 at token 1"),
        ("reference", 3.0, "reference log-probability is 3"),
        ("kl", -2e-5, "kl divergence is -2e-05 in window 7 at token 1"),
        ("kl", math.nan, "kl divergence is nan"),
        ("kl", math.inf, "kl divergence is inf"),
        ("kl", 1e30, "mean kl divergence of 8.333e"),
        ("pack", -3e38, "mean pack log-probability of"),
        ("top1", 2, "top1 is neither 0 nor 1 in window 7 at token 1"),
    ],
)
def test_impossible_values_are_refused_on_both_ways(field: str, value: float, message: str, tmp_path: Path) -> None:
    values = make()
    getattr(values, field)[5] = value
    with pytest.raises(MalformedRecordError, match=message):
        save(tmp_path, values)
    assert list(tmp_path.iterdir()) == []
    save(tmp_path, make())
    file, tensor = {
        "reference": (REFERENCE_FILE, "logprob"),
        "pack": (PACK_FILE, "logprob"),
        "kl": (PAIR_FILE, "kl"),
        "top1": (PAIR_FILE, "top1"),
    }[field]
    dtype = "U8" if field == "top1" else "F32"
    rewrite(tmp_path / file, **{tensor: (dtype, (3, 4), getattr(values, field).tobytes())})
    with pytest.raises(MalformedRecordError, match=message):
        load(tmp_path)


def test_opposite_infinities_are_refused(tmp_path: Path) -> None:
    values = make()
    values.kl[0], values.kl[1] = math.inf, -math.inf
    with pytest.raises(MalformedRecordError, match="kl divergence is inf in window 5 at token 0"):
        values.check(subject="x")


def test_rounding_of_a_probability_of_one_is_allowed() -> None:
    values = make()
    values.pack[0], values.kl[0] = 5e-7, -2e-6
    assert values.check(subject="x") is values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"windows": (5, 5, 7)}, "not ascending"),
        ({"windows": (5, 9, 7)}, "not ascending"),
        ({"windows": (-1, 0, 1)}, "not ascending"),
        ({"windows": (5, 7)}, "one shape"),
        ({"windows": (), "reference": array("f"), "pack": array("f")}, "no windows"),
        ({"tokens": 0}, "no windows"),
        ({"kl": array("f", [0.0])}, "one shape"),
    ],
)
def test_shapes_that_do_not_fit(change: dict[str, object], message: str) -> None:
    with pytest.raises(MalformedRecordError, match=message):
        replace(make(), **change).check(subject="x")


def test_files_of_two_measurements_are_not_mixed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    save(tmp_path, make())
    save(other, replace(make(), windows=(5, 7, 11)))
    (tmp_path / PACK_FILE).write_bytes((other / PACK_FILE).read_bytes())
    with pytest.raises(MalformedRecordError, match="not of one measurement"):
        load(tmp_path)


WINDOW = ("I64", (3,), struct.pack("<3q", 5, 7, 9))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (PACK_FILE, {"extra": ("U8", (1,), b"x")}, "expected the tensors logprob, window"),
        (PACK_FILE, {"logprob": None}, "expected the tensors"),
        (PAIR_FILE, {"kl": None}, "expected the tensors kl, top1, window"),
        (PACK_FILE, {"logprob": ("F64", (3, 4), bytes(96))}, "logprob is F64, expected F32"),
        (PACK_FILE, {"window": ("I32", (3,), bytes(12))}, "window is I32, expected I64"),
        (PAIR_FILE, {"top1": ("BOOL", (3, 4), bytes(12))}, "top1 is BOOL, expected U8"),
        (PACK_FILE, {"logprob": ("F32", (12,), bytes(48))}, r"one shape \[n, t\]"),
        (PACK_FILE, {"logprob": ("F32", (4, 3), bytes(48))}, r"one shape \[n, t\]"),
        (PAIR_FILE, {"top1": ("U8", (3, 5), bytes(15))}, r"one shape \[n, t\]"),
        (PACK_FILE, {"logprob": ("F32", (3, 0), b"")}, "not of one measurement"),
    ],
)
def test_hostile_files(file: str, changes: dict, message: str, tmp_path: Path) -> None:
    save(tmp_path, make())
    rewrite(tmp_path / file, **changes)
    with pytest.raises(MalformedRecordError, match=message):
        load(tmp_path)


def test_damaged_container_is_a_malformed_record_and_not_a_pack(tmp_path: Path) -> None:
    save(tmp_path, make())
    data = (tmp_path / PACK_FILE).read_bytes()
    (tmp_path / PACK_FILE).write_bytes(data[:-1])
    with pytest.raises(MalformedRecordError, match="truncated") as caught:
        load(tmp_path)
    assert caught.value.code == "malformed-record"
    assert caught.value.subject == str(tmp_path / PACK_FILE)


def test_missing_file(tmp_path: Path) -> None:
    save(tmp_path, make())
    (tmp_path / PAIR_FILE).unlink()
    with pytest.raises(NotFoundError):
        load(tmp_path)


# --- documents ---------------------------------------------------------------------------------------------
def test_documents_are_in_all_three_files_and_old_files_stay_readable(tmp_path: Path) -> None:
    save(tmp_path, make())
    assert load(tmp_path).documents is None
    with_documents = replace(make(), documents=(0, 0, 4))
    save(tmp_path, with_documents)
    assert load(tmp_path) == with_documents
    for name in FILES:
        with (tmp_path / name).open("rb") as handle:
            info = tensorfile.read_header(handle, subject="x").tensors["document"]
            assert (info.dtype, info.shape) == ("I64", (3,))
            assert tensorfile.read_tensor(handle, info, subject="x") == struct.pack("<3q", 0, 0, 4)


@pytest.mark.parametrize("documents", [(0, 1), (0, 2, 1), (-1, 0, 1), (0, 1, 2, 3)])
def test_document_numbers_that_no_stream_gives(documents: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(MalformedRecordError, match="document numbers are not one a window, ascending"):
        save(tmp_path, replace(make(), documents=documents))
    if len(documents) == 3:
        save(tmp_path, make())
        for name in FILES:
            rewrite(tmp_path / name, document=("I64", (3,), struct.pack("<3q", *documents)))
        with pytest.raises(MalformedRecordError, match="document numbers"):
            load(tmp_path)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "not of one measurement"),
        (("I64", (3,), struct.pack("<3q", 0, 1, 1)), "not of one measurement"),
        (("I32", (3,), bytes(12)), "document is I32, expected I64"),
        (("I64", (2,), bytes(16)), r"one shape \[n, t\]"),
        (("I64", (3, 4), bytes(96)), r"one shape \[n, t\]"),
    ],
)
def test_documents_of_one_file_that_do_not_fit(document, message: str, tmp_path: Path) -> None:
    save(tmp_path, replace(make(), documents=(0, 1, 2)))
    rewrite(tmp_path / PAIR_FILE, document=document)
    with pytest.raises(MalformedRecordError, match=message):
        load(tmp_path)


def test_joining_takes_parts_that_fit_alone() -> None:
    one, other = make(), replace(make(), windows=(6, 8, 10))
    joined = join([other, one])
    assert joined.windows == (5, 6, 7, 8, 9, 10)
    assert list(joined.rows(joined.kl)[1]) == list(other.rows(other.kl)[0])
    with pytest.raises(MalformedRecordError, match="x: window 5 is there twice"):
        join([one, one], subject="x")
    with pytest.raises(MalformedRecordError, match="differ in length"):
        join([one, make(3, 5)])
    with pytest.raises(MalformedRecordError, match="only some of the parts know their documents"):
        join([one, replace(other, documents=(0, 0, 0))])
    with pytest.raises(MalformedRecordError, match="document numbers"):
        join([replace(one, documents=(0, 2, 4)), replace(other, documents=(3, 3, 3))])
