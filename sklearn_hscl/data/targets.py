"""Targets and groups: y as what the loss compares, groups as integer codes."""

import warnings
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.preprocessing import LabelEncoder, StandardScaler
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import assert_all_finite, check_array, column_or_1d

from sklearn_hscl.data.missing import MISSING_CODE, factorize, missing_mask

Targets: TypeAlias = NDArray[Any]  # int64 or float64, by the type of the targets

UNLABELED = -1  # code of rows without label
_TARGET_TYPES = {
    "binary": "class",
    "multiclass": "class",
    "multilabel-indicator": "multilabel",
    "continuous": "continuous",
    "continuous-multioutput": "continuous",
}


@dataclass(frozen=True)
class TargetEncoder:
    """Fitted map from y to targets."""

    target_type: str
    """``"class"``, ``"multilabel"`` or ``"continuous"``."""
    unlabeled_label: Hashable
    labels: LabelEncoder | None
    scale: StandardScaler | None

    @property
    def classes(self) -> NDArray[np.generic] | None:
        """Sorted class labels, if y holds classes."""
        return None if self.labels is None else self.labels.classes_

    @np.errstate(invalid="ignore")  # invalid values raise an error
    def __call__(self, y: ArrayLike) -> Targets:
        """Encode y as codes (n,), indicators (n, K) or standardised values (n, K)."""
        if self.labels is not None:
            return self._class_codes(np.asarray(y), self.labels)
        values = _float_matrix(y)
        if self.scale is None:
            return values
        with np.errstate(over="ignore"):
            scaled = self.scale.transform(values)
        if not np.abs(scaled).max() <= np.finfo(np.float32).max:
            raise ValueError(
                f"it holds {float(values.flat[np.abs(scaled).argmax()])}, too far from the "
                f"values of the fit (mean {self.scale.mean_}): leave that row out."
            )
        return scaled

    def _class_codes(
        self, y: NDArray[np.generic], labels: LabelEncoder
    ) -> NDArray[np.int64]:
        if y.shape[:1] != (y.size,):
            raise ValueError(
                f"it has shape {y.shape}, but the classes were fitted on one label per "
                f"row: pass y of shape (n_samples,)."
            )
        y = label_array(y.ravel())
        labeled = is_labeled(y, self.unlabeled_label)
        unseen = sorted(set(y[labeled].tolist()) - set(labels.classes_.tolist()), key=str)
        if unseen:
            raise ValueError(
                f"it contains the labels {unseen[:5]} that were not seen during fit: leave "
                f"those rows out, or name all `classes` in the first partial_fit."
            )
        codes = np.full(len(y), UNLABELED, dtype=np.int64)
        codes[labeled] = labels.transform(y[labeled])
        return codes


@np.errstate(invalid="ignore")  # invalid values raise an error
def fit_targets(
    y: ArrayLike,
    *,
    loss: str,
    target_type: str = "auto",
    unlabeled_label: Hashable = None,
) -> TargetEncoder:
    """Learn how to encode y.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Class labels, an indicator matrix of several labels per row, or numbers. A
        column vector raises a ``DataConversionWarning``.
    loss : str
        Name of the loss, for messages.
    target_type : {"auto", "class", "multilabel", "continuous"}
        Type of y; ``"auto"`` asks ``type_of_target``.
    unlabeled_label : int, str or None
        Class label that marks rows without label.

    Returns
    -------
    TargetEncoder

    Raises
    ------
    ValueError
        If y is of another type, holds one class only, or holds integers that look
        like numbers.
    """
    y = label_array(y)
    target_type, was_auto = _resolve_type(y, loss, target_type), target_type == "auto"
    if target_type == "class":
        encoder = _fit_classes(y, loss, unlabeled_label)
        if y.dtype.kind in "iuf" and unlabeled_label is None:
            _check_integers(encoder.transform(y), encoder.classes_, was_auto)
        return TargetEncoder("class", unlabeled_label, encoder, None)
    if unlabeled_label is not None:
        raise ValueError(
            f"unlabeled_label={unlabeled_label!r} is for class labels, but y is "
            f"{target_type}."
        )
    scale = _fit_scale(_float_matrix(y)) if target_type == "continuous" else None
    return TargetEncoder(target_type, None, None, scale)


def _resolve_type(y: NDArray[np.generic], loss: str, target_type: str) -> str:
    if target_type != "auto":
        return target_type
    try:
        found = type_of_target(y, input_name="y")
    except TypeError as error:
        raise _not_comparable(error) from error
    if found not in _TARGET_TYPES:
        raise ValueError(
            f"Unknown label type: y is {found} (shape {y.shape}, dtype {y.dtype}), but "
            f"loss={loss!r} compares class labels, label indicators or numbers: pass one "
            f"of these, or use loss='hucl' or 'ucl', which ignore y."
        )
    return _TARGET_TYPES[found]


def _fit_classes(
    y: NDArray[np.generic], loss: str, unlabeled_label: Hashable
) -> LabelEncoder:
    labels = y[is_labeled(y, unlabeled_label)]
    if len(labels) == 0:
        raise ValueError(
            f"y holds unlabeled_label={unlabeled_label!r} only: pass some labels, or use "
            f"loss='hucl' or 'ucl', which ignore y."
        )
    try:
        encoder = LabelEncoder().fit(labels)
    except TypeError as error:
        raise _not_comparable(error) from error
    if len(encoder.classes_) < 2:
        raise ValueError(
            f"y holds one class only ({encoder.classes_.tolist()[0]!r}), but "
            f"loss={loss!r} needs at least 2: without labels use loss='hucl' or 'ucl'."
        )
    return encoder


def _check_integers(
    codes: NDArray[np.int64], classes: NDArray[np.generic], was_auto: bool
) -> None:
    """Reject integers that may be numbers, and warn if -1 may mark rows without label."""
    sizes = np.bincount(codes)
    n_single = int((sizes == 1).sum())
    if was_auto and n_single > sizes.sum() / 2:
        raise ValueError(
            f"y holds {len(sizes)} different integers, {n_single} of them once: pass "
            f"target_type='continuous' if they are numbers, 'class' if they are classes."
        )
    if len(classes) > 2 and -1 in classes:
        warnings.warn(
            "y holds -1 among its classes, which is taken as a class: pass "
            "unlabeled_label=-1 if it marks rows without label.",
            UserWarning,
            stacklevel=2,
        )


@np.errstate(over="ignore")
def _fit_scale(values: NDArray[np.float64]) -> StandardScaler:
    scale = StandardScaler().fit(values)
    if not np.isfinite(scale.var_).all():
        raise ValueError(
            f"y holds {float(np.abs(values).max())}, whose square is infinite: scale y "
            f"first, for example by its logarithm."
        )
    return scale


def _float_matrix(y: ArrayLike) -> NDArray[np.float64]:
    values = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    return values.reshape(len(values), -1)


# Labels


def label_array(y: ArrayLike) -> NDArray[np.generic]:
    """Return y as an array, of one dimension if it is a column, without missing labels."""
    y = np.asarray(y)
    missing = np.atleast_1d(missing_mask(y))
    if missing.any():
        row = int(np.argwhere(missing)[0, 0])
        raise ValueError(
            f"y holds a missing label in row {row}: drop the row, or mark it with a label "
            f"of its own and pass that as unlabeled_label, if y holds classes."
        )
    if y.dtype.kind in "fc":
        assert_all_finite(y, input_name="y")
    return column_or_1d(y, warn=True) if y.ndim < 2 or y.shape[1] == 1 else y


def is_labeled(y: NDArray[np.generic], unlabeled_label: Hashable) -> NDArray[np.bool_]:
    """Return which labels differ from the one that marks rows without label."""
    if unlabeled_label is None:
        return np.ones(len(y), dtype=bool)
    return np.asarray([value != unlabeled_label for value in y.tolist()], dtype=bool)


def class_codes(
    labels: NDArray[np.generic],
) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
    """Return the sorted classes, and the index of each label (n,) among them."""
    try:
        classes, codes = np.unique(labels, return_inverse=True)
    except TypeError as error:
        raise _not_comparable(error) from error
    return classes, codes


def _not_comparable(error: TypeError) -> ValueError:
    return ValueError(
        f"y holds labels of types that cannot be compared ({error}): make all of them "
        f"strings, or all of them numbers."
    )


# Groups


def encode_groups(groups: ArrayLike, n_rows: int) -> NDArray[np.int64]:
    """Encode the groups of the rows as integers.

    Parameters
    ----------
    groups : array-like of shape (n_samples,)
        The group of each row: numbers, strings, dates or other values.
    n_rows : int
        Number of rows of X.

    Returns
    -------
    ndarray of int, shape (n_samples,)
        Codes 0, 1, ... of the groups.

    Raises
    ------
    ValueError
        If groups does not hold one value per row.
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
    missing = codes == MISSING_CODE
    if missing.any():
        raise ValueError(
            f"groups holds a missing value in row {int(missing.argmax())}: drop the row, "
            f"or make it a separate group."
        )
    return codes.astype(np.int64)
