"""Student's t against tables and closed forms; SciPy is asked in tests/oracle."""

from __future__ import annotations

import math

import pytest

from ucaudit.core.errors import InputError
from ucaudit.core.stats import normal_quantile, t_cdf, t_quantile


@pytest.mark.parametrize(
    ("df", "p", "expected"),
    [  # 40-digit arithmetic (mpmath), rounded
        (1, 0.975, 12.706204736174706),
        (9, 0.975, 2.262157162798205),
        (29, 0.975, 2.045229642132703),
        (29, 0.95, 1.6991270265334977),
        (49, 0.975, 2.009575237129241),
        (199, 0.975, 1.9719565442517546),
        (1e6, 0.975, 1.9599663568141069),
    ],
)
def test_table(df: float, p: float, expected: float) -> None:
    assert math.isclose(t_quantile(p, df), expected, rel_tol=1e-13)


@pytest.mark.parametrize("p", [1e-6, 0.01, 0.049, 0.051, 0.3, 0.5, 0.7, 0.96, 1 - 1e-6])
def test_closed_forms_for_one_and_two_degrees(p: float) -> None:
    tail = min(p, 1 - p)  # exact; the tangent near π is not
    cauchy = math.copysign(1 / math.tan(math.pi * tail), p - 0.5) if p != 0.5 else 0.0
    two = (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    assert math.isclose(t_quantile(p, 1), cauchy, rel_tol=1e-12, abs_tol=1e-15)
    assert math.isclose(t_quantile(p, 2), two, rel_tol=1e-12, abs_tol=1e-15)


def test_cdf_at_the_ends_and_the_centre() -> None:
    assert t_cdf(0.0, 7) == 0.5
    assert t_cdf(math.inf, 7) == 1.0
    assert t_cdf(-math.inf, 7) == 0.0
    assert math.isclose(t_cdf(1.0, 1), 0.75, rel_tol=1e-14)


def test_far_tail_keeps_its_digits() -> None:
    # For one degree of freedom P(T < -1e9) = atan(1e-9)/pi.
    assert math.isclose(t_cdf(-1e9, 1), math.atan(1e-9) / math.pi, rel_tol=1e-13)


@pytest.mark.parametrize(("p", "df"), [(0.0, 5), (1.0, 5), (-0.1, 5), (math.nan, 5), (0.9, 0), (0.9, math.inf)])
def test_out_of_range(p: float, df: float) -> None:
    with pytest.raises(InputError):
        t_quantile(p, df)


def test_normal_quantile_out_of_range() -> None:
    assert math.isclose(normal_quantile(0.975), 1.959963984540054, rel_tol=1e-14)
    with pytest.raises(InputError, match="between 0 and 1"):
        normal_quantile(1.0)
