"""Searches over processes, and the embedder inside of scikit-learn's own searches."""

import inspect

import joblib
import numpy as np
import pytest
import sklearn
from helpers.searches import BETAS, SMOOTHINGS, assert_same, embedder, pipeline, reasons
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackContext, ProgressBar
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics._scorer import _MultimetricScorer
from sklearn.model_selection import GridSearchCV, _validation
from sklearn.model_selection._search import BaseSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import metaestimators, validation
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.fixes import parse_version

from sklearn_hscl.model_selection import BatchedGridSearchCV
from sklearn_hscl.runtime.threads import torch_threads

BOTH = (BatchedGridSearchCV, GridSearchCV)


def threads(estimator, X, y):
    """Score by the number of threads in training."""
    return estimator.n_threads_


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_two_workers(iris, backend):
    grid = BETAS | SMOOTHINGS | {"embed__device_batch_size": ["auto", 64]}
    ours, theirs = (kind(pipeline(), grid, cv=3, n_jobs=2) for kind in BOTH)
    with joblib.parallel_config(backend):
        ours.fit(*iris)
    theirs.set_params(n_jobs=1).fit(*iris)
    assert_same(ours, theirs, iris[0])
    assert reasons(ours)[0] == ""


@pytest.mark.parametrize("kind", BOTH)
def test_one_thread_in_each_worker(digit_images, kind):
    images, labels = digit_images
    grid = {"beta": [0.0, 1.0], "device_batch_size": ["auto", 64]}
    estimator = embedder(max_epochs=1, batch_size=128, n_threads=None)
    search = kind(estimator, grid, scoring=threads, cv=3, n_jobs=2, refit=False)
    with torch_threads(2):  # what an embedder in this process would take
        search.fit(images, labels)
    assert_array_equal(search.cv_results_["mean_test_score"], 1)


def test_more_workers_than_work(iris):
    search = BatchedGridSearchCV(pipeline(), {"embed__beta": [0.0, 1.0, 2.0]}, cv=2)
    search.set_params(n_jobs=2, pre_dispatch=1).fit(*iris)
    assert reasons(search) == [""]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_progress_bar(iris, n_jobs, capsys):
    estimator = pipeline().set_params(classify=LogisticRegression())
    search = BatchedGridSearchCV(estimator, BETAS, cv=2, n_jobs=n_jobs)
    search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(*iris)
    shown = capsys.readouterr().out
    assert "BatchedGridSearchCV - fit" in shown
    assert "100%" in shown
    assert reasons(search) == [""]


@pytest.mark.filterwarnings("default")  # of dask's, whatever they are
@pytest.mark.parametrize("kind", BOTH)
def test_dask(iris, kind):
    distributed = pytest.importorskip("dask.distributed")
    expected = GridSearchCV(pipeline(), BETAS, cv=3).fit(*iris)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config("dask"),
    ):
        search = kind(pipeline(), BETAS, cv=3).fit(*iris)
        counted = kind(embedder(), {"beta": [0.0, 1.0]}, scoring=threads, refit=False)
        counted.fit(*iris)
    for name in ("mean_test_score", "split0_test_score", "rank_test_score"):
        assert_array_equal(search.cv_results_[name], expected.cv_results_[name])
    assert_array_equal(counted.cv_results_["mean_test_score"], 1)


# scikit-learn -----------------------------------------------------------------------

SEARCHED = {
    "classifier": (LogisticRegression(), {"C": [0.1, 1.0]}),
    "pipeline": (make_pipeline(PCA(), Ridge()), {"ridge__alpha": [0.1, 1.0]}),
    "embedder": (
        Pipeline([("embed", embedder(max_epochs=1)), ("classify", GaussianNB())]),
        BETAS,
    ),
}


@pytest.mark.filterwarnings("ignore")  # failed checks warn; they are compared here
@pytest.mark.parametrize("name", SEARCHED)
def test_checks_of_scikit_learn(name):
    outcomes = []
    for kind in BOTH:
        search = kind(*SEARCHED[name], cv=2, error_score="raise")
        legacy = name != "embedder"  # the many checks of arrays say nothing new of it
        checks = check_estimator(search, legacy=legacy, on_fail=None, on_skip=None)
        outcomes.append(sorted((check["check_name"], check["status"]) for check in checks))
    assert outcomes[0] == outcomes[1]
    assert sum(status == "passed" for _, status in outcomes[0]) > 10


SUPPORTED = "1.9", "1.10"  # from the first, below the second


def test_supported_version_of_scikit_learn():
    oldest, too_new = map(parse_version, SUPPORTED)
    version = parse_version(sklearn.__version__)
    assert oldest <= version < too_new, (
        f"scikit-learn {sklearn.__version__} is outside of the range {SUPPORTED} for which "
        f"sklearn_hscl/model_selection was written: compare its search.py and trial.py "
        f"with BaseSearchCV.fit, then change SUPPORTED."
    )


PRIVATE = {
    _validation._fit_and_score: """estimator X y scorer train test verbose parameters
        fit_params score_params return_train_score return_parameters
        return_n_test_samples return_times return_estimator split_progress
        candidate_progress error_score caller callback_ctx""",
    _validation._insert_error_scores: "results error_score",
    _validation._warn_or_raise_about_fit_failures: "results error_score",
    metaestimators._safe_split: "estimator X y indices train_indices",
    validation._check_method_params: "X params indices",
    BaseSearchCV.fit: "self X y params",
    BaseSearchCV._format_results: "self candidate_params n_splits out more_results",
    BaseSearchCV._select_best_index: "refit refit_metric results",
    BaseSearchCV._get_scorers: "self",
    BaseSearchCV._check_refit_for_multimetric: "self scores",
    BaseSearchCV._check_input_parameters: "self X y split_params",
    BaseSearchCV._get_routed_params_for_fit: "self params",
    BaseSearchCV._init_callback_context: """self task_name task_id max_subtasks
        sequential_subtasks""",
    GridSearchCV._run_search: "self evaluate_candidates callback_ctx",
    CallbackContext.subcontext: "self task_name task_id max_subtasks sequential_subtasks",
    CallbackContext.propagate_callback_context: "self sub_estimator",
    BaseEstimator._validate_params: "self",
}


@pytest.mark.parametrize("function", PRIVATE, ids=lambda function: function.__name__)
def test_private_functions_of_scikit_learn(function):
    found = list(inspect.signature(function).parameters)
    assert found == PRIVATE[function].split(), (
        f"{function.__qualname__} of scikit-learn {sklearn.__version__} has other "
        f"parameters than sklearn_hscl/model_selection counts on: see who calls it there."
    )


def test_private_attributes_of_scikit_learn(iris):
    scorer = _MultimetricScorer(scorers={"one": threads})
    assert scorer._scorers == {"one": threads}
    estimator = embedder().set_callbacks()
    assert not getattr(estimator, "_skl_callbacks", None)
    search = GridSearchCV(pipeline(), BETAS, cv=2).fit(*iris)
    assert np.isfinite(search.refit_time_)
    assert hasattr(search, "_checked_cv_orig")
