"""Builds the callbacks of a run: scoring, averaging, checkpointing."""

from dataclasses import replace
from math import ceil

import numpy as np
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
from sklearn_hscl.training.ensemble import (
    draw_folds,
    draw_group_folds,
    draw_member_folds,
)
from sklearn_hscl.training.loop.callback import TrainingCallback

# Fewer held-out samples give a score of few values, with large errors.
_MIN_HELD_OUT = 100
# So many samples are held out where none was asked for, and at most this fraction.
_MIN_HELD_OUT_BY_DEFAULT, _MAX_FRACTION = 80, 0.2
# Before so many steps a network is hardly trained, whatever its score on a few samples.
_MIN_STEPS = 50


def choose_scored_rows(
    config: FitConfig, data: TrainingData, loss: ContrastiveLoss, *, is_new: bool
) -> FitConfig:
    """Let members score the samples that they do not see, or hold samples out.

    Members score all samples, and all are trained on, by ``early_stopping="auto"``, and
    where few samples would be held out. Members of an earlier fit have seen all samples.
    Where none scores numbers or labels, which are fitted fast, some are held out.

    Parameters
    ----------
    config : FitConfig
        Resolved parameters.
    data : TrainingData
        All data that `fit` got.
    loss : ContrastiveLoss
        The completed loss.
    is_new : bool
        Whether no earlier fit is continued.

    Returns
    -------
    FitConfig
        With `early_stopping` and `validation_fraction` for these data.
    """
    if data.held_out is not None:
        return config
    n_rows, by_auto = data.train.rows.shape[0], replace(config, early_stopping="auto")
    can_score = is_new and _can_score_folds(by_auto, data, loss)
    if config.early_stopping is True:
        few = config.validation_fraction * n_rows < _MIN_HELD_OUT
        return by_auto if few and can_score else config
    is_open = config.early_stopping == "auto" and n_rows >= MIN_ROWS_OUT_OF_FOLD
    if can_score or not is_open or data.target_kind in (None, "class"):
        return config
    fraction = min(_MAX_FRACTION, _MIN_HELD_OUT_BY_DEFAULT / n_rows)
    fraction = max(config.validation_fraction, fraction)
    return replace(config, early_stopping=True, validation_fraction=fraction)


def member_folds(
    config: FitConfig, data: TrainingData, loss: ContrastiveLoss, seeds: Seeds
) -> Tensor | None:
    """Draw the member that does not see a sample (n,), for scores or `cross_fit`.

    Returns
    -------
    Tensor of int, shape (n,), or None
        None if all members see all samples.
    """
    targets, groups = data.train.targets, data.train.groups
    if targets is None:
        return None
    if config.cross_fit is None and not _can_score_folds(config, data, loss):
        return None
    is_class, drawn = data.target_kind == "class", (config.n_members, seeds.split)
    if groups is None:
        strata = targets if is_class else np.zeros(len(targets), dtype=np.int64)
        folds = draw_folds(strata, *drawn)
    elif is_class:
        folds = draw_member_folds(targets, groups, *drawn)
    else:
        folds = draw_group_folds(targets, groups, *drawn)
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
    if folds is not None and data.target_kind == "class":
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
    if data.target_kind is None or config.n_members < 2:
        return False
    groups, n_rows = data.train.groups, data.train.rows.shape[0]
    if groups is not None and data.target_kind != "class":
        n_rows = n_rows if len(np.unique(groups)) >= config.n_members else 0
    return n_rows >= MIN_ROWS_OUT_OF_FOLD and _scores_out_of_fold(config, loss)


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
