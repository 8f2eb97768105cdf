"""What the columns of a prepared table are, for encoders that treat them differently."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


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
