"""The memory of an optimizer as facts and arrays, and back."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklearn_hscl.persistence.arrays import StoredArrays
from sklearn_hscl.persistence.errors import BundleError
from sklearn_hscl.persistence.facts import check_facts
from sklearn_hscl.persistence.network import host_array


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
