"""What is known of tables and targets, as facts and arrays, and back."""

from typing import Any

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
from sklearn_hscl.persistence.schema import BundleError, StoredArrays, check_facts

Facts = dict[str, Any]
Arrays = dict[str, NDArray[Any]]


def table_state(columns: TableColumns | None, prepare: Preparation) -> tuple[Facts, Arrays]:
    """Return what is known of the columns of a table.

    Levels that the encoder does not tell from later ones are left out: they change no
    embedding, and a level of a single training row may say who that was.
    """
    is_prepared = isinstance(prepare, TablePreprocessor)
    facts: Facts = {"categories": None, "kinds": None, "is_prepared": is_prepared}
    arrays: Arrays = {}
    if columns is not None:
        arrays["columns.is_categorical"] = columns.is_categorical
        facts["categories"], facts["kinds"] = columns.categories, columns.level_types
    if isinstance(prepare, TablePreprocessor):
        layout, numbers = prepare.layout, prepare.numbers
        arrays |= {"layout." + name: value for name, value in vars(layout).items()}
        arrays |= {"numbers." + name: value for name, value in vars(numbers).items()}
    if isinstance(prepare, TablePreprocessor) and columns is not None:
        pairs = zip(columns.categories, prepare.lookups, strict=True)
        known = [_known(*pair) for pair in pairs]
        facts["categories"] = [categories for categories, _ in known]
        arrays |= {f"codes.{i}": codes for i, (_, codes) in enumerate(known)}
    return facts, arrays


def _known(
    categories: NDArray[Any], lookup: NDArray[np.float32]
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Return the categories that an encoder tells from others, and its codes for them."""
    codes = np.zeros(len(categories), dtype=np.float32)
    codes[: len(lookup) - 1] = lookup[1:]
    return categories[codes > 0], codes[codes > 0]


def restore_table(
    facts: Any, arrays: StoredArrays, n_columns: int
) -> tuple[TableColumns | None, Preparation]:
    """Return the columns and their preparation; the opposite of :func:`table_state`."""
    if isinstance(facts, dict):
        facts = {"kinds": None} | facts  # which former versions did not write
    check_facts(facts, "table", categories=list | None, kinds=list | None, is_prepared=bool)
    columns = None
    if facts["categories"] is not None:
        columns = _columns(facts["categories"], facts["kinds"], arrays, n_columns)
    if not facts["is_prepared"]:
        return columns, Identity()
    return columns, _prepared(columns, arrays, n_columns)


def _columns(
    categories: list[Any], kinds: list[Any] | None, arrays: StoredArrays, n_columns: int
) -> TableColumns:
    mask = arrays.take("columns.is_categorical", np.bool_, (n_columns,))
    for levels in categories:
        if not isinstance(levels, np.ndarray) or levels.dtype != object:
            raise BundleError("categories are no arrays of objects")
    kinds = level_types_of(categories) if kinds is None else kinds
    if not mask.sum() == len(categories) == len(kinds):
        raise BundleError("categories are not those of the categorical columns")
    for names in kinds:
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise BundleError(f"kinds of categories are {names!r:.80}")
    return TableColumns(mask, categories, kinds)


def _prepared(
    columns: TableColumns | None, arrays: StoredArrays, n_columns: int
) -> TablePreprocessor:
    shape = (n_columns,)
    layout = ColumnLayout(
        n_levels=arrays.take("layout.n_levels", np.int64, shape),
        is_categorical=arrays.take("layout.is_categorical", np.bool_, shape),
        has_missing=arrays.take("layout.has_missing", np.bool_, shape),
    )
    numbers = _numbers(arrays, len(layout.numeric))
    categories = [] if columns is None else columns.categories
    if len(categories) != len(layout.categorical):
        raise BundleError("categories are not those of the categorical columns")
    lookups = []
    for index, (column, levels) in enumerate(
        zip(layout.categorical, categories, strict=True)
    ):
        codes = arrays.take(f"codes.{index}", np.float32, (len(levels),))
        is_whole = layout.n_levels[column] == len(levels)
        if not is_whole or (np.sort(codes) != np.arange(1, len(levels) + 1)).any():
            raise BundleError(f"codes of column {column} are not 1, 2, ...")
        lookups.append(np.concatenate([np.zeros(1, np.float32), codes]))
    if layout.n_levels[layout.numeric].any():
        raise BundleError("a numeric column has levels")
    return TablePreprocessor(layout, numbers, tuple(lookups))


def _numbers(arrays: StoredArrays, n_columns: int) -> Standardization:
    shape = (n_columns,)
    lowest, highest = no_bounds(n_columns)  # in files from before there were bounds
    arrays.supply({"numbers.lowest": lowest, "numbers.highest": highest})
    numbers = Standardization(
        magnitude=arrays.take("numbers.magnitude", np.float64, shape),
        mean=arrays.take("numbers.mean", np.float64, shape),
        spread=arrays.take("numbers.spread", np.float64, shape),
        lowest=arrays.take("numbers.lowest", np.float64, shape),
        highest=arrays.take("numbers.highest", np.float64, shape),
    )
    if not ((numbers.magnitude > 0).all() and (numbers.spread > 0).all()):
        raise BundleError("scales of columns are not positive")
    if not (numbers.lowest <= numbers.highest).all():
        raise BundleError("bounds of columns are not in order")
    return numbers


def target_state(encode: TargetEncoder | None) -> tuple[Facts | None, Arrays]:
    """Return how targets are encoded."""
    if encode is None:
        return None, {}
    arrays: Arrays = {}
    if encode.scale is not None:
        arrays["targets.mean"] = encode.scale.mean_
        arrays["targets.scale"] = encode.scale.scale_
    facts = {
        "kind": encode.target_type,
        "unlabelled": encode.unlabeled_label,
        "classes": encode.classes,
    }
    return facts, arrays


def restore_targets(facts: Any, arrays: StoredArrays) -> TargetEncoder | None:
    """Return the encoder of targets; the opposite of :func:`target_state`."""
    if facts is None:
        return None
    check_facts(
        facts,
        "targets",
        kind=str,
        unlabelled=int | str | np.integer | None,
        classes=np.ndarray | None,
    )
    kind, classes = facts["kind"], facts["classes"]
    if kind not in ("class", "multilabel", "continuous"):
        raise BundleError(f"targets are of the unknown kind {kind!r}")
    if (kind == "class") != (classes is not None):
        raise BundleError(f"targets of kind {kind!r} have classes {classes!r:.80}")
    labels = scale = None
    if classes is not None:
        if classes.ndim != 1 or len(classes) < 2:
            raise BundleError(f"classes are an array of shape {classes.shape}")
        labels = LabelEncoder()
        labels.classes_ = classes
    if kind == "continuous":
        scale = StandardScaler()
        scale.mean_ = arrays.take("targets.mean", np.float64, (None,))
        scale.scale_ = arrays.take("targets.scale", np.float64, scale.mean_.shape)
        scale.var_ = scale.scale_**2
        scale.n_features_in_ = len(scale.mean_)
    return TargetEncoder(kind, facts["unlabelled"], labels, scale)
