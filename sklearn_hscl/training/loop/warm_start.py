"""Take over weights, optimizer state and history from an earlier net."""

import copy

from torch import Tensor
from torch.optim import Optimizer

from sklearn_hscl.training.loop.net import ContrastiveNet

ParameterState = dict[str, Tensor | float | None]
"""What an optimizer stores for one parameter."""

# Settings that need one more entry in the state of each parameter, and its name.
_EXTRA_ENTRIES = {
    "amsgrad": "max_exp_avg_sq",
    "centered": "grad_avg",
    "momentum": "momentum_buffer",
}


def load_warm_start(net: ContrastiveNet, earlier: ContrastiveNet) -> None:
    """Take over weights, the optimizer's state and the history of a trained net.

    The state of the optimizer is left out if the optimizers differ in type, or if it
    lacks entries that the new settings need.

    Parameters
    ----------
    net : ContrastiveNet
        Initialized, and not yet trained.
    earlier : ContrastiveNet
        The trained net.

    Raises
    ------
    ValueError
        If the module has changed.
    """
    try:
        net.plain_module.load_state_dict(earlier.plain_module.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"warm_start=True cannot continue the previous fit, as the parameters of the "
            f"encoder, the classes or the presence of labels have changed. Set "
            f"warm_start=False, or fit a clone. {error}"
        ) from error
    if type(net.optimizer_) is type(earlier.optimizer_):
        state = _reordered_state(net, earlier)
        if _has_all_entries(state, net.optimizer_):
            net.optimizer_.load_state_dict(net.optimizer_.state_dict() | {"state": state})
    net.history_ = copy.deepcopy(earlier.history)


def _has_all_entries(state: dict[int, ParameterState], optimizer: Optimizer) -> bool:
    """Return whether a state has all entries that the settings of an optimizer need."""
    groups = optimizer.param_groups
    needed = {
        entry
        for name, entry in _EXTRA_ENTRIES.items()
        if any(group.get(name) for group in groups)
    }
    return all(needed <= entries.keys() for entries in state.values())


def _reordered_state(
    net: ContrastiveNet, earlier: ContrastiveNet
) -> dict[int, ParameterState]:
    """Return a copy of an earlier optimizer's state, in the order of a net's weights.

    Both nets have the same weights, which their settings may put into different groups.
    The copy has the form of the entry ``"state"`` of the optimizer's ``state_dict``.
    """
    earlier_names = _parameter_names(earlier)
    state = earlier.optimizer_.state_dict()["state"]
    by_name = {earlier_names[index]: entries for index, entries in state.items()}
    return {
        index: copy.deepcopy(by_name[name])
        for index, name in enumerate(_parameter_names(net))
        if name in by_name
    }


def _parameter_names(net: ContrastiveNet) -> list[str]:
    """Return the names of the weights of a net's optimizer, in its order."""
    named = [
        *net.plain_module.named_parameters(),
        *net.criterion_.named_parameters(prefix="criterion"),
    ]
    names = {id(weight): name for name, weight in named}
    groups = net.optimizer_.param_groups
    return [names[id(weight)] for group in groups for weight in group["params"]]
