"""From what users pass as X and y to arrays that an encoder understands."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.preprocessing import LabelEncoder
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_consistent_length, column_or_1d, validate_data

from sklearn_hscl.training.data import LabelledArrays, TrainingData

CHANNEL_COUNTS = (1, 3, 4)  # grey, RGB, RGBA


def check_training_data(
    estimator: BaseEstimator,
    X: Any,
    y: Any,
    X_val: Any,
    y_val: Any,
    *,
    loss: str,
    by_label: bool,
) -> TrainingData:
    """Validate all that `fit` gets.

    Parameters
    ----------
    estimator : estimator
        Gets `n_features_in_` and `feature_names_in_`.
    X, X_val : array-like
        Training rows and held-out rows (or None).
    y, y_val : array-like of shape (n_samples,)
        Their labels; ignored where not `by_label`.
    loss : str
        Name of the loss, for messages.
    by_label : bool
        Whether the loss uses labels.

    Returns
    -------
    TrainingData
    """
    train = LabelledArrays(check_rows(estimator, X, reset=True), None)
    held_out = None
    if X_val is not None:
        held_out = LabelledArrays(check_rows(estimator, X_val, reset=False), None)
        check_row_shape(held_out.rows, train.rows.shape[1:], "X_val")
    if not by_label:
        return TrainingData(train, held_out, None)
    check_consistent_length(X, y)
    labels = fit_labels(y, loss)
    train = LabelledArrays(train.rows, labels.transform(column_or_1d(y)))
    if held_out is not None:
        if y_val is None:
            raise ValueError(f"X_val needs y_val, as loss={loss!r} uses labels.")
        check_consistent_length(X_val, y_val)
        codes = labels.transform(column_or_1d(y_val, warn=True))
        held_out = LabelledArrays(held_out.rows, codes)
    return TrainingData(train, held_out, labels.classes_)


def check_rows(estimator: BaseEstimator, X: Any, *, reset: bool) -> NDArray[Any]:
    """Validate X as a table or as a stack of images.

    Parameters
    ----------
    estimator : estimator
        Gets `n_features_in_` and `feature_names_in_` where `reset`, is checked
        against them otherwise; its `channels` says where 4-D images hold theirs.
    X : array-like
        Table of shape (n_samples, n_features), or images of shape (n_samples, H, W),
        (n_samples, H, W, C) or (n_samples, C, H, W).
    reset : bool
        Whether this is `fit`.

    Returns
    -------
    ndarray of shape (n_samples, n_features) or (n_samples, C, H, W)
        Tables as float32 or float64, images in their own type.
    """
    ndim = _n_dimensions(X)
    options: dict[str, Any] = {"reset": reset, "ensure_min_samples": 2 if reset else 1}
    if ndim in (3, 4):
        images = validate_data(estimator, X, allow_nd=True, dtype=None, **options)
        return _channels_first(_numeric(images), estimator.channels)
    if ndim > 4:
        raise ValueError(
            f"X has {ndim} dimensions: expected a table (n_samples, n_features) or "
            f"images (n_samples, H, W), (n_samples, H, W, C) or (n_samples, C, H, W)."
        )
    with _naming_the_cell(X):
        return validate_data(estimator, X, dtype=[np.float64, np.float32], **options)


def check_row_shape(rows: NDArray[Any], shape: tuple[int, ...], name: str) -> None:
    """Raise where rows have another shape than those the embedder was fitted with."""
    if rows.shape[1:] != shape:
        raise ValueError(
            f"{name} holds rows of shape {rows.shape[1:]}, but the embedder was fitted "
            f"with rows of shape {shape}: resize them, or check the order of axes."
        )


def fit_labels(y: Any, loss: str) -> LabelEncoder:
    """Learn the classes of y.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Labels: strings, bools or integers. A column vector draws a
        ``DataConversionWarning``.
    loss : str
        Name of the loss, for messages.

    Raises
    ------
    ValueError
        If y is continuous, holds several outputs or one class only.

    Returns
    -------
    LabelEncoder
        Fitted; its ``transform`` turns labels into codes 0, 1, ….
    """
    y = column_or_1d(y, warn=True)
    kind = type_of_target(y, input_name="y")
    if kind not in ("binary", "multiclass"):
        raise ValueError(
            f"Unknown label type: y is {kind} (dtype {y.dtype}), but loss={loss!r} needs "
            f"class labels: bin y into classes, or use loss='hucl' or 'ucl', which ignore y."
        )
    encoder = LabelEncoder().fit(y)
    if len(encoder.classes_) < 2:
        raise ValueError(
            f"y holds one class only ({encoder.classes_[0]!r}), but loss={loss!r} needs "
            f"at least 2: without labels use loss='hucl' or 'ucl'."
        )
    return encoder


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


def _numeric(images: NDArray[Any]) -> NDArray[Any]:
    if images.dtype.kind not in "buif":
        raise ValueError(
            f"X holds images of dtype {images.dtype}: convert them to uint8 or float32."
        )
    return images


def _n_dimensions(X: Any) -> int:
    if hasattr(X, "ndim"):
        return int(X.ndim)
    # Lists are tables: a list of images is for np.stack, not for a guess.
    return np.asarray(X).ndim if hasattr(X, "__array__") else 2


@contextmanager
def _naming_the_cell(X: Any) -> Iterator[None]:
    """Add the offending column, row and value to scikit-learn's message."""
    try:
        yield
    except ValueError as error:
        cell = _first_bad_cell(X)
        if cell is None:
            raise
        raise ValueError(f"{error}\n{cell}") from error


def _first_bad_cell(X: Any) -> str | None:
    for index, (name, column) in enumerate(_columns(X)):
        values = np.asarray(column)
        if values.dtype.kind == "c":
            return None
        for row, value in enumerate(values if values.dtype.kind not in "buif" else ()):
            if not _is_number(value):
                return (
                    f"Column {name!r} (index {index}) holds {value!r} in row {row}, not "
                    f"a number: encode text and categories first, for example with "
                    f"sklearn.preprocessing.OneHotEncoder in a ColumnTransformer."
                )
        finite = np.isfinite(values.astype(np.float64))
        if not finite.all():
            row = int(finite.argmin())
            return (
                f"Column {name!r} (index {index}) holds {values[row]!r} in row {row}: "
                f"impute or drop it, for example with sklearn.impute.SimpleImputer."
            )
    return None


def _columns(X: Any) -> Iterator[tuple[Any, Any]]:
    if hasattr(X, "columns"):
        by_position = X.iloc.__getitem__ if hasattr(X, "iloc") else X.__getitem__
        for index, name in enumerate(X.columns):
            yield name, by_position((slice(None), index))
    elif getattr(X, "ndim", None) == 2 and hasattr(X, "__array__"):
        yield from enumerate(np.asarray(X).T)
    elif isinstance(X, list | tuple):
        yield from enumerate(zip(*X, strict=False))


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True
