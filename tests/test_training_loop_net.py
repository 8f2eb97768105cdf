"""The training loop: the weights of a plain loop, pieces of a fit, interruptions."""

import gc
import weakref

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback
from torch import nn

from sklearn_hscl import HSCLEmbedder


def weights(embedder):
    return list(embedder.net_.module_.parameters())


@pytest.mark.parametrize("clip_norm", [None, 0.05])
@pytest.mark.parametrize(("loss", "beta"), [("scl", 0.0), ("hscl", 1.0)])
def test_weights_of_a_plain_loop(loss, beta, clip_norm):
    X, y = load_digits(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    settings = {"loss": loss, "beta": beta, "precision": "float64", "random_state": 0}
    encoder = nn.Sequential(nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 8))
    settings |= {"encoder": encoder, "projection_dim": None, "batch_size": 300}
    order = []

    class Remember(Callback):
        def on_batch_begin(self, net, batch=None, **kwargs):
            order.append(batch)

    embedder = HSCLEmbedder(
        **settings, max_epochs=3, lr=0.01, weight_decay=0.1, clip_norm=clip_norm
    )
    remember = Remember()
    remember.__class__.__deepcopy__ = lambda self, memo: self
    embedder.set_params(net_callbacks=[remember]).fit(X, y)

    module = nn.Sequential(*encoder).double()
    module.load_state_dict({k: v.double() for k, v in encoder.state_dict().items()})
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.1)
    for step, (rows, labels) in enumerate(order):
        progress = (step + 0.5) / len(order)
        rate = 0.01 * min(1, progress / 0.05) * (1 + np.cos(np.pi * progress)) / 2
        optimizer.param_groups[0]["lr"] = rate
        z = nn.functional.normalize(module(rows))
        s = z @ z.T / 0.5
        same = labels[:, None] == labels
        weight = torch.where(same, 0.0, (beta * s).exp().detach())
        mean = (weight * s.exp()).sum(1) / weight.sum(1)  # of e^s over the negatives
        mass = (~same).sum(1) * mean
        pairs = -torch.log(s.exp() / (s.exp() + mass[:, None]))
        pairs = pairs * (same & ~torch.eye(len(s), dtype=bool))
        value = (pairs.sum(1) / (same.sum(1) - 1)).mean()
        optimizer.zero_grad()
        value.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
        optimizer.step()
    assert len(order) == 3 * 6
    for ours, plain in zip(weights(embedder), module.parameters(), strict=True):
        assert_allclose(ours.detach(), plain.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("encoder", ["tabular", "mlp"])
def test_nothing_of_a_fit_outlives_its_embedder(iris, encoder):
    embedder = HSCLEmbedder(encoder=encoder, max_epochs=1, random_state=0).fit(*iris)
    kept = [weakref.ref(weight) for weight in weights(embedder)]
    del embedder
    gc.collect()
    assert not any(weight() is not None for weight in kept)


def test_partial_fit_goes_on_with_scales_and_classes(iris):
    X, y = iris
    embedder = HSCLEmbedder(random_state=0)
    embedder.partial_fit(X[:100], y[:100], classes=[0, 1, 2])
    scales = embedder._prepare
    for _ in range(3):
        embedder.partial_fit(X[50:], y[50:])
    assert embedder.n_iter_ == 4
    assert embedder._prepare is scales
    assert_array_equal(embedder.classes_, [0, 1, 2])
    assert embedder.loss_curve_[3] < embedder.loss_curve_[1]
    with pytest.raises(ValueError, match=r"labels \[7\]"):
        embedder.partial_fit(X, np.where(y == 2, 7, y))


def test_partial_fit_draws_new_numbers_in_every_call(iris):
    losses = []
    for _ in range(2):
        embedder = HSCLEmbedder("hucl", random_state=0, lr=1e-8)
        for _ in range(3):
            embedder.partial_fit(iris[0])
        losses.append(embedder.loss_curve_)
    assert len(set(losses[0])) == 3
    assert losses[0] == losses[1]


class CtrlC(Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_batch_end(self, net, **kwargs):
        if len(net.history) == self.epoch:
            raise KeyboardInterrupt


def interrupted(epoch=3, **parameters):
    parameters = {"random_state": 0, "lr_schedule": "constant"} | parameters
    return HSCLEmbedder(max_epochs=9, net_callbacks=[CtrlC(epoch)], **parameters)


def test_ctrl_c_keeps_what_was_learnt(iris):
    with pytest.warns(UserWarning, match="interrupted after 2 of 9 epochs"):
        embedder = interrupted().fit(*iris)
    assert embedder.n_iter_ == len(embedder.loss_curve_) == 2
    assert np.isfinite(embedder.transform(iris[0])).all()
    with pytest.warns(UserWarning, match="interrupted after 2 of 9 epochs"):
        interrupted().fit_transform(*iris)


def test_ctrl_c_keeps_the_weights_of_the_best_epoch(iris):
    with pytest.warns(UserWarning, match="interrupted"):
        embedder = interrupted(early_stopping=True).fit(*iris)
    best = HSCLEmbedder(
        early_stopping=True,
        max_epochs=embedder.best_epoch_,
        random_state=0,
        lr_schedule="constant",
    ).fit(*iris)
    assert_array_equal(embedder.transform(iris[0]), best.transform(iris[0]))


def test_ctrl_c_before_the_first_epoch_ends(iris):
    embedder = interrupted(epoch=1)
    with pytest.raises(KeyboardInterrupt):
        embedder.fit(*iris)
    assert not hasattr(embedder, "module_")


@pytest.mark.parametrize(
    "around",
    [make_pipeline, lambda e: GridSearchCV(e, {"beta": [0.0]}, cv=2, scoring=lambda *a: 0)],
)
def test_ctrl_c_goes_through_other_estimators(iris, around):
    with pytest.raises(KeyboardInterrupt):
        around(interrupted()).fit(*iris)
