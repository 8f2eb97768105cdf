"""Raw data frames: categorical columns, their codes, missing values."""

import pickle
import re
import warnings

import numpy as np
import pandas as pd
import polars
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from sklearn_hscl import HSCLEmbedder, diagnose
from sklearn_hscl.data.categorical import warn_of_doubtful_text
from sklearn_hscl.data.dataframe import Table
from sklearn_hscl.encoders.preprocessing import TablePreprocessor

pytestmark = pytest.mark.usefixtures("few_trees")

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
    n_components = embedder.net_.module_.n_components
    width = n_components + embedder.module_.width
    assert Z.shape == (N, width) and Z.dtype == np.float64
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
    settings = {"max_epochs": 1, "early_stopping": True, "ce_weight": 0}  # no folds
    embedder = HSCLEmbedder(random_state=0, **settings).fit(X, y)
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
    assert embedder.transform(np.zeros((1, 2))).shape == (1, 35)


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


# Text that is something else -----------------------------------------------------------

DAYS = pd.date_range("2024-01-30", periods=N, freq="D")
ORDER = np.random.default_rng(3).permutation(N)
TEXTS = {
    "ISO dates": ([f"{day:%Y-%m-%d}" for day in DAYS], "dates"),
    "ISO times": ([f"{day:%Y-%m-%dT%H:%M:%SZ}" for day in DAYS], "dates"),
    "few dates": ([f"{day:%Y-%m-%d}" for day in DAYS[np.arange(N) % 4]], "dates"),
    "months": ([f"{2020 + k % 3}-{1 + k % 12:02}" for k in range(N)], "dates"),
    "European dates": ([f"{day:%d.%m.%Y}" for day in DAYS], "dates"),
    "American dates": ([f"{day:%m/%d/%y}" for day in DAYS], "dates"),
    "dates in words": ([f"{day:%b %d, %Y}" for day in DAYS], "dates"),
    "dates, some missing": (
        [f"{day:%Y-%m-%d}" for day in DAYS[:-2]] + [None, "?"],
        "dates",
    ),
    "times of day": ([f"{k % 24}:{k % 60:02}" for k in range(N)], "dates"),
    "numbers": ([f"{x:.2f}" for x in np.linspace(-3, 40, N)], "numbers"),
    "decimal commas": (
        [f"{x:.2f}".replace(".", ",") for x in np.linspace(1, 4, N)],
        "numbers",
    ),
    "thousands": ([f"{x:,.1f}" for x in np.linspace(900, 90_000, N)], "numbers"),
    "money": ([f"${x}" for x in range(N)], "numbers"),
    "numbers, some missing": ([*map(str, range(N - 1)), "n/a"], "numbers"),
    "identifiers": ([f"row {k}" for k in range(N)], "mostly values of a single row"),
    "versions": ([f"1.2.3.{k}" for k in range(N)], "mostly values of a single row"),
    "names with numbers": (
        [f"Marble {k}" for k in range(N)],
        "mostly values of a single row",
    ),
    "words": (["red", "green", "blue"] * (N // 3), None),
    "codes": ([str(k % 9) for k in range(N)], None),
    "flags": (["0", "1"] * (N // 2), None),
    "frequent texts": ([f"level {k // 2}" for k in range(N)], None),
    "names of months": ([("May", "March")[k % 2] for k in range(N)], None),
}


def with_text(values, frame="pandas"):
    data = {"number": np.linspace(0, 1, N), "text": [values[k] for k in ORDER]}
    return pd.DataFrame(data) if frame == "pandas" else polars.DataFrame(data)


@pytest.mark.parametrize("frame", ["pandas", "polars"])
@pytest.mark.parametrize(("values", "kind"), TEXTS.values(), ids=TEXTS)
def test_text_that_is_something_else_draws_one_warning(values, kind, frame):
    table = Table.of(with_text(values, frame))
    mask = np.array([False, True])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_doubtful_text(table, mask)
    expected = [] if kind is None else [f"Text column 'text' holds {kind}"]
    assert [str(each.message).partition(":")[0] for each in caught] == expected


def test_fit_and_diagnose_name_all_columns_and_the_remedies():
    X = with_text(TEXTS["ISO dates"][0]).assign(
        price=TEXTS["decimal commas"][0], cost=TEXTS["money"][0], id=TEXTS["identifiers"][0]
    )
    embedder = HSCLEmbedder(max_epochs=1, random_state=0)
    with pytest.warns(UserWarning, match="'text' holds dates: expand") as caught:
        embedder.fit(X, Y)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "Text columns 'price', 'cost' hold numbers: convert them" in message
    assert "Text column 'id' holds mostly values of a single row: drop" in message
    embedder.transform(X)  # without another warning
    finding = diagnose(embedder, X, Y)["columns"]
    assert finding.severity == "warning"
    assert finding.summary in message
    assert finding.values["numbers"] == ["price", "cost"]


def test_what_is_meant_as_categories_draws_no_warning():
    X = with_text(TEXTS["numbers"][0])
    as_category = X.astype({"text": "category"})
    fitted = HSCLEmbedder(max_epochs=1).fit(as_category, Y)
    assert "columns" not in [finding.name for finding in diagnose(fitted, as_category, Y)]
    named = HSCLEmbedder(max_epochs=1, categorical_features=["text"]).fit(X, Y)
    assert "columns" not in [finding.name for finding in diagnose(named, X, Y)]


def test_the_expansion_of_dates_in_the_guide():
    def parts_of(frame):
        dates = frame.apply(pd.to_datetime)
        parts = ("year", "month", "day", "day_of_week")
        return pd.DataFrame(
            {f"{c} {p}": getattr(dates[c].dt, p) for c in dates for p in parts}
        )

    for values in (TEXTS["ISO dates"][0], DAYS):
        expand = make_column_transformer(
            (FunctionTransformer(parts_of), ["text"]),
            remainder="passthrough",
            verbose_feature_names_out=False,
        ).set_output(transform="pandas")
        pipe = make_pipeline(expand, HSCLEmbedder(max_epochs=1, random_state=0))
        names = ["text year", "text month", "text day", "text day_of_week", "number"]
        assert pipe.fit(with_text(values), Y)[-1].feature_names_in_.tolist() == names
