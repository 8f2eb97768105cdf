"""Data of the figures of an embedding: a plane of it, and nearest neighbours."""

from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

N_POINTS = 600
N_NEIGHBORS = 10


def views_of(
    train: np.ndarray, y_train: np.ndarray, test: np.ndarray, y_test: np.ndarray
) -> dict[str, Any]:
    """Return both, compact enough for a line of results.

    Parameters
    ----------
    train, test : ndarray of shape (n, D)
        Embeddings.
    y_train, y_test : ndarray of shape (n,)
        Class codes.
    """
    train, test = normalize(train), normalize(test)
    return {
        "plane": plane(train, test[:N_POINTS]),
        "plane_y": y_test[:N_POINTS].tolist(),
        "neighbors": neighbor_classes(train, y_train, test, y_test),
    }


def plane(train: np.ndarray, test: np.ndarray) -> list[list[float]]:
    """Project test samples on the first two principal components of training samples."""
    return PCA(2, random_state=0).fit(train).transform(test).round(3).tolist()


def neighbor_classes(
    train: np.ndarray, y_train: np.ndarray, test: np.ndarray, y_test: np.ndarray
) -> list[list[int]]:
    """Return the classes of the nearest training samples, by class of the test samples.

    Row i holds, in permille, the classes of the ten nearest of the test rows of class i.
    """
    n_classes = int(max(y_train.max(), y_test.max())) + 1
    index = NearestNeighbors(n_neighbors=min(N_NEIGHBORS, len(train))).fit(train)
    near = y_train[index.kneighbors(test, return_distance=False)]  # (n_test, k)
    counts = np.zeros((n_classes, n_classes))
    np.add.at(counts, (np.repeat(y_test, near.shape[1]), near.ravel()), 1)
    totals = np.maximum(counts.sum(1, keepdims=True), 1)
    return (1000 * counts / totals).round().astype(int).tolist()


def most_confused(
    fractions: list[list[int]], n_pairs: int = 5
) -> list[tuple[int, int, int]]:
    """Return (class of test rows, class of their neighbours, permille), worst first."""
    off = np.array(fractions)
    np.fill_diagonal(off, 0)
    worst = np.argsort(-off, axis=None, kind="stable")[:n_pairs]
    pairs = zip(*np.unravel_index(worst, off.shape), strict=True)
    return [(int(i), int(j), int(off[i, j])) for i, j in pairs if off[i, j]]
