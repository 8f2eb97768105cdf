"""Augmentations of images: random shifts, and the transforms of contrastive learning."""

import copy
import hashlib
from collections.abc import Callable
from numbers import Real
from types import ModuleType
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sklearn_hscl.augment.base import Augmentation
from sklearn_hscl.runtime.random_state import scoped_torch_seed


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


_N_CHECKED_IMAGES = 256  # of which the range of values is checked
_PROBABILITIES = ("flip", "jitter_p", "grey", "blur", "erase")

Transform = Callable[[Tensor], Tensor]


class ImageTransforms(Augmentation):
    """Transform each image at random, as in contrastive learning on photographs.

    The defaults are those of the papers for images of 32 pixels: a resized crop, a mirror
    image, colour jitter, and sometimes greyscale. kornia computes all of it on the device
    of the batch (``pip install sklearn-hscl[images]``). Images are uint8, or floats in
    [0, 1].

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
        if hasattr(self, "steps_"):
            return not self.steps_
        colours = (self.jitter and self.jitter_p) or self.grey
        return self.crop is None and not (self.flip or colours or self.blur or self.erase)

    def fitted(self, rows: Tensor) -> Self:
        """Check the parameters and the rows, and return a copy with its transforms."""
        _check_images(rows)
        self._check_channels(rows.shape[1])
        self._check_params()
        fitted = copy.copy(self)
        size = (int(rows.shape[2]), int(rows.shape[3]))
        fitted.steps_ = self._steps(size, is_coloured=rows.shape[1] == 3)
        return fitted

    def __call__(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return one view of each image (B, C, H, W)."""
        # kornia draws from torch's global generators.
        with scoped_torch_seed(_seed_from(generator), rows.device):
            for step in self.steps_:
                rows = step(rows)
        return rows

    def _steps(self, size: tuple[int, int], *, is_coloured: bool) -> list[Transform]:
        augmentation = _import_kornia()
        steps: list[Transform] = []
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
        steps += self._colour_steps(augmentation, is_coloured=is_coloured)
        if self.blur:
            # Three stds on either side, or the largest kernel that the padding allows.
            width = min(13, 2 * min(size) - 1)
            kernel = (width, width)
            steps.append(augmentation.RandomGaussianBlur(kernel, (0.1, 2.0), p=self.blur))
        if self.erase:
            steps.append(augmentation.RandomErasing(p=self.erase))
        return steps

    def _colour_steps(
        self, augmentation: ModuleType, *, is_coloured: bool
    ) -> list[Transform]:
        strength, p = self.jitter, self.jitter_p
        if not is_coloured:
            factors = (max(0.0, 1 - strength), min(2.0, 1 + strength))
            types = (augmentation.RandomBrightness, augmentation.RandomContrast)
            return [type_(factors, p=p) for type_ in types] if strength and p else []
        steps: list[Transform] = []
        if strength and p:
            hue = min(strength / 4, 0.5)
            steps.append(augmentation.ColorJitter(strength, strength, strength, hue, p=p))
        if self.grey:
            steps.append(augmentation.RandomGrayscale(p=self.grey))
        return steps

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

    def _check_channels(self, n_channels: int) -> None:
        if n_channels not in (1, 3) and (self.grey or (self.jitter and self.jitter_p)):
            raise ValueError(
                f"ImageTransforms changes colours of greyscale and RGB images, got "
                f"{n_channels} channels. Set jitter=0 and grey=0, or drop other channels, "
                f"such as alpha."
            )


def _seed_from(generator: torch.Generator) -> int:
    """Draw a seed without waiting for the device: the state lies in host memory."""
    state = generator.get_state().numpy()
    torch.rand(1, generator=generator, device=generator.device)  # advances it
    return int.from_bytes(hashlib.sha256(state.tobytes()).digest()[:7])


def _import_kornia() -> ModuleType:
    try:
        from kornia import augmentation
    except ImportError as error:
        raise ImportError(
            "ImageTransforms needs kornia. Run pip install sklearn-hscl[images]."
        ) from error
    return augmentation


def _check_images(rows: Tensor) -> None:
    """Raise an error unless the rows are images of uint8, or of floats in [0, 1]."""
    if rows.ndim != 4:
        raise ValueError(
            f"ImageTransforms needs images, got rows of shape {tuple(rows.shape[1:])}. "
            f"Use FeatureCorruption for tables."
        )
    images = rows[:_N_CHECKED_IMAGES]
    if not images.is_floating_point():
        return
    smallest, largest = images.min().item(), images.max().item()
    if smallest < 0 or largest > 1:
        raise ValueError(
            f"ImageTransforms takes uint8 images, or floats from 0 to 1, got floats "
            f"from {smallest:.3g} to {largest:.3g}. Scale X."
        )


def _is_range(fractions: tuple[float, float]) -> bool:
    """Return whether these are a smallest and a largest fraction above 0."""
    return (
        np.shape(fractions) == (2,)
        and all(isinstance(fraction, Real) for fraction in fractions)
        and 0 < fractions[0] <= fractions[1] <= 1
    )
