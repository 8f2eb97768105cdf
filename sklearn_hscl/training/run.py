"""One training run: from parameters and validated data to a trained net."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sklearn_hscl.encoders import build_module
from sklearn_hscl.encoders.features import Preparation
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.seeding import Seeds, scoped_torch_seed
from sklearn_hscl.training.batching import EpochBatches
from sklearn_hscl.training.callbacks import TrainingCallback
from sklearn_hscl.training.data import (
    LabelledArrays,
    LabelledRows,
    TrainingData,
    fit_preparation,
    split_held_out,
    to_tensors,
)
from sklearn_hscl.training.device import resolve_device
from sklearn_hscl.training.net import ContrastiveNet, check_net_params, user_callbacks
from sklearn_hscl.training.validation import HeldOut
from sklearn_hscl.training.views import choose_augment, choose_n_views

SAMPLE_ROWS = 2  # on which a user's module is tried


@dataclass
class TrainingRun:
    """What a fit is made of, before, during and after training."""

    net: ContrastiveNet
    train: LabelledRows
    monitor: HeldOut | None
    prepare: Preparation
    data: TrainingData
    seeds: Seeds
    device: torch.device

    def train_with(self, *callbacks: TrainingCallback) -> None:
        """Train to the end, or to where a callback stops."""
        monitors = [] if self.monitor is None else [self.monitor]
        with scoped_torch_seed(self.seeds.weights):
            self.net.train_with([*monitors, *callbacks], *self.train)

    def fitted_attributes(self) -> dict[str, Any]:
        """Return the attributes of an embedder that was trained so far."""
        history = self.net.history
        best = len(history) if self.monitor is None else self.monitor.best_epoch_
        attributes = {
            "module_": self.net.module_.encoder.eval(),
            "net_": self.net,
            "history_": history.to_list(),
            "loss_curve_": history[:, "train_loss"],
            "n_iter_": len(history),
            "best_epoch_": best,
            "input_shape_": self.data.train.rows.shape[1:],
            "device_": self.device,
            "_prepare": self.prepare,
            "_n_features_out": self.net.module_.n_components,
        }
        if self.data.classes is not None:
            attributes["classes_"] = self.data.classes
        return attributes

    def snapshot(self) -> dict[str, Any]:
        """Return the same for a callback to keep: training on does not change it."""
        attributes = self.fitted_attributes()
        del attributes["net_"]
        return attributes | {"module_": copy.deepcopy(attributes["module_"])}


def prepare_run(
    params: dict[str, Any], data: TrainingData, loss: ContrastiveLoss, seeds: Seeds
) -> TrainingRun:
    """Build all that training needs.

    Parameters
    ----------
    params : dict
        Parameters of the embedder.
    data : TrainingData
        Validated rows and codes.
    loss : ContrastiveLoss
        The loss.
    seeds : Seeds
        Seeds of this fit.

    Returns
    -------
    TrainingRun
    """
    data = _with_held_out(params, data, seeds)
    device = resolve_device(params["device"])
    prepare = fit_preparation(data.train.rows, isinstance(params["encoder"], str))
    train = to_tensors(data.train, prepare, device)
    monitor = None
    if data.held_out is not None:
        held_out = to_tensors(data.held_out, prepare, device)
        patience = params["n_iter_no_change"]
        monitor = HeldOut(held_out, patience=patience, tol=params["tol"])
    net = _build_net(params, train, data.train, loss, seeds)
    return TrainingRun(net, train, monitor, prepare, data, seeds, device)


def _with_held_out(
    params: dict[str, Any], data: TrainingData, seeds: Seeds
) -> TrainingData:
    if data.held_out is not None and not params["early_stopping"]:
        raise ValueError(
            "X_val was passed, but early_stopping=False: set early_stopping=True to "
            "stop on it, or leave it out."
        )
    if data.held_out is not None or not params["early_stopping"]:
        return data
    train, held_out = split_held_out(
        data.train, params["validation_fraction"], seeds.split
    )
    return data._replace(train=train, held_out=held_out)


def _build_net(
    params: dict[str, Any],
    train: LabelledRows,
    arrays: LabelledArrays,
    loss: ContrastiveLoss,
    seeds: Seeds,
) -> ContrastiveNet:
    net_params = params["net_params"] or {}
    check_net_params(net_params)
    n_views = choose_n_views(params["n_views"], loss.loss, arrays.codes)
    with scoped_torch_seed(seeds.weights):
        module = build_module(
            params["encoder"],
            sample=train.rows[:SAMPLE_ROWS].cpu(),
            n_components=params["n_components"],
            hidden_layer_sizes=params["hidden_layer_sizes"],
            projection_dim=params["projection_dim"],
        )
    options = {
        "augment": choose_augment(params["augment"], n_views, train.rows.ndim),
        "n_views": n_views,
        "view_seed": seeds.views,
        "lr": params["lr"],
        "optimizer": torch.optim.AdamW,
        "optimizer__weight_decay": params["weight_decay"],
        "max_epochs": params["max_epochs"],
        "batch_size": params["batch_size"],
        "iterator_train": EpochBatches,
        "iterator_train__rng": np.random.default_rng(seeds.batches),
        "iterator_train__stratify": loss.by_label,
        "train_split": None,
        "callbacks": user_callbacks(params["net_callbacks"]),
        "device": str(train.rows.device),
        "verbose": int(params["verbose"]),
    }
    return ContrastiveNet(module, loss, **(options | net_params))
