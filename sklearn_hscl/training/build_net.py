"""The net of a run, built from parameters and data."""

import copy
import fnmatch
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback
from torch import nn

from sklearn_hscl.encoders import EncoderOptions, build_module
from sklearn_hscl.encoders.contrastive_module import ContrastiveModule
from sklearn_hscl.encoders.registry import ENCODERS
from sklearn_hscl.runtime.random_state import BuiltInDraws, scoped_torch_seed
from sklearn_hscl.training.batches.batch_sampler import EpochBatches, choose_sampler
from sklearn_hscl.training.batches.views import (
    check_classes,
    choose_augment,
    choose_n_views,
)
from sklearn_hscl.training.config import FitConfig, FitContext
from sklearn_hscl.training.loop.learning_rate import SCHEDULES
from sklearn_hscl.training.loop.net import ContrastiveNet

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


def build_net(config: FitConfig, context: FitContext) -> ContrastiveNet:
    """Return a net that is ready to train.

    Parameters
    ----------
    config : FitConfig
        Parameters, with defaults resolved.
    context : FitContext
        Data, loss and seeds.

    Returns
    -------
    ContrastiveNet

    Raises
    ------
    ValueError
        If `net_params` or `net_callbacks` cannot be used, a parameter of the encoder is
        wrong, or views of a sample would be equal.
    """
    net_params = config.net_params or {}
    check_net_params(net_params)
    module = _build_module(config, context)
    options = _net_options(config) | _view_options(config, context) | net_params
    settings = _optimizer_settings(options["optimizer"], config, context.device)
    are_real = all(weight.is_floating_point() for weight in module.parameters())
    if _chooses_implementation(net_params) or not are_real:
        settings.pop("optimizer__fused", None)
    options = settings | options  # the user's come first
    try:
        net = ContrastiveNet(module, context.loss, **options).initialize()
    except TypeError as error:
        raise ValueError(f"net_params={net_params!r} cannot be used: {error}") from error
    check_patterns(net_params, net.module_)
    return net


def _build_module(config: FitConfig, context: FitContext) -> ContrastiveModule:
    """Return encoder and heads with weights as drawn."""
    seed = context.seeds.weights
    with BuiltInDraws(seed) if config.encoder in ENCODERS else scoped_torch_seed(seed):
        options = EncoderOptions(
            encoder=config.encoder,
            n_components=config.n_components,
            n_members=config.n_members,
            hidden_layer_sizes=config.hidden_layer_sizes,
            dropout=config.dropout,
            projection_dim=config.projection_dim,
            freeze=config.freeze,
        )
        return build_module(
            options,
            context.train.rows,
            context.prepare.layout,
            n_outputs=_n_outputs(context),
            precision=context.precision,
        )


def _net_options(config: FitConfig) -> dict[str, Any]:
    """Return the options of the net, by skorch's names, that parameters alone decide."""
    schedule = config.lr_schedule
    return {
        "beta": config.beta,
        "lr_schedule": SCHEDULES.get(schedule) if isinstance(schedule, str) else schedule,
        "clip_norm": config.clip_norm,
        "device_batch_size": config.device_batch_size,
        "lr": config.lr,
        "optimizer": torch.optim.AdamW,
        "max_epochs": config.max_epochs,
        "batch_size": config.batch_size,
        "iterator_train": EpochBatches,
        "train_split": None,
        "use_caching": False,  # batches keep no predictions that could be reused
        "callbacks": user_callbacks(config.net_callbacks),
        "verbose": int(config.verbose),
        "compile": config.compile,
    }


def _view_options(config: FitConfig, context: FitContext) -> dict[str, Any]:
    """Return the options of the net that say how samples become views and batches."""
    data, loss, seeds = context.data, context.loss, context.seeds
    targets = data.train.targets
    if context.train is not context.known:  # missing labels were predicted
        targets = context.train.targets.cpu().numpy()
    n_views = choose_n_views(config.n_views, loss, targets)
    augment = choose_augment(
        config.augment,
        n_views,
        tuple(context.train.rows.shape[1:]),
        has_targets=data.target_kind is not None,
    )
    check_classes(augment, data.target_kind, loss)
    return {
        "augment": augment,
        "n_views": n_views,
        "view_seed": seeds.views,
        "target_kind": data.target_kind,
        "iterator_train__rng": np.random.default_rng(seeds.batches),
        "iterator_train__sampler": choose_sampler(config.sampler, data.target_kind),
        "iterator_train__folds": context.folds,
        "device": str(context.device),
    }


def _optimizer_settings(
    optimizer: Callable[..., torch.optim.Optimizer],
    config: FitConfig,
    device: torch.device,
) -> dict[str, Any]:
    """Return those of our settings, by skorch's names, that the optimizer accepts."""
    defaults = config.defaults
    settings = {
        "weight_decay": config.weight_decay,
        "betas": defaults.betas,
        "fused": device.type in ("cpu", "cuda"),  # others may lack the kernels
    }
    accepted = inspect.signature(optimizer).parameters
    ours: dict[str, Any] = {
        f"optimizer__{name}": value for name, value in settings.items() if name in accepted
    }
    if defaults.without_decay and "weight_decay" in accepted:
        groups = [(name, {"weight_decay": 0.0}) for name in defaults.without_decay]
        ours["optimizer__param_groups"] = groups
    return ours


def _chooses_implementation(net_params: dict[str, Any]) -> bool:
    names = ("foreach", "capturable", "differentiable", "fused")
    return any(f"optimizer__{name}" in net_params for name in names)


def _n_outputs(context: FitContext) -> int | None:
    """Count the outputs of the jointly trained linear head; None if there is none."""
    ce_weight, encode = context.loss.options.ce_weight, context.data.encode
    if not ce_weight:
        return None
    if encode is None:
        raise ValueError(
            f"ce_weight={ce_weight} needs targets that the loss uses: pass y with classes, "
            f"label indicators or numbers, and a loss other than 'ucl' and 'hucl'; or set "
            f"ce_weight=0."
        )
    if encode.classes is not None:
        return len(encode.classes)
    return int(context.train.targets.shape[1])
