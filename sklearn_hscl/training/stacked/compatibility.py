"""Which runs may be trained as one stack, and how many at once."""

from inspect import isroutine
from typing import Any

from torch import nn

from sklearn_hscl.encoders.preprocessing import as_float
from sklearn_hscl.runtime.random_state import scoped_torch_seed
from sklearn_hscl.training.loop.gradient_cache import (
    choose_chunk_rows,
    has_batch_statistics,
)
from sklearn_hscl.training.loop.net import SAMPLE_ROWS
from sklearn_hscl.training.run import TrainingRun
from sklearn_hscl.training.stacked.module import ELEMENTWISE

# Options of the loss in which models of one stack may differ.
NUMBERS = ("beta", "temperature", "threshold", "ce_weight")


def reason_not_stackable(run: TrainingRun) -> str | None:
    """Say why a run cannot be trained in a stack; None if it can.

    Parameters
    ----------
    run : TrainingRun
        Prepared and not yet trained.
    """
    net = run.net
    if run.keepers:
        return "lr_backoff goes back to an earlier state of one model"
    if net.compile:
        return "compile=True compiles the step of one model"
    if net.device_batch_size != "auto":
        return f"device_batch_size={net.device_batch_size} cuts the batches of one model"
    if has_batch_statistics(net.module_):
        return "the encoder has batch statistics"
    if _has_tied_weights(net.module_):
        return "the encoder has weights in two places"
    if net.criterion_.options.n_synthetic:
        return f"loss={net.criterion_.loss!r} draws synthetic negatives for one model"
    if type(net.optimizer_) not in ELEMENTWISE:
        return f"{type(net.optimizer_).__name__} does not update each weight by itself"
    ours = {name for name, _ in net._default_callbacks}
    users = [name for name, _ in net.callbacks_ if name not in ours]
    if users:
        return f"net_callbacks={users} see one net"
    return None


def models_at_once(run: TrainingRun) -> int:
    """Return for how many models the activations of a batch fit into memory."""
    net = run.net
    sample = as_float(run.train.rows[:SAMPLE_ROWS], net.module_.precision.dtype)
    with scoped_torch_seed(0):  # dropout draws
        n_views, _ = choose_chunk_rows("auto", net.module_, sample)
    return n_views // (net.n_views * net.batch_size)


def form(run: TrainingRun) -> tuple[Any, ...]:
    """Return what must be equal in two runs for one stack, if their data are.

    Of objects that act as functions only the class is looked at, as copies of them are
    not equal: they must be copies of one object.
    """
    net = run.net
    loss = net.criterion_
    fixed = [
        (name, _kind(value))
        for name, value in vars(loss.options).items()
        if name not in NUMBERS
    ]
    weights = [
        (name, w.shape, w.requires_grad) for name, w in net.module_.named_parameters()
    ]
    has_classifier = net.module_.classifier is not None
    return (
        *fixed, loss.loss, loss.label_smoothing, loss.target_type, *weights,
        has_classifier, net.n_views, net.batch_size, net.max_epochs, _kind(net.lr_schedule),
        net.clip_norm, run.seeds, type(net.optimizer_), len(run.monitors),
    )  # fmt: skip


def _kind(value: Any) -> Any:
    return value if not callable(value) or isroutine(value) else type(value)


def _has_tied_weights(module: nn.Module) -> bool:
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    return len(names) > len(list(module.parameters()))
