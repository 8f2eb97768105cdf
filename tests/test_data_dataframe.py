"""What a column of a frame is, by its dtype and its values, and the codes of its levels."""

from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import polars
import pyarrow
import pytest
from numpy.testing import assert_array_equal

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.data.categorical import TableColumns
from sklearn_hscl.data.dataframe import kind_of

ARROW_LIST = pd.ArrowDtype(pyarrow.list_(pyarrow.int64()))
ENUM = polars.Enum(["z", "y"])

CATEGORICAL = {
    "pandas strings": pd.Series(["b", "a", None], dtype="str"),
    "pandas nullable strings": pd.Series(["b", "a", pd.NA], dtype="string"),
    "arrow strings": pd.Series(["b", "a", None], dtype="string[pyarrow]"),
    "object strings": pd.Series(["b", "a", None], dtype=object),
    "object strings, NaN": pd.Series(["b", "a", np.nan], dtype=object),
    "categories": pd.Series(pd.Categorical(["b", "a", None], categories=list("cba"))),
    "categories of numbers": pd.Series(pd.Categorical([7, 3, None])),
    "intervals": pd.cut(pd.Series([2.0, 0.0, np.nan]), 2),
    "nullable bools": pd.Series([True, False, None], dtype="boolean"),
    "object bools": pd.Series([True, False, None], dtype=object),
    "polars strings": polars.Series(["b", "a", None]),
    "polars categories": polars.Series(["b", "a", None], dtype=polars.Categorical),
    "polars enum": polars.Series(["z", "y", None], dtype=ENUM),
    "polars bools": polars.Series([True, False, None]),
}


def as_frame(column, name="c"):
    if isinstance(column, polars.Series):
        return polars.DataFrame({name: column})
    return pd.DataFrame({name: column})


@pytest.mark.parametrize("column", CATEGORICAL.values(), ids=CATEGORICAL)
def test_categorical_columns_and_their_codes(column):
    X = as_frame(column)
    columns = TableColumns.learn(X, "from_dtype")
    assert columns.is_categorical.tolist() == [True]
    assert len(columns.categories[0]) == 2  # observed, not missing
    assert_array_equal(columns.encode(X), [[2], [1], [np.nan]])  # levels are sorted
    assert_array_equal(columns.encode(X[1:2]), [[1]])


NUMERIC = {
    "integers with NA": pd.Series([1, 2, None], dtype="Int64"),
    "arrow": pd.Series([1, 2, None], dtype="int64[pyarrow]"),
    "objects": pd.Series([1, 2.0, None], dtype=object),
    "objects with NA": pd.Series([1, 2.0, pd.NA], dtype=object),
    "polars": polars.Series([1, 2, None]),
    "polars decimals": polars.Series([1, 2, None]).cast(polars.Decimal(10, 2)),
}


@pytest.mark.parametrize("column", NUMERIC.values(), ids=NUMERIC)
def test_numeric_columns_beside_categories(column):
    X = as_frame(column)
    text = ["u", "v", "u"]
    if isinstance(X, polars.DataFrame):
        X = X.with_columns(polars.Series("text", text))
    else:
        X = X.assign(text=text)
    columns = TableColumns.learn(X, "from_dtype")
    assert columns.is_categorical.tolist() == [False, True]
    assert_array_equal(columns.encode(X), [[1, 1], [2, 2], [np.nan, 1]])


def test_plain_numbers_need_no_columns():
    assert TableColumns.learn(pd.DataFrame({"a": [1.0, 2.0]}), "from_dtype") is None
    assert TableColumns.learn(np.array([["a"]]), "from_dtype") is None
    assert TableColumns.learn(pd.DataFrame({"a": ["u", "v"]}), None) is None


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([None, None, None], dtype=object),
        polars.Series([None, None, None]),
    ],
)
def test_a_column_without_any_value_is_numeric(column):
    columns = TableColumns.learn(as_frame(column), "from_dtype")
    assert columns.is_categorical.tolist() == [False]
    assert np.isnan(columns.encode(as_frame(column))).all()


BAD = {
    "mixed": (pd.Series([1, "a", None], dtype=object), "objects of int and str"),
    "lists": (pd.Series([[1], [2], [3]]), "unhashable.*drop it"),
    "arrow lists": (pd.Series([[1], [2], [3]], dtype=ARROW_LIST), "no values .*drop it"),
    "dicts": (pd.Series([{}, {}, {}]), "unhashable"),
    "bytes": (pd.Series([b"a", b"b", b"c"]), "objects of bytes"),
    "dates": (pd.Series(pd.date_range("2020", periods=3)), "holds dates .*weekday"),
    "zoned": (pd.Series(pd.date_range("2020", periods=3, tz="UTC")), "holds dates"),
    "durations": (pd.Series(pd.to_timedelta([1, 2, 3])), "holds dates or durations"),
    "periods": (pd.Series(pd.period_range("2020", periods=3, freq="M")), "holds dates"),
    "object dates": (pd.Series([pd.Timestamp(0)] * 3, dtype=object), "holds dates"),
    "polars dates": (polars.Series([0, 1, 2]).cast(polars.Date), "holds dates"),
    "polars lists": (polars.Series([[1], [2], [3]]), "List"),
    "polars structs": (polars.Series([{"a": 1}] * 3), "Struct"),
    "complex": (pd.Series([1j, 2j, 3j]), "Complex data not supported"),
}


@pytest.mark.parametrize(("column", "message"), BAD.values(), ids=BAD)
def test_columns_that_cannot_be_used_are_named(column, message):
    with pytest.raises(
        ValueError, match=f"Column 'when' .index 0.*{message}|{message}.*'when'"
    ):
        HSCLEmbedder(max_epochs=1).fit(as_frame(column, "when"), [0, 1, 0])


def test_levels_that_have_no_order_are_categories_all_the_same():
    levels = pd.Series(pd.Categorical([1, "a", (1, 2), None]))
    columns = TableColumns.learn(as_frame(levels), "from_dtype")
    assert_array_equal(columns.encode(as_frame(levels))[:, 0], [1, 2, 3, np.nan])
    assert columns.categories[0].tolist() == [1, "a", (1, 2)]


def as_objects(levels):
    return pd.DataFrame(
        {"n": np.arange(float(len(levels))), "c": pd.Series(levels, dtype=object)}
    )


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("other", "shown"), [(1.5, "1.5"), (np.inf, "inf"), (True, "True"), (("x",), "tuple|x")]
)
def test_levels_of_another_kind_are_named_whatever_their_order(order, other, shown):
    X = as_objects(["a", "b"] * 3)
    columns = TableColumns.learn(X, "from_dtype")
    new = as_objects(["a", other, "unseen"][::order])
    with pytest.raises(ValueError, match=rf"'c' .*holds \(?'?({shown}).* text, like 'a'"):
        columns.encode(new)


@pytest.mark.parametrize("order", [1, -1])
def test_a_fit_on_mixed_kinds_takes_them_all(order):
    levels = ["a", 1, "a", "b", 1, "c"][::order]
    X = as_objects(pd.Categorical(levels)).astype({"c": "category"})
    embedder = HSCLEmbedder(max_epochs=1, random_state=0).fit(X, [0, 1] * 3)
    assert embedder.categories_[0].tolist() == [1, "a", "b", "c"]
    assert np.isfinite(embedder.transform(as_objects([2, "z", None]))).all()
    with pytest.raises(ValueError, match=r"'c' .* holds \('a',\), .* numbers and text"):
        embedder.transform(as_objects(["a", ("a",)]))


def test_kinds_of_levels_that_are_not_kept_are_known_after_loading(tmp_path):
    X = as_objects(pd.Categorical(["a", 1, "a", "b", "a", "b"]))  # 1: of a single row
    embedder = HSCLEmbedder(max_epochs=1, random_state=0).fit(
        X.astype({"c": "category"}), [0, 1] * 3
    )
    embedder.save(tmp_path / "m")
    again = HSCLEmbedder.load(tmp_path / "m")
    assert again.categories_[0].tolist() == ["a", "b"]
    new = as_objects([1, "a"])
    assert_array_equal(again.transform(new), embedder.transform(new))
    with pytest.raises(ValueError, match="Timestamp.* numbers and text, like 'a'"):
        again.transform(as_objects([pd.Timestamp(0), "a"]))


TABLES = {"n": [1.0, 2.0, 3.0, 4.0], "c": ["u", "v", "u", "v"]}


@pytest.mark.parametrize(
    ("X", "remedy"),
    [
        (polars.LazyFrame(TABLES), r"X is a LazyFrame.*pass X\.collect\(\)"),
        (polars.LazyFrame({"n": TABLES["n"]}), r"X is a LazyFrame.*pass X\.collect\(\)"),
        (pyarrow.table(TABLES), r"X, a Table of pyarrow.*pass X\.to_pandas\(\)"),
    ],
)
def test_tables_of_other_libraries_are_named(X, remedy):
    with pytest.raises(TypeError, match=remedy):
        HSCLEmbedder().fit(X, [0, 1] * 2)
    embedder = HSCLEmbedder(max_epochs=1).fit(pd.DataFrame(TABLES), [0, 1] * 2)
    with pytest.raises(TypeError, match=remedy):
        embedder.transform(X)


def test_arrow_tables_of_numbers_are_taken():
    X = pyarrow.table({"n": TABLES["n"], "m": [1, 2, 3, 4]})
    embedder = HSCLEmbedder(max_epochs=1, random_state=0).fit(X, [0, 1] * 2)
    assert_array_equal(embedder.transform(X), embedder.transform(X.to_pandas()))


def test_equal_levels_are_of_one_kind():
    columns = TableColumns.learn(pd.DataFrame({"c": [True, False]}), "from_dtype")
    for same in ([1, 0], [1.0, 0.0], np.array([True, False], dtype=object)):
        assert_array_equal(columns.encode(pd.DataFrame({"c": same})), [[2], [1]])


def test_dates_and_durations_of_any_type_are_of_one_kind():
    dates = pd.Timestamp("2020-01-02"), datetime(2020, 1, 2), np.datetime64("2020-01-02")
    durations = pd.Timedelta(days=1), timedelta(days=1), np.timedelta64(1, "D")
    assert {kind_of(date) for date in dates} == {"dates"}
    assert {kind_of(duration) for duration in durations} == {"durations"}
