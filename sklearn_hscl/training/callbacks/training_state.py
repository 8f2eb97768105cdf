"""The state of training between two epochs: collected, copied and restored."""

from collections.abc import Callable
from typing import Any, TypedDict

from skorch.history import History
from torch import Tensor

from sklearn_hscl.runtime.random_state import (
    RandomState,
    set_torch_random_state,
    torch_random_state,
)
from sklearn_hscl.training.loop.callback import CallbackState
from sklearn_hscl.training.loop.net import ContrastiveNet

Tree = Any  # nested dicts, lists and tuples of tensors, numbers and strings


class TrainingState(TypedDict):
    """All that training depends on between two epochs; its keys are those of the file."""

    history: list[dict[str, object]]
    first_epoch: int
    n_anchors: int
    stops: bool
    module: dict[str, Tensor]
    criterion: dict[str, Tensor]
    optimizer: dict[str, Tree]
    step: int
    rate_factor: float
    chunk_rows: int
    torch: RandomState
    views: Tensor
    batches: dict[str, Tree]
    callbacks: list[CallbackState]


def training_state(net: ContrastiveNet) -> TrainingState:
    """Collect weights, optimizer, random generators and the state of callbacks.

    The tensors are those of the training itself, which changes them: write them to disk,
    or take a :func:`snapshot`.

    Parameters
    ----------
    net : ContrastiveNet
        The net between two epochs.

    Returns
    -------
    dict
        Holds tensors, numbers, strings, lists, tuples and dicts only.
    """
    loop = net.loop
    rate, generator = loop.learning_rate, loop.views.generator
    return {
        "history": list(net.history),
        "first_epoch": net.first_epoch_,
        "n_anchors": net.n_anchors_,
        "stops": net.stops_,
        "module": net.plain_module.state_dict(),
        "criterion": net.criterion_.state_dict(),
        "optimizer": net.optimizer_.state_dict(),
        "step": 0 if rate is None else rate.step,
        "rate_factor": 1.0 if rate is None else rate.factor,
        "chunk_rows": loop.gradient_cache.chunk_rows,
        "torch": torch_random_state(generator.device),
        "views": generator.get_state(),
        "batches": net.iterator_train__rng.bit_generator.state,
        "callbacks": [callback.state() for callback in net.training_callbacks],
    }


def snapshot(net: ContrastiveNet) -> TrainingState:
    """Return a copy of the state of a net, which further training does not change."""
    state = training_state(net)
    history = state["history"]  # records of completed epochs do not change
    copied: TrainingState = _map_tensors({**state, "history": []}, Tensor.clone)
    return {**copied, "history": history}


def restore_training(net: ContrastiveNet, state: TrainingState) -> None:
    """Bring a net that is about to train to a state of the same training.

    Parameters
    ----------
    net : ContrastiveNet
        The net in its loop, between two epochs.
    state : dict
        From :func:`training_state`; its tensors may be used, and changed.
    """
    loop = net.loop
    net.history_ = History(state["history"])
    net.first_epoch_ = state["first_epoch"]
    net.n_anchors_ = state["n_anchors"]
    net.plain_module.load_state_dict(state["module"])
    net.criterion_.load_state_dict(state["criterion"])
    _restore_optimizer(net, state)
    loop.gradient_cache.chunk_rows = state["chunk_rows"]
    generator = loop.views.generator
    set_torch_random_state(generator.device, state["torch"])
    generator.set_state(state["views"])
    net.iterator_train__rng.bit_generator.state = state["batches"]
    for callback, remembered in zip(
        net.training_callbacks, state["callbacks"], strict=True
    ):
        callback.restore(
            _map_tensors(remembered, lambda tensor: tensor.to(generator.device))
        )


def _restore_optimizer(net: ContrastiveNet, state: TrainingState) -> None:
    """Restore the optimizer, but keep the base rates if our schedule sets the rates."""
    rate, optimizer = net.loop.learning_rate, net.optimizer_
    if rate is None:
        optimizer.load_state_dict(state["optimizer"])
        return
    rate.restore()
    base_rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state["optimizer"])
    for group, base_rate in zip(optimizer.param_groups, base_rates, strict=True):
        group["lr"] = base_rate
    rate.step, rate.factor = state["step"], state["rate_factor"]


def _map_tensors(tree: Tree, function: Callable[[Tensor], Tensor]) -> Tree:
    """Apply a function to the tensors in nested dicts, lists and tuples."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: _map_tensors(value, function) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_map_tensors(value, function) for value in tree)
    return tree
