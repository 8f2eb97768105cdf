"""Class scores of random forests beside a trained embedding of a table."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sklearn_hscl.encoders.inference import embed_tensor
from sklearn_hscl.encoders.tabular.forest_scores import ForestScores, MemberScores
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


def fit_forest_paths(
    encoder: nn.Module,
    candidates: Sequence[ForestScores],
    rows: Tensor,
    precision: Precision,
) -> list[ForestPath]:
    """Scale the scores of forests to the embedding that they follow.

    Parameters
    ----------
    encoder : nn.Module
        Trained.
    candidates : sequence of ForestScores
        Forests grown on the training rows.
    rows : Tensor of shape (n, F)
        Some of these rows, on the device.
    precision : Precision
        Types of numbers.

    Returns
    -------
    list of ForestPath
        One for each candidate.
    """
    size = _spread(embed_tensor(encoder, rows, precision))
    paths = []
    for forests in candidates:
        # A copy, as runs on the same data share the forests.
        path = ForestPath(encoder, forests.copied(precision.dtype, rows.device))
        members = embed_tensor(MemberScores(path.forests), rows, precision)
        scores = members.unflatten(1, (forests.n_members, -1)).mean(1)
        if own := _spread(scores):
            path.scale.fill_(_SPREAD * size / own)
        paths.append(path)
    return paths


def _spread(embedding: Tensor) -> float:
    """Return the root of the total variance."""
    # In host memory, as not every device has float64.
    return float(embedding.cpu().double().var(0, correction=0).sum().sqrt())
