"""Which runs may be trained as one stack, and how many at once."""

from collections.abc import Hashable

from torch import nn

from sklearn_hscl.encoders.preprocessing import as_float
from sklearn_hscl.runtime.random_state import scoped_torch_seed
from sklearn_hscl.training.loop.gradient_cache import (
    choose_chunk_rows,
    has_batch_statistics,
)
from sklearn_hscl.training.loop.net import N_SAMPLE_ROWS
from sklearn_hscl.training.run import TrainingRun
from sklearn_hscl.training.stacked.loss import comparable
from sklearn_hscl.training.stacked.optimizer import ELEMENTWISE


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
    if net.criterion_.options.n_synthetic:
        return f"loss={net.criterion_.loss!r} draws synthetic negatives for one model"
    if type(net.optimizer_) not in ELEMENTWISE:
        name = type(net.optimizer_).__name__
        return f"{name} does not update each weight independently"
    defaults = {name for name, _ in net._default_callbacks}
    added = [name for name, _ in net.callbacks_ if name not in defaults]
    if added:
        return f"net_callbacks={added} see one net"
    return None


def models_at_once(run: TrainingRun) -> int:
    """Return for how many models the activations of a batch fit into memory."""
    net = run.net
    sample = as_float(run.train.rows[:N_SAMPLE_ROWS], net.module_.precision.dtype)
    with scoped_torch_seed(0):  # dropout draws
        n_views, _ = choose_chunk_rows("auto", net.module_, sample)
    return n_views // (net.n_views * net.batch_size)


def stack_key(run: TrainingRun) -> tuple[Hashable, ...]:
    """Return what two runs must have in common to be stacked.

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


def _has_tied_weights(module: nn.Module) -> bool:
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    return len(names) > len(list(module.parameters()))
