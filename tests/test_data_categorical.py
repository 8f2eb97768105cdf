"""Raw data frames: categorical columns, their codes, missing values."""

import pickle
import re

import numpy as np
import pandas as pd
import polars
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.encoders.preprocessing import TablePreprocessor

N = 60
Y = np.arange(N) % 3
COLOURS = ["red", "green", "blue"]


def mixed(frame=pd.DataFrame, n=N, seed=0):
    rng = np.random.default_rng(seed)
    colour = rng.choice([*COLOURS, None], n)
    number = np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n))
    columns = {"size": number, "colour": colour, "old": rng.random(n) < 0.5}
    if frame is polars.DataFrame:
        columns["colour"] = [None if c is None else str(c) for c in colour]
    return frame(columns | {"count": rng.integers(0, 9, n)})


def fit(X, y=Y, **parameters):
    return HSCLEmbedder(**({"max_epochs": 1, "random_state": 0} | parameters)).fit(X, y)


FRAMES = pytest.mark.parametrize("frame", [pd.DataFrame, polars.DataFrame])


# Explicit categorical_features


@FRAMES
@pytest.mark.parametrize("chosen", [["count"], [1], np.array([False, True]), ("count",)])
def test_explicit_columns(frame, chosen):
    X = mixed(frame)[["size", "count"]]
    embedder = fit(X, categorical_features=chosen)
    assert embedder.is_categorical_.tolist() == [False, True]
    assert embedder.categories_[0].tolist() == sorted(set(X["count"]))
    assert not hasattr(fit(X, categorical_features=[]), "categories_")


@pytest.mark.parametrize(
    "X",
    [
        np.array([[1.0, "a"], [2.0, "b"], [None, None]] * 4, dtype=object),
        [[1.0, "a"], [2.0, "b"], [float("nan"), None]] * 4,
    ],
)
def test_explicit_columns_of_arrays_and_lists(X):
    embedder = fit(X, [0, 1, 0] * 4, categorical_features=[1])
    assert_array_equal(embedder.categories_[0], ["a", "b"])
    assert np.isfinite(embedder.transform(X)).all()


def test_text_in_a_column_that_is_not_listed_is_named():
    with pytest.raises(ValueError, match="Column 'colour' .* holds .*, not a number"):
        fit(mixed(), categorical_features=["old"])


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["shape"], "'shape', which is not a column of X.*'colour'"),
        ([4], "4.*from 0 to 3"),
        ([-1], "-1"),
        ([0.5], "0.5"),
        ([True], r"mask of shape \(1,\), but X has 4 features"),
        ("colour", "'categorical_features' parameter"),
    ],
)
def test_bad_categorical_features(chosen, message):
    with pytest.raises(ValueError, match=message):
        fit(mixed(), categorical_features=chosen)


def test_names_need_a_frame():
    with pytest.raises(ValueError, match="'a', but X has no column names"):
        fit(np.zeros((N, 2)), categorical_features=["a"])


# Fitting and transforming


@FRAMES
@pytest.mark.parametrize("loss", ["hscl", "hucl"])
def test_raw_frames_are_embedded_row_by_row(frame, loss):
    X = mixed(frame)
    embedder = fit(X, loss=loss)
    Z = embedder.transform(X)
    assert Z.shape == (N, 32 if loss == "hscl" else 64) and Z.dtype == np.float64
    assert np.isfinite(Z).all()
    for part in (slice(0, 1), slice(7, 20)):
        assert_array_equal(embedder.transform(X[part]), Z[part])
    assert embedder.is_categorical_.tolist() == [False, True, True, False]
    assert_array_equal(embedder.categories_[0], sorted(COLOURS))


def test_pandas_and_polars_give_the_same_embedding():
    first, second = mixed(pd.DataFrame), mixed(polars.DataFrame)
    embedder = fit(first)
    assert_array_equal(embedder.transform(first), fit(second).transform(second))
    assert_array_equal(embedder.transform(first), embedder.transform(second))


def test_float32_numbers_beside_categories_give_float32():
    X = mixed()[["size", "colour"]].astype({"size": np.float32})
    assert fit(X).transform(X).dtype == np.float32


@FRAMES
@pytest.mark.parametrize("encoder", ["tabular", "mlp"])
def test_float32_numbers_alone_give_float32(frame, encoder):
    rows = np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)
    rows[3, 1] = np.nan
    X = frame({"a": rows[:, 0], "b": rows[:, 1]})
    Z = fit(X, encoder=encoder).transform(X)
    assert Z.dtype == np.float32
    assert_array_equal(Z, fit(rows, encoder=encoder).transform(rows))


def test_categories_are_learnt():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    X = pd.DataFrame({"noise": rng.normal(size=200), "answer": np.array(["no", "yes"])[y]})
    pipe = make_pipeline(HSCLEmbedder(max_epochs=5, random_state=0), LogisticRegression())
    assert pipe.fit(X, y).score(X, y) == 1


def test_that_a_value_is_missing_can_be_learnt():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    X = rng.normal(size=(200, 2))
    X[y == 1, 0] = np.nan
    pipe = make_pipeline(HSCLEmbedder(max_epochs=5, random_state=0), LogisticRegression())
    assert pipe.fit(X, y).score(X, y) == 1


def test_unseen_and_rare_levels_are_one():
    X = pd.DataFrame({"n": np.arange(9.0), "c": [*"aaaabbbb", "rare"]})
    embedder = fit(X, [0, 1] * 4 + [0])
    new = pd.DataFrame({"n": [1.0, 1.0, 1.0, 1.0], "c": ["rare", "new", "a", None]})
    Z = embedder.transform(new)
    assert_array_equal(Z[0], Z[1])
    assert_array_equal(Z[3], Z[1])  # missing, though never so in training
    assert (Z[2] != Z[1]).any()


@pytest.mark.parametrize("X", [mixed().to_numpy(), mixed().to_numpy().tolist()])
def test_a_frame_without_its_names_warns_as_usual(X):
    embedder = fit(mixed())
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        Z = embedder.transform(X)
    assert_array_equal(Z, embedder.transform(mixed()))


@FRAMES
def test_names_of_columns_are_compared_with_fit(frame):
    X = mixed(frame)
    embedder = fit(X)
    names = list(X.columns)
    for changed, message in [
        (X[names[::-1]], "must be in the same order"),
        (X[names[:-1]], "seen at fit time, yet now missing"),
        (
            X.rename({"old": "new"}, **({"axis": 1} if frame is pd.DataFrame else {})),
            "unseen",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            embedder.transform(changed)


def test_columns_that_changed_their_type_are_named():
    embedder = fit(mixed())
    with pytest.raises(ValueError, match="Column 'colour' .* holds 1.*like 'blue'"):
        embedder.transform(mixed().assign(colour=1))
    with pytest.raises(ValueError, match="Column 'size' .* holds 'big', not a number"):
        embedder.transform(mixed().assign(size="big"))
    with pytest.raises(ValueError, match="Column 'size' .* holds dates"):
        embedder.transform(mixed().assign(size=pd.Timestamp(0)))
    with pytest.raises(ValueError, match="Column 'colour' .* holds vectors beside"):
        embedder.transform(mixed().assign(colour=[[1]] * N))


@pytest.mark.parametrize(
    "parameters", [{"categorical_features": None}, {"encoder": nn.Linear(4, 2)}]
)
def test_dates_are_named_without_categories(parameters):
    X = mixed()[["count", "old"]].assign(day=pd.Timestamp(0))
    with pytest.raises(TypeError, match="Column 'day' .index 2. holds dates .*weekday"):
        fit(X, **parameters)


def test_identifiers_alone_are_refused():
    X = pd.DataFrame({"id": [f"row {i}" for i in range(N)]})
    with pytest.raises(ValueError, match="same level in two training rows.*drop identif"):
        fit(X)


def test_infinity_beside_categories_is_named():
    X = mixed()
    X.loc[5, "size"] = -np.inf
    cell = re.escape("Column 'size' (index 0) holds -inf in row 5")
    with pytest.raises(ValueError, match=cell):
        fit(X)
    with pytest.raises(ValueError, match=f"X_val cannot be used.*\n.*{cell}"):
        HSCLEmbedder(max_epochs=1, early_stopping=True).fit(mixed(), Y, X_val=X, y_val=Y)


@FRAMES
def test_held_out_frames(frame):
    embedder = HSCLEmbedder(max_epochs=2, early_stopping=True, random_state=0)
    assert len(clone(embedder).fit(mixed(frame), Y).history_) == 2
    embedder.fit(mixed(frame), Y, X_val=mixed(frame, seed=1), y_val=Y)
    assert len(embedder.history_) == 2


def test_statistics_are_learnt_on_training_rows_only():
    X = mixed(n=200).assign(size=np.arange(200.0))
    y = np.arange(200) % 2
    embedder = HSCLEmbedder(max_epochs=1, early_stopping=True, random_state=0).fit(X, y)
    n_train = 180
    fitted = embedder._prepare.standardization
    assert fitted.magnitude.shape == (2,)
    on_all = TablePreprocessor.fit(embedder._columns.encode(X), embedder.is_categorical_)
    assert fitted.mean[0] != on_all.standardization.mean[0]
    X["colour"] = [f"level {i // 2}" for i in range(200)]  # each level in two rows
    embedder.fit(X, y)
    n_levels = embedder._prepare.layout.n_levels[1]
    assert n_levels < 100  # levels with a held-out row are too rare in training
    assert n_levels >= 100 - (200 - n_train)


def test_a_search_over_a_mixed_frame_and_names_of_the_output():
    pipe = make_pipeline(HSCLEmbedder(max_epochs=1, random_state=0), LogisticRegression())
    grid = {"hsclembedder__categorical_features": ["from_dtype", [1, 2, 3]]}
    search = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(mixed(), Y)
    best = search.best_estimator_[0]
    assert best.feature_names_in_.tolist() == ["size", "colour", "old", "count"]
    assert best.get_feature_names_out()[:2].tolist() == ["hsclembedder0", "hsclembedder1"]
    for container in ("pandas", "polars"):
        Z = best.set_output(transform=container).transform(mixed())
        assert list(Z.columns) == best.get_feature_names_out().tolist()


def test_clones_and_pickles_keep_the_columns():
    embedder = fit(mixed(), categorical_features=["colour", "old"])
    copy = pickle.loads(pickle.dumps(embedder))
    assert_array_equal(copy.transform(mixed()), embedder.transform(mixed()))
    assert clone(embedder).categorical_features == ["colour", "old"]


def test_attributes_of_a_fit_with_categories_do_not_outlive_it():
    embedder = fit(mixed())
    embedder.fit(np.arange(N * 2.0).reshape(N, 2), Y)
    assert not hasattr(embedder, "categories_")
    assert not hasattr(embedder, "is_categorical_")
    assert embedder.transform(np.zeros((1, 2))).shape == (1, 32)


def test_a_failed_fit_keeps_the_columns_of_the_previous_one():
    embedder = fit(mixed())
    before = embedder.transform(mixed())
    with pytest.raises(ValueError, match="holds dates"):
        embedder.fit(mixed().assign(size=pd.Timestamp(0)), Y)
    assert_array_equal(embedder.transform(mixed()), before)


def test_modules_get_codes_only_if_these_are_asked_for():
    X = mixed()[["count", "old"]]
    module = nn.Linear(2, 3)
    assert not hasattr(fit(X, encoder=module), "is_categorical_")  # bools as numbers
    seen = []

    class Watch(nn.Linear):
        def forward(self, rows):
            seen.append(rows)
            return super().forward(rows)

    fit(X, encoder=Watch(2, 3), categorical_features=["old"])
    assert set(torch.cat(seen[:2])[:, 1].tolist()) == {1.0, 2.0}  # before any padding


def test_modules_do_not_get_missing_values():
    X = mixed()[["count", "colour"]]
    with pytest.raises(ValueError, match="Column 'colour' .* holds nan"):
        fit(X, encoder=nn.Linear(2, 3), categorical_features=["colour"])


@pytest.mark.parametrize("encoder", ["auto", nn.Linear(4, 2)])
def test_tags_follow_the_encoder(encoder):
    built_in = encoder == "auto"
    tags = HSCLEmbedder(encoder=encoder).__sklearn_tags__().input_tags
    assert (tags.allow_nan, tags.categorical) == (built_in, built_in)
    assert tags.sparse and not tags.string
    plain = HSCLEmbedder(encoder=encoder, categorical_features=None)
    assert not plain.__sklearn_tags__().input_tags.categorical
