"""Training several models as one, along a leading model axis, where that is possible.

Runs that agree in all but numbers share their batches; each keeps its own history.
"""

from collections.abc import Hashable, Iterator, Sequence

import torch
from torch import Tensor, nn

from sklearn_hscl.losses import ContrastiveLoss, LossStats
from sklearn_hscl.runtime.processes import processes_of_fit
from sklearn_hscl.runtime.random_state import (
    set_torch_random_state,
    torch_random_state,
)
from sklearn_hscl.runtime.threads import torch_threads
from sklearn_hscl.training.batches.tensors import Batch, LabelledRows
from sklearn_hscl.training.callbacks.weights import AveragedWeights
from sklearn_hscl.training.loop.callback import StopTraining, TrainingCallback
from sklearn_hscl.training.loop.epoch import DivergenceError, run_epoch, weight_norm
from sklearn_hscl.training.loop.gradient_cache import (
    gradient_cache,
    has_batch_statistics,
)
from sklearn_hscl.training.loop.learning_rate import LearningRate
from sklearn_hscl.training.loop.step import TrainingStep
from sklearn_hscl.training.run import TrainingRun
from sklearn_hscl.training.stacked.module import (
    ELEMENTWISE,
    StackedLoss,
    StackedModule,
    StackedOptimizer,
    comparable,
)

# glibc returns freed memory to the system, page by page, unless blocks of this size were
# in use before. Temporaries of stacks would then take twice their time.
_WARM_UP_BYTES = 31 * 2**20


def are_stackable(runs: Sequence[TrainingRun]) -> bool:
    """Return whether runs on the same rows can be one stack."""
    keys = [stack_key(run) for run in runs]
    are_alike = len(runs) > 1 and keys.count(keys[0]) == len(runs)
    return are_alike and not any(reason_not_stackable(run) for run in runs)


def train_one_by_one(runs: Sequence[TrainingRun]) -> list[Exception | None]:
    """Train runs one after the other; return their errors."""
    errors: list[Exception | None] = []
    for run in runs:
        try:
            run.train_with(TrainingCallback())
            errors.append(None)
        except Exception as error:
            # A divergence is one of all processes that share the run.
            if processes_of_fit() and not isinstance(error, DivergenceError):
                raise
            errors.append(error)
    return errors


def train_stacked(runs: Sequence[TrainingRun]) -> list[Exception | None]:
    """Train runs with the same stack key, rows and seeds as one stack.

    Parameters
    ----------
    runs : sequence of TrainingRun
        The prepared runs. They may differ in numerical options of the loss and in
        settings of the optimizer and of early stopping.

    Returns
    -------
    list of Exception or None
        The error of each run; a run that fails does not stop the others.

    Raises
    ------
    MemoryError
        If two batches do not fit into memory at once.
    """
    first = runs[0]
    stack_size = models_at_once(first)  # equal for all runs, as their keys are equal
    if stack_size < 2:
        raise MemoryError("two batches do not fit into memory at once")
    parts = [runs[start : start + stack_size] for start in range(0, len(runs), stack_size)]
    return [error for part in parts for error in _train_stack(part)]


def _train_stack(runs: Sequence[TrainingRun]) -> list[Exception | None]:
    """Train as many runs as fit into memory at once."""
    first = runs[0]
    if first.device.type == "cpu":
        torch.empty(_WARM_UP_BYTES, dtype=torch.uint8)
    precision = first.net.module_.precision
    with first.generator(), torch_threads(first.n_threads), precision.products():
        return _Stack(runs).train()


# Runs that can be stacked ------------------------------------------------------------


def reason_not_stackable(run: TrainingRun) -> str | None:
    """Return why a run cannot be trained in a stack; None if it can.

    Parameters
    ----------
    run : TrainingRun
        The run, prepared and not yet trained.
    """
    net = run.net
    if run.keepers:
        return "lr_backoff restores an earlier state of one model"
    if net.compile:
        return "compile=True compiles the step of one model"
    if net.device_batch_size != "auto":
        return f"device_batch_size={net.device_batch_size} splits the batches of one model"
    if has_batch_statistics(net.module_):
        return "the encoder has batch statistics"
    if _has_tied_weights(net.module_):
        return "the encoder has tied weights"
    if type(net.criterion_) is not ContrastiveLoss:
        return f"{type(net.criterion_).__name__} may compute another loss, or learn weights"
    if net.criterion_.options.n_synthetic:
        return f"loss={net.criterion_.loss!r} draws synthetic negatives for one model"
    if net.criterion_.options.n_sampled:
        return f"loss={net.criterion_.loss!r} draws negatives for one model"
    if type(net.optimizer_) not in ELEMENTWISE:
        name = type(net.optimizer_).__name__
        return f"{name} does not update each weight independently"
    if net.user_callbacks:
        return f"net_callbacks={net.user_callbacks} see one net"
    return None


def _has_tied_weights(module: nn.Module) -> bool:
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    return len(names) > len(list(module.parameters()))


def stack_key(run: TrainingRun) -> tuple[Hashable, ...]:
    """Return a key that is equal for runs that can be stacked with each other.

    Custom encoders are compared by their weights alone: they must be copies of one module.
    """
    net = run.net
    weights = [
        (name, w.shape, w.requires_grad) for name, w in net.module_.named_parameters()
    ]
    has_classifier = net.module_.classifier is not None
    return (
        id(run.train), net.target_kind, *weights, has_classifier, net.n_views,
        net.batch_size, net.max_epochs, comparable(net.lr_schedule), net.clip_norm,
        run.seeds, type(net.optimizer_), len(run.monitors),
    )  # fmt: skip


def models_at_once(run: TrainingRun) -> int:
    """Return for how many models the activations of a batch fit into memory."""
    net = run.net
    dtype = net.module_.precision.dtype
    with run.generator():  # dropout draws
        cache = gradient_cache("auto", net.module_, run.train.rows, dtype)
    return cache.chunk_rows // (net.n_views * net.batch_size)


# Stack -------------------------------------------------------------------------------


class _StackedModel:
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
                self.averaging = monitor  # one average serves the whole stack
            else:
                self.monitors.append(monitor)

    @property
    def is_training(self) -> bool:
        """Whether the model takes part in the next epoch."""
        return not self.is_done and self.error is None

    def notify(self, event: str, **details: object) -> None:
        """Call the callbacks of the net; record whether they stop it, or fail."""
        with self.net.with_callbacks(self.monitors, TrainingCallback()):
            try:
                self.net.notify(event, **details)
            except StopTraining:
                self.is_done = True
            except Exception as error:
                self.error = error

    def end(self, train: LabelledRows) -> None:
        """Leave the stack; its weights belong to this model alone."""
        if self.error is None:
            self.notify("on_train_end", X=train.rows, y=train.targets)
        if self.error is None:
            try:
                self.run.check_embedding()
            except FloatingPointError as error:
                self.error = error
        self.net.end_loop()


class _Stack:
    """The models in training.

    Each model has the loop of its own net, whose history it fills. Batches and views are
    those of the first loop; AveragedWeights gets the stack as its net.
    """

    def __init__(self, runs: Sequence[TrainingRun]) -> None:
        self.models = [_StackedModel(run) for run in runs]
        self.active = list(self.models)
        self.first = runs[0].net
        self.device = runs[0].device
        self.train_rows = runs[0].train
        self.module_ = StackedModule([run.net.module_ for run in runs])
        self.optimizer = StackedOptimizer(
            self.module_, [run.net.optimizer_ for run in runs]
        )
        self.averaging = self.models[0].averaging or TrainingCallback()
        self.rate: LearningRate | None = None

    def train(self) -> list[Exception | None]:
        """Run the epochs; return the error of each model."""
        self._begin()
        dataset, n_epochs = self.loop.dataset, self.loop.n_epochs
        for _ in range(n_epochs):
            self._notify("on_epoch_begin", dataset_train=dataset)
            self._end_stopped()
            if not self.active:
                break
            self._run_epoch()
            self._notify("on_epoch_end", dataset_train=dataset)
            self._end_stopped()
        for model in self.active:
            model.is_done = True
        self._end_stopped()
        return [model.error for model in self.models]

    def _begin(self) -> None:
        for model in self._from_same_state():
            model.notify(
                "on_train_begin", X=self.train_rows.rows, y=self.train_rows.targets
            )
            model.net.begin_loop(*self.train_rows)
        self.loop = self.first.loop  # outlives the first model
        if self.first.lr_schedule is not None:
            n_steps = self.loop.n_epochs * len(self.loop.batches)
            self.rate = LearningRate(self.optimizer, self.first.lr_schedule, n_steps)
        self.averaging.on_train_begin(self)

    def _run_epoch(self) -> None:
        self.averaging.on_epoch_begin(self)
        self.module_.train()
        step = TrainingStep(
            self.module_,
            StackedLoss([model.net.criterion_ for model in self.active], self.device),
            self.optimizer,
            self.loop.views,
            clip_norm=self.first.clip_norm,
        )

        def run_batch(batch: Batch) -> tuple[Tensor, LossStats]:
            if self.rate is not None:
                self.rate.advance()
            result = step(self.first.drop_placeholder_targets(batch))
            self.averaging.on_batch_end(self)
            return result

        def norms() -> Tensor:
            return torch.stack([weight_norm(m.net.optimizer_) for m in self.active])

        stats = run_epoch(self.loop.batches, run_batch, norms).on_host()
        self.averaging.on_epoch_end(self)
        self._check_buffers()
        for k, model in enumerate(self.active):
            try:
                model.net.loop.record(stats.of_model(k), self.loop.batches)
            except Exception as error:
                model.error = error

    def _check_buffers(self) -> None:
        """Raise if the forward pass has changed buffers, which all models share."""
        before = self.active[0].net.module_.buffers()
        for buffer, after in zip(before, self.module_.buffers(), strict=True):
            if not torch.equal(buffer.nan_to_num(), after.nan_to_num()):
                raise RuntimeError("the encoder changes its buffers in training")

    def _notify(self, event: str, **details: object) -> None:
        for model in self._from_same_state():
            if model.is_training:
                model.notify(event, **details)

    def _from_same_state(self) -> Iterator[_StackedModel]:
        """Yield the models, each with the random state that it would have alone."""
        state = torch_random_state(self.device)
        for model in self.active:
            set_torch_random_state(self.device, state)
            yield model

    def _end_stopped(self) -> None:
        """End the models that stopped or failed; remove them from the stack."""
        indices = [k for k, model in enumerate(self.active) if model.is_training]
        ended = [model for model in self.active if not model.is_training]
        if not ended:
            return
        if not indices:
            self.averaging.on_train_end(self)
        for k, model in enumerate(self.active):
            if not model.is_training:
                self.optimizer.copy_state(k, model.net.optimizer_)
        self.module_.retain(indices)
        self.active = [self.active[k] for k in indices]
        if indices:
            self.optimizer.retain(indices)
            if isinstance(self.averaging, AveragedWeights):
                self.averaging.retain(self, torch.tensor(indices, device=self.device))
        for model in ended:
            model.end(self.train_rows)
