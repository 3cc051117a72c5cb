"""The safetensors container: what is read, and everything that is refused."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from ucaudit.core import tensorfile
from ucaudit.core.errors import MalformedPackError


def container(header: Any, data: bytes = b"", *, length: int | None = None) -> io.BytesIO:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return io.BytesIO(struct.pack("<Q", len(text) if length is None else length) + text + data)


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **extra: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **extra}


def read(handle: io.BytesIO) -> tensorfile.Header:
    return tensorfile.read_header(handle, subject="m.safetensors")


def test_reads_tensors_in_file_order_with_absolute_offsets() -> None:
    text = json.dumps(
        {"__metadata__": {"format": "pt"}, "b": entry(offsets=[8, 16]), "a": entry("BF16", [2, 2], [0, 8])}
    ).encode()
    padded = text + b" " * 13
    header = read(container(padded, bytes(range(16))))
    start = 8 + len(padded)
    assert list(header.tensors) == ["a", "b"]
    assert header.tensors["a"] == tensorfile.TensorInfo("a", "BF16", (2, 2), start, start + 8)
    assert header.tensors["b"].nbytes == 8
    assert (header.metadata, header.data_start, header.file_size) == ({"format": "pt"}, start, start + 16)


def test_scalar_empty_tensor_and_empty_file_are_fine() -> None:
    header = read(container({"s": entry("F64", [], [0, 8]), "e": entry("F32", [0, 7], [0, 0])}, b"\0" * 8))
    assert list(header.tensors) == ["e", "s"]
    assert header.tensors["s"].elements == 1
    assert read(container({})).tensors == {}


def test_reads_from_a_real_file_without_moving_its_position(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensorfile.write(path, {"x": ("I64", (3,), struct.pack("<3q", 1, 2, 3))})
    with path.open("rb") as handle:
        handle.seek(5)
        info = tensorfile.read_header(handle, subject="x").tensors["x"]
        assert struct.unpack("<3q", tensorfile.read_tensor(handle, info, subject="x")) == (1, 2, 3)
        assert [len(c) for c in tensorfile.read_chunks(handle, info, subject="x", chunk_bytes=10)] == [10, 10, 4]
        assert handle.tell() == 5


def test_file_that_shrinks_after_its_header_was_read() -> None:
    handle = container({"a": entry()}, b"\0" * 8)
    info = read(handle).tensors["a"]
    handle.truncate(info.end - 1)
    with pytest.raises(MalformedPackError, match="truncated"):
        tensorfile.read_tensor(handle, info, subject="x")


@pytest.mark.parametrize(
    ("handle", "message"),
    [
        (io.BytesIO(b""), "too short"),
        (io.BytesIO(b"\1\0\0\0\0\0\0"), "too short"),
        (container(b"", length=0), "header is empty"),
        (container(b"{}", length=100_000_001), "at most 100000000"),
        (container(b"{}", length=2**64 - 1), "at most 100000000"),
        (container(b"{}", length=3), "truncated: the header"),
        (container(b" {}"), "does not start with '{'"),
        (container(b"[]"), "does not start with '{'"),
        (container(b'{"\xff":0}'), "not utf-8"),
        (container(b"{} x"), "not json"),
        (container(b"{}\n\0"), "not json"),
        (container(b'{"a":{"dtype":"F32"'), "not json"),
        (container(b'{"a":0,"a":0}'), "duplicate json key 'a'"),
        (container(b'{"a":{"dtype":"U8","dtype":"I8","shape":[0],"data_offsets":[0,0]}}'), "duplicate json key"),
        (container(b'{"a":' + b"[" * 40 + b"]" * 40 + b"}"), "nested deeper"),
        (container({"a": 3}), "lacks dtype"),
        (container({"a": {"dtype": "F32", "shape": [2]}}, b"\0" * 8), "lacks dtype"),
        (container({"a": entry(name="b")}, b"\0" * 8), "unknown key 'name'"),
        (container({"a": entry("F4")}, b"\0" * 8), "unknown dtype 'F4'"),
        (container({"a": entry("f32")}, b"\0" * 8), "unknown dtype 'f32'"),
        (container({"a": entry(["F32"])}, b"\0" * 8), "unknown dtype"),
        (container({"a": entry(shape=2)}, b"\0" * 8), "shape must be a list"),
        (container({"a": entry(shape=[-2])}, b"\0" * 8), "axis size -2"),
        (container({"a": entry(shape=[-1, -2])}, b"\0" * 8), "axis size -1"),
        (container({"a": entry(shape=[True, 2])}, b"\0" * 8), "axis size True"),
        (container({"a": entry(shape=[2.0])}, b"\0" * 8), r"axis size 2\.0"),
        (container({"a": entry(shape=["2"])}, b"\0" * 8), "axis size 2"),
        (container({"a": entry(shape=[10**15])}, b"\0" * 8), "axis size 10"),
        (container({"a": entry(shape=[1] * 17)}, b"\0" * 4), "17 axes"),
        (container({"a": entry(shape=[2**32, 2**32, 2], offsets=[0, 0])}), "takes 147573952589676412928 bytes"),
        (container({"a": entry(shape=[3])}, b"\0" * 8), "takes 12 bytes, found 8"),
        (container({"a": entry(offsets=[0])}, b"\0" * 8), "two integers"),
        (container({"a": entry(offsets=[0, 8, 8])}, b"\0" * 8), "two integers"),
        (container({"a": entry(offsets=[0, 8.0])}, b"\0" * 8), "two integers"),
        (container({"a": entry(offsets=[False, 8])}, b"\0" * 8), "two integers"),
        (container({"a": entry(offsets=[8, 0])}, b"\0" * 8), "out of order"),
        (container({"a": entry(offsets=[-8, 0])}, b"\0" * 8), "out of order"),
        (container({"a": entry()}, b"\0" * 7), "truncated: tensor 'a'"),
        (container({"a": entry(offsets=[2**63, 2**63 + 8])}, b"\0" * 8), "truncated: tensor 'a'"),
        (container({"a": entry(), "b": entry(offsets=[4, 12])}, b"\0" * 12), "'b' overlaps"),
        (container({"a": entry(), "b": entry()}, b"\0" * 8), "overlaps"),
        (container({"a": entry(), "b": entry(offsets=[9, 17])}, b"\0" * 17), "a gap of 1 bytes before tensor 'b'"),
        (container({"a": entry(offsets=[8, 16])}, b"\0" * 16), "a gap of 8 bytes"),
        (container({"a": entry()}, b"\0" * 9), "1 bytes follow"),
        (container({}, b"\0"), "1 bytes follow"),
        (container({"": entry()}, b"\0" * 8), "name of 0 bytes"),
        (container({"a\nb": entry()}, b"\0" * 8), r"U\+000A"),
        (container({"a\x7f": entry()}, b"\0" * 8), r"U\+007F"),
        (container({"a\\b": entry()}, b"\0" * 8), r"U\+005C"),
        (container({"a\u202eb": entry()}, b"\0" * 8), r"U\+202E"),
        (container({"a" * 4097: entry()}, b"\0" * 8), "name of 4097 bytes"),
        (container({"__metadata__": {"a": 1}}), "text to text"),
        (container({"__metadata__": []}), "text to text"),
        (container({"__metadata__": None}), "text to text"),
        (container({"__metadata__": {str(i): "" for i in range(10_001)}}), "10001 metadata entries"),
        (container(b'{"a":[' + b"0," * 4_000_001 + b"0]}"), "over 4000000 values"),
    ],
)
def test_refuses(handle: io.BytesIO, message: str) -> None:
    with pytest.raises(MalformedPackError, match=message) as caught:
        read(handle)
    assert caught.value.subject == "m.safetensors"
    assert caught.value.exit_code == 3


def test_written_bytes_are_pinned() -> None:
    handle = io.BytesIO()
    tensorfile.write(handle, {"b": ("U8", (1,), b"\7"), "a": ("F32", (1,), b"\0\0\x80?"), "w": ("I64", (0,), b"")})
    header = (
        b'{"w":{"dtype":"I64","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
        b',"b":{"dtype":"U8","shape":[1],"data_offsets":[4,5]}}'
    )
    padded = header + b" " * (-len(header) % 8)
    assert handle.getvalue() == struct.pack("<Q", len(padded)) + padded + b"\0\0\x80?\7"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": ("F32", (2,), b"\0" * 7)}, "takes 8 bytes, found 7"),
        ({"a": ("Q4", (2,), b"")}, "unknown dtype"),
        ({"a": ("F32", (-1,), b"")}, "axis size -1"),
        ({"a\tb": ("U8", (0,), b"")}, "U\\+0009"),
        ({"__metadata__": ("U8", (0,), b"")}, "may not be called"),
    ],
)
def test_writer_refuses_what_the_reader_would(tensors: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedPackError, match=message):
        tensorfile.write(tmp_path / "x", tensors)
    assert list(tmp_path.iterdir()) == []
