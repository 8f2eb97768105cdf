"""Custom encoders in stacks, runs that cannot be stacked, and models that fail."""

import numpy as np
import pytest
import torch
from helpers.stacks import assert_same_fit, compare, embedder, tabular
from numpy.testing import assert_array_equal
from sklearn.base import clone
from skorch.callbacks import EpochTimer
from torch import nn

from sklearn_hscl.data.validation import FitInput
from sklearn_hscl.losses import ContrastiveLoss, LinearBeta
from sklearn_hscl.model_selection.fit_and_score import TrainingSamples, fit_batched
from sklearn_hscl.runtime.random_state import draw_seeds
from sklearn_hscl.training import fitting
from sklearn_hscl.training.build_run import FitStart
from sklearn_hscl.training.stacked.train import train_stacked

# Custom encoders ----------------------------------------------------------------------


class Residual(nn.Module):
    """Norm and dropout around a sum: an architecture that the library does not know."""

    def __init__(self, n_features):
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.5, 2.0, n_features))
        self.first = nn.Linear(n_features, 12)
        self.norm = nn.LayerNorm(12)
        self.second = nn.Sequential(nn.Dropout(0.2), nn.Linear(12, 12), nn.GELU())
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, rows):
        hidden = self.norm(self.first(rows * self.scale))
        return hidden + self.gain * self.second(hidden)


def make_residual(n_features, n_components):
    return nn.Sequential(Residual(n_features), nn.Linear(12, n_components))


def frozen_start(n_features, n_components):
    module = make_residual(n_features, n_components)
    module[0].first.requires_grad_(False)
    return module


class Unused(nn.Linear):
    """Has a weight that no output depends on."""

    def __init__(self, *shape):
        super().__init__(*shape)
        self.spare = nn.Parameter(torch.ones(3))


def tied(n_features):
    """Make layers that share a weight."""
    first, second = nn.Linear(n_features, n_features), nn.Linear(n_features, n_features)
    second.weight = first.weight
    return nn.Sequential(first, nn.ReLU(), second)


OWN = {
    "module": Residual(4),
    "factory": make_residual,
    "frozen": frozen_start,
    "unused": Unused(4, 3),
}


@pytest.mark.parametrize("own", OWN)
def test_users_own_encoder(iris, own):
    base = embedder(encoder=OWN[own], early_stopping=True, n_components=None, n_views=2)
    if own in ("factory", "frozen"):
        base.set_params(n_components=5)
    short = {"n_iter_no_change": 1, "tol": 1.0}
    compare(base, [{"lr": 0.01}, {"beta": 4.0, "weight_decay": 0.1}, short], *iris)


class Counting(nn.Linear):
    """Changes a buffer in training: as a stack, the models would not get it."""

    def __init__(self, *shape):
        super().__init__(*shape)
        self.register_buffer("mean", torch.zeros(shape[0]))

    def forward(self, rows):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * rows.mean(0)
        return super().forward(rows - self.mean)


class Branching(nn.Linear):
    """Asks for a number, which torch.func cannot give for several models."""

    def forward(self, rows):
        out = super().forward(rows)
        return out if out.sum().item() > 0 else out.clone()


ALONE = {
    "batch statistics": nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)),
    "stacked training failed: RuntimeError": Branching(4, 3),
    "changes its buffers": Counting(4, 3),
    "tied weights": tied(4),
}


@pytest.mark.parametrize("reason", ALONE)
def test_encoders_that_must_go_alone(iris, reason):
    base = embedder(encoder=ALONE[reason], n_components=None)
    assert_alone(base, [{"beta": 1.0}, {"beta": 4.0}], iris, reason)


def assert_alone(base, candidates, data, reason):
    """Check that copies of `base` are trained one by one, for this reason."""
    together = [clone(base).set_params(**params) for params in candidates]
    for fitted, outcome in zip(
        together, fit_batched(together, TrainingSamples(*data, seed=0)), strict=True
    ):
        assert outcome.error is None
        assert reason in outcome.reason
        assert_same_fit(fitted, clone(fitted).fit(*data), data[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
@pytest.mark.parametrize(
    ("reason", "parameters"),
    [
        ("compile=True", {"compile": True, "net_params": {"compile__backend": "eager"}}),
        ("device_batch_size=16", {"device_batch_size": 16}),
        ("Adafactor does not", {"net_params": {"optimizer": torch.optim.Adafactor}}),
        ("net_callbacks=['watch']", {"net_callbacks": [("watch", EpochTimer())]}),
        ("synthetic negatives", {"loss": "sscl"}),
    ],
)
def test_settings_that_must_go_alone(iris, reason, parameters):
    assert_alone(embedder(max_epochs=2, **parameters), [{}, {"beta": 3.0}], iris, reason)


class LearnedScale(ContrastiveLoss):
    """A loss with a weight of its own, which the optimizer trains too."""

    def __init__(self):
        super().__init__("hscl")
        self.log_scale = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, *args, return_stats=False, **kwargs):
        value, stats = super().forward(*args, return_stats=True, **kwargs)
        value = value * self.log_scale.exp() - self.log_scale
        return (value, stats) if return_stats else value


def test_drawn_negatives_must_go_alone(iris):
    base = embedder(loss=ContrastiveLoss(n_sampled=2), max_epochs=2)
    assert_alone(base, [{"lr": 0.01}, {"lr": 0.1}], iris, "draws negatives for one model")


def test_losses_of_users_must_go_alone(iris):
    candidates = [{"lr": 0.01}, {"lr": 0.1}]
    assert_alone(embedder(loss=LearnedScale()), candidates, iris, "LearnedScale")


def test_nobody_of_the_same_form(iris):
    assert_alone(embedder(), [{}], iris, "no other candidate can be stacked with it")
    candidates = [{"n_components": 3}, {"n_components": 4}]
    assert_alone(embedder(), candidates, iris, "no other candidate can be stacked with it")


# Failures ---------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", [embedder, tabular])
@pytest.mark.parametrize("batch_size", [64, 256])  # in the first epoch; in the last step
def test_a_model_that_diverges_fails_alone(iris, encoder, batch_size):
    base = encoder(
        max_epochs=1, lr_schedule="constant", precision="float32", batch_size=batch_size
    )
    rates = (1e-3, 1e38, 1e-2)
    together = [clone(base).set_params(lr=lr) for lr in rates]
    good, bad, also_good = fit_batched(together, TrainingSamples(*iris, seed=0))
    with pytest.raises(FloatingPointError) as expected:
        clone(base).set_params(lr=1e38).fit(*iris)
    assert isinstance(bad.error, FloatingPointError)
    assert str(bad.error) == str(expected.value)
    assert not hasattr(together[1], "module_")
    assert good.error is None and also_good.error is None
    for fitted in (together[0], together[2]):
        assert_same_fit(fitted, clone(fitted).fit(*iris), iris[0], atol=1e-3)


def test_invalid_parameters_fail_alone(iris):
    together = [embedder(temperature=temperature) for temperature in (0.5, -1, 0.2)]
    outcomes = fit_batched(together, TrainingSamples(*iris, seed=0))
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert "'temperature' parameter" in str(outcomes[1].error)
    assert [outcome.reason for outcome in outcomes] == [None] * 3


class Shrinking(LinearBeta):
    """A schedule that fails in its third epoch."""

    def beta_at(self, progress):
        return 1.0 - 2 * progress


def test_a_schedule_that_fails(iris):
    together = [embedder(beta=beta) for beta in (1.0, Shrinking(0.0, 1.0), 3.0)]
    good, bad, also_good = fit_batched(together, TrainingSamples(*iris, seed=0))
    assert "must be >= 0" in str(bad.error)
    assert good.error is None and also_good.error is None
    assert_same_fit(together[0], clone(together[0]).fit(*iris), iris[0])
    assert_same_fit(together[2], clone(together[2]).fit(*iris), iris[0])


def test_all_models_fail(iris):
    together = [embedder(beta=Shrinking(0.0, 1.0), lr=lr) for lr in (0.1, 0.2)]
    assert all(
        "must be >= 0" in str(o.error)
        for o in fit_batched(together, TrainingSamples(*iris, seed=0))
    )


def test_ctrl_c_ends_all(iris):
    class Interrupt(nn.Linear):
        def forward(self, rows):
            if self.training:
                raise KeyboardInterrupt
            return super().forward(rows)

    together = [
        embedder(encoder=Interrupt(4, 2), n_components=None, lr=lr) for lr in (1, 2)
    ]
    with pytest.raises(KeyboardInterrupt):
        fit_batched(together, TrainingSamples(*iris, seed=0))
    assert not hasattr(together[0], "module_")


def test_models_are_apart_after_training(iris):
    one, other = compare(embedder(max_epochs=2), [{"beta": 1.0}, {"beta": 2.0}], *iris)
    before = other.transform(iris[0])
    with torch.no_grad():
        for weight in one.module_.parameters():
            assert weight.untyped_storage().nbytes() == weight.nbytes
            weight.zero_()
    assert_array_equal(other.transform(iris[0]), before)


def test_best_weights_are_no_copies_of_the_stack(iris):
    embedders = [embedder(early_stopping=True, beta=beta) for beta in range(3)]
    data = fitting.read_data(embedders[0], FitInput(*iris))
    seeds = draw_seeds(0)
    runs = [
        fitting.prepare_run(each, data, FitStart(seeds), fitting.given_scales(each))
        for each in embedders
    ]
    assert train_stacked(runs) == [None] * 3
    for run in runs:
        for weight in run.monitors[0].best_weights_.values():
            assert weight.untyped_storage().nbytes() == weight.nbytes


def test_global_state_is_left_alone(iris):
    torch_state = torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    settings = {"dropout": 0.1, "random_state": None}
    fit_batched(
        [embedder(beta=beta, **settings) for beta in (0.0, 1.0)],
        TrainingSamples(*iris, seed=0),
    )
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
