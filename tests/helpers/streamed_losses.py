"""Fits on rows that are read piece by piece, beside fits on arrays."""

import numpy as np
import torch
from numpy.testing import assert_array_equal

from sklearn_hscl import HSCLEmbedder

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 4)), np.arange(60) % 3
IMAGES = RNG.integers(0, 256, (60, 6, 8, 3), dtype=np.uint8)


def fit(X=X, y=Y, X_val=None, y_val=None, **parameters):
    settings = {"max_epochs": 2, "batch_size": 16, "random_state": 0} | parameters
    return HSCLEmbedder(**settings).fit(X, y, X_val=X_val, y_val=y_val)


def assert_same_fit(rows, array, in_memory=None, **parameters):
    streamed, in_memory = fit(rows, **parameters), in_memory or fit(array, **parameters)
    assert streamed.loss_curve_ == in_memory.loss_curve_
    assert streamed.n_features_in_ == in_memory.n_features_in_
    Z = in_memory.transform(array)
    assert_array_equal(streamed.transform(rows), Z)
    assert streamed.transform(rows).dtype == Z.dtype


def assert_stand_for_a_tensor(stored, dense):
    index = torch.tensor([[3, 1, 2, 29], [0, 0, 7, 5]])
    assert (len(stored), stored.shape, stored.ndim) == (len(dense), dense.shape, 2)
    assert torch.equal(stored[index[:, 0]], dense[index[:, 0]])
    assert torch.equal(stored[2::7], dense[2::7])
    assert torch.equal(stored.gather(0, index), dense.gather(0, index))
    assert torch.equal(torch.cat([*stored.split(7)]), dense)
