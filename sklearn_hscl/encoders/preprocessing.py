"""Fixed preprocessing of rows before an encoder: standardisation and category codes.

The sections are the layout of the columns, clipping bounds and standardisation of numeric
columns, and the preprocessors, which map validated rows to tensors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from torch import Tensor

from sklearn_hscl.augment.graph_rows import Graphs

if TYPE_CHECKING:
    from typing_extensions import TypeIs

Floats = NDArray[np.float64]


class DenseRows(Protocol):
    """Rows (n, ...) in an array, or read from elsewhere by index."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice | NDArray[np.int64], /) -> np.ndarray: ...


class SparseRows(Protocol):
    """Rows (n, F) in a CSR array."""

    data: np.ndarray
    indices: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all rows."""


TableRows = DenseRows | SparseRows


def _is_sparse(rows: TableRows) -> "TypeIs[SparseRows]":
    return bool(issparse(rows))


# Columns -------------------------------------------------------------------------------


@dataclass(frozen=True)
class ColumnLayout:
    """Description of the columns of a preprocessed table (B, F).

    Attributes
    ----------
    n_levels : ndarray of int, shape (F,)
        0 for numeric columns. A categorical column holds the codes 1 to `n_levels` in
        order of falling frequency in the training rows, and 0 for all other levels.
    is_categorical : ndarray of bool, shape (F,)
        Mask of the columns that hold codes.
    has_missing : ndarray of bool, shape (F,)
        Mask of the columns that can hold NaN: those with missing values in training.
    """

    n_levels: NDArray[np.int64]
    is_categorical: NDArray[np.bool_]
    has_missing: NDArray[np.bool_]

    @classmethod
    def all_numeric(cls, has_missing: NDArray[np.bool_]) -> Self:
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
        """Whether all columns are numeric, without missing values."""
        return not (self.is_categorical.any() or self.has_missing.any())


# Outlier clipping ----------------------------------------------------------------------

# Largest distance from the median, in typical distances. float32 has seven digits and
# still distinguishes ordinary values at this distance: the std of n values is smaller
# than the largest deviation by a factor of up to sqrt(n). Real columns stay within 1e5.
_MAX_DISTANCE = 1e6
# Quantile of the non-zero distances that counts as typical. Fill values such as -9.99e33
# may make up the rest.
_TYPICAL_QUANTILE = 0.75
# Largest fraction of distinct values out of bounds that still counts as faulty values.
_MAX_FAULTY_FRACTION = 0.02
# A bound that clips nothing; finite, since stored arrays must be.
_NO_BOUND = float(np.finfo(np.float64).max)


def outlier_bounds(rows: np.ndarray) -> tuple[Floats, Floats]:
    """Return the lower and the upper clipping bound of each column.

    Bounds lie `_MAX_DISTANCE` typical distances from the median. Distances of 0 are left
    out, so that a column of zeros and few other values has a typical distance, too.
    A column with a single value, or with many distinct values out of bounds, gets the
    range of float64.

    Parameters
    ----------
    rows : ndarray of shape (n, F)
        Numeric columns, NaN for missing values. Of many rows, a random sample: every n-th
        row of a time series might be one at night.

    Returns
    -------
    lowest, highest : ndarray of float64, shape (F,)
    """
    bounds = np.array([_bounds(column.astype(np.float64)) for column in rows.T])
    lowest, highest = bounds.reshape(-1, 2).T.copy()
    return lowest, highest


def no_bounds(n_columns: int) -> tuple[Floats, Floats]:
    """Return bounds (F,) that clip nothing."""
    highest = np.full(n_columns, _NO_BOUND)
    return -highest, highest


def _sample_indices(n: int, size: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(0).choice(n, size, replace=False, shuffle=False))


def _bounds(column: Floats) -> tuple[float, float]:
    """Return the bounds of one column (n,)."""
    known = column[~np.isnan(column)]
    median = _lower_quantile(known, 0.5) if len(known) else 0.0
    with np.errstate(over="ignore"):
        distances = np.abs(known - median)
        distances = distances[distances > 0]
        if not len(distances):
            return -_NO_BOUND, _NO_BOUND
        farthest = _MAX_DISTANCE * _lower_quantile(distances, _TYPICAL_QUANTILE)
        if _are_too_many(known[np.abs(known - median) > farthest], len(known)):
            return -_NO_BOUND, _NO_BOUND
        bounds = np.clip([median - farthest, median + farthest], -_NO_BOUND, _NO_BOUND)
    return float(bounds[0]), float(bounds[1])


def _are_too_many(outside: Floats, n: int) -> bool:
    """Return whether the values out of bounds are too many distinct ones to be faulty.

    In that case the other values are mere rounding noise around 0, as in a difference of
    two columns that mostly agree.
    """
    return len(np.unique(outside)) > max(2, _MAX_FAULTY_FRACTION * n)


def _lower_quantile(values: Floats, fraction: float) -> np.float64:
    """Return a quantile without interpolation: the lower of two neighbours."""
    index = int(fraction * (len(values) - 1))
    return np.partition(values, index)[index]


# Standardisation -----------------------------------------------------------------------

# Standardised values are clipped here, so that float32 never overflows. No training value
# reaches it below 1,000,000 rows: a z-score is at most sqrt(n - 1).
MAX_Z_SCORE = 1e3
_CHUNK_ROWS = 8192


@dataclass(frozen=True)
class Standardization:
    """Standardisation of columns to mean 0 and variance 1 over the training rows.

    It takes any input without infinities. Columns are first divided by their largest
    magnitude, so that squares do not overflow. Constant columns become 0, and NaN stays
    NaN. Outliers, such as 1e12 among ordinary values, are first clipped to the bounds of
    :func:`outlier_bounds`: they would inflate the variance until float32 could not
    distinguish the other values.

    Sparse columns are not centred, so that their zeros stay zeros. Each is divided by the
    root mean square of its non-zero values, so that rare words weigh no more than
    frequent ones. One common factor then brings the mean square of all entries to 1.
    """

    magnitude: Floats  # (F,)
    mean: Floats  # (F,), of the columns divided by their magnitude
    std: Floats  # (F,), likewise
    lowest: Floats  # (F,), lower clipping bound
    highest: Floats  # (F,), upper clipping bound

    @classmethod
    def fit(cls, rows: TableRows) -> Self:
        """Fit to training rows (n, F): an array, CSR array or OutOfCoreRows."""
        if _is_sparse(rows):
            return cls._fit_sparse(rows)
        return cls.fit_surveyed(rows, Survey.of(rows))

    @classmethod
    def fit_surveyed(cls, rows: DenseRows, survey: "Survey") -> Self:
        """Fit to training rows (n, F) after a first pass of them; read them twice."""
        lowest, highest = outlier_bounds(survey.sample)
        smallest, largest = np.clip(survey.range, lowest, highest)
        magnitude = _ones_for_zeros(np.fmax(np.abs(smallest), np.abs(largest)))
        count = np.zeros(rows.shape[1])
        total, squares = np.zeros_like(count), np.zeros_like(count)
        scaled_chunks = partial(_scaled_chunks, rows, lowest, highest, magnitude)
        for chunk in scaled_chunks():
            count += (~np.isnan(chunk)).sum(axis=0)
            total += np.nansum(chunk, axis=0)
        mean = total / np.maximum(count, 1)
        for chunk in scaled_chunks():
            squares += np.nansum((chunk - mean) ** 2, axis=0)
        std = np.sqrt(squares / np.maximum(count, 1))
        varies = (smallest < largest) & (std > 0)
        return cls(
            magnitude=magnitude,
            mean=np.where(varies, mean, np.nan_to_num(smallest / magnitude)),
            std=np.where(varies, std, 1.0),
            lowest=lowest,
            highest=highest,
        )

    @classmethod
    def _fit_sparse(cls, rows: SparseRows) -> Self:
        n_rows, n_columns = rows.shape
        stored = np.where(np.isnan(rows.data), 0.0, np.abs(rows.data))
        magnitude = np.zeros(n_columns)
        np.maximum.at(magnitude, rows.indices, stored)
        magnitude = _ones_for_zeros(magnitude)
        squares = (stored / magnitude[rows.indices]) ** 2
        total = np.bincount(rows.indices, squares, minlength=n_columns)
        counts = np.bincount(rows.indices, stored > 0, minlength=n_columns)
        mean_square = _ones_for_zeros(total / np.maximum(counts, 1))
        density = counts.sum() / n_rows / max(1, (counts > 0).sum())
        std = np.sqrt(mean_square * (density or 1.0))
        return cls(magnitude, np.zeros(n_columns), std, *no_bounds(n_columns))

    @property
    def unit(self) -> Floats:
        """One standardised unit of each column in its own units, (F,)."""
        return self.magnitude * self.std

    def __call__(self, rows: np.ndarray) -> Floats:
        """Return standardised rows (B, F)."""
        # Clipping once, at the end, suffices: the map is monotonic, so the bounds can be
        # standardised as well.
        bounds = np.stack([self.lowest, self.highest])
        bounds = np.clip(self._z_scores(bounds), -MAX_Z_SCORE, MAX_Z_SCORE)
        scores = self._z_scores(rows)
        np.clip(scores, *bounds, out=scores)
        return scores

    def _z_scores(self, rows: np.ndarray) -> Floats:
        with np.errstate(over="ignore"):
            values = rows / self.magnitude
            values -= self.mean
            values /= self.std
        return values


def _chunks(rows: DenseRows) -> Iterator[np.ndarray]:
    """Yield the rows (n, F) in chunks, to save memory."""
    for start in range(0, len(rows), _CHUNK_ROWS):
        yield rows[start : start + _CHUNK_ROWS]


@dataclass(frozen=True)
class Survey:
    """What a first pass of a table (n, F) finds."""

    range: Floats
    """Minimum and maximum of each column (2, F); NaN if all its values are missing."""
    has_missing: NDArray[np.bool_]
    """Mask of the columns with missing values (F,)."""
    sample: np.ndarray
    """Some rows, drawn at random (at most `_CHUNK_ROWS`, F)."""
    counts: tuple[NDArray[np.int64], ...]
    """Counts of the codes of each column that holds some."""

    @classmethod
    def of(cls, rows: DenseRows, with_codes: Sequence[int] = ()) -> Self:
        """Read all rows once; some columns hold codes."""
        smallest = largest = np.full(rows.shape[1], np.nan)
        has_missing = np.zeros(rows.shape[1], dtype=bool)
        counts = [np.zeros(1, dtype=np.int64) for _ in with_codes]
        sampled = _sample_indices(len(rows), min(len(rows), _CHUNK_ROWS))
        bounds = np.searchsorted(
            sampled, np.arange(0, len(rows) + _CHUNK_ROWS, _CHUNK_ROWS)
        )
        sample = []
        for number, chunk in enumerate(_chunks(rows)):
            smallest = np.fmin(smallest, np.fmin.reduce(chunk, axis=0))
            largest = np.fmax(largest, np.fmax.reduce(chunk, axis=0))
            has_missing |= np.isnan(chunk).any(axis=0)
            here = sampled[bounds[number] : bounds[number + 1]] - number * _CHUNK_ROWS
            sample.append(chunk[here])
            for i, column in enumerate(with_codes):
                counts[i] = _add_counts(counts[i], chunk[:, column])
        range_ = np.stack([smallest, largest])
        return cls(range_, has_missing, np.concatenate(sample), tuple(counts))

    def of_columns(self, columns: NDArray[np.int64]) -> "Survey":
        """Return the same of some columns, without codes."""
        some = self.range[:, columns], self.has_missing[columns], self.sample[:, columns]
        return Survey(*some, ())


def _add_counts(counts: NDArray[np.int64], codes: np.ndarray) -> NDArray[np.int64]:
    known = codes[~np.isnan(codes)].astype(np.intp)
    total = np.bincount(known, minlength=len(counts))
    total[: len(counts)] += counts
    return total


def _scaled_chunks(
    rows: DenseRows, lowest: Floats, highest: Floats, magnitude: Floats
) -> Iterator[Floats]:
    """Yield chunks of the clipped rows, divided by their magnitude."""
    return (np.clip(chunk, lowest, highest) / magnitude for chunk in _chunks(rows))


def _ones_for_zeros(divisors: Floats) -> Floats:
    """Replace invalid divisors, 0 and NaN, by 1."""
    return np.where(divisors > 0, divisors, 1.0)


# Preprocessors -------------------------------------------------------------------------

# Levels of fewer training rows are pooled with the unknown ones.
_MIN_LEVEL_COUNT = 2
# torch requires contiguous and writable arrays.
_TORCH_REQUIREMENTS: Final = ("C", "W")


class Preparation(Protocol):
    """Fitted map from validated rows to the tensor that an encoder takes."""

    @property
    def layout(self) -> ColumnLayout | None:
        """Layout of the columns; None if rows are passed through."""

    def __call__(self, rows: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
        """Map an array (B, ...) to a CPU tensor (B, ...) of `dtype`, or uint8."""


class Identity:
    """Passes rows through in `dtype`; uint8 images stay uint8 until they are batched."""

    layout: ColumnLayout | None = None

    def __call__(self, rows: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the rows as a tensor (B, ...), or graphs as such."""
        if isinstance(rows, Graphs):
            return rows.to(dtype)
        if rows.dtype == np.uint8:
            return torch.from_numpy(np.require(rows, requirements=_TORCH_REQUIREMENTS))
        with np.errstate(over="ignore"):
            values = np.require(rows, _numpy_dtype(dtype), _TORCH_REQUIREMENTS)
        if not np.isfinite(values).all():
            raise ValueError(
                f"X holds {float(np.abs(rows).max())!r}, too large for float32: scale X "
                f"first, for example with sklearn.preprocessing.StandardScaler."
            )
        return torch.from_numpy(values)


@dataclass(frozen=True)
class TablePreprocessor:
    """Preprocessor of tables: standardised numeric columns, codes of frequent levels.

    It is fitted to the training rows alone. NaN marks missing values. In a column without
    missing values in training, they become the column's mean, or code 0.

    Attributes
    ----------
    layout : ColumnLayout
        Layout of the columns.
    standardization : Standardization
        Standardisation of the numeric columns.
    lookups : tuple of ndarray
        For each categorical column, the code of each code in the input.
    """

    layout: ColumnLayout
    standardization: Standardization
    lookups: tuple[NDArray[np.float32], ...]

    @classmethod
    def fit(cls, rows: TableRows, is_categorical: NDArray[np.bool_] | None = None) -> Self:
        """Fit to training rows.

        Parameters
        ----------
        rows : ndarray, CSR array or OutOfCoreRows of shape (n, F)
            Numbers and codes, NaN for missing values. Sparse rows hold no codes.
        is_categorical : ndarray of bool, shape (F,), or None
            Mask of the columns that hold codes; None if all are numeric.
        """
        if _is_sparse(rows):
            layout = ColumnLayout.all_numeric(_has_missing(rows))
            return cls(layout, Standardization.fit(rows), ())
        if is_categorical is None or not is_categorical.any():
            survey = Survey.of(rows)
            layout = ColumnLayout.all_numeric(survey.has_missing)
            return cls(layout, Standardization.fit_surveyed(rows, survey), ())
        survey = Survey.of(rows, np.flatnonzero(is_categorical).tolist())
        lookups = tuple(map(_fit_lookup, survey.counts))
        n_levels = np.zeros(rows.shape[1], dtype=np.int64)
        n_levels[is_categorical] = [int(lookup.max()) for lookup in lookups]
        layout = ColumnLayout(n_levels, is_categorical, survey.has_missing)
        numeric = _SomeColumns(rows, layout.numeric)
        seen = survey.of_columns(layout.numeric)
        return cls(layout, Standardization.fit_surveyed(numeric, seen), lookups)

    def __call__(self, rows: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return preprocessed rows as a tensor (B, F) of `dtype`."""
        if not self.lookups:
            values = self.standardization(rows).astype(_numpy_dtype(dtype))
        else:
            numeric = self.layout.numeric
            values = np.empty(rows.shape, dtype=_numpy_dtype(dtype))
            values[:, numeric] = self.standardization(rows[:, numeric])
            for index, lookup in zip(self.layout.categorical, self.lookups, strict=True):
                values[:, index] = _look_up(rows[:, index], lookup)
        missing = np.isnan(values)
        if missing.any():
            values[missing & ~self.layout.has_missing] = 0.0
        return torch.from_numpy(values)


def _numpy_dtype(dtype: torch.dtype) -> type[np.float64 | np.float32]:
    return np.float64 if dtype == torch.float64 else np.float32


def _has_missing(rows: SparseRows) -> NDArray[np.bool_]:
    missing = rows.indices[np.isnan(rows.data)]
    return np.bincount(missing, minlength=rows.shape[1]) > 0


class _SomeColumns:
    """Some columns of rows (n, F), which are read when they are indexed."""

    def __init__(self, rows: DenseRows, columns: NDArray[np.int64]) -> None:
        self.rows = rows
        self.columns = columns
        self.shape = (len(rows), len(columns))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | NDArray[np.int64]) -> np.ndarray:
        return self.rows[index][:, self.columns]


def _fit_lookup(counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the codes of levels: 1, 2, ... by their counts, 0 if they are rare."""
    counts[0] = 0
    ranked = np.argsort(-counts, kind="stable")
    frequent = ranked[counts[ranked] >= _MIN_LEVEL_COUNT]
    lookup = np.zeros(len(counts), dtype=np.float32)
    lookup[frequent] = np.arange(1, len(frequent) + 1)
    return lookup


def _look_up(codes: np.ndarray, lookup: NDArray[np.float32]) -> NDArray[np.float32]:
    missing = np.isnan(codes)
    unknown = missing | (codes >= len(lookup))  # a level that is not in the training rows
    found = lookup[np.where(unknown, 0, codes).astype(np.intp)]
    found[missing] = np.nan
    return found


def as_float(rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Scale uint8 images to [0, 1] in `dtype`; return other rows, which have it already."""
    return rows.to(dtype) / 255 if rows.dtype == torch.uint8 else rows
