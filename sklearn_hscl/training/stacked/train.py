"""Training several models as one, along a leading model axis."""

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sklearn_hscl.losses import ContrastiveLoss, LossStats
from sklearn_hscl.losses.presets import LossOptions
from sklearn_hscl.runtime.random_state import (
    scoped_torch_seed,
    set_torch_random_state,
    torch_random_state,
)
from sklearn_hscl.runtime.threads import torch_threads
from sklearn_hscl.training.callbacks.weight_averaging import AveragedWeights
from sklearn_hscl.training.loop.callback import StopTraining, TrainingCallback
from sklearn_hscl.training.loop.epoch import run_epoch
from sklearn_hscl.training.loop.learning_rate import LearningRate
from sklearn_hscl.training.loop.step import Batch, TrainingStep
from sklearn_hscl.training.run import TrainingRun
from sklearn_hscl.training.stacked.compatibility import (
    NUMBERS,
    form,
    models_at_once,
    reason_not_stackable,
)
from sklearn_hscl.training.stacked.module import StackedModule, StackedOptimizer


class StackedModel:
    """One run of a stack."""

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.net = run.net
        self.error: Exception | None = None
        self.is_done = False
        self.averaging: AveragedWeights | None = None
        self.monitors = []
        for monitor in run.monitors:
            if isinstance(monitor, AveragedWeights):
                self.averaging = monitor  # done for all models at once
            else:
                self.monitors.append(monitor)

    def notify(self, event: str, **details: Any) -> None:
        """Call the callbacks of the net; take note of how that ends."""
        with self.net.with_callbacks(self.monitors, TrainingCallback()):
            try:
                self.net.notify(event, **details)
            except StopTraining:
                self.is_done = True
            except Exception as error:
                self.error = error

    def end(self, rows: Any, targets: Tensor) -> None:
        """Leave the stack, with weights that belong to this model alone."""
        if self.error is None:
            self.notify("on_train_end", X=rows, y=targets)
        if self.error is None:
            try:
                self.run.check_embedding()
            except FloatingPointError as error:
                self.error = error
        self.net.end()

    @property
    def goes_on(self) -> bool:
        """Whether there is an epoch to come."""
        return not self.is_done and self.error is None


# glibc hands freed memory back to the system, page by page, unless blocks of this size
# were in use before: temporaries of stacks would cost twice their time.
_WARM_BYTES = 31 * 2**20


def train_stacked(runs: Sequence[TrainingRun]) -> list[Exception | None]:
    """Train runs of one form, on the same rows and from the same seeds, as one stack.

    Parameters
    ----------
    runs : sequence of TrainingRun
        Prepared; they may differ in numbers of the loss and in settings of the optimizer
        and of early stopping. They share the rows of the first one from here on.

    Returns
    -------
    list of Exception or None
        What went wrong in the runs: one that fails does not stop the others.

    Raises
    ------
    MemoryError
        If two batches would not fit into memory at once.
    """
    first = runs[0]
    most = models_at_once(first)  # equal for all, as they are of one form
    if most < 2:
        raise MemoryError("two batches would not fit into memory at once")
    parts = [runs[start : start + most] for start in range(0, len(runs), most)]
    return [error for part in parts for error in _train_stack(part)]


def _train_stack(runs: Sequence[TrainingRun]) -> list[Exception | None]:
    """Train as many runs as fit into memory at once."""
    first = runs[0]
    if first.device.type == "cpu":
        torch.empty(_WARM_BYTES, dtype=torch.uint8)
    precision = first.net.module_.precision
    seed = scoped_torch_seed(first.seeds.weights)
    with seed, torch_threads(first.n_threads), precision.products():
        return _Stack(runs).train()


def train_all(runs: Sequence[TrainingRun]) -> list[Exception | None]:
    """Train runs on the same rows as one stack, or one by one where that cannot be.

    Parameters
    ----------
    runs : sequence of TrainingRun
        Prepared.

    Returns
    -------
    list of Exception or None
        What went wrong in the runs.
    """
    forms = [form(run) for run in runs]
    are_alike = len(runs) > 1 and forms.count(forms[0]) == len(runs)
    if are_alike and not any(reason_not_stackable(run) for run in runs):
        return train_stacked(runs)
    return train_one_by_one(runs)


def train_one_by_one(runs: Sequence[TrainingRun]) -> list[Exception | None]:
    """Train runs one after the other; return what went wrong in them."""
    errors: list[Exception | None] = []
    for run in runs:
        try:
            run.train_with(TrainingCallback())
            errors.append(None)
        except Exception as error:
            errors.append(error)
    return errors


class _Stack:
    """Models in training; a net, too, for who averages weights."""

    def __init__(self, runs: Sequence[TrainingRun]) -> None:
        self.models = [StackedModel(run) for run in runs]
        self.active = list(self.models)
        self.first = runs[0].net
        self.device = runs[0].device
        self.rows, self.targets = runs[0].train
        self.module_ = StackedModule([run.net.module_ for run in runs])
        self.optimizer = StackedOptimizer(
            self.module_, [run.net.optimizer_ for run in runs]
        )
        self.averaging = self.models[0].averaging or TrainingCallback()

    def train(self) -> list[Exception | None]:
        """Run the epochs; return what went wrong in each model."""
        self._begin()
        dataset = self.first.get_dataset(self.rows, self.targets)
        batches = self.first.get_iterator(dataset, training=True)
        rate = None
        if self.first.lr_schedule is not None:
            n_steps = self.first.n_epochs_ * len(batches)
            rate = LearningRate(self.optimizer, self.first.lr_schedule, n_steps)
        for _ in range(self.first.n_epochs_):
            self._notify("on_epoch_begin", dataset_train=dataset)
            self._end_some()
            if not self.active:
                break
            self._run_epoch(batches, rate)
            self._notify("on_epoch_end", dataset_train=dataset)
            self._end_some()
        for model in self.active:
            model.is_done = True
        self._end_some()
        return [model.error for model in self.models]

    def _begin(self) -> None:
        for model in self._from_same_state():
            model.notify("on_train_begin", X=self.rows, y=self.targets)
            model.net.begin(self.rows, self.targets)
        self.views = self.first.step_.views
        self.averaging.on_train_begin(self)

    def _run_epoch(self, batches: Any, rate: LearningRate | None) -> None:
        self.averaging.on_epoch_begin(self)
        self.module_.train()
        step = TrainingStep(
            self.module_,
            self._loss(),
            self.optimizer,
            self.views,
            clip_norm=self.first.clip_norm,
        )

        def run_batch(batch: Batch) -> tuple[Tensor, LossStats]:
            if rate is not None:
                rate.advance()
            result = step(self.first.drop_placeholder_targets(batch))
            self.averaging.on_batch_end(self)
            return result

        figures = run_epoch(batches, run_batch)
        self.averaging.on_epoch_end(self)
        self._check_buffers()
        for k, model in enumerate(self.active):
            try:
                model.net.record_epoch(figures.of(k), batches)
            except Exception as error:
                model.error = error

    def _check_buffers(self) -> None:
        """Raise where the forward pass has changed what all models share."""
        before = self.active[0].net.module_.buffers()
        for buffer, after in zip(before, self.module_.buffers(), strict=True):
            if not torch.equal(buffer.nan_to_num(), after.nan_to_num()):
                raise RuntimeError("the encoder changes its buffers in training")

    def _loss(self) -> ContrastiveLoss:
        """Return the loss of all models, with one value for each."""
        losses = [model.net.criterion_ for model in self.active]
        options = [loss.options for loss in losses]
        together = copy.copy(losses[0])
        together.options = replace(
            options[0], **{name: _stacked(options, name, self.device) for name in NUMBERS}
        )
        return together

    def _notify(self, event: str, **details: Any) -> None:
        for model in self._from_same_state():
            if model.goes_on:
                model.notify(event, **details)

    def _from_same_state(self) -> Iterator[StackedModel]:
        """Yield the models, each with the random numbers that it would see alone."""
        state = torch_random_state(self.device)
        for model in self.active:
            set_torch_random_state(self.device, state)
            yield model

    def _end_some(self) -> None:
        """End the models that do not go on; compact the stack."""
        index = [k for k, model in enumerate(self.active) if model.goes_on]
        ended = [model for model in self.active if not model.goes_on]
        if not ended:
            return
        if not index:
            self.averaging.on_train_end(self)
        for k, model in enumerate(self.active):
            if not model.goes_on:
                self.optimizer.hand_over(k, model.net.optimizer_)
        self.module_.keep(index)
        self.active = [self.active[k] for k in index]
        if index:
            self.optimizer.keep(index)
            if isinstance(self.averaging, AveragedWeights):
                self.averaging.keep(self, torch.tensor(index, device=self.device))
        for model in ended:
            model.end(self.rows, self.targets)


def _stacked(
    options: Sequence[LossOptions], name: str, device: torch.device
) -> float | Tensor:
    """Return a number of all models: a float where it is the same for all."""
    values = [getattr(option, name) for option in options]
    if len(Counter(values)) == 1 and name == "ce_weight":
        return values[0]
    return torch.tensor(values, dtype=torch.float64, device=device)
