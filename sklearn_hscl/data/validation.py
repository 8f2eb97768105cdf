"""From what users pass as X, y and groups to validated data and the form of X."""

import sys
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from traceback import walk_stack
from typing import Any, TypeAlias

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, is_classifier
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_consistent_length
from torch import Tensor
from torch.utils.data import Dataset

from sklearn_hscl.augment.graph_rows import Graphs
from sklearn_hscl.data.categorical import TableColumns, warn_of_doubtful_text
from sklearn_hscl.data.dataframe import (
    Table,
    cells_of,
    is_frame,
    refuse_other_containers,
)
from sklearn_hscl.data.graphs import (
    check_graphs,
    is_graphs,
)
from sklearn_hscl.data.image_files import (
    images_of,
    read_mode_hint,
    refuse_single_path,
)
from sklearn_hscl.data.image_validation import check_images
from sklearn_hscl.data.missing import (
    array_of,
    column_array,
    in_native_order,
    is_missing,
    unmasked,
)
from sklearn_hscl.data.out_of_core import (
    DatasetRows,
    ItemList,
    MappedRows,
    OutOfCoreRows,
    Rows,
    holds_items,
    is_memory_mapped,
)
from sklearn_hscl.data.parquet_rows import (
    Files,
    ParquetRows,
    is_parquet,
    parquet_rows,
    read_column,
)
from sklearn_hscl.data.parquet_source import ParquetSource
from sklearn_hscl.data.table_validation import check_table
from sklearn_hscl.data.targets import (
    UNLABELED,
    TargetEncoder,
    Targets,
    encode_groups,
    fit_targets,
)
from sklearn_hscl.data.texts import (
    Texts,
    check_no_reader,
    check_reader,
    check_texts,
    content_for,
    content_of,
)
from sklearn_hscl.data.training_data import (
    FittedInput,
    InputSchema,
    LabelledArrays,
    TrainingData,
)
from sklearn_hscl.runtime.device import warn_of_transfer

# Attributes in which scikit-learn's validation, and ours, keep the form of X.
INPUT_ATTRIBUTES = ("n_features_in_", "feature_names_in_", "_pixel_scale")


@dataclass(frozen=True)
class FitInput:
    """Arguments of `fit`."""

    X: ArrayLike
    y: ArrayLike | None = None
    X_val: ArrayLike | None = None
    y_val: ArrayLike | None = None
    groups: ArrayLike | None = None


@dataclass(frozen=True)
class TargetOptions:
    """How the loss and the parameters of the estimator read y."""

    loss: str
    """Name of the loss, for messages."""
    loss_parameter: str
    """The parameter that led to it, for messages."""
    uses_labels: bool
    """Whether the loss compares labels where y is passed."""
    requires_labels: bool
    target_type: str
    unlabeled_label: int | str | float | None
    classes: ArrayLike | None = None
    """All class labels that will come; None for those in y."""
    needs_classes: bool = False
    """Whether a parameter of the embedder needs classes."""

    def fit(self, y: ArrayLike) -> TargetEncoder:
        """Learn how to encode y, or the announced classes."""
        if self.classes is not None:
            given, target_type = self.classes, "class"
        else:
            given, target_type = y, self.target_type
        return fit_targets(
            given,
            loss=self.loss,
            target_type=target_type,
            unlabeled_label=self.unlabeled_label,
            needs_classes=self.needs_classes,
        )


def read_training_data(
    estimator: BaseEstimator,
    given: FitInput,
    options: TargetOptions,
    fitted: FittedInput | None = None,
) -> TrainingData:
    """Validate everything that `fit` gets; the estimator stays as it is.

    Parameters
    ----------
    estimator : HSCLEmbedder
        Its parameters and tags say what X may be.
    given : FitInput
        Samples, targets and groups.
    options : TargetOptions
        How to read y.
    fitted : FittedInput or None
        The earlier fit that training continues.

    Returns
    -------
    TrainingData
    """
    if given.X_val is None and given.y_val is not None:
        raise ValueError("y_val was passed without X_val. Pass both, or neither.")
    if fitted is not None:
        check_reader(estimator.encoder, fitted.shape)
    reader = _reader(estimator, INPUT_ATTRIBUTES if fitted is None else ())
    given = _read_named_columns(reader, given)
    X, y = _open_labelled(reader, given.X, given.y, options, "X")
    X_val, y_val = _open_labelled(reader, given.X_val, given.y_val, options, "X_val")
    if options.requires_labels and y is None:
        raise ValueError(
            f"This {type(estimator).__name__} requires y to be passed, but the target y "
            f"is None: loss={options.loss!r} compares labels. Pass y, or use "
            f"loss='hucl' or 'ucl'."
        )
    X = _as_table(X)
    columns = _learn_columns(reader, X) if fitted is None else fitted.columns
    shape = None if fitted is None else fitted.shape
    rows = check_opened(reader, X, columns=columns, fitted_shape=shape)
    schema = _schema(reader, rows.shape[1:], columns)
    groups = None if given.groups is None else encode_groups(given.groups, rows.shape[0])
    train, encode = LabelledArrays(rows, None, groups), None
    if options.requires_labels or (options.uses_labels and y is not None):
        values = column_array(y)
        check_consistent_length(rows, values)
        encode = _target_encoder(values, options, fitted)
        targets = _encoded(encode, values, "y")
        _warn_of_class_for_unlabeled(targets, encode.unlabeled_label)
        train = replace(train, targets=targets)
    held_out = None
    if X_val is not None:
        rows = check_opened(
            reader, X_val, columns=columns, fitted_shape=schema.shape, name="X_val"
        )
        held_out = LabelledArrays(rows, _held_out_targets(rows, y_val, encode, options))
    return TrainingData(train, held_out, encode, schema, y is not None)


def _reader(estimator: BaseEstimator, forget: tuple[str, ...]) -> BaseEstimator:
    """Return a shallow copy that scikit-learn's validation may write on."""
    reader = object.__new__(type(estimator))
    kept = {name: value for name, value in vars(estimator).items() if name not in forget}
    vars(reader).update(kept)
    return reader


def _schema(
    reader: BaseEstimator, shape: tuple[int, ...], columns: TableColumns | None
) -> InputSchema:
    n_features, names, scale = map(vars(reader).get, INPUT_ATTRIBUTES)
    return InputSchema(shape, n_features, names, scale, columns)


def _target_encoder(
    y: NDArray[np.generic], options: TargetOptions, fitted: FittedInput | None
) -> TargetEncoder:
    """Return the encoder of the fit that training continues, or learn one."""
    encode = None if fitted is None else fitted.encode
    if encode is None:
        return options.fit(y)
    if options.classes is not None:
        encode.check_classes(options.classes)
    return encode


def _encoded(encode: TargetEncoder, y: ArrayLike, name: str) -> np.ndarray:
    try:
        return encode(y)
    except ValueError as error:
        raise ValueError(f"{name} cannot be used: {error}") from error


def _held_out_targets(
    rows: Any, y_val: Any, encode: TargetEncoder | None, options: TargetOptions
) -> np.ndarray | None:
    if encode is None:
        return None
    if y_val is None:
        raise ValueError(f"X_val needs y_val, as loss={options.loss!r} uses labels.")
    try:
        values = column_array(y_val, "y_val")
        check_consistent_length(rows, values)
    except ValueError as error:
        raise ValueError(f"y_val cannot be used: {error}") from error
    return _encoded(encode, values, "y_val")


Labelled: TypeAlias = tuple[Any, list[ArrayLike | None]]
"""Rows, and the values of columns that parameters name."""


def _read_named_columns(reader: BaseEstimator, given: FitInput) -> FitInput:
    """Open Parquet files, and read the columns of them that y and groups name."""
    named = (given.y, given.groups)
    X, (y, groups) = _open_with_labels(reader, given.X, named, "X", ("y", "groups"))
    X_val, (y_val,) = _open_with_labels(
        reader, given.X_val, (given.y_val, *named), "X_val", ("y_val",)
    )
    return FitInput(X, y, X_val, y_val, groups)


def _open_with_labels(
    reader: BaseEstimator,
    X: ArrayLike | None,
    named: Sequence[ArrayLike | None],
    name: str,
    parameters: Sequence[str],
) -> Labelled:
    """Return the rows of Parquet files, and the columns that parameters name.

    Other X, and parameters that are not names of columns, are left as they are.
    """
    values = list(named[: len(parameters)])
    if not is_parquet(X):
        return X, values
    source = ParquetSource(X, name)
    for index, (value, parameter) in enumerate(zip(values, parameters, strict=False)):
        if isinstance(value, str):
            unlabeled = reader.unlabeled_label
            takes_nulls = unlabeled is not None and is_missing(unlabeled)
            values[index] = read_column(
                source, value, parameter, takes_nulls=takes_nulls and parameter != "groups"
            )
    labels = [value for value in named if isinstance(value, str)]
    takes = content_for(reader.encoder)
    return _open_parquet(reader, source, name, labels, takes=takes), values


def _open_parquet(
    estimator: BaseEstimator,
    X: "Files | ParquetSource",
    name: str,
    leave_out: Sequence[str] = (),
    *,
    takes: str,
) -> ParquetRows | NDArray[np.object_]:
    """Return the rows of Parquet files, or the texts of an only column."""
    if takes == "graphs":
        raise ValueError(
            f"{name} is Parquet files, but the encoder takes graphs. Pass a list of graphs."
        )
    allow_nan = estimator.__sklearn_tags__().input_tags.allow_nan
    rows = parquet_rows(
        X, vars(estimator), leave_out=leave_out, allow_nan=allow_nan, name=name
    )
    return check_texts(rows.source.table(rows.features), name) if takes == "texts" else rows


def _open_labelled(
    estimator: BaseEstimator, X: Any, y: Any, options: TargetOptions, name: str
) -> tuple[Any, Any]:
    """Open samples as :func:`open_rows` does; take labels from the items of datasets.

    A dataset is read into an array where a table is learnt from as a whole.
    """
    X = open_rows(estimator, X, name)
    if not isinstance(X, DatasetRows):
        return X, y
    if y is None and options.requires_labels:
        y = X.labels()
    elif y is None and options.uses_labels and name == "X" and X.has_labels:
        warnings.warn(
            f"X is a dataset of rows with labels, which loss={options.loss_parameter!r} "
            f"does not read, as y=None: pass y or use loss='hscl' to train on them, or "
            f"loss='hucl' to ignore them.",
            UserWarning,
            stacklevel=2,
        )
    chosen = estimator.categorical_features
    learns = isinstance(estimator.encoder, str) or not (
        chosen is None or isinstance(chosen, str)
    )
    return (X[:] if X.ndim == 2 and learns else X), y


def _as_table(X: Any) -> Any:
    """Wrap a table, so that each of its columns is asked for and factorized once."""
    is_in_memory = not (issparse(X) or isinstance(X, OutOfCoreRows))
    return Table.of(X) if is_in_memory and _n_dimensions(X) == 2 else X


_CONTENT = {1: "texts", 2: "a sparse X"}  # by number of dimensions


def _learn_columns(estimator: BaseEstimator, X: Any) -> TableColumns | None:
    """Learn the columns of a table; custom encoders get categories only if named."""
    chosen = estimator.categorical_features
    by_dtype = chosen is None or isinstance(chosen, str)
    if by_dtype and not isinstance(estimator.encoder, str):
        chosen = None
    if isinstance(X, ParquetRows):
        columns = X.learn_columns(chosen)
        if by_dtype and columns is not None:
            warn_of_doubtful_text(Table(X.first_table()), columns.is_categorical)
        return columns
    ndim = _n_dimensions(X)
    if not by_dtype and len(chosen) and (ndim != 2 or issparse(X)):
        raise ValueError(
            f"categorical_features={chosen!r} needs a table that is not sparse, got "
            f"{_CONTENT.get(ndim, 'images')}. Leave it out."
        )
    columns = TableColumns.learn(X, chosen) if ndim == 2 else None
    if by_dtype and columns is not None:
        warn_of_doubtful_text(X, columns.is_categorical)
    return columns


def check_rows(
    estimator: BaseEstimator,
    X: Any,
    *,
    columns: TableColumns | None,
    fitted_shape: tuple[int, ...],
    name: str = "X",
) -> Any:
    """Open and validate samples in the form that `fit` got; see :func:`check_opened`."""
    has_names = columns is not None or hasattr(estimator, "feature_names_in_")
    if not has_names and _is_plain_table(X, fitted_shape):
        return X
    X = open_rows(estimator, X, name, takes=content_of(fitted_shape))
    return check_opened(estimator, X, columns=columns, fitted_shape=fitted_shape, name=name)


# Larger tables are checked chunk by chunk.
_MAX_PLAIN_ROWS = 16_384


def _is_plain_table(X: object, fitted_shape: tuple[int, ...]) -> bool:
    """Return whether X is an array of finite floats of the fitted width.

    No check finds fault with it, and all of them together take longer than to embed a row.
    """
    return (
        type(X) is np.ndarray
        and X.ndim == 2
        and X.dtype in (np.float32, np.float64)  # in native byte order
        and 0 < len(X) <= _MAX_PLAIN_ROWS
        and X.shape[1:] == fitted_shape
        and not is_memory_mapped(X)
        and bool(np.isfinite(X).all())
    )


def check_opened(
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
    X : array-like, Table, sparse or OutOfCoreRows
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
        OutOfCoreRows where X is a memory map or a dataset.
    """
    is_fit = fitted_shape is None
    if fitted_shape == () or (is_fit and content_for(estimator.encoder) == "texts"):
        return _check_opened_texts(estimator, X, is_fit=is_fit, name=name)
    if is_graphs(X):
        return _check_opened_graphs(estimator, X, fitted_shape, name)
    given, X = X, X.data if isinstance(X, Table) else X
    ndim = _n_dimensions(X)
    if ndim > 4:
        raise ValueError(
            f"{name} has {ndim} dimensions: expected a table (n_samples, n_features) "
            f"or images (n_samples, H, W), (n_samples, H, W, C), (n_samples, C, H, W)."
        )
    if isinstance(X, OutOfCoreRows) and is_fit and len(X) < 2:
        raise ValueError(
            f"{name} holds 1 row, but a minimum of 2 is required: there is nothing to "
            f"compare it with."
        )
    if ndim > 2:
        rows: Rows = check_images(estimator, X, is_fit=is_fit, name=name)
    elif fitted_shape is None or len(fitted_shape) == 1:
        rows = check_table(estimator, given, columns=columns, is_fit=is_fit, name=name)
    else:
        rows = X if isinstance(X, OutOfCoreRows) else np.asarray(X)
    if fitted_shape is not None and rows.shape[1:] != fitted_shape:
        raise ValueError(
            f"{name} holds rows of shape {rows.shape[1:]}, but the embedder was fitted "
            f"with rows of shape {fitted_shape}: resize them, or check the order of axes."
            f"{read_mode_hint(getattr(X, 'dataset', None))}"
        )
    return MappedRows(rows) if is_memory_mapped(rows) else rows


def _check_opened_texts(
    estimator: BaseEstimator, texts: Texts, *, is_fit: bool, name: str
) -> Texts:
    """Check the number of texts; the estimator gets `n_features_in_` in fit."""
    smallest = 2 if is_fit else 1
    if len(texts) < smallest:
        raise ValueError(
            f"{name} holds {len(texts)} texts, but a minimum of {smallest} is required."
        )
    if is_fit:
        estimator.n_features_in_ = 1
    return texts


def _check_opened_graphs(
    estimator: BaseEstimator,
    graphs: Graphs,
    fitted_shape: tuple[int, ...] | None,
    name: str,
) -> Graphs:
    """Check number and width of graphs; the estimator gets `n_features_in_` in fit."""
    smallest = 2 if fitted_shape is None else 1
    if len(graphs) < smallest:
        raise ValueError(
            f"{name} holds {len(graphs)} graphs, but a minimum of {smallest} is required."
        )
    n_features = graphs.shape[-1]
    if fitted_shape is None:
        estimator.n_features_in_ = n_features
    elif n_features != fitted_shape[-1]:
        raise ValueError(
            f"{name} holds graphs with {n_features} node features, but the embedder was "
            f"fitted with {fitted_shape[-1]}. Encode the nodes as for fit."
        )
    return graphs


_READERS: dict[str, Callable[[Any, str], Any]] = {
    "texts": check_texts,
    "graphs": check_graphs,
}


def open_rows(
    estimator: BaseEstimator, X: Any, name: str = "X", *, takes: str | None = None
) -> Any:
    """Make arrays of tensors and of vectors in cells, and rows of datasets and files.

    Frames, sparse rows, other arrays and nested lists are left as they are. Where the
    embedder takes texts, X becomes an array of strings, and where it takes graphs, these
    are joined; in fit, its encoder decides.
    """
    if isinstance(X, OutOfCoreRows):
        return X
    takes = takes or content_for(estimator.encoder)
    if is_parquet(X):
        return _open_parquet(estimator, X, name, takes=takes)
    if takes in _READERS:
        return None if X is None and name == "X_val" else _READERS[takes](X, name)
    check_no_reader(estimator.encoder)
    refuse_single_path(X, name)
    X = ItemList(X) if holds_items(X) else images_of(X, name)
    if not isinstance(X, Dataset):
        refuse_other_containers(X, name)
        X = _in_memory(X)
    if isinstance(X, Tensor):
        warn_of_transfer(X, estimator.device, name)
        return array_of(X)
    if isinstance(X, Iterator) and not isinstance(X, Dataset):
        raise ValueError(
            f"{name} is a {type(X).__name__}, which can be read only once: pass a list."
        )
    if not isinstance(X, Dataset):
        X = images_of(cells_of(X, name), name)
    if isinstance(X, Dataset):
        allow_nan = estimator.__sklearn_tags__().input_tags.allow_nan
        return DatasetRows(X, allow_nan=allow_nan, name=name)
    return X


def _in_memory(X: Any) -> Any:
    """Return what narwhals or dask wrap, and arrays without masks in native byte order."""
    X = nw.to_native(X, pass_through=True)
    if hasattr(X, "__dask_graph__"):
        X = X.compute()
    if hasattr(X, "to_struct_array") and not hasattr(X, "combine_chunks"):
        X = sys.modules["pyarrow"].Table.from_batches([X])  # of a RecordBatch
    if isinstance(X, np.ma.MaskedArray):
        X = unmasked(X)
    if isinstance(X, np.ndarray) and not is_memory_mapped(X):
        return in_native_order(X)
    is_lazy = isinstance(X, Sequence) and not isinstance(X, list | tuple | str | bytes)
    return list(X) if is_lazy else X


def _n_dimensions(X: Any) -> int:
    if isinstance(X, Table) or is_frame(X):
        return 2
    if hasattr(X, "ndim"):
        return int(X.ndim)
    if hasattr(X, "__array__"):
        return int(np.asarray(X).ndim)
    depth = 0
    while isinstance(X, list | tuple) and len(X):
        X, depth = X[0], depth + 1
    return depth + np.ndim(X)


# Pipelines ---------------------------------------------------------------------------


def _warn_of_class_for_unlabeled(targets: Targets, unlabeled_label: Hashable) -> None:
    """Warn if the mark of unlabelled rows becomes a class of the pipeline's classifier.

    The pipeline is found among the callers, as an embedder does not know what follows it.
    """
    if unlabeled_label is None or not (targets == UNLABELED).any():
        return
    pipeline = _calling_pipeline()
    if pipeline is None:
        return
    last = pipeline.steps[-1][1]
    if is_classifier(last) and not _accepts_unlabeled(last):
        name = type(last).__name__
        warnings.warn(
            f"{name} follows an HSCLEmbedder with {unlabeled_label=}, which it takes for a "
            f"class of its own. Pass LabeledOnlyClassifier({name}(), "
            f"{unlabeled_label=}) of sklearn_hscl.semi_supervised, or a classifier of "
            f"sklearn.semi_supervised, which knows rows without label.",
            UserWarning,
            stacklevel=2,
        )


def _calling_pipeline() -> Pipeline | None:
    """Return the innermost pipeline one of whose methods has led to this call."""
    for frame, _ in walk_stack(sys._getframe()):
        caller = frame.f_locals.get("self")
        if isinstance(caller, Pipeline):
            return caller
    return None


def _accepts_unlabeled(classifier: BaseEstimator) -> bool:
    """Return whether a classifier, or one that it wraps, has rows without label."""
    params = classifier.get_params()
    modules = [type(found).__module__ for found in (classifier, *params.values())]
    return any("semi_supervised" in module for module in modules) or any(
        name.rpartition("__")[2] == "unlabeled_label" for name in params
    )
