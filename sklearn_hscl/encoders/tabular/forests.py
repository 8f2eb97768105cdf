"""Random forests of an ensemble's members, and class scores that a network can return."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklearn_hscl.encoders.options import IndexableRows
from sklearn_hscl.encoders.tabular.column_statistics import clip_to_range

# With more classes, forests take too long.
_MAX_CLASSES = 64
# A forest learns from at most _MAX_ROWS rows and _MAX_VALUES values. The second limit
# never leaves fewer than _MIN_ROWS rows.
_MAX_ROWS, _MAX_VALUES, _MIN_ROWS = 4096, 2**22, 1000
# Trees of all members, their depth, and samples in a leaf: more where classes are many, so
# that all leaves together hold at most _MAX_LEAF_VALUES probabilities.
_N_TREES, _MAX_DEPTH, _MIN_SAMPLES_LEAF, _MAX_LEAF_VALUES = 100, 12, 3, 2**20
# Fewer rows, or fewer rows a class, say too little.
_MIN_LABELED, _MIN_ROWS_PER_CLASS = 40, 5
_MIN_PROBABILITY = 1 / 200


# Growth ------------------------------------------------------------------------------


class DrawnRows(NamedTuple):
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


def dense_ranks(rows: Tensor) -> NDArray[np.float32]:
    """Replace the values of each column by their dense ranks; NaN stays NaN.

    Forests depend on the order alone, but they read float32, which merges close values.
    """
    ordered, indices = rows.sort(0)
    is_new = torch.ones(rows.shape)
    is_new[1:] = ordered[1:] != ordered[:-1]
    ranks = torch.empty(rows.shape).scatter_(0, indices, is_new.cumsum(0))
    found: NDArray[np.float32] = ranks.masked_fill(rows.isnan(), torch.nan).numpy()
    return found


def grow_forests(
    rows: IndexableRows, codes: Tensor, folds: Tensor | None, n_members: int, seed: int
) -> "ForestScores | None":
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
    ForestScores or None
        None for more than 64 classes, fewer than 40 rows, and members that see fewer
        than five rows a class.
    """
    from sklearn.ensemble import RandomForestClassifier  # most imports never grow one

    drawn = DrawnRows.draw(rows, codes, folds, n_members, seed)
    if drawn is None:
        return None
    n_classes, y = len(drawn.classes), np.searchsorted(drawn.classes, drawn.codes)
    fewest = min(int(seen.sum()) for seen in drawn.seen)
    if fewest < _MIN_ROWS_PER_CLASS * n_classes or len(y) < _MIN_LABELED:
        return None
    n_trees = max(1, _N_TREES // n_members)
    n_leaf_values = n_trees * n_members * len(y) * n_classes
    trees = []
    for member, seen in enumerate(drawn.seen):
        values = drawn.values[torch.from_numpy(seen)]
        ranks = np.nan_to_num(dense_ranks(values))  # missing values before all others
        forest = RandomForestClassifier(
            n_trees,
            max_depth=_MAX_DEPTH,
            min_samples_leaf=max(_MIN_SAMPLES_LEAF, n_leaf_values // _MAX_LEAF_VALUES),
            random_state=(seed + member) % 2**32,
        ).fit(ranks, y[seen])
        by_rank = _values_by_rank(values, ranks)
        trees += [
            _Tree.of(estimator.tree_, forest.classes_, by_rank, n_classes)
            for estimator in forest.estimators_
        ]
    return ForestScores.of(trees, n_members)


# Scores ------------------------------------------------------------------------------


class ForestScores(nn.Module):
    """Centred log probabilities of classes, averaged over the forests of the members.

    Nodes of all trees are numbered in one sequence. A node's left child, for values up to
    its threshold and missing ones, is followed by the right one. A leaf is its own child.

    Parameters
    ----------
    nodes : mapping of str to Tensor
        For each of N nodes its column ``"feature"``, ``"threshold"``, ``"left"`` child and
        row of the probabilities ``"leaf"``; for each tree its ``"root"``; and
        ``"probabilities"`` of shape (L, C).
    n_members : int
        Number of forests M, of equally many trees.
    depth : int
        Depth of the deepest tree.
    """

    feature: Tensor
    threshold: Tensor
    left: Tensor
    leaf: Tensor
    root: Tensor
    probabilities: Tensor

    def __init__(self, nodes: dict[str, Tensor], n_members: int, depth: int) -> None:
        super().__init__()
        for name, tensor in nodes.items():
            self.register_buffer(name, tensor)
        self.n_members, self.depth = n_members, depth

    @classmethod
    def of(cls, trees: "list[_Tree]", n_members: int) -> Self:
        """Join the trees of all members, one member after the other."""
        first_node = np.cumsum([0] + [len(tree.left) for tree in trees[:-1]])
        first_leaf = np.cumsum([0] + [len(tree.probabilities) for tree in trees[:-1]])
        placed = list(zip(trees, first_node, first_leaf, strict=True))
        nodes = {
            "feature": np.concatenate([tree.feature for tree in trees]),
            "left": np.concatenate([tree.left + node for tree, node, _ in placed]),
            "leaf": np.concatenate([tree.leaf + leaf for tree, _, leaf in placed]),
            "root": first_node,
        }
        probabilities = np.concatenate([tree.probabilities for tree in trees])
        tensors = {n: torch.from_numpy(array).int() for n, array in nodes.items()}
        tensors["threshold"] = torch.cat([tree.threshold for tree in trees])
        dtype = tensors["threshold"].dtype
        tensors["probabilities"] = torch.from_numpy(probabilities).to(dtype)
        return cls(tensors, n_members, max(tree.depth for tree in trees))

    def copied(self, dtype: torch.dtype, device: torch.device) -> Self:
        """Return the same forests for rows of a type and on a device."""
        other = copy.copy(self)
        other._buffers = dict(self._buffers)  # `to` replaces them
        other = other.to(device, dtype)
        if dtype != self.threshold.dtype:
            is_leaf = other.left == torch.arange(len(other.left), device=device)
            largest = torch.finfo(dtype).max
            other.threshold = other.threshold.nan_to_num().masked_fill(is_leaf, largest)
        return other

    def get_config(self) -> dict[str, int]:
        """Return what the tensors do not say."""
        return {"n_members": self.n_members, "depth": self.depth}

    @classmethod
    def from_config(
        cls, config: Any, nodes: Mapping[str, Tensor], input_shape: tuple[int, ...]
    ) -> Self:
        """Build forests of stored tensors, whose indices are checked.

        Parameters
        ----------
        config : dict
            Result of :meth:`get_config`.
        nodes : mapping of str to Tensor
            The tensors of the state.
        input_shape : tuple of int
            Shape of a row.

        Raises
        ------
        ValueError
            If an index is out of bounds, or tensors are missing or of other shapes.
        """
        _check_nodes(nodes, prod(input_shape))
        n_trees = len(nodes["root"])
        if not _is_shape(config, n_trees):
            raise ValueError(f"the forests cannot have the shape {config!r:.80}")
        return cls(dict(nodes), **config)

    @property
    def n_classes(self) -> int:
        """Number of classes C."""
        return int(self.probabilities.shape[1])

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows (B, F) to scores (B, C)."""
        return self.by_member(rows).mean(1)

    def by_member(self, rows: Tensor) -> Tensor:
        """Map rows (B, F) to the scores of each member (B, M, C)."""
        n_rows, n_columns = rows.shape
        n_trees = len(self.root)  # of all members
        flat = clip_to_range(rows).reshape(-1)
        first = torch.arange(n_rows, device=rows.device) * n_columns
        first = first[:, None].expand(-1, n_trees).reshape(-1)  # (B * n_trees,)
        node = self.root.expand(n_rows, -1).reshape(-1)
        for _ in range(self.depth):
            value = flat.index_select(0, first + self.feature.index_select(0, node))
            is_right = value > self.threshold.index_select(0, node)
            node = self.left.index_select(0, node) + is_right
        leaf = self.leaf.index_select(0, node)
        by_tree = self.probabilities.index_select(0, leaf)  # (B * n_trees, C)
        by_member = by_tree.reshape(n_rows, self.n_members, -1, self.n_classes).mean(2)
        scores = by_member.clamp_min(_MIN_PROBABILITY).log()
        return scores - scores.mean(-1, keepdim=True)


class MemberScores(nn.Module):
    """Concatenated scores of a row by the forests of all members.

    Parameters
    ----------
    forests : ForestScores
        The forests.
    """

    def __init__(self, forests: ForestScores) -> None:
        super().__init__()
        self.forests = forests

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows (B, F) to (B, M * C)."""
        return self.forests.by_member(rows).flatten(1)


def _values_by_rank(rows: Tensor, ranks: NDArray[np.float32]) -> Tensor:
    """Return the value of each rank of each column, (R, F).

    Missing values have rank 0, below all others.
    """
    rows, lowest = clip_to_range(rows), torch.finfo(rows.dtype).min
    by_rank = rows.new_full((int(ranks.max()) + 1, rows.shape[1]), lowest)
    return by_rank.scatter_(0, torch.from_numpy(ranks).long(), rows.nan_to_num(lowest))


@dataclass(frozen=True)
class _Tree:
    """A decision tree whose nodes are ordered by depth, so that siblings are adjacent."""

    feature: NDArray[np.int64]
    threshold: Tensor
    left: NDArray[np.int64]
    leaf: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    """Of the leaves, (L, C)."""
    depth: int

    @classmethod
    def of(
        cls, tree: Any, classes: NDArray[np.int64], values: Tensor, n_classes: int
    ) -> Self:
        """Read a tree of scikit-learn that was fitted to ranks of these values."""
        levels = [np.zeros(1, dtype=np.int64)]
        while (inner := levels[-1][tree.children_left[levels[-1]] >= 0]).size:
            children = tree.children_left[inner], tree.children_right[inner]
            levels.append(np.stack(children, 1).ravel())
        order = np.concatenate(levels)
        position = order.argsort()
        is_leaf = tree.children_left[order] < 0
        feature = np.where(is_leaf, 0, tree.feature[order])
        left = np.where(is_leaf, np.arange(len(order)), position[tree.children_left[order]])
        probabilities = np.zeros((is_leaf.sum(), n_classes))
        probabilities[:, classes] = tree.value[order[is_leaf], 0]
        is_inner = torch.from_numpy(~is_leaf)
        threshold = values.new_full((len(order),), torch.finfo(values.dtype).max)
        ranks = torch.from_numpy(np.floor(tree.threshold[order])).long()
        columns = torch.from_numpy(feature)
        threshold[is_inner] = _between(values, columns[is_inner], ranks[is_inner])
        return cls(
            feature=feature,
            threshold=threshold,
            left=left,
            leaf=np.where(is_leaf, is_leaf.cumsum() - 1, 0),
            probabilities=probabilities,
            depth=len(levels) - 1,
        )


def _between(values: Tensor, columns: Tensor, ranks: Tensor) -> Tensor:
    """Return numbers between the values of some ranks and of the next."""
    low, high = values[ranks, columns], values[ranks + 1, columns]
    middle = low + (high - low) / 2
    return torch.where(middle < high, middle, low)


# Stored forests ----------------------------------------------------------------------


_MAX_STORED_DEPTH = 100


def _is_shape(config: object, n_trees: int) -> bool:
    """Return whether stored numbers of members and levels are valid."""
    if not isinstance(config, dict) or config.keys() != {"n_members", "depth"}:
        return False
    n_members, depth = config["n_members"], config["depth"]
    if type(n_members) is not int or type(depth) is not int:
        return False
    return (
        0 < n_members <= n_trees
        and n_trees % n_members == 0
        and 0 <= depth <= _MAX_STORED_DEPTH
    )


def _check_nodes(nodes: Mapping[str, Tensor], n_columns: int) -> None:
    """Check that stored nodes lead to no index out of bounds.

    Parameters
    ----------
    nodes : mapping of str to Tensor
        As in :class:`ForestScores`.
    n_columns : int
        Number of columns of the rows.

    Raises
    ------
    ValueError
        If an index is out of bounds, or tensors are missing or of other shapes.
    """
    floats = {"threshold": 1, "probabilities": 2}
    indices = ("feature", "left", "leaf", "root")
    if nodes.keys() != {*floats, *indices}:
        raise ValueError(f"the forests lack tensors, or have others: {[*nodes]!r:.80}")
    for name, n_axes in floats.items():
        is_empty = not nodes[name].numel()
        if is_empty or nodes[name].ndim != n_axes or not nodes[name].is_floating_point():
            raise ValueError(f"the numbers {name!r} of the forests are invalid")
    left, threshold = nodes["left"], nodes["threshold"]
    n_nodes = len(threshold)
    limits = (n_columns, n_nodes, len(nodes["probabilities"]), n_nodes)
    for name, limit in zip(indices, limits, strict=True):
        index = nodes[name]
        is_valid = index.dtype == torch.int32 and index.ndim == 1 and len(index) > 0
        is_valid = is_valid and (name == "root" or len(index) == n_nodes)
        if not is_valid or index.min() < 0 or index.max() >= limit:
            raise ValueError(f"the indices {name!r} of the forests are invalid")
    is_leaf = left == torch.arange(n_nodes)
    ends = threshold[is_leaf] == torch.finfo(threshold.dtype).max
    if not ends.all() or (left[~is_leaf] == n_nodes - 1).any():
        raise ValueError("the forests have nodes without a right child")
