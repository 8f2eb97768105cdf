"""The plain multilayer perceptron."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn


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
