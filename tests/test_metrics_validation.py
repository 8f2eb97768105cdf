"""Invalid arguments of the measures of embeddings, and the measures as scorers."""

import pickle
from copy import deepcopy
from functools import partial

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_hscl import HSCLEmbedder, metrics
from sklearn_hscl.metrics import make_embedding_scorer

X = np.random.default_rng(0).normal(size=(30, 4))
Y = np.arange(30) % 3
BAD = np.where(np.arange(120).reshape(30, 4) == 50, np.nan, X)


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((BAD, Y), {}, "X contains NaN"),
        (
            (X, np.zeros(30)),
            {},
            r"y to contain at least two classes, got only 0\.0\..*StratifiedKFold",
        ),
        ((X, Y[:-1]), {}, "y cannot be used: .*inconsistent numbers of samples"),
        ((X, [None, *Y[1:]]), {}, "missing label in row 0"),
        ((X, X[:, 0]), {}, "y cannot be used: .*numbers with fractions"),
        (
            (X, np.eye(30)),
            {},
            r"y cannot be used: .*one label for each sample, got shape \(30, 30\)",
        ),
        ((X, None), {}, "Expected y to hold class labels, got None"),
        ((X[:, 0], Y), {}, "Expected 2D array"),
        ((X[:, None], Y), {}, r"X .* got shape \(30, 1, 4\).*array that transform returns"),
        ((X[:1], Y[:1]), {}, "minimum of 2 is required"),
        (
            (X, np.arange(30)),
            {},
            "Expected a query with another sample of its class, got none",
        ),
        ((X, Y), {"k": 30}, "Expected k to be an integer from 1 to 29, .* got 30"),
        (
            (X, np.array(["a", *Y[1:]], dtype=object)),
            {},
            "types that cannot be compared",
        ),
        ((X, Y), {"k": 2.5}, "Expected k to be an integer .* got 2.5"),
        ((X, Y), {"k": 0}, "Expected k to be .* got 0"),
        (
            (X, Y),
            {"n_queries": 31},
            "Expected n_queries to be an integer from 1 to 30, .* got 31",
        ),
        ((X, Y), {"X_query": X}, "got y_query=None. Pass both, or neither"),
        ((X, Y), {"y_query": Y}, "got X_query=None. Pass both, or neither"),
        (
            (X, Y),
            {"X_query": X[:, :2], "y_query": Y},
            "Expected X_query to have 4 columns like X, got 2",
        ),
        ((X, Y), {"X_query": X, "y_query": Y[1:]}, "y_query cannot be used"),
        (
            (X, Y),
            {"X_query": X, "y_query": ["a"] * 30},
            "labels such as 0 in y, got 'a'. Pass both as strings",
        ),
        ((X, Y), {"X_query": BAD, "y_query": Y}, "X_query contains NaN"),
    ],
)
def test_refused(arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        metrics.recall_at_k(*arguments, **settings)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: metrics.knn_accuracy(X, Y),
            "Expected n_neighbors to be .* 1 to 29, .* got 200",
        ),
        (
            lambda: metrics.knn_accuracy(X, Y, weights="distance"),
            "Expected weights to be .* got 'distance'",
        ),
        (
            lambda: metrics.knn_accuracy(X, Y, temperature=0),
            "Expected temperature to be .* got 0",
        ),
        (
            lambda: metrics.knn_accuracy(X, Y, temperature="low"),
            "Expected temperature to be .* got 'low'",
        ),
        (lambda: metrics.uniformity(X, t="2"), "Expected t to be .* got '2'"),
        (lambda: metrics.alignment(X, np.arange(30)), "got none. .* positive pair"),
        (lambda: metrics.uniformity(X, t=0), "Expected t to be .* got 0"),
        (lambda: metrics.uniformity(X[:1]), "minimum of 2"),
        (lambda: metrics.effective_rank(0 * X), "X .* got only zeros"),
        (
            lambda: metrics.cosine_silhouette(X, np.arange(30)),
            "y .* got a class for every sample",
        ),
        (lambda: metrics.singular_value_decay(0 * X + 1, Y), "same mean for all classes"),
    ],
)
def test_refused_by_one_measure(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_containers():
    expected = metrics.map_at_r(X, Y)
    frame = pd.DataFrame(X), pd.Series(Y, dtype="category")
    assert metrics.map_at_r(*frame) == expected
    assert metrics.map_at_r(torch.from_numpy(X), torch.from_numpy(Y)) == expected
    assert metrics.map_at_r(X.tolist(), [f"class {c}" for c in Y]) == expected
    whole = np.round(X * 10)
    assert metrics.map_at_r(whole.astype(np.int8), Y) == metrics.map_at_r(whole, Y)


def test_arguments_stay_as_they_are():
    rows = X.astype(np.float32)
    before = rows.copy()
    rows.flags.writeable = False
    metrics.map_at_r(rows, Y)
    metrics.uniformity(rows)
    metrics.effective_rank(rows, normalize=False)
    metrics.knn_accuracy(rows, Y, n_neighbors=3)
    np.testing.assert_array_equal(rows, before)


def test_search_over_an_embedder(iris):
    scoring = {
        "map": make_embedding_scorer(metrics.map_at_r),
        "recall": make_embedding_scorer(metrics.recall_at_k, k=1),
        "spread": make_embedding_scorer(metrics.within_class_spread),
    }
    embedder = HSCLEmbedder(encoder="mlp", max_epochs=2, random_state=0)
    search = GridSearchCV(
        embedder, {"beta": [0, 1]}, scoring=scoring, refit="map", cv=StratifiedKFold(2)
    ).fit(*iris)
    train, test = next(StratifiedKFold(2).split(*iris))
    fitted = clone(embedder).set_params(beta=0).fit(iris[0][train], iris[1][train])
    embedding, labels = fitted.transform(iris[0][test]), iris[1][test]
    found = {name: search.cv_results_[f"split0_test_{name}"][0] for name in scoring}
    assert found["map"] == pytest.approx(metrics.map_at_r(embedding, labels))
    assert found["recall"] == pytest.approx(metrics.recall_at_k(embedding, labels))
    spread = metrics.within_class_spread(embedding, labels)
    assert found["spread"] == pytest.approx(-spread)
    assert search.best_score_ == max(search.cv_results_["mean_test_map"])


def test_scorer_in_parallel_pipelines_with_routing(iris):
    scorer = make_embedding_scorer(metrics.map_at_r)
    pipe = make_pipeline(StandardScaler(), PCA(2)).set_output(transform="pandas")
    cv = StratifiedKFold(3)
    plain = cross_val_score(pipe, *iris, scoring=scorer, cv=cv)
    with sklearn.config_context(enable_metadata_routing=True):
        routed = cross_val_score(pipe, *iris, scoring=scorer, cv=cv, n_jobs=2)
    np.testing.assert_array_equal(plain, routed)
    assert plain.min() > 0.5


def test_scorer_without_labels():
    scorer = make_embedding_scorer(metrics.uniformity, t=1)
    pca = PCA(2).fit(X)
    assert scorer(pca, X) == scorer(pca, X, Y) == -metrics.uniformity(pca.transform(X), t=1)


def test_queries_of_another_type_and_range():
    expected = metrics.recall_at_k(X, Y, X_query=X + 1, y_query=Y)
    huge = 1e200 * (X + 1)
    value = metrics.recall_at_k(X.astype(np.float32), Y, X_query=huge, y_query=Y)
    assert value == expected


def test_scorer_leaves_out_unlabelled_rows():
    labels = np.where(np.arange(30) < 10, -1, Y)
    pca = PCA(2).fit(X)
    scorer = make_embedding_scorer(metrics.map_at_r, unlabeled_label=-1)
    expected = metrics.map_at_r(pca.transform(X)[10:], Y[10:])
    assert scorer(pca, X, labels) == expected


def test_sign_of_the_score():
    pca = PCA(2).fit(X)

    def mine(embedding, y):
        return 3.0

    assert make_embedding_scorer(mine)(pca, X, Y) == 3
    assert make_embedding_scorer(mine, greater_is_better=False)(pca, X, Y) == -3
    bound = make_embedding_scorer(partial(metrics.alignment))
    assert bound(pca, X, Y) == -metrics.alignment(pca.transform(X), Y)
    forced = make_embedding_scorer(metrics.alignment, greater_is_better=True)
    assert forced(pca, X, Y) == metrics.alignment(pca.transform(X), Y)


def test_scorer_can_be_copied():
    scorer = make_embedding_scorer(metrics.recall_at_k, k=2)
    pca = PCA(2).fit(X)
    for copy in (pickle.loads(pickle.dumps(scorer)), deepcopy(scorer)):
        assert copy(pca, X, Y) == scorer(pca, X, Y)
    assert repr(scorer) == "make_embedding_scorer(recall_at_k, k=2)"
    lower = make_embedding_scorer(metrics.alignment)
    assert repr(lower) == "make_embedding_scorer(alignment, greater_is_better=False)"


def test_scorer_refuses():
    with pytest.raises(TypeError, match="Expected metric to be a function, got 'map_at_r'"):
        make_embedding_scorer("map_at_r")
    scorer = make_embedding_scorer(metrics.map_at_r)
    with pytest.raises(TypeError, match="got LogisticRegression, which has no transform"):
        scorer(LogisticRegression().fit(X, Y), X, Y)


def test_sparse_rows_are_refused_by_name():
    with pytest.raises(TypeError, match="Sparse data was passed for X.*toarray"):
        metrics.recall_at_k(csr_array(X), Y)


LABEL_TYPES = [np.int64, np.uint8, bool, np.int8, np.uint16, np.uint64, np.float32, object]


@pytest.mark.parametrize("dtype", LABEL_TYPES)
@pytest.mark.parametrize(
    "measure",
    [
        partial(metrics.knn_accuracy, n_neighbors=3), metrics.recall_at_k, metrics.map_at_r,
        metrics.alignment, metrics.cosine_silhouette,
    ],
    ids=lambda measure: getattr(measure, "func", measure).__name__,
)  # fmt: skip
def test_labels_of_any_type(measure, dtype):
    y = Y % 2
    assert measure(X, y.astype(dtype)) == measure(X, y)


@pytest.mark.parametrize("of_queries", LABEL_TYPES)
@pytest.mark.parametrize("of_references", LABEL_TYPES)
def test_labels_of_two_types(of_references, of_queries):
    y, labels = Y % 2, Y[:9] % 2
    found = metrics.recall_at_k(
        X, y.astype(of_references), X_query=X[:9], y_query=labels.astype(of_queries)
    )
    assert found == metrics.recall_at_k(X, y, X_query=X[:9], y_query=labels)


def test_large_labels_of_two_types_stay_different():
    y = np.array([2**53, 2**53 + 1] * 15)
    rows = np.where(np.arange(30)[:, None] % 2, X, X + 100)
    rows[1] = rows[0]  # of the other class
    expected = metrics.recall_at_k(rows, y, X_query=rows[:2], y_query=y[:2])
    queries = y[:2].astype(np.uint64)
    assert metrics.recall_at_k(rows, y, X_query=rows[:2], y_query=queries) == expected
