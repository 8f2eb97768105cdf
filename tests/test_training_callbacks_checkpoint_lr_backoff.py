"""Training that diverges to infinite values or NaN, and fits that fail in other ways."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback, LRScheduler
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.training.loop.epoch import DivergenceError


def embedder(encoder="mlp", **parameters):
    settings = {"max_epochs": 4, "batch_size": 50, "random_state": 0, "n_views": 1}
    return HSCLEmbedder(encoder=encoder, **(settings | parameters))


class BadRow(nn.Linear):
    """Has no embedding for rows whose first value is above 100."""

    def forward(self, rows):
        return super().forward(rows) / (rows[:, :1] < 100)


class BadGradient(nn.Linear):
    """Has no gradient at one of its steps."""

    def __init__(self, n_features, n_components, step, n_times=1):
        super().__init__(n_features, n_components)
        self.steps = range(step, step + n_times)
        self.n_done = [0]  # is not reset when training restarts

    def forward(self, rows):
        embedding = super().forward(rows)
        if self.training and embedding.requires_grad:
            self.n_done[0] += 1
            if self.n_done[0] - 1 in self.steps:
                embedding.register_hook(lambda gradient: gradient * torch.nan)
        return embedding


def test_the_batch_of_a_bad_row_is_named(iris):
    X, y = iris
    X = X.copy()
    X[77, 0] = 1000.0
    with pytest.raises(
        DivergenceError, match=r"nan.* in epoch 1, batch \d \(50 tr"
    ) as found:
        embedder(BadRow(4, 2)).fit(X, y)
    error = found.value
    assert error.epoch == 1
    assert 77 in error.rows
    assert len(error.rows) == 50
    assert f"batch {error.batch} (50 training rows: " in str(error)
    assert "Lower `lr` (now 0.002)" in str(error)


# One call is the measurement of memory; three batches make an epoch.
@pytest.mark.parametrize(
    ("step", "message"),
    [
        (3, "gradient made weights infinite or NaN in epoch 1, batch 3"),
        (5, "or by the gradient of batch 2, in epoch 2, batch 3"),
        (6, "gradient made weights infinite or NaN in epoch 2, batch 3"),
    ],
)
def test_the_batch_of_a_bad_gradient_is_named(iris, step, message):
    with pytest.raises(FloatingPointError, match=message):
        embedder(BadGradient(4, 2, step)).fit(*iris)


def test_it_is_a_value_error_too(iris):
    with pytest.raises(ValueError, match="Lower `lr`"):
        embedder(lr=1e30).fit(*iris)


def test_going_back_once(iris, capsys):
    bar = ProgressBar(max_propagation_depth=None)
    begun = embedder(BadGradient(4, 2, 5), lr_backoff=0.1).set_callbacks(bar)
    with pytest.warns(
        UserWarning, match="Continuing from the end of epoch 1 at 0.1 of the"
    ):
        begun.fit(*iris)
    assert begun.n_iter_ == 4
    assert np.isfinite(begun.transform(iris[0])).all()
    assert "100%" in capsys.readouterr().out


def test_going_back_restores_the_epoch(iris):
    class Keep(Callback):
        def on_epoch_end(self, net, **kwargs):
            weights = [weight.clone() for weight in net.module_.parameters()]
            kept.append((weights, net.optimizer_.param_groups[0]["lr"]))

    kept = []
    settings = {"net_callbacks": [Keep()], "lr_schedule": "constant"}
    # Steps of no length: what is left is the weights that training went back to.
    begun = embedder(BadGradient(4, 2, 5), lr_backoff=1e-30, **settings)
    with pytest.warns(UserWarning, match="end of epoch 1"):
        begun.fit(*iris)
    assert len(kept) == begun.n_iter_ == 4
    for before, after in zip(kept[0][0], kept[-1][0], strict=True):
        assert torch.equal(before, after)
    assert (kept[0][1], kept[-1][1]) == (2e-3, pytest.approx(2e-33))


def test_going_back_from_the_first_epoch_but_not_twice(iris):
    begun = embedder(BadGradient(4, 2, 1, n_times=20), lr_backoff=0.1)
    with (
        pytest.raises(DivergenceError, match="in epoch 1"),
        pytest.warns(UserWarning, match="end of epoch 0"),
    ):
        begun.fit(*iris)
    assert not hasattr(begun, "module_")


class RuinedState(nn.Linear):
    """Is ruined by one of its steps, which only shows at the next."""

    def __init__(self, n_features, n_components, step):
        super().__init__(n_features, n_components)
        self.step = step
        self.n_done = [0]
        self.register_buffer("ruined", torch.zeros(()))

    def forward(self, rows):
        embedding = super().forward(rows) / (self.ruined == 0)
        if self.training and embedding.requires_grad:
            self.n_done[0] += 1
            if self.n_done[0] - 1 == self.step:
                self.ruined.fill_(1)
        return embedding


def test_going_back_behind_an_epoch_that_ended_ruined(iris):
    begun = embedder(RuinedState(4, 2, 6), lr_backoff=0.1)  # the last of epoch 2
    message = "in epoch 3, batch 1 .* Continuing from the end of epoch 1"
    with pytest.warns(UserWarning, match=message):
        begun.fit(*iris)
    assert begun.n_iter_ == 4
    assert np.isfinite(begun.transform(iris[0])).all()


def test_who_sets_the_rate(iris):
    with pytest.raises(ValueError, match="lr_backoff=0.1 .* LRScheduler"):
        embedder(lr_backoff=0.1, net_callbacks=[LRScheduler()]).fit(*iris)


@pytest.mark.parametrize("encoder", ["mlp", "tabular"])
def test_keeping_a_way_back_changes_nothing(iris, encoder):
    first, second = (
        embedder(encoder, lr_backoff=factor, early_stopping=True).fit(*iris)
        for factor in (None, 0.5)
    )
    assert_array_equal(first.transform(iris[0]), second.transform(iris[0]))


# The previous fit -------------------------------------------------------------------


class Interrupt(Callback):
    def on_epoch_end(self, net, **kwargs):
        raise MemoryError("no more")


X_WITH_INFINITY = np.full((150, 4), np.inf)
FAILURES = {
    "rows": ({}, lambda X, y: (X_WITH_INFINITY, y), ValueError),
    "other columns": ({}, lambda X, y: (X[:, :2], np.zeros(len(X))), ValueError),
    "labels": ({}, lambda X, y: (X, y[:-1]), ValueError),
    "parameter": ({"temperature": -1}, lambda X, y: (X, y), ValueError),
    "encoder": ({"encoder": nn.Linear(3, 2)}, lambda X, y: (X, y), ValueError),
    "divergence": ({"lr": 1e30, "max_epochs": 5}, lambda X, y: (X, y), DivergenceError),
    "one epoch": ({"lr": 1e30, "max_epochs": 1}, lambda X, y: (X, y), DivergenceError),
    "callback": ({"net_callbacks": [Interrupt()]}, lambda X, y: (X, y), MemoryError),
    "probe": ({"beta": "auto", "lr": 1e30}, lambda X, y: (X, y), ValueError),
}


@pytest.mark.parametrize("warm_start", [False, True])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_fit_keeps_the_previous_one(iris, failure, warm_start):
    changes, data, error = FAILURES[failure]
    fitted = embedder(early_stopping=True, warm_start=warm_start).fit(*iris)
    before = fitted.transform(iris[0])
    attributes = sorted(vars(fitted))
    n_iter = fitted.n_iter_
    fitted.set_params(**changes)
    with pytest.raises(error):
        fitted.fit(*data(*iris))
    fitted.set_params(**{name: getattr(embedder(), name) for name in changes})
    assert_array_equal(fitted.transform(iris[0]), before)
    assert sorted(vars(fitted)) == attributes
    assert fitted.n_iter_ == n_iter == len(fitted.net_.history)
    clone(fitted).fit(*iris)


def test_a_failed_partial_fit_keeps_the_previous_one(iris):
    X, y = iris
    fitted = embedder().partial_fit(X, y)
    before = fitted.transform(X)
    for rows, labels in [(X_WITH_INFINITY, y), (X, y + 5), (X[:, :3], y)]:
        with pytest.raises(ValueError, match=r"."):
            fitted.partial_fit(rows, labels)
        assert_array_equal(fitted.transform(X), before)
    twin = embedder().partial_fit(X, y).partial_fit(X, y)
    assert_array_equal(fitted.partial_fit(X, y).transform(X), twin.transform(X))


def test_a_failed_fit_in_a_pipeline(iris):
    X, y = iris
    pipe = make_pipeline(embedder(), LogisticRegression()).fit(X, y)
    before = pipe.predict_proba(X)
    with pytest.raises(ValueError, match="infinity"):
        pipe.fit(X_WITH_INFINITY, y)
    assert_array_equal(pipe.predict_proba(X), before)


def test_partial_fit_checks_parameters_every_time(iris):
    fitted = embedder().partial_fit(*iris)
    with pytest.raises(ValueError, match="'n_views' parameter"):
        fitted.set_params(n_views=None).partial_fit(*iris)
