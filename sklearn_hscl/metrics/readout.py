"""Errors of simple models that read targets from rows: nearest neighbors and ridge."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
N_NEIGHBORS = 10


class Readout(NamedTuple):
    """Squared errors of the held-out rows, by two models of default settings."""

    neighbors: Floats
    linear: Floats

    @property
    def both(self) -> Floats:
        """Mean over the two models, for each row."""
        return (self.neighbors + self.linear) / 2


def read_out(train: Floats, targets: Floats, held_out: Floats, truth: Floats) -> Readout:
    """Predict the targets of held-out rows by 10 nearest neighbors and by ridge.

    Parameters
    ----------
    train, held_out : ndarray of shape (n, D) and (m, D)
        Embeddings, or other rows.
    targets, truth : ndarray of shape (n, K) and (m, K)
        Their targets: indicators of classes or labels, or standardised numbers.

    Returns
    -------
    Readout
        For each held-out row the mean squared error over targets.
    """
    # Imported here, since most imports of the package read nothing out.
    from sklearn.linear_model import Ridge
    from sklearn.neighbors import KNeighborsRegressor

    models = (KNeighborsRegressor(min(N_NEIGHBORS, len(train))), Ridge())
    errors = (
        np.square(model.fit(train, targets).predict(held_out).reshape(truth.shape) - truth)
        for model in models
    )
    return Readout(*(error.mean(1) for error in errors))
