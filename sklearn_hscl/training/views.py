"""Views of a batch: how many, made by what, drawn from which generator."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_hscl.augment import (
    Augmentation,
    FeatureCorruption,
    FunctionAugmentation,
    RandomShift,
)
from sklearn_hscl.encoders.features import as_float

AugmentParameter = str | Callable[[Tensor, torch.Generator], Tensor] | None


@dataclass
class Views:
    """Maker of random views; calling it advances its generator."""

    augment: Augmentation
    n_views: int
    generator: torch.Generator

    def __call__(self, rows: Tensor) -> Tensor:
        """Return all views of the rows (B, ...), view by view: (n_views * B, ...)."""
        rows = as_float(rows)
        views = [self.augment(rows, self.generator) for _ in range(self.n_views)]
        return torch.cat(views)


def choose_n_views(
    n_views: int | str, loss: str, codes: NDArray[np.int64] | None
) -> int:
    """Settle the number of views: one only where labels give positives.

    Parameters
    ----------
    n_views : int or "auto"
        As given by the user.
    loss : str
        Name of the loss, for messages.
    codes : ndarray of int, shape (n_samples,), or None
        Class codes; None for losses without labels.

    Raises
    ------
    ValueError
        If one view is asked for and no row has a positive.
    """
    labels_pair = codes is not None and np.bincount(codes).max() > 1
    if n_views == "auto":
        return 1 if labels_pair else 2
    if n_views == 1 and not labels_pair:
        cause = "ignores labels" if codes is None else "finds no two rows of one class"
        raise ValueError(
            f"n_views=1 leaves every row without a positive, as loss={loss!r} {cause}: "
            f"use n_views='auto' or at least 2."
        )
    return int(n_views)


def choose_augment(augment: AugmentParameter, n_views: int, ndim: int) -> Augmentation:
    """Settle the augmentation.

    Parameters
    ----------
    augment : "auto", callable or None
        As given by the user.
    n_views : int
        Views of each row.
    ndim : int
        Dimensions of the training rows: 2 for a table, 4 for images.

    Returns
    -------
    Augmentation
        For "auto", tables are corrupted where a row needs several views, and images
        are always shifted: a shifted image is an honest image, a corrupted row is not.
    """
    if isinstance(augment, Augmentation):
        return augment
    if augment is None:
        return Augmentation()
    if not isinstance(augment, str):
        return FunctionAugmentation(augment)
    if ndim > 2:
        return RandomShift()
    return FeatureCorruption() if n_views > 1 else Augmentation()
