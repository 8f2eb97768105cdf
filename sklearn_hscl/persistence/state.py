"""A fitted embedder as plain facts and arrays, and back."""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from skorch.history import History
from torch import nn

from sklearn_hscl.encoders.base import ContrastiveModule
from sklearn_hscl.losses import BetaSchedule
from sklearn_hscl.persistence.arrays import StoredArrays
from sklearn_hscl.persistence.comparison import (
    Comparison,
    comparison_state,
    restore_comparison,
)
from sklearn_hscl.persistence.errors import BundleError
from sklearn_hscl.persistence.facts import check_facts
from sklearn_hscl.persistence.history import history_columns, history_epochs
from sklearn_hscl.persistence.network import network_state, restore_network
from sklearn_hscl.persistence.optimizer import optimizer_state, restore_optimizer
from sklearn_hscl.persistence.placement import restored_device, restored_precision
from sklearn_hscl.persistence.stored_net import StoredNet
from sklearn_hscl.persistence.table import (
    restore_table,
    restore_targets,
    table_state,
    target_state,
)
from sklearn_hscl.persistence.values import SCHEDULES
from sklearn_hscl.runtime.random_state import Seeds
from sklearn_hscl.training.data import data_attributes

# Attributes of a fit that a state stands for.
COVERED = frozenset(
    {
        "module_",
        "net_",
        "history_",
        "loss_curve_",
        "n_iter_",
        "best_epoch_",
        "input_shape_",
        "device_",
        "n_threads_",
        "beta_",
        "temperature_",
        "classes_",
        "is_categorical_",
        "categories_",
        "_precision",
        "_columns",
        "_encode_targets",
        "_seeds",
        "_prepare",
        "_n_features_out",
        "chance_loss_",
        "valid_score_name_",
        "_n_anchors",
    }
)


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
        "best_epoch": fitted["best_epoch_"],
        "chance_loss": fitted["chance_loss_"],
        "valid_score_name": fitted.get("valid_score_name_"),
        "n_anchors": fitted["_n_anchors"],
        "input_shape": [int(size) for size in fitted["input_shape_"]],
        "n_threads": fitted["n_threads_"],
        "precision": fitted["_precision"].name,
        "device_type": fitted["device_"].type,
        "beta": _storable_beta(fitted["beta_"]),
        "temperature": fitted["temperature_"],
        "seeds": list(fitted["_seeds"]),
    }
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
    return (
        {"device_": device, "_prepare": prepare}
        | _of_facts(facts, params)
        | _of_training(module, optimizer, comparison, history_epochs(facts["history"]))
        | data_attributes(encode, columns)
    )


def _of_facts(facts: dict[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    fitted = {
        "input_shape_": tuple(facts["input_shape"]),
        "n_threads_": facts["n_threads"],
        "best_epoch_": facts["best_epoch"],
        "chance_loss_": facts["chance_loss"],
        "_n_anchors": facts["n_anchors"],
        "beta_": params["beta"] if facts["beta"] is None else facts["beta"],
        "temperature_": facts["temperature"],
        "_seeds": Seeds(*facts["seeds"]),
    }
    if facts["valid_score_name"] is not None:
        fitted["valid_score_name_"] = facts["valid_score_name"]
    return fitted


def _of_training(
    module: ContrastiveModule,
    optimizer: torch.optim.Optimizer | None,
    comparison: Comparison,
    history: list[dict[str, Any]],
) -> dict[str, Any]:
    epochs = History(copy.deepcopy(history))
    return {
        "module_": module.encoder,
        "net_": StoredNet(
            **vars(comparison), module_=module, history=epochs, optimizer_=optimizer
        ),
        "history_": history,
        "loss_curve_": [epoch["train_loss"] for epoch in history],
        "n_iter_": len(history),
        "_precision": module.precision,
        "_n_features_out": module.n_components,
    }


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
        best_epoch=int,
        chance_loss=float,
        valid_score_name=str | None,
        n_anchors=int,
        input_shape=list,
        n_threads=int,
        precision=str,
        device_type=str,
        beta=object,
        temperature=int | float,
        seeds=list,
    )
    shape, seeds = facts["input_shape"], facts["seeds"]
    if len(shape) not in (1, 3) or not all(type(n) is int and n > 0 for n in shape):
        raise BundleError(f"rows have the impossible shape {shape!r:.80}")
    n_seeds = len(Seeds._fields)
    if len(seeds) != n_seeds or not all(type(n) is int and n >= 0 for n in seeds):
        raise BundleError(f"the seeds are {seeds!r:.80}")
    return facts
