"""Validation of images: channels first, one pixel range for all of an embedder."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array

from sklearn_hscl.data.image_files import picture_array
from sklearn_hscl.data.out_of_core import is_memory_mapped
from sklearn_hscl.data.torch_dataset import DatasetRows

CHANNEL_COUNTS = (1, 3, 4)  # grey, RGB, RGBA
_CHECKED = 2**20  # values that are checked at a time


def check_images(estimator: BaseEstimator, X: Any, *, is_fit: bool, name: str) -> Any:
    """Validate X as a stack of images.

    Parameters
    ----------
    estimator : estimator
        Gets `n_features_in_` and `_pixel_scale` in fit, which later images are compared
        with; its `channels` says where 4-D images hold theirs.
    X : array-like or DatasetRows
        The images, uint8 or float, of shape (n_samples, H, W), (n_samples, H, W, C) or
        (n_samples, C, H, W).
    is_fit : bool
        Whether X is what the estimator is fitted on.
    name : str
        Name of X, for messages.

    Returns
    -------
    ndarray or DatasetRows of shape (n_samples, C, H, W)
        In their own type; an array is a view of X.
    """
    images = X
    if not isinstance(X, DatasetRows):  # whose items are checked when they are read
        images = check_array(
            _stacked(X, name) if isinstance(X, list | tuple) else X,
            allow_nd=True,
            dtype=None,
            ensure_all_finite=False,  # below, with the place
            ensure_min_samples=2 if is_fit else 1,
            estimator=estimator,
            input_name=name,
        )
    _check_pixels(images, name)
    images = _channels_first(images, estimator.channels)
    if is_fit:
        estimator.n_features_in_ = images.shape[1]
        estimator._pixel_scale = scale_of(images)
        vars(estimator).pop("feature_names_in_", None)  # of a fit on a table before
        return images
    return on_scale(images, getattr(estimator, "_pixel_scale", None), name)


def _stacked(images: Sequence[Any], name: str) -> Any:
    """Return single images as one array; nested lists as they are."""
    if isinstance(images[0], list | tuple):
        return images
    pictures = [picture_array(image) for image in images]
    try:
        return np.asarray(pictures)
    except ValueError as error:
        shapes = [picture.shape for picture in pictures]
        other = next(i for i, shape in enumerate(shapes) if shape != shapes[0])
        raise ValueError(
            f"{name} holds images of different shapes: image {other} is {shapes[other]}, "
            f"image 0 {shapes[0]}. Bring them to one shape; pictures in files by "
            f"ImageFiles(paths, size=(height, width))."
        ) from error


def _check_pixels(images: Any, name: str) -> None:
    if images.dtype.kind not in "buif":
        raise ValueError(
            f"{name} holds images of dtype {images.dtype}: convert them to uint8 or "
            f"float32."
        )
    if 0 in images.shape:
        raise ValueError(f"{name} holds images without pixels, shape {images.shape}.")
    if isinstance(images, DatasetRows) or images.dtype.kind != "f":
        return
    n_images = max(1, _CHECKED // images[0].size)
    for start in range(0, len(images), n_images):
        chunk = images[start : start + n_images]
        finite = np.isfinite(chunk).reshape(len(chunk), -1).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"Input {name} contains NaN or infinity, in image "
                f"{start + int(finite.argmin())}: repair it or leave it out."
            )


def _channels_first(images: Any, channels: str) -> Any:
    """Return a view (n, C, H, W)."""
    if images.ndim == 3:
        view = partial(np.expand_dims, axis=1)
    else:
        where = _guess_channels(images.shape) if channels == "auto" else channels
        if where == "first":
            return images
        view = partial(np.moveaxis, source=3, destination=1)
    return images.viewed(view) if isinstance(images, DatasetRows) else view(images)


def _guess_channels(shape: tuple[int, ...]) -> str:
    first, last = shape[1] in CHANNEL_COUNTS, shape[3] in CHANNEL_COUNTS
    if first == last:
        raise ValueError(
            f"X of shape {shape} does not show which axis holds the channels: pass "
            f"channels='first' for (n_samples, C, H, W) or 'last' for "
            f"(n_samples, H, W, C)."
        )
    return "first" if first else "last"


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
