"""Random forests of the members of an ensemble: their growth, and their pruned trees."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_hscl.encoders.options import IndexableRows
from sklearn_hscl.encoders.tabular.column_statistics import clip_to_range

# With more classes, forests take too long.
_MAX_CLASSES = 64
# A forest learns from at most _MAX_ROWS rows and _MAX_VALUES values. The second limit
# never leaves fewer than _MIN_ROWS rows.
_MAX_ROWS, _MAX_VALUES, _MIN_ROWS = 4096, 2**22, 1000
# Trees of all members. Leaves have more samples than their pruning asks for where classes
# are many, so that all of them together hold at most _MAX_LEAF_VALUES probabilities.
_N_TREES, _MAX_LEAF_VALUES = 100, 2**21
# Fewer rows of each class say too little.
_MIN_ROWS_PER_CLASS = 5


class Pruning(NamedTuple):
    """Limits that make a leaf of a node."""

    max_depth: int
    min_samples_leaf: int
    """Samples in a leaf, without those that bagging draws twice."""


# Trees are grown without regard to noise. Most tables need only the first splits, some all.
SHALLOW, DEEP = PRUNINGS = Pruning(12, 3), Pruning(40, 1)


# Growth ------------------------------------------------------------------------------


class _DrawnRows(NamedTuple):
    """Labelled rows that forests learn from."""

    values: Tensor
    """Numbers and category codes, (n, F)."""
    codes: NDArray[np.int64]
    """Class codes, (n,)."""
    classes: NDArray[np.int64]
    """The codes of all labelled rows, also of those that were not drawn, ascending."""
    seen: list[NDArray[np.bool_]]
    """The rows that each member learns from, (n,)."""
    n_labelled: int
    """Number of labelled rows that these were drawn from."""

    @classmethod
    def draw(
        cls,
        rows: IndexableRows,
        codes: Tensor,
        folds: Tensor | None,
        n_members: int,
        seed: int,
    ) -> Self | None:
        """Draw labelled rows of at least two classes, and of at most 64; None for others.

        The parameters are those of :func:`grow_forests`.
        """
        labelled = (codes >= 0).nonzero()[:, 0]
        classes = codes[labelled].unique().cpu().numpy()
        if not 2 <= len(classes) <= _MAX_CLASSES:
            return None
        sample = _sample_indices(len(labelled), rows.shape[1], seed)
        sampled = labelled[sample.to(labelled.device)]
        values = rows[sampled].cpu()
        y = codes[sampled].cpu().numpy()
        seen = [np.ones(len(y), dtype=bool)] * n_members
        if folds is not None:
            held_out_from = folds[sampled].cpu().numpy()
            seen = [held_out_from != member for member in range(n_members)]
        return cls(values, y, classes, seen, len(labelled))


def _sample_indices(n_rows: int, n_columns: int, seed: int) -> Tensor:
    """Draw the indices of the rows that the forests learn from."""
    n_sampled = max(_MIN_ROWS, min(_MAX_ROWS, _MAX_VALUES // n_columns))
    order = np.random.default_rng(seed).permutation(n_rows)
    return torch.from_numpy(np.sort(order[:n_sampled]))


def _dense_ranks(rows: Tensor) -> NDArray[np.float32]:
    """Replace the values of each column by their dense ranks; NaN stays NaN.

    Forests depend on the order alone, but they read float32, which merges close values.
    """
    ordered, indices = rows.sort(0)
    is_new = torch.ones(rows.shape)
    is_new[1:] = ordered[1:] != ordered[:-1]
    ranks = torch.empty(rows.shape).scatter_(0, indices, is_new.cumsum(0))
    found: NDArray[np.float32] = ranks.masked_fill(rows.isnan(), torch.nan).numpy()
    return found


def _values_by_rank(rows: Tensor, ranks: NDArray[np.float32]) -> Tensor:
    """Return the value of each rank of each column, (R, F).

    Missing values have rank 0, below all others.
    """
    rows, lowest = clip_to_range(rows), torch.finfo(rows.dtype).min
    by_rank = rows.new_full((int(ranks.max()) + 1, rows.shape[1]), lowest)
    return by_rank.scatter_(0, torch.from_numpy(ranks).long(), rows.nan_to_num(lowest))


@dataclass(frozen=True)
class Forest:
    """A forest of scikit-learn, and the values behind the ranks that it was grown on."""

    estimators: list[Any]
    classes: NDArray[np.int64]
    """The classes of its rows, ascending."""
    by_rank: Tensor
    """Value of each rank of each column, (R, F)."""

    @classmethod
    def grow(
        cls,
        values: Tensor,
        codes: NDArray[np.int64],
        n_classes: int,
        settings: dict[str, Any],
    ) -> Self | None:
        """Grow a forest on rows (n, F); None for fewer than five a class."""
        from sklearn.ensemble import RandomForestClassifier  # most imports never grow one

        if len(codes) < _MIN_ROWS_PER_CLASS * n_classes:
            return None
        ranks = np.nan_to_num(_dense_ranks(values))  # missing values before all others
        forest = RandomForestClassifier(**settings).fit(ranks, codes)
        return cls(forest.estimators_, forest.classes_, _values_by_rank(values, ranks))


@dataclass(frozen=True)
class GrownForests:
    """A random forest for each member of an ensemble, grown on ranks of the values."""

    forests: list[Forest | None]
    """None for members that see too few rows."""
    n_classes: int
    n_columns: int
    n_labelled: int
    """Number of labelled rows that the forests' rows were drawn from."""
    see_all: bool
    """Whether all members see all rows."""


def grow_forests(
    rows: IndexableRows, codes: Tensor, folds: Tensor | None, n_members: int, seed: int
) -> GrownForests | None:
    """Grow a random forest for each member of an ensemble.

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
    GrownForests or None
        None for one class, and for more than 64.
    """
    drawn = _DrawnRows.draw(rows, codes, folds, n_members, seed)
    if drawn is None:
        return None
    n_trees = max(1, _N_TREES // n_members)
    n_classes, n_rows = len(drawn.classes), len(drawn.codes)
    n_leaf_values = n_trees * n_members * n_rows * n_classes
    settings = {
        "n_estimators": n_trees,
        "max_depth": DEEP.max_depth,
        "min_samples_leaf": max(DEEP.min_samples_leaf, n_leaf_values // _MAX_LEAF_VALUES),
    }
    y = np.searchsorted(drawn.classes, drawn.codes)
    forests = [
        Forest.grow(
            drawn.values[torch.from_numpy(seen)],
            y[seen],
            n_classes,
            {**settings, "random_state": (seed + member) % 2**32},
        )
        for member, seen in enumerate(drawn.seen)
    ]
    return GrownForests(forests, n_classes, rows.shape[1], drawn.n_labelled, folds is None)


# Pruning -----------------------------------------------------------------------------


class KeptNodes(NamedTuple):
    """Nodes of a pruned tree, ordered by depth, so that siblings are adjacent."""

    order: NDArray[np.int64]
    """Their indices in the tree of scikit-learn."""
    is_leaf: NDArray[np.bool_]
    depth: int


def kept_nodes(tree: Any, pruning: Pruning) -> KeptNodes:
    """Return the nodes that pruning leaves of a tree of scikit-learn."""
    left, right = tree.children_left, tree.children_right
    smaller = np.minimum(tree.n_node_samples[left], tree.n_node_samples[right])
    is_leaf = (left < 0) | (smaller < pruning.min_samples_leaf)
    levels = [np.zeros(1, dtype=np.int64)]
    while (inner := levels[-1][~is_leaf[levels[-1]]]).size:
        if len(levels) > pruning.max_depth:
            is_leaf[inner] = True
            break
        levels.append(np.stack([left[inner], right[inner]], 1).ravel())
    order = np.concatenate(levels)
    return KeptNodes(order, is_leaf[order], len(levels) - 1)
