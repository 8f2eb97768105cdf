"""Augmentations of images: random shifts, and the transforms of contrastive learning."""

import copy
import hashlib
import math
from numbers import Real
from random import Random
from typing import Self

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
        Largest shift as a fraction of height and width, at least one pixel unless it is
        0. 0.125 is the usual 4 pixels of a 32-pixel image.

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

    def fitted(self, rows: Tensor) -> Self:
        """Check the parameter and the rows, and return the augmentation itself."""
        if not (isinstance(self.fraction, Real) and 0 <= self.fraction <= 0.5):
            raise ValueError(
                f"RandomShift: fraction must be in [0, 0.5], got {self.fraction!r}."
            )
        if rows.ndim != 4:
            raise ValueError(
                f"RandomShift needs images, got rows of shape {tuple(rows.shape[1:])}. "
                f"Use FeatureCorruption for tables."
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


_MAX_RANGE_IMAGES = 1000  # of which the range of values is taken
_PROBABILITIES = ("flip", "jitter_p", "grey", "blur", "erase")

_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601
_CROP_RATIO = (3 / 4, 4 / 3)
_BLUR_STD = (0.1, 2.0)
_ERASED_AREA = (0.02, 0.33)
_ERASED_RATIO = (0.3, 3.3)


class ImageTransforms(Augmentation):
    """Transform each image at random, as in contrastive learning on photographs.

    The defaults are those of the papers for images of 32 pixels: a resized crop, a mirror
    image, colour jitter, and sometimes greyscale. Each image gets its own values, which
    are computed on the device of the batch. Images are uint8, or floats in [0, 1]. For
    other floats, black and white are the smallest and largest value of training images.

    Parameters
    ----------
    crop : (float, float) or None, default=(0.2, 1.0)
        Smallest and largest fraction of the area that a crop retains; None for no crops.
        Its aspect ratio is from 3/4 to 4/3, and it is resized to the original size.
    flip : float in [0, 1], default=0.5
        Probability of a horizontal flip. Use 0 if flips change the meaning, as for digits.
    jitter : float >= 0, default=0.4
        Strength of the colour jitter; 0 for none. Brightness, contrast and saturation are
        multiplied by factors from 1 - `jitter` to 1 + `jitter`, in random order. The hue
        turns by up to `jitter` / 4, and 0.5 gives the opposite colour. Greyscale images
        have no saturation or hue, and up to `jitter` of brightness is added instead.
    jitter_p : float in [0, 1], default=0.8
        Probability of colour jitter. For greyscale images, brightness and contrast are
        drawn independently.
    grey : float in [0, 1], default=0.2
        Probability of a conversion to greyscale.
    blur : float in [0, 1], default=0.0
        Probability of a Gaussian blur with a std of 0.1 to 2 pixels; for images of more
        than 32 pixels.
    erase : float in [0, 1], default=0.0
        Probability that a rectangle of 2 to 33 % of the area is blackened.

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
        """Whether all views are equal, since no transform applies to the images."""
        grey = self.grey and getattr(self, "n_channels_", 3) == 3
        colours = (self.jitter and self.jitter_p) or grey
        return self.crop is None and not (self.flip or colours or self.blur or self.erase)

    def fitted(self, rows: Tensor) -> Self:
        """Check the parameters and the rows, and return a copy for their channels."""
        _check_shape(rows)
        self._check_params()
        if self._changes_colours:
            _check_channels(rows.shape[1])
        fitted = copy.copy(self)
        fitted.black_, fitted.white_ = _range(rows)
        fitted.n_channels_ = int(rows.shape[1])
        return fitted

    def __call__(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return one view of each image (B, C, H, W)."""
        draws = _Draws(rows, generator)
        if (self.black_, self.white_) != (0, 1):
            rows = (rows - self.black_) / (self.white_ - self.black_)
        rows = self._view(rows, draws)
        if (self.black_, self.white_) != (0, 1):
            rows = rows * (self.white_ - self.black_) + self.black_
        return rows

    def _view(self, rows: Tensor, draws: "_Draws") -> Tensor:
        """Return one view of each image, with 0 for black and 1 for white."""
        if self.crop is not None:
            rows = _cropped(rows, draws, self.crop)
        if self.flip:
            rows = draws.where(self.flip, rows.flip(3), rows)
        if self.jitter and self.jitter_p:
            jittered = _jittered if rows.shape[1] == 3 else _jittered_grey
            rows = jittered(rows, draws, float(self.jitter), self.jitter_p)
        if self.grey and rows.shape[1] == 3:
            rows = draws.where(self.grey, _grey(rows).expand_as(rows), rows)
        if self.blur:
            rows = draws.where(self.blur, _blurred(rows, draws), rows)
        if self.erase:
            rows = draws.where(self.erase, _erased(rows, draws), rows)
        return rows

    @property
    def _changes_colours(self) -> bool:
        return bool(self.grey or (self.jitter and self.jitter_p))

    def _check_params(self) -> None:
        for name in _PROBABILITIES:
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
                f"ImageTransforms: crop must hold two fractions, 0 < smallest <= largest "
                f"<= 1, got {self.crop!r}."
            )


def _check_shape(rows: Tensor) -> None:
    if rows.ndim != 4:
        raise ValueError(
            f"ImageTransforms needs images, got rows of shape {tuple(rows.shape[1:])}. "
            f"Use FeatureCorruption for tables."
        )


def _check_channels(n_channels: int) -> None:
    if n_channels not in (1, 3):
        raise ValueError(
            f"ImageTransforms changes colours of greyscale and RGB images, got "
            f"{n_channels} channels. Set jitter=0 and grey=0, or drop other channels, "
            f"such as alpha."
        )


def _range(rows: Tensor) -> tuple[float, float]:
    """Return the values of black and white."""
    step = -(-rows.shape[0] // _MAX_RANGE_IMAGES)
    images = rows[torch.arange(0, rows.shape[0], step)]
    if not images.is_floating_point():
        return 0.0, 1.0  # uint8, which comes as floats in [0, 1]
    smallest, largest = images.min().item(), images.max().item()
    if smallest == largest or (smallest >= 0 and largest <= 1):
        return 0.0, 1.0
    return smallest, largest


def _is_range(fractions: tuple[float, float]) -> bool:
    """Return whether these are a smallest and a largest fraction above 0."""
    return (
        np.shape(fractions) == (2,)
        and all(isinstance(fraction, Real) for fraction in fractions)
        and 0 < fractions[0] <= fractions[1] <= 1
    )


# Transforms of a batch -----------------------------------------------------------------


class _Draws:
    """Random values, one for each image of a batch (B, 1, 1, 1)."""

    def __init__(self, rows: Tensor, generator: torch.Generator) -> None:
        self.shape = (len(rows), 1, 1, 1)
        self.dtype, self.device = rows.dtype, rows.device
        self.generator = generator

    def uniform(self, low: float, high: float) -> Tensor:
        """Draw from a uniform distribution."""
        unit = torch.rand(
            self.shape, generator=self.generator, dtype=self.dtype, device=self.device
        )
        return low + (high - low) * unit

    def ratio(self, low: float, high: float) -> Tensor:
        """Draw such that a ratio and its inverse are equally likely."""
        return self.uniform(math.log(low), math.log(high)).exp()

    def where(self, p: float, changed: Tensor, rows: Tensor) -> Tensor:
        """Take the changed image with probability `p`."""
        return torch.where(self.uniform(0, 1) < p, changed, rows)

    def factor(self, jitter: float, p: float) -> Tensor:
        """Draw a factor of up to 1 +- `jitter`, not negative; 1 with probability 1 - p."""
        factor = self.uniform(max(0.0, 1 - jitter), 1 + jitter)
        return self.where(p, factor, torch.ones_like(factor))

    def order(self, n: int) -> list[int]:
        """Draw an order without waiting for the device: the state lies in host memory."""
        state = self.generator.get_state().numpy().tobytes()
        self.uniform(0, 1)  # advances the state
        return Random(hashlib.sha256(state).digest()).sample(range(n), n)


def _cropped(rows: Tensor, draws: _Draws, fractions: tuple[float, float]) -> Tensor:
    """Cut a part out of each image, and resize it by linear interpolation."""
    side = draws.uniform(*fractions).sqrt()
    ratio = draws.ratio(*_CROP_RATIO).sqrt()
    height, width = (side / ratio).clamp(max=1), (side * ratio).clamp(max=1)
    down = _interpolation(height, draws.uniform(0, 1) * (1 - height), rows.shape[2])
    right = _interpolation(width, draws.uniform(0, 1) * (1 - width), rows.shape[3])
    return down @ rows @ right.transpose(2, 3)


def _interpolation(side: Tensor, start: Tensor, n_pixels: int) -> Tensor:
    """Return the weight of each old pixel in each new one (B, 1, n_new, n_old)."""
    pixels = torch.arange(n_pixels, dtype=side.dtype, device=side.device)
    # Corners of a crop become those of the view, so that no border is repeated.
    centers = start * (n_pixels - 1) + pixels[:, None] * side  # (B, 1, n_new, 1)
    return (1 - (centers - pixels).abs()).clamp(min=0)


def _jittered(rows: Tensor, draws: _Draws, jitter: float, p: float) -> Tensor:
    """Change brightness, contrast, saturation and hue of RGB images, in random order."""
    changed = rows
    for change in draws.order(4):
        if change == 3:
            turn = min(jitter / 4, 0.5)
            changed = _with_hue(changed, draws.uniform(-turn, turn))
            continue
        factor = draws.factor(jitter, 1)
        if change == 0:  # brightness: away from black
            changed = changed * factor
        else:  # contrast: away from the mean grey; saturation: from the grey of a pixel
            grey = _grey(changed)
            grey = grey.mean((2, 3), keepdim=True) if change == 1 else grey
            changed = torch.lerp(grey.expand_as(changed), changed, factor)
        changed = changed.clamp(0, 1)
    return draws.where(p, changed, rows)


def _jittered_grey(rows: Tensor, draws: _Draws, jitter: float, p: float) -> Tensor:
    """Change the brightness of greyscale images by a summand, then their contrast."""
    brighter = (rows + draws.factor(jitter, p) - 1).clamp(0, 1)
    return (brighter * draws.factor(jitter, p)).clamp(0, 1)


def _grey(rows: Tensor) -> Tensor:
    """Return the brightness of RGB images (B, 1, H, W)."""
    red, green, blue = (
        part * weight for part, weight in zip(rows.split(1, dim=1), _LUMA, strict=True)
    )
    return red + green + blue


def _with_hue(rows: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of RGB images by a fraction of the colour circle."""
    red, green, blue = rows.split(1, dim=1)
    largest, smallest = rows.amax(1, keepdim=True), rows.amin(1, keepdim=True)
    chroma = largest - smallest
    divisor = torch.where(chroma > 0, chroma, 1)
    hue = torch.where(
        largest == red,
        (green - blue) / divisor,
        torch.where(
            largest == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor
        ),
    )  # in sixths of the circle, (B, 1, H, W)
    offsets = torch.arange(5, 0, -2, dtype=rows.dtype, device=rows.device)
    sixths = (hue + 6 * turn + offsets.view(3, 1, 1)) % 6  # (B, 3, H, W)
    return largest - chroma * torch.minimum(sixths, 4 - sixths).clamp(0, 1)


def _blurred(rows: Tensor, draws: _Draws) -> Tensor:
    """Average each image with Gaussian weights of a random std."""
    std = draws.uniform(*_BLUR_STD)
    down, right = (_gaussian(std, n_pixels) for n_pixels in rows.shape[2:])
    return down @ rows @ right.transpose(2, 3)


def _gaussian(std: Tensor, n_pixels: int) -> Tensor:
    """Return the weights of all pixels in the average at each one (B, 1, n, n)."""
    pixels = torch.arange(n_pixels, dtype=std.dtype, device=std.device)
    return (-((pixels[:, None] - pixels) ** 2) / (2 * std**2)).softmax(-1)


def _erased(rows: Tensor, draws: _Draws) -> Tensor:
    """Blacken a rectangle of each image."""
    side = draws.uniform(*_ERASED_AREA).sqrt()
    ratio = draws.ratio(*_ERASED_RATIO).sqrt()
    down = _within(side / ratio, draws.uniform(0, 1), rows.shape[2])
    right = _within(side * ratio, draws.uniform(0, 1), rows.shape[3])
    inside = down[..., None] & right[..., None, :]  # (B, 1, H, W)
    return rows.masked_fill(inside, 0)


def _within(side: Tensor, start: Tensor, n_pixels: int) -> Tensor:
    """Return which of the pixels along an axis are in a part of it (B, 1, n_pixels)."""
    n_inside = (side * n_pixels).round().clamp(1, n_pixels)
    first = (start * (n_pixels - n_inside + 1)).floor().clamp(max=n_pixels - 1)
    pixels = torch.arange(n_pixels, dtype=side.dtype, device=side.device)
    return ((pixels >= first) & (pixels < first + n_inside))[..., 0, :]
