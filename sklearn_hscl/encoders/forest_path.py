"""Class scores of random forests beside a trained embedding of a table."""

import torch
from torch import Tensor, nn

from sklearn_hscl.encoders.inference import embed_tensor
from sklearn_hscl.encoders.tabular.forest_scores import ForestScores
from sklearn_hscl.runtime.precision import Precision

# Spread of the scores, relative to that of the trained part.
_SPREAD = 0.5


class ForestPath(nn.Module):
    """The embedding by a trained encoder, followed by class scores of the same row.

    Parameters
    ----------
    encoder : nn.Module
        Maps (B, F) to (B, n_components).
    forests : ForestScores
        Maps (B, F) to (B, C).
    """

    scale: Tensor

    def __init__(self, encoder: nn.Module, forests: ForestScores) -> None:
        super().__init__()
        self.encoder, self.forests = encoder, forests
        self.register_buffer("scale", torch.ones_like(forests.probabilities[0, 0]))

    @property
    def width(self) -> int:
        """Number of classes C."""
        return self.forests.n_classes

    def around(
        self, encoder: nn.Module, dtype: torch.dtype, device: torch.device
    ) -> "ForestPath":
        """Return a copy beside another encoder, of its type and on its device."""
        other = ForestPath(encoder, self.forests.copied(dtype, device))
        other.scale.copy_(self.scale)
        return other

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows (B, F) to (B, n_components + C)."""
        return torch.cat([self.encoder(rows), self.scale * self.forests(rows)], dim=1)


def fit_forest_path(
    encoder: nn.Module, forests: ForestScores, rows: Tensor, precision: Precision
) -> ForestPath:
    """Scale the scores of forests to the embedding that they follow.

    Parameters
    ----------
    encoder : nn.Module
        Trained.
    forests : ForestScores
        Grown on the training rows.
    rows : Tensor of shape (n, F)
        Some of these rows, on the device.
    precision : Precision
        Types of numbers.

    Returns
    -------
    ForestPath
    """
    # A copy, as runs on the same data share the forests.
    path = ForestPath(encoder, forests.copied(precision.dtype, rows.device))
    embedding = embed_tensor(path, rows, precision).cpu().double()
    trained, scores = embedding.tensor_split((-path.width,), dim=1)
    size = _spread(scores)
    if size:
        path.scale.fill_(_SPREAD * _spread(trained) / size)
    return path


def _spread(embedding: Tensor) -> float:
    """Return the root of the total variance."""
    return float(embedding.var(0, correction=0).sum().sqrt())
