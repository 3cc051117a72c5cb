"""The pieces of the arithmetic, and the guard against hardware that does other arithmetic."""

from fractions import Fraction

import pytest
import torch
import ucq_oracle as oracle

from ucaudit.core.errors import DeviceUnavailableError, MalformedPackError
from ucaudit.packs.codecs import ucq_math
from ucaudit.packs.codecs.rounding import round_to_bf16

CPU = torch.device("cpu")


def test_the_known_answers_are_exact():
    for m, product, row, column, expected in ucq_math._PROBES:
        first = oracle.float32(Fraction(product) * Fraction(row))
        total = oracle.float32(Fraction(m) + oracle.float32(first * Fraction(column)))
        assert oracle.bf16_pattern(oracle.rounded(total, 8), total < 0) == expected
        for value in (m, product, row, column):
            assert oracle.float32(Fraction(value)) == Fraction(value)


def test_a_fused_multiply_add_would_be_noticed():
    m, product, row, column, expected = map(Fraction, ucq_math._PROBES[0])
    fused = oracle.float32(m + oracle.float32(product * row) * column)
    assert oracle.bf16_pattern(oracle.rounded(fused, 8), fused < 0) != expected


@pytest.mark.parametrize("wrong", ["flush", "fused"])
def test_a_device_with_other_arithmetic_is_refused(monkeypatch, wrong):
    def flush(values, correction, rows, cols):
        total = values + correction * rows * cols
        return torch.where(total.abs() < 2.0**-126, torch.zeros_like(total), total)

    def fused(values, correction, rows, cols):
        return (values.double() + (correction * rows).double() * cols.double()).float()

    monkeypatch.setattr(ucq_math, "_probed", set())
    monkeypatch.setattr(ucq_math, "_add_correction", {"flush": flush, "fused": fused}[wrong])
    with pytest.raises(DeviceUnavailableError, match="not IEEE"):
        ucq_math.require_ieee(CPU)
    monkeypatch.undo()
    ucq_math.require_ieee(CPU)


def test_rounding_to_bf16_on_every_kind_of_pattern():
    words = [
        0,
        1,
        0x7FFF,
        0x8000,
        0x8001,
        0x18000,
        0x17FFF,
        0x3F808000,
        0x3F818000,
        0x3F808001,
        0x7F7F7FFF,
        0x007FFFFF,
    ]
    words += [word | 0x80000000 for word in words]
    values = torch.tensor([word - (1 << 32 if word >= 1 << 31 else 0) for word in words], dtype=torch.int32)
    found = round_to_bf16(values.view(torch.float32)).view(torch.int16)
    for word, pattern in zip(words, found.tolist(), strict=True):
        exact = Fraction(float(torch.tensor([word & 0x7FFFFFFF], dtype=torch.int32).view(torch.float32)))
        assert pattern & 0xFFFF == oracle.bf16_pattern(oracle.rounded(exact, 8), False) | (word >> 31 << 15)


@pytest.mark.parametrize("word", [0x7F7F8000, 0x7F7FFFFF, 0x7F800000, 0x7FC00000, 0x7FFFFFFF])
@pytest.mark.parametrize("sign", [0, -(1 << 31)])
def test_what_has_no_finite_bf16_is_refused(word, sign):
    values = torch.tensor([0, word + sign], dtype=torch.int32).view(torch.float32)
    with pytest.raises(MalformedPackError, match="too large"):
        round_to_bf16(values)


def test_zeros_of_the_integer_product_have_no_sign():
    overlay = ucq_math.Overlay(
        torch.tensor([[-1.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0]]), torch.tensor([[1.0, 0.0]])
    )
    found = ucq_math.add_overlay(torch.tensor([[-0.0, -0.0]]), overlay)
    assert found.view(torch.int32).tolist() == [[0, -(1 << 31)]]
