"""Fixed preprocessing of rows: scaled numbers, codes of frequent levels."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from torch import Tensor


@dataclass(frozen=True)
class ColumnLayout:
    """Description of the columns of a prepared table (B, F).

    Attributes
    ----------
    n_levels : ndarray of int, shape (F,)
        0 for numeric columns. A categorical column holds the codes 1 to `n_levels`, by
        falling frequency in the training rows, and 0 for all other levels.
    is_categorical : ndarray of bool, shape (F,)
        Which columns hold codes.
    has_missing : ndarray of bool, shape (F,)
        Which columns can hold NaN, for missing values: those that did in training.
    """

    n_levels: NDArray[np.int64]
    is_categorical: NDArray[np.bool_]
    has_missing: NDArray[np.bool_]

    @classmethod
    def of_numbers(cls, has_missing: NDArray[np.bool_]) -> Self:
        """Describe a table without categorical columns."""
        n_levels = np.zeros(len(has_missing), dtype=np.int64)
        return cls(n_levels, np.zeros(len(has_missing), dtype=bool), has_missing)

    @property
    def numeric(self) -> NDArray[np.int64]:
        """Indices of the numeric columns."""
        return np.flatnonzero(~self.is_categorical)

    @property
    def categorical(self) -> NDArray[np.int64]:
        """Indices of the categorical columns."""
        return np.flatnonzero(self.is_categorical)

    @property
    def is_plain(self) -> bool:
        """Whether all columns hold numbers, and none a missing value."""
        return not (self.is_categorical.any() or self.has_missing.any())


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
    rows : ndarray or OutOfCoreRows of shape (n, F)
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


# Standardised values beyond this are cut off, so that float32 never overflows. No
# training value reaches it below 1,000,000 rows: a z-score is at most sqrt(n - 1).
LARGEST_Z_SCORE = 1e3
_CHUNK_ROWS = 8192


@dataclass(frozen=True)
class Standardization:
    """Columns with mean 0 and variance 1 over the training rows.

    Works for any input without infinities: columns are first divided by their largest
    magnitude, so that squares do not overflow. Constant columns become 0, NaN stays NaN.
    Before that, values as far out as 1e12 among ordinary ones are brought to the bounds of
    :func:`column_bounds`: by the variance that they give, float32 could not tell the
    others apart.
    Sparse columns are not centred, so that their zeros stay zeros. They are divided by
    the root mean square of their values that are not 0, so that a rare word weighs no
    more than a frequent one, and all together by one number that brings the mean square
    of all entries to 1.
    """

    magnitude: NDArray[np.float64]  # (F,)
    mean: NDArray[np.float64]  # (F,), of the columns divided by their magnitude
    spread: NDArray[np.float64]  # (F,)
    lowest: NDArray[np.float64]  # (F,), values below count as this
    highest: NDArray[np.float64]  # (F,)

    @classmethod
    def of(cls, rows: Any) -> Self:
        """Learn the columns of `rows` (n, F): an array, CSR array or OutOfCoreRows."""
        return cls._of_sparse(rows) if issparse(rows) else cls._of_dense(rows)

    @classmethod
    def _of_dense(cls, rows: Any) -> Self:
        lowest, highest = column_bounds(rows, _CHUNK_ROWS)
        smallest, largest = np.clip(_range(rows), lowest, highest)
        magnitude = _positive(np.fmax(np.abs(smallest), np.abs(largest)))
        count = np.zeros(rows.shape[1])
        total, squares = np.zeros_like(count), np.zeros_like(count)
        units = partial(_units, rows, lowest, highest, magnitude)
        for unit in units():
            count += (~np.isnan(unit)).sum(axis=0)
            total += np.nansum(unit, axis=0)
        mean = total / np.maximum(count, 1)
        for unit in units():
            squares += np.nansum((unit - mean) ** 2, axis=0)
        spread = np.sqrt(squares / np.maximum(count, 1))
        varies = (smallest < largest) & (spread > 0)
        return cls(
            magnitude=magnitude,
            mean=np.where(varies, mean, np.nan_to_num(smallest / magnitude)),
            spread=np.where(varies, spread, 1.0),
            lowest=lowest,
            highest=highest,
        )

    @classmethod
    def _of_sparse(cls, rows: Any) -> Self:
        n_rows, n_columns = rows.shape
        stored = np.where(np.isnan(rows.data), 0.0, np.abs(rows.data))
        magnitude = np.zeros(n_columns)
        np.maximum.at(magnitude, rows.indices, stored)
        magnitude = _positive(magnitude)
        squares = (stored / magnitude[rows.indices]) ** 2
        total = np.bincount(rows.indices, squares, minlength=n_columns)
        counts = np.bincount(rows.indices, stored > 0, minlength=n_columns)
        mean_square = _positive(total / np.maximum(counts, 1))
        share = counts.sum() / n_rows / max(1, (counts > 0).sum())  # of entries, not 0
        spread = np.sqrt(mean_square * (share or 1.0))
        return cls(magnitude, np.zeros(n_columns), spread, *no_bounds(n_columns))

    def __call__(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Return standardised rows (B, F)."""
        # Cut off once, at the end: the map is monotonic, so bounds may go through it, too.
        ends = np.stack([self.lowest, self.highest])
        ends = np.clip(self._scores(ends), -LARGEST_Z_SCORE, LARGEST_Z_SCORE)
        scores = self._scores(rows)
        np.clip(scores, *ends, out=scores)
        return scores

    def _scores(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        with np.errstate(over="ignore"):
            values = rows / self.magnitude
            values -= self.mean
            values /= self.spread
        return values


def chunks(rows: Any) -> Iterator[NDArray[Any]]:
    """Yield the rows (n, F), some at a time to save memory."""
    for start in range(0, len(rows), _CHUNK_ROWS):
        yield rows[start : start + _CHUNK_ROWS]


def _range(rows: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the smallest and the largest value of each column, NaN where all are."""
    smallest = largest = np.full(rows.shape[1], np.nan)
    for chunk in chunks(rows):
        smallest = np.fmin(smallest, np.fmin.reduce(chunk, axis=0))
        largest = np.fmax(largest, np.fmax.reduce(chunk, axis=0))
    return smallest, largest


def _units(
    rows: Any,
    lowest: NDArray[np.float64],
    highest: NDArray[np.float64],
    magnitude: NDArray[np.float64],
) -> Iterator[NDArray[np.float64]]:
    """Yield the rows within bounds over their magnitude, some at a time."""
    return (np.clip(chunk, lowest, highest) / magnitude for chunk in chunks(rows))


def _positive(scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace scales that cannot divide, 0 and NaN, by 1."""
    return np.where(scale > 0, scale, 1.0)


# Levels of fewer training rows than this are pooled with those that come later.
SMALLEST_LEVEL = 2
# What torch wants of an array: contiguous and writable.
_OWN: Final = ("C", "W")


class Preparation(Protocol):
    """Fitted map from validated rows to the tensor an encoder takes."""

    @property
    def layout(self) -> ColumnLayout | None:
        """What the columns are; None where they are left as they are."""

    def __call__(self, rows: NDArray[Any], dtype: torch.dtype = torch.float32) -> Tensor:
        """Map an array (B, ...) to a CPU tensor (B, ...) of `dtype`, or uint8."""


class Identity:
    """Rows as they are, in `dtype`; uint8 images stay uint8 until they are batched."""

    layout: ColumnLayout | None = None

    def __call__(self, rows: NDArray[Any], dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the rows as a tensor (B, ...)."""
        if rows.dtype == np.uint8:
            return torch.from_numpy(np.require(rows, requirements=_OWN))
        with np.errstate(over="ignore"):
            values = np.require(rows, _numpy_type(dtype), _OWN)
        if not np.isfinite(values).all():
            raise ValueError(
                f"X holds {float(np.abs(rows).max())!r}, too large for float32: scale X "
                f"first, for example with sklearn.preprocessing.StandardScaler."
            )
        return torch.from_numpy(values)


@dataclass(frozen=True)
class TablePreprocessor:
    """Standardised numbers and codes of frequent levels, NaN where a value is missing.

    All of it is learnt from the training rows alone. Values that are missing in a
    column without missing values in training become the column's mean, or code 0.

    Attributes
    ----------
    layout : ColumnLayout
        What the columns are.
    """

    layout: ColumnLayout
    numbers: Standardization
    lookups: tuple[NDArray[np.float32], ...]
    """Of each categorical column, the code of each code in the input."""

    @classmethod
    def of(cls, rows: Any, is_categorical: NDArray[np.bool_] | None = None) -> Self:
        """Learn from training rows.

        Parameters
        ----------
        rows : ndarray, CSR array or OutOfCoreRows of shape (n, F)
            Numbers and codes, NaN where missing; stored rows hold numbers only.
        is_categorical : ndarray of bool, shape (F,), or None
            Which columns hold codes.
        """
        has_missing = _has_missing(rows)
        if is_categorical is None or not is_categorical.any():
            layout = ColumnLayout.of_numbers(has_missing)
            return cls(layout, Standardization.of(rows), ())
        lookups = tuple(_pooled(rows[:, i]) for i in np.flatnonzero(is_categorical))
        n_levels = np.zeros(rows.shape[1], dtype=np.int64)
        n_levels[is_categorical] = [int(lookup.max()) for lookup in lookups]
        layout = ColumnLayout(n_levels, is_categorical, has_missing)
        return cls(layout, Standardization.of(rows[:, ~is_categorical]), lookups)

    def __call__(self, rows: NDArray[Any], dtype: torch.dtype = torch.float32) -> Tensor:
        """Return prepared rows as a tensor (B, F) of `dtype`."""
        if not self.lookups:
            values = self.numbers(rows).astype(_numpy_type(dtype))
        else:
            values = np.empty(rows.shape, dtype=_numpy_type(dtype))
            values[:, self.layout.numeric] = self.numbers(rows[:, self.layout.numeric])
            for index, lookup in zip(self.layout.categorical, self.lookups, strict=True):
                values[:, index] = _recoded(rows[:, index], lookup)
        missing = np.isnan(values)
        if missing.any():
            values[missing & ~self.layout.has_missing] = 0.0
        return torch.from_numpy(values)


def _numpy_type(dtype: torch.dtype) -> type[np.floating[Any]]:
    return np.float64 if dtype == torch.float64 else np.float32


def _has_missing(rows: Any) -> NDArray[np.bool_]:
    if not issparse(rows):
        return np.logical_or.reduce([np.isnan(c).any(axis=0) for c in chunks(rows)])
    missing = rows.indices[np.isnan(rows.data)]
    return np.bincount(missing, minlength=rows.shape[1]) > 0


def _pooled(codes: NDArray[Any]) -> NDArray[np.float32]:
    """Give frequent levels of a column numbers by falling frequency, the others 0."""
    known = codes[~np.isnan(codes)].astype(np.intp)
    counts = np.bincount(known, minlength=1)
    counts[0] = 0
    ranked = np.argsort(-counts, kind="stable")
    frequent = ranked[counts[ranked] >= SMALLEST_LEVEL]
    lookup = np.zeros(len(counts), dtype=np.float32)
    lookup[frequent] = np.arange(1, len(frequent) + 1)
    return lookup


def _recoded(codes: NDArray[Any], lookup: NDArray[np.float32]) -> NDArray[np.float32]:
    missing = np.isnan(codes)
    unknown = missing | (codes >= len(lookup))  # a level of no training row
    recoded = lookup[np.where(unknown, 0, codes).astype(np.intp)]
    recoded[missing] = np.nan
    return recoded


def as_float(rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bring uint8 images to [0, 1] in `dtype`; everything else has that type already."""
    return rows.to(dtype) / 255 if rows.dtype == torch.uint8 else rows
