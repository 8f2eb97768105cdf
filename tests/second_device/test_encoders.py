"""Encoders of every kind learn the same on both devices."""

import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import nn

from second_device.agreement import TOLERANCE, assert_agree, embedder
from second_device.backend import REFUSED_DTYPES


def perceptron(*inner):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), *inner, nn.ReLU(), nn.Linear(16, 8))


class Positions(nn.Module):
    """An encoder whose forward pass makes tensors."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Linear(4, 8)
        self.register_buffer("shift", torch.ones(1))

    def forward(self, rows):
        positions = torch.arange(rows.shape[1], device=rows.device, dtype=rows.dtype)
        return self.last(rows * positions + self.shift)


TABLES = {
    "tabular": {"encoder": "tabular"},
    "tabular, two views": {"encoder": "tabular", "loss": "hucl"},
    "tabular, dropout": {"encoder": "tabular", "dropout": 0.3},
    "one member": {"encoder": "tabular", "n_members": 1},
    "cross_fit": {"encoder": "tabular", "cross_fit": 3},
    "frozen": {"encoder": perceptron(), "freeze": ["0"]},
    "mlp": {"encoder": "mlp"},
    "mlp, dropout": {"encoder": "mlp", "dropout": 0.3},
    "own": {"encoder": perceptron()},
    "own, dropout": {"encoder": perceptron(nn.Dropout(0.3))},
    "own, batch norm": {"encoder": perceptron(nn.BatchNorm1d(16))},
    "own, makes tensors": {"encoder": Positions()},
    "factory": {"encoder": lambda n_features, n_components: nn.Linear(n_features, 5)},
    "no head": {"projection_dim": None},
    "classifier": {"ce_weight": 0.5},
}


EXACT = [(name, "float64") for name in TABLES]
ROUNDED = [
    (name, precision)
    for name in ("tabular", "mlp", "own", "classifier")
    for precision in ("float32", "bf16")
]


@pytest.mark.parametrize(("name", "precision"), EXACT + ROUNDED)
def test_tables(table, name, precision):
    X, y = table
    parameters = TABLES[name] | {"precision": precision}
    parameters |= {"max_epochs": 1 if precision == "bf16" else 2}
    assert_agree(partial(_fit, X, y, parameters), TOLERANCE[precision])


def test_columns_of_every_kind(table):
    X, y = table
    levels = np.digitize(X[:, :1], [5.0, 6.0])
    X = np.where(X > 6.5, np.nan, X)
    X = np.hstack([X, levels])

    def fit(device, encoder):
        model = embedder(device, encoder=encoder, categorical_features=[4])
        return model.fit(X, y).transform(X)

    for encoder in ("tabular", "mlp"):
        assert_agree(lambda device, encoder=encoder: fit(device, encoder))


def test_sparse_rows(table):
    X, y = table
    X = csr_array(X)
    assert_agree(lambda device: embedder(device).fit(X, y).transform(X))


IMAGES = {
    "conv": {"encoder": "conv"},
    "conv, dropout": {"encoder": "conv", "dropout": 0.2},
    "conv, two views": {"encoder": "conv", "loss": "hucl"},
    "conv, bf16": {"encoder": "conv", "precision": "bf16"},
    "resnet18": {"encoder": "resnet18"},
    "resnet50": {"encoder": "resnet50"},
    "mlp": {"encoder": "mlp"},
}


@pytest.mark.parametrize("name", IMAGES)
def test_images(images, name):
    X, y = images[0][:16], images[1][:16]
    parameters = {"precision": "float64", "hidden_layer_sizes": None} | IMAGES[name]
    parameters |= {"max_epochs": 1}
    tolerance = 1e-6 if "resnet" in name else TOLERANCE[parameters["precision"]]
    fit = partial(_fit, X, y, parameters)
    assert_agree(fit, tolerance)


@pytest.mark.parametrize("kind", ["table", "images"])
def test_few_labels(table, images, kind):
    X, y = table if kind == "table" else images
    few = np.where(np.arange(len(y)) % 7, -1, y)
    assert len(set(few) - {-1}) > 1
    parameters = {"unlabeled_label": -1, "max_epochs": 1, "precision": "float64"}
    parameters |= {"encoder": "tabular" if kind == "table" else "conv"}
    parameters |= {"hidden_layer_sizes": None}
    assert_agree(partial(_fit, X, few, parameters), 1e-6)


def test_rows_of_norm_1(table):
    X, y = table
    X = X / np.linalg.norm(X, axis=1, keepdims=True)
    assert_agree(partial(_fit, X, None, {"precision": "float64"}), 1e-6)
    rare = np.where(np.arange(len(y)) < 6, y.max() + 1, 0)
    parameters = {"encoder": "tabular", "precision": "float64"}
    assert_agree(partial(_fit, X, rare, parameters), 1e-6)


def _fit(X, y, parameters, device):
    return embedder(device, **parameters).fit(X, y).transform(X)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_types_of_images(images, dtype):
    X, y = (255 * images[0][:40]).astype(dtype), images[1][:40]
    parameters = {"encoder": "conv", "hidden_layer_sizes": None, "max_epochs": 1}
    parameters |= {"batch_size": 40}  # one step: rounding errors grow fast
    assert_agree(lambda device: embedder(device, **parameters).fit(X, y).transform(X), 3e-3)


def test_model_of_a_library(images, monkeypatch):
    def create_model(name, **settings):
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 4, 3)
        return nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    timm = SimpleNamespace(create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", timm)
    X, y = images
    parameters = {"encoder": "timm:small", "hidden_layer_sizes": None, "max_epochs": 1}
    assert_agree(lambda device: embedder(device, **parameters).fit(X, y).transform(X))


@pytest.mark.parametrize("encoder", ["tabular", "mlp", "conv"])
def test_device_without_float64(table, images, encoder):
    """As on mps; no tensor of the device may have that type."""
    X, y = images if encoder == "conv" else table
    sizes = None if encoder == "conv" else (16,)

    def fit(device):
        REFUSED_DTYPES.clear()
        if device != "cpu":
            REFUSED_DTYPES.add(torch.float64)
        model = embedder(
            device, encoder=encoder, hidden_layer_sizes=sizes, batch_size=100, max_epochs=1
        )
        return model.fit(X, y).transform(X)

    assert_agree(fit, 3e-3 if encoder == "conv" else 4e-5)
