"""What an optimizer remembers of each weight, for another one of its kind."""

import copy
from typing import Any

from torch.optim import Optimizer

# Settings that ask for one more figure of each weight, and its name in the memory.
_MORE = {
    "amsgrad": "max_exp_avg_sq",
    "centered": "grad_avg",
    "momentum": "momentum_buffer",
}


def is_enough(memory: dict[int, Any], optimizer: Optimizer) -> bool:
    """Whether a memory has all that the settings of an optimizer ask for."""
    groups = optimizer.param_groups
    asked = {key for name, key in _MORE.items() if any(g.get(name) for g in groups)}
    return all(asked <= figures.keys() for figures in memory.values())


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
