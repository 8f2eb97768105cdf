"""Embedders of every type, fitted quickly, for the tests of persistence."""

import numpy as np
import pandas as pd
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.losses import ContrastiveLoss, WarmUpBeta

SMALL = {"max_epochs": 2, "random_state": 0}
N_ROWS = 60


def frame():
    """Return numbers with missing values, categories of all types, and a name per row."""
    rng = np.random.default_rng(0)
    gaps = np.where(rng.random(N_ROWS) < 0.2, np.nan, rng.normal(size=N_ROWS))
    return pd.DataFrame(
        {
            "size": rng.normal(size=N_ROWS) * 1e3,
            "gaps": gaps,
            "colour": rng.choice(["red", "grün", "青"], N_ROWS).astype(object),
            "is_new": rng.random(N_ROWS) < 0.5,
            "grade": pd.Categorical(rng.integers(0, 3, N_ROWS)),
            "name": pd.Categorical([f"Person{i}" for i in range(N_ROWS)]),
        }
    )


def numbers():
    return np.random.default_rng(1).normal(size=(N_ROWS, 4)) * [1, 1e-3, 1e6, 1] + 5


def images():
    return np.random.default_rng(2).integers(0, 256, (N_ROWS, 3, 8, 8), dtype=np.uint8)


def labels():
    return np.arange(N_ROWS) % 3


def words():
    return np.array(["a", "b", "ü"])[labels()]


def own_encoder():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 5))


def own_factory(n_features):
    return nn.Linear(n_features, 5)


# Parameters, rows and labels.
MODELS = {
    "tabular": ({}, frame, words),
    "tabular of numbers": ({"n_members": 1, "cross_fit": None}, numbers, labels),
    "mlp": ({"encoder": "mlp"}, frame, labels),
    "without labels": ({"loss": "hucl", "beta": WarmUpBeta(2.0)}, frame, None),
    "plain mlp": ({"encoder": "mlp", "dropout": 0.5}, numbers, words),
    "mlp of images": ({"encoder": "mlp", "normalize": True}, images, labels),
    "conv": ({"encoder": "conv", "dropout": 0.1}, images, labels),
    "resnet": ({"encoder": "resnet18", "loss": "ucl", "max_epochs": 1}, images, None),
    "float64": ({"precision": "float64", "early_stopping": True}, numbers, labels),
    "of a loss": ({"loss": ContrastiveLoss("hucl", tau_plus=0.1)}, numbers, None),
    "of numbers": ({}, numbers, lambda: numbers()[:, 0]),
    "own encoder": ({"encoder": own_encoder()}, numbers, labels),
    "own factory": ({"encoder": own_factory}, numbers, labels),
}
OWN = ("own encoder", "own factory")


def fitted(name):
    """Return an embedder, its training rows and its targets."""
    parameters, rows, targets = MODELS[name]
    X, y = rows(), None if targets is None else targets()
    return HSCLEmbedder(**SMALL | parameters).fit(X, y), X, y


def reloaded(embedder, path, **options):
    """Save an embedder, and load it with the parameters that were left out."""
    left_out = options.get("leave_out", ())
    embedder.save(path, **options)
    given = {name: getattr(embedder, name) for name in left_out}
    return HSCLEmbedder.load(path, **given)
