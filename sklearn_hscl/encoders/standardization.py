"""Columns of numbers, each brought to mean 0 and variance 1."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from sklearn_hscl.encoders.bounds import column_bounds, no_bounds

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
        """Learn the columns of `rows` (n, F): an array, CSR array or StoredRows."""
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
