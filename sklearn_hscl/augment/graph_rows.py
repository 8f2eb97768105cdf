"""Graphs of any sizes as flat tensors: samples, batches and views have this one form."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Index = Tensor | NDArray[np.integer] | NDArray[np.bool_] | slice
UNKNOWN_SIZE = -1
"""The number of nodes in the shape of a graph, as graphs differ in it."""


@dataclass(frozen=True)
class Graphs:
    """Graphs without padding: the nodes and the edges of all of them, one after the other.

    Graphs are indexed, split and joined as a tensor of rows is. Edges have no direction:
    the edge between a and b is held as (a, b) and as (b, a), once each.

    Parameters
    ----------
    nodes : Tensor of shape (n_nodes, n_features)
        Features of the nodes of all graphs.
    edges : Tensor of int64, shape (2, n_edges)
        Indices of nodes, which count from the first node of their graph. Edges are in the
        order of the graphs, and in each by their second node.
    node_counts, edge_counts : Tensor of int64, shape (n_graphs,)
        Number of nodes, at least 1, and of columns of `edges`, of each graph.

    Examples
    --------
    >>> import torch
    >>> from sklearn_hscl.augment import Graphs
    >>> pairs = torch.tensor([[0, 3], [1, 4]])  # counted in all nodes
    >>> graphs = Graphs.of_pairs(torch.ones(5, 1), pairs, torch.tensor([3, 2]))
    >>> len(graphs), graphs[1:].edges.tolist()
    (2, [[1, 0], [0, 1]])
    """

    nodes: Tensor
    edges: Tensor
    node_counts: Tensor
    edge_counts: Tensor

    @classmethod
    def of_pairs(cls, nodes: Tensor, pairs: Tensor, node_counts: Tensor) -> Self:
        """Return graphs with edges between pairs of nodes, in any order and direction.

        Parameters
        ----------
        nodes : Tensor of shape (n_nodes, n_features)
            Features of the nodes of all graphs.
        pairs : Tensor of int64, shape (2, n_pairs)
            Indices into all nodes; both nodes of a pair are in the same graph.
        node_counts : Tensor of int64, shape (n_graphs,)
            Number of nodes of each graph.

        Returns
        -------
        Graphs
            A pair that is there several times, or in both directions, is one edge.
        """
        n_nodes = len(nodes)
        source, target = torch.cat([pairs, pairs.flip(0)], 1)
        keys = (target * n_nodes + source).unique()  # in ascending order
        target, source = keys // n_nodes, keys % n_nodes
        graph = _repeated(node_counts)[target]  # (n_edges,)
        starts = _starts(node_counts)[graph]
        edges = torch.stack([source - starts, target - starts])
        return cls(nodes, edges, node_counts, graph.bincount(minlength=len(node_counts)))

    # As a tensor of rows ------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.node_counts)

    @property
    def shape(self) -> torch.Size:
        """Shape (n_graphs, -1, n_features), as graphs differ in their number of nodes."""
        return torch.Size((len(self), UNKNOWN_SIZE, self.nodes.shape[1]))

    @property
    def ndim(self) -> int:
        """Number of axes of the shape."""
        return 3

    @property
    def dtype(self) -> torch.dtype:
        """Type of the features."""
        return self.nodes.dtype

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self.nodes.device

    def is_floating_point(self) -> bool:
        """Return True: features are floats."""
        return True

    def __getitem__(self, index: Index) -> Self:
        """Return some of the graphs."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return self._between(start, max(start, stop))
            index = torch.arange(start, stop, step)
        index = torch.as_tensor(index, device=self.device)
        if index.dtype == torch.bool:
            index = index.nonzero()[:, 0]
        return self.index_select(0, index)

    def index_select(self, dim: int, index: Tensor) -> Self:
        """Return the graphs at these indices (B,); `dim` is 0."""
        node_counts, edge_counts = self.node_counts[index], self.edge_counts[index]
        nodes = _ranges(self.node_starts[index], node_counts)
        edges = _ranges(_starts(self.edge_counts)[index], edge_counts)
        return replace(
            self,
            nodes=self.nodes.index_select(0, nodes),
            edges=self.edges.index_select(1, edges),
            node_counts=node_counts,
            edge_counts=edge_counts,
        )

    def _between(self, start: int, stop: int) -> Self:
        """Return consecutive graphs, whose tensors are views."""
        nodes, edges = (
            slice(int(counts[:start].sum()), int(counts[:stop].sum()))
            for counts in (self.node_counts, self.edge_counts)
        )
        some = slice(start, stop)
        return replace(
            self,
            nodes=self.nodes[nodes],
            edges=self.edges[:, edges],
            node_counts=self.node_counts[some],
            edge_counts=self.edge_counts[some],
        )

    def split(self, sizes: int | Sequence[int]) -> list[Self]:
        """Return parts of these sizes, or of this size and a rest."""
        if isinstance(sizes, int):
            ends = [*range(sizes, len(self), sizes), len(self)]
        else:
            ends = np.cumsum(sizes).tolist()
        starts = [0, *ends[:-1]]
        return [self._between(*ends) for ends in zip(starts, ends, strict=True)]

    def tensor_split(self, n_parts: int) -> list[Self]:
        """Return parts of nearly equal numbers of graphs."""
        sizes = [len(part) for part in np.array_split(np.arange(len(self)), n_parts)]
        return self.split(sizes)

    def to(self, *target: torch.device | torch.dtype, non_blocking: bool = False) -> Self:
        """Return the graphs on a device, or with features of a type."""
        dtypes = [part for part in target if isinstance(part, torch.dtype)]
        devices = [part for part in target if not isinstance(part, torch.dtype)]
        parts = {
            f.name: getattr(self, f.name).to(*devices, non_blocking=non_blocking)
            for f in fields(self)
        }
        return replace(self, **parts | {"nodes": parts["nodes"].to(*dtypes)})

    def cpu(self) -> Self:
        """Return the graphs in host memory."""
        return self.to(torch.device("cpu"))

    def float(self) -> Self:
        """Return the graphs with features in float32."""
        return self.to(torch.float32)

    def clone(self) -> Self:
        """Return a copy."""
        return replace(
            self, **{f.name: getattr(self, f.name).clone() for f in fields(self)}
        )

    def is_pinned(self) -> bool:
        """Return whether the tensors are in pinned memory."""
        return self.nodes.is_pinned()

    def pin_memory(self) -> Self:
        """Return the graphs in pinned memory."""
        pinned = {f.name: getattr(self, f.name).pin_memory() for f in fields(self)}
        return replace(self, **pinned)

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Join graphs."""
        axes = {"edges": 1}
        joined = {
            f.name: torch.cat(
                [getattr(part, f.name) for part in parts], axes.get(f.name, 0)
            )
            for f in fields(cls)
        }
        return cls(**joined)

    # As one graph without connection between its parts ------------------------------------

    @cached_property
    def node_starts(self) -> Tensor:
        """Index of the first node of each graph, (n_graphs,)."""
        return _starts(self.node_counts)

    @cached_property
    def graph_of_node(self) -> Tensor:
        """Index of the graph of each node, (n_nodes,)."""
        return _repeated(self.node_counts)

    @cached_property
    def joint_edges(self) -> Tensor:
        """Edges (2, n_edges) as indices into all nodes, by their second node."""
        starts = self.node_starts.repeat_interleave(self.edge_counts)
        return self.edges + starts

    @cached_property
    def neighbors(self) -> tuple[Tensor, Tensor]:
        """Neighbors of all nodes, (n_edges,), and where those of each start, (n_nodes,)."""
        source, target = self.joint_edges
        return source, _starts(target.bincount(minlength=len(self.nodes)))

    @cached_property
    def pairs(self) -> Tensor:
        """Each edge once, (2, n_pairs), as indices into all nodes."""
        edges = self.joint_edges
        return edges[:, edges[0] <= edges[1]]

    def sum_of_nodes(self, values: Tensor) -> Tensor:
        """Add up values of the nodes (n_nodes, F) of each graph: (n_graphs, F)."""
        sums = values.new_zeros(len(self), values.shape[1])
        return sums.index_add_(0, self.graph_of_node, values)

    def with_nodes(self, nodes: Tensor) -> Self:
        """Return the graphs with other features of the nodes, (n_nodes, F)."""
        return replace(self, nodes=nodes)

    def take_nodes(self, is_kept: Tensor) -> Self:
        """Return the graphs of some nodes (n_nodes,), with the edges between them.

        Each graph keeps at least one node.
        """
        counts = torch.zeros_like(self.node_counts)
        counts.index_add_(0, self.graph_of_node, is_kept.to(counts.dtype))
        number = is_kept.cumsum(0) - 1  # the index of a node among those that are kept
        edges = self.joint_edges
        has_both = is_kept[edges].all(0)
        graph = self.graph_of_node[edges[1, has_both]]
        local = number[edges[:, has_both]] - _starts(counts)[graph]
        edge_counts = graph.bincount(minlength=len(self))
        return replace(
            self,
            nodes=self.nodes[is_kept],
            edges=local,
            node_counts=counts,
            edge_counts=edge_counts,
        )


def join_rows(parts: Sequence[Tensor]) -> Tensor:
    """Join tensors of rows, or graphs, one after the other."""
    first = parts[0]
    return first.cat(parts) if isinstance(first, Graphs) else torch.cat(list(parts))


def _starts(counts: Tensor) -> Tensor:
    return counts.cumsum(0) - counts


def _repeated(counts: Tensor) -> Tensor:
    """Return each index as often as it counts."""
    return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)


def _ranges(starts: Tensor, counts: Tensor) -> Tensor:
    """Return start, start + 1, ... of each range, one after the other."""
    shifts = (starts - _starts(counts)).repeat_interleave(counts)
    return torch.arange(len(shifts), device=starts.device) + shifts
