"""Training that has come to numbers that are infinite, or none at all."""

from math import isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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


@torch.no_grad()
def has_finite_weights(optimizer: torch.optim.Optimizer) -> bool:
    """Whether all weights that are trained are finite; asked once an epoch."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    norms = torch.stack([norm.double() for norm in torch._foreach_norm(weights)])
    if isfinite(norms.sum()):
        return True
    # Norms of weights that are finite, but huge, are infinite, too.
    return all(bool(weight.isfinite().all()) for weight in weights)


def first_bad_batch(losses: Tensor) -> int:
    """Return the number of the first batch whose loss (n_batches,) is not finite.

    Where only their sum is not, it is the batch with the largest loss.
    """
    bad = ~losses.isfinite()
    return int(bad.int().argmax() if bad.any() else losses.argmax()) + 1


def divergence_in_batch(
    what: str, epoch: int, batch: int, rows: NDArray[np.int64], remedy: str
) -> DivergenceError:
    """Return the error that names a batch.

    Parameters
    ----------
    what : str
        What went wrong there.
    epoch, batch : int
        Numbers, from 1.
    rows : ndarray of int
        Training rows of the batch.
    remedy : str
        What to do, as a sentence without full stop.
    """
    more = ", ..." if len(rows) > _SHOWN_ROWS else ""
    shown = ", ".join(map(str, rows[:_SHOWN_ROWS].tolist()))
    error = DivergenceError(
        f"{what} in epoch {epoch}, batch {batch} ({len(rows)} training rows: "
        f"{shown}{more}): {remedy}."
    )
    error.epoch, error.batch, error.rows = epoch, batch, rows
    return error


def remedy_of(net: Any) -> str:
    """Say what may keep a net from diverging."""
    options = net.criterion_.options
    return (
        f"lower `lr` (now {net.lr}) or `beta` (now {options.beta}), raise `temperature` "
        f"(now {options.temperature}), or set `clip_norm` or `lr_backoff`"
    )
