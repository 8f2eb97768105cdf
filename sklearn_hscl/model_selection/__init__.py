"""Searches over the parameters of embedders that train candidates as one stack."""

from sklearn_hscl.model_selection.evaluator import Batched
from sklearn_hscl.model_selection.hardness_path import (
    HardnessPath,
    HardnessPathDisplay,
    hardness_path,
)
from sklearn_hscl.model_selection.search import (
    BatchedGridSearchCV,
    BatchedRandomizedSearchCV,
)

__all__ = [
    "Batched",
    "BatchedGridSearchCV",
    "BatchedRandomizedSearchCV",
    "HardnessPath",
    "HardnessPathDisplay",
    "hardness_path",
]
