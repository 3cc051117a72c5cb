"""Properties of the bit packing and of the decoder, over random shapes and settings."""

import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ucaudit.packs.codecs import compiled, open_source, ucq
from ucaudit.packs.codecs.ucq_math import unpack_codes

sys.path.insert(0, str(Path(__file__).parents[1] / "vectors" / "ucq"))
import ucq_oracle as oracle

NAME = "model.layers.3.w"


@given(st.data(), st.integers(2, 8), st.integers(1, 70), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_codes_come_back(data, bits, columns, rows):
    codes = data.draw(
        st.lists(
            st.lists(st.integers(0, (1 << bits) - 1), min_size=columns, max_size=columns),
            min_size=rows,
            max_size=rows,
        )
    )
    packed = torch.tensor([list(oracle.pack_row(row, bits)) for row in codes], dtype=torch.uint8)
    assert unpack_codes(packed, bits, columns).tolist() == codes


@given(st.integers(2, 8), st.integers(0, 2**32), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_whole_codes_of_whole_blocks(bits, seed, blocks):
    data = np.random.default_rng(seed).integers(0, 256, blocks * bits).astype(np.uint8)
    found = unpack_codes(torch.from_numpy(data)[None], bits, blocks * 8)
    assert found[0].tolist() == oracle.unpack_row(data.tobytes(), bits, blocks * 8)


@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 6),
    columns=st.integers(1, 40),
    experts=st.sampled_from([None, 1, 3]),
    bits=st.integers(2, 8),
    group=st.sampled_from([1, 3, 8, 32, 100]),
    rank=st.sampled_from([0, 1, 2, 17]),
    zeros=st.booleans(),
    uniform=st.booleans(),
    spread=st.sampled_from([2, 8, 40, 120]),
    chunk=st.integers(1, 4096),
)
@settings(max_examples=60, deadline=None)
def test_the_decoder_equals_both_oracles(
    seed, rows, columns, experts, bits, group, rank, zeros, uniform, spread, chunk
):
    shape = (rows, columns) if experts is None else (experts, rows, columns)
    # Far-apart magnitudes reach subnormal factors and results; the largest stay finite.
    stored = oracle.random_stored(
        seed, shape, bits=bits, group=group, rank=rank, zeros=zeros, uniform=uniform, spread=min(spread, 20)
    )
    if rank and spread > 20:
        tiny = np.random.default_rng(seed).integers(0, 0x0100, stored.rows.shape).astype(np.uint16)
        stored.rows = tiny | np.uint16(0x8000) * (tiny & 1)
    exact = np.array(oracle.decode_exact(stored), dtype="<u2").tobytes()
    assert oracle.decode_numpy(stored).astype("<u2").tobytes() == exact
    with tempfile.TemporaryDirectory() as folder:
        oracle.write_pack(Path(folder), {NAME: stored})
        with open_source(Path(folder)) as source:
            assert b"".join(source.stream(NAME, chunk_bytes=chunk)) == exact
            with (
                mock.patch.object(ucq, "WORTHWHILE", 0),
                mock.patch.object(compiled, "serves", lambda *_: True),
            ):
                assert b"".join(source.stream(NAME, chunk_bytes=chunk)) == exact
