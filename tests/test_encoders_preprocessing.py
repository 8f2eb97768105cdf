"""Preprocessing of tables: standardisation, clipping, codes, one-hot columns."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from sklearn_hscl.data.out_of_core import MappedRows
from sklearn_hscl.encoders.mlp import OneHotColumns
from sklearn_hscl.encoders.preprocessing import (
    ColumnLayout,
    Standardization,
    TablePreprocessor,
)


def test_table_preprocessor():
    nan = np.nan
    rows = np.array([[0.0, 1, 5, nan], [2, 2, 5, 1], [nan, 2, 5, 1], [4, 2, 5, 2]])
    prepare = TablePreprocessor.fit(rows, np.array([False, True, False, True]))
    layout = prepare.layout
    assert layout.numeric.tolist() == [0, 2]
    assert layout.categorical.tolist() == [1, 3]
    assert layout.n_levels.tolist() == [0, 1, 0, 1]  # levels of one row are pooled
    assert layout.has_missing.tolist() == [True, False, False, True]
    z = 1.5**0.5  # of 0, 2 and 4
    expected = [[-z, 0, 0, nan], [0, 1, 0, 1], [nan, 1, 0, 1], [z, 1, 0, 0]]
    np.testing.assert_allclose(prepare(rows), expected, rtol=1e-6)
    new = np.array([[nan, nan, nan, 7]])  # only columns that had them show missing values
    assert_array_equal(prepare(new), [[nan, 0, 0, 0]])


def test_levels_are_numbered_by_frequency():
    codes = np.repeat([1.0, 2, 3], [2, 5, 3])[:, None]
    prepare = TablePreprocessor.fit(codes, np.array([True]))
    assert_array_equal(prepare(np.array([[0.0], [1], [2], [3]])), [[0], [3], [1], [2]])


def layout_of(n_levels, has_missing):
    n_levels = np.array(n_levels)
    return ColumnLayout(n_levels, n_levels > 0, np.array(has_missing))


def test_one_hot():
    nan = float("nan")
    one_hot = OneHotColumns(layout_of([0, 2, 0], [False, True, True]))
    rows = torch.tensor([[0.5, 1, -1], [0.5, 0, nan], [0.5, nan, -1], [0.5, 2, -1]])
    assert one_hot(rows).tolist() == [
        [0.5, -1, 0, 0, 1, 0],
        [0.5, 0, 0, 1, 0, 0],
        [0.5, -1, 1, 0, 0, 0],
        [0.5, -1, 0, 0, 0, 1],
    ]
    assert one_hot.column_of.tolist() == [0, 2, 1, 2, 1, 1]
    assert one_hot.width == 6


def test_one_hot_is_bounded():
    assert OneHotColumns(layout_of([1000, 3], [False, False])).width == 64 + 3
    many = OneHotColumns(layout_of([50] * 1000, [False] * 1000))
    assert many.width == 4000


def test_noise_on_codes_is_rounded_away():
    one_hot = OneHotColumns(layout_of([2], [False]))
    assert one_hot(torch.tensor([[1.1], [1.9], [0.4]])).tolist() == [
        [1, 0],
        [0, 1],
        [0, 0],
    ]


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_statistics_ignore_missing_values(scale):
    rows = np.array([[1.0, 7, np.nan], [3, np.nan, np.nan], [np.nan, 7, np.nan]]) * scale
    prepared = TablePreprocessor.fit(rows)(rows)
    nan = np.nan
    np.testing.assert_allclose(prepared, [[-1, 0, nan], [1, nan, nan], [nan, 0, nan]])


def test_plain_layout():
    rows = np.array([[1.0, 2.0], [3.0, 4.0]])
    layout = TablePreprocessor.fit(rows).layout
    assert layout.is_plain
    assert layout.numeric.tolist() == [0, 1]
    rows[0, 0] = np.nan
    assert not TablePreprocessor.fit(rows).layout.is_plain
    assert TablePreprocessor.fit(rows[1:])(rows)[0, 0] == 0  # never missing in training


USUAL = np.random.default_rng(0).normal(size=600)
FEW = np.where(np.arange(600) % 8 == 0, USUAL, 0.0)
FAR = {
    "one value": (USUAL, np.arange(600) == 7, 1e12),
    "fill values": (USUAL, np.arange(600) % 20 == 3, -9.99e33),
    "the largest": (USUAL, np.arange(600) % 100 == 3, 1.7e308),
    "beside gaps": (np.where(np.arange(600) % 3, USUAL, np.nan), np.arange(600) == 7, 1e30),
    "beside zeros": (FEW, np.arange(600) % 150 == 3, 1e30),
}


@pytest.mark.parametrize(("usual", "is_far", "far"), FAR.values(), ids=FAR)
@pytest.mark.parametrize("container", [np.asarray, MappedRows])
def test_outliers_leave_the_other_values_distinct(usual, is_far, far, container):
    rows = np.where(is_far, far, usual)[:, None]
    found = TablePreprocessor.fit(container(rows))(rows)[:, 0].double().numpy()
    known = ~is_far & ~np.isnan(usual)
    assert np.corrcoef(found[known], usual[known])[0, 1] > 0.9999
    distances = np.sign(far) * (found[is_far] - found[known].mean())
    assert distances.min() > 1e3 * found[known].std()
    assert_array_equal(np.isnan(found), np.isnan(rows[:, 0]))


def test_rounding_noise_does_not_make_ordinary_values_far():
    rng = np.random.default_rng(0)
    noise = np.round(rng.normal(size=600)) * 1e-17
    rows = np.where(np.arange(600) % 7 == 0, rng.normal(size=600), noise)[:, None]
    found = TablePreprocessor.fit(rows)(rows)[:, 0].double().numpy()
    assert np.corrcoef(found, rows[:, 0])[0, 1] > 0.9999


def test_far_values_among_more_rows_than_are_read_for_bounds():
    column = np.random.default_rng(0).normal(size=(20_000, 1))
    column[7] = 1e15
    found = TablePreprocessor.fit(column)(column).numpy()
    assert len(np.unique(found)) > 15_000


@pytest.mark.parametrize("rows", [USUAL, np.exp(3 * USUAL), FEW])
def test_bounds_change_no_bit_of_other_columns(rows):
    with_bounds = Standardization.fit(rows[:, None])
    lowest, highest = np.full((2, 1), [[-np.inf], [np.inf]])
    assert with_bounds.magnitude == np.abs(rows).max()
    settings = vars(with_bounds) | {"lowest": lowest, "highest": highest}
    assert_array_equal(
        with_bounds(rows[:, None]), Standardization(**settings)(rows[:, None])
    )
