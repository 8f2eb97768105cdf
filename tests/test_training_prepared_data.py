"""Data are validated and prepared once for all that train on them."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.data import dataframe, validation
from sklearn_hscl.data.categorical import TableColumns
from sklearn_hscl.data.missing import factorize
from sklearn_hscl.encoders.preprocessing import TablePreprocessor
from sklearn_hscl.model_selection import BatchedGridSearchCV
from sklearn_hscl.training import fitting, prepared_data

N_FOLDS = 2
STEPS = {
    "validation": (fitting, "read_training_data"),
    "opening": (validation, "open_rows"),
    "levels of columns": (TableColumns, "learn"),
    "scales of columns": (TablePreprocessor, "fit"),
    "forests": (prepared_data, "grow_forests"),
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
PER_VALUE = {"random states": {"forests": 2}}


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
