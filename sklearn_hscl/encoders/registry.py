"""From the `encoder` parameter to a module, and back to it from a stored configuration.

A new encoder has a module of its own, with `get_config` and `from_config`, an entry in
`_TABLE_BUILDERS` or :data:`~sklearn_hscl.encoders.image.registry.IMAGE_BUILDERS`, and an
entry in `STORED_TYPES`.
"""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from numbers import Integral
from typing import TypeVar

import torch
from torch import Tensor, nn

from sklearn_hscl.data.texts import reads_texts
from sklearn_hscl.encoders.contrastive_module import ContrastiveModule
from sklearn_hscl.encoders.forest_path import ForestPath
from sklearn_hscl.encoders.gin import GINEncoder, scale_of_features
from sklearn_hscl.encoders.image.conv import ConvEncoder
from sklearn_hscl.encoders.image.registry import (
    IMAGE_BUILDERS,
    PretrainedImageEncoder,
    build_library_encoder,
)
from sklearn_hscl.encoders.image.resnet import ResNetEncoder
from sklearn_hscl.encoders.linear_path import LinearPath
from sklearn_hscl.encoders.mlp import MLPEncoder, OneHotColumns
from sklearn_hscl.encoders.options import (
    EncoderConfig,
    EncoderFactory,
    EncoderInputs,
    EncoderOptions,
    IndexableRows,
    StoredEncoder,
)
from sklearn_hscl.encoders.preprocessing import ColumnLayout, as_float
from sklearn_hscl.encoders.tabular.column_statistics import MAX_QUANTILE_ROWS
from sklearn_hscl.encoders.tabular.encoder import TabularEncoder
from sklearn_hscl.encoders.tabular.forest_scores import ForestScores
from sklearn_hscl.runtime.precision import Precision

ModuleType = TypeVar("ModuleType", bound=nn.Module)
DEFAULT_N_COMPONENTS = 64
_MLP_LAYER_SIZES = (256, 256)
_TABULAR_N_COMPONENTS = 32
_TABULAR_LAYER_SIZES = (128, 128, 128)
_GIN_LAYER_SIZES = (32, 32, 32)
_MAX_VALUES_READ = 2**20  # for the statistics of columns
_MIN_ROWS_READ = 1000  # also for wide tables
_N_CHECKED_ROWS = 4
_DEFAULT_PRECISION = Precision("float32", torch.device("cpu"))


def build_module(
    options: EncoderOptions,
    rows: IndexableRows,
    layout: ColumnLayout | None = None,
    *,
    n_outputs: int | None = None,
    precision: Precision = _DEFAULT_PRECISION,
) -> ContrastiveModule:
    """Build the encoder and its head, and check its output on a few rows.

    Parameters
    ----------
    options : EncoderOptions
        The user's choice of an encoder.
    rows : Tensor of shape (n_samples, ...), or rows that are read by index
        The training rows as the encoder takes them.
    layout : ColumnLayout or None
        Layout of the columns of preprocessed rows; None if rows are passed through.
    n_outputs : int or None
        Outputs of the jointly trained linear head; None for no such head.
    precision : Precision
        Types of numbers.

    Returns
    -------
    ContrastiveModule
        In training mode.

    Raises
    ------
    ValueError
        If the encoder does not accept the rows or does not return (B, n_components), or
        has no part of a name in `freeze`.
    """
    inputs = EncoderInputs(rows, layout)
    encoder = _build_encoder(options, inputs)
    name = _display_name(options, encoder)
    width = output_width(encoder, name, rows[:_N_CHECKED_ROWS].cpu(), options.n_components)
    module = ContrastiveModule(
        encoder,
        width,
        options.projection_dim,
        n_outputs,
        precision,
        () if options.freeze is None else tuple(options.freeze),
    )
    return to_precision(module, precision.dtype).train()


def _build_encoder(options: EncoderOptions, inputs: EncoderInputs) -> nn.Module:
    name = options.encoder
    if not isinstance(name, str):
        encoder = custom_encoder(name, inputs.shape, options.n_components)
        if isinstance(encoder, PretrainedImageEncoder):
            encoder.check_images(as_float(inputs.rows[:_N_CHECKED_ROWS].cpu()))
        return encoder
    if inputs.layout is not None:
        _check_any_feature(inputs.layout)
    return _BUILDERS.get(name, build_library_encoder)(options, inputs)


def _check_any_feature(layout: ColumnLayout) -> None:
    if not (layout.numeric.size or layout.n_levels.any() or layout.has_missing.any()):
        raise ValueError(
            "X holds categorical columns only, and none of them has the same level in two "
            "training rows: drop identifiers, or pass numeric columns or coarser "
            "categories."
        )


def _display_name(options: EncoderOptions, module: nn.Module) -> str:
    return options.encoder if isinstance(options.encoder, str) else type(module).__name__


# Builders of encoders of tables and graphs --------------------------------------------


def _build_mlp(options: EncoderOptions, inputs: EncoderInputs) -> nn.Module:
    n_components, layout = options.n_components, inputs.layout
    width = DEFAULT_N_COMPONENTS if n_components is None else n_components
    hidden = _check_sizes(options.hidden_layer_sizes, _MLP_LAYER_SIZES)
    if layout is None or layout.is_plain:
        return MLPEncoder(inputs.shape, hidden, width, options.dropout)
    one_hot = OneHotColumns(layout)
    mlp = MLPEncoder((one_hot.width,), hidden, width, options.dropout)
    return nn.Sequential(one_hot, mlp)


def _build_tabular(options: EncoderOptions, inputs: EncoderInputs) -> nn.Module:
    rows, layout, n_components = inputs.rows, inputs.layout, options.n_components
    if layout is None:
        raise ValueError(
            f"encoder='tabular' takes tables, got rows of shape {inputs.shape}. Use "
            f"encoder='mlp' or 'auto'."
        )
    hidden = _check_sizes(options.hidden_layer_sizes, _TABULAR_LAYER_SIZES)
    if len(set(hidden)) != 1:
        raise ValueError(
            f"hidden_layer_sizes={options.hidden_layer_sizes!r} must hold equal widths, at "
            f"least one, for the residual layers of encoder='tabular'."
        )
    n_values = max(1, rows.shape[1])
    n_read = max(_MIN_ROWS_READ, min(MAX_QUANTILE_ROWS, _MAX_VALUES_READ // n_values))
    step = -(-rows.shape[0] // n_read)
    return TabularEncoder.fit(
        rows[torch.arange(0, rows.shape[0], step)],  # by index, as they may be in a file
        layout.n_levels.tolist(),
        has_missing=layout.has_missing,
        n_components=_TABULAR_N_COMPONENTS if n_components is None else n_components,
        n_members=options.n_members,
        width=hidden[0],
        n_layers=len(hidden),
        dropout=options.dropout,
    )


def _check_sizes(sizes: Sequence[int] | None, default: Sequence[int]) -> Sequence[int]:
    if sizes is None:
        return default
    if not all(isinstance(size, Integral) and size > 0 for size in sizes):
        raise ValueError(f"hidden_layer_sizes={sizes!r} must hold positive integers.")
    return [int(size) for size in sizes]


# Registry ----------------------------------------------------------------------------


def _build_gin(options: EncoderOptions, inputs: EncoderInputs) -> nn.Module:
    return GINEncoder(
        scale_of_features(inputs.rows),
        hidden_layer_sizes=_check_sizes(options.hidden_layer_sizes, _GIN_LAYER_SIZES),
        n_components=options.n_components,
        dropout=options.dropout,
    )


_Builder = Callable[[EncoderOptions, EncoderInputs], nn.Module]
_TABLE_BUILDERS: dict[str, _Builder] = {"mlp": _build_mlp, "tabular": _build_tabular}
_BUILDERS: dict[str, _Builder] = _TABLE_BUILDERS | IMAGE_BUILDERS | {"gin": _build_gin}
ENCODERS = tuple(_BUILDERS)
"""Names that `encoder` accepts beside ``"auto"`` and those of library models."""
StoredType = type[MLPEncoder | TabularEncoder | ConvEncoder | ResNetEncoder | GINEncoder]
# Types of built-in encoders by their names in files, which never change.
STORED_TYPES: dict[str, StoredType] = {
    "mlp": MLPEncoder,
    "tabular": TabularEncoder,
    "conv": ConvEncoder,
    "resnet": ResNetEncoder,
    "gin": GINEncoder,
}


def encoder_name(module: nn.Module) -> str:
    """Return the name of an encoder of tables; ``"auto"`` for all others."""
    last = module[-1] if isinstance(module, nn.Sequential) else module
    names = (name for name in _TABLE_BUILDERS if isinstance(last, STORED_TYPES[name]))
    return next(names, "auto")


# Custom encoders ---------------------------------------------------------------------


def is_pretrained(encoder: object) -> bool:
    """Return whether an encoder is known to have pretrained weights.

    Those of texts are, and :class:`~sklearn_hscl.encoders.PretrainedImageEncoder`.

    Parameters
    ----------
    encoder : str, nn.Module or callable
        The parameter of the embedder.
    """
    return reads_texts(encoder) or isinstance(encoder, PretrainedImageEncoder)


def custom_encoder(
    encoder: nn.Module | EncoderFactory,
    input_shape: tuple[int, ...],
    n_components: int | None,
) -> nn.Module:
    """Return a copy of the user's module, or of what the factory returns.

    It has float32 weights in host memory, wherever the original was left.

    Raises
    ------
    ValueError
        If the module cannot be copied, or the factory returns no module.
    """
    if not isinstance(encoder, nn.Module):
        return _call_factory(encoder, input_shape, n_components)
    try:
        return _trainable(copy.deepcopy(encoder).cpu().float())
    except Exception as error:
        raise ValueError(
            f"encoder={type(encoder).__name__} cannot be copied for training ({error}). "
            f"Pass a function that builds the module, such as encoder=lambda: module(), "
            f"which lazy modules need, too; weight_norm and spectral_norm of "
            f"torch.nn.utils.parametrizations; and a module instead of TorchScript."
        ) from error


def _trainable(module: nn.Module) -> nn.Module:
    """Return a module whose weights an optimizer can change."""
    if not all(weight.is_leaf for weight in module.parameters()):
        raise ValueError("its weights are results of operations, not leaf tensors")
    return module


def to_precision(module: ModuleType, dtype: torch.dtype) -> ModuleType:
    """Convert real weights to float32 or float64 in place; complex ones stay complex."""
    return module.double() if dtype == torch.float64 else module.float()


def _call_factory(
    factory: EncoderFactory, input_shape: tuple[int, ...], n_components: int | None
) -> nn.Module:
    offered: dict[str, object] = {
        "input_shape": input_shape,
        "n_features": input_shape[0],
        "n_components": DEFAULT_N_COMPONENTS if n_components is None else n_components,
    }
    built = factory(**_accepted_arguments(factory, offered))
    if reads_texts(built):
        raise ValueError(
            f"encoder={factory!r} returns a {type(built).__name__}, which reads texts, and "
            f"is not built by a function. Pass encoder={type(built).__name__}(...)."
        )
    if not isinstance(built, nn.Module):
        raise ValueError(
            f"encoder={factory!r} must return a torch.nn.Module, got {type(built)}."
        )
    if is_pretrained(built):  # the defaults were chosen for new weights
        raise ValueError(
            f"encoder={factory!r} must return a module with new weights, got "
            f"{type(built).__name__}. Pass that module itself."
        )
    with suppress(Exception):  # of lazy modules, and of hooks that compute weights
        built = copy.deepcopy(built)  # the factory may keep a reference to its result
    return _trainable(built.cpu().float())


def _accepted_arguments(
    factory: EncoderFactory, offered: dict[str, object]
) -> dict[str, object]:
    """Return those of the offered arguments that the factory has as parameters."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError as error:
        raise ValueError(
            f"Expected encoder to be a factory of modules, got {factory!r}: {error}."
        ) from error
    unknown = [
        p.name
        for p in parameters
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and (p.name not in offered or p.kind is p.POSITIONAL_ONLY)
    ]
    if unknown:
        raise ValueError(
            f"encoder={factory!r} needs the arguments {unknown}, but a factory can ask for "
            f"{list(offered)} alone, by name. Bind the others with functools.partial."
        )
    names = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return {k: v for k, v in offered.items() if takes_all or k in names}


# Check of the output -----------------------------------------------------------------


def output_width(
    module: nn.Module, name: str, sample: Tensor, n_components: int | None
) -> int:
    """Embed a few rows, and return the width of the embedding.

    Parameters
    ----------
    module : nn.Module
        The encoder.
    name : str
        Name of the encoder in messages.
    sample : Tensor of shape (n, ...)
        Some training rows.
    n_components : int or None
        The width that the user asked for, if any.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the module fails on the rows. Its output must be finite float32 embeddings of
        that width, with a gradient, and each must depend on its row alone.
    """
    sample = as_float(sample)
    sample = sample.float() if sample.is_floating_point() else sample
    try:
        output = module.eval()(sample)  # also gives lazy modules their shapes
        fewer = module(sample[:2])
    except Exception as error:
        stray = _tensors_elsewhere(module)
        remedy = f" Use register_buffer for {stray}, so that it moves." if stray else ""
        raise ValueError(
            f"encoder={name} failed on a batch of shape {tuple(sample.shape)} and dtype "
            f"{sample.dtype}: {error}{remedy}"
        ) from error
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[0] != len(sample):
        raise ValueError(
            f"encoder={name} must return one embedding per row, shape "
            f"({len(sample)}, n_components) for a batch of {len(sample)} rows, got "
            f"{shape}. Flatten or pool the output."
        )
    if n_components not in (None, shape[1]):
        raise ValueError(
            f"encoder={name} returns embeddings of width {shape[1]}, but "
            f"n_components={n_components}. Leave n_components=None to take the "
            f"module's width."
        )
    _check_embedding(name, output, fewer)
    return shape[1]


def _tensors_elsewhere(module: nn.Module) -> list[str]:
    """Return the names of tensors on other devices, which move with no module."""
    return [
        f"{path}.{name}".lstrip(".")
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, Tensor) and value.device.type != "cpu"
    ]


def _check_embedding(name: str, output: Tensor, fewer: Tensor) -> None:
    problem = None
    if output.dtype != torch.float32 or output.shape[1] == 0:
        problem = f"{output.dtype} of width {output.shape[1]}: return float32 embeddings"
    elif not output.requires_grad:
        problem = "embeddings without a gradient: it must have trainable parameters"
    elif not output.isfinite().all():
        problem = "NaN or infinity on training rows: scale X, or check its weights"
    elif not torch.allclose(output[:2], fewer, rtol=1e-3, atol=1e-5):
        problem = (
            "different embeddings of a row in different batches, in eval mode: use "
            "layers that treat rows independently, or track running statistics"
        )
    if problem is not None:
        raise ValueError(f"encoder={name} returns {problem}.")


# Stored configurations ---------------------------------------------------------------


# Keys of stored configs: the name of the type, whether one-hot columns come first, the
# width of the linear path, and the shape of the forests.
_TYPE, _ONE_HOT, _PATH, _FORESTS = "kind", "expands", "linear_path", "forests"


def get_config(encoder: nn.Module) -> EncoderConfig | None:
    """Return the arguments that a built-in encoder was built with, None for others."""
    if isinstance(encoder, LinearPath):
        config = get_config(encoder.encoder)
        return None if config is None else {**config, _PATH: encoder.width}
    if isinstance(encoder, ForestPath):
        config = get_config(encoder.encoder)
        shape = encoder.forests.get_config()
        return None if config is None else {**config, _FORESTS: shape}
    if type(encoder) is nn.Sequential and len(encoder) == 2:
        config = get_config(encoder[1])
        if config is None or type(encoder[0]) is not OneHotColumns:
            return None
        return {**config, _ONE_HOT: True}
    for name, encoder_type in STORED_TYPES.items():
        if type(encoder) is encoder_type:
            flags = {_ONE_HOT: False} if name == "mlp" else {}
            return {_TYPE: name, **flags, **encoder.get_config()}
    return None


def build_from_config(
    config: EncoderConfig,
    tensors: Mapping[str, Tensor],
    input_shape: tuple[int, ...],
    layout: ColumnLayout | None,
) -> nn.Module:
    """Build an encoder on the meta device, whose weights are loaded later.

    Parameters
    ----------
    config : dict
        Result of :func:`get_config`.
    tensors : mapping of str to Tensor
        State of the encoder by the names of its ``state_dict``. It gives some shapes, and
        the statistics of the columns.
    input_shape : tuple of int
        Shape of a row.
    layout : ColumnLayout or None
        Layout of the columns of preprocessed rows.

    Returns
    -------
    nn.Module

    Raises
    ------
    ValueError
        If the type is unknown, or the tensors do not fit the config.
    """
    config = dict(config)
    if _PATH in config:
        inner = _without_prefix(tensors, "encoder.")
        width = int(config.pop(_PATH))
        encoder = build_from_config(config, inner, input_shape, layout)
        return LinearPath.empty(encoder, input_shape, layout, width)
    if _FORESTS in config:
        nodes = _without_prefix(tensors, "forests.")
        forests = ForestScores.from_config(config.pop(_FORESTS), nodes, input_shape)
        inner = _without_prefix(tensors, "encoder.")
        return ForestPath(build_from_config(config, inner, input_shape, layout), forests)
    name = config.pop(_TYPE, None)
    if not isinstance(name, str) or name not in STORED_TYPES:
        raise ValueError(f"no built-in encoder has the type {name!r}")
    stored = StoredEncoder(tensors, input_shape, layout)
    with torch.device("meta"):
        if name == "mlp" and config.pop(_ONE_HOT):
            return _one_hot_mlp(config, stored)
        return STORED_TYPES[name].from_config(config, stored)


def _without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _one_hot_mlp(config: EncoderConfig, stored: StoredEncoder) -> nn.Module:
    if stored.layout is None:
        raise ValueError("the layout of the one-hot columns is missing")
    one_hot = OneHotColumns(stored.layout)
    inner = StoredEncoder(stored.tensors, (one_hot.width,), None)
    return nn.Sequential(one_hot, MLPEncoder.from_config(config, inner))
