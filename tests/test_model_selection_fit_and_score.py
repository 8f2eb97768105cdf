"""A search fails as scikit-learn's does; candidates of a stack fail one by one."""

import re
import warnings

import numpy as np
import pytest
from helpers.searches import (
    BETAS,
    SMOOTHINGS,
    assert_same_tables,
    embedder,
    failure_of,
    neighbors,
    pipeline,
    reasons,
)
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_hscl.losses import LinearBeta
from sklearn_hscl.model_selection import BatchedGridSearchCV

BOTH = (BatchedGridSearchCV, GridSearchCV)


def warnings_of(search, X, y):
    """Fit; return the texts of the warnings, by category."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        search.fit(X, y)
    return [(warning.category, str(warning.message)) for warning in caught]


def compare_failures(estimator, grid, X, y, cause, **options):
    """Check that some candidates fail, with the same results and the same warnings."""
    ours, theirs = (kind(estimator, grid, **{"cv": 3} | options) for kind in BOTH)
    found, expected = warnings_of(ours, X, y), warnings_of(theirs, X, y)
    assert_same_tables(ours.cv_results_, theirs.cv_results_)
    assert [category for category, _ in found] == [category for category, _ in expected]
    texts = [dict(pairs)[FitFailedWarning] for pairs in (found, expected)]
    assert counts(texts[0]) == counts(texts[1])
    assert all(cause in text for text in texts)
    return ours


def counts(text):
    """Return how many fits failed, in all and with each error."""
    return re.findall(r"(\d+) fits failed", text)


class Shrinking(LinearBeta):
    """Schedule of beta that fails in the second epoch."""

    def beta_at(self, progress):
        return 1 - 2 * progress


def refuse(X):
    raise OSError("no such file")


CANDIDATES_THAT_FAIL = {
    "'temperature' parameter of HSCLEmbedder": {"embed__temperature": [0.5, -1]},
    "which must be >= 0": {"embed__beta": [1.0, Shrinking(0, 1), 0.0]},
    "DivergenceError": {"embed__lr": [1e-3, 1e38], "embed__lr_schedule": ["constant"]},
    "'batch_size' parameter": {"embed__batch_size": [64, 0, "many"]},
    "'var_smoothing' parameter": {"classify__var_smoothing": [1e-9, -1.0], **BETAS},
    "encoder='mlpp'": {"embed__encoder": ["mlp", "mlpp"]},
}


@pytest.mark.parametrize("cause", CANDIDATES_THAT_FAIL)
def test_some_candidates_fail(iris, cause):
    grid = CANDIDATES_THAT_FAIL[cause]
    cause = "'encoder' parameter" if "mlpp" in cause else cause
    search = compare_failures(pipeline(), grid, *iris, cause, return_train_score=True)
    assert np.isnan(search.cv_results_["mean_test_score"]).any()


def test_a_step_before_the_embedder_fails(iris):
    grid = {"scale": [StandardScaler(), FunctionTransformer(refuse)], **BETAS}
    search = compare_failures(pipeline(), grid, *iris, "no such file")
    assert reasons(search) == ["", "a step before the embedder failed"]


def test_a_number_for_failures(iris):
    grid = {"embed__temperature": [0.5, -1], **SMOOTHINGS}
    search = compare_failures(
        pipeline(), grid, *iris, "'temperature' parameter", error_score=-7
    )
    assert (search.cv_results_["mean_test_score"] == -7).sum() == 2


def as_dict(estimator, X, y):
    return {"one": estimator.score(X, y), "half": estimator.score(X, y) / 2}


@pytest.mark.parametrize("scoring", [as_dict, ["accuracy", "f1_macro"]])
def test_failures_under_several_metrics(iris, scoring):
    grid = {"embed__temperature": [-1, 0.5]}  # the first one fails
    compare_failures(
        pipeline(), grid, *iris, "'temperature' parameter", scoring=scoring, refit=False
    )


def test_failures_in_one_fold(iris):
    X = iris[0].copy()
    X[0] = np.inf  # a training row of two of three folds
    compare_failures(
        embedder(), {"beta": [0.0, 1.0]}, X, iris[1], "row 0", scoring=neighbors,
        cv=StratifiedKFold(3), refit=False, error_score=0.0,
    )  # fmt: skip


# Prefitted candidates ---------------------------------------------------------------


def type_score(estimator, X, y):
    """Score whether it is a completed pipeline with a method of its class."""
    is_complete = type(estimator) is Pipeline and "fit" not in vars(estimator)
    return float(is_complete and len(estimator[:2].transform(X)) == len(y))


@pytest.mark.parametrize("scoring", [type_score, {"one": type_score, "two": type_score}])
def test_scorers_get_the_candidate_itself(iris, scoring):
    search = BatchedGridSearchCV(pipeline(), BETAS, cv=2, scoring=scoring, refit=False)
    search.fit(*iris)
    assert reasons(search) == [""]
    columns = [name for name in search.cv_results_ if name.startswith("mean_test_")]
    assert all((search.cv_results_[name] == 1).all() for name in columns)


def test_a_scorer_that_fails_is_named_as_by_scikit_learn(iris):
    texts = [
        str(failure_of(kind(pipeline(), BETAS, cv=2, scoring=text_score), *iris))
        for kind in BOTH
    ]
    assert texts[0] == texts[1]
    assert "text_score" in texts[0]


# Errors of the search as a whole ----------------------------------------------------


class Inconsistent:
    """Splitter that announces another number of splits."""

    def get_n_splits(self, X=None, y=None, groups=None):
        return 3

    def split(self, X, y=None, groups=None):
        yield np.arange(100), np.arange(100, 150)


class WithoutSplits(Inconsistent):
    """Splitter that makes none."""

    def get_n_splits(self, X=None, y=None, groups=None):
        return 0

    def split(self, X, y=None, groups=None):
        return iter([])


def by_name(table):
    return "first"


def out_of_range(table):
    return 100


def broken_score(estimator, X, y):
    raise ArithmeticError("no score today")


def text_score(estimator, X, y):
    return "good"


ERRORS = {
    "all fail": ({"embed__temperature": [-1, -2]}, {}),
    "raise": ({"embed__temperature": [0.5, -1]}, {"error_score": "raise"}),
    "raise in a step after": (
        {"classify__var_smoothing": [-1.0]} | BETAS,
        {"error_score": "raise"},
    ),
    "raise in a step before": (
        {"scale": [FunctionTransformer(refuse)]} | BETAS,
        {"error_score": "raise"},
    ),
    "unknown parameter": ({"embed__nothing": [1, 2]}, {}),
    "unknown step": ({"nobody__beta": [1, 2]}, {}),
    "unknown parameter in one grid": ([BETAS, {"embed__nothing": [1]}], {}),
    "no values": ({"embed__beta": []}, {}),
    "a value that is no list": ({"embed__beta": 1.0}, {}),
    "a grid that is no dict": (["embed__beta"], {}),
    "no grid": ([], {}),
    "no splits": (BETAS, {"cv": WithoutSplits()}),
    "other splits": (BETAS, {"cv": Inconsistent()}),
    "too many folds": (BETAS, {"cv": 51}),
    "unknown score": (BETAS, {"scoring": "beauty"}),
    "several scores without refit": (BETAS, {"scoring": ["accuracy", "f1_macro"]}),
    "several scores in a dict": (BETAS, {"scoring": as_dict}),
    "refit by an unknown score": (BETAS, {"scoring": as_dict, "refit": "two"}),
    "refit by a text": (BETAS, {"refit": by_name}),
    "refit out of range": (BETAS, {"refit": out_of_range}),
    "score that fails": (BETAS, {"scoring": broken_score, "error_score": "raise"}),
    "score that is a text": (BETAS, {"scoring": text_score}),
    "error score": (BETAS, {"error_score": "nothing"}),
    "workers": (BETAS, {"n_jobs": 0}),
}
# Messages that differ after the first letters, as tracebacks do.
SAME_START = {"all fail": 20}


@pytest.mark.parametrize("name", ERRORS)
def test_same_errors(iris, name):
    grid, options = ERRORS[name]
    found, expected = (
        failure_of(kind(pipeline(), grid, **{"cv": 3} | options), *iris) for kind in BOTH
    )
    assert type(found) is type(expected)
    assert expected is not None
    n_letters = SAME_START.get(name)
    swap = str(found).replace("BatchedGridSearchCV", "GridSearchCV")
    assert swap[:n_letters].lower() == str(expected)[:n_letters].lower()


def test_a_bare_embedder_has_no_score(iris):
    found, expected = (
        failure_of(kind(embedder(), {"beta": [1.0]}), *iris) for kind in BOTH
    )
    assert type(found) is type(expected) is TypeError
    assert str(found) == str(expected)


@pytest.mark.parametrize(
    "y",
    [None, np.zeros(150, int), np.arange(149), np.full(150, np.nan), [None] * 150],
    ids=["none", "one class", "too short", "nan", "missing"],
)
def test_labels_that_do_not_do(iris, y):
    found, expected = (
        failure_of(
            kind(embedder(loss="hscl"), {"beta": [0.0, 1.0]}, cv=3, scoring=neighbors),
            iris[0],
            y,
        )
        for kind in BOTH
    )
    assert type(found) is type(expected) is ValueError
    last = [str(error).strip().splitlines()[-1] for error in (found, expected)]
    assert last[0] == last[1]


def test_a_wrong_batch_size_of_the_estimator_itself(iris):
    for batch_size in (0, "many", 1, 2.5):
        estimator = pipeline().set_params(embed__batch_size=batch_size)
        error = failure_of(BatchedGridSearchCV(estimator, BETAS, cv=2), *iris)
        assert "'batch_size' parameter of HSCLEmbedder" in str(error)


def test_an_error_of_the_embedder_is_reported_once(iris):
    grid = {"embed__temperature": [-1, 0.5], "classify__var_smoothing": [1e-9, 0.1, 1.0]}
    search = BatchedGridSearchCV(pipeline(), grid, cv=3)
    text = dict(warnings_of(search, *iris))[FitFailedWarning]
    assert counts(text) == ["9", "9"]  # of all fits, and with the only error
    assert "_validate_params" in text  # where it failed


def test_searches_can_be_fitted_again(iris):
    search = BatchedGridSearchCV(pipeline(), {"embed__temperature": [-1, -2]}, cv=2)
    assert failure_of(search, *iris) is not None
    search.set_params(param_grid=BETAS).fit(*iris)
    before = search.cv_results_["mean_test_score"].copy()
    assert failure_of(search.set_params(cv=1), *iris) is not None
    np.testing.assert_array_equal(
        search.set_params(cv=2).fit(*iris).cv_results_["mean_test_score"], before
    )
