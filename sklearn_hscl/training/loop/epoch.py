"""One epoch of steps, and the error if its numbers are not finite."""

from collections.abc import Callable, Iterable
from contextlib import closing
from math import isfinite
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.history import History
from torch import Tensor

from sklearn_hscl.encoders.contrastive_module import ContrastiveModule
from sklearn_hscl.encoders.inference import CHUNK_ROWS, embed_tensor
from sklearn_hscl.losses import ContrastiveLoss, LossStats
from sklearn_hscl.runtime.device import to_host
from sklearn_hscl.training.batches.batch_sampler import EpochBatches
from sklearn_hscl.training.batches.tensors import Batch, LazyRows

BatchStep = Callable[[Batch], tuple[Tensor, LossStats]]


class EpochStats(NamedTuple):
    """Means over the batches of an epoch, with a model axis if several models train."""

    loss: Tensor
    losses: Tensor
    """Losses of the batches, (n_batches,) or (n_batches, n_models)."""
    skipped_anchors: Tensor
    effective_negatives: Tensor
    weight_norm: Tensor
    """A norm of all weights after the last batch."""
    n_rows: int

    def on_host(self) -> "EpochStats":
        """Return the statistics in host memory, at the cost of one wait."""
        loss, losses, skipped, effective, norm = to_host(
            self.loss,
            self.losses,
            self.skipped_anchors,
            self.effective_negatives,
            self.weight_norm,
        )
        return EpochStats(loss, losses, skipped, effective, norm, self.n_rows)

    def of_model(self, model: int) -> "EpochStats":
        """Return the statistics of one of several models."""
        return EpochStats(
            self.loss[model],
            self.losses[:, model],
            self.skipped_anchors[model],
            self.effective_negatives[model],
            self.weight_norm[model],
            self.n_rows,
        )


def run_epoch(
    batches: Iterable[Batch], step: BatchStep, weight_norm: Callable[[], Tensor]
) -> EpochStats:
    """Run all batches, without waiting for the device in between.

    On the CPU, where reading a loss costs no wait, the epoch of a single model ends as soon
    as its loss is not finite.

    Parameters
    ----------
    batches : iterable of Batch
        Batches of one epoch; the iterator is closed however the epoch ends.
    step : callable
        Updates on a batch; returns the loss before the update, and its statistics.
    weight_norm : callable
        Returns a norm of all weights, or one for each of several models.

    Returns
    -------
    EpochStats
        On the device.
    """
    losses, skipped, counts, n_rows = [], [], [], 0
    with closing(iter(batches)) as remaining:  # type: ignore[type-var]
        for batch in remaining:
            value, stats = step(batch)
            losses.append(value)
            skipped.append(stats.skipped_anchors)
            counts.append(stats.effective_negatives)
            n_rows += len(batch.rows)
            if value.ndim == 0 and value.device.type == "cpu" and not isfinite(value):
                break
    by_batch = torch.stack(losses)
    return EpochStats(
        by_batch.mean(0),
        by_batch,
        torch.stack(skipped).sum(0),
        torch.stack(counts).mean(0),
        weight_norm(),
        n_rows,
    )


# Divergence ---------------------------------------------------------------------------

_MAX_SHOWN_ROWS = 5


class DivergenceError(FloatingPointError, ValueError):
    """Loss, weights or embeddings are not finite.

    Attributes
    ----------
    epoch, batch : int or None
        Position of the failure, counted from 1.
    rows : ndarray of int, or None
        Indices of that batch's rows among the training rows.
    """

    epoch: int | None = None
    batch: int | None = None
    rows: NDArray[np.int64] | None = None


class NetInTraining(Protocol):
    """Attributes of a net that the checks read."""

    lr: float
    module_: ContrastiveModule
    history: History
    criterion_: ContrastiveLoss
    optimizer_: torch.optim.Optimizer


def check_finite(net: NetInTraining, stats: EpochStats, batches: EpochBatches) -> None:
    """Check the losses of an epoch, and the weights after it.

    Parameters
    ----------
    net : ContrastiveNet
        The net after the last batch.
    stats : EpochStats
        Statistics of the epoch, in host memory.
    batches : EpochBatches
        The batches of the epoch.

    Raises
    ------
    DivergenceError
        If a loss or a weight is infinite or NaN; the error names the batch.
    """
    if not stats.loss.isfinite():
        batch = _first_bad_batch(stats.losses)
        cause = f"The loss became {stats.losses[batch - 1].item()}"
        if batch > 1:
            cause += f", by this batch or by the gradient of batch {batch - 1},"
    elif not (stats.weight_norm.isfinite() or _has_finite_weights(net.optimizer_)):
        batch, cause = len(stats.losses), "The gradient made weights infinite or NaN"
    else:
        return
    raise _divergence(cause, net, batch, batches.rows_of(batch))


def check_embedding(net: NetInTraining, rows: Tensor | LazyRows) -> None:
    """Raise DivergenceError where training has ruined the weights in its last step."""
    module = net.module_
    embedding = embed_tensor(module.encoder, rows[:CHUNK_ROWS], module.precision)
    if not embedding.isfinite().all():
        raise DivergenceError(
            f"Training ended with infinite embeddings. Lower `lr` (now {net.lr})."
        )


@torch.no_grad()
def weight_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """Return the sum of the norms of all trained weights, a scalar on the device.

    It is not finite if a weight is not, or if weights are huge.
    """
    return torch.stack(torch._foreach_norm(_weights(optimizer))).sum()


def _has_finite_weights(optimizer: torch.optim.Optimizer) -> bool:
    return all(bool(weight.isfinite().all()) for weight in _weights(optimizer))


def _weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the trained weights; frozen ones may be integers, or infinite masks."""
    return [
        weight
        for group in optimizer.param_groups
        for weight in group["params"]
        if weight.requires_grad
    ]


def _first_bad_batch(losses: Tensor) -> int:
    """Return the number of the first batch whose loss (n_batches,) is not finite.

    If only their sum is not finite, it is the batch with the largest loss.
    """
    bad = ~losses.isfinite()
    return int(bad.int().argmax() if bad.any() else losses.argmax()) + 1


def _divergence(
    cause: str, net: NetInTraining, batch: int, rows: NDArray[np.int64]
) -> DivergenceError:
    epoch, options = len(net.history), net.criterion_.options
    more = ", ..." if len(rows) > _MAX_SHOWN_ROWS else ""
    shown = ", ".join(map(str, rows[:_MAX_SHOWN_ROWS].tolist()))
    error = DivergenceError(
        f"{cause} in epoch {epoch}, batch {batch} ({len(rows)} training rows: "
        f"{shown}{more}). Lower `lr` (now {net.lr}) or `beta` (now {options.beta}), raise "
        f"`temperature` (now {options.temperature}), or set `clip_norm` or `lr_backoff`."
    )
    error.epoch, error.batch, error.rows = epoch, batch, rows
    return error
