"""A fitted embedder as entries and arrays, and back.

Encoder, columns and targets have a module of their own. The other parts of a fit follow
here: net, optimizer, history and device.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator
from skorch.history import History
from torch import Tensor, nn

from sklearn_hscl.augment import Augmentation
from sklearn_hscl.encoders.contrastive_module import ContrastiveModule
from sklearn_hscl.encoders.linear_path import path_width
from sklearn_hscl.encoders.text.tokens import tokenization_of
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.losses.beta_schedules import BetaSchedule
from sklearn_hscl.persistence.encoder_state import (
    CustomEncoder,
    RowFormat,
    cpu_array,
    network_state,
    restore_network,
    restore_table,
    restore_targets,
    table_state,
    target_state,
)
from sklearn_hscl.persistence.json_codec import Schedule
from sklearn_hscl.persistence.schema import (
    Arrays,
    BundleError,
    Entries,
    Params,
    StoredArrays,
    check_schema,
)
from sklearn_hscl.runtime.device import resolve_device
from sklearn_hscl.runtime.precision import Precision, resolve_precision
from sklearn_hscl.runtime.random_state import Seeds
from sklearn_hscl.training.batches.batch_sampler import SAMPLERS
from sklearn_hscl.training.batches.views import choose_augment
from sklearn_hscl.training.fitted_state import (
    ENTRIES,
    EpochRecord,
    FittedNet,
    FittedState,
    is_shape,
    n_features_of,
)


class StoredState(NamedTuple):
    """A fitted embedder without code."""

    entries: Entries
    """Numbers, strings, small objects of this library, lists and dictionaries of them."""
    arrays: Arrays
    """Weights and statistics of the columns."""


def estimator_state(
    estimator: BaseEstimator, *, optimizer: bool = False, has_custom_weights: bool = True
) -> StoredState:
    """Return the fit of an embedder as entries and arrays.

    Parameters
    ----------
    estimator : HSCLEmbedder
        A fitted embedder.
    optimizer : bool, default=False
        Whether to store the state of the optimizer.
    has_custom_weights : bool, default=True
        Whether to store the weights of an encoder that is not built in.

    Returns
    -------
    StoredState
        Its arrays share memory with the weights if these are on the CPU.
    """
    fitted = FittedState.of(estimator)
    net = fitted.net_
    network, arrays = network_state(
        fitted.module_, net.module_, has_custom_weights=has_custom_weights
    )
    table, table_arrays = table_state(fitted.columns, fitted.prepare)
    targets, target_arrays = target_state(fitted.encode_targets)
    entries: Entries = {
        "network": network,
        "table": table,
        "targets": targets,
        "optimizer": None,
        "comparison": _loss_state(net),
        "history": _history_columns(fitted.history_),
    }
    entries |= {e.key: e.write(getattr(fitted, name)) for name, e in ENTRIES.items()}
    entries["beta"] = _stored_beta(fitted.beta_)
    arrays |= table_arrays | target_arrays
    if optimizer:
        entries["optimizer"], memory = optimizer_state(
            net.optimizer_, net.module_, estimator.net_params
        )
        arrays |= memory
    return StoredState(entries, arrays)


def restore(
    state: StoredState,
    params: Params,
    *,
    custom_encoder: CustomEncoder | None = None,
) -> FittedState:
    """Return the fit of an embedder; the inverse of :func:`estimator_state`.

    Parameters
    ----------
    state : StoredState
        Entries and arrays.
    params : mapping
        Parameters of the embedder. `device` selects the device.
    custom_encoder : CustomEncoder or None
        The encoder if it is not built in; it is not copied.

    Returns
    -------
    FittedState

    Raises
    ------
    BundleError
        If the entries and arrays are not those of a fitted embedder.
    """
    entries, arrays = _check_entries(state.entries), StoredArrays(state.arrays)
    input_shape = tuple(entries["input_shape"])
    ndim = len(input_shape) + 1
    device = _available_device(params["device"])
    n_features = n_features_of(input_shape)
    columns, prepare = restore_table(entries["table"], arrays, n_features)
    encode_targets = restore_targets(entries["targets"], arrays)
    precision = _restore_precision(entries, device, ndim)
    rows = RowFormat(input_shape, prepare.layout, precision)
    encoder, module = restore_network(entries["network"], arrays, rows, custom_encoder)
    encoder, module = encoder.to(device), module.to(device)
    if not input_shape:
        prepare = tokenization_of(encoder)
    net = RestoredNet(
        **vars(
            _restore_loss_state(
                entries["comparison"],
                params,
                input_shape,
                has_targets=encode_targets is not None,
            )
        ),
        module_=module,
        history=History(_history_epochs(entries["history"])),
        optimizer_=restore_optimizer(
            entries["optimizer"], arrays, module, params["net_params"]
        ),
    )
    arrays.check_empty()
    plain_entries = {
        name: entry.read(entries[entry.key])
        for name, entry in ENTRIES.items()
        if entry.read is not None
    }
    return FittedState(
        columns=columns,
        prepare=prepare,
        encode_targets=encode_targets,
        module_=encoder,
        net_=net,
        n_features_out=module.n_components + path_width(encoder),
        history_=_history_epochs(entries["history"]),
        precision=precision,
        device_=device,
        beta_=params["beta"] if entries["beta"] is None else entries["beta"],
        **plain_entries,
    )


# Entries that files of earlier versions lack.
_LATER_ENTRIES: Entries = {"held_out_readout": None}


def _check_entries(entries: object) -> Entries:
    if isinstance(entries, dict):
        entries = _LATER_ENTRIES | entries
    checked = check_schema(
        entries,
        "embedder",
        network=dict,
        table=dict,
        targets=dict | None,
        optimizer=dict | None,
        comparison=dict,
        history=dict,
        **{entry.key: entry.type for entry in ENTRIES.values()},
    )
    shape, seeds = checked["input_shape"], checked["seeds"]
    if not is_shape(shape):
        raise BundleError(f"the rows have the invalid shape {shape!r:.80}")
    n_seeds = len(Seeds._fields)
    if len(seeds) != n_seeds or not all(type(n) is int and n >= 0 for n in seeds):
        raise BundleError(f"the seeds are invalid: {seeds!r:.80}")
    return checked


def _stored_beta(beta: float | BetaSchedule) -> float | Schedule | None:
    """Return beta, or None for a custom schedule, which is in the parameters."""
    if isinstance(beta, BetaSchedule) and not isinstance(beta, Schedule):
        return None
    return beta


# Net ---------------------------------------------------------------------------------


@dataclass
class _LossState:
    """Batches, views and loss of a net, under the net's names."""

    batch_size: int
    n_views: int
    iterator_train__sampler: str
    augment: Augmentation
    criterion_: ContrastiveLoss


@dataclass
class RestoredNet(_LossState):
    """The part of a net that a stored embedder has, under the net's names.

    Attributes
    ----------
    module_ : ContrastiveModule
        Encoder, projection head and classifier.
    history : skorch.history.History
        One entry per epoch.
    optimizer_ : torch.optim.Optimizer or None
        The optimizer, if its state was stored.
    """

    module_: ContrastiveModule
    history: History
    optimizer_: torch.optim.Optimizer | None = None

    @property
    def plain_module(self) -> ContrastiveModule:
        """The module, which is not compiled."""
        return self.module_


def _loss_state(net: FittedNet) -> Entries:
    """Return resolved values and names; functions and tensors are in the parameters."""
    settings = net.criterion_.settings()
    return {
        "batch_size": int(net.batch_size),
        "n_views": int(net.n_views),
        "sampler": net.iterator_train__sampler,
        "loss": {name: value for name, value in settings.items() if _is_plain(value)},
    }


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _restore_loss_state(
    entries: Entries, params: Params, shape: tuple[int, ...], *, has_targets: bool
) -> _LossState:
    """Return batches, views and loss; the inverse of :func:`_loss_state`.

    Parameters
    ----------
    entries : dict
        Stored values.
    params : mapping
        Parameters of the embedder, for functions and augmentations.
    shape : tuple of int
        Shape of a training row.
    has_targets : bool
        Whether labels or values decided about positives.
    """
    check_schema(entries, "comparison", batch_size=int, n_views=int, sampler=str, loss=dict)
    batch_size, n_views = entries["batch_size"], entries["n_views"]
    if batch_size < 2 or n_views < 1 or entries["sampler"] not in SAMPLERS:
        raise BundleError(f"its batches are invalid: {entries!r:.80}")
    given = params["loss"]
    if isinstance(given, ContrastiveLoss):
        settings = given.settings()
    else:
        settings = {"hardening": params["hardening"]}
    return _LossState(
        batch_size,
        n_views,
        entries["sampler"],
        choose_augment(params["augment"], n_views, shape, has_targets=has_targets),
        ContrastiveLoss.from_settings(settings | entries["loss"]),
    )


# Optimizer ---------------------------------------------------------------------------


NetParams = Params | None


def optimizer_state(
    optimizer: torch.optim.Optimizer | None, module: nn.Module, net_params: NetParams
) -> tuple[Entries | None, Arrays]:
    """Return the names of the weights in each group, and the state of each weight.

    None if the net has no optimizer, or if `net_params` now name one of another class,
    which cannot use the state.
    """
    expected = _optimizer_class(net_params)
    is_other = isinstance(expected, type) and type(optimizer) is not expected
    if optimizer is None or is_other:
        return None, {}
    module = getattr(module, "_orig_mod", module)  # the original of a compiled module
    names = {id(weight): name for name, weight in module.named_parameters()}
    groups = [
        [names[id(weight)] for weight in group["params"]]
        for group in optimizer.param_groups
    ]
    arrays, numbers = {}, {}
    for weight, state in optimizer.state.items():
        for key, value in state.items():
            name = f"{_prefix(names[id(weight)])}{key}"
            if isinstance(value, Tensor):
                arrays[name] = cpu_array(value, name)
            elif value is not None:
                numbers[name] = value
    return {"groups": groups, "numbers": numbers}, arrays


def restore_optimizer(
    entries: Entries | None,
    arrays: StoredArrays,
    module: nn.Module,
    net_params: NetParams,
) -> torch.optim.Optimizer | None:
    """Return an optimizer with its state; the inverse of :func:`optimizer_state`."""
    if entries is None:
        return None
    check_schema(entries, "optimizer", groups=list, numbers=dict)
    weights = dict(module.named_parameters())
    names = [name for group in entries["groups"] for name in group]
    if sorted(names) != sorted(weights):
        raise BundleError("the weights of the optimizer are not those of the network")
    groups = [{"params": [weights[name] for name in group]} for group in entries["groups"]]
    optimizer = _optimizer_class(net_params)([g for g in groups if g["params"]], lr=1e-3)
    for name, weight in weights.items():
        state = dict(_tensor_state(arrays, name, weight))
        state |= _numeric_state(entries["numbers"], name)
        if state:
            optimizer.state[weight] = state
    return optimizer


def _tensor_state(
    arrays: StoredArrays, name: str, weight: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in the state of a weight."""
    for key, array in arrays.take_group(_prefix(name)).items():
        value = torch.from_numpy(array)
        if not _is_broadcastable(value, weight):
            raise BundleError(f"{key} of {name!r} in the optimizer has an invalid shape")
        yield key, value if key == "step" else _with_layout_of(weight, value)


def _numeric_state(numbers: Entries, name: str) -> Entries:
    """Return the numbers in the state of a weight."""
    prefix = _prefix(name)
    return {
        key.removeprefix(prefix): value
        for key, value in numbers.items()
        if key.startswith(prefix)
    }


def _prefix(name: str) -> str:
    return f"optimizer.{name}."


def _optimizer_class(net_params: NetParams) -> Callable[..., torch.optim.Optimizer]:
    return (net_params or {}).get("optimizer", torch.optim.AdamW)


def _is_broadcastable(value: Tensor, weight: Tensor) -> bool:
    """Return whether a value has the weight's shape, a reduced one, or is a scalar."""
    has_same_axes = value.ndim == weight.ndim and all(
        n in (1, m) for n, m in zip(value.shape, weight.shape, strict=True)
    )
    return has_same_axes or value.ndim == 0


def _with_layout_of(weight: Tensor, value: Tensor) -> Tensor:
    """Return a value on the weight's device, in the weight's memory layout.

    Fused optimizers of torch pair the elements of weights and state in that order.
    """
    if value.shape != weight.shape:
        return value.to(weight.device)
    return torch.empty_like(weight, dtype=value.dtype).copy_(value)


# History -----------------------------------------------------------------------------


def _history_columns(history: list[EpochRecord]) -> dict[str, list[object]]:
    """Return plain numbers and strings of the epochs, column by column."""
    names = dict.fromkeys(name for epoch in history for name in epoch)
    columns: dict[str, list[object]] = {
        name: [_to_plain(epoch.get(name)) for epoch in history] for name in names
    }
    return {k: v for k, v in columns.items() if any(value is not None for value in v)}


def _to_plain(value: object) -> bool | int | float | str | None:
    """Return a number or a string, or None for any other value."""
    if isinstance(value, np.generic | np.ndarray | torch.Tensor) and value.ndim == 0:
        value = value.item()
    return value if isinstance(value, bool | int | float | str) else None


def _history_epochs(columns: dict[str, list[object]]) -> list[EpochRecord]:
    """Return the records of the epochs; the inverse of :func:`_history_columns`."""
    values = list(columns.values())
    are_lists = all(isinstance(column, list) for column in values)
    if not are_lists or "train_loss" not in columns:
        raise BundleError("expected the history to have the column train_loss")
    if len({len(column) for column in values}) > 1:
        raise BundleError("the columns of the history differ in length")
    return [
        {name: value for name, value in zip(columns, row, strict=True) if value is not None}
        for row in zip(*values, strict=True)
    ]


# Device and precision ----------------------------------------------------------------


def _available_device(device: str | torch.device) -> torch.device:
    """Return the device, or the CPU with a warning if it is not available."""
    try:
        return resolve_device(device)
    except ValueError:
        warnings.warn(
            f"device={str(device)!r} is not available; loading on the CPU. Set "
            f"device='auto' to use a GPU if one is available.",
            UserWarning,
            stacklevel=2,
        )
        return torch.device("cpu")


def _restore_precision(entries: Entries, device: torch.device, ndim: int) -> Precision:
    """Return the precision of the fit, or float32 on a device of another type."""
    name = entries["precision"]
    if name != "float64" and device.type != entries["device_type"]:
        name = "float32"
    if name == "auto":
        raise BundleError("expected a resolved precision, got 'auto'")
    return resolve_precision(name, device, ndim)
