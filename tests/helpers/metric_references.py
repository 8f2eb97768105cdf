"""Measures of embeddings as explicit loops over their formulas."""

import numpy as np


def unit(X):
    norm = np.linalg.norm(X, axis=1, keepdims=True)
    return X / np.where(norm > 0, norm, 1.0)


def ranked_hits(X, y, X_query=None, y_query=None):
    """Return for each query whether the references are of its class, best first.

    Equally similar references of other classes come first. Queries without a reference of
    their class are excluded.
    """
    queries, labels = (X, y) if X_query is None else (X_query, y_query)
    similarity = unit(np.asarray(queries, float)) @ unit(np.asarray(X, float)).T
    lists = []
    for i, row in enumerate(similarity):
        same = np.asarray(y) == labels[i]
        others = np.arange(len(y)) != (i if X_query is None else -1)
        order = sorted(
            np.flatnonzero(others), key=lambda j, row=row, same=same: (-row[j], same[j])
        )
        if same[order].any():
            lists.append(same[order])
    return lists


def recall_at_k(hits, k):
    return np.mean([any(row[:k]) for row in hits])


def precision_at_k(hits, k):
    return np.mean([sum(row[:k]) / k for row in hits])


def r_precision(hits):
    return np.mean([sum(row[: sum(row)]) / sum(row) for row in hits])


def map_at_r(hits):
    values = []
    for row in hits:
        R = sum(row)
        values.append(sum(sum(row[: i + 1]) / (i + 1) for i in range(R) if row[i]) / R)
    return np.mean(values)


def knn_accuracy(X, y, X_query, y_query, n_neighbors, weight):
    """Return the fraction of correct votes; `X_query` None excludes each row."""
    classes = np.unique(y)
    queries, labels = (X, y) if X_query is None else (X_query, y_query)
    similarity = unit(queries) @ unit(X).T
    correct = []
    for i, row in enumerate(similarity):
        others = [j for j in range(len(y)) if X_query is not None or j != i]
        if not any(y[j] == labels[i] for j in others):
            continue
        order = sorted(others, key=lambda j, row=row: (-row[j], y[j]))[:n_neighbors]
        votes = [sum(weight(row[j]) for j in order if y[j] == c) for c in classes]
        correct.append(classes[np.argmax(votes)] == labels[i])
    return np.mean(correct)


def nearest_class_mean(X, y):
    """Return the accuracy, with each row excluded from the mean of its class."""
    Z, correct = unit(X), []
    for i in range(len(y)):
        others = np.arange(len(y)) != i
        if not (y[others] == y[i]).any():
            continue
        classes = np.unique(y[others])
        means = [Z[others & (y == c)].mean(0) for c in classes]
        nearest = np.argmin([np.linalg.norm(Z[i] - mean) for mean in means])
        correct.append(classes[nearest] == y[i])
    return np.mean(correct)


def alignment(X, y):
    Z, values = unit(X), []
    for i in range(len(y)):
        others = [j for j in range(len(y)) if j != i and y[j] == y[i]]
        if others:
            values.append(np.mean([np.sum((Z[i] - Z[j]) ** 2) for j in others]))
    return np.mean(values)


def uniformity(X, t, queries=None):
    Z = unit(X)
    queries = range(len(Z)) if queries is None else queries
    values = [
        np.exp(-t * np.sum((Z[i] - Z[j]) ** 2))
        for i in queries
        for j in range(len(Z))
        if j != i
    ]
    return np.log(np.mean(values))


def effective_rank(X):
    values = np.linalg.svd(X, compute_uv=False)
    fraction = values / values.sum()
    return np.exp(-sum(p * np.log(p) for p in fraction if p > 0))


def class_means(X, y):
    return np.stack([X[y == c].mean(0) for c in np.unique(y)])


def zero_sum_error(X, y):
    return np.linalg.norm(class_means(X, y).mean(0))


def unit_norm_error(X, y):
    return np.mean([abs(np.linalg.norm(mean) - 1) for mean in class_means(X, y)])


def equal_inner_product_error(X, y):
    means = unit(class_means(X, y))
    C = len(means)
    pairs = [(i, j) for i in range(C) for j in range(C) if i != j]
    return np.mean([abs(means[i] @ means[j] + 1 / (C - 1)) for i, j in pairs])


def within_class_spread(X, y):
    distances = [
        np.mean([np.linalg.norm(x - X[y == c].mean(0)) for x in X[y == c]])
        for c in np.unique(y)
    ]
    return np.mean(distances)


def singular_value_decay(X, y):
    values = np.linalg.svd(np.cov(class_means(X, y).T), compute_uv=False)
    values = values[: min(len(np.unique(y)) - 1, X.shape[1])]
    return np.log(values / values.max())
