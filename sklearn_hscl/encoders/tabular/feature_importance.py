"""Feature importances: how much each column of a table says about the classes."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_hscl.encoders.options import IndexableRows
from sklearn_hscl.encoders.tabular.forests import DrawnRows, dense_ranks

_MIN_COLUMNS = 16  # narrower tables gain nothing from the weights
_N_TREES, _MIN_SAMPLES_LEAF = 50, 5
# Relative to the mean importance: the weight of a useless column, the addition to it that
# grows as rows get fewer, and the largest weight of any column.
_FLOOR, _FLOOR_ROWS, _MAX_WEIGHT = 0.25, 250, 10.0


def feature_importance(
    rows: IndexableRows, codes: Tensor, folds: Tensor | None, n_members: int, seed: int
) -> Tensor | None:
    """Return the weight of each column for each member of an ensemble.

    The weight is the column's importance in a random forest (mean decrease of Gini
    impurity) plus a floor, so that no column is lost. A network starts with equal weights.
    If few of many columns are informative, it overfits the others. A member's forest
    excludes the rows held out from that member. The mean weight is 1, unless the largest
    ones were clipped. All weights are 1 for members with fewer than five rows per class.

    The result depends on the arguments alone, and nothing is cached between calls.

    Parameters
    ----------
    rows : Tensor of shape (n, F), or rows that are read by index
        Training rows: numbers and category codes, NaN for missing values.
    codes : Tensor of int, shape (n,)
        Class codes, -1 for unlabelled rows.
    folds : Tensor of int, shape (n,), or None
        Index of the member from which each row is held out; None if there is no hold-out.
    n_members : int
        Number of members M.
    seed : int
        Seed of the forests.

    Returns
    -------
    Tensor of shape (M, F), or None
        None for tables of fewer than 16 columns and for more than 64 classes.
    """
    if rows.shape[1] < _MIN_COLUMNS:
        return None
    drawn = DrawnRows.draw(rows, codes, folds, n_members, seed)
    if drawn is None:
        return None
    ranks = dense_ranks(drawn.values)
    if folds is None:
        weights = [_column_weights(ranks, drawn.codes, drawn.n_labelled, seed)]
        weights *= n_members
    else:
        weights = [
            _column_weights(ranks[m], drawn.codes[m], drawn.n_labelled, seed)
            for m in drawn.seen
        ]
    return torch.from_numpy(np.stack(weights)).float()


def _column_weights(
    X: NDArray[np.float32], y: NDArray[np.int64], n_rows: int, seed: int
) -> NDArray[np.float64]:
    """Return the weight of each column, (F,), from its importance in one forest."""
    n_classes = len(np.unique(y))
    if n_classes < 2 or len(y) < _MIN_SAMPLES_LEAF * n_classes:
        return np.ones(X.shape[1])
    importance = _forest_importance(X, y, seed)
    if not importance.any():
        return np.ones(X.shape[1])
    floor = _FLOOR + _FLOOR_ROWS / n_rows
    weights = (floor + importance / importance.mean()) / (floor + 1)
    return np.minimum(weights, _MAX_WEIGHT)


def _forest_importance(
    X: NDArray[np.float32], y: NDArray[np.int64], seed: int
) -> NDArray[np.float64]:
    """Return the importances of the columns, (F,), whose sum is 1, or all 0."""
    # Imported here, since most imports of the package never grow a forest.
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(
        _N_TREES, min_samples_leaf=_MIN_SAMPLES_LEAF, random_state=seed
    )
    importances: NDArray[np.float64] = forest.fit(X, y).feature_importances_
    return importances
