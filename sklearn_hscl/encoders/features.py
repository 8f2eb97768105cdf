"""Fixed preparation of rows in front of an encoder: array in, tensor out."""

from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from torch import Tensor

from sklearn_hscl.encoders.layout import ColumnLayout
from sklearn_hscl.encoders.standardization import Standardization, chunks

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


class AsIs:
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
class PreparedTable:
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
        rows : ndarray, CSR array or StoredRows of shape (n, F)
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
