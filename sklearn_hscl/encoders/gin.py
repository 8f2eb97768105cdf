"""A graph isomorphism network: sums over neighbors, and sums over the nodes of a graph."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol, Self, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from sklearn_hscl.augment.graph_rows import Graphs
from sklearn_hscl.encoders.options import EncoderConfig, IndexableRows, StoredEncoder
from sklearn_hscl.runtime.random_state import Dropout


class GINEncoder(nn.Module):
    """Graph isomorphism network, with the sums of all layers as embedding.

    In each layer, a node gets the sum of its own features and those of its neighbors,
    which a perceptron (Linear, BatchNorm, ReLU, Linear, BatchNorm, ReLU) maps to its
    new features. The embedding of a graph joins the sums over its nodes of all layers,
    each scaled by BatchNorm. Graphs of a batch are not padded.

    Parameters
    ----------
    scale : Tensor of shape (n_features,)
        Node features are divided by it.
    hidden_layer_sizes : sequence of int, default=(32, 32, 32)
        Width of each layer; the values of the papers.
    n_components : int or None, default=None
        Width of the embedding, by a linear map of the sums. None: no map, and the sum of
        the widths.
    dropout : float in [0, 1), default=0.0
        Fraction of the hidden units of nodes that are dropped in each training step.

    References
    ----------
    Xu, Hu, Leskovec, Jegelka, "How Powerful are Graph Neural Networks?", ICLR 2019,
    arXiv 1810.00826, equations 4.1 (with epsilon = 0) and 4.2.

    Examples
    --------
    >>> import torch
    >>> from sklearn_hscl.augment import Graphs
    >>> from sklearn_hscl.encoders import GINEncoder
    >>> pairs = torch.tensor([[0, 1, 3], [1, 2, 4]])
    >>> graphs = Graphs.of_pairs(torch.rand(5, 7), pairs, torch.tensor([3, 2]))
    >>> GINEncoder(torch.ones(7))(graphs).shape
    torch.Size([2, 96])
    """

    reads_graphs = True
    scale: Tensor

    def __init__(
        self,
        scale: Tensor,
        *,
        hidden_layer_sizes: Sequence[int] = (32, 32, 32),
        n_components: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.dropout = dropout
        widths = [len(scale), *hidden_layer_sizes]
        self.layers = nn.ModuleList(
            _perceptron(n_in, n_out, dropout) for n_in, n_out in pairwise(widths)
        )
        n_sums = sum(hidden_layer_sizes)
        self.norm = nn.BatchNorm1d(n_sums)
        self.last = None if n_components is None else nn.Linear(n_sums, n_components)

    def forward(self, graphs: Graphs) -> Tensor:
        """Map B graphs to embeddings (B, n_components)."""
        h = graphs.nodes / self.scale  # (n_nodes, F)
        neighbors, starts = graphs.neighbors
        sums = []
        for layer in self.layers:
            h = layer(h + _NeighborSum.apply(h, neighbors, starts))
            sums.append(graphs.sum_of_nodes(h))
        joint = self.norm(torch.cat(sums, 1))
        return joint if self.last is None else cast(Tensor, self.last(joint))

    def get_config(self) -> EncoderConfig:
        """Return the arguments that the encoder was built with."""
        linears = (cast(nn.Sequential, layer)[0] for layer in self.layers)
        return {
            "hidden_layer_sizes": [linear.out_features for linear in linears],
            "n_components": None if self.last is None else self.last.out_features,
            "dropout": self.dropout,
        }

    @classmethod
    def from_config(cls, config: EncoderConfig, stored: StoredEncoder) -> Self:
        """Build the encoder of a config, whose weights are loaded later."""
        return cls(stored.tensors["scale"], **config)


def scale_of_features(rows: IndexableRows) -> Tensor:
    """Return the scale of the node features of training graphs, (n_features,).

    It is the root mean square, but 1 for columns that hold only 0 and 1.
    """
    if not isinstance(rows, Graphs):
        raise ValueError(
            f"Expected rows to be graphs for encoder='gin', got rows of shape "
            f"{tuple(rows.shape[1:])}. Use encoder='auto'."
        )
    nodes = rows.nodes.cpu().double()
    is_binary = ((nodes == 0) | (nodes == 1)).all(0)
    return torch.where(is_binary, 1.0, nodes.square().mean(0).sqrt()).float()


def _perceptron(n_in: int, n_out: int, dropout: float) -> nn.Module:
    return nn.Sequential(
        nn.Linear(n_in, n_out),
        nn.BatchNorm1d(n_out),
        nn.ReLU(),
        Dropout(dropout) if dropout else nn.Identity(),
        nn.Linear(n_out, n_out),
        nn.BatchNorm1d(n_out),
        nn.ReLU(),
    )


class _Context(Protocol):
    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _NeighborSum(torch.autograd.Function):
    """Sum of the features of neighbors, which is its own adjoint, as edges go both ways."""

    @staticmethod
    def forward(ctx: _Context, h: Tensor, neighbors: Tensor, starts: Tensor) -> Tensor:
        ctx.save_for_backward(neighbors, starts)
        return embedding_bag(neighbors, h, starts, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None, None]:
        neighbors, starts = ctx.saved_tensors
        return (
            embedding_bag(neighbors, gradient.contiguous(), starts, mode="sum"),
            None,
            None,
        )
