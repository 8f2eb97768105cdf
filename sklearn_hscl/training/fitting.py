"""The order of a fit: read the data, build the loss and the run, train.

scikit-learn's callbacks follow the training through :class:`SklearnCallbackBridge`.
"""

import copy
import sys
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from traceback import walk_stack
from types import MappingProxyType
from typing import Any

import joblib
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackContext

from sklearn_hscl._sklearn_compat import WRAPPER_MODULES
from sklearn_hscl.data.validation import (
    FitInput,
    TargetOptions,
    read_training_data,
)
from sklearn_hscl.losses import BetaSchedule, ContrastiveLoss
from sklearn_hscl.losses.presets import REQUIRE_LABELS, check_one_loss
from sklearn_hscl.runtime.processes import is_first, processes_of_fit
from sklearn_hscl.runtime.random_state import Seeds, draw_seeds
from sklearn_hscl.training.build_run import FitStart, build_run
from sklearn_hscl.training.callbacks.checkpoint import (
    Checkpoint,
    environment_of_fit,
    fingerprint_of_fit,
    hashes_of_result,
    open_checkpoint,
    refuse_checkpoint,
)
from sklearn_hscl.training.config import GivenConfig, plain_value
from sklearn_hscl.training.fitted_state import OPTIONAL_ATTRIBUTES
from sklearn_hscl.training.loop.callback import StopTraining, TrainingCallback
from sklearn_hscl.training.loop.net import ContrastiveNet
from sklearn_hscl.training.prepared_data import PreparedData
from sklearn_hscl.training.run import TrainingRun, WarmStart
from sklearn_hscl.training.stacked.auto_select import (
    DEFAULT_SCALES,
    LossScales,
    default_temperatures,
    is_auto,
    loss_scales,
    train_best,
)

# Width of the kernel of continuous targets, in their standard deviations.
TARGET_BANDWIDTH = 0.5
_SAME_DATA = (
    "Pass the same data and parameters in all of them, which share the batches; seed torch "
    "before modules of your own are created."
)
_SAME_MACHINE = (
    "Use processors and versions of one kind, whose results do not differ, and modules and "
    "callbacks that do the same in all processes."
)
# Parameters of a fit to one chunk of the data.
_CHUNK_PARAMS = {
    "max_epochs": 1,
    "lr_schedule": "constant",
    "early_stopping": False,
    "cross_fit": None,
}


def fit(
    estimator: BaseEstimator,
    given: FitInput,
    report: Callable[[TrainingRun], TrainingCallback],
) -> TrainingRun:
    """Train a run by the parameters of an embedder.

    Parameters
    ----------
    estimator : HSCLEmbedder
        Its parameters are read, and with `warm_start` its fitted attributes; it stays as
        it is.
    given : FitInput
        Samples, targets and groups.
    report : callable
        Returns a callback that sees every epoch of a run.

    Returns
    -------
    TrainingRun
        Trained.
    """
    previous = WarmStart.of(estimator) if estimator.warm_start else None
    if previous is not None and estimator.cross_fit is not None:
        raise ValueError(
            f"cross_fit={estimator.cross_fit} cannot continue from a previous fit, whose "
            f"members have seen samples of all folds. Set warm_start=False."
        )
    checkpoint = open_checkpoint(estimator)
    data = read_data(estimator, given, previous)
    scales = _scales_to_try(estimator, data, previous)
    seeds = _draw_seeds(estimator, previous, checkpoint)  # data that are refused draw none
    if len(scales) > 1:
        refuse_checkpoint(estimator, "beta='auto' and temperature='auto' train several")
        run = train_best(partial(prepare_run, estimator, data, FitStart(seeds)), scales)
        _check_processes(run)
        return run
    start = FitStart(seeds, previous, checkpoint)
    run = prepare_run(estimator, data, start, scales[0])
    _train(run, report(run))
    return run


def fit_chunk(
    estimator: BaseEstimator, given: FitInput, classes: ArrayLike | None
) -> TrainingRun | None:
    """Train a run for one epoch on a chunk of the data; see `HSCLEmbedder.partial_fit`.

    Returns None, and warns, if a later chunk has one row, of which nothing can be learnt.
    """
    refuse_checkpoint(estimator, "partial_fit trains chunk by chunk")
    previous = WarmStart.of(estimator)
    data = read_data(estimator, given, previous, classes)
    scales = _scales_to_try(estimator, data, previous)
    if len(scales) > 1:
        raise ValueError(
            f"beta={estimator.beta!r} and temperature={estimator.temperature!r} are "
            f"selected on held-out samples, which partial_fit does not have. Pass numbers."
        )
    seeds = _draw_seeds(estimator, previous, None)
    start = FitStart(seeds, previous, is_chunk=True)
    n_members = estimator.n_members or estimator.cross_fit
    changes = _CHUNK_PARAMS | {"n_members": n_members}
    run = prepare_run(estimator, data, start, scales[0], changes)
    if previous and len(run.train.targets) == 1 and not run.context.loss.options.ce_weight:
        warnings.warn(
            "This chunk holds 1 row, which was skipped: rows are compared within a chunk "
            "only. Pass at least 2 rows at a time, for example the last two chunks "
            "together.",
            UserWarning,
            stacklevel=4,
        )
        return None
    _train(run)
    return run


def take_over(estimator: BaseEstimator, run: TrainingRun) -> dict[str, object]:
    """Set all fitted attributes of a trained run on an embedder; return them, too."""
    fitted = run.fitted_state().attributes()
    for name in OPTIONAL_ATTRIBUTES:
        vars(estimator).pop(name, None)  # of a fit on other data before
    vars(estimator).update(fitted)
    return fitted


def refuse_fit_params(method: str, names: Iterable[str]) -> None:
    """Raise an error for arguments that a method does not have.

    Parameters
    ----------
    method : str
        Name of the method.
    names : iterable of str
        Arguments that it got beyond its own.
    """
    for name in names:
        if name == "sample_weight":
            raise TypeError(
                f"HSCLEmbedder.{method} got sample_weight, but its loss compares pairs of "
                f"samples, for which weights of samples are not defined. For imbalanced "
                f"classes pass sampler='balanced' or reduction='classes'. In a pipeline, "
                f"pass the weights to the last step only."
            )
        raise TypeError(
            f"HSCLEmbedder.{method}() got an unexpected keyword argument {name!r}"
        )


# Data -------------------------------------------------------------------------------


def read_data(
    estimator: BaseEstimator,
    given: FitInput,
    previous: WarmStart | None = None,
    classes: ArrayLike | None = None,
) -> PreparedData:
    """Validate what `fit` gets; nothing is written on the estimator."""
    options = _target_options(estimator, classes)
    fitted = None if previous is None else previous.input
    return PreparedData(read_training_data(estimator, given, options, fitted))


def reading_key(estimator: BaseEstimator, given: FitInput) -> Hashable:
    """Return a key that is equal for embedders that validate the same data alike."""
    chosen, options = estimator.categorical_features, _target_options(estimator)
    if given.y is not None:  # and no labels of a dataset are asked for
        options = replace(options, requires_labels=options.uses_labels)
    return (
        replace(options, loss="", loss_parameter=""),  # named in messages only
        chosen if chosen is None or isinstance(chosen, str) else joblib.hash(chosen),
        estimator.channels,
        isinstance(estimator.encoder, str),
    )


def _target_options(
    estimator: BaseEstimator, classes: ArrayLike | None = None
) -> TargetOptions:
    """Return how the loss and the parameters read y."""
    loss = contrastive_loss(estimator, has_labels=True)
    custom = isinstance(estimator.loss, ContrastiveLoss)
    return TargetOptions(
        loss=loss.loss,
        loss_parameter=loss.loss if custom else estimator.loss,
        uses_labels=loss.uses_labels(True),
        requires_labels=requires_labels(estimator),
        target_type=estimator.target_type,
        unlabeled_label=estimator.unlabeled_label,
        classes=classes,
        needs_classes=estimator.cross_fit is not None,
    )


# Loss -------------------------------------------------------------------------------


def requires_labels(estimator: BaseEstimator) -> bool:
    """Return whether the loss of an embedder cannot do without labels."""
    if isinstance(estimator.loss, ContrastiveLoss):
        return estimator.loss.requires_labels
    return estimator.loss in REQUIRE_LABELS


def contrastive_loss(
    estimator: BaseEstimator, has_labels: bool, scales: LossScales = DEFAULT_SCALES
) -> ContrastiveLoss:
    """Return a new loss by the parameters of an embedder."""
    if isinstance(estimator.loss, ContrastiveLoss):
        check_one_loss(estimator.loss.options)
        return copy.deepcopy(estimator.loss)
    automatic = "hscl" if has_labels else "hucl"
    params = {
        "loss": automatic if estimator.loss == "auto" else estimator.loss,
        "preset": estimator.preset,
        "hardening": estimator.hardening,
        "beta": 0.0 if isinstance(scales.beta, BetaSchedule) else scales.beta,
        "threshold": estimator.threshold,
        "top_k": estimator.top_k,
        "temperature": scales.temperature,
        "tau_plus": estimator.tau_plus,
        "negative_mass": estimator.negative_mass,
        "reduction": estimator.reduction,
        "detach_weights": estimator.detach_weights,
        "positives": estimator.positives,
        "ce_weight": estimator.ce_weight,
        "bandwidth": TARGET_BANDWIDTH,
    }
    return ContrastiveLoss.from_params(params)


def given_scales(estimator: BaseEstimator) -> LossScales:
    """Return beta and temperature as given; neither is to be selected."""
    return LossScales(estimator.beta, _temperature(estimator))


def _temperature(estimator: BaseEstimator) -> Any:
    """Return the temperature as given, or the default of the encoder."""
    given = estimator.temperature
    return default_temperatures(estimator.encoder)[0] if given is None else given


def _scales_to_try(
    estimator: BaseEstimator, data: PreparedData, previous: WarmStart | None
) -> list[LossScales]:
    """Return the values of beta and temperature to try; one pair if they are given."""
    beta, temperature = estimator.beta, _temperature(estimator)
    if not (is_auto(beta) or is_auto(temperature)):
        return [given_scales(estimator)]
    if isinstance(estimator.loss, ContrastiveLoss):
        raise ValueError(
            f"beta={beta!r} and temperature={temperature!r} are settings of losses by "
            f"name, but loss is a ContrastiveLoss with its own: leave them."
        )
    if previous is not None:
        beta = estimator.beta_ if is_auto(beta) else beta
        temperature = estimator.temperature_ if is_auto(temperature) else temperature
        return [LossScales(beta, temperature)]
    options = contrastive_loss(estimator, data.data.has_labels).options
    return loss_scales(
        beta,
        temperature,
        uses_beta=options.uses("beta"),
        temperatures=default_temperatures(estimator.encoder),
    )


# Run --------------------------------------------------------------------------------


def _draw_seeds(
    estimator: BaseEstimator, previous: WarmStart | None, checkpoint: Checkpoint | None
) -> Seeds:
    """Draw the seeds of a fit."""
    if previous is not None:
        # Another chunk gets other random numbers, but always the same ones.
        return draw_seeds(previous.seeds.batches)
    if estimator.random_state is not None:
        return draw_seeds(estimator.random_state)
    processes, seeds = processes_of_fit(), draw_seeds(None)
    if processes is not None:
        seeds = processes.from_first(seeds)
    return (checkpoint and checkpoint.seeds) or seeds


def prepare_run(
    estimator: BaseEstimator,
    data: PreparedData,
    start: FitStart,
    scales: LossScales,
    changes: Mapping[str, object] = MappingProxyType({}),
) -> TrainingRun:
    """Build what training needs.

    Parameters
    ----------
    estimator : HSCLEmbedder
        Its parameters are read.
    data : PreparedData
        Validated data; all runs on them share what is prepared.
    start : FitStart
        Seeds, the fit to continue and the checkpoint.
    scales : LossScales
        Values of `beta` and `temperature`.
    changes : mapping
        Values of other parameters that replace those of the estimator.

    Returns
    -------
    TrainingRun
    """
    params = plain_value(estimator.get_params(deep=False) | scales._asdict() | changes)
    if not is_first():
        params["verbose"] = 0
    loss = contrastive_loss(estimator, data.data.has_labels, scales)
    run = build_run(GivenConfig.of(params), data, loss, start)
    processes = processes_of_fit()
    if start.checkpoint is None and processes is None:
        return run
    fingerprint = fingerprint_of_fit(params, data.data, start.seeds, run.net)
    if processes is not None:
        found = {"checkpoints": "" if start.checkpoint is None else start.checkpoint.key}
        processes.check_equal(fingerprint | found, _SAME_DATA)
    if start.checkpoint is not None:
        environment = environment_of_fit(run.n_threads)
        start.checkpoint.start_fit(fingerprint, environment, start.seeds)
    return run


def _train(run: TrainingRun, report: TrainingCallback | None = None) -> None:
    """Train; after Ctrl-C by the user, keep the completed epochs."""
    try:
        run.train_with(report)
    except KeyboardInterrupt:
        # Several processes are not interrupted in the same epoch.
        is_shared = processes_of_fit() is not None
        if run.net.n_completed == 0 or is_shared or _is_called_by_another_estimator():
            raise
        run.end_early()
        warnings.warn(
            f"Training was interrupted after {run.net.n_completed} of "
            f"{run.net.max_epochs} epochs; keeping the model from the last completed "
            f"epoch.",
            UserWarning,
            stacklevel=4,
        )
    _check_processes(run)


def _check_processes(run: TrainingRun) -> None:
    """Raise if processes that train one model have got different ones."""
    processes = processes_of_fit()
    if processes is not None:
        processes.check_equal(hashes_of_result(run.net), _SAME_MACHINE)


def _is_called_by_another_estimator() -> bool:
    """Return whether a pipeline, a search or joblib is between the user and this call.

    It would take an interrupted fit for a complete one, and continue.
    """
    for frame, _ in walk_stack(sys._getframe()):
        module = frame.f_globals.get("__name__", "")
        is_wrapper = module in WRAPPER_MODULES
        if module.partition(".")[0] in ("sklearn", "joblib") and not is_wrapper:
            return True
    return False


# scikit-learn's callbacks -----------------------------------------------------------


class SklearnCallbackBridge(TrainingCallback):
    """Report each epoch to scikit-learn's callbacks, and stop if one of them asks for it.

    Parameters
    ----------
    tasks : sklearn.callback.CallbackContext
        Context of the fit; each epoch becomes a subtask.
    estimator : estimator
        The estimator being fitted.
    X, y : array-like
        Training data as passed to fit, for callbacks that score.
    fitted_attributes : callable
        ``fitted_attributes(net)`` returns the attributes of an estimator as if fit had
        ended with this epoch.
    """

    def __init__(
        self,
        tasks: CallbackContext,
        estimator: BaseEstimator,
        X: object,
        y: object,
        fitted_attributes: Callable[[ContrastiveNet], dict[str, object]],
    ) -> None:
        self.tasks = tasks
        self.report = {"estimator": estimator, "X": X, "y": y}
        self.fitted_attributes = fitted_attributes
        self.epoch_: CallbackContext | None = None
        self.n_reported_ = 0

    def on_epoch_begin(self, net: ContrastiveNet, **kwargs: object) -> None:
        """Open the subtask of this epoch, unless the epoch is repeated."""
        if self.epoch_ is not None:
            return
        self.epoch_ = self.tasks.subcontext("epoch")
        self.epoch_.call_on_fit_task_begin(**self.report)

    def on_epoch_end(self, net: ContrastiveNet, **kwargs: object) -> None:
        """Close the subtask; stop training if a callback returns True."""
        assert self.epoch_ is not None
        if net.n_completed <= self.n_reported_:
            return  # the epoch was repeated after a divergence
        stop = self.epoch_.call_on_fit_task_end(
            **self.report, reconstruction_attributes=lambda: self.fitted_attributes(net)
        )
        self.epoch_ = None
        self.n_reported_ = net.n_completed
        if stop:
            raise StopTraining
