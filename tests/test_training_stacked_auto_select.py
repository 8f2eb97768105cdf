"""beta="auto" and temperature="auto": chosen by the held-out score."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.model_selection import BatchedGridSearchCV
from sklearn_hscl.training.stacked.auto_select import BETAS, default_temperatures
from sklearn_hscl.training.stacked.train import train_stacked

X, Y = load_wine(return_X_y=True)


def embedder(**params):
    settings = {
        "encoder": "mlp",
        "hidden_layer_sizes": (16,),
        "max_epochs": 4,
        "early_stopping": True,
        "precision": "float64",
        "random_state": 0,
    }
    return HSCLEmbedder(**settings | params)


def best_score(fitted):
    return max(epoch["valid_score"] for epoch in fitted.history_)


@pytest.mark.parametrize("parameters", [{}, {"encoder": "tabular", "max_epochs": 8}])
def test_the_best_single_fit_is_what_is_kept(parameters):
    parameters = dict(parameters)
    if parameters:
        parameters |= {"hidden_layer_sizes": None, "early_stopping": "auto"}
    chosen = embedder(beta="auto", **parameters).fit(X, Y)
    alone = [embedder(beta=beta, **parameters).fit(X, Y) for beta in BETAS]
    best = max(alone, key=best_score)  # the first of equal ones
    assert chosen.beta_ == best.beta
    assert chosen.temperature_ == 0.5
    np.testing.assert_allclose(chosen.transform(X), best.transform(X), atol=1e-9)
    assert chosen.n_features_in_ == X.shape[1]
    assert chosen.best_epoch_ == best.best_epoch_


def test_both_are_chosen_together():
    chosen = embedder(beta="auto", temperature="auto").fit(X, Y)
    assert chosen.beta_ in BETAS
    assert chosen.temperature_ in default_temperatures(chosen.encoder)
    alone = embedder(beta=chosen.beta_, temperature=chosen.temperature_).fit(X, Y)
    np.testing.assert_allclose(chosen.transform(X), alone.transform(X), atol=1e-9)


def test_what_cannot_be_stacked_is_tried_one_by_one():
    chosen = embedder(beta="auto", net_params={"callbacks__print_log": None}).fit(X, Y)
    single = embedder(beta="auto", device_batch_size=8).fit(X, Y)
    assert single.beta_ == chosen.beta_


def test_given_numbers_are_what_the_loss_has():
    fitted = embedder(beta=2.0, temperature=0.3).fit(X, Y)
    assert (fitted.beta_, fitted.temperature_) == (2.0, 0.3)


def test_a_continued_fit_keeps_the_choice():
    fitted = embedder(beta="auto", warm_start=True).fit(X, Y)
    beta = fitted.beta_
    fitted.fit(X, Y)
    assert fitted.beta_ == beta
    assert fitted.n_iter_ == 8
    fitted.partial_fit(X, Y)
    assert fitted.beta_ == beta


def test_a_continued_fit_goes_on_as_a_single_one_would():
    chosen = embedder(beta="auto", warm_start=True).fit(X, Y)
    alone = embedder(beta=chosen.beta_, warm_start=True).fit(X, Y)
    np.testing.assert_allclose(
        chosen.fit(X, Y).transform(X), alone.fit(X, Y).transform(X), atol=1e-9
    )


def test_parameters_stay_as_they_were():
    fitted = embedder(beta="auto").fit(X, Y)
    assert fitted.beta == "auto"
    assert clone(fitted).get_params()["beta"] == "auto"


def test_the_same_seed_makes_the_same_choice():
    X, y = load_iris(return_X_y=True)
    first, again = (embedder(beta="auto").fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(first.transform(X), again.transform(X))


@pytest.mark.parametrize("random_state", [None, np.random.RandomState(3)])
def test_all_that_is_tried_sees_the_same_rows_and_random_numbers(random_state, monkeypatch):
    seen = []

    def train(runs):
        seen.extend(runs)
        return train_stacked(runs)

    monkeypatch.setattr("sklearn_hscl.training.stacked.auto_select.train_stacked", train)
    embedder(beta="auto", random_state=random_state).fit(X, Y)
    assert len(seen) == len(BETAS)
    assert len({run.seeds for run in seen}) == 1
    assert len({run.train.rows.data_ptr() for run in seen}) == 1


def test_a_loss_without_tilt_keeps_the_default():
    fitted = embedder(loss="scl", beta="auto", temperature="auto").fit(X, Y)
    assert fitted.beta_ == 1.0


def test_a_given_number_counts_in_a_continued_fit():
    fitted = embedder(temperature="auto", warm_start=True).fit(X, Y)
    temperature = fitted.temperature_
    fitted.set_params(beta=3.0).fit(X, Y)
    assert (fitted.beta_, fitted.temperature_) == (3.0, temperature)


class Branching(nn.Module):
    """A module whose way depends on the data, which no stack can follow."""

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(13, 4)

    def forward(self, rows):
        return self.map(rows if rows.abs().sum() > 0 else -rows)


def test_modules_that_cannot_be_stacked_are_tried_one_by_one():
    settings = {"encoder": Branching(), "hidden_layer_sizes": None}
    scaled = StandardScaler().fit_transform(X)
    chosen = embedder(beta="auto", **settings).fit(scaled, Y)
    alone = embedder(beta=chosen.beta_, **settings).fit(scaled, Y)
    np.testing.assert_allclose(chosen.transform(scaled), alone.transform(scaled), atol=1e-9)


@pytest.mark.parametrize("n_models", [1, 2])
def test_stacks_no_larger_than_memory(n_models, monkeypatch):
    expected = embedder(beta="auto").fit(X, Y)
    place = "sklearn_hscl.training.stacked.train.models_at_once"
    monkeypatch.setattr(place, lambda run: n_models)
    chosen = embedder(beta="auto").fit(X, Y)
    assert chosen.beta_ == expected.beta_
    np.testing.assert_allclose(chosen.transform(X), expected.transform(X), atol=1e-9)


def test_stacks_in_bf16():
    chosen = embedder(beta="auto", precision="bf16").fit(X, Y)
    assert np.isfinite(chosen.transform(X)).all()


def test_searches_leave_the_choice_to_the_fit():
    grid = {"beta": [1.0, "auto"]}
    search = BatchedGridSearchCV(
        embedder(), grid, scoring=_spread, cv=StratifiedKFold(2), refit=False
    )
    batched = search.fit(X, Y)
    assert "selects a value in each fit" in batched.batched_[1].reason
    assert np.isfinite(batched.cv_results_["mean_test_score"]).all()


def _spread(estimator, X, y):
    return float(estimator.transform(X).std())


@pytest.mark.parametrize("y", [None, X[:, 0], np.eye(3, dtype=int)[Y]])
def test_a_held_out_loss_cannot_choose(y):
    with pytest.raises(ValueError, match="requires class labels and held-out samples"):
        embedder(beta="auto").fit(X, y)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"early_stopping": False}, "Pass class labels, and early_stopping=True"),
        ({"loss": ContrastiveLoss("hscl")}, "loss is a ContrastiveLoss"),
        ({"beta": "best"}, "beta"),
    ],
)
def test_what_cannot_be_chosen(parameters, message):
    with pytest.raises(ValueError, match=message):
        embedder(**{"beta": "auto"} | parameters).fit(X, Y)


def test_pieces_hold_nothing_out():
    with pytest.raises(ValueError, match="partial_fit does not have"):
        embedder(temperature="auto").partial_fit(X, Y)
