"""Measures of embeddings against explicit loops and other libraries."""

from functools import partial

import numpy as np
import pytest
import torch
from helpers import metric_references as reference
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import StandardScaler

from sklearn_hscl import metrics
from sklearn_hscl.metrics.knn import (
    SimilaritySearch,
    nearest,
    nearest_rows,
    packed_keys,
    pruned_search,
    similarity_tiles,
)
from sklearn_hscl.metrics.validation import Labelled, Queries
from sklearn_hscl.training.callbacks.early_stopping import neighbor_votes

RETRIEVAL = {
    "recall_at_k": (
        partial(metrics.recall_at_k, k=3),
        lambda h: reference.recall_at_k(h, 3),
    ),
    "precision_at_k": (
        partial(metrics.precision_at_k, k=7),
        lambda hits: reference.precision_at_k(hits, 7),
    ),
    "r_precision": (metrics.r_precision, reference.r_precision),
    "map_at_r": (metrics.map_at_r, reference.map_at_r),
}
BY_ROW_AND_CLASS = [
    "alignment",
    "zero_sum_error",
    "unit_norm_error",
    "equal_inner_product_error",
    "within_class_spread",
    "singular_value_decay",
]


def clusters(n=300, n_classes=6, n_columns=8, spread=1.0, seed=0, dtype=np.float64):
    """Make rows around centres, of any norm; the last class has a single row."""
    rng = np.random.default_rng(seed)
    y = rng.integers(n_classes - 1, size=n)
    y[n // 2] = n_classes - 1
    X = rng.normal(size=(n_classes, n_columns))[y] + spread * rng.normal(
        size=(n, n_columns)
    )
    return (X * rng.uniform(0.1, 10, size=(n, 1))).astype(dtype), y


@pytest.fixture(params=["ranked", "pruned", "pruned by bfloat16", "in small panels"])
def small_tiles(request, monkeypatch):
    """Many tiles and blocks, the last ones not full, for each way to the nearest."""
    monkeypatch.setattr(nearest, "BLOCK_ROWS", 17)
    for module in (similarity_tiles, nearest):
        monkeypatch.setattr(module, "TILE_ROWS", 23)
    monkeypatch.setattr(nearest, "_MIN_DROPPED_KEYS", 5)
    if request.param == "ranked":
        return
    # float64 is always ranked.
    monkeypatch.setattr(pruned_search, "_MIN_REFERENCES", 1)
    monkeypatch.setattr(pruned_search, "_MIN_REFERENCES_PER_NEAREST", 1)
    monkeypatch.setattr(pruned_search, "_TILE_SHAPE", (17, 23))
    monkeypatch.setattr(pruned_search, "_MIRRORED_SHAPE", (23, 7))
    by_bfloat16 = "bfloat16" in request.param
    monkeypatch.setattr(pruned_search, "bfloat16_is_faster", lambda: by_bfloat16)
    if "panels" in request.param:  # some 100 queries at a time, seldom in full
        monkeypatch.setattr(pruned_search, "_MAX_KEYS", 10_000)
        monkeypatch.setattr(pruned_search, "_MAX_SPARSE_FRACTION", 0.9)


@pytest.mark.parametrize("name", RETRIEVAL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_retrieval(name, dtype, small_tiles):
    measure, expected = RETRIEVAL[name]
    X, y = clusters(dtype=dtype)
    assert measure(X, y) == pytest.approx(expected(reference.ranked_hits(X, y)), abs=1e-6)
    X_query, y_query = X[:40] + 0.1, np.append(y[:39], 99)  # a class that is not there
    hits = reference.ranked_hits(X[40:], y[40:], X_query, y_query)
    assert len(hits) == 39
    value = measure(X[40:], y[40:], X_query=X_query, y_query=y_query)
    assert value == pytest.approx(expected(hits), abs=1e-6)


@pytest.mark.parametrize("name", RETRIEVAL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_count_for_the_other_classes(name, dtype, small_tiles):
    measure, expected = RETRIEVAL[name]
    rng = np.random.default_rng(0)
    # Rows of few distinct values, whose similarities are exact.
    X = np.eye(4)[rng.integers(4, size=200)] * rng.choice([-1, 1, 2], size=(200, 1))
    X = X.astype(dtype)
    X[:5] = 0
    y = rng.integers(3, size=200)
    value = measure(X, y)
    assert value == pytest.approx(expected(reference.ranked_hits(X, y)), abs=1e-12)
    order = rng.permutation(200)
    assert measure(X[order], y[order]) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_retrieval_of_a_collapsed_embedding_is_zero(dtype):
    X = np.tile(np.random.default_rng(0).normal(size=20), (5000, 1)).astype(dtype)
    y = np.arange(5000) % 3
    assert metrics.recall_at_k(X, y, k=10, n_queries=100) == 0
    assert metrics.map_at_r(X, y, n_queries=100) == 0
    # All votes are for the class that sorts first.
    assert metrics.knn_accuracy(X, y) == pytest.approx(1 / 3, abs=1e-3)


def test_retrieval_against_pytorch_metric_learning():
    calculator = pytest.importorskip(
        "pytorch_metric_learning.utils.accuracy_calculator", exc_type=ImportError
    )

    def exact_neighbors(query, k, references, ref_includes_query):
        distance, index = torch.cdist(query, references).topk(k + 1, largest=False)
        return distance[:, 1:], index[:, 1:]

    X, y = clusters(n=400, spread=1.5, dtype=np.float32)
    X = reference.unit(X)
    result = calculator.AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        device=torch.device("cpu"),
        knn_func=exact_neighbors,
        kmeans_func=lambda x, k: None,
    ).get_accuracy(X, y)
    assert metrics.recall_at_k(X, y) == pytest.approx(result["precision_at_1"], abs=1e-6)
    assert metrics.r_precision(X, y) == pytest.approx(result["r_precision"], abs=1e-6)
    expected = result["mean_average_precision_at_r"]
    assert metrics.map_at_r(X, y) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("weights", ["similarity", "uniform"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_knn_accuracy(weights, dtype, small_tiles):
    X, y = clusters(spread=2.0, dtype=dtype)
    names = np.array(list("fbdaec"))[y]
    weight = (lambda s: np.exp(s / 0.2)) if weights == "similarity" else (lambda s: 1.0)
    settings = {"n_neighbors": 30, "weights": weights, "temperature": 0.2}
    for queries in [(None, None), (X[::3] + 1, names[::3])]:
        expected = reference.knn_accuracy(X, names, *queries, 30, weight)
        assert metrics.knn_accuracy(X, names, *queries, **settings) == pytest.approx(
            expected
        )


def test_knn_is_that_of_scikit_learn_and_of_training():
    X, y = clusters(spread=2.0)
    X_query, y_query = clusters(seed=1)
    known = y_query < 5
    X_query, y_query = X_query[known], y_query[known]
    ours = metrics.knn_accuracy(
        X, y, X_query, y_query, n_neighbors=5, weights="uniform", temperature=7
    )
    theirs = KNeighborsClassifier(5).fit(reference.unit(X), y)
    assert ours == pytest.approx(theirs.score(reference.unit(X_query), y_query))
    votes = neighbor_votes(*map(torch.from_numpy, (X_query, X, y)))
    assert ours == pytest.approx(np.mean(votes.numpy() == y_query))


def test_the_coldest_vote_is_that_of_the_nearest():
    X, y = clusters(spread=2.0)
    coldest = metrics.knn_accuracy(X, y, n_neighbors=20, temperature=1e-6)
    assert coldest == metrics.recall_at_k(X, y, k=1)


def test_knn_ties_go_to_the_first_class():
    X, y = np.ones((6, 2)), ["b", "b", "a", "a", "b", "c"]
    # Both nearest neighbours are "a", if there are enough of them.
    assert metrics.knn_accuracy(X, y, n_neighbors=2) == pytest.approx(2 / 5)
    assert metrics.knn_accuracy(X, y, X, y, n_neighbors=2) == pytest.approx(2 / 6)


def test_class_means(small_tiles):
    X, y = clusters(spread=2.0)
    expected = reference.nearest_class_mean(X, y)
    assert metrics.nearest_class_mean_accuracy(X, y) == pytest.approx(expected)
    X_query, y_query = clusters(seed=1)
    theirs = NearestCentroid().fit(reference.unit(X), y)
    expected = theirs.score(reference.unit(X_query), y_query)
    ours = metrics.nearest_class_mean_accuracy(X, y, X_query, y_query)
    assert ours == pytest.approx(expected)


def test_linear_readout():
    X, y = clusters(spread=2.0)
    Z, known = reference.unit(X), y < 5
    scale = StandardScaler().fit(Z)
    theirs = LogisticRegression(max_iter=1000).fit(scale.transform(Z), y)
    ours = metrics.linear_readout_accuracy(X, y, X, y)
    assert ours == pytest.approx(theirs.score(scale.transform(Z), y))
    folds = metrics.linear_readout_accuracy(X, y, cv=3)
    assert folds == metrics.linear_readout_accuracy(X[known] * 3, y[known], cv=3)
    nearest = metrics.linear_readout_accuracy(
        X, y, X, y, estimator=KNeighborsClassifier(n_neighbors=1)
    )
    assert nearest == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_silhouette(dtype):
    X, y = clusters(n=3000, dtype=dtype)  # several chunks
    expected = silhouette_score(X.astype(np.float64), y, metric="cosine")
    assert metrics.cosine_silhouette(X, y) == pytest.approx(expected, abs=1e-9)
    assert metrics.cosine_silhouette(np.ones((4, 2)), [0, 0, 1, 1]) == pytest.approx(0)


@pytest.mark.parametrize("name", BY_ROW_AND_CLASS)
@pytest.mark.parametrize("n_classes", [3, 12])
def test_formulas_by_class(name, n_classes):
    X, y = clusters(n_classes=n_classes)
    expected = getattr(reference, name)(reference.unit(X), y)
    value = getattr(metrics, name)(X.astype(np.float32), y)
    np.testing.assert_allclose(value, expected, atol=1e-6)
    if name != "alignment":
        value = getattr(metrics, name)(X, y, normalize=False)
        np.testing.assert_allclose(value, getattr(reference, name)(X, y), atol=1e-9)


def test_formulas_in_many_chunks(monkeypatch):
    monkeypatch.setattr("sklearn_hscl.metrics.geometry._MAX_CHUNK_VALUES", 50)
    for name in BY_ROW_AND_CLASS:
        test_formulas_by_class(name, 7)
    test_effective_rank()
    test_silhouette(np.float64)
    X, y = clusters(spread=2.0)
    expected = reference.nearest_class_mean(X, y)
    assert metrics.nearest_class_mean_accuracy(X, y) == pytest.approx(expected)


def test_effective_rank():
    X, _ = clusters(n=50)
    X[:, 0] = X[:, 1]
    expected = reference.effective_rank(reference.unit(X))
    assert metrics.effective_rank(X) == pytest.approx(expected, abs=1e-9)
    expected = reference.effective_rank(X)
    assert metrics.effective_rank(X, normalize=False) == pytest.approx(expected, abs=1e-9)
    assert metrics.effective_rank(np.ones((50, 8))) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("t", [0.5, 2, 300])
def test_uniformity(t, small_tiles):
    X, _ = clusters(n=90)
    expected = reference.uniformity(X, t)
    assert metrics.uniformity(X, t=t) == pytest.approx(expected, abs=1e-9)
    few = metrics.uniformity(X.astype(np.float32), t=t, n_queries=10, random_state=3)
    drawn = np.sort(np.random.RandomState(3).choice(90, 10, replace=False))
    assert few == pytest.approx(reference.uniformity(X, t, drawn), rel=1e-5, abs=1e-6)


def test_a_simplex_is_neural_collapse():
    corners = np.eye(5) - 1 / 5
    X, y = np.repeat(corners, 4, axis=0), np.repeat(np.arange(5), 4)
    for measure in (
        metrics.zero_sum_error,
        metrics.unit_norm_error,
        metrics.equal_inner_product_error,
        metrics.within_class_spread,
        metrics.alignment,
    ):
        assert measure(X, y) == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(metrics.singular_value_decay(X, y), np.zeros(4), atol=1e-9)
    assert metrics.effective_rank(X) == pytest.approx(4)
    assert metrics.map_at_r(X, y) == 1
    assert metrics.cosine_silhouette(X, y) == pytest.approx(1)


def test_drawn_queries(small_tiles):
    X, y = clusters()
    usable = np.flatnonzero(y < 5)
    drawn = np.sort(np.random.RandomState(0).choice(usable, 50, replace=False))
    hits = reference.ranked_hits(X, y)
    rows = dict(zip(usable, hits, strict=True))
    expected = reference.map_at_r([rows[i] for i in drawn])
    assert metrics.map_at_r(X, y, n_queries=50) == pytest.approx(expected)
    assert metrics.map_at_r(X, y, n_queries=299) == pytest.approx(metrics.map_at_r(X, y))


def test_threads_change_nothing(small_tiles):
    X, y = clusters(dtype=np.float32)
    measures = (metrics.map_at_r, partial(metrics.knn_accuracy, n_neighbors=20))
    alone = [measure(X, y) for measure in measures]
    torch.set_num_threads(2)
    try:
        together = [measure(X, y) for measure in measures]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert together == alone


def test_order_of_rows_and_names_of_classes_change_nothing():
    X, y = clusters(n=500)
    order = np.random.default_rng(0).permutation(500)
    names = np.array(["q", "a", "z", "m", "b", "c"])[y]
    measures = [
        metrics.map_at_r,
        metrics.recall_at_k,
        partial(metrics.knn_accuracy, n_neighbors=20),
        metrics.nearest_class_mean_accuracy,
        *(getattr(metrics, name) for name in BY_ROW_AND_CLASS),
    ]
    for measure in measures:
        expected = measure(X, y)
        np.testing.assert_allclose(measure(X[order], names[order]), expected, atol=1e-12)


def test_many_rows_are_pruned_to_the_same_nearest(monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 6)).astype(np.float32)
    X[10_000:] = X[rng.integers(100, size=10_000)]  # which repeats rows
    pruned_to = nearest_rows(X, 20, X[:500])
    among_all = nearest_rows(X, 20)
    monkeypatch.setattr(nearest, "is_prunable", lambda *_: False)
    for found, expected in [
        (pruned_to, nearest_rows(X, 20, X[:500])),
        (among_all, nearest_rows(X, 20)),
    ]:
        np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=3e-7)
        assert np.mean(found[0] == expected[0]) > 0.99  # but for rounding


@pytest.mark.parametrize("by_bfloat16", [False, True])
@pytest.mark.parametrize("n_columns", [2, 128])
def test_bfloat16_similarities_are_within_their_bound(by_bfloat16, n_columns, monkeypatch):
    monkeypatch.setattr(pruned_search, "bfloat16_is_faster", lambda: by_bfloat16)
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.nn.functional.normalize(torch.randn(n, n_columns, generator=generator))
        for n in (200, 300)
    )
    b[:100] = a[:100]  # similarities of 1
    b[100] = 0
    bound = pruned_search.Bfloat16Bound(a, b)
    bits = bound.similarity(slice(0, 200), slice(0, 300))
    exact = (a.double() @ b.double().T).numpy()
    lower = bound.lower_bound(bits)
    assert np.all(lower <= exact)
    above = exact > 0.05
    assert np.all(lower[above] > exact[above] - (0.02 if by_bfloat16 else 1e-4))
    for row in range(200):
        threshold = exact[row].astype(np.float32)  # each just reaches its own
        assert np.all(bits[row] >= bound.threshold_bits(threshold))


@pytest.mark.parametrize("n_free", [0, 1, 6, 20, 40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_packed_keys_keep_the_order(n_free, dtype):
    values = np.linspace(-1, 1, 2**14 + 1, dtype=dtype)
    keys = packed_keys.fixed_point(values.copy(), n_free)
    assert np.all(np.diff(keys) >= 2**n_free)
    assert not np.any(keys & (2**n_free - 1))
    with_payload = keys | np.array(2**n_free - 1, keys.dtype)
    back = packed_keys.floating_point(with_payload, n_free, values.dtype)
    np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize("n_columns", [1, 2, 8, 64])
def test_opposite_rows_are_ranked(n_columns, small_tiles):
    """Rounding brings some of their similarities below -1."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    for row in rng.normal(size=(20, 1, n_columns)).astype(np.float32):
        X = np.repeat(row, 60, axis=0)
        assert metrics.recall_at_k(X, y, k=30, X_query=-X[:2], y_query=y[:2]) == 0
        indices, cosines = nearest_rows(X, 3, -X[:2])
        np.testing.assert_array_equal(indices, [[0, 1, 2]] * 2)
        np.testing.assert_allclose(cosines, -1, atol=1e-6)


def test_crowds_are_not_pruned(monkeypatch):
    monkeypatch.setattr(pruned_search, "_MIN_REFERENCES", 1)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3000, 8)).astype(np.float32)
    equal = np.where(rng.random((3000, 1)) < 0.5, rows[:1], rows)
    for X, expected in [(rows, True), (equal, False), (rows[:1] + 0 * rows, False)]:
        indices = np.arange(len(X))
        codes = np.zeros(len(X), np.int64)
        queries = Queries(X, indices, codes, True)
        search = SimilaritySearch(Labelled(X, codes[:1], codes), queries)
        assert pruned_search.is_prunable(search, 5, 1) == expected


@pytest.mark.parametrize("n_columns", [64, 1000])
def test_equal_rows_are_equally_near_in_crowded_tiles_and_others(n_columns, small_tiles):
    """Some are compared by the full product of a tile, some pair by pair."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        crowd = rng.normal(size=n_columns) + 0.05 * rng.normal(size=(50, n_columns))
        others = rng.normal(size=(150, n_columns))
        X = np.concatenate([crowd, crowd, others]).astype(np.float32)
        X[rng.choice(np.arange(100, 250), 50, replace=False)] = X[:50]
        y = np.repeat([0, 1], [100, 150])
        # The nearest row of the other class is as near as that of the class.
        assert metrics.recall_at_k(X, y, X_query=X[:50], y_query=y[:50]) == 0
        distinct = np.flatnonzero(np.isin(X[:, 0], X[:50, 0], invert=True))
        assert metrics.recall_at_k(X, y) <= len(distinct) / len(X)


@pytest.mark.parametrize("n_zeros", [1, 40, 90])
def test_rows_of_zeros_are_equal(n_zeros):
    X, y = clusters(n=90)
    X[:n_zeros] = 0
    assert metrics.alignment(X, y) == pytest.approx(
        reference.alignment(reference.unit(X), y)
    )
    assert metrics.uniformity(X) == pytest.approx(reference.uniformity(X, 2), abs=1e-9)
    few = metrics.uniformity(X, n_queries=10, random_state=3)
    drawn = np.sort(np.random.RandomState(3).choice(90, 10, replace=False))
    assert few == pytest.approx(reference.uniformity(X, 2, drawn), abs=1e-9)
