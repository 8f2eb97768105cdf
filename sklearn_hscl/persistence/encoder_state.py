"""Columns, targets and network of an embedder as entries and arrays, and back.

A built-in encoder is rebuilt from its configuration. Another encoder is passed again by
the user, and gets its weights from the file.
"""

import copy
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.preprocessing import LabelEncoder, StandardScaler
from torch import Tensor, nn

from sklearn_hscl.data.categorical import TableColumns, level_types_of
from sklearn_hscl.data.targets import TargetEncoder
from sklearn_hscl.encoders.contrastive_module import ContrastiveModule
from sklearn_hscl.encoders.image.pixel_standardization import PixelScaling
from sklearn_hscl.encoders.image.registry import build_library_model, is_library_model
from sklearn_hscl.encoders.image.resnet import ResNetEncoder
from sklearn_hscl.encoders.linear_path import trained_part
from sklearn_hscl.encoders.preprocessing import (
    ColumnLayout,
    Identity,
    Preparation,
    Standardization,
    TablePreprocessor,
    no_bounds,
)
from sklearn_hscl.encoders.registry import (
    build_from_config,
    custom_encoder,
    get_config,
    to_precision,
)
from sklearn_hscl.encoders.text.files import from_files, is_writable, to_files
from sklearn_hscl.persistence.schema import (
    Array,
    Arrays,
    BundleError,
    Entries,
    Params,
    StoredArrays,
    check_schema,
)
from sklearn_hscl.runtime.precision import Precision

# Columns -----------------------------------------------------------------------------


Levels = NDArray[np.object_]
Codes = NDArray[np.float32]


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
    level_types: list[list[str]] | None,
    arrays: StoredArrays,
    n_features: int,
) -> TableColumns:
    is_categorical = arrays.take("columns.is_categorical", np.bool_, (n_features,))
    for levels in categories:
        if not isinstance(levels, np.ndarray) or levels.dtype != object:
            raise BundleError("expected categories to be arrays of objects")
    if level_types is None:
        level_types = level_types_of(categories)
    if not is_categorical.sum() == len(categories) == len(level_types):
        raise BundleError("the categories do not match the categorical columns")
    for names in level_types:
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise BundleError(f"the types of categories are invalid: {names!r:.80}")
    return TableColumns(is_categorical, categories, level_types)


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
        unlabelled=int | str | float | np.number | None,
        classes=np.ndarray | None,
    )
    target_type, classes, mark = (entries[k] for k in ("kind", "classes", "unlabelled"))
    if isinstance(mark, float | np.floating) and not np.isnan(mark):
        raise BundleError(f"targets have the invalid label {mark!r} of unlabelled rows")
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


# Network -----------------------------------------------------------------------------


ENCODER_PREFIX = "encoder."
_FILES = "files"  # key of the names of files that hold an encoder
_STORABLE_DTYPES = {
    torch.float32,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.bool,
}


class CustomEncoder(NamedTuple):
    """An encoder that is not rebuilt from a configuration."""

    module: nn.Module
    is_trained: bool
    """Whether the module has its weights, so that none are stored."""


class RowFormat(NamedTuple):
    """Format of the rows that an encoder receives."""

    input_shape: tuple[int, ...]
    layout: ColumnLayout | None
    """Layout of the columns of preprocessed rows."""
    precision: Precision


def network_state(
    encoder: nn.Module, module: ContrastiveModule, *, has_custom_weights: bool = True
) -> tuple[Entries, Arrays]:
    """Return the configuration of the network and its weights on the CPU.

    Parameters
    ----------
    encoder : nn.Module
        The trained encoder.
    module : ContrastiveModule
        The module of the net, for the projection head and the classifier.
    has_custom_weights : bool, default=True
        Whether to return the weights of an encoder that is not built in.
    """
    head, classifier = module.head, module.classifier
    files = to_files(encoder) if has_custom_weights and is_writable(encoder) else {}
    entries = {
        "blueprint": {_FILES: list(files)} if files else get_config(encoder),
        "n_components": module.n_components,
        "projection_dim": head[-1].out_features
        if isinstance(head, nn.Sequential)
        else None,
        "n_classes": None if classifier is None else classifier.out_features,
    }
    is_stored = has_custom_weights or entries["blueprint"] is not None
    parts = {
        "encoder": encoder if is_stored and not files else None,
        "head": head,
        "classifier": classifier,
    }
    weights = {
        f"{part}.{name}": cpu_array(value, f"{part}.{name}")
        for part, network in parts.items()
        if network is not None
        for name, value in network.state_dict().items()
    }
    contents = (np.frombuffer(content, np.uint8) for content in files.values())
    return entries, weights | {
        f"{ENCODER_PREFIX}{index}": content for index, content in enumerate(contents)
    }


def restore_network(
    entries: Entries,
    arrays: StoredArrays,
    rows: RowFormat,
    custom: CustomEncoder | None,
) -> tuple[nn.Module, ContrastiveModule]:
    """Return the network on the CPU; the inverse of :func:`network_state`.

    Parameters
    ----------
    entries : dict
        Configuration of the network.
    arrays : StoredArrays
        Weights.
    rows : RowFormat
        Format of the rows that the encoder receives.
    custom : CustomEncoder or None
        The encoder if the entries have no configuration of it; it is not copied.

    Returns
    -------
    encoder : nn.Module
        The fitted encoder, with its paths if it has some.
    module : ContrastiveModule
        The trained module, of the same encoder without paths.
    """
    check_schema(
        entries,
        "network",
        blueprint=dict | None,
        n_components=int,
        projection_dim=int | None,
        n_classes=int | None,
    )
    dtype = rows.precision.dtype
    weights = _take_tensors(arrays, ENCODER_PREFIX)
    config = entries["blueprint"]
    if config is not None and _FILES in config:
        encoder = _read_encoder(config[_FILES], weights, rows.precision.dtype)
        custom = CustomEncoder(encoder, is_trained=True)
    elif config is not None:
        encoder = _build_encoder(config, weights, rows)
    else:
        assert custom is not None  # the callers provide it
        encoder = custom.module
    trained = trained_part(encoder)
    with torch.device("meta"):
        module = ContrastiveModule(
            trained,
            entries["n_components"],
            entries["projection_dim"],
            entries["n_classes"],
            rows.precision,
        )
    if custom is None or not custom.is_trained:
        _load_weights(encoder, weights, assign=config is not None)
    if config is not None and isinstance(trained, ResNetEncoder):
        trained.channels_last()  # as in training, for the same bits
    for name, part in (("head", module.head), ("classifier", module.classifier)):
        weights = _take_tensors(arrays, f"{name}.")
        if part is not None:
            _check_weights(part.to(dtype), weights, dtype)
            _load_weights(part, weights, assign=True)
    return encoder.eval(), module.eval()


def _build_encoder(
    config: Entries, weights: dict[str, Tensor], rows: RowFormat
) -> nn.Module:
    """Build the encoder of a configuration without weights, which are checked."""
    if config.get("n_layers", 0) > len(weights):
        raise BundleError("the encoder has fewer weights than layers")
    encoder = build_from_config(config, weights, rows.input_shape, rows.layout)
    _check_weights(encoder, weights, rows.precision.dtype)
    return encoder


def _read_encoder(names: Any, contents: dict[str, Tensor], dtype: torch.dtype) -> nn.Module:
    """Read the encoder from the files of its library."""
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not is_list or set(contents) != {str(index) for index in range(len(names))}:
        raise BundleError("the files of the encoder do not match their names")
    if any(content.dtype != torch.uint8 for content in contents.values()):
        raise BundleError("expected the files of the encoder as bytes")
    files = {name: contents[str(k)].numpy().tobytes() for k, name in enumerate(names)}
    try:
        return to_precision(from_files(files), dtype)
    except ValueError as error:
        raise BundleError(str(error)) from error


def _take_tensors(arrays: StoredArrays, prefix: str) -> dict[str, Tensor]:
    """Return tensors that share the memory of the arrays."""
    group = arrays.take_group(prefix)
    return {name: torch.from_numpy(array) for name, array in group.items()}


def _check_weights(
    network: nn.Module, weights: dict[str, Tensor], dtype: torch.dtype
) -> None:
    """Check types and values. Integer entries must be those that the columns imply."""
    for name, target in network.state_dict().items():
        value = weights.get(name)
        if value is None:
            continue  # loading raises an error
        expected = dtype if target.is_floating_point() else target.dtype
        if value.dtype != expected:
            raise BundleError(
                f"expected the weights {name!r} to be {expected}, got {value.dtype}"
            )
        if value.is_floating_point() and not value.isfinite().all():
            raise BundleError(f"the weights {name!r} hold NaN or infinity")
        is_derived = not (target.is_meta or target.is_floating_point())
        if is_derived and not torch.equal(target, value):
            raise BundleError(f"the entries of {name!r} do not match the columns")


def _load_weights(network: nn.Module, weights: dict[str, Tensor], *, assign: bool) -> None:
    """Load weights, which must be exactly those of the network."""
    try:
        network.load_state_dict(weights, assign=assign)
    except (RuntimeError, KeyError, ValueError) as error:
        raise BundleError(f"the weights do not fit the encoder: {error}") from error


def cpu_array(value: object, name: str) -> Array:
    """Return a tensor as an array, without a copy if it is on the CPU."""
    if not isinstance(value, Tensor) or value.dtype not in _STORABLE_DTYPES:
        found = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise BundleError(
            f"Expected the state {name!r} of the encoder to be a tensor of real numbers, "
            f"got {found}. Keep only such tensors in its state_dict, or use pickle."
        )
    return value.detach().cpu().contiguous().numpy()


def to_cpu(module: nn.Module) -> nn.Module:
    """Return the module if it is on the CPU, else a copy there."""
    tensors = [*module.parameters(), *module.buffers()]
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return module
    return copy.deepcopy(module).cpu()


# Custom encoders ---------------------------------------------------------------------


def check_encoder_is_storable(
    encoder: object, module: nn.Module, leave_out: Collection[str]
) -> None:
    """Raise an error if the encoder is a name, but its layers cannot be rebuilt from it.

    The layers are those of another library, or the name was set after the fit. Encoders
    that are modules or factories are refused with the parameters.

    Parameters
    ----------
    encoder : object
        The parameter.
    module : nn.Module
        The trained encoder.
    leave_out : collection of str
        Parameters that are not stored.
    """
    is_name = isinstance(encoder, str) and "encoder" not in leave_out
    if is_name and get_config(module) is None and not is_writable(module):
        raise ValueError(
            f"Expected the layers of encoder={encoder!r} to be of this library, got "
            f"{type(module).__name__}, which a file without code cannot hold. Call "
            f"save(path, leave_out=['encoder']) and load(path, encoder=...), or use pickle."
        )


def build_custom_encoder(
    params: Params,
    passed: Collection[str],
    input_shape: tuple[int, ...],
    dtype: torch.dtype,
) -> CustomEncoder:
    """Build the encoder that the user passes to `load`; its weights are in the file.

    Parameters
    ----------
    params : mapping
        Parameters of the embedder.
    passed : collection of str
        Names of those that the user passed.
    input_shape : tuple of int
        Shape of a row.
    dtype : torch.dtype
        Type of the weights.

    Raises
    ------
    BundleError
        If the encoder is a name from the file.
    """
    encoder, n_components = params["encoder"], params["n_components"]
    if not isinstance(encoder, str):
        module = custom_encoder(encoder, input_shape, n_components)
    elif "encoder" in passed and is_library_model(encoder):
        n_channels = input_shape[0]
        scaling = PixelScaling(torch.zeros(n_channels), torch.ones(n_channels))
        module = build_library_model(encoder, scaling, n_components)
    else:
        raise BundleError("the configuration of its encoder is missing")
    return CustomEncoder(to_precision(module, dtype), is_trained=False)
