"""Early stopping on held-out rows, with the best weights."""

from functools import partial

import numpy as np
import pytest
import sklearn
import torch
from sklearn.datasets import load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.preprocessing import normalize as unit

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.data.training_data import LabelledArrays
from sklearn_hscl.training.callbacks import early_stopping
from sklearn_hscl.training.callbacks.early_stopping import (
    HeldOutEarlyStopping,
    neighbor_votes,
)
from sklearn_hscl.training.prepared_data import split_held_out


def embedder(**parameters):
    options = {"max_epochs": 12, "random_state": 0, "early_stopping": True}
    return HSCLEmbedder(**(options | parameters))


def best_epoch(history, first=1):
    """Return the epoch with the best score, of equal ones that with the lowest loss."""
    keys = [(-e["valid_score"], e.get("valid_loss", 0.0)) for e in history]
    return first + min(range(len(keys[first - 1 :])), key=keys[first - 1 :].__getitem__)


@pytest.mark.parametrize("loss", ["hucl", "hscl"])
def test_best_epoch_and_its_weights(iris, loss):
    X, y = iris
    steady = partial(embedder, loss=loss, lr_schedule="constant", encoder="mlp")
    fitted = steady(n_iter_no_change=3).fit(X, y)
    assert fitted.best_epoch_ == best_epoch(fitted.history_, first=6)
    assert fitted.n_iter_ <= 12
    # The same run cut off at the best epoch ends with the same weights.
    cut = steady(max_epochs=fitted.best_epoch_).fit(X, y)
    np.testing.assert_array_equal(cut.transform(X), fitted.transform(X))


# Scores and losses of the epochs; the epochs from which one is retained begin with the
# second of four (half of max_epochs). The last columns: the epoch retained, and epochs.
SCRIPTS = {
    "ties go to the lower loss": ([0.9] * 4, [4, 3, 1, 2], 3, 4),
    "equal losses, too: the earlier epoch": ([0.9] * 4, [1, 1, 1, 1], 2, 4),
    "a lower loss does not replace a better score": ([0, 0.9, 0.8, 0.8], [1] * 4, 2, 4),
    "the first epoch is hardly trained": ([1.0, 0.5, 0.6, 0.5], [0] * 4, 3, 4),
    "NaN is the worst score": ([np.nan, np.nan, 0.1, np.nan], [0] * 4, 3, 4),
    "NaN is the worst loss": ([0.9] * 4, [np.nan, 2, np.nan, np.nan], 2, 4),
}


@pytest.mark.parametrize(
    ("scores", "losses", "best", "n_epochs"), SCRIPTS.values(), ids=SCRIPTS
)
def test_retained_epoch(iris, monkeypatch, scores, losses, best, n_epochs):
    script = iter(scores), iter(losses)
    for name, values in zip(("score", "loss"), script, strict=True):
        monkeypatch.setattr(
            HeldOutEarlyStopping, name, lambda self, net, values=values: next(values)
        )
    fitted = embedder(encoder="mlp", max_epochs=4, n_iter_no_change=3).fit(*iris)
    assert (fitted.best_epoch_, fitted.n_iter_) == (best, n_epochs)
    assert "valid_loss" in fitted.history_[0]


# Errors of four rows in the second, third and last epoch of four; the epoch retained.
ERRORS = {
    "lower by less than the standard error": ([4, 4, 4, 4], [0, 4, 4, 7], [4] * 4, 2),
    "lower by more": ([4, 4, 4, 4], [3, 3, 3, 4], [3, 3, 3, 4], 3),
    "lower by more in two epochs": ([4, 4, 4, 4], [1, 4, 4, 4], [1, 3, 3, 3], 4),
    "higher": ([4, 4, 4, 4], [5, 5, 5, 5], [5, 5, 5, 5], 2),
    "all the same": ([4, 4, 4, 4], [4, 4, 4, 4], [4, 4, 4, 4], 2),
    "lower by less, in many rows": ([4] * 80, [0] + [4] * 78 + [7], [4] * 80, 3),
}


@pytest.mark.parametrize("target_type", ["continuous", "multilabel"])
@pytest.mark.parametrize(("second", "third", "last", "best"), ERRORS.values(), ids=ERRORS)
def test_later_epochs_are_better_beyond_chance(
    monkeypatch, target_type, second, third, last, best
):
    epochs = iter([[9.0] * len(second), second, third, last])

    def errors(outputs, targets, kind):
        return torch.tensor(next(epochs), dtype=torch.float32)

    monkeypatch.setattr(early_stopping, "squared_errors", errors)
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(40, 3)), rng.integers(0, 2, (40, 2))
    options = {"max_epochs": 4, "validation_fraction": 0.1, "n_iter_no_change": 9}
    options["n_members"] = 1  # several would score the samples that they do not see
    fitted = embedder(encoder="tabular", target_type=target_type, **options).fit(X, Y)
    assert fitted.best_epoch_ == best


@pytest.mark.parametrize(
    ("params", "n_epochs"),
    [
        ({"max_epochs": 9}, 7),  # half of the epochs, as 50 steps are more
        ({"max_epochs": 9, "batch_size": 8}, 5),  # 50 steps: three epochs of 17
        ({"max_epochs": 3}, 3),
    ],
)
def test_patience_begins_with_the_first_trained_epoch(iris, params, n_epochs):
    steady = embedder(encoder="mlp", n_iter_no_change=2, tol=20.0, **params)
    assert steady.fit(*iris).n_iter_ == n_epochs


def test_a_loss_that_falls_counts_as_improvement(iris):
    X, y = iris
    is_easy = y < 2  # which every epoch classifies without error
    easy = embedder(encoder="mlp", n_iter_no_change=2, max_epochs=16)
    fitted = easy.fit(X[is_easy], y[is_easy])
    scores = [epoch["valid_score"] for epoch in fitted.history_]
    assert set(scores[7:]) == {1.0}
    assert fitted.n_iter_ == 16
    assert fitted.best_epoch_ > 8


def test_a_fit_that_continues_may_retain_its_first_epoch(iris, monkeypatch):
    fitted = embedder(encoder="mlp", warm_start=True, max_epochs=4).fit(*iris)
    scores = iter([0.9, 0.8, 0.7, 0.6])
    monkeypatch.setattr(HeldOutEarlyStopping, "score", lambda self, net: next(scores))
    assert fitted.fit(*iris).best_epoch_ == 5


# Members score their own folds where few samples would be held out.
FOLDS = {
    "few samples": ({}, 150, True),
    "many samples": ({"validation_fraction": 0.8}, 150, False),
    "too few samples for folds": ({}, 36, False),
    "one member": ({"n_members": 1}, 150, False),
    "no classifier": ({"ce_weight": 0}, 150, False),
    "another encoder": ({"encoder": "mlp"}, 150, False),
    "no classes": ({"loss": "ucl"}, 150, False),
}


@pytest.mark.parametrize(("params", "n_rows", "by_folds"), FOLDS.values(), ids=FOLDS)
def test_few_samples_are_scored_by_members(iris, params, n_rows, by_folds):
    X, y = (values[:: 150 // n_rows] for values in iris)
    fitted = embedder(max_epochs=3, **params).fit(X, y)
    name = "negative Brier score"
    assert (fitted.valid_score_name_ == name) == by_folds
    if by_folds:
        auto = embedder(max_epochs=3, early_stopping="auto", **params).fit(X, y)
        np.testing.assert_array_equal(auto.transform(X), fitted.transform(X))


def test_given_samples_replace_the_folds(iris):
    X, y = iris
    fitted = embedder(max_epochs=3).fit(X[::2], y[::2], X_val=X[1::2], y_val=y[1::2])
    assert fitted.valid_score_name_ == "k-NN accuracy"


@pytest.mark.parametrize("load", [load_iris, load_wine])
def test_small_tables_keep_trained_weights(load):
    X, y = load(return_X_y=True)
    for seed in range(3):
        fitted = HSCLEmbedder(encoder="mlp", early_stopping=True, random_state=seed)
        fitted.fit(X, y)
        decrease = fitted.chance_loss_ - np.array(fitted.loss_curve_)
        assert decrease[fitted.best_epoch_ - 1] > 0.5 * decrease.max()


def test_score_is_that_of_nearest_neighbors(iris):
    X, y = iris
    X_train, X_val, y_train, y_val = train_test_split(X, y, random_state=0)
    fitted = embedder(max_epochs=1).fit(X_train, y_train, X_val=X_val, y_val=y_val)
    neighbors = KNeighborsClassifier(5).fit(unit(fitted.transform(X_train)), y_train)
    expected = neighbors.score(unit(fitted.transform(X_val)), y_val)
    assert fitted.history_[0]["valid_score"] == pytest.approx(expected)


def test_votes_break_ties_to_the_first_class():
    train = torch.eye(4)
    labels = torch.tensor([2, 1, 1, 2])
    assert neighbor_votes(torch.ones(1, 4), train, labels).tolist() == [1]


def test_held_out_rows_are_not_trained_on(iris):
    X, y = iris
    given = embedder(max_epochs=2).fit(X[:100], y[:100], X_val=X[40:60], y_val=y[40:60])
    plain = embedder(max_epochs=2, early_stopping=False).fit(X[:100], y[:100])
    assert given.history_[0]["train_loss"] == plain.history_[0]["train_loss"]


def test_unlabelled_held_out_rows(iris):
    X, _ = iris
    fitted = embedder(loss="ucl").fit(X[:100], X_val=X[100:])
    scores = [epoch["valid_score"] for epoch in fitted.history_]
    assert max(scores) < 0  # minus a loss
    assert fitted.best_epoch_ == best_epoch(fitted.history_, first=6)


def test_validation_rows_pass_through_a_pipeline(iris):
    X, y = iris
    with sklearn.config_context(enable_metadata_routing=True):
        pipe = Pipeline(
            [
                ("scale", StandardScaler()),
                ("embed", embedder().set_fit_request(X_val=True, y_val=True)),
                ("classify", LogisticRegression()),
            ],
            transform_input=["X_val"],
        )
        pipe.fit(X[::2] * 1000, y[::2], X_val=X[1::2] * 1000, y_val=y[1::2])
    assert max(e["valid_score"] for e in pipe["embed"].history_) > 0.9


@pytest.mark.parametrize(
    ("parameters", "arguments", "message"),
    [
        ({"early_stopping": False}, {"X_val": [[0] * 4], "y_val": [0]}, "early_stopping"),
        ({}, {"X_val": [[0] * 4]}, "X_val needs y_val"),
        ({}, {"y_val": [0]}, "y_val .* without X_val"),
        ({}, {"X_val": [[0] * 3], "y_val": [0]}, "X_val .* X has 3 features"),
        (
            {},
            {"X_val": [[0] * 4], "y_val": [9]},
            r"y_val .* it contains the labels \[9\]",
        ),
        ({}, {"X_val": [[0] * 4], "y_val": [0, 1]}, "y_val .* inconsistent numbers"),
        ({}, {"X_val": [[np.inf] * 4], "y_val": [0]}, "X_val cannot be used.*inf"),
        ({}, {"X_val": [[0] * 4], "y_val": ["a"]}, r"y_val .* labels \['a'\]"),
        ({"loss": "ucl"}, {"X_val": [[0] * 4]}, "at least 2 held-out rows"),
    ],
)
def test_bad_validation_data(iris, parameters, arguments, message):
    with pytest.raises(ValueError, match=message):
        embedder(**parameters).fit(*iris, **arguments)


def split(codes, fraction=0.2):
    rows = np.arange(len(codes))[:, None]
    return split_held_out(LabelledArrays(rows, np.asarray(codes)), fraction, 0)


def test_split_is_stratified_where_it_can_be():
    train, held_out = split([0] * 80 + [1] * 20)
    assert np.bincount(held_out.targets).tolist() == [16, 4]
    assert np.bincount(train.targets).tolist() == [64, 16]
    both = np.concatenate([train.rows, held_out.rows])[:, 0]
    assert sorted(both) == list(range(100))


def test_split_works_with_single_rows_of_a_class():
    train, held_out = split([0] * 10 + [1] * 9 + [2])
    assert len(train.rows) == 16
    assert len(held_out.rows) == 4
