"""The linear path: what it maps to, where it is used, and where it is kept."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from helpers.callbacks import QuietCallback
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.preprocessing import StandardScaler

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.encoders import TabularEncoder
from sklearn_hscl.encoders.linear_path import (
    LinearPath,
    fit_linear_path,
    has_rare_classes,
    path_width,
    trained_part,
)
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.runtime.precision import resolve_precision

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 8)) * 2.0 ** np.arange(8)
NUMBERS = X @ RNG.normal(size=(8, 2)) + RNG.normal(size=(200, 2))
LABELS = (NUMBERS.mean(0) < NUMBERS).astype(int)
CLASSES = (NUMBERS[:, 0] > 0).astype(int) + LABELS[:, 1]
FEW = np.where(np.arange(200) % 4, -1, CLASSES)
RARE = (NUMBERS[:, 0] > np.sort(NUMBERS[:, 0])[-11]).astype(int)  # 5 %
WORDS = scipy.sparse.random_array((200, 400), density=0.01, rng=RNG, format="csr")
MIXED = pd.DataFrame(X[:, :4], columns=list("abcd")).assign(
    color=np.array(["red", "green", "blue"])[CLASSES]
)
MIXED.loc[::7, "b"] = np.nan
FLOAT32 = resolve_precision("float32", torch.device("cpu"), 2)


class Signs(torch.nn.Module):
    """An encoder whose embeddings differ by 5 from their mean."""

    def forward(self, rows):
        sign = (torch.arange(len(rows)) % 2 * 2 - 1)[:, None]
        return 7 + sign * torch.tensor([3.0, 4.0])


def fit(X, y=None, *, X_val=None, y_val=None, **params):
    params = {"max_epochs": 3, "random_state": 0} | params
    return HSCLEmbedder(**params).fit(X, y, X_val=X_val, y_val=y_val)


def path_of(rows, targets=None):
    rows = torch.as_tensor(StandardScaler().fit_transform(rows)).float()
    targets = None if targets is None else torch.as_tensor(targets)
    path = fit_linear_path(Signs(), None, rows, targets, FLOAT32)
    return path(rows).numpy(), rows.double().numpy()


def test_numbers_are_predicted_as_by_ridge():
    embedding, rows = path_of(X, NUMBERS)
    ridge = RidgeCV(np.logspace(-2, 5, 15)).fit(rows, NUMBERS - NUMBERS.mean(0))
    expected = ridge.predict(rows)
    linear = embedding[:, 2:]
    factor = linear.std() / expected.std()
    assert_allclose(linear, factor * expected, atol=1e-3 * linear.std())
    assert_allclose(embedding[:2, :2], [[4, 3], [10, 11]])


def spread(embedding):
    return np.sqrt(embedding.var(0).sum())


@pytest.mark.parametrize(
    ("targets", "expected"), [(NUMBERS, 1), (LABELS, 1), (CLASSES, 2), (None, 4)]
)
def test_the_parts_have_the_same_spread_and_without_targets_four_times_of_it(
    targets, expected
):
    embedding, _ = path_of(X, targets)
    ratio = spread(embedding[:, 2:]) / spread(embedding[:, :2])
    assert_allclose(ratio, expected, rtol=1e-4)


def test_without_targets_the_linear_part_has_the_scale_of_the_columns():
    embedding, rows = path_of(X)
    assert_allclose(spread(embedding[:, 2:]), spread(rows), rtol=1e-4)


def assert_principal_components(found, rows):
    expected = PCA().fit_transform(rows)
    cosines = (found * expected).sum(0)
    cosines /= np.linalg.norm(found, axis=0) * np.linalg.norm(expected, axis=0)
    assert_allclose(np.abs(cosines), 1, atol=1e-5)


def test_few_classes_are_followed_by_components_of_half_the_spread():
    embedding, rows = path_of(X, FEW)
    assert_allclose(spread(embedding[:, 2:5]), 5, rtol=1e-4)
    assert_allclose(spread(embedding[:, 5:]), 2.5, rtol=1e-4)
    assert_principal_components(embedding[:, 5:], rows)


def test_rare_classes_are_followed_by_components_of_twice_the_spread():
    embedding, rows = path_of(X, RARE)
    assert_allclose(spread(embedding[:, :2]), 2.5, rtol=1e-4)
    assert_allclose(spread(embedding[:, 2:4]), 5, rtol=1e-4)
    assert_allclose(spread(embedding[:, 4:]), 10, rtol=1e-4)
    assert_principal_components(embedding[:, 4:], rows)


@pytest.mark.parametrize(("y", "trained"), [(CLASSES, 1 / 2), (RARE, 1 / 16)])
def test_classes_of_sparse_rows_are_predicted_at_the_scale_of_unit_norm(y, trained):
    embedding = fit(WORDS, y).transform(WORDS)
    n_classes = len(np.unique(y))
    assert_allclose(spread(embedding[:, :64]), trained, rtol=1e-3)
    assert_allclose(spread(embedding[:, 64 : 64 + n_classes]), 1, rtol=1e-3)


def test_rare_classes_have_fewer_than_six_percent_of_the_rows():
    codes = np.arange(100)
    assert has_rare_classes((codes < 5).astype(int))
    assert has_rare_classes(np.where(codes < 5, codes, 5))
    assert not has_rare_classes((codes < 6).astype(int))
    assert not has_rare_classes(codes)
    assert not has_rare_classes(np.zeros(100, int))
    assert not has_rare_classes(np.full(100, -1))
    assert not has_rare_classes(np.where(codes < 50, -1, codes < 54))


def test_components_of_images_have_the_spread_of_the_trained_part():
    rows = torch.as_tensor(RNG.normal(size=(100, 1, 10, 10))).float()
    path = fit_linear_path(Signs(), None, rows, None, FLOAT32)
    embedding = path(rows).numpy()
    assert embedding.shape == (100, 2 + 64)
    assert_allclose(np.sqrt(embedding[:, 2:].var(0).sum()), 5, rtol=1e-4)


def test_chunks_keep_the_linear_map_of_the_fit_before():
    embedder = fit(X, NUMBERS)
    weight = embedder.module_.weight.clone()
    trained = embedder.transform(X)
    embedder.partial_fit(X[:50], NUMBERS[:50])
    assert_array_equal(embedder.module_.weight, weight)
    changed = embedder.transform(X)
    assert changed.shape == trained.shape
    assert_allclose(changed[:, -2:], trained[:, -2:], rtol=1e-5)
    assert np.abs(changed[:, :-2] - trained[:, :-2]).max() > 1e-3
    first = HSCLEmbedder(random_state=0).partial_fit(X, NUMBERS)
    assert not isinstance(first.module_, LinearPath)


def test_without_targets_it_holds_principal_components():
    embedding, rows = path_of(X)
    expected = PCA(0.95).fit_transform(rows)
    linear = embedding[:, 2:]
    assert linear.shape == expected.shape
    cosines = np.abs((linear * expected).sum(0))
    cosines /= np.linalg.norm(linear, axis=0) * np.linalg.norm(expected, axis=0)
    assert_allclose(cosines, 1, atol=1e-5)


def test_many_classes_are_reduced_to_sixteen_predictions():
    codes = np.arange(200) % 40
    embedding, _ = path_of(np.eye(40)[codes] + 0.1 * RNG.normal(size=(200, 40)), codes)
    assert embedding.shape == (200, 2 + 16)


def test_few_rows_of_many_columns_are_not_predicted_much_better_than_new_ones():
    noise, y = RNG.normal(size=(80, 400)), RNG.normal(size=(80, 1))
    embedding, rows = path_of(noise, y)
    explained = LinearRegression().fit(embedding[:, 2:], y).score(embedding[:, 2:], y)
    assert explained < 0.4  # ridge on all columns: about 1
    assert LinearRegression().fit(rows, y).score(rows, y) > 0.99


def test_constant_rows_have_a_linear_part_of_zeros():
    rows = torch.ones(10, 3)
    path = fit_linear_path(Signs(), None, rows, torch.arange(10.0)[:, None], FLOAT32)
    assert_array_equal(path(rows)[:, 2:], np.zeros((10, path.width)))


USED = {
    "numbers": (X, NUMBERS, {}, 2),
    "labels": (X, LABELS, {}, 2),
    "few labels": (X, FEW, {"unlabeled_label": -1}, 3 + 8),
    "rare classes": (X, RARE, {}, 2 + 8),
    "classes of sparse rows": (WORDS, CLASSES, {}, 3),
    "mixed columns": (MIXED, NUMBERS, {}, 2),
    "mlp": (X, NUMBERS, {"encoder": "mlp"}, 2),
    "no targets": (X, None, {}, 8),
    "mixed columns without targets": (MIXED, None, {}, 7),
    "float64": (X, NUMBERS, {"precision": "float64"}, 2),
}


@pytest.mark.parametrize(("X", "y", "params", "width"), USED.values(), ids=USED)
def test_a_path_is_part_of_the_embedder(X, y, params, width, tmp_path):
    embedder = fit(X, y, **params)
    path = embedder.module_
    assert isinstance(path, LinearPath)
    trained = embedder.net_.module_.encoder
    assert trained_part(path) is trained
    embedding = embedder.transform(X)
    assert path.width == width
    assert embedding.shape[1] == embedder.net_.module_.n_components + path_width(path)
    assert len(embedder.get_feature_names_out()) == embedding.shape[1]
    embedder.save(tmp_path / "file")
    for copy in (
        pickle.loads(pickle.dumps(embedder)),
        HSCLEmbedder.load(tmp_path / "file"),
    ):
        assert_array_equal(copy.transform(X), embedding)
        assert type(copy.net_.module_.encoder) is type(trained)
        again = copy.set_params(warm_start=True).fit(X, y)
        assert again.transform(X).shape == embedding.shape


UNUSED = {
    "classes": (X, CLASSES, {}),
    "one rare class of three": (X, np.where(RARE, 2, CLASSES % 2), {}),
    "mlp on dense rows": (X, RARE, {"encoder": "mlp"}),
    "sparse rows of a width": (WORDS, CLASSES, {"n_components": 8}),
    "a width": (X, NUMBERS, {"n_components": 5, "early_stopping": False}),
    "labels ignored": (X, CLASSES, {"loss": "ucl", "n_components": 8}),
    "folds": (X, CLASSES, {"cross_fit": 3}),
    "own module": (X, NUMBERS, {"encoder": torch.nn.Linear(8, 4)}),
    "own loss": (X, CLASSES, {"loss": ContrastiveLoss("scl")}),
}


@pytest.mark.parametrize(("X", "y", "params"), UNUSED.values(), ids=UNUSED)
def test_there_is_no_path(X, y, params):
    embedder = fit(X, y, **params)
    assert not isinstance(embedder.module_, LinearPath)
    width = path_width(embedder.module_)  # of forests
    assert embedder.transform(X).shape[1] == embedder.net_.module_.n_components + width


def test_weights_of_another_width_are_refused():
    path = fit(X, NUMBERS).module_
    assert isinstance(path.encoder, TabularEncoder)
    other = LinearPath.empty(path.encoder, (8,), None, 3)
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        other.load_state_dict(path.state_dict(), assign=True)


def test_held_out_rows_of_the_user_are_not_learned_from():
    other = RNG.normal(size=(60, 8))
    paths = [
        fit(X, NUMBERS[:, 0], X_val=other, y_val=other[:, column], encoder="mlp")
        for column in (2, 5)
    ]
    weights = [
        embedder.module_.weight / embedder.module_.weight.norm() for embedder in paths
    ]
    assert_allclose(*weights, atol=1e-5)


def test_rows_in_a_periodic_order_are_all_seen():
    n = 8192
    rows = torch.as_tensor(RNG.normal(size=(n, 3))).float()
    targets = torch.where(torch.arange(n) % 2 == 1, rows[:, 1], 0.0)[:, None]
    weight = fit_linear_path(Signs(), None, rows, targets, FLOAT32).weight[:, 0]
    assert weight[1].abs() > 10 * weight[[0, 2]].abs().max()


@pytest.mark.parametrize(
    "targets", [NUMBERS, LABELS, None], ids=["numbers", "labels", "none"]
)
def test_memory_maps_give_the_same_path(targets, tmp_path):
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    embedders = [fit(rows, targets) for rows in (X, mapped)]
    assert_array_equal(*[embedder.transform(X) for embedder in embedders])


SPARSE = {
    "missing values": (
        scipy.sparse.csr_array(np.where(X > 6, np.nan, np.abs(X) > 4)),
        None,
    ),
    "zeros": (scipy.sparse.csr_array((200, 8)), None),
    "zeros and numbers": (scipy.sparse.csr_array((200, 8)), NUMBERS),
}


@pytest.mark.parametrize(("rows", "targets"), SPARSE.values(), ids=SPARSE)
@pytest.mark.parametrize("encoder", ["auto", "mlp"])
def test_sparse_rows_with_gaps_or_without_values(rows, targets, encoder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if targets is not None:  # numbers that zeros say nothing about
            warnings.filterwarnings("ignore", message="Held-out targets")
        embedding = fit(rows, targets, encoder=encoder).transform(rows)
    assert np.isfinite(embedding).all()


class Snapshots(QuietCallback):
    """A callback that embeds rows after every epoch."""

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        if context.task_name == "epoch":
            fitted_estimator.transform(X[:3])


def test_callbacks_that_embed_rows_change_nothing():
    noisy = X[:, 0] + 40 * np.random.default_rng(0).normal(size=200)
    results = []
    for callbacks in ([], [Snapshots()]):
        embedder = HSCLEmbedder(max_epochs=12, lr=0.02, random_state=0)
        embedder.set_callbacks(*callbacks).fit(X, noisy)
        results.append((embedder.best_epoch_, embedder.n_iter_, embedder.transform(X)))
    assert results[0][0] < results[0][1]  # the last weights are not those that count
    assert_array_equal(results[0][2], results[1][2])


def test_held_out_rows_scale_the_trained_part_of_rare_classes_further():
    embedder = fit(X, RARE, early_stopping=True, X_val=X[::2], y_val=RARE[::2])
    assert float(embedder.module_.scale) in {0.5, 0.25, 0.125, 0.0625}
    assert "difference" in embedder.held_out_readout_
