"""Round trips and arbitrary damage of safetensors files."""

from __future__ import annotations

import io

from hypothesis import given, settings
from hypothesis import strategies as st

from ucaudit.core import tensorfile
from ucaudit.core.errors import MalformedPackError

NAMES = st.text("abcXYZ019._-/é∑", min_size=1, max_size=20)
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@st.composite
def tensor_maps(draw: st.DrawFn) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    result = {}
    for name in draw(st.lists(NAMES, unique=True, max_size=6)):
        dtype = draw(st.sampled_from(sorted(tensorfile.DTYPE_SIZES)))
        shape = draw(SHAPES)
        count = tensorfile.DTYPE_SIZES[dtype]
        for size in shape:
            count *= size
        result[name] = (dtype, shape, draw(st.binary(min_size=count, max_size=count)))
    return result


def encode(tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    handle = io.BytesIO()
    tensorfile.write(handle, tensors)
    return handle.getvalue()


@given(tensor_maps())
def test_round_trip_and_alignment(tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    data = encode(tensors)
    assert data == encode(dict(reversed(tensors.items())))
    handle = io.BytesIO(data)
    header = tensorfile.read_header(handle, subject="x")
    found = {
        name: (info.dtype, info.shape, tensorfile.read_tensor(handle, info, subject="x"))
        for name, info in header.tensors.items()
    }
    assert found == tensors
    assert all(info.begin % tensorfile.DTYPE_SIZES[info.dtype] == 0 for info in header.tensors.values())


@settings(max_examples=300)
@given(tensor_maps(), st.data())
def test_damage_is_refused_or_still_tiles_the_file(
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]], data: st.DataObject
) -> None:
    raw = bytearray(encode(tensors))
    header_end = 8 + int.from_bytes(raw[:8], "little")
    position = data.draw(st.integers(0, header_end - 1))
    raw[position] = data.draw(st.integers(0, 255))
    try:
        header = tensorfile.read_header(io.BytesIO(bytes(raw)), subject="x")
    except MalformedPackError:
        return
    position = header.data_start
    for info in header.tensors.values():
        assert info.begin == position
        position = info.end
    assert position == len(raw)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_raise_anything_else(raw: bytes) -> None:
    for data in (raw, len(raw).to_bytes(8, "little") + raw, (len(raw) + 1).to_bytes(8, "little") + b"{" + raw):
        try:
            tensorfile.read_header(io.BytesIO(data), subject="x")
        except MalformedPackError as error:
            assert error.message
