"""Early stopping on held-out rows, with the best weights."""

from functools import partial

import numpy as np
import pytest
import sklearn
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.preprocessing import normalize as unit

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.data.training_data import LabelledArrays
from sklearn_hscl.training.callbacks.early_stopping import neighbor_votes
from sklearn_hscl.training.prepared_data import split_held_out


def embedder(**parameters):
    options = {"max_epochs": 12, "random_state": 0, "early_stopping": True}
    return HSCLEmbedder(**(options | parameters))


def best_epoch(history):
    return 1 + int(np.argmax([epoch["valid_score"] for epoch in history]))


@pytest.mark.parametrize("loss", ["hucl", "hscl"])
def test_best_epoch_and_its_weights(iris, loss):
    X, y = iris
    steady = partial(embedder, loss=loss, lr_schedule="constant")
    fitted = steady(n_iter_no_change=3).fit(X, y)
    assert fitted.best_epoch_ == best_epoch(fitted.history_)  # ties: the earlier one
    assert fitted.n_iter_ <= 12
    # The same run cut off at the best epoch ends with the same weights.
    cut = steady(max_epochs=fitted.best_epoch_).fit(X, y)
    np.testing.assert_array_equal(cut.transform(X), fitted.transform(X))


def test_patience(iris):
    fitted = embedder(n_iter_no_change=2, tol=2.0, max_epochs=9).fit(*iris)
    assert fitted.n_iter_ == 3  # the first epoch counts, two others do not


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
    assert fitted.best_epoch_ == best_epoch(fitted.history_)


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
