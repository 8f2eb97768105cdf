"""What users may tell skorch: `net_params` and `net_callbacks`."""

import copy
import fnmatch
from collections.abc import Sequence
from typing import Any

import torch
from skorch.callbacks import Callback
from torch import nn

# skorch names that users may set; the rest is the embedder's own.
NET_PARAMS = ("optimizer", "callbacks", "compile", "torch_load_kwargs", "use_caching")


def check_net_params(net_params: dict[str, Any]) -> None:
    """Raise where a skorch parameter is unknown, or is set by the embedder.

    Raises
    ------
    ValueError
        Naming the key.
    """
    for key in net_params:
        prefix, _, rest = str(key).partition("__")
        if prefix not in NET_PARAMS or (prefix == "callbacks" and not rest):
            raise ValueError(
                f"net_params got {key!r}: it takes the skorch names {list(NET_PARAMS)} "
                f"and what follows them after '__' ('optimizer__betas'). Other "
                f"settings are parameters of HSCLEmbedder, callbacks go to "
                f"net_callbacks."
            )
    optimizer = net_params.get("optimizer", torch.optim.AdamW)
    if not callable(optimizer):
        raise ValueError(
            f"net_params got optimizer={optimizer!r}: pass a class such as torch.optim.SGD."
        )


def check_patterns(net_params: dict[str, Any], module: nn.Module) -> None:
    """Raise where settings of the optimizer are for weights that are not there.

    Parameters
    ----------
    net_params : dict
        As in :func:`check_net_params`.
    module : nn.Module
        Encoder and heads, by whose names skorch finds the weights of a group; those of a
        compiled module start with ``"_orig_mod."``.

    Raises
    ------
    ValueError
        Naming the pattern, and the parts of the module.
    """
    names = [name for name, _ in module.named_parameters()]
    for pattern, _ in net_params.get("optimizer__param_groups", ()):
        if not fnmatch.filter(names, pattern):
            parts = [".".join(name.split(".")[:-1][:2]) + ".*" for name in names]
            raise ValueError(
                f"net_params got optimizer__param_groups for {pattern!r}, but no weight is "
                f"called that: choose from {list(dict.fromkeys(parts))}, or from what "
                f"they are made of."
            )


def user_callbacks(net_callbacks: Sequence[Any] | None) -> list[Any]:
    """Return the user's skorch callbacks as the list that skorch wants.

    Raises
    ------
    ValueError
        If an entry is neither a skorch callback nor a pair (name, callback).
    """
    # Copies: callbacks keep state, and fit must not change its parameters.
    callbacks = [] if net_callbacks is None else copy.deepcopy(list(net_callbacks))
    for entry in callbacks:
        callback = entry[1] if isinstance(entry, tuple | list) else entry
        is_class = isinstance(callback, type) and issubclass(callback, Callback)
        if not (is_class or isinstance(callback, Callback)):
            raise ValueError(
                f"net_callbacks holds {entry!r}: it takes skorch callbacks, or pairs "
                f"(name, callback); scikit-learn's callbacks go to set_callbacks."
            )
    return callbacks
