"""The training step: batch, views, encode, project, loss, update."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sklearn_hscl.losses import ContrastiveLoss, LossStats
from sklearn_hscl.training.members import mixed_members
from sklearn_hscl.training.views import Views

# From projections (V * B, D) and class scores to the loss and what was skipped.
Objective = Callable[[Tensor, Tensor | None], tuple[Tensor, LossStats]]


def whole_batch(
    module: nn.Module, objective: Objective, views: Tensor
) -> tuple[Tensor, LossStats]:
    """Compute the loss of all views at once, and its gradient.

    Parameters
    ----------
    module : nn.Module
        Encoder with head; gets the gradients.
    objective : callable
        From projections and class scores to the loss.
    views : Tensor of shape (V * B, ...)
        The views of a batch.

    Returns
    -------
    value : Tensor, scalar
    stats : LossStats
    """
    value, stats = objective(*module(views))
    value.backward()
    return value.detach(), stats


class Batch(NamedTuple):
    """Rows that are compared with each other."""

    rows: Tensor  # (B, ...)
    targets: Tensor | None  # (B,) or (B, K); None for losses without labels
    folds: Tensor | None = None
    """Which member of an ensemble does not see the row, (B,); None: all see it."""


def batch_objective(loss: ContrastiveLoss, n_views: int, batch: Batch) -> Objective:
    """Bind a loss to a batch.

    Parameters
    ----------
    loss : ContrastiveLoss
        The loss.
    n_views : int
        V.
    batch : Batch
        Rows and targets.

    Returns
    -------
    callable
        From projections (V * B, D), or (M, V * B, D) of an ensemble of M members, and
        class scores to the loss.
    """
    n_rows, targets, folds = len(batch.rows), batch.targets, batch.folds
    if n_views > 1:
        targets = None if targets is None else torch.cat([targets] * n_views)
        folds = None if folds is None else torch.cat([folds] * n_views)

    def objective(z: Tensor, logits: Tensor | None) -> tuple[Tensor, LossStats]:
        view_ids = torch.arange(n_rows, device=z.device).repeat(n_views)  # (V * B,)
        if z.ndim > 2:
            return mixed_members(loss, z, logits, targets, view_ids, folds)
        return loss(z, targets, view_ids=view_ids, logits=logits, return_stats=True)

    return objective


@dataclass
class TrainingStep:
    """Update a module on one batch; every way of training goes through here.

    Parameters
    ----------
    module : nn.Module
        Encoder with head: (B, ...) to (B, D).
    loss : ContrastiveLoss
        The loss.
    optimizer : torch.optim.Optimizer
        Updates the module.
    views : Views
        Makes the views of a batch.
    differentiate : callable
        How value and gradient are computed: :func:`whole_batch`, or in chunks by a
        :class:`~sklearn_hscl.training.gradient_cache.GradientCache`.
    clip_norm : float or None
        Largest norm of the gradient; longer ones are scaled down.
    """

    module: nn.Module
    loss: ContrastiveLoss
    optimizer: torch.optim.Optimizer
    views: Views
    differentiate: Callable[..., tuple[Tensor, LossStats]] = whole_batch
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        """Refuse optimizers that want to compute the loss themselves, such as LBFGS."""
        closure = inspect.signature(self.optimizer.step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            raise ValueError(
                f"net_params got optimizer={type(self.optimizer).__name__}, whose step "
                f"computes the loss several times, but a batch is embedded and compared "
                f"once: use one such as torch.optim.AdamW, SGD or RMSprop."
            )

    def __call__(
        self, batch: Batch, on_gradient: Callable[[], None] = lambda: None
    ) -> tuple[Tensor, LossStats]:
        """Update on a batch; return the loss before the update.

        `on_gradient` is called between gradient and update.
        """
        self.optimizer.zero_grad()
        objective = batch_objective(self.loss, self.views.n_views, batch)
        value, stats = self.differentiate(self.module, objective, self.views(batch.rows))
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.clip_norm)
        on_gradient()
        self.optimizer.step()
        return value, stats
