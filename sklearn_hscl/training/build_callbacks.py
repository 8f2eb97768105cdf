"""Builds the callbacks of a run: scoring, averaging, checkpointing."""

from dataclasses import replace
from math import ceil

import torch
from torch import Tensor

from sklearn_hscl.data.training_data import TrainingData
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.runtime.random_state import Seeds
from sklearn_hscl.training.callbacks.checkpoint import Checkpoint, LRBackoff
from sklearn_hscl.training.callbacks.early_stopping import (
    HeldOutEarlyStopping,
    OutOfFoldEarlyStopping,
    StoppingSettings,
)
from sklearn_hscl.training.callbacks.weights import (
    AveragedWeights,
    CalibratedScale,
    InterpolatedWeights,
)
from sklearn_hscl.training.config import (
    MIN_ROWS_OUT_OF_FOLD,
    FitConfig,
    FitContext,
    steps_in_epoch,
)
from sklearn_hscl.training.ensemble import draw_folds, draw_member_folds
from sklearn_hscl.training.loop.callback import TrainingCallback

# Fewer held-out samples give a score of few values, with large errors.
_MIN_HELD_OUT = 100
# Before so many steps a network is hardly trained, whatever its score on a few samples.
_MIN_STEPS = 50


def score_folds_if_few(
    config: FitConfig, data: TrainingData, loss: ContrastiveLoss
) -> FitConfig:
    """Let members score the samples that they do not see, if few would be held out.

    All samples are then scored, as by ``early_stopping="auto"``, and all are trained on.
    """
    by_auto = replace(config, early_stopping="auto")
    few = config.validation_fraction * data.train.rows.shape[0] < _MIN_HELD_OUT
    splits = config.early_stopping is True and data.held_out is None
    return by_auto if splits and few and _can_score_folds(by_auto, data, loss) else config


def member_folds(
    config: FitConfig, data: TrainingData, loss: ContrastiveLoss, seeds: Seeds
) -> Tensor | None:
    """Draw the member that does not see a sample (n,), for scores or `cross_fit`.

    Returns
    -------
    Tensor of int, shape (n,), or None
        None if all members see all samples.
    """
    codes, groups = data.train.targets, data.train.groups
    if data.target_kind != "class" or codes is None:
        return None
    if config.cross_fit is None and not _can_score_folds(config, data, loss):
        return None
    if groups is None:
        folds = draw_folds(codes, config.n_members, seeds.split)
    else:
        folds = draw_member_folds(codes, groups, config.n_members, seeds.split)
    return torch.from_numpy(folds)


def monitoring_callbacks(config: FitConfig, context: FitContext) -> list[TrainingCallback]:
    """Return the callbacks that average, interpolate, score, calibrate, in this order."""
    monitors: list[TrainingCallback] = []
    data, folds = context.data, context.folds
    if config.defaults.averaging is not None:
        monitors.append(AveragedWeights(config.defaults.averaging))
    if config.defaults.interpolation is not None:
        monitors.append(InterpolatedWeights(config.defaults.interpolation))
    settings = StoppingSettings(
        patience=config.n_iter_no_change,
        tol=config.tol,
        every=config.epochs_between_scores,
    )
    if context.held_out is not None:
        _check_held_out(data)
        settings["min_epochs"] = _min_epochs(config, data)
        monitors.append(HeldOutEarlyStopping(context.held_out, **settings))
    elif folds is not None and _scores_out_of_fold(config, context.loss):
        monitors.append(OutOfFoldEarlyStopping(folds, **settings))
    if folds is not None:
        cross_fit = config.cross_fit is not None
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


def _min_epochs(config: FitConfig, data: TrainingData) -> int:
    """Return the first epoch whose weights count as trained, in the first half."""
    n_steps = steps_in_epoch(config.sampler, config.batch_size, data.train)
    return min(ceil(_MIN_STEPS / n_steps), ceil(config.max_epochs / 2))


def _can_score_folds(config: FitConfig, data: TrainingData, loss: ContrastiveLoss) -> bool:
    """Return whether there are members and samples enough to score folds."""
    if data.target_kind != "class" or config.n_members < 2:
        return False
    enough = data.train.rows.shape[0] >= MIN_ROWS_OUT_OF_FOLD
    return enough and _scores_out_of_fold(config, loss)


def _scores_out_of_fold(config: FitConfig, loss: ContrastiveLoss) -> bool:
    """Return whether members score samples, which takes a jointly trained classifier."""
    return config.early_stopping == "auto" and bool(loss.options.ce_weight)


def checkpoint_callbacks(
    config: FitConfig, checkpoint: Checkpoint | None
) -> list[TrainingCallback]:
    """Return the callbacks that keep the state of training, on disk and in memory."""
    # The checkpoint first: it may bring the state that there is to go back to.
    keepers: list[TrainingCallback] = [] if checkpoint is None else [checkpoint]
    factor = config.lr_backoff
    if factor is None:
        return keepers
    if config.lr_schedule is None:
        raise ValueError(
            f"lr_backoff={factor} lowers the rate of lr_schedule, but net_callbacks hold "
            f"an LRScheduler, which sets the rate itself: leave one of the two out."
        )
    return [*keepers, LRBackoff(factor)]
