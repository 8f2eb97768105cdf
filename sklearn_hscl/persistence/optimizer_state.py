"""Entries and arrays of the optimizer, and back."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from sklearn_hscl.persistence.encoder_state import cpu_array
from sklearn_hscl.persistence.schema import (
    Arrays,
    BundleError,
    Entries,
    Params,
    StoredArrays,
    check_schema,
)

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
