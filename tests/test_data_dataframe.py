"""Columns of a data frame: types by dtype and values, levels, codes, missing values."""

from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache

import narwhals
import numpy as np
import pandas as pd
import polars
import pyarrow
import pytest
from helpers.containers import data_of
from numpy.testing import assert_array_equal

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.data import dataframe
from sklearn_hscl.data.categorical import TableColumns
from sklearn_hscl.data.dataframe import Table, level_type
from sklearn_hscl.data.missing import factorize, is_missing, missing_mask
from sklearn_hscl.data.table_validation import check_table
from sklearn_hscl.data.targets import encode_groups, label_array

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


def beside_numbers(column, name):
    frame = as_frame(column, name)
    numbers = [1.0, 2.0, 3.0]
    if isinstance(frame, polars.DataFrame):
        return frame.with_columns(polars.Series("number", numbers))
    return frame.assign(number=numbers)


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
    "lists": (pd.Series([[1], [2], [3]]), "holds vectors beside .*numpy.stack"),
    "arrow lists": (pd.Series([[1], [2], [3]], dtype=ARROW_LIST), "holds vectors beside"),
    "dicts": (pd.Series([{}, {}, {}]), "unhashable"),
    "bytes": (pd.Series([b"a", b"b", b"c"]), "objects of bytes"),
    "dates": (pd.Series(pd.date_range("2020", periods=3)), "holds dates .*weekday"),
    "zoned": (pd.Series(pd.date_range("2020", periods=3, tz="UTC")), "holds dates"),
    "durations": (pd.Series(pd.to_timedelta([1, 2, 3])), "holds dates or durations"),
    "periods": (pd.Series(pd.period_range("2020", periods=3, freq="M")), "holds dates"),
    "object dates": (pd.Series([pd.Timestamp(0)] * 3, dtype=object), "holds dates"),
    "polars dates": (polars.Series([0, 1, 2]).cast(polars.Date), "holds dates"),
    "polars lists": (polars.Series([[1], [2], [3]]), "holds vectors beside"),
    "polars structs": (polars.Series([{"a": 1}] * 3), "Struct"),
    "complex": (pd.Series([1j, 2j, 3j]), "Complex data not supported"),
}


@pytest.mark.parametrize(("column", "message"), BAD.values(), ids=BAD)
def test_columns_that_cannot_be_used_are_named(column, message):
    with pytest.raises(
        ValueError, match=f"Column 'when' .index 0.*{message}|{message}.*'when'"
    ):
        HSCLEmbedder(max_epochs=1).fit(beside_numbers(column, "when"), [0, 1, 0])


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
def test_levels_of_another_type_are_named_whatever_their_order(order, other, shown):
    X = as_objects(["a", "b"] * 3)
    columns = TableColumns.learn(X, "from_dtype")
    new = as_objects(["a", other, "unseen"][::order])
    with pytest.raises(ValueError, match=rf"'c' .*holds \(?'?({shown}).* text, like 'a'"):
        columns.encode(new)


@pytest.mark.parametrize("order", [1, -1])
def test_a_fit_on_mixed_types_takes_them_all(order):
    levels = ["a", 1, "a", "b", 1, "c"][::order]
    X = as_objects(pd.Categorical(levels)).astype({"c": "category"})
    embedder = HSCLEmbedder(max_epochs=1, random_state=0).fit(X, [0, 1] * 3)
    assert embedder.categories_[0].tolist() == [1, "a", "b", "c"]
    assert np.isfinite(embedder.transform(as_objects([2, "z", None]))).all()
    with pytest.raises(ValueError, match=r"'c' .* holds \('a',\), .* numbers and text"):
        embedder.transform(as_objects(["a", ("a",)]))


def test_types_of_levels_that_are_not_saved_are_known_after_loading(tmp_path):
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


def test_equal_levels_are_of_one_type():
    columns = TableColumns.learn(pd.DataFrame({"c": [True, False]}), "from_dtype")
    for same in ([1, 0], [1.0, 0.0], np.array([True, False], dtype=object)):
        assert_array_equal(columns.encode(pd.DataFrame({"c": same})), [[2], [1]])


def test_dates_and_durations_of_any_class_are_of_one_type():
    dates = pd.Timestamp("2020-01-02"), datetime(2020, 1, 2), np.datetime64("2020-01-02")
    durations = pd.Timedelta(days=1), timedelta(days=1), np.timedelta64(1, "D")
    assert {level_type(date) for date in dates} == {"dates"}
    assert {level_type(duration) for duration in durations} == {"durations"}


ROWS = {
    "text": ["u", "v", None, "u"],
    "more": ["a", "a", "b", "b"],
    "flag": [True, None, False, True],
    "size": [1.0, None, 2.0, 3.0],
    "count": [1, 2, 3, 4],
}
MIXED = [
    pd.DataFrame(ROWS),
    pd.DataFrame(ROWS).astype(object),
    pd.DataFrame(ROWS).convert_dtypes(),
    polars.DataFrame(ROWS),
]


@pytest.fixture
def factorized(monkeypatch):
    """Return the list of the columns that were factorized."""
    columns = []

    def count(column):
        columns.append(column)
        return factorize(column)

    monkeypatch.setattr(dataframe, "factorize", count)
    return columns


@pytest.mark.parametrize("chosen", ["from_dtype", list(ROWS)])
@pytest.mark.parametrize("X", MIXED)
def test_a_table_factorizes_a_column_at_most_once(X, chosen, factorized):
    table = Table.of(X)
    assert Table.of(table) is table
    columns = TableColumns.learn(table, chosen)
    rows = check_table(HSCLEmbedder(), table, columns=columns, is_fit=True, name="X")
    is_object = [isinstance(X, pd.DataFrame) and X[name].dtype == object for name in X]
    assert len(factorized) == np.count_nonzero(columns.is_categorical | is_object)
    table.is_categorical(0)
    columns.encode(table)
    assert len(factorized) <= 5
    expected = TableColumns.learn(X, chosen)
    assert_array_equal(rows, expected.encode(X))
    assert_array_equal(columns.is_categorical, expected.is_categorical)
    assert columns.level_types == expected.level_types
    for levels, same in zip(columns.categories, expected.categories, strict=True):
        assert_array_equal(levels, same)


class CountingFrame:
    """A polars frame that counts how often it is asked for columns and their names."""

    def __init__(self, frame):
        self.frame, self.n_listed, self.read = frame, 0, []

    @property
    def columns(self):
        self.n_listed += 1
        return self.frame.columns

    @property
    def dtypes(self):
        return self.frame.dtypes

    @property
    def shape(self):
        return self.frame.shape

    def __getitem__(self, key):
        self.read.append(key[1])
        return self.frame[key]


def test_a_table_asks_for_its_columns_once():
    X = CountingFrame(polars.DataFrame(ROWS))
    table = Table(X)
    assert len(table) == 4 and table.is_frame and not table.has_plain_numbers
    X.n_listed = 0
    TableColumns.learn(table, "from_dtype").encode(table)
    assert X.n_listed == 1
    assert X.read == [0, 1, 2, 3, 4]


def test_tables_of_arrays_and_lists():
    for data in ([[1, "a"], [2, "b"]], np.array([[1, "a"], [2, "b"]], dtype=object)):
        table = Table(data)
        assert len(table) == 2 and table.names == [0, 1] and not table.is_frame
        assert table.label(1) == "Column 1 (index 1)"
        assert_array_equal(table.to_floats(0), [1.0, 2.0])
        assert table.factorize(1)[1] == ["a", "b"]
    with pytest.raises(ValueError, match="Expected 2D array, got an array of shape"):
        _ = Table([1, 2]).names


@pytest.mark.parametrize("X", ["text", [], 3])
def test_what_is_not_a_table_is_named(X):
    columns = TableColumns.learn(pd.DataFrame({"c": ["u", "v"]}), "from_dtype")
    message = "Expected X to be a table with at least one row, got .*(str|list|int)"
    with pytest.raises(ValueError, match=message):
        check_table(HSCLEmbedder(), X, columns=columns, is_fit=False, name="X")


MISSING = [
    None,
    np.nan,
    float("nan"),
    np.float32("nan"),
    pd.NA,
    pd.NaT,
    np.datetime64("NaT"),
    np.timedelta64("NaT"),
]


@pytest.mark.parametrize("value", MISSING, ids=repr)
def test_missing_values_are_the_same_for_labels_levels_and_groups(value):
    assert is_missing(value)
    values = np.array(["a", "b", "a"], dtype=object)
    values[1] = value
    assert_array_equal(missing_mask(values), [False, True, False])
    for column in (values, pd.Series(values, dtype=object)):
        codes, levels = factorize(column)
        assert_array_equal(codes, [0, -1, 0])
        assert levels == ["a"]
    with pytest.raises(ValueError, match="y holds a missing label in row 1"):
        label_array(values)
    with pytest.raises(ValueError, match="groups holds a missing value in row 1"):
        encode_groups(values, 3)


@pytest.mark.parametrize("unit", ["ns", "D", "Y"])
@pytest.mark.parametrize("kind", ["M8", "m8"])
def test_missing_dates_of_arrays(kind, unit):
    dates = np.array([5, 7, 5], dtype="i8").astype(f"{kind}[{unit}]")
    assert_array_equal(factorize(dates)[0], [0, 1, 0])
    dates[1] = "NaT"
    assert_array_equal(missing_mask(dates), [False, True, False])
    assert_array_equal(factorize(dates)[0], [0, -1, 0])


@pytest.mark.parametrize("value", [0, 0.0, "", "nan", False, np.inf, (), "NaT"])
def test_values_that_are_not_missing(value):
    assert not is_missing(value)


def test_missing_mask_has_the_shape_of_the_array():
    assert_array_equal(missing_mask(np.array(np.nan)), True)
    assert_array_equal(missing_mask(np.array([["a"], [None]])), [[False], [True]])
    assert_array_equal(missing_mask(np.array([[1, 2]])), [[False, False]])


# The same column in each library ------------------------------------------------------


class Lazy:
    """A frame of dask, as far as it is read here."""

    def __init__(self, frame):
        self.frame = frame
        self.columns, self.dtypes = frame.columns, frame.dtypes
        self.shape = (None, frame.shape[1])

    def __dask_graph__(self):
        return {}

    def compute(self):
        return self.frame


LIBRARIES = {
    "pandas": lambda table: table.to_pandas(),
    "pandas, nullable": lambda table: table.to_pandas().convert_dtypes(),
    "pandas, Arrow types": lambda table: table.to_pandas(types_mapper=pd.ArrowDtype),
    "polars": polars.from_arrow,
    "Arrow Table": lambda table: table,
    "Arrow RecordBatch": lambda table: table.combine_chunks().to_batches()[0],
    "narwhals of polars": lambda table: narwhals.from_native(polars.from_arrow(table)),
    "narwhals of Arrow": narwhals.from_native,
    "dask": lambda table: Lazy(table.to_pandas()),
}
KINDS = {  # for each column: whether it is categorical, and its rows
    "bools": (pyarrow.array([True, False, True]), True, [2, 1, 2]),
    "text": (pyarrow.array(["b", "a", "b"]), True, [2, 1, 2]),
    "text of one level": (pyarrow.array(["b", "b", "b"]), True, [1, 1, 1]),
    "dictionary": (pyarrow.array(["b", "a", "b"]).dictionary_encode(), True, [2, 1, 2]),
    "float64": (pyarrow.array([0.5, 2.0, -1.0]), False, [0.5, 2, -1]),
    "float32": (pyarrow.array([0.5, 2, -1], pyarrow.float32()), False, [0.5, 2, -1]),
    "int8": (pyarrow.array([5, 2, -1], pyarrow.int8()), False, [5, 2, -1]),
    "uint64": (pyarrow.array([5, 2, 1], pyarrow.uint64()), False, [5, 2, 1]),
    "decimals": (
        pyarrow.array([Decimal("0.5"), Decimal(2), None]),
        False,
        [0.5, 2, np.nan],
    ),
}


def fitted_input(X, **parameters):
    data = data_of(X, **parameters)
    return data.schema, np.asarray(data.train.rows)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("beside", [None, "float32", "int8"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_column_is_the_same_in_each_library(kind, beside, library):
    column, is_categorical, expected = KINDS[kind]
    table = pyarrow.table({"c": column})
    if beside is not None:
        table = table.append_column("n", KINDS[beside][0])
    schema, rows = fitted_input(LIBRARIES[library](table))
    found = schema.is_categorical
    assert (found is not None and found[0]) == is_categorical
    assert schema.feature_names.tolist() == table.column_names
    assert_array_equal(rows[:, 0], expected)
    numbers = {"float32", "int8"} & {kind, beside} == {kind, beside} - {None}
    only_categories = is_categorical and beside == "float32"
    has_float32 = "float32" in (kind, beside)
    is_float32 = has_float32 and (numbers or only_categories)
    assert rows.dtype == (np.float32 if is_float32 else np.float64)


@pytest.mark.parametrize("library", LIBRARIES)
def test_bools_are_numbers_where_categories_are_off(library):
    table = pyarrow.table({"c": [True, None, False], "n": [1, 2, 3]})
    _, rows = fitted_input(LIBRARIES[library](table), categorical_features=None)
    assert_array_equal(rows, [[1, 1], [np.nan, 2], [0, 3]])


NAMED = pyarrow.table({"u": ["x", "y"] * 4, "v": [1.0, 2.0] * 4, "w": [True, None] * 4})


@cache
def fitted_on(library):
    embedder = HSCLEmbedder(encoder="mlp", max_epochs=1, random_state=0)
    return embedder.fit(LIBRARIES[library](NAMED), [0, 1] * 4)


@pytest.mark.parametrize("fitted_with", ["pandas", "polars", "Arrow Table"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_order_of_columns_is_checked_in_each_library(library, fitted_with):
    embedder, convert = fitted_on(fitted_with), LIBRARIES[library]
    expected = embedder.transform(NAMED.to_pandas())
    assert_array_equal(embedder.transform(convert(NAMED)), expected)
    with pytest.raises(ValueError, match="must be in the same order"):
        embedder.transform(convert(NAMED.select(["v", "u", "w"])))
    with pytest.raises(ValueError, match="unseen at fit time"):
        embedder.transform(convert(NAMED.rename_columns(["u", "v", "z"])))


# Vectors in cells ----------------------------------------------------------------------

LISTS = [[1.0, 2.0], [3.0, None], [5.0, 6.0]]
MATRIX = [[1, 2], [3, np.nan], [5, 6]]
VECTORS = {
    "pandas": pd.Series(LISTS),
    "pandas arrays": pd.Series([np.array(row, float) for row in LISTS]),
    "pandas masked arrays": pd.Series(
        [np.ma.array([row[0], row[1] or 9], mask=[0, row[1] is None]) for row in LISTS]
    ),
    "pandas of Arrow": pd.Series(
        LISTS, dtype=pd.ArrowDtype(pyarrow.list_(pyarrow.float64()))
    ),
    "objects": pd.Series(LISTS).to_numpy(),
    "polars": polars.Series(LISTS),
    "polars arrays": polars.Series(LISTS, dtype=polars.Array(polars.Float64, 2)),
    "polars objects": polars.Series(
        [np.array(r, float) for r in LISTS], dtype=polars.Object
    ),
    "Arrow": pyarrow.array(LISTS),
    "Arrow fixed size": pyarrow.array(LISTS, pyarrow.list_(pyarrow.float64(), 2)),
    "Arrow large": pyarrow.array(LISTS, pyarrow.large_list(pyarrow.float64())),
    "Arrow chunks": pyarrow.chunked_array([LISTS[:1], LISTS[1:]]),
    "narwhals": narwhals.from_native(polars.Series(LISTS), series_only=True),
}


def one_column(column):
    """Return a frame of one column, in its library."""
    if isinstance(column, narwhals.Series):
        return column.alias("e").to_frame()
    if isinstance(column, pyarrow.Array | pyarrow.ChunkedArray):
        return pyarrow.table({"e": column})
    return as_frame(column, "e")


@pytest.mark.parametrize("in_frame", [False, True])
@pytest.mark.parametrize("name", VECTORS)
def test_vectors_in_cells_are_rows(name, in_frame):
    X = one_column(VECTORS[name]) if in_frame else VECTORS[name]
    schema, rows = fitted_input(X)
    assert_array_equal(rows, MATRIX)
    assert schema.n_features == 2 and schema.feature_names is None


RAGGED = [*LISTS, [1.0], [2.0, 3.0]]
GAPPY = [*LISTS, None, [2.0, 3.0]]
FAULTY = {
    "pandas": pd.Series,
    "pandas of Arrow": lambda rows: pd.Series(rows, dtype=VECTORS["pandas of Arrow"].dtype),
    "polars": polars.Series,
    "Arrow": pyarrow.array,
    "list of arrays": lambda rows: [row and np.array(row, float) for row in rows],
    "list of lists": list,
}


@pytest.mark.parametrize("library", FAULTY)
def test_the_row_of_a_vector_of_another_length_is_named(library):
    with pytest.raises(ValueError, match="X .* row 3 has 1 values, row 0 has 2"):
        fitted_input(FAULTY[library](RAGGED))


@pytest.mark.parametrize("library", [name for name in FAULTY if name != "list of lists"])
def test_the_row_without_a_vector_is_named(library):
    with pytest.raises(ValueError, match="X holds no vector in row 3: leave that row out"):
        fitted_input(FAULTY[library](GAPPY))


def test_tensors_of_arrow_are_rows():
    tensors = pyarrow.fixed_shape_tensor(pyarrow.float32(), [2])
    storage = pyarrow.array([[1, 2], [3, 4]], tensors.storage_type)
    column = pyarrow.ExtensionArray.from_storage(tensors, storage)
    for X in (column, pyarrow.table({"e": column})):
        assert_array_equal(fitted_input(X)[1], [[1, 2], [3, 4]])


@pytest.mark.parametrize("chosen", ["from_dtype", None, ["number"]])
@pytest.mark.parametrize("name", ["pandas", "pandas of Arrow", "polars", "Arrow"])
def test_vectors_beside_other_columns_are_refused(name, chosen):
    column = VECTORS[name]
    if name == "Arrow":
        X = pyarrow.table({"e": column, "number": [1.0, 2.0, 3.0]})
    else:
        X = beside_numbers(column, "e")
    with pytest.raises(ValueError, match="'e' .* holds vectors beside .*numpy.stack"):
        fitted_input(X, categorical_features=chosen)


# Numbers of other types ----------------------------------------------------------------

NUMBER_TYPES = {
    "big-endian": (lambda X: X.astype(">f4"), np.float32),
    "big-endian float64": (lambda X: X.astype(">f8"), np.float64),
    "big-endian integers": (lambda X: X.astype(">i2"), np.float64),
    "float16": (lambda X: X.astype(np.float16), np.float64),
    "long double": (lambda X: X.astype(np.longdouble), np.float64),
    "objects": (lambda X: X.astype(object), np.float64),
    "decimals": (
        lambda X: np.vectorize(Decimal, otypes=[object])(X.astype(int)),
        np.float64,
    ),
}


@pytest.mark.parametrize("in_frame", [False, True])
@pytest.mark.parametrize("name", NUMBER_TYPES)
def test_numbers_of_other_types(name, in_frame, tmp_path):
    convert, dtype = NUMBER_TYPES[name]
    plain = np.arange(12.0).reshape(6, 2) ** 2
    X = pd.DataFrame(convert(plain), columns=["a", "b"]) if in_frame else convert(plain)
    _, rows = fitted_input(X)
    assert_array_equal(rows, plain)
    assert rows.dtype == dtype and rows.dtype.isnative
    embedder = HSCLEmbedder(encoder="mlp", max_epochs=1, random_state=0).fit(X, [0, 1] * 3)
    assert embedder.transform(X).dtype == dtype


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i4"])
def test_big_endian_memory_maps(dtype, tmp_path):
    plain = np.arange(12.0).reshape(6, 2) ** 2
    X = np.memmap(tmp_path / "rows", dtype, "w+", shape=plain.shape)
    X[:] = plain
    embedder = HSCLEmbedder(encoder="mlp", max_epochs=1, random_state=0).fit(X, [0, 1] * 3)
    Z = embedder.transform(X)
    assert Z.dtype == (np.float32 if dtype == ">f4" else np.float64)
    assert_array_equal(Z, embedder.transform(plain.astype(Z.dtype)))
