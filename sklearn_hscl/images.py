"""Stacks of images as users pass them: checked, with the channels first."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array

CHANNEL_COUNTS = (1, 3, 4)  # grey, RGB, RGBA


def check_images(
    estimator: BaseEstimator, X: Any, *, is_fit: bool, name: str
) -> NDArray[Any]:
    """Validate X as a stack of images.

    Parameters
    ----------
    estimator : estimator
        Gets `n_features_in_` in fit; its `channels` says where 4-D images hold theirs.
    X : array-like of shape (n_samples, H, W), (n_samples, H, W, C) or (n_samples, C, H, W)
        The images, uint8 or float.
    is_fit : bool
        Whether X is what the estimator is fitted on.
    name : str
        Name of X, for messages.

    Returns
    -------
    ndarray of shape (n_samples, C, H, W)
        In their own type.
    """
    images = check_array(
        X,
        allow_nd=True,
        dtype=None,
        ensure_all_finite=False,  # below, with the place
        ensure_min_samples=2 if is_fit else 1,
        estimator=estimator,
        input_name=name,
    )
    if images.dtype.kind not in "buif":
        raise ValueError(
            f"{name} holds images of dtype {images.dtype}: convert them to uint8 or "
            f"float32."
        )
    if images.size == 0:
        raise ValueError(f"{name} holds images without pixels, shape {images.shape}.")
    finite = np.isfinite(images).reshape(len(images), -1).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"Input {name} contains NaN or infinity, in image {int(finite.argmin())}: "
            f"repair it or leave it out."
        )
    images = _channels_first(images, estimator.channels)
    if is_fit:
        estimator.n_features_in_ = images.shape[1]
        vars(estimator).pop("feature_names_in_", None)  # of a fit on a table before
    return images


def _channels_first(images: NDArray[Any], channels: str) -> NDArray[Any]:
    if images.ndim == 3:
        return images[:, None]  # (n, 1, H, W)
    if channels == "auto":
        channels = _guess_channels(images.shape)
    if channels == "first":
        return images
    return np.ascontiguousarray(np.moveaxis(images, 3, 1))


def _guess_channels(shape: tuple[int, ...]) -> str:
    first, last = shape[1] in CHANNEL_COUNTS, shape[3] in CHANNEL_COUNTS
    if first == last:
        raise ValueError(
            f"X of shape {shape} does not show which axis holds the channels: pass "
            f"channels='first' for (n_samples, C, H, W) or 'last' for "
            f"(n_samples, H, W, C)."
        )
    return "first" if first else "last"
