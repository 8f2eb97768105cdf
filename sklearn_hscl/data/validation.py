"""From what users pass as X and y to arrays that an encoder understands."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_consistent_length
from torch import Tensor
from torch.utils.data import Dataset

from sklearn_hscl.data.categorical import TableColumns
from sklearn_hscl.data.dataframe import is_frame
from sklearn_hscl.data.image_files import (
    ImageFiles,
    holds_paths,
    read_mode_hint,
    refuse_single_path,
)
from sklearn_hscl.data.image_validation import check_images
from sklearn_hscl.data.out_of_core import MappedRows, StoredRows, is_memory_mapped
from sklearn_hscl.data.table_validation import check_is_loaded, check_table
from sklearn_hscl.data.targets import TargetEncoder, encode_groups, fit_targets
from sklearn_hscl.data.torch_dataset import DatasetRows, ItemList, array_of, holds_items
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.training.batches.tensors import LabelledArrays, TrainingData

# Attributes of an estimator that say what it was fitted with.
INPUT_ATTRIBUTES = ("n_features_in_", "feature_names_in_", "_pixel_scale")


def check_training_data(
    estimator: BaseEstimator,
    X: Any,
    y: Any,
    X_val: Any,
    y_val: Any,
    *,
    loss: ContrastiveLoss,
    groups: Any = None,
    encode: TargetEncoder | None = None,
    columns: TableColumns | None = None,
    shape: tuple[int, ...] | None = None,
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
    groups : array-like of shape (n_samples,) or None
        Which rows of X belong together.
    encode : TargetEncoder or None
        How to read y, where an earlier fit has settled it.
    columns : TableColumns or None
        What was learnt of the columns of `X`.
    shape : tuple of int or None
        Shape of a row, where an earlier fit has settled it.

    Returns
    -------
    TrainingData
    """
    if X_val is None and y_val is not None:
        raise ValueError("y_val was passed without X_val: pass both, or neither.")
    rows = check_rows(estimator, X, columns=columns, fitted_shape=shape)
    codes = None if groups is None else encode_groups(groups, rows.shape[0])
    train = LabelledArrays(rows, None, codes)
    if not loss.uses_labels(y is not None):
        encode = None
    else:
        check_consistent_length(rows, y)
        encode = encode or fit_targets(
            y,
            loss=loss.loss,
            target_type=estimator.target_type,
            unlabeled_label=estimator.unlabeled_label,
        )
        try:
            train = train._replace(targets=encode(y))
        except ValueError as error:
            raise ValueError(f"y cannot be used: {error}") from error
    held_out = None
    if X_val is not None:
        shape = train.rows.shape[1:]
        rows = check_rows(
            estimator, X_val, columns=columns, fitted_shape=shape, name="X_val"
        )
        held_out = _label_held_out(rows, y_val, encode, loss)
    return TrainingData(train, held_out, encode, columns)


def _label_held_out(
    rows: Any, y_val: Any, encode: TargetEncoder | None, loss: ContrastiveLoss
) -> LabelledArrays:
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
    columns: TableColumns | None = None,
    fitted_shape: tuple[int, ...] | None = None,
    name: str = "X",
) -> Any:
    """Validate X as a table or as a stack of images.

    Parameters
    ----------
    estimator : estimator
        Gets `n_features_in_` and `feature_names_in_` in fit, is checked against them
        later; its `channels` says where 4-D images hold theirs.
    X : array-like, tensor, sparse or torch Dataset
        Table of shape (n_samples, n_features), or images of shape (n_samples, H, W),
        (n_samples, H, W, C) or (n_samples, C, H, W).
    columns : TableColumns or None
        What was learnt of the columns of a table.
    fitted_shape : tuple of int or None
        Shape of a row that the embedder was fitted with; None in fit.
    name : str
        Name of X, for messages.

    Returns
    -------
    ndarray of shape (n_samples, n_features) or (n_samples, C, H, W), or CSR array
        Tables in a numeric type, float32 or float64 in fit; images in their own type.
        StoredRows where X is a memory map or a dataset.
    """
    X = open_rows(estimator, X, name)
    ndim = _n_dimensions(X)
    if ndim > 4:
        raise ValueError(
            f"{name} has {ndim} dimensions: expected a table (n_samples, n_features) "
            f"or images (n_samples, H, W), (n_samples, H, W, C), (n_samples, C, H, W)."
        )
    if isinstance(X, StoredRows) and fitted_shape is None and len(X) < 2:
        raise ValueError(
            f"{name} holds 1 row, but a minimum of 2 is required: there is nothing to "
            f"compare it with."
        )
    if ndim > 2:
        rows = check_images(estimator, X, is_fit=fitted_shape is None, name=name)
    elif fitted_shape is None or len(fitted_shape) == 1:
        is_fit = fitted_shape is None
        rows = check_table(estimator, X, columns=columns, is_fit=is_fit, name=name)
        if is_fit:
            vars(estimator).pop("_pixel_scale", None)  # of a fit on images before
    else:
        rows = X if isinstance(X, StoredRows) else np.asarray(X)
    if fitted_shape is not None and rows.shape[1:] != fitted_shape:
        raise ValueError(
            f"{name} holds rows of shape {rows.shape[1:]}, but the embedder was fitted "
            f"with rows of shape {fitted_shape}: resize them, or check the order of axes."
            f"{read_mode_hint(getattr(X, 'dataset', None))}"
        )
    return MappedRows(rows) if is_memory_mapped(rows) else rows


def open_rows(estimator: BaseEstimator, X: Any, name: str = "X") -> Any:
    """Make arrays of tensors, rows of datasets and of files; leave all else as it is."""
    check_is_loaded(X, name)
    if isinstance(X, Tensor):
        return array_of(X)
    refuse_single_path(X, name)
    if isinstance(X, Iterator) and not isinstance(X, Dataset):
        raise ValueError(
            f"{name} is a {type(X).__name__}, which can be read only once: pass a list."
        )
    if holds_paths(X):
        X = ImageFiles(X)
    elif holds_items(X):
        X = ItemList(X)
    if isinstance(X, Dataset):
        allow_nan = estimator.__sklearn_tags__().input_tags.allow_nan
        return DatasetRows(X, allow_nan=allow_nan, name=name)
    return X


def open_labelled(
    estimator: BaseEstimator, X: Any, y: Any, *, needs_labels: bool, name: str = "X"
) -> tuple[Any, Any]:
    """Open training rows as :func:`open_rows` does, and take labels from their items.

    Parameters
    ----------
    estimator : estimator
        Its `encoder` and `categorical_features` say whether a table is learnt from as a
        whole: a dataset is then read into an array.
    X, y : array-like, tensor, sparse or torch Dataset; array-like or None
        Rows and labels.
    needs_labels : bool
        Whether to read the labels of a dataset where `y` is None.
    name : str
        Name of X, for messages.
    """
    X = open_rows(estimator, X, name)
    if not isinstance(X, DatasetRows):
        return X, y
    y = X.labels() if y is None and needs_labels else y
    chosen = estimator.categorical_features
    learns = isinstance(estimator.encoder, str) or not (
        chosen is None or isinstance(chosen, str)
    )
    return (X[:] if X.ndim == 2 and learns else X), y


def learn_columns(X: Any, categorical_features: Any) -> TableColumns | None:
    """Learn the columns of training rows that are a table; see :class:`TableColumns`."""
    ndim = _n_dimensions(X)
    by_dtype = categorical_features is None or isinstance(categorical_features, str)
    if not by_dtype and len(categorical_features) and (ndim > 2 or issparse(X)):
        raise ValueError(
            f"categorical_features={categorical_features!r} needs a table that is not "
            f"sparse, got {'images' if ndim > 2 else 'a sparse X'}: leave it out."
        )
    return TableColumns.learn(X, categorical_features) if ndim == 2 else None


def embedding_dtype(rows: Any) -> DTypeLike:
    """Return the type of the embeddings of validated rows: of floats, their own.

    Other tables give float64, as everywhere in scikit-learn, and other images float32.
    """
    if rows.dtype in (np.float32, np.float64):
        return rows.dtype
    return np.float64 if rows.ndim == 2 else np.float32


def _n_dimensions(X: Any) -> int:
    if is_frame(X):
        return 2
    if hasattr(X, "ndim"):
        return int(X.ndim)
    if hasattr(X, "__array__"):
        return int(np.asarray(X).ndim)
    depth = 0
    while isinstance(X, list | tuple) and len(X):
        X, depth = X[0], depth + 1
    return depth + np.ndim(X)
