"""The state of training in memory, to go back to when training diverges."""

import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

from skorch.history import History
from torch import Tensor

from sklearn_hscl.runtime.random_state import set_torch_random_state, torch_random_state
from sklearn_hscl.training.loop.callback import TrainingCallback
from sklearn_hscl.training.loop.epoch import DivergenceError

State = dict[str, Any]


def training_state(net: Any) -> State:
    """Collect weights, optimizer, random generators and what callbacks remember.

    Tensors are those of the training itself, which changes them: write them away, or
    take a :func:`snapshot`.

    Parameters
    ----------
    net : ContrastiveNet
        Between two epochs.

    Returns
    -------
    dict
        Of tensors, numbers, strings, lists, tuples and dicts only.
    """
    rate = net.learning_rate_
    return {
        "history": list(net.history),
        "first_epoch": net.first_epoch_,
        "n_anchors": net.n_anchors_,
        "stops": net.stops_,
        "module": net.plain_module.state_dict(),
        "criterion": net.criterion_.state_dict(),
        "optimizer": net.optimizer_.state_dict(),
        "step": net.first_step_ if rate is None else rate.step,
        "rate_factor": net.rate_factor_,
        "chunk_rows": net.step_.differentiate.chunk_rows,
        "torch": torch_random_state(net.step_.views.generator.device),
        "views": net.step_.views.generator.get_state(),
        "batches": net.iterator_train__rng.bit_generator.state,
        "callbacks": [callback.state() for callback in _callbacks(net)],
    }


def snapshot(net: Any) -> State:
    """Return the state of a net that training on does not change."""
    state = training_state(net)
    history = state.pop("history")  # of epochs that are over: their records stay
    return {"history": history, **_each_tensor(state, Tensor.clone)}


def restore_training(net: Any, state: State) -> None:
    """Bring a net that is about to train to a state of the same training.

    Parameters
    ----------
    net : ContrastiveNet
        After its `begin`.
    state : dict
        From :func:`training_state`; its tensors may be used, and changed.
    """
    net.history_ = History(state["history"])
    net.first_epoch_ = state["first_epoch"]
    net.n_anchors_ = state["n_anchors"]
    net.plain_module.load_state_dict(state["module"])
    net.criterion_.load_state_dict(state["criterion"])
    _restore_optimizer(net, state["optimizer"])
    net.first_step_ = state["step"]
    net.rate_factor_ = state["rate_factor"]
    net.step_.differentiate.chunk_rows = state["chunk_rows"]
    device = net.step_.views.generator.device
    set_torch_random_state(device, state["torch"])
    net.step_.views.generator.set_state(state["views"])
    net.iterator_train__rng.bit_generator.state = state["batches"]
    for callback, remembered in zip(_callbacks(net), state["callbacks"], strict=True):
        callback.restore(_each_tensor(remembered, lambda tensor: tensor.to(device)))


def _restore_optimizer(net: Any, state: State) -> None:
    """Restore the optimizer, but for rates that follow our schedule from their base."""
    if net.learning_rate_ is not None:
        net.learning_rate_.restore()
        net.learning_rate_ = None
    base = [group["lr"] for group in net.optimizer_.param_groups]
    net.optimizer_.load_state_dict(state)
    if net.lr_schedule is not None:
        for group, lr in zip(net.optimizer_.param_groups, base, strict=True):
            group["lr"] = lr


def _callbacks(net: Any) -> list[TrainingCallback]:
    return [part for _, part in net.callbacks_ if isinstance(part, TrainingCallback)]


def _each_tensor(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to the tensors in nested dicts, lists and tuples."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: _each_tensor(value, function) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_each_tensor(value, function) for value in tree)
    return tree


class LRBackoff(TrainingCallback):
    """Keep the states at the end of the last two epochs, to go back to one of them once.

    Parameters
    ----------
    factor : float in (0, 1)
        What the learning rate is multiplied by from there on.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def on_epochs_begin(self, net: Any, **kwargs: Any) -> None:
        """Keep the state from which training starts."""
        self.states_ = deque([snapshot(net)], maxlen=2)

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Keep the state after this epoch, whose weights are finite."""
        self.states_.append(snapshot(net))

    def go_back(self, net: Any, error: DivergenceError) -> None:
        """Bring the net back to the last good epoch, at the lower rate.

        Raises
        ------
        DivergenceError
            The one that is given, if the rate was lowered before.
        """
        if net.rate_factor_ < 1:
            raise error
        # A first batch fails by the weights that the epoch before it ended with, finite
        # as they are.
        restore_training(net, self.states_[0 if error.batch == 1 else -1])
        net.rate_factor_ = self.factor
        warnings.warn(
            f"{error} Going on from the end of epoch {len(net.history)} at {self.factor} "
            f"of the learning rate.",
            UserWarning,
            stacklevel=2,
        )
