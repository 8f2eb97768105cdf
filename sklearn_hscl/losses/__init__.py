"""Contrastive losses for plain torch: one equation for the whole family.

The package does not depend on scikit-learn; :class:`ContrastiveLoss` takes embeddings
and labels and returns a scalar.
"""

from sklearn_hscl.losses.beta_schedules import (
    BetaSchedule,
    CosineBeta,
    LinearBeta,
    StepBeta,
    WarmUpBeta,
)
from sklearn_hscl.losses.contrastive import ContrastiveLoss
from sklearn_hscl.losses.equation import LossStats

__all__ = [
    "BetaSchedule",
    "ContrastiveLoss",
    "CosineBeta",
    "LinearBeta",
    "LossStats",
    "StepBeta",
    "WarmUpBeta",
]
