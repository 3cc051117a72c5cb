"""Statistics from per-token values: estimates, intervals and the decision rule, in pure Python."""

from ucaudit.core.stats.bootstrap import RESAMPLES, bootstrap_t_interval
from ucaudit.core.stats.distributions import normal_quantile, t_cdf, t_quantile
from ucaudit.core.stats.estimates import (
    UNBOUNDED,
    Interval,
    agreement_interval,
    design_effect,
    mean,
    percentile,
    standard_deviation,
    t_interval,
    wilson_interval,
)
from ucaudit.core.stats.floor import (
    MINIMUM_SEEDS,
    AttemptResult,
    FloorVerdict,
    Improvement,
    holm,
    improvement,
    judge_floor,
)
from ucaudit.core.stats.floor_power import Decisive, arm_level, decisive, prediction_half_width
from ucaudit.core.stats.sample import Sample, Values, as_sample
from ucaudit.core.stats.tolerance import numerical_tolerance
from ucaudit.core.stats.vendor import VendorComparison, compare_vendor_point, place_published
from ucaudit.core.stats.verdict import (
    MINIMUM_WINDOWS,
    Judgement,
    judge_at_most,
    minimum_detectable_drift,
    windows_to_decide,
)

__all__ = [
    "MINIMUM_SEEDS",
    "MINIMUM_WINDOWS",
    "RESAMPLES",
    "UNBOUNDED",
    "AttemptResult",
    "Decisive",
    "FloorVerdict",
    "Improvement",
    "Interval",
    "Judgement",
    "Sample",
    "Values",
    "VendorComparison",
    "agreement_interval",
    "arm_level",
    "as_sample",
    "bootstrap_t_interval",
    "compare_vendor_point",
    "decisive",
    "design_effect",
    "holm",
    "improvement",
    "judge_at_most",
    "judge_floor",
    "mean",
    "minimum_detectable_drift",
    "normal_quantile",
    "numerical_tolerance",
    "percentile",
    "place_published",
    "prediction_half_width",
    "standard_deviation",
    "t_cdf",
    "t_interval",
    "t_quantile",
    "wilson_interval",
    "windows_to_decide",
]
