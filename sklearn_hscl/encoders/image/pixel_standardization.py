"""Channels of images, each brought to mean 0 and variance 1."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from sklearn_hscl.encoders.preprocessing import LARGEST_Z_SCORE, as_float

# Images that are read to learn their scale.
_MOST_IMAGES = 1024


class PixelScaling(nn.Module):
    """Standardise the channels of images by those of the training images.

    Parameters
    ----------
    mean, spread : Tensor of shape (C,)
        Of each channel, uint8 images taken as numbers from 0 to 1.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.view(-1, 1, 1))
        self.register_buffer("spread", spread.view(-1, 1, 1))

    @classmethod
    def of(cls, images: Any) -> Self:
        """Learn from training images.

        Parameters
        ----------
        images : Tensor of shape (n, C, H, W), or images that are stored elsewhere
            uint8 or floating point. Of many, every n-th is read.

        Returns
        -------
        PixelScaling
        """
        step = -(-images.shape[0] // _MOST_IMAGES)
        some = as_float(images[torch.arange(0, images.shape[0], step)]).double()
        mean = some.mean((0, 2, 3))
        spread = some.std((0, 2, 3), correction=0)
        spread = torch.where(spread > 0, spread, 1.0)  # constant channels become 0
        return cls(mean.float(), spread.float())

    @property
    def n_channels(self) -> int:
        """Number of channels C."""
        return len(self.mean)

    def forward(self, images: Tensor) -> Tensor:
        """Standardise images (B, C, H, W); huge values are cut off, as in tables."""
        scores = (images - self.mean) / self.spread
        return scores.clamp(-LARGEST_Z_SCORE, LARGEST_Z_SCORE)
