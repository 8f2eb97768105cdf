"""One epoch of training steps, whoever drives them."""

from collections.abc import Callable, Iterable
from contextlib import closing
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from sklearn_hscl.losses import LossStats
from sklearn_hscl.training.step import Batch

BatchStep = Callable[[Batch], tuple[Tensor, LossStats]]


class EpochFigures(NamedTuple):
    """Means over the batches of an epoch; one for each model where several train."""

    loss: Tensor
    losses: Tensor
    """Of the batches one by one, (n_batches,) or (n_batches, n_models)."""
    skipped_anchors: Tensor
    effective_negatives: Tensor
    n_rows: int

    def of(self, model: int) -> "EpochFigures":
        """Return the figures of one of several models."""
        return EpochFigures(
            self.loss[model],
            self.losses[:, model],
            self.skipped_anchors[model],
            self.effective_negatives[model],
            self.n_rows,
        )


def run_epoch(batches: Iterable[Batch], step: BatchStep) -> EpochFigures:
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
    EpochFigures
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
    return EpochFigures(
        by_batch.mean(0),
        by_batch,
        torch.stack(skipped).sum(0),
        torch.stack(counts).mean(0),
        n_rows,
    )
