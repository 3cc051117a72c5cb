"""Spot checks without torch: the draw, its chance, and how values are compared."""

from __future__ import annotations

import hashlib
import math
import random
import re
from array import array
from dataclasses import replace

import pytest
from bundles import make_values

from ucaudit.core.errors import InputError
from ucaudit.evidence.spots import SpotDraw, chance_to_find, compare_values, describe_chance, select

ENVELOPE = "ab" * 32
FP32 = 1e-5


def test_the_draw_as_the_docs_describe_it():
    draw = SpotDraw.make(ENVELOPE, "00FF")
    challenge = hashlib.sha256(bytes.fromhex(ENVELOPE) + b"\x00\xff").hexdigest()
    assert (draw.nonce, draw.given, draw.challenge) == ("00ff", True, challenge)
    windows = tuple(range(3, 300, 7))
    ranked = sorted(windows, key=lambda w: hashlib.sha256(f"{challenge}\nwindow\n{w}".encode()).digest())
    assert draw.pick("window", windows, 5) == tuple(sorted(ranked[:5]))
    assert draw.pick("tensor", windows, 5) != draw.pick("window", windows, 5)
    assert draw.pick("window", windows, 1000) == windows


def test_a_nonce_is_new_each_time_and_moves_the_draw():
    one, other = SpotDraw.make(ENVELOPE, None), SpotDraw.make(ENVELOPE, None)
    assert not one.given and len(one.nonce) == 64 and one.nonce != other.nonce
    assert one.pick("window", range(1000), 20) != other.pick("window", range(1000), 20)
    assert SpotDraw.make(ENVELOPE, one.nonce).pick("window", range(1000), 20) == one.pick("window", range(1000), 20)
    assert SpotDraw.make("cd" * 32, one.nonce).pick("window", range(1000), 20) != one.pick(
        "window", range(1000), 20
    )


@pytest.mark.parametrize("nonce", ["", "abc", "zz", "0x00", "00 ff", "00" * 65, "٠٠"])
def test_what_is_no_nonce(nonce):
    with pytest.raises(InputError, match="not a nonce"):
        SpotDraw.make(ENVELOPE, nonce)


@pytest.mark.parametrize(("total", "drawn", "false"), [(30, 5, 1), (30, 5, 3), (12, 12, 1), (7, 1, 2), (9, 4, 9)])
def test_the_printed_chance_is_how_often_draws_find_it(total, drawn, false):
    chance = chance_to_find(total, drawn, false)
    rounds = 2000
    found = 0
    for number in range(rounds):
        draw = SpotDraw.make(ENVELOPE, f"{number:04x}")
        found += any(item < false for item in draw.pick("window", range(total), drawn))
    assert abs(found / rounds - chance) < 4 * math.sqrt(max(chance * (1 - chance), 1e-9) / rounds) + 1e-12


def test_the_chance_in_words():
    assert "25.0%" in describe_chance(20, 5, "line")
    assert describe_chance(20, 20, "line") == "all of them, so a single false line would have shown"


def scored(values):
    return values.n * values.tokens


def test_equal_values_agree_to_the_bit():
    values = make_values()
    found = compare_values(values, values, tolerance=0.0, scored=scored(values))
    assert found.equal and found.largest == 0 and not found.problems


def test_last_digits_are_within_the_tolerance_and_not_equal():
    values = make_values(n=30, tokens=64)
    noise = random.Random(3)
    moved = replace(values, pack=array("f", (v + noise.gauss(0, 2e-6) for v in values.pack)))
    found = compare_values(values, moved, tolerance=FP32, scored=scored(values))
    assert not found.equal and 0 < found.largest < 1e-4 and not found.problems
    assert compare_values(values, moved, tolerance=0.0, scored=scored(values)).problems


def test_bf16_noise_is_within_its_tolerance():
    values = make_values(n=40, tokens=128)
    noise = random.Random(4)
    columns = {
        name: array("f", (v + noise.gauss(0, 0.065) for v in getattr(values, name)))
        for name in ("reference", "pack")
    }
    tolerance = 3 * 0.065 / math.sqrt(scored(values))
    part = values.windows[5:12]
    found = compare_values(
        select(values, part), select(replace(values, **columns), part), tolerance=tolerance, scored=scored(values)
    )
    assert not found.problems


def better(values):
    pack = array("f", values.pack)
    for token in range(values.tokens):
        pack[2 * values.tokens + token] += 0.004
    return replace(values, pack=pack)


def shuffled(values):
    reference = array("f", values.reference)
    reference[: values.tokens] = array("f", reversed(reference[: values.tokens]))
    return replace(values, reference=reference)


def one_token(values):
    pack = array("f", values.pack)
    pack[5 * values.tokens + 1] += 0.5
    return replace(values, pack=pack)


def divergence(values):
    return replace(values, kl=array("f", (v * 0.5 for v in values.kl)))


def agreement(values):
    return replace(values, top1=array("B", [1] * len(values.top1)))


def not_a_number(values):
    return replace(values, kl=array("f", [math.nan, *values.kl[1:]]))


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        (better, r"window \d+: mean pack's log-probability"),
        (shuffled, "reference's log-probability"),
        (one_token, "pack's log-probability"),
        (divergence, "kl divergence"),
        (agreement, "top-1 agreement"),
        (not_a_number, "kl divergence"),
    ],
)
def test_lies_are_found(lie, says):
    values = make_values(n=40, tokens=64)
    found = compare_values(values, lie(values), tolerance=FP32, scored=scored(values))
    assert any(re.search(says, problem) for problem in found.problems), found.problems


def test_small_lies_of_one_sign_add_up():
    """Each window is within its own tolerance; all together are not."""
    values = make_values(n=40, tokens=64)
    size = 3 * FP32  # a window may differ by FP32 · √40
    moved = replace(values, pack=array("f", (v + size for v in values.pack)))
    found = compare_values(values, moved, tolerance=FP32, scored=scored(values))
    assert found.problems and all("40 windows together" in problem for problem in found.problems)


def test_select_takes_whole_windows():
    values = replace(make_values(n=10, tokens=4), documents=tuple(range(10)))
    part = select(values, (values.windows[2], values.windows[7]))
    assert part.windows == (values.windows[2], values.windows[7]) and part.documents == (2, 7)
    assert list(part.kl) == [*values.kl[8:12], *values.kl[28:32]]
    assert list(part.top1) == [*values.top1[8:12], *values.top1[28:32]]
