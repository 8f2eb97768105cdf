"""One training run: from parameters and validated data to a trained net."""

import copy
import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklearn_hscl.columns import TableColumns
from sklearn_hscl.encoders import build_module
from sklearn_hscl.encoders.features import Preparation
from sklearn_hscl.encoders.inference import CHUNK_ROWS, embed_tensor
from sklearn_hscl.losses import BetaSchedule, ContrastiveLoss
from sklearn_hscl.precision import Precision, resolve_precision
from sklearn_hscl.seeding import Seeds, scoped_torch_seed
from sklearn_hscl.targets import TargetEncoder
from sklearn_hscl.threads import choose_threads, has_small_steps, torch_threads
from sklearn_hscl.training.averaging import AveragedWeights
from sklearn_hscl.training.batching import EpochBatches, choose_sampler
from sklearn_hscl.training.calibration import CalibratedScale
from sklearn_hscl.training.callbacks import TrainingCallback
from sklearn_hscl.training.chance import batches_of_places, chance_loss
from sklearn_hscl.training.checkpoint import Checkpoint
from sklearn_hscl.training.data import (
    LabelledRows,
    TrainingData,
    fit_preparation,
    split_held_out,
    to_tensors,
)
from sklearn_hscl.training.device import resolve_device
from sklearn_hscl.training.divergence import DivergenceError
from sklearn_hscl.training.fallback import Fallback
from sklearn_hscl.training.fingerprint import fingerprint_of_fit, surroundings_of_fit
from sklearn_hscl.training.group_folds import draw_member_folds
from sklearn_hscl.training.learning_rate import SCHEDULES
from sklearn_hscl.training.members import draw_folds
from sklearn_hscl.training.net import ContrastiveNet, check_net_params, user_callbacks
from sklearn_hscl.training.recipe import (
    FEWEST_ROWS,
    Recipe,
    epochs_between_scores,
    settle,
)
from sklearn_hscl.training.validation import BestWeights, HeldOut, OutOfFold
from sklearn_hscl.training.views import check_views_differ, choose_augment, choose_n_views


@dataclass
class TrainingRun:
    """What a fit is made of, before, during and after training."""

    net: ContrastiveNet
    train: LabelledRows
    folds: Tensor | None
    monitors: list[TrainingCallback]
    keepers: list[TrainingCallback]
    prepare: Preparation
    data: TrainingData
    seeds: Seeds
    device: torch.device
    n_threads: int

    def train_with(self, report: TrainingCallback) -> None:
        """Train to the end, or to where a callback stops; `report` sees every epoch."""
        with scoped_torch_seed(self.seeds.weights), torch_threads(self.n_threads):
            self.net.train_with(self.monitors, report, *self.train, self.keepers)
            self.check_embedding()

    def end_early(self) -> None:
        """Make do with the epochs that were completed before an interruption."""
        self.net.drop_unfinished_epoch()
        for monitor in self.monitors:
            monitor.on_train_end(self.net)
        self.check_embedding()

    def check_embedding(self) -> None:
        """Raise where training has ruined the weights in its last step."""
        module = self.net.module_
        rows = self.train.rows[:CHUNK_ROWS]
        embedding = embed_tensor(module.encoder, rows, module.precision)
        if not embedding.isfinite().all():
            raise DivergenceError(
                f"Training ended with infinite embeddings: lower `lr` (now {self.net.lr})."
            )

    @cached_property
    def chance_loss(self) -> float:
        """The loss of a batch if all its rows had one embedding."""
        with torch_threads(self.n_threads):
            batches = batches_of_places(self.net, self.train.targets, self.folds)
            return chance_loss(self.net, next(iter(batches)))

    def fitted_attributes(self) -> dict[str, Any]:
        """Return the attributes of an embedder that was trained so far."""
        history = self.net.history
        best = len(history)
        beta, loss = self.net.beta, self.net.criterion_.settings()
        attributes: dict[str, Any] = {}
        for monitor in self.monitors:
            best = getattr(monitor, "best_epoch_", best)
            if isinstance(monitor, BestWeights):
                attributes["valid_score_name_"] = monitor.score_name(self.net)
        attributes |= {
            "module_": self.net.module_.encoder.eval(),
            "net_": self.net,
            "history_": [_for_users(epoch) for epoch in history],
            "loss_curve_": history[:, "train_loss"],
            "n_iter_": len(history),
            "best_epoch_": best,
            "chance_loss_": self.chance_loss,
            "input_shape_": self.data.train.rows.shape[1:],
            "device_": self.device,
            "n_threads_": self.n_threads,
            "_precision": self.net.module_.precision,
            "beta_": beta if isinstance(beta, BetaSchedule) else loss["beta"],
            "temperature_": loss["temperature"],
            "_n_anchors": self.net.n_anchors_,
            "_columns": self.data.columns,
            "_encode_targets": self.data.encode,
            "_seeds": self.seeds,
            "_prepare": self.prepare,
            "_n_features_out": self.net.module_.n_components,
        }
        if self.data.encode is not None and self.data.encode.classes is not None:
            attributes["classes_"] = self.data.encode.classes
        columns = self.data.columns
        if columns is not None and columns.is_categorical.any():
            attributes["is_categorical_"] = columns.is_categorical
            attributes["categories_"] = columns.categories
        return attributes

    def snapshot(self) -> dict[str, Any]:
        """Return the same for a callback to keep: training on does not change it."""
        attributes = self.fitted_attributes()
        del attributes["net_"]
        return attributes | {"module_": copy.deepcopy(attributes["module_"])}


def _check_held_out(data: TrainingData) -> None:
    """Raise where held-out rows cannot be scored by their loss."""
    assert data.held_out is not None
    targets = data.held_out.targets
    if data.target_kind == "class" and targets is not None and (targets < 0).all():
        raise ValueError(
            "No held-out row has a label, so that early stopping has nothing to score: "
            "pass labelled rows as X_val and y_val, or set early_stopping=False."
        )
    if data.target_kind != "class" and data.held_out.rows.shape[0] < 2:
        raise ValueError(
            "Early stopping on the loss needs at least 2 held-out rows, got 1: raise "
            "validation_fraction, or pass more rows as X_val."
        )


def _for_users(epoch: dict[str, Any]) -> dict[str, Any]:
    """Drop what only skorch's callbacks want to know of an epoch."""
    return {
        name: value
        for name, value in epoch.items()
        if name != "batches" and not name.endswith("_best")
    }


class Previous(NamedTuple):
    """What a fit that goes on from an earlier one takes over."""

    net: ContrastiveNet
    prepare: Preparation
    encode: TargetEncoder | None
    columns: TableColumns | None
    input_shape: tuple[int, ...]
    seeds: Seeds


def prepare_run(
    params: dict[str, Any],
    data: TrainingData,
    loss: ContrastiveLoss,
    seeds: Seeds,
    previous: Previous | None = None,
    checkpoint: Checkpoint | None = None,
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
    previous : Previous or None
        The fit to go on from.
    checkpoint : Checkpoint or None
        Where to keep the state of training.

    Returns
    -------
    TrainingRun
    """
    given, all_data = params, data
    params, recipe = settle(params, data, loss)
    data = _with_held_out(params, data, seeds)
    device = resolve_device(params["device"])
    ndim = data.train.rows.ndim
    precision = resolve_precision(params["precision"], device, ndim)
    built_in = isinstance(params["encoder"], str)
    prepare = (
        fit_preparation(data.train.rows, built_in, data.is_categorical)
        if previous is None
        else previous.prepare
    )
    train = to_tensors(data.train, prepare, device, precision.dtype)
    # Members of an earlier fit have seen all rows: nothing would be out of fold.
    folds = _folds(params, data, loss, seeds, device) if previous is None else None
    net = _build_net(params, recipe, train, folds, prepare, data, loss, seeds, precision)
    if previous is not None:
        net.go_on_from(previous.net)
    monitors = _monitors(params, recipe, loss, folds, prepare, data, train)
    small = has_small_steps(net.n_views * net.batch_size, ndim)
    n_threads = choose_threads(params["n_threads"], small_steps=small)
    keepers = _keepers(params, checkpoint)
    if checkpoint is not None:
        fingerprint = fingerprint_of_fit(given, all_data, seeds, net)
        checkpoint.belongs_to(fingerprint, surroundings_of_fit(n_threads), seeds)
    return TrainingRun(
        net, train, folds, monitors, keepers, prepare, data, seeds, device, n_threads
    )


def _keepers(
    params: dict[str, Any], checkpoint: Checkpoint | None
) -> list[TrainingCallback]:
    """Return who keeps the state of training, in memory and on disk."""
    # The checkpoint first: it may bring the state that there is to go back to.
    keepers: list[TrainingCallback] = [] if checkpoint is None else [checkpoint]
    factor = params["lr_backoff"]
    if factor is None:
        return keepers
    if params["lr_schedule"] is None:
        raise ValueError(
            f"lr_backoff={factor} lowers the rate of lr_schedule, but net_callbacks hold "
            f"an LRScheduler, which sets the rate itself: leave one of the two out."
        )
    return [*keepers, Fallback(factor)]


def _folds(
    params: dict[str, Any],
    data: TrainingData,
    loss: ContrastiveLoss,
    seeds: Seeds,
    device: torch.device,
) -> Tensor | None:
    """Draw who does not see which row, where that is asked for or gives a score."""
    codes, groups, n_members = data.train.targets, data.train.groups, params["n_members"]
    if data.target_kind != "class" or codes is None:
        return None
    if params["cross_fit"] is None:
        can_score = _scores_out_of_fold(params, loss)
        if not can_score or n_members == 1 or len(codes) < FEWEST_ROWS:
            return None
    if groups is None:
        folds = draw_folds(codes, n_members, seeds.split)
    else:
        folds = draw_member_folds(codes, groups, n_members, seeds.split)
    return torch.from_numpy(folds).to(device)


def _scores_out_of_fold(params: dict[str, Any], loss: ContrastiveLoss) -> bool:
    """Whether members score rows, which takes a jointly trained classifier."""
    return params["early_stopping"] == "auto" and bool(loss.options.ce_weight)


def _monitors(
    params: dict[str, Any],
    recipe: Recipe,
    loss: ContrastiveLoss,
    folds: Tensor | None,
    prepare: Preparation,
    data: TrainingData,
    train: LabelledRows,
) -> list[TrainingCallback]:
    """Return what watches over the weights, in the order of their work."""
    monitors: list[TrainingCallback] = []
    if recipe.averaging is not None:
        monitors.append(AveragedWeights(recipe.averaging))
    settings = {
        "patience": params["n_iter_no_change"],
        "tol": params["tol"],
        "every": epochs_between_scores(recipe, params["max_epochs"]),
    }
    if data.held_out is not None:
        _check_held_out(data)
        held_out = to_tensors(data.held_out, prepare, train.rows.device, train.rows.dtype)
        monitors.append(HeldOut(held_out, **settings))
    elif folds is not None and _scores_out_of_fold(params, loss):
        monitors.append(OutOfFold(folds, **settings))
    if folds is not None:
        cross_fit = params["cross_fit"] is not None
        monitors.append(CalibratedScale(folds, cross_fit=cross_fit))
    return monitors


def _with_held_out(
    params: dict[str, Any], data: TrainingData, seeds: Seeds
) -> TrainingData:
    if data.held_out is not None and not params["early_stopping"]:
        raise ValueError(
            "X_val was passed, but early_stopping=False: set early_stopping=True to "
            "stop on it, or leave it out."
        )
    if data.held_out is not None or params["early_stopping"] is not True:
        return data
    train, held_out = split_held_out(data.train, params["validation_fraction"], seeds.split)
    return data._replace(train=train, held_out=held_out)


def _build_net(
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
    arrays = data.train
    net_params = params["net_params"] or {}
    check_net_params(net_params)
    n_views = choose_n_views(params["n_views"], loss, arrays.targets)
    with scoped_torch_seed(seeds.weights):
        module = build_module(
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
    augment = choose_augment(params["augment"], n_views, train.rows.ndim)
    if data.target_kind is None:
        check_views_differ(augment, n_views, module, loss)
    options = {
        "augment": augment,
        "n_views": n_views,
        "view_seed": seeds.views,
        "target_kind": data.target_kind,
        "beta": params["beta"],
        "lr_schedule": SCHEDULES.get(params["lr_schedule"], params["lr_schedule"]),
        "clip_norm": params["clip_norm"],
        "device_batch_size": params["device_batch_size"],
        "lr": params["lr"],
        "optimizer": torch.optim.AdamW,
        "max_epochs": params["max_epochs"],
        "batch_size": params["batch_size"],
        "iterator_train": EpochBatches,
        "iterator_train__rng": np.random.default_rng(seeds.batches),
        "iterator_train__sampler": choose_sampler(params["sampler"], data.target_kind),
        "iterator_train__folds": folds,
        "train_split": None,
        "use_caching": False,  # batches keep no predictions that could be reused
        "callbacks": user_callbacks(params["net_callbacks"]),
        "device": str(train.rows.device),
        "verbose": int(params["verbose"]),
        "compile": params["compile"],
    }
    options |= net_params
    settings = _optimizer_settings(options["optimizer"], params, recipe, train.rows.device)
    if _chooses_implementation(net_params):
        settings.pop("optimizer__fused", None)
    options = settings | options  # the user's come first
    try:
        return ContrastiveNet(module, loss, **options).initialize()
    except TypeError as error:
        raise ValueError(f"net_params={net_params!r} cannot be used: {error}") from error


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
