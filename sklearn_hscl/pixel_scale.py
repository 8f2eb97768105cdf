"""Which numbers stand for black and white, the same in all that an embedder gets."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_hscl.datasets import DatasetRows
from sklearn_hscl.stored import is_memory_mapped

SCALES = ("bytes", "unit", "other")
# Images that are looked at: as scales differ by factors, few are enough.
_MOST_IMAGES = 256
# Resized pictures hardly go beyond 1; single pixels may, by a fault, and are cut off.
_BEYOND_WHITE = 2
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
        uint8, numbers from 0 to 1, others; None for datasets of others than uint8.
    """
    if images.dtype == np.uint8:
        return "bytes"
    if isinstance(images, DatasetRows):
        return None
    some = _some(images)
    return "unit" if some.min() >= 0 and some.max() <= 1 else "other"


def on_scale(images: Any, scale: str | None, name: str) -> Any:
    """Return images whose pixels are on the scale of the training images.

    Where these were uint8, others have to be integers from 0 to 255 or numbers from 0 to
    1. Where they were numbers from 0 to 1, others may be larger, but uint8 in the type of
    floats is refused.

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
        If they are on another scale, as far as some of them show.
    """
    if images.dtype == np.uint8 and scale == "other":
        raise ValueError(
            f"{name} holds uint8 images, whose pixels are read as numbers from 0 to 1, but "
            f"the embedder was fitted with others: pass {name}.astype(numpy.float32), on "
            f"the scale of the images in fit."
        )
    if images.dtype == np.uint8 or scale not in ("bytes", "unit"):
        return images
    if scale == "bytes" and _are_bytes(images):
        return images.astype(np.uint8)
    some = _some(images)
    is_beyond = (some > _BEYOND_WHITE).mean() > _FEW
    if is_beyond and (scale == "bytes" or _look_like_bytes(some)):
        raise ValueError(
            f"{name} holds {images.dtype} pixels up to {some.max():g}, but the embedder "
            f"was fitted with {'uint8' if scale == 'bytes' else 'numbers from 0 to 1'}: "
            f"pass uint8, or numbers from 0 to 1."
        )
    return images


def _some(images: Any) -> NDArray[Any]:
    """Return images from all over the stack; of a dataset, which may be slow, the first."""
    if isinstance(images, DatasetRows):
        return images[:1]
    return np.asarray(images[:: -(-len(images) // _MOST_IMAGES)])


def _are_bytes(images: Any) -> bool:
    """Say whether these are an array of integers from 0 to 255, in memory."""
    in_memory = not (isinstance(images, DatasetRows) or is_memory_mapped(images))
    are_integers = in_memory and images.dtype.kind in "iu"
    return are_integers and bool(images.min() >= 0 and images.max() <= 255)


def _look_like_bytes(pixels: NDArray[Any]) -> bool:
    return bool(pixels.max() <= 255 and (pixels == np.rint(pixels)).all())
