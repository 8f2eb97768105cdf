"""Stacks of images as users pass them: checked, with the channels first."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array

from sklearn_hscl.datasets import DatasetRows
from sklearn_hscl.image_files import picture_array
from sklearn_hscl.pixel_scale import on_scale, scale_of

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
