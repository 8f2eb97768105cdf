"""The thin skorch net, the loop of its epochs, and its start from an earlier fit."""

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import numpy as np
import torch
from skorch import NeuralNet
from skorch.history import History
from torch import Tensor, nn
from torch.optim import Optimizer

from sklearn_hscl.augment import Augmentation, FunctionAugmentation
from sklearn_hscl.encoders.contrastive_module import ContrastiveModule
from sklearn_hscl.encoders.registry import get_config
from sklearn_hscl.encoders.tabular.encoder import TabularEncoder
from sklearn_hscl.losses import BetaSchedule, ContrastiveLoss, LossStats
from sklearn_hscl.runtime.processes import processes_of_fit
from sklearn_hscl.training.batches.batch_sampler import EpochBatches
from sklearn_hscl.training.batches.tensors import Batch, LazyRows
from sklearn_hscl.training.batches.views import Views, check_views_differ, fitted_augment
from sklearn_hscl.training.loop.callback import (
    CallbackNet,
    StopTraining,
    TrainingCallback,
)
from sklearn_hscl.training.loop.epoch import (
    DivergenceError,
    EpochStats,
    check_finite,
    run_epoch,
    weight_norm,
)
from sklearn_hscl.training.loop.gradient_cache import gradient_cache
from sklearn_hscl.training.loop.learning_rate import LearningRate, Schedule
from sklearn_hscl.training.loop.shared_batch import shared_if_launched
from sklearn_hscl.training.loop.step import TrainingStep


class ContrastiveNet(CallbackNet):
    """skorch net that trains an encoder with a contrastive loss.

    It differs from skorch's in four points: batches are slices of tensors on the
    device, the history is kept per epoch, Ctrl-C leaves `fit` instead of being
    swallowed, and a batch becomes views before it reaches the module.

    Parameters
    ----------
    module, criterion, **kwargs
        As in skorch; `criterion` is a :class:`~sklearn_hscl.losses.ContrastiveLoss`.
    augment : Augmentation
        Creates the views; it is fitted to the training rows when training begins.
    n_views : int
        Number of views of each row in a batch.
    view_seed : int
        Seed of the views.
    target_kind : {"class", "multilabel", "continuous"} or None
        Type of the targets; None if the loss ignores them.
    beta : float or BetaSchedule
        Strength of the tilt, or its schedule over the epochs.
    lr_schedule : callable or None
        ``lr_schedule(progress) -> factor`` of the learning rate, with progress from 0 to
        1; None leaves the rate to callbacks.
    clip_norm : float or None
        Maximum norm of the gradient.
    device_batch_size : int or "auto"
        Number of views that are embedded at a time.
    """

    module_: ContrastiveModule
    criterion_: ContrastiveLoss
    optimizer_: torch.optim.Optimizer
    history_: History
    iterator_train__folds: Tensor | None = None
    _loop: "EpochLoop | None" = None

    def __init__(
        self,
        module: nn.Module,
        criterion: nn.Module,
        *,
        augment: Augmentation,
        n_views: int,
        view_seed: int,
        target_kind: str | None,
        beta: float | BetaSchedule,
        lr_schedule: Schedule | None,
        clip_norm: float | None,
        device_batch_size: int | str,
        **kwargs: object,
    ) -> None:
        self.augment = augment
        self.n_views = n_views
        self.view_seed = view_seed
        self.target_kind = target_kind
        self.beta = beta
        self.lr_schedule = lr_schedule
        self.clip_norm = clip_norm
        self.device_batch_size = device_batch_size
        self.first_epoch_ = 0
        self.n_anchors_ = 0
        self.stops_ = False
        super().__init__(module, criterion, **kwargs)

    # Training ---------------------------------------------------------------------------

    def train_with(
        self,
        monitors: Sequence[TrainingCallback],
        report: TrainingCallback,
        X: Tensor | LazyRows,
        y: Tensor,
        keepers: Sequence[TrainingCallback] = (),
    ) -> "ContrastiveNet":
        """Train with additional callbacks, for this training only."""
        with self.with_callbacks(monitors, report, keepers):
            return self.partial_fit(X, y)

    def partial_fit(
        self,
        X: Tensor | LazyRows,
        y: Tensor,
        classes: object = None,
        **fit_params: object,
    ) -> "ContrastiveNet":
        """Continue training; unlike skorch's method it does not catch Ctrl-C."""
        if not self.initialized_:
            self.initialize()
        self.notify("on_train_begin", X=X, y=y)
        self.fit_loop(X, y)
        self.notify("on_train_end", X=X, y=y)
        return self

    def fit_loop(
        self,
        X: Tensor | LazyRows,
        y: Tensor,
        epochs: int | None = None,
        **fit_params: object,
    ) -> "ContrastiveNet":
        """Run the epochs until the last one, or until a callback stops them."""
        loop = self.begin_loop(X, y, epochs)
        try:
            with self.module_.precision.products():
                self.notify("on_epochs_begin")
                loop.run()
        except StopTraining:
            pass
        finally:
            self.end_loop()
        return self

    def begin_loop(
        self, X: Tensor | LazyRows, y: Tensor, epochs: int | None = None
    ) -> "EpochLoop":
        """Prepare for some epochs, until :meth:`end_loop`."""
        self.first_epoch_ = len(self.history)
        self.stops_ = False
        self._loop = EpochLoop(self, X, y, self.max_epochs if epochs is None else epochs)
        return self._loop

    def end_loop(self) -> None:
        """Release what only the epochs need, which may hold training rows."""
        if self.loop.learning_rate is not None:
            self.loop.learning_rate.restore()
        self._loop = None
        self.iterator_train__folds = None

    @property
    def loop(self) -> "EpochLoop":
        """The loop in progress, for callbacks."""
        assert self._loop is not None, "available between on_epochs_begin and the end"
        return self._loop

    def on_epoch_begin(self, net: NeuralNet, **kwargs: object) -> None:
        """Open the record of the epoch; set beta if it follows a schedule."""
        super().on_epoch_begin(net, **kwargs)
        if isinstance(self.beta, BetaSchedule):
            n_completed = len(self.history) - 1 - self.first_epoch_
            beta = float(self.beta.beta_at(n_completed / max(1, self.loop.n_epochs - 1)))
            if not 0 <= beta < np.inf:
                raise ValueError(f"beta={self.beta!r} gave {beta}, which must be >= 0.")
            self.criterion_.set_beta(beta)
            self.history.record("beta", beta)

    # State ------------------------------------------------------------------------------

    def __deepcopy__(self, memo: dict[int, object]) -> "ContrastiveNet":
        """Return a copy without skorch's detour by pickle, which some modules forbid."""
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        other.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return other

    @property
    def plain_module(self) -> ContrastiveModule:
        """The module inside the wrapper of torch.compile."""
        return cast(ContrastiveModule, getattr(self.module_, "_orig_mod", self.module_))

    @property
    def n_members(self) -> int:
        """Number of members of the encoder, 1 without an ensemble."""
        encoder = self.module_.encoder
        return encoder.n_members if isinstance(encoder, TabularEncoder) else 1

    def scale_by_importance(self, importance: Tensor) -> None:
        """Scale the initial weights of a tabular encoder's columns, (M, F)."""
        encoder = self.module_.encoder
        assert isinstance(encoder, TabularEncoder)
        encoder.scale_by_importance(importance)

    @property
    def n_completed(self) -> int:
        """Number of completed epochs of the present or last training."""
        return sum("train_loss" in epoch for epoch in self.history[self.first_epoch_ :])

    def drop_unfinished_epoch(self) -> None:
        """Remove the record of an interrupted epoch."""
        del self.history[self.first_epoch_ + self.n_completed :]

    def drop_placeholder_targets(self, batch: Batch) -> Batch:
        """Remove the targets of a batch if they are placeholders."""
        return batch._replace(targets=None) if self.target_kind is None else batch

    def torch_compile(self, module: nn.Module, name: str) -> nn.Module:
        """Compile the network, but not the loss, which has its own kernels."""
        if name != "module":
            return module
        return cast(nn.Module, super().torch_compile(module, name))


# Epochs ------------------------------------------------------------------------------


class EpochLoop:
    """The epochs of one training: batches, views, step and learning rate.

    Parameters
    ----------
    net : ContrastiveNet
        The net, initialized.
    X : Tensor or LazyRows of shape (n_samples, ...)
        Training rows.
    y : Tensor of shape (n_samples,) or (n_samples, K)
        Their targets.
    n_epochs : int
        Number of epochs.
    """

    def __init__(
        self, net: ContrastiveNet, X: Tensor | LazyRows, y: Tensor, n_epochs: int
    ) -> None:
        self.net = net
        self.targets = y
        self.n_epochs = n_epochs
        self.dataset = net.get_dataset(X, y)
        self.batches: EpochBatches = net.get_iterator(self.dataset, training=True)
        folds = net.iterator_train__folds
        self.augment = fitted_augment(net.augment, X, y, folds, net.n_members)
        if net.target_kind is None:
            check_views_differ(self.augment, net.n_views, net.module_, net.criterion_)
        self.views = self.seeded_views(X.device)
        net._set_training(True)
        self.gradient_cache = gradient_cache(
            net.device_batch_size, net.module_, X, self.views.dtype
        )
        self.step = TrainingStep(
            net.module_,
            net.criterion_,
            net.optimizer_,
            self.views,
            shared_if_launched(self.gradient_cache, net.module_),
            net.clip_norm,
        )
        self.learning_rate: LearningRate | None = None
        if net.lr_schedule is not None:
            n_steps = n_epochs * len(self.batches)
            self.learning_rate = LearningRate(net.optimizer_, net.lr_schedule, n_steps)

    def seeded_views(self, device: torch.device) -> Views:
        """Return a source of views at the start of its random sequence."""
        net = self.net
        generator = torch.Generator(device).manual_seed(net.view_seed)
        dtype = net.module_.precision.dtype
        return Views(self.augment, net.n_views, generator, dtype, net.n_members)

    def run(self) -> None:
        """Run the remaining epochs; after a divergence a callback may restart them."""
        try:
            self._run_remaining()
        except DivergenceError as error:
            callbacks = self.net.training_callbacks
            if not any(callback.on_divergence(self.net, error) for callback in callbacks):
                raise
            self._run_remaining()

    def record(self, stats: EpochStats, batches: EpochBatches) -> None:
        """Write the statistics of an epoch, in host memory, into the history.

        Raises
        ------
        DivergenceError
            If the loss or a weight is not finite.
        ValueError
            If no row had both a positive and a negative.
        """
        net = self.net
        check_finite(net, stats, batches)
        loss, n_skipped = stats.loss.item(), int(stats.skipped_anchors)
        net.n_anchors_ = net.n_views * stats.n_rows
        self._check_compared(n_skipped, net.n_anchors_)
        history = net.history
        best = min((epoch["train_loss"] for epoch in history[:-1]), default=np.inf)
        history.record("train_loss", loss)
        history.record("train_loss_best", loss < best)  # skorch's Checkpoint monitors it
        history.new_batch()  # one for the whole epoch: some callbacks read the last batch
        history.record_batch("train_loss", loss)
        history.record("skipped_anchors", n_skipped)
        history.record("effective_negatives", stats.effective_negatives.item())

    def _run_remaining(self) -> None:
        datasets = {"dataset_train": self.dataset, "dataset_valid": None}
        for _ in range(self.n_epochs - self.net.n_completed):
            self.net.notify("on_epoch_begin", **datasets)
            self.net._set_training(True)
            norm = partial(weight_norm, self.net.optimizer_)
            stats = run_epoch(self.batches, self._run_batch, norm)
            self.record(stats.on_host(), self.batches)
            self._end_epoch(datasets)

    def _end_epoch(self, datasets: Mapping[str, object]) -> None:
        """Notify the callbacks; if they stop one process of the fit, stop all."""
        stops = False
        try:
            self.net.notify("on_epoch_end", **datasets)
        except StopTraining:
            stops = True
        processes = processes_of_fit()
        if processes is not None:
            stops = processes.any(stops)
        if stops:
            raise StopTraining

    def _run_batch(self, batch: Batch) -> tuple[Tensor, LossStats]:
        if self.learning_rate is not None:
            self.learning_rate.advance()
        net, shown = self.net, batch[:2]  # skorch's callbacks expect (X, y)
        net.notify("on_batch_begin", batch=shown, training=True)

        def on_gradient() -> None:
            if net.listeners("on_grad_computed"):
                parameters = net.get_all_learnable_params()
                net.notify(
                    "on_grad_computed",
                    named_parameters=parameters,
                    batch=shown,
                    training=True,
                )

        loss, stats = self.step(net.drop_placeholder_targets(batch), on_gradient)
        net.notify("on_batch_end", batch=shown, training=True, loss=loss, y_pred=None)
        return loss, stats

    def _check_compared(self, n_skipped: int, n_anchors: int) -> None:
        net = self.net
        if n_skipped < n_anchors or net.criterion_.options.ce_weight:
            return
        if len(self.targets) == 1:
            raise ValueError(
                "X holds 1 row, but at least 2 rows are required, which are compared with "
                "each other. Pass more rows at a time."
            )
        if net.target_kind is not None and bool((self.targets == self.targets[:1]).all()):
            raise ValueError(
                f"y holds the same target in all {len(self.targets)} rows, but rows of "
                f"different targets are compared. Pass some of each; shuffle rows that are "
                f"sorted before they are passed in chunks."
            )
        raise ValueError(
            f"Expected batches with both a positive and a negative for some row, got "
            f"none, so nothing can be learned. Raise `batch_size` (now "
            f"{net.batch_size}) or `n_views` (now {net.n_views})."
        )


def draws_from_torch(net: ContrastiveNet) -> bool:
    """Return whether parts of users may draw from torch's global generators."""
    return (
        get_config(net.module_.encoder) is None
        or type(net.criterion_) is not ContrastiveLoss
        or callable(net.criterion_.options.hardening)
        or not type(net.augment).__module__.startswith("sklearn_hscl.")
        or isinstance(net.augment, FunctionAugmentation)
        or bool(net.user_callbacks)
    )


# Warm start --------------------------------------------------------------------------


ParameterState = dict[str, Tensor | float | None]
"""What an optimizer stores for one parameter."""
# Settings that need one more entry in the state of each parameter, and its name.
_EXTRA_ENTRIES = {
    "amsgrad": "max_exp_avg_sq",
    "centered": "grad_avg",
    "momentum": "momentum_buffer",
}


def load_warm_start(net: ContrastiveNet, earlier: ContrastiveNet) -> None:
    """Take over weights, the optimizer's state and the history of a trained net.

    The state of the optimizer is left out if the optimizers differ in type, or if it
    lacks entries that the new settings need.

    Parameters
    ----------
    net : ContrastiveNet
        Initialized, and not yet trained.
    earlier : ContrastiveNet
        The trained net.

    Raises
    ------
    ValueError
        If the module has changed.
    """
    try:
        net.plain_module.load_state_dict(earlier.plain_module.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"warm_start=True cannot continue the previous fit, as the parameters of the "
            f"encoder, the classes or the presence of labels have changed. Set "
            f"warm_start=False, or fit a clone. {error}"
        ) from error
    if type(net.optimizer_) is type(earlier.optimizer_):
        state = _reordered_state(net, earlier)
        if _has_all_entries(state, net.optimizer_):
            net.optimizer_.load_state_dict(net.optimizer_.state_dict() | {"state": state})
    net.history_ = copy.deepcopy(earlier.history)


def _has_all_entries(state: dict[int, ParameterState], optimizer: Optimizer) -> bool:
    """Return whether a state has all entries that the settings of an optimizer need."""
    groups = optimizer.param_groups
    needed = {
        entry
        for name, entry in _EXTRA_ENTRIES.items()
        if any(group.get(name) for group in groups)
    }
    return all(needed <= entries.keys() for entries in state.values())


def _reordered_state(
    net: ContrastiveNet, earlier: ContrastiveNet
) -> dict[int, ParameterState]:
    """Return a copy of an earlier optimizer's state, in the order of a net's weights.

    Both nets have the same weights, which their settings may put into different groups.
    The copy has the form of the entry ``"state"`` of the optimizer's ``state_dict``.
    """
    earlier_names = _parameter_names(earlier)
    state = earlier.optimizer_.state_dict()["state"]
    by_name = {earlier_names[index]: entries for index, entries in state.items()}
    shapes = {name: weight.shape for name, weight in net.plain_module.named_parameters()}
    return {
        index: copy.deepcopy(by_name[name])
        for index, name in enumerate(_parameter_names(net))
        if name in by_name and _has_shape(by_name[name], shapes.get(name))
    }


def _has_shape(entries: ParameterState, shape: torch.Size | None) -> bool:
    """Return whether the entries fit a parameter, which may have grown since."""
    tensors = [e for e in entries.values() if isinstance(e, Tensor) and e.ndim]
    return shape is None or all(tensor.shape == shape for tensor in tensors)


def _parameter_names(net: ContrastiveNet) -> list[str]:
    """Return the names of the weights of a net's optimizer, in its order."""
    named = [
        *net.plain_module.named_parameters(),
        *net.criterion_.named_parameters(prefix="criterion"),
    ]
    names = {id(weight): name for name, weight in named}
    groups = net.optimizer_.param_groups
    return [names[id(weight)] for group in groups for weight in group["params"]]
