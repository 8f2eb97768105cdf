"""Targets: from y to what the loss compares, and from groups to codes."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import LabelEncoder, StandardScaler
from sklearn.utils._missing import is_pandas_na, is_scalar_nan
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import assert_all_finite, check_array, column_or_1d

from sklearn_hscl.data.dataframe import MISSING, factorize

UNLABELLED = -1  # code of rows without label
KINDS = {
    "binary": "class",
    "multiclass": "class",
    "multilabel-indicator": "multilabel",
    "continuous": "continuous",
    "continuous-multioutput": "continuous",
}


@dataclass(frozen=True)
class TargetEncoder:
    """Fitted map from y to targets."""

    kind: str
    """``"class"``, ``"multilabel"`` or ``"continuous"``."""
    unlabelled: Any
    labels: LabelEncoder | None
    scale: StandardScaler | None

    @property
    def classes(self) -> NDArray[Any] | None:
        """Sorted class labels, where y holds classes."""
        return None if self.labels is None else self.labels.classes_

    @np.errstate(invalid="ignore")  # what is found invalid raises an error
    def __call__(self, y: Any) -> NDArray[Any]:
        """Turn y into codes (n,), indicators (n, K) or standardised numbers (n, K)."""
        if self.labels is not None:
            y = np.asarray(y)
            if y.shape[:1] != (y.size,):
                raise ValueError(
                    f"it has shape {y.shape}, but the classes were settled by one label "
                    f"per row."
                )
            y = label_array(y.ravel())
            codes = np.full(len(y), UNLABELLED, dtype=np.int64)
            known = is_labelled(y, self.unlabelled)
            _check_seen(y[known], self.labels.classes_)
            codes[known] = self.labels.transform(y[known])
            return codes
        values = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        values = values.reshape(len(values), -1)
        if self.scale is None:
            return values
        with np.errstate(over="ignore"):
            scaled = self.scale.transform(values)
        if not np.abs(scaled).max() <= np.finfo(np.float32).max:
            raise ValueError(
                f"it holds {float(values.flat[np.abs(scaled).argmax()])}, too far from the "
                f"numbers of the fit (mean {self.scale.mean_})."
            )
        return scaled


def _check_seen(y: NDArray[Any], classes: NDArray[Any]) -> None:
    unseen = sorted(set(y.tolist()) - set(classes.tolist()), key=str)
    if unseen:
        raise ValueError(
            f"it holds the labels {unseen[:5]}, which were not there when the classes "
            f"were settled: leave those rows out, or name all `classes` in the first "
            f"partial_fit."
        )


@np.errstate(invalid="ignore")  # what is found invalid raises an error
def fit_targets(
    y: Any, *, loss: str, target_type: str = "auto", unlabeled_label: Any = None
) -> TargetEncoder:
    """Learn how to encode y.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Class labels, an indicator matrix of several labels per row, or numbers. A
        column vector draws a ``DataConversionWarning``.
    loss : str
        Name of the loss, for messages.
    target_type : {"auto", "class", "multilabel", "continuous"}
        What y holds; ``"auto"`` asks ``type_of_target``.
    unlabeled_label : int, str or None
        Class label that marks rows without label.

    Returns
    -------
    TargetEncoder

    Raises
    ------
    ValueError
        If y is of no such type, holds one class only, or is an integer target that
        looks like numbers.
    """
    y = label_array(y)
    kind = _kind(y, loss, target_type)
    if kind == "class":
        return _fit_classes(y, loss, target_type, unlabeled_label)
    if unlabeled_label is not None:
        raise ValueError(
            f"unlabeled_label={unlabeled_label!r} is for class labels, but y is {kind}."
        )
    scale = None
    if kind == "continuous":
        values = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        scale = _fit_scale(values.reshape(len(values), -1))
    return TargetEncoder(kind, None, None, scale)


@np.errstate(over="ignore")
def _fit_scale(values: NDArray[np.float64]) -> StandardScaler:
    scale = StandardScaler().fit(values)
    if not np.isfinite(scale.var_).all():
        raise ValueError(
            f"y holds {float(np.abs(values).max())}, whose square is infinite: scale y "
            f"first, for example by its logarithm."
        )
    return scale


def label_array(y: Any) -> NDArray[Any]:
    """Make an array of y, of one dimension where it is a column; no label is missing."""
    y = np.asarray(y)
    missing = _missing(y)
    if missing.any():
        row = int(np.argwhere(missing)[0, 0])
        raise ValueError(
            f"y holds a missing label in row {row}: drop the row, or mark it with a label "
            f"of its own and pass that as unlabeled_label, where y holds classes."
        )
    if y.dtype.kind in "fc":
        assert_all_finite(y, input_name="y")
    return column_or_1d(y, warn=True) if y.ndim < 2 or y.shape[1] == 1 else y


def class_codes(labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the sorted classes, and the place of each label (n,) among them."""
    try:
        classes, codes = np.unique(labels, return_inverse=True)
    except TypeError as error:
        raise ValueError(
            f"y holds labels of types that cannot be compared ({error}): make all of them "
            f"strings, or all of them numbers."
        ) from error
    return classes, codes


def _kind(y: NDArray[Any], loss: str, target_type: str) -> str:
    if target_type != "auto":
        return target_type
    try:
        found = type_of_target(y, input_name="y")
    except TypeError as error:
        raise ValueError(
            f"y holds labels of types that cannot be compared ({error}): make all of them "
            f"strings, or all of them numbers."
        ) from error
    if found not in KINDS:
        raise ValueError(
            f"Unknown label type: y is {found} (shape {y.shape}, dtype {y.dtype}), but "
            f"loss={loss!r} compares class labels, label indicators or numbers: pass one "
            f"of these, or use loss='hucl' or 'ucl', which ignore y."
        )
    return KINDS[found]


def _fit_classes(
    y: NDArray[Any], loss: str, target_type: str, unlabeled_label: Any
) -> TargetEncoder:
    labelled = y[is_labelled(y, unlabeled_label)]
    if len(labelled) == 0:
        raise ValueError(
            f"y holds unlabeled_label={unlabeled_label!r} only: pass some labels, or use "
            f"loss='hucl' or 'ucl', which ignore y."
        )
    try:
        encoder = LabelEncoder().fit(labelled)
    except TypeError as error:
        raise ValueError(
            f"y holds labels that cannot be sorted ({error}): make all of them strings, or "
            f"all of them numbers."
        ) from error
    sizes = np.bincount(encoder.transform(labelled))
    if len(sizes) < 2:
        raise ValueError(
            f"y holds one class only ({encoder.classes_.tolist()[0]!r}), but "
            f"loss={loss!r} needs at least 2: without labels use loss='hucl' or 'ucl'."
        )
    if y.dtype.kind in "iuf":
        _check_integers(encoder.classes_, sizes, target_type, unlabeled_label)
    return TargetEncoder("class", unlabeled_label, encoder, None)


def _check_integers(
    classes: NDArray[Any], sizes: NDArray[Any], target_type: str, unlabeled_label: Any
) -> None:
    n_single = int((sizes == 1).sum())
    may_be_numbers = target_type == "auto" and unlabeled_label is None
    if may_be_numbers and n_single > sizes.sum() / 2:
        raise ValueError(
            f"y holds {len(sizes)} different integers, {n_single} of them once: pass "
            f"target_type='continuous' if they are numbers, 'class' if they are classes."
        )
    if unlabeled_label is None and len(classes) > 2 and -1 in classes:
        warnings.warn(
            "y holds -1 among its classes, which is taken as a class: pass "
            "unlabeled_label=-1 if it marks rows without label.",
            UserWarning,
            stacklevel=2,
        )


def _missing(y: NDArray[Any]) -> NDArray[np.bool_]:
    """Which entries of an array are missing, at least one-dimensional."""
    if y.dtype.kind in "fc":
        return np.atleast_1d(np.isnan(y))
    if y.dtype.kind != "O":
        return np.zeros(1, dtype=bool)
    found = [_is_missing(label) for label in y.flat]
    return np.reshape(found, y.shape or 1)


def _is_missing(label: Any) -> bool:
    return label is None or is_scalar_nan(label) or is_pandas_na(label)


def is_labelled(y: NDArray[Any], unlabelled: Any) -> NDArray[np.bool_]:
    """Whether each label of an array is another than the one that marks rows without."""
    if unlabelled is None:
        return np.ones(len(y), dtype=bool)
    return np.asarray([value != unlabelled for value in y.tolist()], dtype=bool)


def encode_groups(groups: Any, n_rows: int) -> NDArray[np.int64]:
    """Give the groups that rows belong to numbers.

    Parameters
    ----------
    groups : array-like of shape (n_samples,)
        The group of each row: numbers, strings, dates or other values.
    n_rows : int
        Rows of X.

    Returns
    -------
    ndarray of int, shape (n_samples,)
        Codes 0, 1, ... of the groups.

    Raises
    ------
    ValueError
        If groups holds no single value for each row.
    """
    try:
        column = groups if hasattr(groups, "factorize") else np.asarray(groups)
        shape = np.shape(column)
        codes = factorize(column)[0] if len(shape) == 1 else None
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"groups cannot be used: {error}. Pass a number or a string for each row."
        ) from error
    if codes is None:
        raise ValueError(
            f"groups must have the shape (n_samples,), got {shape}: pass a single column, "
            f"for example by numpy.ravel."
        )
    if len(codes) != n_rows:
        raise ValueError(
            f"groups holds {len(codes)} values for the {n_rows} rows of X: pass one for "
            f"each row."
        )
    missing = codes == MISSING
    if missing.any():
        raise ValueError(
            f"groups holds a missing value in row {int(missing.argmax())}: drop the row, "
            f"or make it a group of its own."
        )
    return codes.astype(np.int64)
