"""Data are validated and prepared once for all that train on them."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.datasets import make_moons
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.data import dataframe, validation
from sklearn_hscl.data.categorical import TableColumns
from sklearn_hscl.data.missing import factorize
from sklearn_hscl.encoders.preprocessing import TablePreprocessor
from sklearn_hscl.model_selection import BatchedGridSearchCV
from sklearn_hscl.training import fitting, floor, prepared_data
from sklearn_hscl.training.batches.tensors import LabelledRows
from sklearn_hscl.training.prepared_data import complete_labels

N_FOLDS = 2
STEPS = {
    "validation": (fitting, "read_training_data"),
    "opening": (validation, "open_rows"),
    "levels of columns": (TableColumns, "learn"),
    "scales of columns": (TablePreprocessor, "fit"),
    "importance of features": (prepared_data, "feature_importance"),
    "tensors": (prepared_data, "to_tensors"),
}


@pytest.fixture
def calls(monkeypatch):
    """Count the calls of each step of preparation."""
    counts = Counter()

    def counted(step, function):
        def call(*args, **kwargs):
            if args[1:] and args[1] is None:  # X_val was not passed
                return function(*args, **kwargs)
            counts[step] += 1
            return function(*args, **kwargs)

        return call

    for step, (place, name) in STEPS.items():
        monkeypatch.setattr(place, name, counted(step, getattr(place, name)))
    return counts


def table(n_columns=20):
    """Return a table with a categorical column, and four classes."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(120, n_columns))).add_prefix("c")
    y = np.arange(120) % 4
    frame["colour"] = pd.Categorical(np.where(rng.random(120) < 0.8, y, 0).astype(str))
    return frame, y


GRIDS = {
    "numbers": {"beta": [0.0, 1.0], "temperature": [0.2, 0.5]},
    "hardenings": {"hardening": ["exponential", "polynomial"], "beta": [0.0, 1.0]},
    "batch sizes": {"batch_size": [32, 64, 128]},
    "encoders": {"encoder": ["tabular", "mlp"], "beta": [0.0, 1.0]},
    "random states": {"random_state": [0, 1]},
}
# What a parameter of the grid decides itself is prepared for each of its values.
PER_VALUE = {"random states": {"importance of features": 2}}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("refit", [False, True])
def test_a_search_prepares_each_fold_once(calls, name, refit):
    X, y = table()
    pipe = make_pipeline(
        HSCLEmbedder(max_epochs=1, random_state=0, encoder="tabular"), LogisticRegression()
    )
    grid = {f"hsclembedder__{key}": values for key, values in GRIDS[name].items()}
    BatchedGridSearchCV(pipe, grid, cv=N_FOLDS, refit=refit).fit(X, y)
    del calls["opening"]  # transform opens X, too
    values = PER_VALUE.get(name, {})
    expected = {step: N_FOLDS * values.get(step, 1) + refit for step in calls}
    assert calls == expected
    assert len(calls) == len(STEPS) - 1


def test_a_fit_factorizes_a_column_once(monkeypatch):
    rng = np.random.default_rng(0)
    values = {name: rng.choice(list("xyz"), 60) for name in "abcde"}
    frame = pd.DataFrame(values).astype({"a": "category", "b": object, "c": "string"})
    counts = Counter()

    def counted(column):
        counts[column.name] += 1
        return factorize(column)

    monkeypatch.setattr(dataframe, "factorize", counted)
    HSCLEmbedder(max_epochs=1, random_state=0).fit(frame, np.arange(60) % 2)
    assert counts == dict.fromkeys("abcde", 1)


def test_a_fit_prepares_its_data_once(calls):
    X, y = table()
    HSCLEmbedder(max_epochs=1, random_state=0).fit(X, y)
    assert calls == dict.fromkeys(STEPS, 1)


def test_auto_beta_prepares_its_data_once(calls):
    X, y = table()
    HSCLEmbedder(beta="auto", temperature="auto", max_epochs=1, random_state=0).fit(X, y)
    assert calls == dict.fromkeys(STEPS, 1)


def few_labels(X, y, labelled):
    """Return rows as the encoder takes them, of which some have labels."""
    codes = np.full(len(y), -1)
    codes[labelled] = y[labelled]
    return LabelledRows(torch.as_tensor(X).float(), torch.as_tensor(codes))


def test_missing_labels_follow_neighbors():
    X, y = make_moons(400, noise=0.05, random_state=0)
    few = few_labels(X, y, np.arange(0, 400, 20))
    before = few.targets.clone()
    completed = complete_labels(few, None)
    assert completed.rows is few.rows
    assert_array_equal(few.targets, before)
    known = before.numpy() >= 0
    assert_array_equal(completed.targets[known], before[known])
    linear = LogisticRegression().fit(X[known], y[known])
    assert (completed.targets.numpy() == y).mean() > linear.score(X, y) + 0.08


def test_missing_labels_follow_a_linear_model_where_neighbors_mislead():
    X = np.random.default_rng(0).normal(size=(600, 40))
    y = (X[:, :3].sum(1) > 0).astype(int)
    codes = complete_labels(few_labels(X, y, np.arange(100)), None).targets.numpy()
    neighbors = KNeighborsClassifier(10).fit(X[:100], y[:100])
    assert (codes == y)[100:].mean() > neighbors.score(X[100:], y[100:]) + 0.1


def test_equal_rows_get_the_larger_class():
    few = few_labels(np.ones((20, 3)), np.array([0, 1, 1] + 17 * [0]), [0, 1, 2])
    codes = complete_labels(few, None).targets
    assert_array_equal(codes, [0] + 19 * [1])


def test_rows_that_no_label_reaches_get_a_class():
    X = np.repeat([[0.0, 0.0], [1.0, 0.0], [50.0, 0.0]], 30, axis=0)
    X += np.random.default_rng(0).normal(scale=0.01, size=X.shape)
    y = np.repeat([0, 2, 2], 30)
    completed = complete_labels(few_labels(X, y, [0, 1, 30, 31]), None)
    assert_array_equal(completed.targets, y)


@pytest.mark.parametrize("labels", [np.arange(20) % 2, [1] + 19 * [-1], 20 * [-1]])
def test_labels_without_need_or_ground_for_predictions_are_kept(labels):
    rows = LabelledRows(torch.arange(40.0).reshape(20, 2), torch.as_tensor(labels))
    assert complete_labels(rows, None) is rows


class LabelsSeen(Callback):
    """Keeps the labels that the net is trained on."""

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        self.y = y


COMPLETED = {  # parameters, shape of a row, one label in so many rows
    "table": ({}, (20,), 6, True),
    "width": ({"n_components": 4}, (20,), 6, True),
    "mlp": ({"encoder": "mlp"}, (20,), 6, True),
    "many labels": ({}, (20,), 3, False),
    "cross_fit": ({"cross_fit": 2}, (20,), 6, False),
    "images": ({"encoder": "mlp"}, (1, 4, 5), 6, False),
    "module": ({"encoder": torch.nn.Linear(20, 4)}, (20,), 6, False),
}


@pytest.mark.parametrize(
    ("params", "shape", "every", "expected"), COMPLETED.values(), ids=COMPLETED
)
def test_training_learns_from_completed_labels(params, shape, every, expected):
    X = np.random.default_rng(0).normal(size=(120, *shape)).astype(np.float32)
    few = np.where(np.arange(120) % every, -1, np.arange(120) // every % 4)
    params = {"max_epochs": 1, "random_state": 0, "unlabeled_label": -1} | params
    embedder = HSCLEmbedder(net_callbacks=[LabelsSeen()], **params).fit(X, few)
    seen = next(c for _, c in embedder.net_.callbacks_ if isinstance(c, LabelsSeen)).y
    assert bool((seen >= 0).all()) == expected
    assert_array_equal(seen[few >= 0], few[few >= 0])


def test_readouts_learn_from_the_labels_that_were_passed(monkeypatch):
    X, y = make_moons(400, noise=0.05, random_state=0)
    few = np.where(np.arange(400) % 4, -1, y)
    seen = []
    of = floor.HeldOutReadout.of

    def remembered(train, held_out):
        seen.append(train)
        return of(train, held_out)

    monkeypatch.setattr(floor.HeldOutReadout, "of", remembered)
    params = {"unlabeled_label": -1, "early_stopping": True, "max_epochs": 1}
    HSCLEmbedder(validation_fraction=0.5, random_state=0, **params).fit(X, few)
    assert (seen[0].targets < 0).any()
