"""How far from the others a value of a column of numbers may lie."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# As far from the median as this many typical distances, float32 still tells values of the
# usual size apart: it has seven digits, and the deviation of n values is less than the
# farthest one by up to sqrt(n). Measured columns stay within 1e5.
FARTHEST = 1e6
# Share of the values that differ from the median that lie within the typical distance.
# Fill values such as -9.99e33 may be the rest.
TYPICAL = 0.75
# Different values beyond the bounds, as a share of all values, that may be faults.
MOST_FAULTS = 0.02
# No number lies beyond it; finite, as stored arrays must be.
LARGEST_NUMBER = float(np.finfo(np.float64).max)


def column_bounds(
    rows: Any, max_rows: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the smallest and the largest value of each column that count as they are.

    They lie `FARTHEST` times a typical distance from the median. Distances of 0 are left
    out, so that a column of zeros and few other values has one, too. Columns without two
    different values, or with many different ones so far out, have no bounds but the range
    of float64.

    Parameters
    ----------
    rows : ndarray or StoredRows of shape (n, F)
        Numbers, NaN where missing.
    max_rows : int
        Rows to read at most. Of more, so many are drawn by chance: every n-th row of a
        series in time could be one at night.

    Returns
    -------
    lowest, highest : ndarray of float64, shape (F,)
    """
    some = rows[:] if len(rows) <= max_rows else rows[_drawn(len(rows), max_rows)]
    bounds = np.array([_bounds(column.astype(np.float64)) for column in some.T])
    lowest, highest = bounds.reshape(-1, 2).T.copy()
    return lowest, highest


def no_bounds(n_columns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return bounds (F,) that cut nothing off."""
    highest = np.full(n_columns, LARGEST_NUMBER)
    return -highest, highest


def _drawn(n: int, size: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(0).choice(n, size, replace=False, shuffle=False))


def _bounds(column: NDArray[np.float64]) -> tuple[float, float]:
    """Bounds of one column (n,)."""
    known = column[~np.isnan(column)]
    median = _ranked(known, 0.5) if len(known) else 0.0
    with np.errstate(over="ignore"):
        distances = np.abs(known - median)
        distances = distances[distances > 0]
        if not len(distances):
            return -LARGEST_NUMBER, LARGEST_NUMBER
        farthest = FARTHEST * _ranked(distances, TYPICAL)
        if _are_many(known[np.abs(known - median) > farthest], len(known)):
            return -LARGEST_NUMBER, LARGEST_NUMBER
        ends = np.clip(
            [median - farthest, median + farthest], -LARGEST_NUMBER, LARGEST_NUMBER
        )
    return float(ends[0]), float(ends[1])


def _are_many(beyond: NDArray[np.float64], n: int) -> bool:
    """Say whether values beyond the bounds are too many different ones to be faults.

    Then the others are small because they stand for 0, as in a difference of two columns
    that is mostly rounding noise.
    """
    return len(np.unique(beyond)) > max(2, MOST_FAULTS * n)


def _ranked(values: NDArray[np.float64], share: float) -> np.float64:
    """Return the value that this share of them does not exceed, without a mean of two."""
    place = int(share * (len(values) - 1))
    return np.partition(values, place)[place]
