"""Augmentations of graphs: the four of GraphCL, for all graphs of a batch at once."""

from numbers import Real
from typing import Self

import torch
from torch import Tensor

from sklearn_hscl.augment.base import Augmentation
from sklearn_hscl.augment.graph_rows import Graphs


class _GraphAugmentation(Augmentation):
    """Base class: a part of each graph, of about the fraction p, is changed."""

    def __init__(self, p: float = 0.2) -> None:
        self.p = p

    @property
    def is_identity(self) -> bool:
        """Whether every view is the graph itself."""
        return self.p == 0

    def fitted(self, rows: Tensor) -> Self:
        """Return the augmentation itself, which needs no data.

        Raises
        ------
        ValueError
            If p is not in [0, 1), or the rows are not graphs.
        """
        name = type(self).__name__
        if not (isinstance(self.p, Real) and 0 <= self.p < 1):
            raise ValueError(f"Expected {name} to get p in [0, 1), got {self.p!r}.")
        if not isinstance(rows, Graphs):
            raise ValueError(
                f"Expected {name} to get graphs, got rows of shape "
                f"{tuple(rows.shape[1:])}. Use FeatureCorruption for tables and "
                f"RandomShift for images."
            )
        return self

    def __call__(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return one random view of each graph."""
        graphs = rows
        assert isinstance(graphs, Graphs)  # as `fitted` has checked
        return self._view(graphs, generator)

    def _view(self, graphs: Graphs, generator: torch.Generator) -> Graphs:
        raise NotImplementedError


class NodeDropping(_GraphAugmentation):
    """Drop each node of a graph with probability p, together with its edges.

    Of each graph, at least one node is left.

    Parameters
    ----------
    p : float in [0, 1), default=0.2
        Probability that a node is dropped; the value of GraphCL.

    See Also
    --------
    Subgraph : Leaves a connected part.

    References
    ----------
    You, Chen, Sui, Chen, Wang, Shen, "Graph Contrastive Learning with Augmentations",
    NeurIPS 2020, arXiv 2010.13902.

    Examples
    --------
    >>> import torch
    >>> from sklearn_hscl.augment import Graphs, NodeDropping
    >>> pairs = torch.tensor([[0, 1, 2], [1, 2, 3]])  # a path of four nodes
    >>> path = Graphs.of_pairs(torch.eye(4), pairs, torch.tensor([4]))
    >>> drop = NodeDropping(p=0.5).fitted(path)
    >>> drop(path, torch.Generator().manual_seed(0)).shape
    torch.Size([1, -1, 4])
    """

    def _view(self, graphs: Graphs, generator: torch.Generator) -> Graphs:
        draws = _draws(len(graphs.nodes), generator)
        return graphs.take_nodes((draws >= self.p) | _is_highest(draws, graphs))


class EdgePerturbation(_GraphAugmentation):
    """Replace each edge of a graph with probability p by one between two random nodes.

    A new edge that falls on another one, or that joins a node with itself, is lost.

    Parameters
    ----------
    p : float in [0, 1), default=0.2
        Probability that an edge is replaced; the value of GraphCL.

    References
    ----------
    You, Chen, Sui, Chen, Wang, Shen, "Graph Contrastive Learning with Augmentations",
    NeurIPS 2020, arXiv 2010.13902.

    Examples
    --------
    >>> import torch
    >>> from sklearn_hscl.augment import EdgePerturbation, Graphs
    >>> pairs = torch.tensor([[0, 1, 2], [1, 2, 3]])  # a path of four nodes
    >>> path = Graphs.of_pairs(torch.eye(4), pairs, torch.tensor([4]))
    >>> perturb = EdgePerturbation(p=0.5).fitted(path)
    >>> len(perturb(path, torch.Generator().manual_seed(0)).nodes)
    4
    """

    def _view(self, graphs: Graphs, generator: torch.Generator) -> Graphs:
        pairs = graphs.pairs
        n_pairs = pairs.shape[1]
        is_replaced = _draws(n_pairs, generator) < self.p
        graph = graphs.graph_of_node[pairs[0]]
        counts = graphs.node_counts[graph]
        position = (_draws(2 * n_pairs, generator).view(2, -1) * counts).long()
        new = torch.minimum(position, counts - 1) + graphs.node_starts[graph]
        is_lost = is_replaced & (new[0] == new[1])
        pairs = torch.where(is_replaced, new, pairs)[:, ~is_lost]
        return Graphs.of_pairs(graphs.nodes, pairs, graphs.node_counts)


class Subgraph(_GraphAugmentation):
    """Leave a connected part of a graph: the fraction 1 - p of its nodes.

    The part grows from a random node. A random one of the edges that lead out of it adds
    the next node, until the part has its size or no such edge is left. GraphCL grows parts
    in the same manner.

    Parameters
    ----------
    p : float in [0, 1), default=0.2
        Fraction of the nodes that are left out; the value of GraphCL.

    See Also
    --------
    NodeDropping : Drops nodes anywhere.

    References
    ----------
    You, Chen, Sui, Chen, Wang, Shen, "Graph Contrastive Learning with Augmentations",
    NeurIPS 2020, arXiv 2010.13902.

    Examples
    --------
    >>> import torch
    >>> from sklearn_hscl.augment import Graphs, Subgraph
    >>> pairs = torch.tensor([[0, 1, 2], [1, 2, 3]])  # a path of four nodes
    >>> path = Graphs.of_pairs(torch.eye(4), pairs, torch.tensor([4]))
    >>> part = Subgraph(p=0.5).fitted(path)(path, torch.Generator().manual_seed(0))
    >>> len(part.nodes), part.pairs.shape[1]
    (2, 1)
    """

    def _view(self, graphs: Graphs, generator: torch.Generator) -> Graphs:
        times = _arrival_times(graphs, generator)
        wanted = ((1 - self.p) * graphs.node_counts).ceil()
        is_early = _ranks(times, graphs) < wanted[graphs.graph_of_node]
        return graphs.take_nodes(is_early & times.isfinite())


class AttributeMasking(_GraphAugmentation):
    """Replace the features of each node with probability p by their mean over its graph.

    Parameters
    ----------
    p : float in [0, 1), default=0.2
        Probability that the features of a node are replaced; the value of GraphCL.

    Notes
    -----
    Graphs without node features stay as they are, since all of their nodes have the same
    feature.

    References
    ----------
    You, Chen, Sui, Chen, Wang, Shen, "Graph Contrastive Learning with Augmentations",
    NeurIPS 2020, arXiv 2010.13902.

    Examples
    --------
    >>> import torch
    >>> from sklearn_hscl.augment import AttributeMasking, Graphs
    >>> pairs = torch.tensor([[0], [1]])
    >>> graph = Graphs.of_pairs(torch.eye(2), pairs, torch.tensor([2]))
    >>> mask = AttributeMasking(p=0.9).fitted(graph)
    >>> mask(graph, torch.Generator().manual_seed(0)).nodes
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000]])
    """

    def _view(self, graphs: Graphs, generator: torch.Generator) -> Graphs:
        is_masked = _draws(len(graphs.nodes), generator) < self.p
        means = graphs.sum_of_nodes(graphs.nodes) / graphs.node_counts[:, None]
        masked = means[graphs.graph_of_node]
        return graphs.with_nodes(torch.where(is_masked[:, None], masked, graphs.nodes))


def _draws(n_values: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n_values, generator=generator, device=generator.device)


def _is_highest(draws: Tensor, graphs: Graphs) -> Tensor:
    """Return whether the draw of a node is the highest in its graph, (n_nodes,)."""
    graph = graphs.graph_of_node
    highest = draws.new_zeros(len(graphs)).scatter_reduce(0, graph, draws, "amax")
    return draws == highest[graph]


def _arrival_times(graphs: Graphs, generator: torch.Generator) -> Tensor:
    """Return when growth from a random node of each graph reaches each node.

    Each edge takes an exponential time. These have no memory, so that the next node is
    always reached by a random one of the edges out of those reached before. Times are
    infinite where no path leads.
    """
    is_start = _is_highest(_draws(len(graphs.nodes), generator), graphs)
    source, target = graphs.joint_edges
    durations = -torch.log1p(-_draws(len(source), generator))
    times = torch.where(is_start, 0.0, torch.inf)
    while True:
        sooner = times.scatter_reduce(0, target, times[source] + durations, "amin")
        if torch.equal(sooner, times):
            return times
        times = sooner


def _ranks(times: Tensor, graphs: Graphs) -> Tensor:
    """Return the rank of each node in its graph, from 0."""
    by_time = times.argsort(stable=True)
    order = by_time[graphs.graph_of_node[by_time].argsort(stable=True)]
    first = graphs.node_starts[graphs.graph_of_node]
    return (
        torch.empty_like(order).scatter_(
            0, order, torch.arange(len(order), device=order.device)
        )
        - first
    )
