"""Who watches over the weights in training, on which rows, and who keeps them."""

from typing import Any

import torch
from torch import Tensor

from sklearn_hscl.encoders.preprocessing import Preparation
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.runtime.random_state import Seeds
from sklearn_hscl.training.batches.tensors import LabelledRows, TrainingData, to_tensors
from sklearn_hscl.training.callbacks.checkpoint import Checkpoint
from sklearn_hscl.training.callbacks.early_stopping import (
    HeldOutEarlyStopping,
    OutOfFoldEarlyStopping,
)
from sklearn_hscl.training.callbacks.lr_backoff import LRBackoff
from sklearn_hscl.training.callbacks.scale_calibration import CalibratedScale
from sklearn_hscl.training.callbacks.weight_averaging import AveragedWeights
from sklearn_hscl.training.config import FEWEST_ROWS, EncoderDefaults, epochs_between_scores
from sklearn_hscl.training.ensemble import draw_folds, draw_member_folds
from sklearn_hscl.training.loop.callback import TrainingCallback


def member_folds(
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


def monitoring_callbacks(
    params: dict[str, Any],
    recipe: EncoderDefaults,
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
        monitors.append(HeldOutEarlyStopping(held_out, **settings))
    elif folds is not None and _scores_out_of_fold(params, loss):
        monitors.append(OutOfFoldEarlyStopping(folds, **settings))
    if folds is not None:
        cross_fit = params["cross_fit"] is not None
        monitors.append(CalibratedScale(folds, cross_fit=cross_fit))
    return monitors


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


def _scores_out_of_fold(params: dict[str, Any], loss: ContrastiveLoss) -> bool:
    """Whether members score rows, which takes a jointly trained classifier."""
    return params["early_stopping"] == "auto" and bool(loss.options.ce_weight)


def checkpoint_callbacks(
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
    return [*keepers, LRBackoff(factor)]
