"""Comparing an audit with a vendor's published point ratio, which has an error of its own.

The vendor measured on n_v windows of unknown identity and rounded; only the protocol can be repeated, not the draw.
So the right yardstick is a prediction interval for the vendor's own result, not a confidence interval alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ucaudit.core.errors import InputError
from ucaudit.core.stats.distributions import t_quantile
from ucaudit.core.stats.estimates import one_sided_alpha
from ucaudit.core.stats.sample import Values, as_sample, require_two

Agreement = Literal["better", "consistent", "worse", "cannot tell", "not comparable"]


@dataclass(frozen=True, slots=True)
class VendorComparison:
    """Where a published ratio falls.

    Attributes:
        outcome: of the measured pack against the claim; ``worse`` means the vendor's figure is too good.
        reason: one clause.
        lower, upper: the ratios that the vendor's protocol would report, given what was measured here; None where
            nothing is comparable.
    """

    outcome: Agreement
    reason: str
    lower: float | None
    upper: float | None


def compare_vendor_point(
    values: Values,
    claimed: float,
    *,
    decimals: int,
    vendor_windows: int,
    confidence: float,
    mismatch: str | None = None,
) -> VendorComparison:
    """Compare windows' ln-ratio differences with a vendor's ratio.

    The prediction interval for the vendor's ln ratio is mean ± t(n − 1)·s·√(1/n + 1/n_v), widened by half a unit of
    the last published decimal. A claim outside it is refuted one way or the other. If the interval is wider than
    the whole drift that the vendor claims, a claim inside it says nothing, and the answer is "cannot tell".

    Args:
        values: d_i, nats, one a window, or a sample of units.
        claimed: the published ratio.
        decimals: digits after its decimal point.
        vendor_windows: n_v, at least 1; assume the same window length.
        confidence: two-sided.
        mismatch: what differs between the two protocols (corpus, sequence length), if anything does: the corpus
            moves the ratio more than the noise does.

    Raises:
        InputError: fewer than two windows, or a claim that is no ratio.
    """
    if not (claimed > 0.0 and math.isfinite(claimed)) or vendor_windows < 1 or decimals < 0:
        raise InputError("a published ratio is above 0, of at least one window, with 0 or more decimals")
    if mismatch is not None:
        return VendorComparison("not comparable", mismatch, None, None)
    sample = as_sample(values)
    require_two(sample)
    both = math.sqrt(1 / sample.windows + 1 / vendor_windows)
    half = t_quantile(1 - one_sided_alpha(confidence), sample.df) * sample.deviation * both
    return place_published(sample.mean, half, claimed, decimals=decimals)


def place_published(centre: float, half: float, claimed: float, *, decimals: int) -> VendorComparison:
    """Where a published ratio falls, given what its protocol would report: ln ratio ``centre`` ± ``half``.

    Args:
        centre, half: of a prediction interval, nats.
        claimed: the published ratio.
        decimals: digits after its decimal point; the interval is widened by half a unit of the last.
    """
    rounding = 0.5 * 10.0**-decimals
    lower, upper = math.exp(max(centre - half, -700.0)), math.exp(min(centre + half, 700.0))
    lower, upper = lower - rounding, upper + rounding
    if claimed < lower:
        return VendorComparison(
            "worse", "the published ratio lies below all that its protocol would give", lower, upper
        )
    if claimed > upper:
        return VendorComparison(
            "better", "the published ratio lies above all that its protocol would give", lower, upper
        )
    if upper - lower > abs(claimed - 1.0):
        return VendorComparison(
            "cannot tell", "the interval is wider than the whole drift that is claimed", lower, upper
        )
    return VendorComparison("consistent", "the published ratio lies inside the prediction interval", lower, upper)
