"""Which numbers stand for black and white, the same in all that an embedder gets."""

from typing import Any

import numpy as np

from sklearn_hscl.datasets import DatasetRows

SCALES = ("bytes", "unit", "other")
# Bytes as numbers go far beyond, resized pictures hardly beyond 1.
_BEYOND_WHITE = 16
# Share of the pixels: fewer are faults of single ones, which encoders cut off.
_FEW = 0.01


def scale_of(images: Any) -> str | None:
    """Say on what scale the pixels of training images are.

    Parameters
    ----------
    images : ndarray or DatasetRows of shape (n, ...)
        Finite.

    Returns
    -------
    {"bytes", "unit", "other"} or None
        uint8, numbers from 0 to 1, others; None where all would have to be read.
    """
    if images.dtype == np.uint8:
        return "bytes"
    if isinstance(images, DatasetRows):
        return None
    return "unit" if images.min() >= 0 and images.max() <= 1 else "other"


def on_scale(images: Any, scale: str | None, name: str) -> Any:
    """Return images whose pixels are on the scale of the training images.

    Parameters
    ----------
    images : ndarray or DatasetRows of shape (n, ...)
        Finite.
    scale : {"bytes", "unit", "other"} or None
        That of the training images.
    name : str
        Name of the images, for messages.

    Returns
    -------
    ndarray or DatasetRows
        `images`; integers from 0 to 255 as bytes, where those were trained on.

    Raises
    ------
    ValueError
        If they are on another scale.
    """
    if images.dtype == np.uint8 and scale == "other":
        raise ValueError(
            f"{name} holds uint8 images, whose pixels are read as numbers from 0 to 1, but "
            f"the embedder was fitted with others: pass {name}.astype(numpy.float32), on "
            f"the scale of the images in fit."
        )
    if images.dtype == np.uint8 or scale not in ("bytes", "unit"):
        return images
    is_stored = isinstance(images, DatasetRows)
    looked_at = images[:1] if is_stored else images
    largest = looked_at.max()
    are_integers = not is_stored and images.dtype.kind in "iu"
    if scale == "bytes" and are_integers and images.min() >= 0 and largest <= 255:
        return images.astype(np.uint8)
    if largest > _BEYOND_WHITE and (looked_at > _BEYOND_WHITE).mean() > _FEW:
        raise ValueError(
            f"{name} holds {images.dtype} pixels up to {largest:g}, but the embedder was "
            f"fitted with {'uint8' if scale == 'bytes' else 'numbers from 0 to 1'}: pass "
            f"uint8, or numbers from 0 to 1."
        )
    return images
