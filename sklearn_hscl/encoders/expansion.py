"""Columns of a prepared table as plain numbers: one-hot levels, missing indicators."""

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_hscl.encoders.layout import ColumnLayout

# The most frequent levels of a column that get a number each, and of all columns.
MOST_LEVELS = 64
MOST_NUMBERS = 4096


class ColumnExpansion(nn.Module):
    """Map prepared rows (B, F) to numbers without NaN (B, `width`).

    Numeric columns come first, missing values as 0; then an indicator for each column,
    numeric or categorical, that had missing values in training; then the levels, of
    which the rare ones and level 0 (all others) have no number of their own.

    Parameters
    ----------
    layout : ColumnLayout
        What the columns are.

    Attributes
    ----------
    column_of : Tensor of int, shape (`width`,)
        The column that each number is made of.
    """

    numeric: Tensor
    missing: Tensor
    source: Tensor
    level: Tensor
    column_of: Tensor

    def __init__(self, layout: ColumnLayout) -> None:
        super().__init__()
        shown = _shown_levels(layout)
        index = np.arange(len(layout.n_levels))
        numeric, missing = layout.numeric, np.flatnonzero(layout.has_missing)
        source = np.repeat(index, shown)
        level = [np.arange(1, count + 1, dtype=np.float32) for count in shown]
        self._remember("numeric", numeric)
        self._remember("missing", missing)
        self._remember("source", source)
        self._remember("level", np.concatenate(level))
        self._remember("column_of", np.concatenate([numeric, missing, source]))
        self.width = len(self.column_of)

    def _remember(self, name: str, values: np.ndarray) -> None:
        self.register_buffer(name, torch.from_numpy(values))

    def forward(self, rows: Tensor) -> Tensor:
        """Expand the rows."""
        numbers = rows[:, self.numeric]
        known = torch.where(numbers.isnan(), 0.0, numbers)
        is_missing = rows[:, self.missing].isnan().to(rows.dtype)
        codes = rows[:, self.source].round()  # as an augmentation may add noise
        has_level = (codes == self.level).to(rows.dtype)
        return torch.cat([known, is_missing, has_level], dim=1)


def _shown_levels(layout: ColumnLayout) -> np.ndarray:
    """Count the levels of each column that get a number, within both limits."""
    for most in range(MOST_LEVELS, 1, -1):
        shown = np.minimum(layout.n_levels, most)
        if shown.sum() <= MOST_NUMBERS:
            return shown
    return np.minimum(layout.n_levels, 1)
