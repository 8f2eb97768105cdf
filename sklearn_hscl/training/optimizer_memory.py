"""What an optimizer remembers of each weight, for another one of its kind."""

import copy
from typing import Any

from torch.optim import Optimizer

# Settings that add a figure of each weight to what an optimizer remembers.
_MORE_TO_REMEMBER = ("amsgrad", "centered", "momentum")


def remember_alike(one: Optimizer, other: Optimizer) -> bool:
    """Whether two optimizers keep the same figures of a weight."""
    return type(one) is type(other) and all(
        bool(one.defaults.get(name)) == bool(other.defaults.get(name))
        for name in _MORE_TO_REMEMBER
    )


def memory_of_earlier(net: Any, earlier: Any) -> dict[int, Any]:
    """Return the memory of an earlier net's optimizer, in the order of another's weights.

    Both have the same weights, but may have them in other groups, as other settings of
    groups ask for.

    Parameters
    ----------
    net, earlier : ContrastiveNet
        With modules of the same weights.

    Returns
    -------
    dict of int to dict
        A copy, as the entry ``"state"`` of a ``state_dict`` of the optimizer of `net`.
    """
    before, memory = _names(earlier), earlier.optimizer_.state_dict()["state"]
    by_name = {before[place]: memory[place] for place in memory}
    return {
        place: copy.deepcopy(by_name[name])
        for place, name in enumerate(_names(net))
        if name in by_name
    }


def _names(net: Any) -> list[str]:
    """Return the names of the weights of a net's optimizer, in its order."""
    named = [
        *net.plain_module.named_parameters(),
        *net.criterion_.named_parameters(prefix="criterion"),
    ]
    names = {id(weight): name for name, weight in named}
    groups = net.optimizer_.param_groups
    return [names[id(weight)] for group in groups for weight in group["params"]]
