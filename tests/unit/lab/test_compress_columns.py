"""The innermost loops of the encoder: compiled and plain give the same bits, those that a plain reading gives."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ucaudit.lab import compress_columns, compress_columns_fast
from ucaudit.lab.compress_quantise import Grid, curved_levels
from ucaudit.packs.codecs import compiled

LANDINGS = Grid.of(curved_levels(3)).landings
BOTH = {
    "feed_back": (compress_columns.feed_back_plain, compress_columns_fast.feed_back),
    "descend": (compress_columns.descend_plain, compress_columns_fast.descend),
}


def make_block(columns, rows, seed, size):
    """Five parts [columns, rows] as both loops take them, and a symmetric matrix with a positive diagonal."""
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(columns, rows, generator=generator) * size for _ in range(2)]
    half = torch.rand(columns, rows, generator=generator) * size / 100 + 2.0**-25
    mixed = torch.randn(columns, columns, generator=generator)
    weights = mixed @ mixed.T / columns + torch.eye(columns)
    return parts[0], half, 1 / half, parts[1], weights


def as_feedback(columns, rows, seed, size):
    wanted, half, finer, _, weights = make_block(columns, rows, seed, size)
    return (wanted, half, finer, torch.empty_like(half), torch.empty_like(half)), weights


def as_descent(columns, rows, seed, size):
    slope, half, reach, _, weights = make_block(columns, rows, seed, size)
    codes = torch.randint(0, 512, (columns, rows), generator=torch.Generator().manual_seed(seed))
    return (LANDINGS[codes], slope, reach, half, torch.empty_like(half)), weights


MAKE = {"feed_back": as_feedback, "descend": as_descent}


def run_compiled(name, block, weights):
    BOTH[name][1](*(part.numpy() for part in (*block, weights, LANDINGS)))


def outcome(block):
    return [part.clone() for part in block]


def literal_feedback(block, factor):
    """As the docstring says, one number after the other."""
    wanted, half, finer, places, errors = (part.numpy().copy() for part in block)
    factor, landings = factor.numpy(), LANDINGS.numpy()
    columns, rows = wanted.shape
    for row in range(rows):
        for column in range(columns):
            place = finer[column, row] * wanted[column, row] + np.float32(256)
            places[column, row] = landings[int(np.clip(place, 0, 511))]
            miss = wanted[column, row] - (places[column, row] - np.float32(256)) * half[column, row]
            errors[column, row] = miss * (np.float32(1) / factor[column, column])
            for later in range(column + 1, columns):
                wanted[later, row] -= factor[column, later] * errors[column, row]
    return wanted, half, finer, places, errors


def literal_descent(block, moment):
    places, slope, reach, half, moved = (part.numpy().copy() for part in block)
    moment, landings = moment.numpy(), LANDINGS.numpy()
    columns, rows = places.shape
    for row in range(rows):
        for column in range(columns):
            place = slope[column, row] * reach[column, row] + places[column, row]
            best = landings[int(np.clip(place, 0, 511))]
            moved[column, row] = (best - places[column, row]) * half[column, row]
            places[column, row] = best
            for later in range(column + 1, columns):
                slope[later, row] -= moment[column, later] * moved[column, row]
    return places, slope, reach, half, moved


@pytest.mark.parametrize("name", BOTH)
@given(
    columns=st.integers(1, 64),
    rows=st.integers(1, 300),
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([1e-30, 1e-6, 0.02, 1.0, 1e6, 1e25]),
)
@settings(max_examples=60, deadline=None)
def test_compiled_gives_the_bits_of_plain(name, columns, rows, seed, size):
    plain, weights = MAKE[name](columns, rows, seed, size)
    fast = outcome(plain)
    BOTH[name][0](plain, weights, LANDINGS)
    run_compiled(name, fast, weights)
    assert all(compiled.same_bytes(one, other) for one, other in zip(plain, fast, strict=True))


@pytest.mark.parametrize(("name", "literal"), [("feed_back", literal_feedback), ("descend", literal_descent)])
def test_both_do_what_is_written(name, literal):
    block, weights = MAKE[name](9, 5, 7, 0.02)
    expected = literal(block, weights)
    BOTH[name][0](block, weights, LANDINGS)
    for found, wanted in zip(block, expected, strict=True):
        assert found.numpy().tobytes() == wanted.tobytes()
    assert len(block[3 if name == "feed_back" else 0].unique()) > 3


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_numbers_without_a_place_get_one_inside_the_table(name, value):
    plain, weights = MAKE[name](4, 130, 1, 0.02)
    plain[0 if name == "feed_back" else 1][1, 129] = value
    fast = outcome(plain)
    BOTH[name][0](plain, weights, LANDINGS)
    run_compiled(name, fast, weights)
    places = 3 if name == "feed_back" else 0
    assert torch.equal(plain[places], fast[places])
    assert set(plain[places].flatten().tolist()) <= set(LANDINGS.tolist())


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("way", ["right", "wrong", "broken"])
def test_what_gives_other_bits_or_none_is_not_used(monkeypatch, name, way):
    calls = []
    real = BOTH[name][1]

    def loop(*arrays):
        calls.append(arrays[0].shape[1])
        if way == "broken":
            raise RuntimeError
        real(*arrays)
        if way == "wrong":
            arrays[4][0, 0] += 1

    monkeypatch.setattr(compiled, "_agreed", {})
    monkeypatch.setattr(compress_columns, "_passed", 0)
    monkeypatch.setattr(compress_columns, "WORTHWHILE", 2 * 8 * 100)
    monkeypatch.setattr(compress_columns_fast, name, loop)
    for _ in range(4):
        block, weights = MAKE[name](8, 100, 3, 0.02)
        expected = outcome(block)
        BOTH[name][0](expected, weights, LANDINGS)
        getattr(compress_columns, name)(block, weights, LANDINGS)
        assert all(compiled.same_bytes(one, other) for one, other in zip(block, expected, strict=True))
    # Twice it does not pay; then a sample of 64 rows decides.
    assert calls == ([64, 100, 100] if way == "right" else [64])
