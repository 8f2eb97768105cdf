"""HSCLEmbedder as a scikit-learn user meets it."""

import copy
import pickle
from io import BytesIO

import joblib
import numpy as np
import pandas as pd
import polars
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedShuffleSplit,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.losses import ContrastiveLoss


@pytest.fixture(scope="module")
def fitted(iris):
    return HSCLEmbedder(max_epochs=3, random_state=0).fit(*iris)


def same_weights(first, second):
    pairs = zip(first.module_.parameters(), second.module_.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_hscl_embeddings_beat_raw_features_on_digits():
    X, y = load_digits(return_X_y=True)
    splits = StratifiedShuffleSplit(1, test_size=0.3, random_state=0)
    raw = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    ours = make_pipeline(HSCLEmbedder("hscl", random_state=0), LogisticRegression())
    assert (
        cross_val_score(ours, X, y, cv=splits).mean()
        > cross_val_score(raw, X, y, cv=splits).mean()
    )


def test_unsupervised_embeddings_carry_the_classes(iris):
    # A view agrees with its own row, not with others: so the classes stay apart.
    X, y = iris
    embedder = HSCLEmbedder("hucl", random_state=0).fit(X)
    scores = cross_val_score(LogisticRegression(), embedder.transform(X), y)
    assert scores.mean() > 0.85


@pytest.mark.filterwarnings("ignore:threshold=.* has no effect")
@pytest.mark.parametrize("name", ["temperature", "beta", "threshold"])
def test_a_loss_of_several_batches_is_refused(iris, name):
    loss = ContrastiveLoss(**{name: torch.tensor([0.5, 1.0])})
    with pytest.raises(
        ValueError, match=rf"loss has {name} of shape \(2,\).*pass a number"
    ):
        HSCLEmbedder(loss).fit(*iris)


def test_fitted_numbers_are_those_of_a_given_loss(iris):
    loss = ContrastiveLoss(beta=torch.tensor(3.0), temperature=0.25)
    fitted = HSCLEmbedder(loss, encoder="mlp", max_epochs=1).fit(*iris)
    assert (fitted.beta_, fitted.temperature_) == (3.0, 0.25)


def test_loss_falls(iris):
    for loss in ("ucl", "scl", "hucl", "hscl"):
        curve = HSCLEmbedder(loss, random_state=0).fit(*iris).loss_curve_
        assert curve[-1] < curve[0]


def test_fitted_attributes(fitted, iris):
    X, _ = iris
    assert fitted.n_features_in_ == 4
    assert_array_equal(fitted.classes_, [0, 1, 2])
    assert fitted.n_iter_ == fitted.best_epoch_ == 3
    assert len(fitted.loss_curve_) == len(fitted.history_) == 3
    assert fitted.history_[0]["skipped_anchors"] == 0
    assert fitted.net_.history[-1, "train_loss"] == fitted.loss_curve_[-1]
    assert fitted.device_ == torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert isinstance(fitted.module_, torch.nn.Module)
    assert fitted.transform(X).shape == (150, 35)


@pytest.mark.parametrize("normalize", [True, False])
def test_width_and_scale_of_the_embedding(iris, normalize):
    embedder = HSCLEmbedder(n_components=5, normalize=normalize, max_epochs=1)
    embedding = embedder.fit_transform(*iris)
    assert embedding.shape == (150, 5)
    unit = np.allclose(np.linalg.norm(embedding, axis=1), 1, rtol=1e-6)
    assert unit == normalize


def test_auto_loss_follows_the_labels(iris):
    X, y = iris
    assert HSCLEmbedder(max_epochs=1).fit(X, y).net_.criterion_.loss == "hscl"
    unlabelled = HSCLEmbedder(max_epochs=1).fit(X)
    assert unlabelled.net_.criterion_.loss == "hucl"
    assert not hasattr(unlabelled, "classes_")
    refitted = HSCLEmbedder(max_epochs=1).fit(X, y).set_params(loss="ucl").fit(X)
    assert not hasattr(refitted, "classes_")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_types_are_kept(iris, dtype):
    X, y = iris
    embedding = HSCLEmbedder(max_epochs=1).fit_transform(X.astype(dtype), y)
    assert embedding.dtype == dtype


def test_not_fitted():
    with pytest.raises(NotFittedError):
        HSCLEmbedder().transform([[1.0]])


# Labels ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [["a", "b", "c"], [-7, 5, 10], [0.0, 1.0, 2.0], np.array(list("xyz"), "O")]
)
def test_kinds_of_labels_give_the_same_embedding(iris, fitted, names):
    X, y = iris
    named = np.asarray(names)[y]
    other = HSCLEmbedder(max_epochs=3, random_state=0).fit(X, named)
    assert_array_equal(other.classes_, names)
    assert same_weights(other, fitted)


def test_bool_and_pandas_labels(iris):
    X, y = iris
    first = HSCLEmbedder(max_epochs=1, random_state=0).fit(X, y == 1)
    second = HSCLEmbedder(max_epochs=1, random_state=0).fit(
        X, pd.Series(y == 1).map({True: "yes", False: "no"}).astype("category")
    )
    assert_array_equal(first.classes_, [False, True])
    assert same_weights(first, second)


def test_column_vector_y_warns(iris, fitted):
    X, y = iris
    embedder = HSCLEmbedder(max_epochs=3, random_state=0)
    with pytest.warns(DataConversionWarning):
        embedder.fit(X, y[:, None])
    assert same_weights(embedder, fitted)


def test_losses_without_labels_ignore_y(iris):
    X, y = iris
    continuous = make_pipeline(HSCLEmbedder("hucl", max_epochs=1), Ridge())
    assert continuous.fit(X, X[:, 0] * 1.5).predict(X).shape == (150,)
    with_y = HSCLEmbedder("ucl", max_epochs=1, random_state=0).fit(X, y)
    without = HSCLEmbedder("ucl", max_epochs=1, random_state=0).fit(X)
    assert same_weights(with_y, without)


# Rows -----------------------------------------------------------------------------


def test_one_row(fitted, iris):
    X, _ = iris
    assert_array_equal(fitted.transform(X[:1]), fitted.transform(X)[:1])


@given(st.lists(st.integers(1, 2199), max_size=6), st.integers(0, 1000))
@settings(deadline=None, max_examples=25)
def test_any_split_and_order_gives_the_same_bits(fitted, iris, cuts, seed):
    X = np.tile(iris[0], (16, 1))[:2200]  # more than one chunk
    whole = fitted.transform(X)
    parts = [fitted.transform(part) for part in np.split(X, sorted(set(cuts)))]
    assert_array_equal(np.concatenate(parts), whole)
    order = np.random.default_rng(seed).permutation(len(X))
    assert_array_equal(fitted.transform(X[order]), whole[order])


@pytest.mark.parametrize("n_components", [1, 3, 10])
@pytest.mark.parametrize("n_features", [1, 2, 7])
def test_single_rows_give_the_same_bits_at_any_width(n_components, n_features):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, n_features)), np.arange(40) % 2
    embedder = HSCLEmbedder(n_components=n_components, max_epochs=1).fit(X, y)
    single = [embedder.transform(X[[i]]) for i in range(40)]
    assert_array_equal(np.concatenate(single), embedder.transform(X))


@pytest.mark.parametrize("encoder", ["mlp", "tabular"])
@pytest.mark.parametrize("hidden_layer_sizes", [(5, 5), (33,)])
def test_batches_give_the_same_bits_in_float64(encoder, hidden_layer_sizes):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 7)), np.arange(40) % 2
    settings = {"encoder": encoder, "hidden_layer_sizes": hidden_layer_sizes}
    embedder = HSCLEmbedder(precision="float64", max_epochs=1, n_components=5, **settings)
    Q = rng.normal(size=(300, 7))
    whole = embedder.fit(X, y).transform(Q)
    for rows in [slice(3, 4), slice(1, 34), slice(5, None, 2), slice(None, None, -1)]:
        assert_array_equal(embedder.transform(Q[rows]), whole[rows])


def test_fewer_rows_than_a_batch():
    X, y = np.array([[0.0], [1.0], [0.1], [1.1]]), [0, 1, 0, 1]
    embedding = HSCLEmbedder(max_epochs=2).fit_transform(X, y)
    assert np.isfinite(embedding).all()


def test_batches_cover_many_small_classes():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80, 3)), np.repeat(np.arange(40), 2)
    embedder = HSCLEmbedder(max_epochs=2, batch_size=16).fit(X, y)
    assert [epoch["skipped_anchors"] for epoch in embedder.history_] == [0, 0]


def test_constant_and_huge_columns():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4)) * [1e300, 1e-300, 0, 1] + [0, 0, 7, 1e6]
    y = (X[:, 3] > 1e6).astype(int)
    embedder = HSCLEmbedder(max_epochs=5, random_state=0).fit(X, y)
    assert np.isfinite(embedder.transform(X)).all()
    beyond = np.full((1, 4), np.finfo(np.float64).max)
    assert np.isfinite(embedder.transform(beyond)).all()


# scikit-learn manners ---------------------------------------------------------------


def test_clone_and_set_params(fitted):
    copied = clone(fitted)
    assert not hasattr(copied, "module_")
    assert copied.get_params() == fitted.get_params()
    assert copied.set_params(beta=2.0).get_params()["beta"] == 2.0


def test_feature_names_and_set_output(iris):
    X, y = iris
    frame = pd.DataFrame(X, columns=list("abcd"))
    embedder = HSCLEmbedder(max_epochs=1, n_components=2, random_state=0)
    names = ["hsclembedder0", "hsclembedder1"]
    pandas_out = embedder.set_output(transform="pandas").fit_transform(frame, y)
    assert list(pandas_out.columns) == names == list(embedder.get_feature_names_out())
    assert_array_equal(embedder.feature_names_in_, list("abcd"))
    polars_out = embedder.set_output(transform="polars").transform(frame)
    assert isinstance(polars_out, polars.DataFrame)
    assert polars_out.columns == names
    embedder.set_output(transform="default")
    polars_in = embedder.fit_transform(polars.DataFrame(X, schema=list("abcd")), y)
    assert_array_equal(polars_in, pandas_out)
    with pytest.raises(ValueError, match="feature names should match"):
        embedder.transform(frame[list("dcba")])


def test_grid_search_over_the_hardening(iris):
    pipe = make_pipeline(HSCLEmbedder(max_epochs=2, random_state=0), LogisticRegression())
    grid = [
        {"hsclembedder__beta": [0.0, 2.0], "hsclembedder__temperature": [0.2]},
        {"hsclembedder__hardening": ["threshold"], "hsclembedder__threshold": [0.0]},
    ]
    search = GridSearchCV(pipe, grid, cv=2, n_jobs=2).fit(*iris)
    assert len(search.cv_results_["params"]) == 3
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    serial = GridSearchCV(pipe, grid, cv=2, refit=False).fit(*iris)
    assert_array_equal(
        search.cv_results_["mean_test_score"], serial.cv_results_["mean_test_score"]
    )


def test_parameters_of_an_augmentation_are_in_reach_of_a_grid(iris):
    from sklearn_hscl.augment import FeatureCorruption

    embedder = HSCLEmbedder("ucl", max_epochs=1, augment=FeatureCorruption())
    embedder.set_params(augment__p=0.5).fit(iris[0])
    assert embedder.net_.augment.p == 0.5


@pytest.mark.parametrize("random_state", [None, 0, np.random.RandomState(0)])
def test_global_generators_are_untouched(iris, random_state):
    numpy_state = np.random.get_state()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    embedder = HSCLEmbedder("ucl", max_epochs=1, random_state=random_state).fit(iris[0])
    embedder.transform(iris[0])
    now = np.random.get_state()  # noqa: NPY002
    for before, after in zip(numpy_state, now, strict=True):
        assert_array_equal(before, after)
    assert torch.equal(torch_state, torch.get_rng_state())


def test_fits_in_threads_give_the_same_bits(iris):
    encoder = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3)
    )
    embedder = HSCLEmbedder(encoder=encoder, max_epochs=5, random_state=0)
    before = torch.get_rng_state()
    fits = joblib.Parallel(4, backend="threading")(
        joblib.delayed(lambda: clone(embedder).fit(*iris))() for _ in range(8)
    )
    assert all(same_weights(fits[0], other) for other in fits[1:])
    assert torch.equal(before, torch.get_rng_state())


def test_threads_that_fit_transform_and_multiply_do_not_disturb_each_other(iris):
    X, y = np.tile(iris[0], (3, 1)), np.tile(iris[1], 3)  # batches for the fast kernel
    embedder = HSCLEmbedder(max_epochs=2, random_state=0).fit(X, y)
    embedding = embedder.transform(X)
    a = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))

    def fit():
        return clone(embedder).fit(X, y).transform(X)

    def multiply():
        return (a @ a).numpy()

    work = [(fit, embedding), (lambda: embedder.transform(X), embedding)]
    work += [(multiply, (a.double() @ a.double()).numpy())] * 2
    results = joblib.Parallel(8, backend="threading")(
        joblib.delayed(function)() for function, _ in work * 4
    )
    for result, (function, expected) in zip(results, work * 4, strict=True):
        if function is multiply:  # by either product of torch, of equal accuracy
            np.testing.assert_allclose(result, expected, atol=1e-3)
        else:
            assert_array_equal(result, expected)
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"


@pytest.mark.parametrize("loss", ["ucl", "hscl"])
def test_same_seed_same_bits(iris, loss):
    first, second, other = (
        HSCLEmbedder(loss, max_epochs=2, random_state=seed).fit(*iris) for seed in (0, 0, 1)
    )
    assert same_weights(first, second)
    assert not same_weights(first, other)
    assert first.loss_curve_ == second.loss_curve_


def test_random_state_instance_advances(iris):
    random_state = np.random.RandomState(0)
    embedder = HSCLEmbedder(max_epochs=1, random_state=random_state)
    first = copy.deepcopy(embedder.fit(*iris))
    assert not same_weights(first, embedder.fit(*iris))


# Leaving the process ----------------------------------------------------------------


def by_joblib(estimator):
    stream = BytesIO()
    joblib.dump(estimator, stream)
    return joblib.load(stream)


@pytest.mark.parametrize(
    "through", [lambda e: pickle.loads(pickle.dumps(e)), by_joblib, copy.deepcopy]
)
@pytest.mark.parametrize("loss", ["hucl", "hscl"])
def test_copies_give_the_same_embedding(iris, through, loss):
    X, y = iris
    embedder = HSCLEmbedder(loss, max_epochs=1, early_stopping=True)
    assert through(embedder).get_params() == embedder.get_params()
    embedder.fit(X, y)
    assert_array_equal(through(embedder).transform(X), embedder.transform(X))


@pytest.mark.parametrize("loss", ["ucl", "hscl"])
def test_no_training_rows_in_the_pickle(loss):
    rng = np.random.default_rng(0)
    sizes = []
    for n_rows in (200, 5000):
        X, y = rng.normal(size=(n_rows, 20)), np.arange(n_rows) % 2
        embedder = HSCLEmbedder(
            loss, max_epochs=1, n_components=32, early_stopping=True, batch_size=64
        )  # without forests, which grow with the rows
        sizes.append(len(pickle.dumps(embedder.fit(X, y))))
    assert sizes[1] < sizes[0] + 2000


def test_data_that_are_refused_draw_no_random_numbers(iris):
    X, y = iris
    generator = np.random.RandomState(0)
    model = HSCLEmbedder(random_state=generator)
    for method in (model.fit, model.partial_fit):
        with pytest.raises(ValueError, match="inconsistent"):
            method(X, y[:-1])
    assert generator.randint(2**31) == np.random.RandomState(0).randint(2**31)


def test_failed_fit_keeps_the_previous_one(iris):
    X, y = iris
    embedder = HSCLEmbedder(max_epochs=1).fit(X, y)
    before = embedder.transform(X)
    with pytest.raises(ValueError, match="one class"):
        embedder.fit(X[:, :2], np.zeros(150))
    assert_array_equal(embedder.transform(X), before)
