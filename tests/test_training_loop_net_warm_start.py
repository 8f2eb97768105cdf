"""Training that continues from an earlier net."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone

from sklearn_hscl import HSCLEmbedder


def test_warm_start_continues(iris):
    embedder = HSCLEmbedder(max_epochs=3, warm_start=True, random_state=0).fit(*iris)
    once = embedder.loss_curve_
    embedder.fit(*iris)
    assert embedder.loss_curve_[:3] == once
    assert embedder.n_iter_ == 6
    assert embedder.loss_curve_[3] < once[0]
    embedder.set_params(n_components=3)
    with pytest.raises(ValueError, match="Set warm_start=False"):
        embedder.fit(*iris)
    assert embedder.transform(iris[0]).shape == (150, 35)  # the fit that was


def test_warm_start_with_other_groups_of_weights(iris):
    groups = {"optimizer__param_groups": [("*layers.2.*", {"lr": 1e-3})]}
    settings = {"encoder": "mlp", "hidden_layer_sizes": (8, 8), "lr": 1e-3}
    settings |= {"max_epochs": 1, "lr_schedule": "constant", "random_state": 0}
    embedder = HSCLEmbedder(**settings, warm_start=True).fit(*iris)
    expected = clone(embedder).fit(*iris).fit(*iris).transform(iris[0])
    for net_params in (groups, None):  # the same rates, in another order of weights
        other = copy.deepcopy(embedder).set_params(net_params=net_params).fit(*iris)
        assert_array_equal(other.transform(iris[0]), expected)


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (torch.optim.AdamW, {"amsgrad": True}),
        (torch.optim.RMSprop, {"centered": True, "momentum": 0.5}),
        (torch.optim.SGD, {"momentum": 0.5}),
    ],
)
def test_warm_start_with_optimizer_settings_that_need_more_state(optimizer, settings, iris):
    net_params = {"optimizer": optimizer}
    embedder = HSCLEmbedder(
        encoder="mlp", max_epochs=1, warm_start=True, net_params=net_params
    )
    embedder.fit(*iris)
    more = {f"optimizer__{name}": value for name, value in settings.items()}
    for changed in (net_params | more, net_params):
        embedder.set_params(net_params=changed).fit(*iris)
    assert embedder.n_iter_ == 3
    assert np.isfinite(embedder.transform(iris[0])).all()
