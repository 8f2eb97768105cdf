"""Targets and groups: y as what the loss compares, groups as integer codes.

Each is read in three steps: :func:`~sklearn_hscl.data.missing.column_array` makes an
array of any container, :func:`labeled_mask` finds what is missing, and the rest becomes
numbers, bools or strings.
"""

import re
import warnings
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from numbers import Integral, Number, Real
from typing import Any, NoReturn, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.preprocessing import LabelEncoder, StandardScaler
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import assert_all_finite, column_or_1d
from torch import Tensor

from sklearn_hscl.data.missing import (
    MISSING_CODE,
    column_array,
    factorize,
    is_missing,
    missing_mask,
)

Targets: TypeAlias = NDArray[Any]  # int64 or float64, by the type of the targets
Values: TypeAlias = NDArray[np.generic]
LabeledRows: TypeAlias = tuple[NDArray[np.int64], Values]

UNLABELED = -1  # code of rows without label
_TARGET_TYPES = {
    "binary": "class",
    "multiclass": "class",
    "multilabel-indicator": "multilabel",
    "continuous": "continuous",
    "continuous-multioutput": "continuous",
}
# Up to this many different numbers may be classes, if each occurs several times.
_MAX_CLASS_LIKE = 10
# Text of missing values, as conversion to strings leaves it.
_MISSING_TEXT = ("nan", "<NA>", "NaT")
# Numbers with fractions, separators of thousands, units or exponents, and plain integers.
_NUMBER_TEXT = re.compile(
    r"\s*[-+]?\s?[$€£]?\s?([1-9]\d{0,2}([., ']\d{3})+|\d+)?([.,]\d*)?([eE][-+]?\d+)?"
    r"\s?[%$€£]?\s*"
)
_INTEGER_TEXT = re.compile(r"\s*[-+]?\d+([.,]0*)?\s*")


@dataclass(frozen=True)
class TargetEncoder:
    """Fitted map from y to targets."""

    target_type: str
    """``"class"``, ``"multilabel"`` or ``"continuous"``."""
    unlabeled_label: Hashable
    labels: LabelEncoder | None
    scale: StandardScaler | None

    @property
    def classes(self) -> Values | None:
        """Sorted class labels, if y holds classes."""
        return None if self.labels is None else self.labels.classes_

    @np.errstate(invalid="ignore")  # invalid values raise an error
    def __call__(self, y: ArrayLike) -> Targets:
        """Encode y as codes (n,), indicators (n, K) or standardised values (n, K)."""
        if self.labels is not None:
            return self._class_codes(column_array(y), self.labels)
        values = _float_matrix(_plain(_without_missing(column_array(y))))
        if self.scale is None:
            return _check_indicators(values)
        with np.errstate(over="ignore"):
            scaled = self.scale.transform(values)
        if not np.abs(scaled).max() <= np.finfo(np.float32).max:
            raise ValueError(
                f"it holds {float(values.flat[np.abs(scaled).argmax()])}, too far from the "
                f"values of the fit (mean {self.scale.mean_}): leave that row out."
            )
        return scaled

    def _class_codes(self, y: Values, labels: LabelEncoder) -> NDArray[np.int64]:
        if y.shape[:1] != (y.size,):
            raise ValueError(
                f"it has shape {y.shape}, but the classes were fitted on one label per "
                f"row: pass y of shape (n_samples,)."
            )
        y = y.ravel()
        labeled = labeled_mask(y, self.unlabeled_label)
        codes = np.full(len(y), UNLABELED, dtype=np.int64)
        given = _plain(y[labeled])
        unseen = sorted(set(given.tolist()) - set(labels.classes_.tolist()), key=str)
        if unseen:
            raise ValueError(
                f"it contains the labels {unseen[:5]} that were not seen during fit: leave "
                f"those rows out, or name all `classes` in the first partial_fit."
            )
        codes[labeled] = labels.transform(given)
        return codes

    def check_classes(self, classes: ArrayLike) -> None:
        """Raise an error unless `classes` are those of the fit.

        Parameters
        ----------
        classes : array-like of shape (n_classes,)
            As passed to a later `partial_fit`.
        """
        if self.labels is None:
            raise ValueError(
                f"classes={classes!r:.80} was passed, but the first call to partial_fit "
                f"had {self.target_type} targets: leave it out."
            )
        given = column_array(classes).ravel()
        given = _plain(given[labeled_mask(given, self.unlabeled_label)])
        if set(given.tolist()) != set(self.labels.classes_.tolist()):
            raise ValueError(
                f"`classes={given.tolist()!r:.200}` is not the same as on last call to "
                f"partial_fit, was: {self.labels.classes_.tolist()!r:.200}. Leave it out, "
                f"or start anew with all classes."
            )


@np.errstate(invalid="ignore")  # invalid values raise an error
def fit_targets(
    y: ArrayLike,
    *,
    loss: str,
    target_type: str = "auto",
    unlabeled_label: Hashable = None,
    needs_classes: bool = False,
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
    unlabeled_label : int, str, NaN or None
        Class label that marks rows without label. NaN: missing values do.
    needs_classes : bool, default=False
        Whether a parameter of the embedder needs classes.

    Returns
    -------
    TargetEncoder

    Raises
    ------
    ValueError
        If y is of another type, holds one class or one value only, or holds integers
        that look like numbers.

    Warns
    -----
    UserWarning
        If y may be of another type than it looks like.
    """
    rows, plain = labeled_rows(y, unlabeled_label)
    if len(rows) == 0:
        only = "nothing" if unlabeled_label is None else f"{unlabeled_label=} only"
        raise ValueError(
            f"y holds {only}: pass some labels, or use loss='hucl' or 'ucl', which ignore "
            f"y."
        )
    was_auto = target_type == "auto"
    target_type = _resolve_type(plain, loss) if was_auto else target_type
    may_be_numbers = was_auto and unlabeled_label is None and not needs_classes
    if may_be_numbers and target_type == "class" and _are_whole_numbers(plain):
        target_type = "continuous"
    if target_type == "class":
        encoder = _fit_classes(plain, loss, unlabeled_label)
        if unlabeled_label is None:
            _check_classes(encoder.transform(plain), encoder.classes_, was_auto)
        return TargetEncoder("class", unlabeled_label, encoder, None)
    if unlabeled_label is not None:
        raise ValueError(
            f"unlabeled_label={unlabeled_label!r} is for class labels, but y is "
            f"{target_type}: leave out the rows without target."
        )
    numbers = _float_matrix(plain)
    if target_type == "multilabel":
        _check_contrast(_check_indicators(numbers), loss)
        return TargetEncoder(target_type, None, None, None)
    _check_contrast(numbers, loss)
    if was_auto:
        _warn_of_class_like_numbers(numbers)
    return TargetEncoder(target_type, None, None, _fit_scale(numbers))


def _resolve_type(y: Values, loss: str) -> str:
    found = type_of_target(y, input_name="y")
    if found not in _TARGET_TYPES:
        raise ValueError(
            f"Unknown label type: y is {found} (shape {y.shape}, dtype {y.dtype}), but "
            f"loss={loss!r} compares class labels, label indicators or numbers: pass one "
            f"of these, or use loss='hucl' or 'ucl', which ignore y."
        )
    return _TARGET_TYPES[found]


def _fit_classes(labels: Values, loss: str, unlabeled_label: Hashable) -> LabelEncoder:
    if labels.ndim > 1:
        raise ValueError(
            f"target_type='class' takes one label per row, but y has shape {labels.shape}: "
            f"pass one column, or y.argmax(axis=1) of a one-hot encoding."
        )
    encoder = LabelEncoder().fit(labels)
    classes = encoder.classes_.tolist()
    if len(classes) < 2:
        raise ValueError(
            f"y holds one class only ({classes[0]!r}), but loss={loss!r} needs at least 2: "
            f"without labels use loss='hucl' or 'ucl'."
        )
    return encoder


# What y may be taken for -------------------------------------------------------------

# Whole numbers with more values than this, and fewer rows per value than that, are classes
# only if they are codes, with a small fraction of gaps.
_MIN_NUMBERS, _MAX_ROWS_PER_NUMBER, _MAX_GAPS = 20, 20, 0.1


def _are_whole_numbers(y: Values) -> bool:
    """Return whether floats without fractions are numbers, as prices, ages and years are.

    They have many values with gaps between them, and few rows for each.
    """
    if y.dtype.kind != "f" or y.ndim > 1:
        return False
    different = np.unique(y)
    span = different[-1] - different[0] + 1
    has_gaps = span - len(different) > _MAX_GAPS * span
    few_rows = len(y) < _MAX_ROWS_PER_NUMBER * len(different)
    if not (len(different) > _MIN_NUMBERS and has_gaps and few_rows):
        return False
    _warn(
        f"y holds {len(different)} different whole numbers as floats, such as "
        f"{different[0]:g} and {different[-1]:g}, which are taken as continuous targets. "
        f"Pass target_type='continuous' if they are numbers, 'class' if they are classes."
    )
    return True


def _check_classes(codes: NDArray[np.int64], classes: Values, was_auto: bool) -> None:
    """Reject and warn of classes that may be numbers, identifiers or missing labels."""
    sizes = np.bincount(codes)
    n_single = int((sizes == 1).sum())
    if classes.dtype.kind in "iuf":
        _check_integers(sizes, classes, was_auto)
    elif classes.dtype.kind in "UO":
        texts = [str(label) for label in classes]
        _warn_of_missing_text(texts)
        if was_auto and _are_number_texts(texts):
            _warn(
                f"y holds numbers as strings, such as {texts[0]!r}, which are taken as "
                f"{len(texts)} classes. Convert them to floats, for example by "
                f"float(text.replace(',', '.')); or pass target_type='class'."
            )
        elif was_auto and n_single > sizes.sum() / 2:
            _check_identifiers(texts, n_single, int(sizes.sum()))


def _check_identifiers(texts: list[str], n_single: int, n_rows: int) -> None:
    """Reject strings that are all different, and warn if most of them are."""
    found = f"y holds {len(texts)} different strings, such as {texts[0]!r}, {n_single} of "
    remedy = (
        "Pass labels that rows share; or target_type='class' if they are classes; or use "
        "loss='hucl' or 'ucl', which ignore y."
    )
    if n_single == n_rows:
        raise ValueError(
            f"{found}them once, as identifiers do: no two rows have a class in common. "
            f"{remedy}"
        )
    _warn(f"{found}them once, as identifiers do. {remedy}")


def _check_integers(sizes: NDArray[np.int64], classes: Values, was_auto: bool) -> None:
    """Reject integers that may be numbers, and warn if -1 may mark rows without label."""
    n_single = int((sizes == 1).sum())
    if was_auto and n_single > sizes.sum() / 2:
        raise ValueError(
            f"y holds {len(sizes)} different integers, {n_single} of them once: pass "
            f"target_type='continuous' if they are numbers, 'class' if they are classes."
        )
    if len(classes) > 2 and -1 in classes:
        _warn(
            "y holds -1 among its classes, which is taken as a class: pass "
            "unlabeled_label=-1 if it marks rows without label."
        )


def _warn_of_missing_text(texts: list[str]) -> None:
    missing = [text for text in texts if text in _MISSING_TEXT]
    if missing:
        _warn(
            f"y holds the string {missing[0]!r} among its classes, which is taken as a "
            f"class: pass unlabeled_label={missing[0]!r} if it marks rows without label."
        )


def _are_number_texts(texts: list[str]) -> bool:
    """Return whether strings are numbers and not only codes: "2,43", but not "7"."""
    return all(
        _NUMBER_TEXT.fullmatch(text) and any(map(str.isdigit, text)) for text in texts
    ) and not all(map(_INTEGER_TEXT.fullmatch, texts))


def _warn_of_class_like_numbers(values: NDArray[np.float64]) -> None:
    """Warn of numbers that may be classes, or the probabilities of classes."""
    different = np.unique(values)
    if len(different) <= min(_MAX_CLASS_LIKE, values.size / 3):
        one_column = values.shape[1] == 1
        _warn(
            f"y holds {len(different)} different numbers only, {different.tolist()}, which "
            f"are taken as continuous targets. Pass "
            f"{'target_type=' + repr('class') if one_column else '(y > 0).astype(int)'} if "
            f"they are classes, target_type='continuous' if they are numbers."
        )
    elif values.shape[1] > 1 and values.min() >= 0 and np.allclose(values.sum(1), 1):
        _warn(
            "The rows of y sum to 1, as probabilities of classes do, but are taken as "
            "continuous targets. Pass y.argmax(axis=1) if they are classes, "
            "target_type='continuous' if they are numbers."
        )


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=4)


# Numbers -----------------------------------------------------------------------------


def _check_indicators(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return indicators; reject matrices of values other than 0 and 1."""
    if not np.isin(values, (0, 1)).all():
        found = np.unique(values)[:5].tolist()
        raise ValueError(
            f"y has one column per label, which must hold 0 or 1, but holds {found}: pass "
            f"an indicator, for example (y > 0).astype(int)."
        )
    return values


def _check_contrast(values: NDArray[np.float64], loss: str) -> None:
    """Reject targets that are equal in all rows."""
    if (values == values[:1]).all():
        value = values[0].tolist() if values.shape[1] > 1 else float(values[0, 0])
        raise ValueError(
            f"y holds the same target in every row ({value}), but loss={loss!r} compares "
            f"rows of different targets: pass a y that varies, or use loss='hucl' or "
            f"'ucl', which ignore y."
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


def _float_matrix(values: Values) -> NDArray[np.float64]:
    try:
        numbers = values.astype(np.float64)
    except ValueError as error:
        raise ValueError(
            f"y holds strings that are not numbers ({error}): convert them, for example by "
            f"float(text.replace(',', '.'))."
        ) from error
    assert_all_finite(numbers, input_name="y")
    return numbers.reshape(len(numbers), -1)


# Labels ------------------------------------------------------------------------------


def label_array(y: ArrayLike) -> Values:
    """Return y as an array, of one dimension if it is a column, without missing labels."""
    return _plain(_as_column(_without_missing(column_array(y))))


def labeled_rows(y: ArrayLike, unlabeled_label: Hashable) -> LabeledRows:
    """Return the indices of the rows with a label, and their labels.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Labels or numbers. A column vector raises a ``DataConversionWarning``.
    unlabeled_label : int, str, NaN or None
        Label of rows without label; see :func:`labeled_mask`.
    """
    values = _as_column(column_array(y))
    labeled = labeled_mask(values, unlabeled_label)
    labels = _plain(values[labeled])
    if unlabeled_label is not None and labels.ndim == 1:
        _refuse_mark_of_other_type(labels, unlabeled_label)
    return np.flatnonzero(labeled), labels


def _refuse_mark_of_other_type(labels: Values, unlabeled_label: Hashable) -> None:
    """Reject labels that differ from the mark of unlabelled rows by their type only."""
    texts = (str(unlabeled_label), f"{unlabeled_label}.0")
    for label in set(labels.tolist()):
        if str(label) in texts:
            raise ValueError(
                f"y holds {label!r} of type {type(label).__name__}, but unlabeled_label="
                f"{unlabeled_label!r} is of type {type(unlabeled_label).__name__}. Pass "
                f"unlabeled_label={label!r} if it marks rows without label."
            )


def labeled_mask(y: Values, unlabeled_label: Hashable) -> NDArray[np.bool_]:
    """Return which rows have a label.

    Parameters
    ----------
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        As :func:`~sklearn_hscl.data.missing.column_array` returns it.
    unlabeled_label : int, str, NaN or None
        Label of rows without label; any missing value means all of them.

    Returns
    -------
    ndarray of bool, shape (n_samples,)

    Raises
    ------
    ValueError
        If labels are missing, and `unlabeled_label` does not say what they mean.
    """
    if unlabeled_label is not None and is_missing(unlabeled_label):
        return np.asarray(~missing_mask(y).reshape(len(y), -1).any(axis=1))
    _without_missing(y)
    if unlabeled_label is None or y.ndim > 1:
        return np.ones(len(y), dtype=bool)
    return np.asarray([value != unlabeled_label for value in y.tolist()], dtype=bool)


def class_codes(labels: Values) -> tuple[Values, NDArray[np.int64]]:
    """Return the sorted classes, and the index of each label (n,) among them."""
    classes, codes = np.unique(labels, return_inverse=True)
    return classes, codes


def _without_missing(values: Values) -> Values:
    """Return the values; reject missing ones."""
    missing = missing_mask(values)
    if missing.any():
        row = int(np.argwhere(missing)[0, 0])
        raise ValueError(
            f"y holds a missing label in row {row}: drop the row, or pass "
            f"unlabeled_label=np.nan if y holds classes and missing values mark rows "
            f"without label."
        )
    return values


def _as_column(values: Values) -> Values:
    if values.ndim > 2:
        raise ValueError(
            f"Unknown label type: y has shape {values.shape}, expected (n_samples,) or "
            f"(n_samples, n_outputs). Pass y.reshape(len(y), -1)."
        )
    if values.dtype.kind == "c":
        _refuse_type(values.flat[0])
    one_column = values.ndim < 2 or values.shape[1] == 1
    return column_or_1d(values, warn=True) if one_column else values


# Values of any type as numbers, bools or strings --------------------------------------


def _plain(values: Values) -> Values:
    """Return values as numbers, bools or strings; reject those of other types."""
    kind = values.dtype.kind
    if kind == "O":
        values = _plain_objects(values)
    elif kind in "mMSV" and values.size:
        _refuse_type(values.flat[0])
    if values.dtype.kind == "f":
        assert_all_finite(values, input_name="y")
    return values


def _plain_objects(values: Values) -> Values:
    if set(map(type, values.flat)) <= {str}:
        return values
    flat = [_scalar(value) for value in values.flat]
    types = set(map(type, flat))
    plain: Values
    if all(issubclass(found, str) for found in types):
        texts = (str.__str__(value) for value in flat)  # also of a str that is an Enum
        plain = np.fromiter(texts, dtype=object, count=len(flat))
    elif all(issubclass(found, bool | np.bool_) for found in types):
        plain = np.asarray(flat, dtype=bool)
    elif all(issubclass(found, Integral | bool | np.bool_) for found in types):
        plain = _integers(flat)
    elif all(issubclass(found, Real | Decimal | bool | np.bool_) for found in types):
        plain = np.asarray([float(value) for value in flat])
    elif len(types) > 1 and all(issubclass(t, str | Number | np.bool_) for t in types):
        names = " and ".join(sorted(found.__name__ for found in types))
        raise ValueError(
            f"y holds labels of types that cannot be compared ({names}): make all of them "
            f"strings, or all of them numbers."
        )
    else:
        _refuse_type(next(v for v in flat if not isinstance(v, str | Real | Decimal)))
    return plain.reshape(values.shape)


def _scalar(value: Any) -> Any:
    """Return the value in an array or a tensor without dimensions."""
    is_number = isinstance(value, np.number) and value.dtype.kind != "m"
    is_array = isinstance(value, np.ndarray | Tensor) and value.ndim == 0
    return value.item() if is_number or is_array else value


def _integers(values: Iterable[Any]) -> Values:
    whole = [int(value) for value in values]
    dtype = np.int64 if max(whole) <= np.iinfo(np.int64).max else np.uint64
    try:
        return np.asarray(whole, dtype=dtype)
    except OverflowError as error:
        raise ValueError(
            f"y holds {max(whole, key=abs)}, beyond integers of 64 bits: pass strings if "
            f"they are classes, floats if they are numbers."
        ) from error


def _refuse_type(value: Any) -> NoReturn:
    """Raise an error that says what to make of values of this type."""
    name = type(value).__name__
    if isinstance(value, np.void) and value.dtype.names is not None:
        raise ValueError(
            f"y is a structured array with the fields {list(value.dtype.names)}: pass one "
            f"of them, for example y[{value.dtype.names[0]!r}]."
        )
    if isinstance(value, complex | np.complexfloating):
        raise ValueError(
            f"Complex data not supported: y holds {name}. Pass real numbers, for example "
            f"y.real."
        )
    if isinstance(value, bytes):
        raise ValueError(
            "y holds bytes: decode them, for example by [label.decode() for label in y]."
        )
    if isinstance(value, date | time | timedelta | np.datetime64 | np.timedelta64):
        raise ValueError(
            f"y holds dates or durations ({name}): convert them to numbers, for example to "
            f"days by (y - y.min()) / np.timedelta64(1, 'D'), or to strings if they are "
            f"classes."
        )
    if isinstance(value, list | tuple | set | frozenset | dict) or np.ndim(value):
        raise ValueError(
            f"y holds a {name} per row: pass MultiLabelBinarizer().fit_transform(y) of "
            f"scikit-learn if it lists labels, np.stack(y) if it is a vector, or strings "
            f"if it is one class."
        )
    raise ValueError(
        f"y holds objects of type {name}: convert them to strings, for example by "
        f"[str(label) for label in y], or to numbers."
    )


# Groups ------------------------------------------------------------------------------


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
        column = column_array(groups, "groups")
        codes = factorize(column)[0] if column.ndim == 1 else None
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"groups cannot be used: {str(error).rstrip('.')}. Pass a number or a string "
            f"for each row."
        ) from error
    if codes is None:
        raise ValueError(
            f"groups must have the shape (n_samples,), got {column.shape}: pass a single "
            f"column, for example by numpy.ravel."
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
