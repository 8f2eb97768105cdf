"""Feature importances: how much each column of a table says about the classes."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_hscl.encoders.tabular.forests import (
    SHALLOW,
    Forest,
    GrownForests,
    kept_nodes,
)

MIN_COLUMNS = 16  # narrower tables gain nothing from the weights
# Relative to the mean importance: the weight of a useless column, the addition to it that
# grows as rows get fewer, and the largest weight of any column.
_FLOOR, _FLOOR_ROWS, _MAX_WEIGHT = 0.25, 250, 10.0


def feature_importance(grown: GrownForests) -> Tensor:
    """Return the weight of each column for each member of an ensemble.

    The weight is the column's importance in a random forest (mean decrease of Gini
    impurity) plus a floor, so that no column is lost. A network starts with equal weights.
    If few of many columns are informative, it overfits the others. A member's forest
    excludes the rows held out from that member. The mean weight is 1, unless the largest
    ones were clipped. All weights are 1 for members with fewer than five rows per class.

    Parameters
    ----------
    grown : GrownForests
        A forest for each member.

    Returns
    -------
    Tensor of shape (M, F)
    """
    importances = np.stack(
        [_importance(forest, grown.n_columns) for forest in grown.forests]
    )
    if grown.see_all:
        importances[:] = importances.mean(0)
    weights = [_weights(importance, grown.n_labelled) for importance in importances]
    return torch.from_numpy(np.stack(weights)).float()


def _importance(forest: Forest | None, n_columns: int) -> NDArray[np.float64]:
    """Return the importances of the columns, (F,), whose sum is 1, or all 0."""
    by_tree = [
        _decrease_of_impurity(estimator.tree_, n_columns)
        for estimator in (forest.estimators if forest is not None else ())
    ]
    total = np.sum([tree / tree.sum() for tree in by_tree if tree.any()], axis=0)
    return total / np.sum(total) if by_tree and np.any(total) else np.zeros(n_columns)


def _decrease_of_impurity(tree: Any, n_columns: int) -> NDArray[np.float64]:
    """Return the decrease of impurity by the splits on each column, (F,)."""
    order, is_leaf, _ = kept_nodes(tree, SHALLOW)
    inner = order[~is_leaf]
    impurity = tree.weighted_n_node_samples * tree.impurity
    left, right = tree.children_left[inner], tree.children_right[inner]
    decrease = impurity[inner] - impurity[left] - impurity[right]
    return np.bincount(tree.feature[inner], decrease, n_columns).astype(np.float64)


def _weights(importance: NDArray[np.float64], n_rows: int) -> NDArray[np.float64]:
    """Return the weight of each column, (F,)."""
    if not importance.any():
        return np.ones(len(importance))
    floor = _FLOOR + _FLOOR_ROWS / n_rows
    weights = (floor + importance / importance.mean()) / (floor + 1)
    return np.minimum(weights, _MAX_WEIGHT)
