import hashlib

from hypothesis import given
from hypothesis import strategies as st

from ucaudit.core.windows import draw

digests = st.binary(max_size=20).map(lambda data: hashlib.sha256(data).hexdigest())
seeds = st.integers(-(2**63), 2**63 - 1)


@given(st.integers(1, 300), st.data(), seeds, digests)
def test_a_draw_is_without_replacement_sorted_and_repeatable(total, data, seed, digest):
    n = data.draw(st.integers(1, total))
    drawn = draw(total, n, seed, digest)
    assert len(drawn) == len(set(drawn)) == n
    assert list(drawn) == sorted(drawn)
    assert drawn[0] >= 0
    assert drawn[-1] < total
    assert draw(total, n, seed, digest) == drawn


@given(st.integers(2, 200), st.data(), seeds, digests)
def test_a_larger_draw_contains_the_smaller(total, data, seed, digest):
    n = data.draw(st.integers(1, total - 1))
    assert set(draw(total, n, seed, digest)) < set(draw(total, n + 1, seed, digest))


@given(st.integers(2, 200), st.data(), seeds, digests)
def test_a_longer_text_only_displaces(total, data, seed, digest):
    """Windows that a longer text's draw takes from the common part are drawn from the shorter text as well."""
    n = data.draw(st.integers(1, total))
    longer = draw(total + 7, n, seed, digest)
    assert {index for index in longer if index < total} <= set(draw(total, n, seed, digest))


@given(st.integers(1, 200), st.data(), seeds, digests)
def test_the_drawn_windows_have_the_smallest_digests(total, data, seed, digest):
    n = data.draw(st.integers(1, total))
    drawn = set(draw(total, n, seed, digest))
    rank = [hashlib.sha256(b"%d\n%s\n%d" % (seed, digest.encode(), index)).digest() for index in range(total)]
    left = [rank[index] for index in range(total) if index not in drawn]
    assert not left or max(rank[index] for index in drawn) < min(left)
