"""Searching the parameters of embedders, many candidates in one training run."""

from sklearn_hscl.model_selection.search import (
    BatchedGridSearchCV,
    BatchedRandomizedSearchCV,
)

__all__ = ["BatchedGridSearchCV", "BatchedRandomizedSearchCV"]
