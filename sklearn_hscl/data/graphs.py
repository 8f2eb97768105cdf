"""Graphs as users pass them: pairs of arrays, or objects of other libraries, validated."""

from collections.abc import Iterable, Iterator, Mapping, Sized
from numbers import Integral
from os import PathLike
from typing import NamedTuple, Protocol, TypeGuard, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sklearn_hscl.augment.graph_rows import UNKNOWN_SIZE, Graphs
from sklearn_hscl.data.missing import Column, column_array

_MAX_SHOWN = 60  # characters of a value in a message
_FORM = (
    "a pair (node features of shape (n_nodes, n_features), edges of shape (n_edges, 2)), a "
    "Data of PyTorch Geometric or a graph of networkx"
)
_NODE_ATTRIBUTE = "x"
"""Attribute of the nodes of a networkx graph that holds their features."""


class _Geometric(Protocol):
    """What is read of a ``Data`` of PyTorch Geometric, beside its optional `x`."""

    edge_index: Tensor
    num_nodes: int


class _NetworkX(Protocol):
    """What is read of a graph of networkx."""

    nodes: Mapping[object, Mapping[str, object]]
    edges: Iterable[tuple[object, ...]]


class _Parts(NamedTuple):
    """One graph as arrays."""

    features: np.ndarray | None  # (n_nodes, F); None where nodes have none
    n_nodes: int
    edges: np.ndarray  # (n_edges, 2)


def reads_graphs(encoder: object) -> bool:
    """Return whether an encoder maps graphs.

    Parameters
    ----------
    encoder : str, nn.Module or callable
        The parameter of the embedder. A module says so by ``reads_graphs = True``.
    """
    if isinstance(encoder, str | type):
        return encoder == "gin"
    return bool(getattr(encoder, "reads_graphs", False))


def is_graphs(rows: object) -> TypeGuard[Graphs]:
    """Return whether validated or prepared rows are graphs."""
    return isinstance(rows, Graphs)


def is_graph_shape(shape: tuple[object, ...]) -> bool:
    """Return whether a sample of this shape is a graph."""
    return len(shape) == 2 and shape[0] == UNKNOWN_SIZE


def one_node(n_features: int, dtype: torch.dtype) -> Graphs:
    """Return one graph of a single node, whose features are 0."""
    nodes, no_pairs = torch.zeros(1, n_features, dtype=dtype), torch.zeros(2, 0).long()
    return Graphs.of_pairs(nodes, no_pairs, torch.tensor([1]))


def check_graphs(X: object, name: str) -> Graphs:
    """Validate X as a sequence of graphs.

    Parameters
    ----------
    X : sequence, array or series of graphs
        Each one is a pair of node features and edges, a ``Data`` of PyTorch Geometric or a
        graph of networkx; their libraries are not imported.
    name : str
        Name of X, for messages.

    Returns
    -------
    Graphs
        Edges in both directions, each once. Nodes without features have the feature 1. The
        features are float64 where some are, else float32.

    Raises
    ------
    ValueError
        If X is not a sequence of graphs, a graph has no nodes, its features are not finite
        numbers or of another width than those before, or an edge leads to no node; the
        message names the graph.
    """
    if isinstance(X, Graphs):
        return X
    parts = [
        _parts(graph, f"graph {i} of {name}") for i, graph in enumerate(_list(X, name))
    ]
    counts = np.array([part.n_nodes for part in parts], dtype=np.int64)
    nodes = _joined_features(parts, counts, name)
    edges = np.concatenate([np.zeros((0, 2), np.int64), *(part.edges for part in parts)])
    n_edges = [len(part.edges) for part in parts]
    _check_range(edges, counts.repeat(n_edges), n_edges, name)
    starts = np.repeat(counts.cumsum() - counts, n_edges)
    pairs = torch.from_numpy((edges + starts[:, None]).T.copy())
    return Graphs.of_pairs(nodes, pairs, torch.from_numpy(counts))


# Sequences -----------------------------------------------------------------------------


def _list(X: object, name: str) -> list[object]:
    """Return the graphs as a list."""
    if X is None or isinstance(X, str | bytes | PathLike | Iterator | Mapping):
        hint = " Read files of molecules first." if isinstance(X, str | PathLike) else ""
        raise ValueError(
            f"Expected {name} to be a list, an array or a column of graphs, got "
            f"{_shown(X)}. Pass a list, each element of which is {_FORM}.{hint}"
        )
    if _is_geometric(X) or _is_networkx(X):
        raise ValueError(f"{name} is one graph. Pass a list of graphs, such as [{name}].")
    if isinstance(X, list | tuple):
        return list(X)
    if isinstance(X, Dataset):
        return [X[i] for i in range(len(cast(Sized, X)))]
    values = column_array(cast(Column, X), name)
    if values.ndim == 2 and values.shape[1] == 2 and values.dtype == object:
        return list(map(tuple, values))  # numpy takes equal pairs apart
    n_columns = 1 if values.ndim == 1 else values.shape[1]
    if values.ndim > 2 or n_columns != 1:
        raise ValueError(
            f"{name} of shape {values.shape} is not one column, but the encoder takes a "
            f"column of graphs. Pass a list, each element of which is {_FORM}."
        )
    return list(values.reshape(-1))


# One graph -----------------------------------------------------------------------------


def _parts(graph: object, where: str) -> _Parts:
    """Return one graph as arrays; `where` names it in messages."""
    if _is_geometric(graph):
        features = getattr(graph, "x", None)
        return _checked(features, graph.num_nodes, _array(graph.edge_index).T, where)
    if _is_networkx(graph):
        return _of_networkx(graph, where)
    if isinstance(graph, tuple | list) and len(graph) == 2:
        first, edges = graph
        if isinstance(first, Integral) and not isinstance(first, bool):
            return _checked(None, int(first), _array(edges), where)
        features = _array(first)
        return _checked(features, len(np.atleast_1d(features)), _array(edges), where)
    remedy = "Convert it"
    if isinstance(graph, str | bytes | PathLike):
        remedy = "Read molecules first, for example by RDKit: features of atoms, and bonds"
    elif isinstance(graph, np.ndarray | Tensor):
        remedy = "Pass a list of pairs, such as [(features, edges)]"
    raise ValueError(f"Expected {where} to be {_FORM}, got {_shown(graph)}. {remedy}.")


def _shown(value: object) -> str:
    """Return a value and its type for messages, on one line."""
    return f"{' '.join(repr(value).split()):.{_MAX_SHOWN}} of type {type(value).__name__}"


def _is_geometric(graph: object) -> TypeGuard[_Geometric]:
    return hasattr(graph, "edge_index") and hasattr(graph, "num_nodes")


def _is_networkx(graph: object) -> TypeGuard[_NetworkX]:
    return hasattr(graph, "adj") and hasattr(graph, "number_of_nodes")


def _array(values: object) -> np.ndarray:
    """Return an array or a tensor of any device as an array."""
    return (
        values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    )


def _of_networkx(graph: _NetworkX, where: str) -> _Parts:
    index = {node: i for i, node in enumerate(graph.nodes)}
    edges = np.array([(index[a], index[b]) for a, b, *_ in graph.edges], dtype=np.int64)
    found = [attributes.get(_NODE_ATTRIBUTE) for attributes in graph.nodes.values()]
    n_missing = sum(values is None for values in found)
    if n_missing == len(found):
        return _checked(None, len(found), edges, where)
    if n_missing:
        raise ValueError(
            f"Expected all {len(found)} nodes of {where} to have the attribute "
            f"{_NODE_ATTRIBUTE!r}, or none, got {n_missing} without it. Set it on all."
        )
    features = _array([np.atleast_1d(_array(values)) for values in found])
    return _checked(features, len(found), edges, where)


def _checked(features: object, n_nodes: int, edges: np.ndarray, where: str) -> _Parts:
    if not n_nodes:
        raise ValueError(
            f"Expected {where} to have at least one node, got none. Leave it out."
        )
    checked = None if features is None else _checked_features(_array(features), where)
    return _Parts(checked, int(n_nodes), _checked_edges(edges, where))


def _checked_features(features: np.ndarray, where: str) -> np.ndarray | None:
    if features.ndim != 2 or features.dtype.kind not in "biuf":
        raise ValueError(
            f"Expected node features of {where} to be numbers of shape (n_nodes, "
            f"n_features), got {features.dtype} of shape {features.shape}. Encode labels "
            f"of nodes as one-hot rows, and reshape a single feature by x.reshape(-1, 1)."
        )
    return features if features.shape[1] else None


def _checked_edges(edges: np.ndarray, where: str) -> NDArray[np.int64]:
    if not edges.size:
        return np.zeros((0, 2), np.int64)
    if edges.ndim != 2 or edges.shape[1] != 2:
        remedy = "Pass edges.T" if edges.shape[0] == 2 else "Pass one row for each edge"
        raise ValueError(
            f"Expected edges of {where} to have the shape (n_edges, 2), got {edges.shape}. "
            f"{remedy}, such as np.argwhere(adjacency) of an adjacency matrix."
        )
    if edges.dtype.kind not in "iu":
        raise ValueError(
            f"Expected edges of {where} to be integers, the indices of two nodes each, got "
            f"{edges.dtype}. Number the nodes from 0."
        )
    return edges.astype(np.int64)


# All graphs ----------------------------------------------------------------------------


def _joined_features(parts: list[_Parts], counts: NDArray[np.int64], name: str) -> Tensor:
    """Return the features of all nodes, (n_nodes, F); 1 where no graph has some."""
    widths = [0 if part.features is None else part.features.shape[1] for part in parts]
    if len(set(widths)) > 1:
        i = next(i for i, width in enumerate(widths) if width != widths[0])
        raise ValueError(
            f"Expected all graphs of {name} to have the same number of node features, got "
            f"{widths[0]} in graph 0 and {widths[i]} in graph {i}. Encode all graphs alike."
        )
    if not any(widths):
        return torch.ones(int(counts.sum()), 1)
    arrays = [part.features for part in parts if part.features is not None]
    is_double = any(array.dtype == np.float64 for array in arrays)
    dtype = np.float64 if is_double else np.float32
    with np.errstate(over="ignore"):
        nodes = np.concatenate(arrays, dtype=dtype, casting="unsafe")
    finite = np.isfinite(nodes).all(1)
    if not finite.all():
        bad = int(finite.argmin())
        i = int(np.searchsorted(counts.cumsum(), bad, side="right"))
        node = bad - int(counts[:i].sum())
        raise ValueError(
            f"Expected finite node features, got {arrays[i][node]!s:.{_MAX_SHOWN}} in node "
            f"{node} of graph {i} of {name}. Fill missing values, or leave the graph out."
        )
    return torch.from_numpy(nodes)


def _check_range(
    edges: NDArray[np.int64], counts: NDArray[np.int64], n_edges: list[int], name: str
) -> None:
    """Raise where an edge leads to a node that its graph, of `counts` nodes, lacks."""
    is_bad = ((edges < 0) | (edges >= counts[:, None])).any(1)
    if is_bad.any():
        bad = int(is_bad.argmax())
        i = int(np.searchsorted(np.cumsum(n_edges), bad, side="right"))
        raise ValueError(
            f"Expected edges of graph {i} of {name} between its nodes 0 to "
            f"{counts[bad] - 1}, got {tuple(edges[bad].tolist())}. Number the nodes of "
            f"each graph from 0."
        )
