"""A stored optimizer continues with the same bits."""

import numpy as np
import pytest
import torch
from helpers.stored_models import OWN, SMALL, fitted, labels, numbers, reloaded
from numpy.testing import assert_array_equal

from sklearn_hscl import HSCLEmbedder


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("name", ["tabular", "without labels", "resnet", "own encoder"])
def test_training_continues_exactly_with_a_stored_optimizer(name, path):
    embedder, X, y = fitted(name)
    left_out = ("encoder",) if name in OWN else ()
    again = reloaded(embedder, path, leave_out=left_out, optimizer=True)
    twice = reloaded(again, path, leave_out=left_out, optimizer=True)
    expected = embedder.partial_fit(X, y).transform(X)
    assert_array_equal(again.partial_fit(X, y).transform(X), expected)
    assert_array_equal(twice.partial_fit(X, y).transform(X), expected)
    without = reloaded(fitted(name)[0], path, leave_out=left_out)
    assert np.abs(without.partial_fit(X, y).transform(X) - expected).max() > 1e-7


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": torch.optim.SGD, "optimizer__momentum": 0.9},
        {"optimizer": torch.optim.Adafactor},
    ],
)
def test_optimizers_of_net_params(path, settings):
    X, y = numbers(), labels()
    embedder = HSCLEmbedder(encoder="mlp", net_params=settings, **SMALL).fit(X, y)
    again = reloaded(embedder, path, optimizer=True)
    assert again.net_params == settings
    expected = embedder.partial_fit(X, y).transform(X)
    assert_array_equal(again.partial_fit(X, y).transform(X), expected)


def test_an_optimizer_replaced_after_fit_is_not_stored(path):
    X, y = numbers(), labels()
    momentum = {"optimizer": torch.optim.SGD, "optimizer__momentum": 0.9}
    for before, after in [(momentum, None), (None, momentum)]:
        embedder = HSCLEmbedder(encoder="mlp", net_params=before, **SMALL).fit(X, y)
        again = reloaded(embedder.set_params(net_params=after), path, optimizer=True)
        expected = embedder.partial_fit(X, y).transform(X)
        assert_array_equal(again.partial_fit(X, y).transform(X), expected)
