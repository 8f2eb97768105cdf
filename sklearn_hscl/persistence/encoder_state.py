"""The encoder as a document and arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklearn_hscl.encoders.config import describe, rebuild
from sklearn_hscl.encoders.contrastive_module import ContrastiveModule
from sklearn_hscl.encoders.custom import own_module
from sklearn_hscl.encoders.image.pixel_standardization import PixelScaling
from sklearn_hscl.encoders.image.registry import build_library_model, is_library_model
from sklearn_hscl.encoders.image.resnet import ResNetEncoder
from sklearn_hscl.encoders.preprocessing import ColumnLayout
from sklearn_hscl.persistence.schema import BundleError, StoredArrays, check_facts
from sklearn_hscl.runtime.precision import Precision

Facts = dict[str, Any]
Arrays = dict[str, NDArray[Any]]


def network_state(encoder: nn.Module, net: Any) -> tuple[Facts, Arrays]:
    """Return what the network is built from, and its weights on the host.

    Parameters
    ----------
    encoder : nn.Module
        The trained encoder.
    net : skorch net
        The net that trained it, for what training adds to the encoder.
    """
    module = net.module_
    classifier = module.classifier
    facts = {
        "blueprint": describe(encoder),
        "n_components": module.n_components,
        "projection_dim": _out_features(module.head),
        "n_classes": None if classifier is None else classifier.out_features,
    }
    parts = {"encoder": encoder, "head": module.head, "classifier": classifier}
    return facts, {
        f"{part}.{name}": host_array(value, f"{part}.{name}")
        for part, network in parts.items()
        if network is not None
        for name, value in network.state_dict().items()
    }


def _out_features(head: nn.Module) -> Any:
    return head[-1].out_features if isinstance(head, nn.Sequential) else None


def host_array(value: Any, name: str) -> NDArray[Any]:
    """Return a tensor as an array, without a copy where it lies on the host."""
    if not isinstance(value, Tensor) or value.dtype not in _ARRAY_TYPES:
        what = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise BundleError(
            f"The state {name!r} of the encoder is {what}, which cannot be stored: keep "
            f"tensors of real numbers in its state_dict."
        )
    return value.detach().cpu().contiguous().numpy()


_ARRAY_TYPES = {
    torch.float32,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
}


def restore_network(
    facts: Any,
    arrays: StoredArrays,
    *,
    precision: Precision,
    input_shape: tuple[int, ...],
    layout: ColumnLayout | None,
    encoder: nn.Module | None,
    is_trained: bool = False,
) -> ContrastiveModule:
    """Return the network on the host; the opposite of :func:`network_state`.

    Parameters
    ----------
    facts : dict
        What it is built from.
    arrays : StoredArrays
        Its weights.
    precision : Precision
        Types of numbers.
    input_shape : tuple of int
        Shape of a row.
    layout : ColumnLayout or None
        Columns of prepared rows.
    encoder : nn.Module or None
        A module of the user's, for which there is no blueprint.
    is_trained : bool, default=False
        Whether it has its weights, so that none are stored.
    """
    size = int | None
    check_facts(
        facts,
        "network",
        blueprint=dict | None,
        n_components=int,
        projection_dim=size,
        n_classes=size,
    )
    weights = _tensors(arrays, "encoder.")
    blueprint = facts["blueprint"]
    if blueprint is not None:
        if blueprint.get("n_layers", 0) > len(weights):
            raise BundleError("the encoder has fewer weights than layers")
        encoder = rebuild(blueprint, weights, input_shape, layout)
        _check_weights(encoder, weights, precision.dtype)
    assert encoder is not None  # the caller asks for it
    with torch.device("meta"):
        module = ContrastiveModule(
            encoder,
            facts["n_components"],
            facts["projection_dim"],
            facts["n_classes"],
            precision,
        )
    if not is_trained:
        _load(encoder, weights, assign=blueprint is not None)
        if blueprint is not None and isinstance(encoder, ResNetEncoder):
            encoder.channels_last()  # as it was trained, for the same bits
    for part in ("head", "classifier"):
        network, weights = getattr(module, part), _tensors(arrays, f"{part}.")
        if network is not None:
            _check_weights(network.to(precision.dtype), weights, precision.dtype)
            _load(network, weights, assign=True)
    return module.eval()


def _tensors(arrays: StoredArrays, prefix: str) -> dict[str, Tensor]:
    """Return tensors in the memory of arrays."""
    group = arrays.take_group(prefix)
    return {name: torch.from_numpy(value) for name, value in group.items()}


def _load(network: nn.Module, weights: dict[str, Tensor], *, assign: bool) -> None:
    """Give a network its weights, which must be just those that it has places for."""
    try:
        network.load_state_dict(weights, assign=assign)
    except (RuntimeError, KeyError, ValueError) as error:
        raise BundleError(f"the weights do not fit the encoder: {error}") from error


def _check_weights(
    network: nn.Module, weights: dict[str, Tensor], dtype: torch.dtype
) -> None:
    """Check types and values; entries that follow from the columns must be those."""
    for name, place in network.state_dict().items():
        value = weights.get(name)
        if value is None:
            continue  # raises when they are loaded
        kind = dtype if place.is_floating_point() else place.dtype
        if value.dtype != kind:
            raise BundleError(f"the weights {name!r} are {value.dtype}, not {kind}")
        if value.is_floating_point() and not value.isfinite().all():
            raise BundleError(f"the weights {name!r} hold NaN or infinity")
        is_derived = not (place.is_meta or place.is_floating_point())
        if is_derived and not torch.equal(place, value):
            raise BundleError(f"the entries of {name!r} are not those of the columns")


def check_left_out(estimator: Any, leave_out: Sequence[str]) -> None:
    """Raise where layers are not this library's, but the encoder is a name to be stored.

    What the name stands for is code of another library, which a file does not say to run;
    or it was set after the fit. Encoders that are no names are refused as parameters.
    """
    is_name = isinstance(estimator.encoder, str) and "encoder" not in leave_out
    if is_name and describe(estimator.module_) is None:
        name = type(estimator).__name__
        raise ValueError(
            f"The parameter encoder is {estimator.encoder!r}, but the layers of the fit "
            f"({type(estimator.module_).__name__}) are not of this library, so that a file "
            f"without code cannot hold them: save(path, leave_out=['encoder']), and pass "
            f"the encoder again as {name}.load(path, encoder=...); or use pickle."
        )


def given_encoder(
    estimator: Any, given: Mapping[str, Any], shape: tuple[int, ...]
) -> nn.Module:
    """Return the encoder that the user gives to a file without it; its weights follow.

    Parameters
    ----------
    estimator : HSCLEmbedder
        With all its parameters.
    given : mapping
        The parameters that come from the user, not from the file.
    shape : tuple of int
        Of a row.

    Returns
    -------
    nn.Module

    Raises
    ------
    BundleError
        If there is none.
    """
    encoder, n_components = estimator.encoder, estimator.n_components
    if not isinstance(encoder, str):
        return own_module(encoder, shape, n_components)
    if "encoder" not in given or not is_library_model(encoder):
        raise BundleError("it has no blueprint of its encoder")
    scaling = PixelScaling(torch.zeros(shape[0]), torch.ones(shape[0]))
    return build_library_model(encoder, scaling, n_components)
