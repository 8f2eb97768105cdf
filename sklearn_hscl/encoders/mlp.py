"""Multilayer perceptron, and the one-hot columns in front of it."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklearn_hscl.encoders.options import EncoderConfig, StoredEncoder
from sklearn_hscl.encoders.preprocessing import ColumnLayout
from sklearn_hscl.runtime.random_state import Dropout

# Number of one-hot levels of a single column, and of all columns together.
_MAX_LEVELS = 64
_MAX_TOTAL_LEVELS = 4096


class OneHotColumns(nn.Module):
    """One-hot encoding of preprocessed rows (B, F) as features without NaN (B, `width`).

    The numeric columns come first, with missing values as 0. Then come an indicator of
    each column with missing values in training, and one indicator per frequent level. Rare
    levels and code 0 (all others) have no indicator.

    Parameters
    ----------
    layout : ColumnLayout
        Layout of the columns.

    Attributes
    ----------
    column_of : Tensor of int, shape (`width`,)
        Index of the column that each feature comes from.
    """

    numeric: Tensor
    missing: Tensor
    source: Tensor
    level: Tensor
    column_of: Tensor

    def __init__(self, layout: ColumnLayout) -> None:
        super().__init__()
        n_shown = _n_shown_levels(layout)
        index = np.arange(len(layout.n_levels))
        numeric, missing = layout.numeric, np.flatnonzero(layout.has_missing)
        source = np.repeat(index, n_shown)
        level = [np.arange(1, count + 1, dtype=np.float32) for count in n_shown]
        self._register("numeric", numeric)
        self._register("missing", missing)
        self._register("source", source)
        self._register("level", np.concatenate(level))
        self._register("column_of", np.concatenate([numeric, missing, source]))
        self.width = len(self.column_of)

    def _register(self, name: str, values: np.ndarray) -> None:
        self.register_buffer(name, torch.from_numpy(values))

    def forward(self, rows: Tensor) -> Tensor:
        """Encode the rows."""
        numeric = rows[:, self.numeric]
        known = torch.where(numeric.isnan(), 0.0, numeric)
        is_missing = rows[:, self.missing].isnan().to(rows.dtype)
        codes = rows[:, self.source].round()  # an augmentation may have added noise
        has_level = (codes == self.level).to(rows.dtype)
        return torch.cat([known, is_missing, has_level], dim=1)


def _n_shown_levels(layout: ColumnLayout) -> NDArray[np.int64]:
    """Return the number of one-hot levels of each column, within both limits."""
    for most in range(_MAX_LEVELS, 1, -1):
        n_shown = np.minimum(layout.n_levels, most)
        if n_shown.sum() <= _MAX_TOTAL_LEVELS:
            return n_shown
    return np.minimum(layout.n_levels, 1)


class MLPEncoder(nn.Module):
    """Linear-ReLU layers on the flattened row.

    Parameters
    ----------
    input_shape : sequence of int
        Shape of one row: (n_features,) or (channels, height, width). Each image is
        standardised by itself, since the range of its values is unknown.
    hidden_layer_sizes : sequence of int
        Widths of the hidden layers.
    n_components : int
        Width of the embedding.
    dropout : float in [0, 1), default=0.0
        Fraction of hidden units that are dropped in each training step.
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
                self.layers.append(Dropout(dropout))
        width = [n_inputs, *hidden_layer_sizes][-1]
        self.layers.append(nn.Linear(width, n_components))

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows ``(B, *input_shape)`` to embeddings ``(B, n_components)``."""
        return self.layers(self.input(rows))

    def get_config(self) -> EncoderConfig:
        """Return the arguments that the encoder was built with."""
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        dropout = [layer.p for layer in self.layers if isinstance(layer, Dropout)]
        return {
            "hidden_layer_sizes": [layer.out_features for layer in linear[:-1]],
            "n_components": linear[-1].out_features,
            "dropout": dropout[0] if dropout else 0.0,
        }

    @classmethod
    def from_config(cls, config: EncoderConfig, stored: StoredEncoder) -> Self:
        """Build the encoder of a config, whose weights are loaded later."""
        return cls(stored.input_shape, **config)
