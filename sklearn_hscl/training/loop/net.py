"""The thin skorch net: epochs, history, events."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback, EpochTimer, PrintLog
from torch import Tensor
from torch.optim import Optimizer

from sklearn_hscl.augment import Augmentation
from sklearn_hscl.encoders.preprocessing import as_float
from sklearn_hscl.losses import BetaSchedule, LossStats
from sklearn_hscl.training.batches.batch_sampler import EpochBatches
from sklearn_hscl.training.batches.views import Views, check_views_differ, fitted_augment
from sklearn_hscl.training.callbacks.lr_backoff import LRBackoff
from sklearn_hscl.training.loop.callback import StopTraining, TrainingCallback
from sklearn_hscl.training.loop.epoch import (
    DivergenceError,
    EpochStats,
    check_finite,
    run_epoch,
)
from sklearn_hscl.training.loop.gradient_cache import GradientCache, choose_chunk_rows
from sklearn_hscl.training.loop.learning_rate import LearningRate, Schedule
from sklearn_hscl.training.loop.step import Batch, TrainingStep


class EpochLog(PrintLog):
    """skorch's table of epochs, which is made up only where it is printed."""

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Print a line where the net is verbose."""
        if net.verbose:
            super().on_epoch_end(net, **kwargs)


class CallbackNet(NeuralNet):
    """skorch net whose callbacks of one training come and go, and may stop it.

    skorch swallows Ctrl-C as the way of its own callbacks to stop; here that of the user
    is told apart, and leaves `fit`.
    """

    callbacks_: Any
    stops_: bool

    @property
    def _default_callbacks(self) -> list[tuple[str, Any]]:
        # Losses are recorded per epoch, so skorch's batch averages have no work.
        return [("epoch_timer", EpochTimer()), ("print_log", EpochLog())]

    @contextmanager
    def with_callbacks(
        self,
        monitors: Sequence[TrainingCallback],
        report: TrainingCallback,
        keepers: Sequence[TrainingCallback] = (),
    ) -> Iterator[None]:
        """Context in which callbacks of one training take part."""
        users = self.callbacks_
        # Held-out scores first, so that users' callbacks see them; then the report, and
        # last who keeps what all others have come to.
        first = [(type(monitor).__name__, monitor) for monitor in monitors]
        last = [(type(keeper).__name__, keeper) for keeper in keepers]
        self.callbacks_ = [*first, *users, ("report", report), *last]
        try:
            yield
        finally:
            self.callbacks_ = users

    def notify(self, method_name: str, **kwargs: Any) -> None:
        """Call all callbacks, then stop if one of them ended the epoch that way."""
        getattr(self, method_name)(self, **kwargs)
        self.stops_ = False
        for callback in self._listeners(method_name):
            try:
                getattr(callback, method_name)(self, **kwargs)
            except StopTraining:
                self.stops_ = True
            except KeyboardInterrupt:
                # This is how skorch's EarlyStopping stops; from ours it is Ctrl-C.
                ours = isinstance(callback, TrainingCallback)
                if ours or method_name != "on_epoch_end":
                    raise
                self.stops_ = True
        if self.stops_:
            raise StopTraining

    def _listeners(self, method_name: str) -> list[Callback]:
        """Return the callbacks that do something at this event."""
        nothing = getattr(Callback, method_name, None)
        return [
            callback
            for _, callback in self.callbacks_
            if getattr(getattr(callback, method_name, None), "__func__", None)
            is not nothing
        ]

    def on_epochs_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        """Do nothing: the event is for callbacks."""

    def on_batch_begin(
        self, net: NeuralNet, batch: Any = None, training: bool = False, **kwargs: Any
    ) -> None:
        """Open no record of the batch: the history is kept per epoch."""


# Settings that ask for one more figure of each weight, and its name in the memory.
_MORE = {
    "amsgrad": "max_exp_avg_sq",
    "centered": "grad_avg",
    "momentum": "momentum_buffer",
}


def is_enough(memory: dict[int, Any], optimizer: Optimizer) -> bool:
    """Whether a memory has all that the settings of an optimizer ask for."""
    groups = optimizer.param_groups
    asked = {key for name, key in _MORE.items() if any(g.get(name) for g in groups)}
    return all(asked <= figures.keys() for figures in memory.values())


def memory_of_earlier(net: Any, earlier: Any) -> dict[int, Any]:
    """Return the memory of an earlier net's optimizer, in the order of another's weights.

    Both have the same weights, but may have them in other groups, as other settings of
    groups ask for.

    Parameters
    ----------
    net, earlier : ContrastiveNet
        With modules of the same weights.

    Returns
    -------
    dict of int to dict
        A copy, as the entry ``"state"`` of a ``state_dict`` of the optimizer of `net`.
    """
    before, memory = _names(earlier), earlier.optimizer_.state_dict()["state"]
    by_name = {before[place]: memory[place] for place in memory}
    return {
        place: copy.deepcopy(by_name[name])
        for place, name in enumerate(_names(net))
        if name in by_name
    }


def _names(net: Any) -> list[str]:
    """Return the names of the weights of a net's optimizer, in its order."""
    named = [
        *net.plain_module.named_parameters(),
        *net.criterion_.named_parameters(prefix="criterion"),
    ]
    names = {id(weight): name for name, weight in named}
    groups = net.optimizer_.param_groups
    return [names[id(weight)] for group in groups for weight in group["params"]]


SAMPLE_ROWS = 4  # on which the memory of a forward pass is measured


class ContrastiveNet(CallbackNet):
    """skorch net that trains an encoder with a contrastive loss.

    Differs from skorch's in four points: batches are slices of tensors on the
    device, the history is kept per epoch, Ctrl-C leaves `fit` instead of being
    swallowed, and a batch becomes views before it reaches the module.

    Parameters
    ----------
    module, criterion, **kwargs
        As in skorch; `criterion` is a :class:`~sklearn_hscl.losses.ContrastiveLoss`.
    augment : Augmentation
        Makes the views; it learns from the training rows when training begins.
    n_views : int
        Views of each row in a batch.
    view_seed : int
        Seed of the views.
    target_kind : {"class", "multilabel", "continuous"} or None
        What targets are; None where the loss ignores them.
    beta : float or BetaSchedule
        Strength of the tilt, or how it changes from epoch to epoch.
    lr_schedule : callable or None
        ``lr_schedule(progress) -> factor`` of the learning rate, with progress from 0 to
        1; None leaves the rate to callbacks.
    clip_norm : float or None
        Largest norm of the gradient.
    device_batch_size : int or "auto"
        Views that are embedded at a time.
    """

    history_: Any
    iterator_train__folds: Tensor | None = None
    callbacks_: Any

    def __init__(
        self,
        module: Any,
        criterion: Any,
        *,
        augment: Augmentation,
        n_views: int,
        view_seed: int,
        target_kind: str | None,
        beta: float | BetaSchedule,
        lr_schedule: Schedule | None,
        clip_norm: float | None,
        device_batch_size: int | str,
        **kwargs: Any,
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

    def train_with(
        self,
        monitors: Sequence[TrainingCallback],
        report: TrainingCallback,
        X: Tensor,
        y: Tensor,
        keepers: Sequence[TrainingCallback] = (),
    ) -> "ContrastiveNet":
        """Train with callbacks that live for this training only."""
        with self.with_callbacks(monitors, report, keepers):
            return self.partial_fit(X, y)

    def torch_compile(self, module: Any, name: str) -> Any:
        """Compile the network, but not the loss, whose kernels are made by hand."""
        return super().torch_compile(module, name) if name == "module" else module

    def load_warm_start(self, earlier: "ContrastiveNet") -> None:
        """Take over weights, the optimizer's memory and the history of a trained net.

        Raises
        ------
        ValueError
            If the module has changed.
        """
        try:
            self.plain_module.load_state_dict(earlier.plain_module.state_dict())
        except RuntimeError as error:
            raise ValueError(
                f"The encoder of the previous fit cannot be trained on, as its parameters "
                f"or the classes have changed, or labels come and go: set "
                f"warm_start=False, or fit a clone. {error}"
            ) from error
        if type(self.optimizer_) is type(earlier.optimizer_):
            memory = memory_of_earlier(self, earlier)
            if is_enough(memory, self.optimizer_):
                state = self.optimizer_.state_dict() | {"state": memory}
                self.optimizer_.load_state_dict(state)
        self.history_ = copy.deepcopy(earlier.history)

    @property
    def plain_module(self) -> Any:
        """The module inside of what torch.compile made of it."""
        return getattr(self.module_, "_orig_mod", self.module_)

    @property
    def n_completed(self) -> int:
        """Epochs of the present or last training that came to their end."""
        return sum("train_loss" in epoch for epoch in self.history[self.first_epoch_ :])

    def drop_unfinished_epoch(self) -> None:
        """Remove the record of an epoch that was interrupted."""
        del self.history[self.first_epoch_ + self.n_completed :]

    def partial_fit(
        self, X: Tensor, y: Tensor, classes: Any = None, **fit_params: Any
    ) -> "ContrastiveNet":
        """Train on; skorch's own method would swallow Ctrl-C."""
        if not self.initialized_:
            self.initialize()
        self.notify("on_train_begin", X=X, y=y)
        self.fit_loop(X, y)
        self.notify("on_train_end", X=X, y=y)
        return self

    def fit_loop(
        self, X: Tensor, y: Tensor, epochs: int | None = None, **fit_params: Any
    ) -> "ContrastiveNet":
        """Run the epochs until the last one, or until a callback stops them."""
        self.begin(X, y, epochs)
        try:
            with self.module_.precision.products():
                self.notify("on_epochs_begin")
                self._run_epochs(X, y)
        except StopTraining:
            pass
        finally:
            self.end()
        return self

    def _run_epochs(self, X: Tensor, y: Tensor) -> None:
        """Run the epochs that are left; go back once, if that is asked for."""
        try:
            super().fit_loop(X, y, epochs=self.n_epochs_ - self.n_completed)
        except DivergenceError as error:
            fallbacks = [part for _, part in self.callbacks_ if isinstance(part, LRBackoff)]
            if not fallbacks:
                raise
            fallbacks[0].go_back(self, error)
            super().fit_loop(X, y, epochs=self.n_epochs_ - self.n_completed)

    def begin(self, X: Tensor, y: Tensor, epochs: int | None = None) -> None:
        """Make ready for some epochs."""
        self.n_epochs_ = self.max_epochs if epochs is None else epochs
        self.first_epoch_ = len(self.history)
        folds = self.iterator_train__folds
        self.augment_ = fitted_augment(self.augment, X, y, folds, self._n_members)
        if self.target_kind is None:
            check_views_differ(self.augment_, self.n_views, self.module_, self.criterion_)
        self.step_ = self._training_step(X)
        self.learning_rate_: LearningRate | None = None  # until the batches are known
        self.first_step_, self.rate_factor_ = 0, 1.0
        self.stops_ = False

    def end(self) -> None:
        """Forget what only the epochs need, which may hold training rows."""
        if self.learning_rate_ is not None:
            self.learning_rate_.restore()
        del self.augment_, self.step_, self.learning_rate_
        del self.first_step_, self.rate_factor_
        self.iterator_train__folds = None

    def _training_step(self, rows: Tensor) -> TrainingStep:
        views = self.seeded_views(rows.device)
        self._set_training(True)
        sample = as_float(rows[:SAMPLE_ROWS], views.dtype)
        chunk_rows, can_halve = choose_chunk_rows(
            self.device_batch_size, self.module_, sample
        )
        return TrainingStep(
            self.module_,
            self.criterion_,
            self.optimizer_,
            views,
            GradientCache(chunk_rows, can_halve=can_halve),
            self.clip_norm,
        )

    def seeded_views(self, device: torch.device) -> Views:
        """Return the maker of views at the start of its random sequence."""
        generator = torch.Generator(device).manual_seed(self.view_seed)
        dtype = self.module_.precision.dtype
        return Views(self.augment_, self.n_views, generator, dtype, self._n_members)

    @property
    def _n_members(self) -> int:
        module = self.module_
        return int(module.encoder.n_members) if module.has_members else 1

    def train_step(self, batch: Batch, **fit_params: Any) -> tuple[Tensor, LossStats]:
        """Update the module on one batch."""

        def on_gradient() -> None:
            if self._listeners("on_grad_computed"):
                self.notify(
                    "on_grad_computed",
                    named_parameters=self.get_all_learnable_params(),
                    batch=batch[:2],
                    training=True,
                )

        return self.step_(self.drop_placeholder_targets(batch), on_gradient)

    def on_epoch_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        """Open the epoch; set the strength of its tilt, where that has a schedule."""
        super().on_epoch_begin(net, **kwargs)
        if isinstance(self.beta, BetaSchedule):
            n_done = len(self.history) - 1 - self.first_epoch_
            beta = self.beta.beta_at(n_done / max(1, self.n_epochs_ - 1))
            if not 0 <= beta < np.inf:
                raise ValueError(f"beta={self.beta!r} gave {beta}, which must be >= 0.")
            self.criterion_.set_beta(beta)
            self.history.record("beta", beta)

    def drop_placeholder_targets(self, batch: Batch) -> Batch:
        """Take the targets off a batch where they only fill a place."""
        return batch._replace(targets=None) if self.target_kind is None else batch

    def run_single_epoch(
        self, iterator: Any, training: bool, prefix: str, step_fn: Any, **params: Any
    ) -> None:
        """Run all batches and record their means once, without a wait per batch."""
        if iterator is None:
            return
        self._set_training(True)
        if self.learning_rate_ is None and self.lr_schedule is not None:
            n_steps = self.n_epochs_ * len(iterator)
            self.learning_rate_ = LearningRate(
                self.optimizer_,
                self.lr_schedule,
                n_steps,
                step=self.first_step_,
                factor=self.rate_factor_,
            )
        figures = run_epoch(iterator, lambda b: self._run_batch(b, training, step_fn))
        self.record_epoch(figures, iterator)

    def record_epoch(self, figures: EpochStats, batches: EpochBatches) -> None:
        """Write the figures of an epoch down.

        Raises
        ------
        DivergenceError
            If the loss or a weight is not finite.
        ValueError
            If no row had anything to be compared with.
        """
        check_finite(self, figures, batches)
        loss, n_skipped = figures.loss.item(), int(figures.skipped_anchors)
        self.n_anchors_ = self.n_views * figures.n_rows
        self._check_compared(n_skipped, self.n_anchors_)
        best = min((epoch["train_loss"] for epoch in self.history[:-1]), default=np.inf)
        self.history.record("train_loss", loss)
        self.history.record("train_loss_best", loss < best)  # Checkpoint monitors it
        self.history.new_batch()  # one stands for all: some callbacks look at the last
        self.history.record_batch("train_loss", loss)
        self.history.record("skipped_anchors", n_skipped)
        self.history.record("effective_negatives", figures.effective_negatives.item())

    def _run_batch(
        self, batch: Any, training: bool, step_fn: Any
    ) -> tuple[Tensor, LossStats]:
        if self.learning_rate_ is not None:
            self.learning_rate_.advance()
        seen = batch[:2]  # what callbacks know as a batch
        self.notify("on_batch_begin", batch=seen, training=training)
        loss, stats = step_fn(batch)
        self.notify("on_batch_end", batch=seen, training=training, loss=loss, y_pred=None)
        return loss, stats

    def _check_compared(self, n_skipped: int, n_anchors: int) -> None:
        if n_skipped == n_anchors and not self.criterion_.options.ce_weight:
            raise ValueError(
                f"No row had both a positive and a negative in its batch, so nothing can "
                f"be learnt: raise `batch_size` (now {self.batch_size}) or `n_views` (now "
                f"{self.n_views})."
            )
