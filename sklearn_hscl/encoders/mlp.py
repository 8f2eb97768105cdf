"""Multilayer perceptron on the columns of a table, one-hot where they are categories."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_hscl.encoders.preprocessing import ColumnLayout

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


class MLPEncoder(nn.Module):
    """Linear-ReLU layers on the flattened row.

    Parameters
    ----------
    input_shape : sequence of int
        Shape of one row: (n_features,) or (channels, height, width). Images are
        brought to mean 0 and variance 1 each, as their range is not known.
    hidden_layer_sizes : sequence of int
        Widths of the hidden layers.
    n_components : int
        Width of the embedding.
    dropout : float in [0, 1), default=0.0
        Share of hidden units that are left out of each training step.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        hidden_layer_sizes: Sequence[int],
        n_components: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        n_inputs = prod(input_shape)
        is_image = len(input_shape) > 1
        normalise = nn.LayerNorm(n_inputs, eps=1e-10, elementwise_affine=False)
        self.input = nn.Sequential(nn.Flatten(), normalise if is_image else nn.Identity())
        self.layers = nn.Sequential()
        for n_in, n_out in pairwise([n_inputs, *hidden_layer_sizes]):
            self.layers.extend([nn.Linear(n_in, n_out), nn.ReLU()])
            if dropout:
                self.layers.append(nn.Dropout(dropout))
        width = [n_inputs, *hidden_layer_sizes][-1]
        self.layers.append(nn.Linear(width, n_components))

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows ``(B, *input_shape)`` to embeddings ``(B, n_components)``."""
        return self.layers(self.input(rows))
