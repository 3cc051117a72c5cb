"""The draw of resamples is what ``random.Random(seed).random()`` gives, however it is computed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ucaudit.core.errors import InputError
from ucaudit.core.stats.resampling import resample_blocks


def as_defined(n: int, seed: int, resamples: int) -> list[int]:
    """Steps 1 and 2 of the specification."""
    stream = random.Random(seed)
    return [int(stream.random() * n) for _ in range(n * resamples)]


@given(st.integers(2, 700), st.integers(0, 2**70), st.integers(1, 400))
def test_indexes_are_those_of_the_definition(n: int, seed: int, resamples: int) -> None:
    blocks = list(resample_blocks(n, seed, resamples))
    assert all(len(block) % n == 0 for block in blocks)
    assert [index for block in blocks for index in block] == as_defined(n, seed, resamples)


@pytest.mark.parametrize(("n", "resamples"), [(256, 300), (257, 300), (65_536, 3), (65_537, 3), (600_000, 1)])
def test_where_the_type_changes_and_where_bits_carry(n: int, resamples: int) -> None:
    # With n = 600,000 some 2,700 draws depend on the second of their two words.
    found = [index for block in resample_blocks(n, 9, resamples) for index in block]
    assert found == as_defined(n, 9, resamples)


def test_a_draw_that_the_second_word_decides() -> None:
    class Words(random.Random):
        """One draw: a = 0x5555_5540 and the upper 26 bits of b, so that u·3 lies beside 1."""

        def getrandbits(self, count: int) -> int:
            assert count == 64
            return 0x5555_5540 | self.b << 38

    from ucaudit.core.stats.resampling import _Draw

    draw, stream = _Draw(3, 1), Words()
    exact = (2**53 + 2) // 3  # the least numerator of u with u·3 >= 1
    assert exact >> 26 == 0x5555_5540 >> 5
    for stream.b, index in ((0, 0), ((exact & (2**26 - 1)) - 1, 0), (exact & (2**26 - 1), 1), (2**26 - 1, 1)):
        assert list(draw.indexes(stream)) == [index]


def test_more_than_is_kept_is_drawn_again() -> None:
    n, resamples = 1_000, 8_500
    first, second = resample_blocks(n, 3, resamples), resample_blocks(n, 3, resamples)
    assert not isinstance(first, tuple)
    assert next(iter(first)) == next(iter(second))


def test_too_many_units_are_refused() -> None:
    with pytest.raises(InputError, match="33554432 units are too many"):
        resample_blocks(1 << 25, 0, 1)
