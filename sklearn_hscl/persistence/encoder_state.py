"""Entries and arrays of the network, and back.

A built-in encoder is rebuilt from its configuration. Another encoder is passed again by
the user, and gets its weights from the file.
"""

import copy
from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sklearn_hscl.encoders.contrastive_module import ContrastiveModule
from sklearn_hscl.encoders.image.pixel_standardization import PixelScaling
from sklearn_hscl.encoders.image.registry import build_library_model, is_library_model
from sklearn_hscl.encoders.image.resnet import ResNetEncoder
from sklearn_hscl.encoders.preprocessing import ColumnLayout
from sklearn_hscl.encoders.registry import build_from_config, custom_encoder, get_config
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

ENCODER_PREFIX = "encoder."
_STORABLE_DTYPES = {
    torch.float32,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
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


def network_state(encoder: nn.Module, module: ContrastiveModule) -> tuple[Entries, Arrays]:
    """Return the configuration of the network and its weights on the CPU.

    Parameters
    ----------
    encoder : nn.Module
        The trained encoder.
    module : ContrastiveModule
        The module of the net, for the projection head and the classifier.
    """
    head, classifier = module.head, module.classifier
    entries = {
        "blueprint": get_config(encoder),
        "n_components": module.n_components,
        "projection_dim": head[-1].out_features
        if isinstance(head, nn.Sequential)
        else None,
        "n_classes": None if classifier is None else classifier.out_features,
    }
    parts = {"encoder": encoder, "head": head, "classifier": classifier}
    return entries, {
        f"{part}.{name}": cpu_array(value, f"{part}.{name}")
        for part, network in parts.items()
        if network is not None
        for name, value in network.state_dict().items()
    }


def cpu_array(value: object, name: str) -> Array:
    """Return a tensor as an array, without a copy if it is on the CPU."""
    if not isinstance(value, Tensor) or value.dtype not in _STORABLE_DTYPES:
        found = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise BundleError(
            f"Expected the state {name!r} of the encoder to be a tensor of real numbers, "
            f"got {found}. Keep only such tensors in its state_dict."
        )
    return value.detach().cpu().contiguous().numpy()


def to_cpu(module: nn.Module) -> nn.Module:
    """Return the module if it is on the CPU, else a copy there."""
    tensors = [*module.parameters(), *module.buffers()]
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return module
    return copy.deepcopy(module).cpu()


def restore_network(
    entries: Entries,
    arrays: StoredArrays,
    rows: RowFormat,
    custom: CustomEncoder | None,
) -> ContrastiveModule:
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
    if config is not None:
        encoder = _build_encoder(config, weights, rows)
    else:
        assert custom is not None  # the callers provide it
        encoder = custom.module
    with torch.device("meta"):
        module = ContrastiveModule(
            encoder,
            entries["n_components"],
            entries["projection_dim"],
            entries["n_classes"],
            rows.precision,
        )
    if custom is None or not custom.is_trained:
        _load_weights(encoder, weights, assign=config is not None)
    if config is not None and isinstance(encoder, ResNetEncoder):
        encoder.channels_last()  # as in training, for the same bits
    for name, part in (("head", module.head), ("classifier", module.classifier)):
        weights = _take_tensors(arrays, f"{name}.")
        if part is not None:
            _check_weights(part.to(dtype), weights, dtype)
            _load_weights(part, weights, assign=True)
    return module.eval()


def _build_encoder(
    config: Entries, weights: dict[str, Tensor], rows: RowFormat
) -> nn.Module:
    """Build the encoder of a configuration without weights, which are checked."""
    if config.get("n_layers", 0) > len(weights):
        raise BundleError("the encoder has fewer weights than layers")
    encoder = build_from_config(config, weights, rows.input_shape, rows.layout)
    _check_weights(encoder, weights, rows.precision.dtype)
    return encoder


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
    if is_name and get_config(module) is None:
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
    return CustomEncoder(module.to(dtype), is_trained=False)
