"""Validation of images: channels first, and one pixel range in fit and later."""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array

from sklearn_hscl.data.image_files import image_array
from sklearn_hscl.data.out_of_core import DatasetRows, is_memory_mapped

Images: TypeAlias = NDArray[np.number] | DatasetRows

# "bytes" are uint8, "unit" are numbers from 0 to 1. Models store these names.
PIXEL_RANGES = ("bytes", "unit", "other")
_CHANNEL_COUNTS = (1, 3, 4)  # grey, RGB, RGBA
_CHUNK_VALUES = 2**20  # that are checked at a time
# A sample of the images is enough, as pixel ranges differ by factors.
_MAX_IMAGES = 256
# Pixels of resized images hardly exceed 1. A few faulty ones may, and are clipped.
_MAX_UNIT_PIXEL = 2
_MAX_FAULTY_FRACTION = 0.01


def check_images(estimator: BaseEstimator, X: Any, *, is_fit: bool, name: str) -> Images:
    """Validate X as a stack of images.

    Parameters
    ----------
    estimator : estimator
        Gets `n_features_in_` and `_pixel_scale` in fit and loses `feature_names_in_`;
        later images are compared with these. Its `channels` names the channel axis.
    X : array-like or DatasetRows
        The images, uint8 or float, of shape (n_samples, H, W), (n_samples, H, W, C) or
        (n_samples, C, H, W).
    is_fit : bool
        Whether the estimator is fitted on X.
    name : str
        Name of X, for messages.

    Returns
    -------
    ndarray or DatasetRows of shape (n_samples, C, H, W)
        In their own type; an array is a view of X.
    """
    images = X
    if not isinstance(X, DatasetRows):  # its items are checked when they are read
        images = check_array(
            _stack(X, name) if isinstance(X, list | tuple) else X,
            allow_nd=True,
            dtype=None,
            ensure_all_finite=False,  # checked below, to name the image
            ensure_min_samples=2 if is_fit else 1,
            estimator=estimator,
            input_name=name,
        )
    _check_pixels(images, name)
    if is_fit and isinstance(estimator.encoder, str) and estimator.encoder == "auto":
        _warn_of_series(images, name)
    images = _channels_first(images, estimator.channels)
    if is_fit:
        _set_image_attributes(estimator, images)
        return images
    return match_pixel_range(images, getattr(estimator, "_pixel_scale", None), name)


def _set_image_attributes(estimator: BaseEstimator, images: Images) -> None:
    """Write on the estimator what later images are compared with, and nothing else."""
    estimator.n_features_in_ = images.shape[1]
    estimator._pixel_scale = pixel_range_of(images)
    vars(estimator).pop("feature_names_in_", None)  # of an earlier fit on a table


def _stack(images: Sequence[Any], name: str) -> Any:
    """Return single images as one array; nested lists as they are."""
    if isinstance(images[0], list | tuple):
        return images
    arrays = [image_array(image) for image in images]
    try:
        return np.asarray(arrays)
    except ValueError as error:
        shapes = [array.shape for array in arrays]
        other = next(i for i, shape in enumerate(shapes) if shape != shapes[0])
        raise ValueError(
            f"{name} holds images of different shapes: image {other} is {shapes[other]}, "
            f"image 0 {shapes[0]}. Resize them to one shape; image files by "
            f"ImageFiles(paths, size=(height, width))."
        ) from error


def _check_pixels(images: Images, name: str) -> None:
    if images.dtype.kind not in "buif":
        raise ValueError(
            f"{name} holds images of dtype {images.dtype}: convert them to uint8 or "
            f"float32."
        )
    if 0 in images.shape:
        raise ValueError(f"{name} holds images without pixels, shape {images.shape}.")
    if isinstance(images, DatasetRows) or images.dtype.kind != "f":
        return
    n_images = max(1, _CHUNK_VALUES // images[0].size)
    for start in range(0, len(images), n_images):
        chunk = images[start : start + n_images]
        finite = np.isfinite(chunk).reshape(len(chunk), -1).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"Input {name} contains NaN or infinity, in image "
                f"{start + int(finite.argmin())}: repair it or leave it out."
            )


# Sides of images whose pixels are not in a usual range, and of any, at most.
_MAX_RATIO, _MAX_RATIO_OF_IMAGES = 1.5, 4


def _warn_of_series(images: Images, name: str) -> None:
    """Warn where numbers (n, H, W) are hardly grey images, but several series each."""
    if images.ndim != 3 or images.dtype.kind != "f":
        return
    short, long = sorted(images.shape[1:])
    sample = _sample_of(images)
    is_whole = bool((sample == np.rint(sample)).all())
    is_pixels = sample.min() >= 0 and (sample.max() <= 1 or is_whole)
    if long <= (_MAX_RATIO_OF_IMAGES if is_pixels else _MAX_RATIO) * short:
        return
    height, width = images.shape[1:]
    warnings.warn(
        f"{name} of shape {images.shape} is read as grey images of {height} x {width} "
        f"pixels, whose views are shifted both ways, but does not look like images. For "
        f"series of (n_samples, channels, time) pass {name}[:, :, None], as images of "
        f"height 1 with channels='first', or {name}.reshape(len({name}), -1) as a table; "
        f"for grey images {name}[:, None] with channels='first'.",
        UserWarning,
        stacklevel=2,
    )


# Channels


def _channels_first(images: Images, channels: str) -> Images:
    """Return a view (n, C, H, W)."""
    if images.ndim == 3:
        view = partial(np.expand_dims, axis=1)
    else:
        axis = _guess_channels(images.shape) if channels == "auto" else channels
        if axis == "first":
            return images
        view = partial(np.moveaxis, source=3, destination=1)
    return images.viewed(view) if isinstance(images, DatasetRows) else view(images)


def _guess_channels(shape: tuple[int, ...]) -> str:
    first, last = shape[1] in _CHANNEL_COUNTS, shape[3] in _CHANNEL_COUNTS
    if first == last:
        raise ValueError(
            f"X of shape {shape} does not show which axis holds the channels: pass "
            f"channels='first' for (n_samples, C, H, W) or 'last' for "
            f"(n_samples, H, W, C)."
        )
    return "first" if first else "last"


# Pixel range


def pixel_range_of(images: Images) -> str | None:
    """Return the pixel range of training images.

    Parameters
    ----------
    images : ndarray or DatasetRows of shape (n, ...)
        Finite.

    Returns
    -------
    {"bytes", "unit", "other"} or None
        uint8, numbers from 0 to 1, or others; None for datasets that are not uint8.
    """
    if images.dtype == np.uint8:
        return "bytes"
    if isinstance(images, DatasetRows):
        return None
    sample = _sample_of(images)
    return "unit" if sample.min() >= 0 and sample.max() <= 1 else "other"


def match_pixel_range(images: Images, pixel_range: str | None, name: str) -> Images:
    """Return images in the pixel range of the training images.

    After a fit on uint8, other images must be integers from 0 to 255 or numbers from 0
    to 1. After a fit on numbers from 0 to 1, others may be larger, but not look like
    uint8 that was converted to float.

    Parameters
    ----------
    images : ndarray or DatasetRows of shape (n, ...)
        Finite.
    pixel_range : {"bytes", "unit", "other"} or None
        That of the training images.
    name : str
        Name of the images, for messages.

    Returns
    -------
    ndarray or DatasetRows
        `images`; integers from 0 to 255 as uint8 after a fit on uint8.

    Raises
    ------
    ValueError
        If a sample of them is in another range.
    """
    if images.dtype == np.uint8 and pixel_range == "other":
        raise ValueError(
            f"{name} holds uint8 images, whose pixels are read as numbers from 0 to 1, but "
            f"the embedder was fitted with others: pass {name}.astype(numpy.float32), in "
            f"the pixel range of the images in fit."
        )
    if images.dtype == np.uint8 or pixel_range not in ("bytes", "unit"):
        return images
    if pixel_range == "bytes" and _holds_bytes(images):
        return np.asarray(images, dtype=np.uint8)
    sample = _sample_of(images)
    exceeds = (sample > _MAX_UNIT_PIXEL).mean() > _MAX_FAULTY_FRACTION
    if exceeds and (pixel_range == "bytes" or _look_like_bytes(sample)):
        fitted = "uint8" if pixel_range == "bytes" else "numbers from 0 to 1"
        raise ValueError(
            f"{name} holds {images.dtype} pixels up to {sample.max():g}, but the embedder "
            f"was fitted with {fitted}: pass uint8, or numbers from 0 to 1."
        )
    return images


def _sample_of(images: Images) -> NDArray[np.number]:
    """Return images from all over the stack; the first of a dataset, which may be slow."""
    if isinstance(images, DatasetRows):
        return images[:1]
    return np.asarray(images[:: -(-len(images) // _MAX_IMAGES)])


def _holds_bytes(images: Images) -> bool:
    """Return whether these are an array of integers from 0 to 255, in memory."""
    if isinstance(images, DatasetRows) or is_memory_mapped(images):
        return False
    if images.dtype.kind not in "iu":
        return False
    return bool(images.min() >= 0 and images.max() <= 255)


def _look_like_bytes(pixels: NDArray[np.number]) -> bool:
    return bool(pixels.max() <= 255 and (pixels == np.rint(pixels)).all())
