"""Standardisation of image channels to mean 0 and variance 1."""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from sklearn_hscl.encoders.options import IndexableRows
from sklearn_hscl.encoders.preprocessing import MAX_Z_SCORE, as_float

# Number of images that the statistics are computed from.
_MAX_IMAGES = 1024


class PixelScaling(nn.Module):
    """Standardisation of image channels by the statistics of the training images.

    Parameters
    ----------
    mean, std : Tensor of shape (C,)
        Statistics of each channel; uint8 images count as values from 0 to 1.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.view(-1, 1, 1))
        # The std; state_dicts in files have this name.
        self.register_buffer("spread", std.view(-1, 1, 1))

    @classmethod
    def fit(cls, images: IndexableRows) -> Self:
        """Compute the statistics of training images.

        Parameters
        ----------
        images : Tensor of shape (n, C, H, W), or images that are read by index
            uint8 or floating point. If there are more than 1,024, every n-th is read.

        Returns
        -------
        PixelScaling
        """
        step = -(-images.shape[0] // _MAX_IMAGES)
        # On the host, where the module is tried and float64 is always there.
        some = as_float(images[torch.arange(0, images.shape[0], step)].cpu()).double()
        mean = some.mean((0, 2, 3))
        std = some.std((0, 2, 3), correction=0)
        std = torch.where(std > 0, std, 1.0)  # constant channels become 0
        return cls(mean.float(), std.float())

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Read the statistics from the state of an encoder with a `scaling`."""
        return cls(tensors["scaling.mean"], tensors["scaling.spread"])

    @property
    def n_channels(self) -> int:
        """Number of channels C."""
        return len(self.mean)

    def forward(self, images: Tensor) -> Tensor:
        """Standardise images (B, C, H, W); large values are clipped, as in tables."""
        scores = (images - self.mean) / self.spread
        return scores.clamp(-MAX_Z_SCORE, MAX_Z_SCORE)
