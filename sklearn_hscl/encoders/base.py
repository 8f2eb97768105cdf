"""An encoder with the projection head that only training sees."""

from torch import Tensor, nn


class ContrastiveModule(nn.Module):
    """Encoder followed by a projection head.

    The loss is computed on the projection; the embedding is what the encoder
    returns. The head takes up what only the contrastive task needs, and is dropped.

    Parameters
    ----------
    encoder : nn.Module
        Maps (B, *input_shape) to (B, n_components).
    n_components : int
        Width of the embedding.
    projection_dim : int or None
        Width of the projection; None for no head.
    """

    def __init__(
        self, encoder: nn.Module, n_components: int, projection_dim: int | None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.n_components = n_components
        self.head = _projection_head(n_components, projection_dim)

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows (B, ...) to what the loss compares, (B, projection_dim)."""
        return self.head(self.encoder(rows))


def _projection_head(n_components: int, projection_dim: int | None) -> nn.Module:
    if projection_dim is None:
        return nn.Identity()
    return nn.Sequential(
        nn.Linear(n_components, n_components),
        nn.ReLU(),
        nn.Linear(n_components, projection_dim),
    )
