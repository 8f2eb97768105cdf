"""Quality of an embedding without a downstream classifier."""

import numpy as np
from sklearn.base import TransformerMixin
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import KNeighborsClassifier
from tables import Split


def embedding_scores(embedder: TransformerMixin, split: Split) -> dict[str, float]:
    """Return the accuracy of k-NN on test rows, and MAP@R among them."""
    Z_train, Z_test = embedder.transform(split.X_train), embedder.transform(split.X_test)
    neighbours = KNeighborsClassifier().fit(Z_train, split.y_train)
    return {
        "knn_accuracy": neighbours.score(Z_test, split.y_test),
        "map_at_r": map_at_r(Z_test, split.y_test),
    }


def map_at_r(Z: np.ndarray, y: np.ndarray) -> float:
    """Return mean average precision at R, leave-one-out (Musgrave et al. 2020).

    R is the number of other rows of the query's class; a query without any is excluded.
    """
    distances = pairwise_distances(Z)
    np.fill_diagonal(distances, np.inf)  # a query does not retrieve itself
    nearest = distances.argsort(axis=1, kind="stable")[:, :-1]  # (n, n - 1)
    hits = y[nearest] == y[:, None]  # (n, n - 1)
    ranks = np.arange(1, len(y))
    R = hits.sum(axis=1)  # (n,)
    counted = hits & (ranks <= R[:, None])
    precisions = hits.cumsum(axis=1) / ranks
    asked = R > 0
    return float(np.mean((precisions * counted).sum(axis=1)[asked] / R[asked]))
