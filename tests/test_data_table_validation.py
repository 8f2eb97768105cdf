"""Validation of tables: what is set on the estimator, and names of bad cells."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.data.categorical import TableColumns
from sklearn_hscl.data.dataframe import Table
from sklearn_hscl.data.out_of_core import MappedRows
from sklearn_hscl.data.table_validation import check_table, locate_bad_cell

X = np.random.default_rng(0).normal(size=(6, 2))
FRAME = pd.DataFrame({"size": X[:, 0], "colour": list("uvuvuv")})
COLUMNS = TableColumns.learn(FRAME, "from_dtype")
TABLES = [X, X.tolist(), csr_array(X), MappedRows(X), pd.DataFrame(X), FRAME]


def check(estimator, data, is_fit, name="X"):
    columns = COLUMNS if data is FRAME else None
    return check_table(estimator, data, columns=columns, is_fit=is_fit, name=name)


@pytest.mark.parametrize("data", TABLES, ids=lambda data: type(data).__name__)
def test_only_attributes_of_the_input_are_set_and_only_in_fit(data):
    estimator = HSCLEmbedder(encoder="mlp")
    parameters = set(vars(estimator))
    rows = check(estimator, data, is_fit=True)
    names = {"n_features_in_", *(["feature_names_in_"] if data is FRAME else [])}
    assert set(vars(estimator)) - parameters == names
    assert estimator.n_features_in_ == 2 and rows.shape == (6, 2)
    before = dict(vars(estimator))
    check(estimator, data, is_fit=False)
    assert vars(estimator) == before


@pytest.mark.parametrize("data", TABLES, ids=lambda data: type(data).__name__)
def test_a_table_and_its_data_have_the_same_rows(data):
    found, expected = (
        check(HSCLEmbedder(encoder="mlp"), given, is_fit=True)
        for given in (data, Table(data) if data is not FRAME else FRAME)
    )
    assert type(found) is type(expected) and found.dtype == expected.dtype
    dense = [rows.toarray() if data is TABLES[2] else rows[:] for rows in (found, expected)]
    assert_array_equal(*dense)


def test_names_of_tables_in_messages():
    message = "X_val cannot be used: Input X contains infinity.*\n.*Column 1 .index 1."
    bad = X.copy()
    bad[3, 1] = np.inf
    with pytest.raises(ValueError, match=message):
        check(HSCLEmbedder(), bad, is_fit=True, name="X_val")


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (ValueError("a fault"), {"allow_nan": True}, "^a fault$"),
        (TypeError("a fault"), {"allow_nan": True}, "X, of type ndarray, cannot be read"),
        (ValueError("a fault"), {}, "Column 1 .index 1. holds nan in row 3: impute"),
        (ValueError("a fault"), {"names": ["a", "b"]}, "Column 'b' .index 1. holds nan"),
    ],
)
def test_cells_are_located_if_they_are_at_fault(error, arguments, message):
    rows = X.copy()
    rows[3, 1] = np.nan
    with pytest.raises(type(error), match=message), locate_bad_cell(rows, **arguments):
        raise error


# Sparse rows that are stored in parts ----------------------------------------------------

VALUES = np.array(
    [[0, 3, 0, 1], [2, 0, 0, 0], [0, 0, 0, 0], [1, 4, 0, 2], [0, 5, 1, 0], [6, 0, 0, 3]]
)


def in_parts(values, shares=(0.5, 0.5)):
    """Return CSR parts, in which each value is stored as a sum."""
    whole = scipy.sparse.csr_array(values)
    data = np.repeat(whole.data, len(shares)) * np.tile(shares, whole.nnz)
    indices = np.repeat(whole.indices, len(shares))
    return data.astype(values.dtype), indices, whole.indptr * len(shares)


def with_zeros(values):
    """Return CSR parts with stored zeros, of either sign."""
    whole = scipy.sparse.csr_array(np.where(values == 0, 7, values))
    whole.data[whole.data == 7] = 0
    whole.data[0] *= -1
    return whole.data, whole.indices, whole.indptr


def backwards(values):
    """Return CSR parts whose columns are in falling order."""
    whole = scipy.sparse.csr_array(values[:, ::-1])
    return whole.data, values.shape[1] - 1 - whole.indices, whole.indptr


def unlike_its_flags(rows):
    """Return rows whose flags say that there are no parts."""
    rows.has_sorted_indices = rows.has_canonical_format = True
    return rows


PARTS = {
    "halves": in_parts(VALUES.astype(float)),
    "3/2 and -1/2": in_parts(VALUES.astype(float), (1.5, -0.5)),
    "1, 1 and -1": in_parts(VALUES.astype(float), (1, 1, -1)),
    "float32": in_parts(VALUES.astype(np.float32)),
    "integers": in_parts(VALUES, (1, 1, -1)),
    "bytes": in_parts(VALUES.astype(np.int8), (1, 1, -1)),
    "zeros": with_zeros(VALUES.astype(float)),
    "backwards": backwards(VALUES.astype(float)),
}
FORMS = {
    "csr": lambda rows: rows,
    "csr, old flags": unlike_its_flags,
    "csc": lambda rows: rows.tocsc(),
    "coo": lambda rows: rows.tocoo(),
    "coo of csc": lambda rows: rows.tocsc().tocoo(),
    "bsr": lambda rows: scipy.sparse.bsr_array(rows, blocksize=(3, 2)),
    "bsr of cells": lambda rows: scipy.sparse.bsr_array(
        (rows.data[:, None, None], rows.indices, rows.indptr), shape=rows.shape
    ),
}


def arrays_of(rows):
    names = ("data", "indices", "indptr", "row", "col")
    return {name: getattr(rows, name).copy() for name in names if hasattr(rows, name)}


@pytest.mark.parametrize("kind", [csr_array, scipy.sparse.csr_matrix])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("parts", PARTS)
def test_sparse_rows_in_parts_are_the_same_rows(parts, form, kind):
    whole = scipy.sparse.csr_array(VALUES.astype(PARTS[parts][0].dtype))
    given = FORMS[form](kind(tuple(map(np.copy, PARTS[parts])), shape=VALUES.shape))
    assert_array_equal(given.toarray(), VALUES)
    before = arrays_of(given)
    for is_fit in (True, False):
        estimator = HSCLEmbedder(encoder="mlp")
        estimator.n_features_in_ = 4
        rows, expected = (check(estimator, X, is_fit) for X in (given, whole))
        assert rows.format == "csr" and rows.dtype == expected.dtype
        for name in ("data", "indices", "indptr"):
            assert_array_equal(getattr(rows, name), getattr(expected, name))
    for name, array in before.items():
        assert_array_equal(getattr(given, name), array)


def test_parts_of_bools_are_not_counted():
    data, indices, indptr = in_parts(VALUES > 0, (True, True))
    rows = check(HSCLEmbedder(encoder="mlp"), csr_array((data, indices, indptr)), True)
    assert_array_equal(rows.toarray(), VALUES > 0)


def test_parts_that_sum_to_infinity_are_named():
    rows = csr_array(([1.0, 1e308, 1e308], [0, 1, 1], [0, 1, 3]), shape=(2, 2))
    with pytest.raises(ValueError, match="Column 1 .* holds inf in row 1"):
        check(HSCLEmbedder(encoder="mlp"), rows, True)


def test_rows_without_parts_are_not_copied():
    whole = csr_array(VALUES.astype(float))
    rows = check(HSCLEmbedder(encoder="mlp"), whole, True)
    assert np.shares_memory(rows.data, whole.data)


@pytest.mark.parametrize("loss", ["hscl", "hucl"])
def test_parts_do_not_change_the_embeddings(loss):
    whole = csr_array(VALUES.astype(float))
    embedder = HSCLEmbedder(loss=loss, max_epochs=2, random_state=0)
    expected = embedder.fit(whole, [0, 1] * 3).transform(whole)
    given = csr_array(PARTS["3/2 and -1/2"], shape=VALUES.shape)
    assert_array_equal(embedder.transform(given), expected)
    assert_array_equal(embedder.fit(given, [0, 1] * 3).transform(whole), expected)
