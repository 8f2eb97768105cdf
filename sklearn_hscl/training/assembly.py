"""How a net is put together from parameters and data."""

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_hscl.encoders import build_module
from sklearn_hscl.encoders.preprocessing import Preparation
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.runtime.precision import Precision
from sklearn_hscl.runtime.random_state import Seeds, scoped_torch_seed
from sklearn_hscl.training.batching import EpochBatches, choose_sampler
from sklearn_hscl.training.data import LabelledRows, TrainingData
from sklearn_hscl.training.learning_rate import SCHEDULES
from sklearn_hscl.training.net import ContrastiveNet
from sklearn_hscl.training.net_params import (
    check_net_params,
    check_patterns,
    user_callbacks,
)
from sklearn_hscl.training.recipe import Recipe
from sklearn_hscl.training.views import (
    check_classes,
    choose_augment,
    choose_n_views,
)


def build_net(
    params: dict[str, Any],
    recipe: Recipe,
    train: LabelledRows,
    folds: Tensor | None,
    prepare: Preparation,
    data: TrainingData,
    loss: ContrastiveLoss,
    seeds: Seeds,
    precision: Precision,
) -> ContrastiveNet:
    """Return a net that is ready to train.

    Parameters
    ----------
    params : dict
        Parameters of the embedder, with the recipe's in the place of "auto".
    recipe : Recipe
        What is no parameter.
    train : LabelledRows
        Training rows as tensors.
    folds : Tensor of shape (n,) or None
        Which member does not see each row.
    prepare : Preparation
        How rows were made tensors.
    data : TrainingData
        Validated rows and codes.
    loss : ContrastiveLoss
        The loss.
    seeds : Seeds
        Seeds of this fit.
    precision : Precision
        Types of numbers.

    Returns
    -------
    ContrastiveNet

    Raises
    ------
    ValueError
        If `net_params` or `net_callbacks` cannot be used, a parameter of the encoder is
        wrong, or views of a row would be equal.
    """
    net_params = params["net_params"] or {}
    check_net_params(net_params)
    module = _module(params, train, prepare, data, loss, seeds, precision)
    n_views = choose_n_views(params["n_views"], loss, data.train.targets)
    augment = choose_augment(params["augment"], n_views, train.rows.ndim)
    check_classes(augment, data.target_kind, loss)
    device = train.rows.device
    options = _options_of(params) | {
        "augment": augment,
        "n_views": n_views,
        "view_seed": seeds.views,
        "target_kind": data.target_kind,
        "iterator_train__rng": np.random.default_rng(seeds.batches),
        "iterator_train__sampler": choose_sampler(params["sampler"], data.target_kind),
        "iterator_train__folds": folds,
        "device": str(device),
    }
    options |= net_params
    settings = _optimizer_settings(options["optimizer"], params, recipe, device)
    if _chooses_implementation(net_params):
        settings.pop("optimizer__fused", None)
    options = settings | options  # the user's come first
    try:
        net = ContrastiveNet(module, loss, **options).initialize()
    except TypeError as error:
        raise ValueError(f"net_params={net_params!r} cannot be used: {error}") from error
    check_patterns(net_params, net.module_)
    return net


def _module(
    params: dict[str, Any],
    train: LabelledRows,
    prepare: Preparation,
    data: TrainingData,
    loss: ContrastiveLoss,
    seeds: Seeds,
    precision: Precision,
) -> Any:
    """Return encoder and heads with weights as drawn."""
    with scoped_torch_seed(seeds.weights):
        return build_module(
            params["encoder"],
            rows=train.rows,
            layout=prepare.layout,
            n_components=params["n_components"],
            n_members=params["n_members"],
            hidden_layer_sizes=params["hidden_layer_sizes"],
            dropout=params["dropout"],
            projection_dim=params["projection_dim"],
            n_classes=_n_classes(loss, data),
            precision=precision,
            freeze=params["freeze"],
        )


def _options_of(params: dict[str, Any]) -> dict[str, Any]:
    """Return options of the net that parameters alone decide."""
    return {
        "beta": params["beta"],
        "lr_schedule": SCHEDULES.get(params["lr_schedule"], params["lr_schedule"]),
        "clip_norm": params["clip_norm"],
        "device_batch_size": params["device_batch_size"],
        "lr": params["lr"],
        "optimizer": torch.optim.AdamW,
        "max_epochs": params["max_epochs"],
        "batch_size": params["batch_size"],
        "iterator_train": EpochBatches,
        "train_split": None,
        "use_caching": False,  # batches keep no predictions that could be reused
        "callbacks": user_callbacks(params["net_callbacks"]),
        "verbose": int(params["verbose"]),
        "compile": params["compile"],
    }


def _optimizer_settings(
    optimizer: Any, params: dict[str, Any], recipe: Recipe, device: torch.device
) -> dict[str, Any]:
    """Return those of our settings, by skorch's names, that the optimizer accepts."""
    settings = {
        "weight_decay": params["weight_decay"],
        "betas": recipe.betas,
        "fused": device.type in ("cpu", "cuda"),
    }
    accepted = inspect.signature(optimizer).parameters
    ours = {
        f"optimizer__{name}": value for name, value in settings.items() if name in accepted
    }
    if recipe.without_decay and "weight_decay" in accepted:
        groups = [(name, {"weight_decay": 0.0}) for name in recipe.without_decay]
        ours["optimizer__param_groups"] = groups
    return ours


def _chooses_implementation(net_params: dict[str, Any]) -> bool:
    names = ("foreach", "capturable", "differentiable", "fused")
    return any(f"optimizer__{name}" in net_params for name in names)


def _n_classes(loss: ContrastiveLoss, data: TrainingData) -> int | None:
    """Count the classes of the jointly trained classifier, if the loss wants one."""
    if not loss.options.ce_weight:
        return None
    if data.encode is None or data.encode.classes is None:
        raise ValueError(
            f"ce_weight={loss.options.ce_weight} needs class labels: pass y with classes, "
            f"or set ce_weight=0."
        )
    return len(data.encode.classes)
