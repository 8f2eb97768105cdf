"""What the tests of searches share: small estimators, and the search of scikit-learn."""

import re
import warnings

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.model_selection import BatchedGridSearchCV, BatchedRandomizedSearchCV

ORIGINALS = {
    BatchedGridSearchCV: GridSearchCV,
    BatchedRandomizedSearchCV: RandomizedSearchCV,
}
BETAS = {"embed__beta": [0.0, 3.0]}
SMOOTHINGS = {"classify__var_smoothing": [1e-9, 1.0]}


def embedder(**parameters):
    settings = {
        "encoder": "mlp",
        "hidden_layer_sizes": (8,),
        "n_components": 4,
        "batch_size": 64,
        "max_epochs": 2,
        "random_state": 0,
        "precision": "float64",
    }
    if not isinstance(parameters.get("encoder", "mlp"), str):
        del settings["hidden_layer_sizes"]
    return HSCLEmbedder(**(settings | parameters))


def pipeline(**parameters):
    steps = [("scale", StandardScaler()), ("embed", embedder(**parameters))]
    return Pipeline([*steps, ("classify", GaussianNB())])


def neighbors(estimator, X, y):
    """Score a bare embedder."""
    embedding = estimator.transform(X)
    return KNeighborsClassifier(3).fit(embedding, y).score(embedding, y)


def fit_both(
    estimator, grid, X, y, *, kind=BatchedGridSearchCV, fit_params=None, **options
):
    """Fit our search and scikit-learn's; check that they are the same."""
    options = {"cv": 3} | options
    ours, theirs = (
        kind(estimator, grid, **options),
        ORIGINALS[kind](estimator, grid, **options),
    )
    for search in (ours, theirs):
        search.fit(X, y, **(fit_params or {}))
    assert_same(ours, theirs, X)
    return ours


def assert_same(ours, theirs, X):
    assert_same_tables(ours.cv_results_, theirs.cv_results_)
    assert set(vars(ours)) - set(vars(theirs)) == {"batched_"}
    assert set(vars(theirs)) <= set(vars(ours))
    for name in ("best_index_", "best_params_", "n_splits_", "multimetric_"):
        assert getattr(ours, name, None) == getattr(theirs, name, None), name
    for name in ("classes_", "feature_names_in_", "n_features_in_"):
        found, expected = (_attribute(search, name) for search in (ours, theirs))
        assert_array_equal(found, expected)
    if hasattr(theirs, "best_score_"):
        assert_allclose(ours.best_score_, theirs.best_score_, atol=1e-12)
    if hasattr(theirs, "best_estimator_"):
        how = "predict" if hasattr(theirs, "predict") else "transform"
        found, expected = (getattr(search, how)(X) for search in (ours, theirs))
        assert_array_equal(found, expected)  # both were fitted by scikit-learn
    assert len(ours.batched_) == len(ours.cv_results_["params"])


def _attribute(search, name):
    try:
        return getattr(search, name)
    except Exception as error:  # as where nothing was refitted
        return type(error).__name__


def assert_same_tables(found, expected):
    assert list(found) == list(expected)
    for name, column in expected.items():
        if "_time" in name:
            assert found[name].shape == column.shape
            assert (found[name] >= 0).all()
        elif name == "params" or name.startswith("param_"):
            assert repr(found[name]) == repr(column), name
        else:
            assert found[name].dtype == column.dtype
            assert_allclose(found[name], column, atol=1e-12, err_msg=name)


def failure_of(search, X, y, **fit_params):
    """Return the error of a fit; None if there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            search.fit(X, y, **fit_params)
        except Exception as error:
            return error
    return None


def reasons(search):
    """Return why candidates were fitted one by one, each reason once; "" for stacked."""
    assert all(stacked == (not reason) for stacked, reason in search.batched_)
    return sorted({reason for _, reason in search.batched_})


def without_times(printed):
    """Return sorted lines of a verbose search, without what varies."""
    lines = [re.sub(r"\.{2,}", "..", line) for line in printed.splitlines()]
    return sorted(re.sub(r"total time=.*", "", line) for line in lines)


def some_rows(n_rows, seed=0):
    """Return rows of two overlapping classes, and their labels."""
    generator = np.random.default_rng(seed)
    y = np.arange(n_rows) % 2
    return generator.normal(size=(n_rows, 3)) + y[:, None], y
