"""Validation of tables: what is set on the estimator, and names of bad cells."""

import numpy as np
import pandas as pd
import pytest
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
