"""Searches on a second device find what they find on the CPU."""

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import Pipeline

from second_device.agreement import assert_agree, embedder
from second_device.backend import REFUSED_DTYPES
from sklearn_hscl.model_selection import BatchedGridSearchCV, evaluator, hardness_path
from sklearn_hscl.runtime import device as devices

GRIDS = {
    "beta": {"embed__beta": [0.0, 5.0]},
    "temperature": {"embed__temperature": [0.2, 0.5]},
    "rate": {"embed__lr": [1e-3, 1e-2]},
    "loss": {"embed__loss": ["scl", "hscl"]},
    "classifier": {"classify__var_smoothing": [1e-9, 1.0]},
}


@pytest.fixture
def few(table):
    return table[0][::2], table[1][::2]


def scores(device, search, grid, X, y, **parameters):
    model = embedder(device, precision="float64", **parameters)
    pipe = Pipeline([("embed", model), ("classify", GaussianNB())])
    fitted = search(pipe, grid, cv=2).fit(X, y)
    return fitted.cv_results_["mean_test_score"], fitted.predict_proba(X)


@pytest.mark.parametrize("search", [GridSearchCV, BatchedGridSearchCV])
@pytest.mark.parametrize("name", GRIDS)
def test_grids(few, search, name):
    assert_agree(lambda device: scores(device, search, GRIDS[name], *few), 1e-7)


@pytest.mark.parametrize("search", [GridSearchCV, BatchedGridSearchCV])
def test_members(few, search):
    grid = GRIDS["beta"]
    parameters = {"encoder": "tabular", "n_members": 3, "max_epochs": 1}
    assert_agree(lambda d: scores(d, search, grid, *few, **parameters), 1e-7)


def test_both_searches_are_one(few):
    grid = GRIDS["beta"]
    one, other = (
        scores("second", search, grid, *few)
        for search in (GridSearchCV, BatchedGridSearchCV)
    )
    np.testing.assert_allclose(one[1], other[1], atol=1e-7)


def test_hardness_path(few):
    def path(device):
        found = hardness_path(embedder(device, precision="float64"), *few, cv=2)
        return np.asarray(found.scores)

    assert_agree(path, 1e-7)


def test_stacks_without_float64(few, monkeypatch):
    """As on mps."""
    monkeypatch.setattr(devices.Accelerator, "widest_float", torch.float32)
    grid = GRIDS["beta"]

    def found(device):
        REFUSED_DTYPES.clear()
        if device != "cpu":
            REFUSED_DTYPES.add(torch.float64)
        model = Pipeline([("embed", embedder(device)), ("classify", GaussianNB())])
        fitted = BatchedGridSearchCV(model, grid, cv=2).fit(*few)
        return fitted.predict_proba(few[0])

    assert_agree(found, 1e-3)


@pytest.mark.parametrize(("device", "expected"), [("cpu", 3), ("second", 1)])
def test_stacks_fit_the_caches_of_a_cpu_alone(few, monkeypatch, device, expected):
    parts = []
    split = evaluator._split_evenly

    def recorded(items, n_parts):
        parts.append(n_parts)
        return split(items, n_parts)

    monkeypatch.setattr(evaluator, "_split_evenly", recorded)
    monkeypatch.setattr(evaluator, "_MAX_PAIRS_ON_CPU", 2)
    model = Pipeline([("embed", embedder(device)), ("classify", GaussianNB())])
    grid = {"embed__beta": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]}
    BatchedGridSearchCV(model, grid, cv=2, refit=False).fit(*few)
    assert parts == 2 * [expected]


@pytest.mark.parametrize(
    ("device", "has_gpu", "on_cpu"),
    [
        ("auto", True, False),
        ("auto", False, True),
        ("cpu", True, True),
        ("second", False, False),
        ("nonsense", False, True),
    ],
)
def test_stacks_are_cut_for_the_device_that_trains(monkeypatch, device, has_gpu, on_cpu):
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    assert evaluator.runs_on_cpu(device) is on_cpu
