"""Views of images: random crops."""

from numbers import Real

import torch
from torch import Tensor
from torch.nn import functional

from sklearn_hscl.augment.base import Augmentation


class RandomShift(Augmentation):
    """Shift each image by a random number of pixels: pad with zeros, then crop.

    Parameters
    ----------
    fraction : float in [0, 0.5], default=0.125
        Largest shift as a share of height and width, at least one pixel where it is
        positive. 0.125 is the usual 4 pixels of a 32-pixel image.

    Examples
    --------
    >>> import torch
    >>> from sklearn_hscl.augment import RandomShift
    >>> images = torch.rand(2, 1, 8, 8)
    >>> RandomShift()(images, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(self, fraction: float = 0.125) -> None:
        self.fraction = fraction

    @property
    def is_identity(self) -> bool:
        """Whether no image is ever shifted."""
        return self.fraction == 0

    def fitted(self, rows: Tensor) -> "RandomShift":
        """Check parameter and rows; nothing is learnt from the images."""
        if not (isinstance(self.fraction, Real) and 0 <= self.fraction <= 0.5):
            raise ValueError(
                f"RandomShift: fraction must be in [0, 0.5], got {self.fraction!r}."
            )
        if rows.ndim != 4:
            raise ValueError(
                f"RandomShift needs images, got rows of shape {tuple(rows.shape[1:])}: "
                f"use FeatureCorruption for tables."
            )
        return self

    def __call__(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return one shifted view of each image."""
        n_images, _, height, width = rows.shape
        down, right = self._margin(height), self._margin(width)
        padded = functional.pad(rows, (right, right, down, down))
        offsets = [
            torch.randint(
                2 * margin + 1, (n_images, 1, 1, 1), generator=generator, device=rows.device
            )
            for margin in (down, right)
        ]
        image = torch.arange(n_images, device=rows.device).view(-1, 1, 1, 1)
        channel = torch.arange(rows.shape[1], device=rows.device).view(1, -1, 1, 1)
        row = torch.arange(height, device=rows.device).view(1, 1, -1, 1) + offsets[0]
        column = torch.arange(width, device=rows.device).view(1, 1, 1, -1) + offsets[1]
        return padded[image, channel, row, column]  # (B, C, H, W)

    def _margin(self, pixels: int) -> int:
        return max(1, round(self.fraction * pixels)) if self.fraction else 0
