"""Class scores of random forests, as a network returns them."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklearn_hscl.encoders.tabular.column_statistics import clip_to_range
from sklearn_hscl.encoders.tabular.forests import (
    Forest,
    GrownForests,
    KeptNodes,
    Pruning,
    kept_nodes,
)

_MIN_LABELLED = 40  # fewer rows say too little
_MIN_PROBABILITY = 1 / 200


def score_forests(grown: GrownForests, pruning: Pruning) -> "ForestScores | None":
    """Return the scores of pruned forests.

    Parameters
    ----------
    grown : GrownForests
        A forest for each member.
    pruning : Pruning
        Limits of their trees.

    Returns
    -------
    ForestScores or None
        None for fewer than 40 rows, or a member without a forest.
    """
    forests = [forest for forest in grown.forests if forest is not None]
    if len(forests) < len(grown.forests) or grown.n_labelled < _MIN_LABELLED:
        return None
    trees = [
        _Tree.of(
            estimator.tree_, kept_nodes(estimator.tree_, pruning), forest, grown.n_classes
        )
        for forest in forests
        for estimator in forest.estimators
    ]
    return ForestScores.of(trees, len(forests))


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


@dataclass(frozen=True)
class _Tree:
    """A decision tree whose nodes are ordered by depth."""

    feature: NDArray[np.int64]
    threshold: Tensor
    left: NDArray[np.int64]
    leaf: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    """Of the leaves, (L, C)."""
    depth: int

    @classmethod
    def of(
        cls,
        tree: Any,
        kept: KeptNodes,
        forest: Forest,
        n_classes: int,
    ) -> Self:
        """Read a tree of scikit-learn."""
        order, is_leaf, depth = kept
        values = forest.by_rank
        position = np.zeros(tree.node_count, dtype=np.int64)
        position[order] = np.arange(len(order))
        feature = np.where(is_leaf, 0, tree.feature[order])
        left = np.where(is_leaf, np.arange(len(order)), position[tree.children_left[order]])
        probabilities = np.zeros((is_leaf.sum(), n_classes))
        probabilities[:, forest.classes] = tree.value[order[is_leaf], 0]
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
            depth=depth,
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
