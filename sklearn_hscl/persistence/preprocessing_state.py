"""Entries and arrays of the columns of a table and of the targets, and back."""

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import LabelEncoder, StandardScaler

from sklearn_hscl.data.categorical import TableColumns, level_types_of
from sklearn_hscl.data.targets import TargetEncoder
from sklearn_hscl.encoders.preprocessing import (
    ColumnLayout,
    Identity,
    Preparation,
    Standardization,
    TablePreprocessor,
    no_bounds,
)
from sklearn_hscl.persistence.schema import (
    Array,
    Arrays,
    BundleError,
    Entries,
    StoredArrays,
    check_schema,
)

Levels = NDArray[np.object_]
Codes = NDArray[np.float32]

# Columns -----------------------------------------------------------------------------


def table_state(
    columns: TableColumns | None, prepare: Preparation
) -> tuple[Entries, Arrays]:
    """Return the columns of a table and their preprocessing.

    Levels that the encoder does not distinguish from unseen ones are left out. They change
    no embedding, and a level of a single training row may identify a person.
    """
    is_prepared = isinstance(prepare, TablePreprocessor)
    entries: Entries = {"categories": None, "kinds": None, "is_prepared": is_prepared}
    arrays: Arrays = {}
    if columns is not None:
        arrays["columns.is_categorical"] = columns.is_categorical
        entries["categories"], entries["kinds"] = columns.categories, columns.level_types
    if isinstance(prepare, TablePreprocessor):
        arrays |= _layout_arrays(prepare.layout) | _numeric_arrays(prepare.standardization)
    if isinstance(prepare, TablePreprocessor) and columns is not None:
        pairs = zip(columns.categories, prepare.lookups, strict=True)
        encoded = [_encoded_levels(*pair) for pair in pairs]
        entries["categories"] = [levels for levels, _ in encoded]
        arrays |= {f"codes.{i}": codes for i, (_, codes) in enumerate(encoded)}
    return entries, arrays


def _layout_arrays(layout: ColumnLayout) -> Arrays:
    return {
        "layout.n_levels": layout.n_levels,
        "layout.is_categorical": layout.is_categorical,
        "layout.has_missing": layout.has_missing,
    }


def _numeric_arrays(numbers: Standardization) -> Arrays:
    return {
        "numbers.magnitude": numbers.magnitude,
        "numbers.mean": numbers.mean,
        "numbers.spread": numbers.std,
        "numbers.lowest": numbers.lowest,
        "numbers.highest": numbers.highest,
    }


def _encoded_levels(levels: Levels, lookup: Codes) -> tuple[Levels, Codes]:
    """Return the levels that an encoder distinguishes, and their codes."""
    codes = np.zeros(len(levels), dtype=np.float32)
    codes[: len(lookup) - 1] = lookup[1:]
    return levels[codes > 0], codes[codes > 0]


def restore_table(
    entries: Entries, arrays: StoredArrays, n_features: int
) -> tuple[TableColumns | None, Preparation]:
    """Return the columns and their preprocessing; the inverse of :func:`table_state`."""
    entries = {"kinds": None, **entries}  # files of earlier versions lack it
    check_schema(
        entries, "table", categories=list | None, kinds=list | None, is_prepared=bool
    )
    columns = None
    if entries["categories"] is not None:
        columns = _restore_columns(
            entries["categories"], entries["kinds"], arrays, n_features
        )
    if not entries["is_prepared"]:
        return columns, Identity()
    return columns, _restore_preprocessor(columns, arrays, n_features)


def _restore_columns(
    categories: list[Levels],
    kinds: list[list[str]] | None,
    arrays: StoredArrays,
    n_features: int,
) -> TableColumns:
    is_categorical = arrays.take("columns.is_categorical", np.bool_, (n_features,))
    for levels in categories:
        if not isinstance(levels, np.ndarray) or levels.dtype != object:
            raise BundleError("expected categories to be arrays of objects")
    kinds = level_types_of(categories) if kinds is None else kinds
    if not is_categorical.sum() == len(categories) == len(kinds):
        raise BundleError("the categories do not match the categorical columns")
    for names in kinds:
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise BundleError(f"the types of categories are invalid: {names!r:.80}")
    return TableColumns(is_categorical, categories, kinds)


def _restore_preprocessor(
    columns: TableColumns | None, arrays: StoredArrays, n_features: int
) -> TablePreprocessor:
    shape = (n_features,)
    layout = ColumnLayout(
        n_levels=arrays.take("layout.n_levels", np.int64, shape),
        is_categorical=arrays.take("layout.is_categorical", np.bool_, shape),
        has_missing=arrays.take("layout.has_missing", np.bool_, shape),
    )
    numbers = _restore_standardization(arrays, len(layout.numeric))
    categories = [] if columns is None else columns.categories
    if len(categories) != len(layout.categorical):
        raise BundleError("the categories do not match the categorical columns")
    lookups = []
    for index, (column, levels) in enumerate(
        zip(layout.categorical, categories, strict=True)
    ):
        codes = arrays.take(f"codes.{index}", np.float32, (len(levels),))
        is_complete = layout.n_levels[column] == len(levels)
        if not is_complete or (np.sort(codes) != np.arange(1, len(levels) + 1)).any():
            raise BundleError(f"the codes of column {column} are not 1, 2, ...")
        lookups.append(np.concatenate([np.zeros(1, np.float32), codes]))
    if layout.n_levels[layout.numeric].any():
        raise BundleError("a numeric column has levels")
    return TablePreprocessor(layout, numbers, tuple(lookups))


def _restore_standardization(arrays: StoredArrays, n_features: int) -> Standardization:
    shape = (n_features,)
    lowest, highest = no_bounds(n_features)  # files of earlier versions lack them
    arrays.add_defaults({"numbers.lowest": lowest, "numbers.highest": highest})
    numbers = Standardization(
        magnitude=arrays.take("numbers.magnitude", np.float64, shape),
        mean=arrays.take("numbers.mean", np.float64, shape),
        std=arrays.take("numbers.spread", np.float64, shape),
        lowest=arrays.take("numbers.lowest", np.float64, shape),
        highest=arrays.take("numbers.highest", np.float64, shape),
    )
    if not ((numbers.magnitude > 0).all() and (numbers.std > 0).all()):
        raise BundleError("the scales of the columns must be positive")
    if not (numbers.lowest <= numbers.highest).all():
        raise BundleError("a lower bound of a column exceeds the upper one")
    return numbers


# Targets -----------------------------------------------------------------------------


def target_state(encode: TargetEncoder | None) -> tuple[Entries | None, Arrays]:
    """Return the encoding of targets."""
    if encode is None:
        return None, {}
    arrays: Arrays = {}
    if encode.scale is not None:
        arrays["targets.mean"] = encode.scale.mean_
        arrays["targets.scale"] = encode.scale.scale_
    entries = {
        "kind": encode.target_type,
        "unlabelled": encode.unlabeled_label,
        "classes": encode.classes,
    }
    return entries, arrays


def restore_targets(entries: Entries | None, arrays: StoredArrays) -> TargetEncoder | None:
    """Return the encoder of targets; the inverse of :func:`target_state`."""
    if entries is None:
        return None
    check_schema(
        entries,
        "targets",
        kind=str,
        unlabelled=int | str | np.integer | None,
        classes=np.ndarray | None,
    )
    target_type, classes = entries["kind"], entries["classes"]
    if target_type not in ("class", "multilabel", "continuous"):
        raise BundleError(f"targets have the unknown type {target_type!r}")
    if (target_type == "class") != (classes is not None):
        raise BundleError(f"targets of type {target_type!r} have classes {classes!r:.80}")
    labels = None if classes is None else _restore_labels(classes)
    scale = _restore_scale(arrays) if target_type == "continuous" else None
    return TargetEncoder(target_type, entries["unlabelled"], labels, scale)


def _restore_labels(classes: Array) -> LabelEncoder:
    if classes.ndim != 1 or len(classes) < 2:
        raise BundleError(
            f"expected an array of at least two classes, got shape {classes.shape}"
        )
    labels = LabelEncoder()
    labels.classes_ = classes
    return labels


def _restore_scale(arrays: StoredArrays) -> StandardScaler:
    scale = StandardScaler()
    scale.mean_ = arrays.take("targets.mean", np.float64, (None,))
    scale.scale_ = arrays.take("targets.scale", np.float64, scale.mean_.shape)
    scale.var_ = scale.scale_**2
    scale.n_features_in_ = len(scale.mean_)
    return scale
