"""A fit as facts and arrays."""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from skorch.history import History
from torch import Tensor, nn

from sklearn_hscl.augment import Augmentation
from sklearn_hscl.encoders.contrastive_module import ContrastiveModule
from sklearn_hscl.losses import BetaSchedule, ContrastiveLoss
from sklearn_hscl.persistence.encoder_state import (
    host_array,
    network_state,
    restore_network,
)
from sklearn_hscl.persistence.json_codec import SCHEDULES
from sklearn_hscl.persistence.preprocessing_state import (
    restore_table,
    restore_targets,
    table_state,
    target_state,
)
from sklearn_hscl.persistence.schema import BundleError, StoredArrays, check_facts
from sklearn_hscl.runtime.device import resolve_device
from sklearn_hscl.runtime.precision import Precision, resolve_precision
from sklearn_hscl.runtime.random_state import Seeds
from sklearn_hscl.training.batches.batch_sampler import SAMPLERS
from sklearn_hscl.training.batches.views import choose_augment
from sklearn_hscl.training.fitted_state import ENTRIES, FittedState


@dataclass
class Comparison:
    """What a net knows of its batches and its loss, under the net's names."""

    batch_size: int
    n_views: int
    iterator_train__sampler: str
    augment: Augmentation
    criterion_: ContrastiveLoss


def comparison_state(net: Any) -> dict[str, Any]:
    """Return settled numbers and names; functions and tensors are in the parameters."""
    loss = net.criterion_.settings()
    return {
        "batch_size": int(net.batch_size),
        "n_views": int(net.n_views),
        "sampler": net.iterator_train__sampler,
        "loss": {name: value for name, value in loss.items() if _is_plain(value)},
    }


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def restore_comparison(facts: Any, params: Mapping[str, Any], ndim: int) -> Comparison:
    """Return what a net knows; the opposite of :func:`comparison_state`.

    Parameters
    ----------
    facts : dict
        What was stored.
    params : mapping
        Parameters of the embedder, for what is code.
    ndim : int
        Dimensions of the training rows.
    """
    check_facts(facts, "comparison", batch_size=int, n_views=int, sampler=str, loss=dict)
    if facts["batch_size"] < 2 or facts["n_views"] < 1 or facts["sampler"] not in SAMPLERS:
        raise BundleError(f"its batches are impossible: {facts!r:.80}")
    given = params["loss"]
    if isinstance(given, ContrastiveLoss):
        code = given.settings()
    else:
        code = {"hardening": params["hardening"]}
    return Comparison(
        facts["batch_size"],
        facts["n_views"],
        facts["sampler"],
        choose_augment(params["augment"], facts["n_views"], ndim),
        ContrastiveLoss.from_settings(code | facts["loss"]),
    )


@dataclass
class StoredNet(Comparison):
    """What a stored embedder keeps of the net that trained it, by the net's names.

    Attributes
    ----------
    module_ : ContrastiveModule
        Encoder, projection head and classifier.
    history : skorch.history.History
        One entry per epoch.
    optimizer_ : torch.optim.Optimizer or None
        Where its state was stored.
    """

    module_: ContrastiveModule
    history: History
    optimizer_: torch.optim.Optimizer | None = None

    @property
    def plain_module(self) -> ContrastiveModule:
        """The module, which is not compiled."""
        return self.module_


class State(NamedTuple):
    """What a fitted embedder is, without code."""

    facts: dict[str, Any]
    """Numbers, strings, small objects of this library, lists and dictionaries of them."""
    arrays: dict[str, NDArray[Any]]
    """Weights and what is known of the columns."""


def fitted_state(fitted: Mapping[str, Any], *, optimizer: bool = False) -> State:
    """Take the fitted attributes of an embedder apart.

    Parameters
    ----------
    fitted : mapping
        Its attributes.
    optimizer : bool, default=False
        Whether to store the state of the optimizer.

    Returns
    -------
    State
        Its arrays share memory with the weights where these lie on the host.
    """
    network, weights = network_state(fitted["module_"], fitted["net_"])
    table, schema = table_state(fitted["_columns"], fitted["_prepare"])
    targets, scales = target_state(fitted["_encode_targets"])
    updates, memory = (
        optimizer_state(fitted["net_"], fitted["net_params"]) if optimizer else (None, {})
    )
    facts = {
        "network": network,
        "table": table,
        "targets": targets,
        "optimizer": updates,
        "comparison": comparison_state(fitted["net_"]),
        "history": history_columns(fitted["history_"]),
    }
    facts |= {e.key: e.write(fitted.get(name)) for name, e in ENTRIES.items()}
    facts["beta"] = _storable_beta(facts["beta"])
    return State(facts, weights | schema | scales | memory)


def restore(
    state: State,
    params: Mapping[str, Any],
    *,
    encoder: nn.Module | None = None,
    is_trained: bool = False,
) -> dict[str, Any]:
    """Put the fitted attributes of an embedder together again.

    Parameters
    ----------
    state : State
        What :func:`fitted_state` returned.
    params : mapping
        Parameters of the embedder; `device` says where it shall lie.
    encoder : nn.Module or None
        The encoder, where it is a module of the user's; it is used as it is.
    is_trained : bool, default=False
        Whether `encoder` has its weights.

    Returns
    -------
    dict
        Attributes.

    Raises
    ------
    BundleError
        If the state is not that of a fitted embedder.
    """
    facts, arrays = _check(state.facts), StoredArrays(state.arrays)
    shape = tuple(facts["input_shape"])
    device = restored_device(params["device"])
    columns, prepare = restore_table(facts["table"], arrays, shape[0])
    encode = restore_targets(facts["targets"], arrays)
    module = restore_network(
        facts["network"],
        arrays,
        precision=restored_precision(facts, device, len(shape) + 1),
        input_shape=shape,
        layout=prepare.layout,
        encoder=encoder,
        is_trained=is_trained,
    ).to(device)
    optimizer = restore_optimizer(facts["optimizer"], arrays, module, params)
    comparison = restore_comparison(facts["comparison"], params, len(shape) + 1)
    arrays.check_empty()
    history = history_epochs(facts["history"])
    net = StoredNet(
        **vars(comparison),
        module_=module,
        history=History(copy.deepcopy(history)),
        optimizer_=optimizer,
    )
    entries = {
        name: entry.read(facts[entry.key])
        for name, entry in ENTRIES.items()
        if entry.read is not None
    }
    return FittedState(
        _columns=columns,
        _prepare=prepare,
        _encode_targets=encode,
        module_=module.encoder,
        net_=net,
        history_=history,
        _precision=module.precision,
        device_=device,
        beta_=params["beta"] if facts["beta"] is None else facts["beta"],
        **entries,
    ).attributes()


def _storable_beta(beta: Any) -> Any:
    """Return it, or None for a schedule of the user's, which is in the parameters."""
    is_own = isinstance(beta, BetaSchedule) and not isinstance(beta, SCHEDULES)
    return None if is_own else beta


def _check(facts: Any) -> Any:
    check_facts(
        facts,
        "embedder",
        network=dict,
        table=dict,
        targets=dict | None,
        optimizer=dict | None,
        comparison=dict,
        history=dict,
        **{entry.key: entry.type for entry in ENTRIES.values()},
    )
    shape, seeds = facts["input_shape"], facts["seeds"]
    if len(shape) not in (1, 3) or not all(type(n) is int and n > 0 for n in shape):
        raise BundleError(f"rows have the impossible shape {shape!r:.80}")
    n_seeds = len(Seeds._fields)
    if len(seeds) != n_seeds or not all(type(n) is int and n >= 0 for n in seeds):
        raise BundleError(f"the seeds are {seeds!r:.80}")
    return facts


def history_columns(history: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return plain numbers and strings of each epoch, column by column."""
    names = dict.fromkeys(name for epoch in history for name in epoch)
    columns = {name: [_plain(e.get(name)) for e in history] for name in names}
    return {k: v for k, v in columns.items() if any(value is not None for value in v)}


def _plain(value: Any) -> Any:
    """Make a number of numpy's one of Python's; drop what is neither number nor text."""
    value = value.item() if getattr(value, "shape", None) == () else value
    return value if isinstance(value, bool | int | float | str) else None


def history_epochs(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Return the entries of the epochs; the opposite of :func:`history_columns`."""
    values = list(columns.values())
    are_lists = all(isinstance(column, list) for column in values)
    if not are_lists or "train_loss" not in columns:
        raise BundleError("the history is not one of training")
    if len({len(column) for column in values}) > 1:
        raise BundleError("the columns of the history differ in length")
    return [
        {name: value for name, value in zip(columns, row, strict=True) if value is not None}
        for row in zip(*values, strict=True)
    ]


def restored_device(device: str | torch.device) -> torch.device:
    """Return where the embedder shall lie: on the host where its device is not there."""
    try:
        return resolve_device(device)
    except ValueError:
        warnings.warn(
            f"device={str(device)!r} is not there: the embedder lies on the CPU. Set "
            f"device='auto' to take a GPU where there is one.",
            UserWarning,
            stacklevel=2,
        )
        return torch.device("cpu")


def restored_precision(facts: dict[str, Any], device: torch.device, ndim: int) -> Precision:
    """Return types of numbers: those of the fit, or on another device exact ones."""
    name = facts["precision"]
    if name != "float64" and device.type != facts["device_type"]:
        name = "float32"
    if name == "auto":
        raise BundleError("the precision is 'auto'")
    return resolve_precision(name, device, ndim)


def optimizer_state(
    net: Any, net_params: dict[str, Any] | None
) -> tuple[dict[str, Any] | None, dict[str, NDArray[Any]]]:
    """Return the weights of each group by their names, and what is known of each weight.

    None where `net_params` ask for an optimizer of another class by now, to which that
    says nothing.
    """
    optimizer, kind = net.optimizer_, _kind(net_params)
    if optimizer is None or (isinstance(kind, type) and type(optimizer) is not kind):
        return None, {}
    module = getattr(net.module_, "_orig_mod", net.module_)  # not what torch.compile made
    names = {id(weight): name for name, weight in module.named_parameters()}
    groups = [
        [names[id(weight)] for weight in group["params"]]
        for group in optimizer.param_groups
    ]
    arrays, numbers = {}, {}
    for weight, memory in optimizer.state.items():
        for key, value in memory.items():
            name = f"optimizer.{names[id(weight)]}.{key}"
            if isinstance(value, Tensor):
                arrays[name] = host_array(value, name)
            elif value is not None:
                numbers[name] = value
    return {"groups": groups, "numbers": numbers}, arrays


def restore_optimizer(
    facts: Any, arrays: StoredArrays, module: nn.Module, params: Any
) -> torch.optim.Optimizer | None:
    """Return an optimizer with its memory; the opposite of :func:`optimizer_state`."""
    if facts is None:
        return None
    check_facts(facts, "optimizer", groups=list, numbers=dict)
    weights = dict(module.named_parameters())
    names = [name for group in facts["groups"] for name in group]
    if sorted(names) != sorted(weights):
        raise BundleError("the optimizer is one of other weights")
    kind = _kind(params["net_params"])
    groups = [{"params": [weights[name] for name in group]} for group in facts["groups"]]
    optimizer = kind([group for group in groups if group["params"]], lr=1e-3)
    for name, weight in weights.items():
        prefix = f"optimizer.{name}."
        memory: dict[str, Any] = {
            key: torch.from_numpy(value) for key, value in arrays.take_group(prefix).items()
        }
        for key, value in memory.items():
            if not _fits(value, weight):
                raise BundleError(f"the optimizer's {key} of {name!r} has another shape")
            memory[key] = value if key == "step" else _laid_out_like(weight, value)
        memory |= {
            key.removeprefix(prefix): value
            for key, value in facts["numbers"].items()
            if key.startswith(prefix)
        }
        if memory:
            optimizer.state[weight] = memory
    return optimizer


def _kind(net_params: dict[str, Any] | None) -> Any:
    return (net_params or {}).get("optimizer", torch.optim.AdamW)


def _fits(value: Tensor, weight: Tensor) -> bool:
    """Whether a value is of the weight's shape, of means over some of its axes, or one."""
    same_axes = value.ndim == weight.ndim and all(
        n in (1, m) for n, m in zip(value.shape, weight.shape, strict=True)
    )
    return same_axes or value.ndim == 0


def _laid_out_like(weight: Tensor, value: Tensor) -> Tensor:
    """Return a value on the weight's device, in its order in memory.

    torch's fused optimizers pair weights and what is known of them in that order.
    """
    if value.shape != weight.shape:
        return value.to(weight.device)
    return torch.empty_like(weight, dtype=value.dtype).copy_(value)
