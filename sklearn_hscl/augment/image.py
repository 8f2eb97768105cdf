"""Views of images."""

import copy
from numbers import Real
from typing import Any, Self

import numpy as np
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


_CHECKED = 256  # pictures whose range is looked at
_SHARES = ("flip", "jitter_p", "grey", "blur", "erase")


class ImageTransforms(Augmentation):
    """Transform each picture at random, as contrastive learning on photographs does.

    The defaults are those of the papers for pictures of 32 pixels: a crop that is
    resized, a mirror image, other colours, sometimes grey. All of it runs on the device
    of the batch, by kornia (``pip install sklearn-hscl[images]``). Pictures are uint8,
    or floats in [0, 1].

    Parameters
    ----------
    crop : (float, float) or None, default=(0.2, 1.0)
        Smallest and largest share of the area that a crop keeps, at aspect ratios from
        3/4 to 4/3, before it is resized to the whole; None for no crops.
    flip : float in [0, 1], default=0.5
        Chance of a mirror image, left to right; 0 where that changes the meaning, as for
        digits.
    jitter : float >= 0, default=0.4
        Largest change: brightness, contrast and saturation are multiplied by 1 - `jitter`
        to 1 + `jitter`, in random order; the hue turns by up to a quarter of it, 0.5 being
        the opposite colour. 0 for none. Grey pictures have no saturation or hue, and
        get up to `jitter` of brightness added instead.
    jitter_p : float in [0, 1], default=0.8
        Chance that colours change; of grey pictures brightness and contrast are drawn
        each by itself.
    grey : float in [0, 1], default=0.2
        Chance that a picture loses its colours.
    blur : float in [0, 1], default=0.0
        Chance of a Gaussian blur, of 0.1 to 2 pixels (standard deviation); for pictures
        beyond 32 pixels.
    erase : float in [0, 1], default=0.0
        Chance that a rectangle is blackened, of 2 to 33 % of the area.

    References
    ----------
    Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of
    Visual Representations", ICML 2020, arXiv 2002.05709, appendix A and B.9.

    Examples
    --------
    >>> from sklearn_hscl import HSCLEmbedder
    >>> from sklearn_hscl.augment import ImageTransforms
    >>> embedder = HSCLEmbedder(encoder="conv", augment=ImageTransforms(flip=0.0))
    """

    def __init__(
        self,
        *,
        crop: tuple[float, float] | None = (0.2, 1.0),
        flip: float = 0.5,
        jitter: float = 0.4,
        jitter_p: float = 0.8,
        grey: float = 0.2,
        blur: float = 0.0,
        erase: float = 0.0,
    ) -> None:
        self.crop = crop
        self.flip = flip
        self.jitter = jitter
        self.jitter_p = jitter_p
        self.grey = grey
        self.blur = blur
        self.erase = erase

    @property
    def is_identity(self) -> bool:
        """Whether all views are equal: nothing is on, or nothing that the pictures have."""
        if hasattr(self, "steps_"):
            return not self.steps_
        colours = (self.jitter and self.jitter_p) or self.grey
        return self.crop is None and not (self.flip or colours or self.blur or self.erase)

    def fitted(self, rows: Tensor) -> Self:
        """Check parameters and rows; nothing is learnt from the pictures."""
        self._check(rows)
        fitted = copy.copy(self)
        size = (int(rows.shape[2]), int(rows.shape[3]))
        fitted.steps_ = self._steps(size, is_coloured=rows.shape[1] == 3)
        return fitted

    def __call__(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return one view of each picture (B, C, H, W)."""
        # kornia draws from torch's global generators.
        seed = torch.randint(2**62, (), generator=generator, device=generator.device)
        devices = [rows.device] if rows.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(seed))
            for step in self.steps_:
                rows = step(rows)
        return rows

    def _steps(self, size: tuple[int, int], *, is_coloured: bool) -> list[Any]:
        augmentation = _kornia()
        steps = []
        if self.crop is not None:
            crop = augmentation.RandomResizedCrop(
                size,
                scale=tuple(self.crop),
                p=1.0,
                cropping_mode="resample",  # all at once: a GPU would wait for each crop
            )
            steps.append(crop)
        if self.flip:
            steps.append(augmentation.RandomHorizontalFlip(p=self.flip))
        steps += self._colours(augmentation, is_coloured=is_coloured)
        if self.blur:
            # Three standard deviations either way, or what the border allows.
            width = min(13, 2 * min(size) - 1)
            kernel = (width, width)
            steps.append(augmentation.RandomGaussianBlur(kernel, (0.1, 2.0), p=self.blur))
        if self.erase:
            steps.append(augmentation.RandomErasing(p=self.erase))
        return steps

    def _colours(self, augmentation: Any, *, is_coloured: bool) -> list[Any]:
        by, chance = self.jitter, self.jitter_p
        if not is_coloured:
            light = (max(0.0, 1 - by), min(2.0, 1 + by))
            kinds = (augmentation.RandomBrightness, augmentation.RandomContrast)
            return [kind(light, p=chance) for kind in kinds] if by and chance else []
        steps = []
        if by and chance:
            steps.append(augmentation.ColorJitter(by, by, by, min(by / 4, 0.5), p=chance))
        if self.grey:
            steps.append(augmentation.RandomGrayscale(p=self.grey))
        return steps

    def _check(self, rows: Tensor) -> None:
        if rows.ndim != 4:
            raise ValueError(
                f"ImageTransforms needs images, got rows of shape "
                f"{tuple(rows.shape[1:])}: use FeatureCorruption for tables."
            )
        _check_range(rows[:_CHECKED])
        n_channels = rows.shape[1]
        if n_channels not in (1, 3) and (self.grey or (self.jitter and self.jitter_p)):
            raise ValueError(
                f"ImageTransforms changes colours of grey and RGB pictures, got "
                f"{n_channels} channels: set jitter=0 and grey=0, or leave others (such as "
                f"alpha) out."
            )
        for name in _SHARES:
            value = getattr(self, name)
            if not (isinstance(value, Real) and 0 <= float(value) <= 1):
                raise ValueError(
                    f"ImageTransforms: {name} must be in [0, 1], got {value!r}."
                )
        if not (isinstance(self.jitter, Real) and 0 <= self.jitter < float("inf")):
            raise ValueError(
                f"ImageTransforms: jitter must be at least 0 and finite, got "
                f"{self.jitter!r}."
            )
        if self.crop is not None and not _is_range(self.crop):
            raise ValueError(
                f"ImageTransforms: crop must hold two shares, 0 < smallest <= largest "
                f"<= 1, got {self.crop!r}."
            )


def _kornia() -> Any:
    try:
        from kornia import augmentation
    except ImportError as error:
        raise ImportError(
            "ImageTransforms needs kornia: pip install sklearn-hscl[images]."
        ) from error
    return augmentation


def _check_range(pictures: Tensor) -> None:
    if not pictures.is_floating_point():
        return
    least, most = pictures.min().item(), pictures.max().item()
    if least < 0 or most > 1:
        raise ValueError(
            f"ImageTransforms takes uint8 pictures, or floats from 0 to 1, got floats "
            f"from {least:.3g} to {most:.3g}: scale X."
        )


def _is_range(shares: Any) -> bool:
    """Whether this is a smallest and a largest share, above 0."""
    return (
        np.shape(shares) == (2,)
        and all(isinstance(share, Real) for share in shares)
        and 0 < shares[0] <= shares[1] <= 1
    )
