"""Graph benchmark sets as text, their folds, and simple features of graphs."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import LabelEncoder

FOLDER = Path(os.environ.get("SKLEARN_HSCL_DATA", "../shared/data")) / "graphs"
N_FOLDS = 10


class TextGraph(NamedTuple):
    """A graph as the text says it."""

    label: str
    tags: list[str]
    edges: np.ndarray  # (n_edges, 2)
    attributes: np.ndarray  # (n_nodes, n_attributes)


@dataclass(frozen=True)
class GraphSet:
    """Graphs with classes and test folds."""

    name: str
    graphs: list[TextGraph]
    y: np.ndarray
    folds: list[np.ndarray]
    """Indices of the test graphs of each fold."""
    n_tags: int
    n_attributes: int

    def training(self, *held_out: int) -> np.ndarray:
        """Return the indices of the graphs outside of some folds."""
        test = np.concatenate([self.folds[fold] for fold in held_out])
        return np.setdiff1d(np.arange(len(self.y)), test)

    def as_pairs(self) -> list[tuple[np.ndarray | int, np.ndarray]]:
        """Return node features and edges; features are the one-hot tag, then attributes.

        Nodes of a set with a single tag and no attributes have no features.
        """
        index = self._tag_indices()
        pairs: list[tuple[np.ndarray | int, np.ndarray]] = []
        for graph in self.graphs:
            codes = [index[tag] for tag in graph.tags]
            one_hot = np.eye(self.n_tags, dtype=np.float32)[codes]
            features = np.hstack([one_hot[:, self.n_tags == 1 :], graph.attributes])
            has_features = features.shape[1] > 0
            pairs.append((features if has_features else len(codes), graph.edges))
        return pairs

    def histograms(self) -> np.ndarray:
        """Return how often each tag occurs in each graph, and sums of attributes."""
        index = self._tag_indices()
        rows = []
        for graph in self.graphs:
            codes = [index[tag] for tag in graph.tags]
            counts = np.bincount(codes, minlength=self.n_tags)
            rows.append([*counts, *graph.attributes.sum(0)])
        return np.array(rows, dtype=float)

    def weisfeiler_lehman(self, n_steps: int) -> list[csr_matrix]:
        """Return counts of subtree patterns up to a depth of 0, 1, ..., `n_steps`.

        The kernel of depth h is the inner product of the counts of depth h.
        """
        index = self._tag_indices()
        colors = [[index[tag] for tag in graph.tags] for graph in self.graphs]
        neighbors = [_neighbor_lists(graph) for graph in self.graphs]
        parts = [_counts(colors)]
        joined = [parts[0]]
        for _ in range(n_steps):
            known: dict[tuple[int, tuple[int, ...]], int] = {}
            colors = [
                [
                    known.setdefault(
                        (own[i], tuple(sorted(own[j] for j in js))), len(known)
                    )
                    for i, js in enumerate(lists)
                ]
                for own, lists in zip(colors, neighbors, strict=True)
            ]
            parts.append(_counts(colors))
            joined.append(hstack(parts, format="csr"))
        return joined

    def _tag_indices(self) -> dict[str, int]:
        tags = sorted({tag for graph in self.graphs for tag in graph.tags})
        return {tag: i for i, tag in enumerate(tags)}


def read_set(name: str) -> GraphSet:
    """Read ``NAME.txt`` and, if it is there, ``NAME_test_folds.txt``."""
    graphs = list(_read_graphs((FOLDER / f"{name}.txt").read_text().split("\n")))
    widths = {graph.attributes.shape[1] for graph in graphs}
    if len(widths) > 1:
        raise ValueError(f"{name}: graphs have {sorted(widths)} attributes a node.")
    y = LabelEncoder().fit_transform([graph.label for graph in graphs])
    tags = {tag for graph in graphs for tag in graph.tags}
    return GraphSet(name, graphs, y, _read_folds(name, y), len(tags), widths.pop())


def _read_graphs(lines: list[str]) -> Iterator[TextGraph]:
    """Yield the graphs; a node's line may end with attributes."""
    rows = iter([line.split() for line in lines if line.strip()])
    n_graphs = int(next(rows)[0])
    for number in range(n_graphs):
        n_nodes, label = next(rows)[:2]
        tags, edges, attributes = [], [], []
        for i in range(int(n_nodes)):
            tag, n_neighbors, *rest = next(rows)
            last = int(n_neighbors)
            tags.append(tag)
            edges += [(i, int(j)) for j in rest[:last]]
            attributes.append([float(value) for value in rest[last:]])
        if len(set(map(len, attributes))) != 1:
            raise ValueError(f"Graph {number}: nodes have no, or differing, attributes.")
        pairs = np.array(edges, dtype=np.int64).reshape(-1, 2)
        yield TextGraph(label, tags, pairs, np.array(attributes, dtype=np.float32))


def _read_folds(name: str, y: np.ndarray) -> list[np.ndarray]:
    """Return the stored test folds, or ten stratified ones."""
    path = FOLDER / f"{name}_test_folds.txt"
    if not path.exists():
        splits = StratifiedKFold(N_FOLDS, shuffle=True, random_state=0)
        return [test for _, test in splits.split(y, y)]
    folds = [np.array(line.split(), dtype=int) for line in path.read_text().splitlines()]
    return [fold for fold in folds if len(fold)]


def _neighbor_lists(graph: TextGraph) -> list[list[int]]:
    lists: list[list[int]] = [[] for _ in graph.tags]
    for a, b in {
        tuple(pair) for edge in graph.edges.tolist() for pair in (edge, edge[::-1])
    }:
        lists[a].append(b)
    return lists


def _counts(colors: list[list[int]]) -> csr_matrix:
    """Return how often each color occurs in each graph."""
    rows = np.repeat(np.arange(len(colors)), [len(own) for own in colors])
    columns = np.concatenate([np.asarray(own) for own in colors])
    return csr_matrix(
        (np.ones(len(rows)), (rows, columns)), shape=(len(colors), columns.max() + 1)
    )
