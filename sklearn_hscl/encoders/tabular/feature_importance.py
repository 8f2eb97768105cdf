"""How much the columns of a table tell of the classes, by random forests."""

from typing import Any

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Tables of fewer columns gain nothing. More classes take forests long.
MIN_COLUMNS, MAX_CLASSES = 16, 64
# Forests learn from at most this many rows, and numbers; not from fewer than MIN_ROWS
# for the sake of the latter.
MAX_ROWS, MAX_NUMBERS, MIN_ROWS = 4096, 2**22, 1000
N_TREES, MIN_SAMPLES_LEAF = 50, 5
# Relative to the mean importance: what even a useless column counts, what it counts in
# addition where there are few rows to tell it from a useful one, and the most that any
# column gets.
FLOOR, FLOOR_ROWS, LARGEST = 0.25, 250, 10.0
MOST_KNOWN = 64  # forests that are remembered
_known: dict[str, NDArray[np.float64]] = {}


def feature_importance(
    rows: Any, codes: Tensor, folds: Tensor | None, n_members: int, seed: int
) -> Tensor | None:
    """Return weights of the columns for each member of an ensemble.

    A column's weight is the importance that a random forest gives it (the mean decrease
    of Gini impurity), added to a floor, so that none is lost. A network treats all columns
    alike at first; where few of many tell the classes apart, it learns the rest by heart.
    A member's forest does not see the rows that the member does not. Weights are 1 in the
    mean, but where some were larger than the largest allowed; all are 1 for members with
    fewer than five rows a class.

    Parameters
    ----------
    rows : Tensor of shape (n, F), or rows that are stored elsewhere
        Training rows: numbers, and category codes; NaN where missing.
    codes : Tensor of int, shape (n,)
        Class codes, -1 for no label.
    folds : Tensor of int, shape (n,), or None
        The member that does not see a row; None if all see all rows.
    n_members : int
        Members M.
    seed : int
        Seed of the forests.

    Returns
    -------
    Tensor of shape (M, F), or None
        None for tables of fewer than 16 columns and for more than 64 classes.
    """
    labelled = (codes >= 0).nonzero()[:, 0]
    n_classes = len(codes[labelled].unique())
    if rows.shape[1] < MIN_COLUMNS or not 2 <= n_classes <= MAX_CLASSES:
        return None
    chosen = labelled[_some(len(labelled), rows.shape[1], seed).to(labelled.device)]
    X = _ranks(rows[chosen].cpu()).numpy()
    y = codes[chosen].cpu().numpy()
    if folds is None:
        weights = [_weights(X, y, len(labelled), seed)] * n_members
    else:
        unseen_by = folds[chosen].cpu().numpy()
        weights = [
            _weights(X[unseen_by != m], y[unseen_by != m], len(labelled), seed)
            for m in range(n_members)
        ]
    return torch.from_numpy(np.stack(weights)).float()


def _some(n_rows: int, n_columns: int, seed: int) -> Tensor:
    """Draw the indices of as many rows as forests learn from."""
    most = max(MIN_ROWS, min(MAX_ROWS, MAX_NUMBERS // n_columns))
    order = np.random.default_rng(seed).permutation(n_rows)
    return torch.from_numpy(np.sort(order[:most]))


def _ranks(rows: Tensor) -> Tensor:
    """Replace the values of each column by their places in its order; NaN stays NaN.

    Forests go by the order alone, but see float32, and hold near values for equal.
    """
    ordered, places = rows.sort(0)
    is_new = torch.ones(rows.shape)
    is_new[1:] = ordered[1:] != ordered[:-1]
    ranks = torch.empty(rows.shape).scatter_(0, places, is_new.cumsum(0))
    return ranks.masked_fill(rows.isnan(), torch.nan)


def _weights(
    X: NDArray[np.float32], y: NDArray[np.int64], n_rows: int, seed: int
) -> NDArray[np.float64]:
    """Return the weight of each column, by the importance it has for a forest."""
    n_classes = len(np.unique(y))
    if n_classes < 2 or len(y) < MIN_SAMPLES_LEAF * n_classes:
        return np.ones(X.shape[1])
    importance = _importance(X, y, seed)
    if not importance.any():
        return np.ones(X.shape[1])
    floor = FLOOR + FLOOR_ROWS / n_rows
    weights = (floor + importance / importance.mean()) / (floor + 1)
    return np.minimum(weights, LARGEST)


def _importance(
    X: NDArray[np.float32], y: NDArray[np.int64], seed: int
) -> NDArray[np.float64]:
    """Return the importances of the columns, (F,), of sum 1 or all 0.

    Forests of the last tables are remembered, as the candidates of a search are many on
    the same rows.
    """
    key = joblib.hash((X, y, seed))
    importance = _known.get(key)
    if importance is None:
        # Not at the top, as most imports of the package never grow a forest.
        from sklearn.ensemble import RandomForestClassifier

        forest = RandomForestClassifier(
            N_TREES, min_samples_leaf=MIN_SAMPLES_LEAF, random_state=seed
        )
        importance = forest.fit(X, y).feature_importances_
        if len(_known) >= MOST_KNOWN:
            _known.clear()
        _known[key] = importance
    return importance
