"""Missing values are the same in all containers, types and roles."""

from decimal import Decimal

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.data.missing import (
    factorize,
    is_missing,
    missing_mask,
    unmasked,
)
from sklearn_hscl.data.validation import FitInput, TargetOptions, read_training_data

NO_LABELS = TargetOptions("hucl", "loss", False, False, "auto", None)
ARROW_FLOAT = pd.ArrowDtype(pa.float64())


def masked(values, dtype=None):
    """Return a masked array, whose value in row 1 looks like any other."""
    return np.ma.array(np.array(values, dtype), mask=[False, True, False, False])


def arrow_dictionary(values):
    """Return an Arrow column whose dictionary holds the null."""
    return pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 0]), pa.array(values))


# Columns of four values, the second of which is missing; the first and last are equal.
NUMBERS = {
    "array": np.array([3, np.nan, 5, 3]),
    "masked floats": masked([3.0, 4, 5, 3]),
    "masked integers": masked([3, 4, 5, 3]),
    "masked bytes": masked([3, 4, 5, 3], "u1"),
    "masked long integers": masked([3, 2**62, 5, 3]),
    "masked objects": masked([3, 4, 5, 3], object),
    "big-endian": np.array([3, np.nan, 5, 3], ">f8"),
    **{
        f"objects with {value!r}": np.array([3, value, 5, 3], dtype=object)
        for value in (None, np.nan, pd.NA, Decimal("NaN"), pd.NaT)
    },
    "list": [3.0, None, 5.0, 3.0],
    "list with NA": [3.0, pd.NA, 5.0, 3.0],
    "list with a mask": [3, np.ma.masked, 5, 3],
    "pandas": pd.Series([3, np.nan, 5, 3]),
    "pandas big-endian": pd.Series(np.array([3, np.nan, 5, 3], ">f4")),
    "pandas integers": pd.Series([3, None, 5, 3], dtype="Int64"),
    "pandas objects": pd.Series([3, pd.NA, 5, 3], dtype=object),
    "pandas decimals": pd.Series([*map(Decimal, ("3", "NaN", "5", "3"))]),
    "pandas of Arrow": pd.Series([3, None, 5, 3], dtype="int64[pyarrow]"),
    "pandas of Arrow, NaN": pd.Series(
        pd.arrays.ArrowExtensionArray(pa.chunked_array([[3, np.nan, 5, 3]]))
    ),
    "pandas sparse": pd.Series(pd.arrays.SparseArray([3, np.nan, 5, 3])),
    "pandas sparse, 0": pd.Series(pd.arrays.SparseArray([3, np.nan, 5, 3], fill_value=0)),
    "polars": pl.Series([3, None, 5, 3]),
    "polars NaN": pl.Series([3.0, np.nan, 5.0, 3.0]),
    "polars float32 NaN": pl.Series([3.0, np.nan, 5.0, 3.0], dtype=pl.Float32),
    "polars decimals": pl.Series([3, None, 5, 3]).cast(pl.Decimal(10, 2)),
    "polars objects": pl.Series([3, None, 5, 3], dtype=pl.Object),
    "Arrow": pa.array([3, None, 5, 3]),
    "Arrow NaN": pa.array([3.0, np.nan, 5.0, 3.0]),
    "Arrow chunks": pa.chunked_array([[3, None], [], [5, 3]]),
    "Arrow decimals": pa.array([Decimal(3), None, Decimal(5), Decimal(3)]),
    "narwhals": nw.from_native(pl.Series([3, None, 5, 3]), series_only=True),
}
CATEGORIES = {
    "objects": np.array(["a", None, "b", "a"], dtype=object),
    "objects with NA": np.array(["a", pd.NA, "b", "a"], dtype=object),
    "masked text": masked(["a", "x", "b", "a"]),
    "masked objects": masked(["a", "x", "b", "a"], object),
    "strings of numpy": np.array(
        ["a", np.nan, "b", "a"], np.dtypes.StringDType(na_object=np.nan)
    ),
    "strings of numpy, own marker": np.array(
        ["a", "?", "b", "a"], np.dtypes.StringDType(na_object="?")
    ),
    "list": ["a", float("nan"), "b", "a"],
    "pandas": pd.Series(["a", None, "b", "a"]),
    "pandas strings": pd.Series(["a", pd.NA, "b", "a"], dtype="string"),
    "pandas categories": pd.Series(["a", None, "b", "a"], dtype="category"),
    "pandas bools": pd.Series([False, None, True, False], dtype="boolean"),
    "pandas object bools": pd.Series([False, pd.NA, True, False], dtype=object),
    "pandas of Arrow": pd.Series(["a", None, "b", "a"], dtype=pd.ArrowDtype(pa.string())),
    "pandas dictionary of Arrow": pd.Series(
        pd.arrays.ArrowExtensionArray(arrow_dictionary(["a", None, "b"]))
    ),
    "pandas bools of Arrow": pd.Series([False, None, True, False], dtype="bool[pyarrow]"),
    "polars": pl.Series(["a", None, "b", "a"]),
    "polars categories": pl.Series(["a", None, "b", "a"], dtype=pl.Categorical),
    "polars enum": pl.Series(["a", None, "b", "a"], dtype=pl.Enum(["b", "a", "c"])),
    "polars bools": pl.Series([False, None, True, False]),
    "Arrow": pa.array(["a", None, "b", "a"]),
    "Arrow views": pa.array(["a", None, "b", "a"], pa.string_view()),
    "Arrow dictionary": pa.array(["a", None, "b", "a"]).dictionary_encode(),
    "Arrow dictionary of a null": arrow_dictionary(["a", None, "b"]),
    "Arrow dictionary with doubles": pa.DictionaryArray.from_arrays(
        pa.array([0, 1, 2, 3]), pa.array(["a", None, "b", "a"])
    ),
    "Arrow bools": pa.array([False, None, True, False]),
    "narwhals": nw.from_native(pa.chunked_array([["a", None, "b", "a"]]), series_only=True),
}
IN_FRAMES = {  # a table makes its columns categorical by itself
    name: column
    for name, column in CATEGORIES.items()
    if not isinstance(column, np.ndarray | list)
}


def table_of(column):
    """Return a table of one column."""
    if isinstance(column, list):
        return [[value] for value in column]
    if isinstance(column, np.ndarray):
        return column[:, None]
    if isinstance(column, nw.Series):
        return column.alias("c").to_frame()
    if isinstance(column, pl.Series):
        return pl.DataFrame({"c": column})
    if isinstance(column, pd.Series):
        return pd.DataFrame({"c": column})
    return pa.table({"c": column})


def rows_of(X, **parameters):
    """Return what `fit` reads of X."""
    embedder = HSCLEmbedder(encoder="mlp", **parameters)
    return read_training_data(embedder, FitInput(X), NO_LABELS).train.rows


@pytest.mark.parametrize("column", NUMBERS.values(), ids=NUMBERS)
def test_numbers(column):
    rows = rows_of(table_of(column))
    rows = rows.toarray() if hasattr(rows, "toarray") else rows
    assert_array_equal(rows, [[3], [np.nan], [5], [3]])


@pytest.mark.parametrize("column", NUMBERS.values(), ids=NUMBERS)
def test_numbers_as_categories(column):
    rows = rows_of(table_of(column), categorical_features=[0])
    assert_array_equal(rows, [[1], [np.nan], [2], [1]])


@pytest.mark.parametrize("column", CATEGORIES.values(), ids=CATEGORIES)
def test_categories(column):
    rows = rows_of(table_of(column), categorical_features=[0])
    assert_array_equal(rows, [[1], [np.nan], [2], [1]])


@pytest.mark.parametrize("column", IN_FRAMES.values(), ids=IN_FRAMES)
def test_categories_by_dtype(column):
    rows = rows_of(table_of(column))
    assert_array_equal(rows, [[1], [np.nan], [2], [1]])


@pytest.mark.parametrize("column", NUMBERS.values(), ids=NUMBERS)
def test_custom_modules_get_no_missing_numbers(column):
    import torch

    embedder = HSCLEmbedder(encoder=torch.nn.Linear(1, 2))
    with pytest.raises(ValueError, match="Column .*holds nan in row 1: impute"):
        read_training_data(embedder, FitInput(table_of(column)), NO_LABELS)


@pytest.mark.parametrize(
    "column",
    [*NUMBERS.values(), *CATEGORIES.values()],
    ids=[*NUMBERS, *(f"text: {name}" for name in CATEGORIES)],
)
def test_labels_and_groups(column):
    assert_array_equal(missing_mask(column), [False, True, False, False])
    codes, levels = factorize(column)
    assert codes[1] == -1 and codes[0] == codes[3] != codes[2] and len(levels) == 2


@pytest.mark.parametrize("dtype", ["u1", "f4", "f8", "i8"])
@pytest.mark.parametrize("in_list", [False, True])
def test_masked_pixels_are_refused(dtype, in_list):
    images = np.ma.array(np.ones((4, 8, 8), dtype))
    images[2, 1, 1] = np.ma.masked
    with pytest.raises(ValueError, match="contains NaN or infinity, in image 2"):
        rows_of(list(images) if in_list else images)


def test_arrays_without_masked_values_are_not_copied():
    values = np.ones((3, 2), np.float32)
    for mask in (False, np.zeros((3, 2), bool)):
        assert unmasked(np.ma.array(values, mask=mask)).base is values
    assert unmasked(values) is values
    covered = np.ma.array(values, mask=values > 0)
    assert np.isnan(unmasked(covered)).all() and (values == 1).all()


def test_masked_rows_in_a_list():
    rows = list(np.ma.array([[1, 2], [3, 4]], mask=[[False, False], [True, False]]))
    assert_array_equal(rows_of(rows), [[1, 2], [np.nan, 4]])


@pytest.mark.parametrize(
    ("dtype", "fill"), [("M8[D]", "NaT"), ("m8[s]", "NaT"), ("c8", np.nan), ("U3", None)]
)
def test_masked_entries_are_missing_in_their_type(dtype, fill):
    values = unmasked(masked([1, 2, 3, 4], "i8").astype(dtype))
    assert_array_equal(missing_mask(values), [False, True, False, False])


def test_a_signaling_nan_is_missing():
    assert is_missing(Decimal("sNaN")) and not is_missing(Decimal("1"))
    assert is_missing(pa.scalar(None)) and not is_missing(pa.scalar(1))
    assert is_missing(complex("nan")) and not is_missing(1j)
