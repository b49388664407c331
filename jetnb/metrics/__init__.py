"""How good is a classifier, and how does it grow with data: every number with its interval.

Intervals are central and at 68.27 % (one standard deviation) unless `level` says otherwise; lower
bounds, where no background passes, are at 95 %. Results are small tuples that print as text. Jets
are not weighted.
"""

from jetnb.metrics.classification import (
    Calibration,
    Roc,
    WorkingPoint,
    accuracy,
    auc,
    calibrate,
    rejection,
    roc,
    significance_improvement,
)
from jetnb.metrics.estimates import (
    LEVEL,
    Estimate,
    bootstrap,
    efficiency,
    half_width,
    mean,
    within,
)
from jetnb.metrics.laws import ScalingLaw, fit_scaling_law, worth_of
from jetnb.metrics.ranking import RankTest, rank_test
from jetnb.metrics.scaling import PowerLaw, Worth, epochs_until, fit_power_law, measure_worth
from jetnb.metrics.sidebands import Sideband, closure, sideband

__all__ = [
    "LEVEL",
    "Calibration",
    "Estimate",
    "PowerLaw",
    "RankTest",
    "Roc",
    "ScalingLaw",
    "Sideband",
    "WorkingPoint",
    "Worth",
    "accuracy",
    "auc",
    "bootstrap",
    "calibrate",
    "closure",
    "efficiency",
    "epochs_until",
    "fit_power_law",
    "fit_scaling_law",
    "half_width",
    "mean",
    "measure_worth",
    "rank_test",
    "rejection",
    "roc",
    "sideband",
    "significance_improvement",
    "within",
    "worth_of",
]
