"""Searches over processes, and the embedder inside of scikit-learn's own searches."""

import joblib
import pytest
from helpers.searches import BETAS, SMOOTHINGS, assert_same, embedder, pipeline, reasons
from numpy.testing import assert_array_equal
from sklearn.callback import ProgressBar
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils.estimator_checks import check_estimator

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
