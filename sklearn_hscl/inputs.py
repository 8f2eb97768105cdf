"""From what users pass as X and y to arrays that an encoder understands."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    validate_data,
)

from sklearn_hscl.cells import naming_the_cell
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.targets import TargetEncoder, fit_targets
from sklearn_hscl.training.data import LabelledArrays, TrainingData

CHANNEL_COUNTS = (1, 3, 4)  # grey, RGB, RGBA


def check_training_data(
    estimator: BaseEstimator,
    X: Any,
    y: Any,
    X_val: Any,
    y_val: Any,
    *,
    loss: ContrastiveLoss,
    encode: TargetEncoder | None = None,
) -> TrainingData:
    """Validate all that `fit` gets.

    Parameters
    ----------
    estimator : estimator
        Gets `n_features_in_` and `feature_names_in_`.
    X, X_val : array-like
        Training rows and held-out rows (or None).
    y, y_val : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Their targets; ignored by losses without labels.
    loss : ContrastiveLoss
        The loss; the estimator's `target_type` and `unlabeled_label` say how to read y.
    encode : TargetEncoder or None
        How to read y, where an earlier fit has settled it.

    Returns
    -------
    TrainingData
    """
    if X_val is None and y_val is not None:
        raise ValueError("y_val was passed without X_val: pass both, or neither.")
    shape = None if encode is None else getattr(estimator, "input_shape_", None)
    train = LabelledArrays(check_rows(estimator, X, fitted_shape=shape), None)
    if not loss.uses_labels(y is not None):
        encode = None
    else:
        check_consistent_length(X, y)
        encode = encode or fit_targets(
            y,
            loss=loss.loss,
            target_type=estimator.target_type,
            unlabeled_label=estimator.unlabeled_label,
        )
        train = LabelledArrays(train.rows, encode(y))
    held_out = None
    if X_val is not None:
        held_out = _check_held_out(
            estimator, X_val, y_val, train.rows.shape[1:], encode, loss
        )
    return TrainingData(train, held_out, encode)


def _check_held_out(
    estimator: BaseEstimator,
    X_val: Any,
    y_val: Any,
    shape: tuple[int, ...],
    encode: TargetEncoder | None,
    loss: ContrastiveLoss,
) -> LabelledArrays:
    rows = check_rows(estimator, X_val, fitted_shape=shape, name="X_val")
    if encode is None:
        return LabelledArrays(rows, None)
    if y_val is None:
        raise ValueError(f"X_val needs y_val, as loss={loss.loss!r} uses labels.")
    try:
        check_consistent_length(rows, y_val)
        return LabelledArrays(rows, encode(y_val))
    except ValueError as error:
        raise ValueError(f"y_val cannot be used: {error}") from error


def check_rows(
    estimator: BaseEstimator,
    X: Any,
    *,
    fitted_shape: tuple[int, ...] | None = None,
    name: str = "X",
) -> NDArray[Any]:
    """Validate X as a table or as a stack of images.

    Parameters
    ----------
    estimator : estimator
        Gets `n_features_in_` and `feature_names_in_` in fit, is checked against them
        later; its `channels` says where 4-D images hold theirs.
    X : array-like
        Table of shape (n_samples, n_features), or images of shape (n_samples, H, W),
        (n_samples, H, W, C) or (n_samples, C, H, W).
    fitted_shape : tuple of int or None
        Shape of a row that the embedder was fitted with; None in fit.
    name : str
        Name of X, for messages.

    Returns
    -------
    ndarray of shape (n_samples, n_features) or (n_samples, C, H, W)
        Tables as float32 or float64, images in their own type.
    """
    ndim = _n_dimensions(X)
    if ndim > 4:
        raise ValueError(
            f"{name} has {ndim} dimensions: expected a table (n_samples, n_features) "
            f"or images (n_samples, H, W), (n_samples, H, W, C), (n_samples, C, H, W)."
        )
    if ndim > 2:
        rows = _check_images(estimator, X, is_fit=fitted_shape is None, name=name)
    elif fitted_shape is None or len(fitted_shape) == 1:
        rows = _check_table(estimator, X, is_fit=fitted_shape is None, name=name)
    else:
        rows = np.asarray(X)
    if fitted_shape is not None and rows.shape[1:] != fitted_shape:
        raise ValueError(
            f"{name} holds rows of shape {rows.shape[1:]}, but the embedder was fitted "
            f"with rows of shape {fitted_shape}: resize them, or check the order of axes."
        )
    return rows


def _check_table(
    estimator: BaseEstimator, X: Any, *, is_fit: bool, name: str
) -> NDArray[Any]:
    if getattr(getattr(X, "dtype", None), "kind", None) in ("m", "M"):
        raise ValueError(f"{name} holds dates or durations: turn them into numbers first.")
    try:
        return _checked_table(estimator, X, is_fit)
    except ValueError as error:
        if name == "X":
            raise
        raise ValueError(f"{name} cannot be used: {error}") from error


def _checked_table(estimator: BaseEstimator, X: Any, is_fit: bool) -> NDArray[Any]:
    with naming_the_cell(X):
        return validate_data(
            estimator,
            X,
            dtype=[np.float64, np.float32],
            reset=is_fit,
            ensure_min_samples=2 if is_fit else 1,
        )


def _check_images(
    estimator: BaseEstimator, X: Any, *, is_fit: bool, name: str
) -> NDArray[Any]:
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


def _n_dimensions(X: Any) -> int:
    if hasattr(X, "ndim"):
        return int(X.ndim)
    if hasattr(X, "__array__"):
        return int(np.asarray(X).ndim)
    depth = 0
    while isinstance(X, list | tuple) and len(X):
        X, depth = X[0], depth + 1
    return depth + getattr(X, "ndim", 0)
