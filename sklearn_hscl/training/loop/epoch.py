"""One epoch of steps, and numbers in it that are not finite."""

from collections.abc import Callable, Iterable
from contextlib import closing
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_hscl.losses import LossStats
from sklearn_hscl.training.batches.batch_sampler import EpochBatches
from sklearn_hscl.training.loop.step import Batch

BatchStep = Callable[[Batch], tuple[Tensor, LossStats]]


class EpochStats(NamedTuple):
    """Means over the batches of an epoch; one for each model where several train."""

    loss: Tensor
    losses: Tensor
    """Of the batches one by one, (n_batches,) or (n_batches, n_models)."""
    skipped_anchors: Tensor
    effective_negatives: Tensor
    n_rows: int

    def of(self, model: int) -> "EpochStats":
        """Return the figures of one of several models."""
        return EpochStats(
            self.loss[model],
            self.losses[:, model],
            self.skipped_anchors[model],
            self.effective_negatives[model],
            self.n_rows,
        )


def run_epoch(batches: Iterable[Batch], step: BatchStep) -> EpochStats:
    """Run all batches, without a wait for the device in between.

    On CPU, where asking is no wait, the epoch of a model ends when its loss is not finite.

    Parameters
    ----------
    batches : iterable of Batch
        Of one epoch; its iterator is closed, whatever ends the epoch.
    step : callable
        Updates on a batch; returns the loss before the update, and its statistics.

    Returns
    -------
    EpochStats
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
        n_rows,
    )


_SHOWN_ROWS = 5


class DivergenceError(FloatingPointError, ValueError):
    """Loss, weights or embeddings are not finite.

    Attributes
    ----------
    epoch, batch : int or None
        Where, counted from 1.
    rows : ndarray of int, or None
        Training rows of that batch, by their place among the rows that are trained on.
    """

    epoch: int | None = None
    batch: int | None = None
    rows: NDArray[np.int64] | None = None


def check_finite(net: Any, figures: EpochStats, batches: EpochBatches) -> None:
    """Look at the losses of an epoch, and at the weights that it ended with.

    Parameters
    ----------
    net : ContrastiveNet
        After the last batch.
    figures : EpochStats
        Of the epoch.
    batches : EpochBatches
        That made it.

    Raises
    ------
    DivergenceError
        If something is infinite or NaN; it names the batch.
    """
    if not figures.loss.isfinite():
        batch = _first_bad_batch(figures.losses)
        what = f"The loss became {figures.losses[batch - 1].item()}"
        if batch > 1:
            what += f", by this batch or by the gradient of batch {batch - 1},"
    elif not has_finite_weights(net.optimizer_):
        batch, what = len(figures.losses), "The gradient made weights infinite or NaN"
    else:
        return
    raise _divergence(what, net, batch, batches.rows_of(batch))


@torch.no_grad()
def has_finite_weights(optimizer: torch.optim.Optimizer) -> bool:
    """Whether all weights that are trained are finite; asked once an epoch."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    norms = torch.stack([norm.double() for norm in torch._foreach_norm(weights)])
    if isfinite(norms.sum()):
        return True
    # Norms of weights that are finite, but huge, are infinite, too.
    return all(bool(weight.isfinite().all()) for weight in weights)


def _first_bad_batch(losses: Tensor) -> int:
    """Return the number of the first batch whose loss (n_batches,) is not finite.

    Where only their sum is not, it is the batch with the largest loss.
    """
    bad = ~losses.isfinite()
    return int(bad.int().argmax() if bad.any() else losses.argmax()) + 1


def _divergence(
    what: str, net: Any, batch: int, rows: NDArray[np.int64]
) -> DivergenceError:
    epoch, options = len(net.history), net.criterion_.options
    more = ", ..." if len(rows) > _SHOWN_ROWS else ""
    shown = ", ".join(map(str, rows[:_SHOWN_ROWS].tolist()))
    error = DivergenceError(
        f"{what} in epoch {epoch}, batch {batch} ({len(rows)} training rows: "
        f"{shown}{more}): lower `lr` (now {net.lr}) or `beta` (now {options.beta}), raise "
        f"`temperature` (now {options.temperature}), or set `clip_norm` or `lr_backoff`."
    )
    error.epoch, error.batch, error.rows = epoch, batch, rows
    return error
