"""Models trained as one stack have the weights of models trained alone."""

from functools import partial

import numpy as np
import pytest
import torch
from helpers.stacks import assert_same_fit, compare, embedder, tabular
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, load_wine
from torch import func

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.losses import ContrastiveLoss, CosineBeta, LinearBeta
from sklearn_hscl.model_selection.fit_and_score import TrainingSamples, fit_batched
from sklearn_hscl.training.stacked.module import ModelLinear

LOADERS = {"iris": load_iris, "wine": load_wine, "digits": load_digits}


def load(name):
    X, y = LOADERS[name](return_X_y=True)
    return X[:180], y[:180]


# Whole runs on real data ------------------------------------------------------------

NUMBERS = [
    {"beta": 0.0, "temperature": 0.5, "lr": 5e-3, "weight_decay": 0.1, "ce_weight": 0.5},
    {"beta": 2.0, "temperature": 0.2, "lr": 2e-2, "weight_decay": 0.0, "ce_weight": 0.2},
    {"beta": 5.0, "temperature": 1.0, "lr": 5e-3, "tol": 0.2, "n_iter_no_change": 1},
    {"beta": LinearBeta(0.0, 4.0), "lr": 1e-3, "ce_weight": 1.0},
]


@pytest.mark.parametrize("name", LOADERS)
def test_held_out_neighbors_with_dropout_and_corruption(name):
    base = embedder(
        dropout=0.2, n_views=2, early_stopping=True, n_iter_no_change=2, max_epochs=8,
        ce_weight=0.3, validation_fraction=0.25,
    )  # fmt: skip
    together = compare(base, NUMBERS, *load(name))
    assert len({fitted.n_iter_ for fitted in together}) > 1  # the stack was compacted


@pytest.mark.parametrize("name", LOADERS)
def test_scores_out_of_fold_with_dropout_and_corruption(name):
    base = tabular(dropout=0.2, n_views=2, n_iter_no_change=2, max_epochs=8, ce_weight=0.3)
    together = compare(base, NUMBERS, *load(name))
    assert len({fitted.n_iter_ for fitted in together}) > 1
    assert "valid_score" in together[0].history_[0]


KINDS_OF_LOSSES = {
    "hardenings": [
        {"hardening": "exponential", "beta": 2.0},
        {"hardening": "polynomial", "beta": 2.0},
        {"hardening": "threshold"},
        {"hardening": "exponential", "beta": 0.5},  # computed with the first
        {"hardening": "top_k", "top_k": 4},
    ],
    "losses": [{"loss": "scl"}, {"loss": "hscl"}, {"loss": "supcon"}, {"beta": 0.0}],
    "reductions and masses": [
        {"reduction": "pairs"},
        {"reduction": "classes", "negative_mass": "batch"},
        {"tau_plus": 0.1, "detach_weights": False},
        {"preset": "official", "tau_plus": 0.0},
    ],
}


@pytest.mark.parametrize("encoder", [embedder, tabular])
@pytest.mark.parametrize("kind", KINDS_OF_LOSSES)
def test_losses_of_different_kinds_in_one_stack(iris, kind, encoder):
    base = encoder(max_epochs=2, early_stopping=False, ce_weight=0.2)
    compare(base, KINDS_OF_LOSSES[kind], *iris)


def test_default_embedders(iris):
    base = HSCLEmbedder(random_state=0, precision="float64", max_epochs=6)
    compare(base, [{"beta": 0.5}, {"temperature": 0.1}, {}], *iris)


@pytest.mark.parametrize("encoder", [embedder, tabular])
def test_float32(iris, encoder):
    base = encoder(precision="float32", max_epochs=1, dropout=0.1, n_views=2)
    compare(base, [{"beta": 0.5}, {"temperature": 0.2}, {"lr": 0.01}], *iris, atol=1e-5)


# What may differ in a stack ---------------------------------------------------------


@pytest.mark.filterwarnings("ignore:beta=0.5 has no effect", "ignore:beta=3.0 has no eff")
@pytest.mark.parametrize("encoder", [embedder, tabular])
@pytest.mark.parametrize("loss", ["scl", "hscl", "hucl", "ucl", "schane", "supcon"])
def test_losses(iris, loss, encoder):
    base = encoder(loss=loss, max_epochs=2, n_views=2)
    compare(base, [{"beta": 0.5}, {"beta": 3.0}, {"temperature": 0.2}], *iris)


@pytest.mark.parametrize(
    ("hardening", "candidates"),
    [
        ("threshold", [{"threshold": -0.5}, {"threshold": 0.3}, {"temperature": 0.2}]),
        ("polynomial", [{"beta": 0.0}, {"beta": 3.0}]),
        ("top_k", [{"temperature": 0.2}, {"temperature": 0.7}]),
    ],
)
@pytest.mark.parametrize("encoder", [embedder, tabular])
def test_hardenings(iris, hardening, candidates, encoder):
    compare(encoder(hardening=hardening, max_epochs=2), candidates, *iris)


class Tilt:
    """A hardening whose class does not say which one it is."""

    def __init__(self, strength):
        self.strength = strength

    def __call__(self, similarity):
        return self.strength * similarity


class TiltWithFunction(Tilt):
    """One that cannot be pickled."""

    def __init__(self, strength):
        super().__init__(strength)
        self.unused = lambda: None


def tilt(similarity, strength):
    return strength * similarity


@pytest.mark.parametrize(
    "make", [Tilt, TiltWithFunction, lambda strength: partial(tilt, strength=strength)]
)
def test_hardenings_that_are_objects(iris, make):
    candidates = [{"hardening": make(strength)} for strength in (0.1, 5.0, 5.0)]
    first, second, third = compare(embedder(max_epochs=2), candidates, *iris)
    assert first.loss_curve_ != second.loss_curve_
    assert_array_equal(second.transform(iris[0]), third.transform(iris[0]))


def test_losses_that_are_objects(iris):
    losses = [
        ContrastiveLoss("hscl"),
        ContrastiveLoss("hscl", normalize=False),
        ContrastiveLoss("hscl", label_smoothing=0.2, ce_weight=0.5),
        ContrastiveLoss("hscl", ce_weight=0.5),
        ContrastiveLoss("hscl", beta=3.0, kernel="dense"),
    ]
    with_classes = [{"loss": loss} for loss in losses if loss.options.ce_weight]
    compare(embedder(max_epochs=2), with_classes, *iris)
    without = [{"loss": loss} for loss in losses if not loss.options.ce_weight]
    fitted = compare(embedder(max_epochs=2), without, *iris)
    assert len({one.loss_curve_[-1] for one in fitted}) == 3


def test_bandwidths_of_continuous_targets(iris):
    losses = [ContrastiveLoss("hscl", bandwidth=width) for width in (0.1, 3.0)]
    X = iris[0]
    first, second = compare(
        embedder(max_epochs=2), [{"loss": loss} for loss in losses], X, X[:, 0]
    )
    assert first.loss_curve_ != second.loss_curve_


def test_schedules_of_beta(iris):
    schedules = [LinearBeta(0.0, 4.0), CosineBeta(3.0, 1.0), 2.0, 0.0]
    compare(embedder(), [{"beta": beta} for beta in schedules], *iris)


def test_early_stopping_by_the_held_out_loss(iris):
    base = embedder(loss="hucl", early_stopping=True, max_epochs=8)
    compare(base, [{"tol": 0.5, "n_iter_no_change": 1}, {"tol": 0.0}, {"beta": 3.0}], *iris)


@pytest.mark.parametrize("ce_weights", [(0.0, 0.3, 1.0, 0.7), (0.5, 0.5, None, 0.0)])
def test_shares_of_cross_entropy(iris, ce_weights):
    together = [tabular(ce_weight=share, beta=k) for k, share in enumerate(ce_weights)]
    outcomes = fit_batched(together, TrainingSamples(*iris, seed=0))
    for fitted, outcome in zip(together, outcomes, strict=True):
        assert outcome.error is None
        is_only_one = fitted.ce_weight == 0.0  # that has no classifier
        expected = "no other candidate can be stacked with it" if is_only_one else None
        assert outcome.reason == expected
        assert_same_fit(fitted, clone(fitted).fit(*iris), iris[0])


@pytest.mark.parametrize("clip_norm", [None, 0.05])
@pytest.mark.parametrize("lr_schedule", ["cosine", "constant"])
def test_gradient_norm_and_learning_rate(iris, clip_norm, lr_schedule):
    base = embedder(clip_norm=clip_norm, lr_schedule=lr_schedule, max_epochs=2)
    compare(base, [{"lr": 1e-3}, {"lr": 1e-2}, {"beta": 4.0}], *iris)


class SlowStart:
    """A user's own schedule of the learning rate, whose copies are not equal."""

    def __call__(self, progress):
        return progress


def test_schedule_that_is_an_object(iris):
    compare(embedder(lr_schedule=SlowStart()), [{"lr": 1e-3}, {"lr": 1e-2}], *iris)


@pytest.mark.parametrize(
    "optimizer",
    [
        {"optimizer": torch.optim.SGD, "optimizer__momentum": 0.9},
        {"optimizer": torch.optim.Adam, "optimizer__foreach": True},
        {"optimizer": torch.optim.AdamW, "optimizer__amsgrad": True},
        {"optimizer": torch.optim.RMSprop},
        {"optimizer": torch.optim.NAdam},
        {"optimizer": torch.optim.Rprop},
        {"optimizer__param_groups": [("encoder*", {"lr": 1e-4})]},
    ],
    ids=lambda params: "-".join(f"{getattr(v, '__name__', v)}" for v in params.values()),
)
def test_optimizers_and_models_that_stop_early(iris, optimizer):
    base = embedder(net_params=optimizer, early_stopping=True, max_epochs=6)
    short = {"n_iter_no_change": 1, "tol": 1.0}
    candidates = [{"lr": 1e-3} | short, {"lr": 1e-2}, {"weight_decay": 0.1, "beta": 3.0}]
    together = compare(base, candidates, *iris)
    assert together[0].n_iter_ == 4  # the first of three trained epochs counts


def indicators(y):
    return np.stack([y > 0, y == 1], 1).astype(int)


KINDS = {
    "sparse": (embedder(), lambda X: csr_array(X), None),
    "images": (embedder(n_views=2), lambda X: X[:, :4].reshape(-1, 2, 2), None),
    "labels missing": (embedder(unlabeled_label=0), None, None),
    "multilabel": (embedder(early_stopping=True), None, indicators),
    "numbers": (embedder(early_stopping=True), None, lambda y: y + np.arange(150) / 7),
    "missing values": (tabular(), lambda X: np.where(X > 6, np.nan, X), None),
    "categories": (tabular(categorical_features=[0]), lambda X: np.floor(X), None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_data(iris, kind):
    base, rows, labels = KINDS[kind]
    X = iris[0] if rows is None else rows(iris[0])
    y = iris[1] if labels is None else labels(iris[1])
    compare(base, [{"beta": 0.0}, {"beta": 4.0}, {"lr": 0.01}], X, y)


@pytest.mark.parametrize("sampler", ["shuffle", "balanced", "stratified"])
def test_batches_of_unequal_size(iris, sampler):
    X, y = iris[0][:131], iris[1][:131]
    compare(embedder(sampler=sampler, batch_size=32), [{"beta": 0.0}, {"beta": 4.0}], X, y)


def test_seeds_that_are_drawn(iris):
    together = [embedder(random_state=None, beta=beta) for beta in (1.0, 1.0, 5.0)]
    assert all(
        outcome.reason is None
        for outcome in fit_batched(together, TrainingSamples(*iris, seed=0))
    )
    first, same, other = [fitted.transform(iris[0]) for fitted in together]
    assert_array_equal(first, same)  # candidates differ by their parameters alone
    assert np.abs(first - other).max() > 1e-8


@pytest.mark.parametrize("n_models", [1, 3])
def test_random_state_instance(iris, n_models):
    base = embedder(random_state=np.random.RandomState(3))
    together = [clone(base).set_params(beta=beta) for beta in range(n_models)]
    fit_batched(together, TrainingSamples(*iris, seed=0))
    for fitted in together:
        alone = clone(base).set_params(beta=fitted.beta).fit(*iris)
        assert_same_fit(fitted, alone, iris[0])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_linear_maps_have_derivatives_of_any_order():
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    weight = torch.nn.Parameter(draw(3, 2, 4))
    linear = ModelLinear(weight, None)
    for rows in (draw(5, 4), draw(3, 5, 4)):
        assert torch.autograd.gradgradcheck(linear, rows.clone().requires_grad_())

        def value(rows):
            return linear(rows).sin().sum()

        def plain(rows):
            return (rows @ weight.mT).sin().sum()

        for transform in (
            func.grad,
            func.hessian,
            lambda f: func.jacrev(func.jacrev(f)),
            lambda f: lambda z: func.vmap(func.grad(f))(torch.stack([z, -z])),
        ):
            torch.testing.assert_close(transform(value)(rows), transform(plain)(rows))
        with pytest.raises(NotImplementedError, match="one transform of forward mode"):
            func.jacfwd(func.jacfwd(value))(rows)
