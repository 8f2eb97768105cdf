"""The theory of the H-SCL paper, applied to an embedding and labels.

Estimates of the losses UCL, SCL, H-UCL and H-SCL, the fraction of anchors that satisfy
Assumption 1, and whether L_H-SCL <= L_H-UCL: along beta, or along training.
"""

from sklearn_hscl.theory.display import TheoryDisplay
from sklearn_hscl.theory.estimate import Interval, TheoryEstimate
from sklearn_hscl.theory.verification import (
    TheoryMonitor,
    verify_embedding,
    verify_estimator,
)

__all__ = [
    "Interval",
    "TheoryDisplay",
    "TheoryEstimate",
    "TheoryMonitor",
    "verify_embedding",
    "verify_estimator",
]
