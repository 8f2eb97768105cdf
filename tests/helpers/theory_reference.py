"""The quantities of the H-SCL paper's theory, written as loops from their formulas."""

import numpy as np

from helpers.metric_references import unit


def theory(X, y, beta, temperature, negative_mass, view_ids=None):
    """Return the losses of each anchor and the sides of Assumption 1, (A,) each.

    Rows without positive, collision or row of another class are no anchors.
    """
    Z, n = unit(np.asarray(X, float)), len(X)
    views = np.arange(n) if view_ids is None else np.asarray(view_ids)
    found = {name: [] for name in ("ucl", "scl", "hucl", "hscl", "collision", "negative")}
    for i in range(n):
        others = [j for j in range(n) if views[j] != views[i]]
        collisions = [j for j in others if y[j] == y[i]]
        negatives = [j for j in others if y[j] != y[i]]
        by_view = [j for j in range(n) if views[j] == views[i] and j != i]
        positives = collisions if view_ids is None else by_view
        if not (positives and collisions and negatives):
            continue
        g = Z @ Z[i] / temperature

        def expectation(rows, strength, g=g):
            eta = np.exp(strength * g[rows])
            return np.sum(eta * np.exp(g[rows])) / np.sum(eta)

        def loss(mean, g=g, positives=positives):
            e = np.exp(g[positives])
            return np.mean(-np.log(e / (e + negative_mass * mean)))

        found["ucl"].append(loss(expectation(others, 0)))
        found["scl"].append(loss(expectation(negatives, 0)))
        found["hucl"].append(loss(expectation(others, beta)))
        found["hscl"].append(loss(expectation(negatives, beta)))
        found["collision"].append(expectation(collisions, beta))
        found["negative"].append(expectation(negatives, beta))
    return {name: np.array(values) for name, values in found.items()}
