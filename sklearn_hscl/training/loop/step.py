"""The training step: batch, views, encode, project, loss, update."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from sklearn_hscl.losses import LossStats
from sklearn_hscl.training.batches.tensors import Batch
from sklearn_hscl.training.batches.views import Views
from sklearn_hscl.training.ensemble import LossFunction, mixed_members

# Maps projections (V * B, D) and class scores to the loss and its statistics.
Objective = Callable[[Tensor, Tensor | None], tuple[Tensor, LossStats]]


def whole_batch(
    module: nn.Module, objective: Objective, views: Tensor
) -> tuple[Tensor, LossStats]:
    """Compute the loss of all views at once, and its gradient.

    Parameters
    ----------
    module : nn.Module
        Encoder with head; its weights get the gradients.
    objective : callable
        Maps projections and class scores to the loss.
    views : Tensor of shape (V * B, ...)
        The views of a batch.

    Returns
    -------
    value : Tensor, scalar
    stats : LossStats
    """
    value, stats = objective(*module(views))
    value.backward(torch.ones_like(value))  # one value for each model of a stack
    return value.detach(), stats


def batch_objective(
    loss: LossFunction, n_views: int, batch: Batch, *, has_members: bool
) -> Objective:
    """Bind a loss to a batch.

    Parameters
    ----------
    loss : LossFunction
        The loss.
    n_views : int
        Number of views V.
    batch : Batch
        Rows and targets.
    has_members : bool
        Whether the encoder is an ensemble.

    Returns
    -------
    callable
        Maps projections (..., V * B, D), or (..., M, V * B, D) of an ensemble of M
        members, and class scores to the loss, one for each leading index.
    """
    n_rows, targets, folds = len(batch.rows), batch.targets, batch.folds
    if n_views > 1:
        targets = None if targets is None else torch.cat([targets] * n_views)
        folds = None if folds is None else torch.cat([folds] * n_views)

    def objective(z: Tensor, logits: Tensor | None) -> tuple[Tensor, LossStats]:
        view_ids = torch.arange(n_rows, device=z.device).repeat(n_views)  # (V * B,)
        if has_members:
            return mixed_members(loss, z, logits, targets, view_ids, folds)
        return loss(z, targets, view_ids=view_ids, logits=logits, return_stats=True)

    return objective


class Trainable(Protocol):
    """An encoder with head, or a stack of them."""

    @property
    def has_members(self) -> bool:
        """Whether outputs have an axis of ensemble members before that of rows."""

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map views to projections and class scores."""

    def weights_by_model(self) -> Iterable[Sequence[Tensor]]:
        """Return the weights of each model, with their gradients."""


class OptimizerLike(Protocol):
    """Methods of an optimizer that a training step calls."""

    def zero_grad(self) -> None:
        """Reset the gradients."""

    def step(self) -> object:
        """Update the weights."""


@dataclass
class TrainingStep:
    """Update a module on one batch; common to single, chunked and stacked training.

    Parameters
    ----------
    module : nn.Module
        Encoder with head, from (B, ...) to (B, D).
    loss : LossFunction
        The loss.
    optimizer : torch.optim.Optimizer
        Updates the module.
    views : Views
        Creates the views of a batch.
    differentiate : callable
        Computes value and gradient: :func:`whole_batch`, or in chunks by a
        :class:`~sklearn_hscl.training.loop.gradient_cache.GradientCache`.
    clip_norm : float or None
        Maximum norm of the gradient; larger gradients are scaled down.
    """

    module: Trainable
    loss: LossFunction
    optimizer: OptimizerLike
    views: Views
    differentiate: Callable[..., tuple[Tensor, LossStats]] = whole_batch
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        """Reject optimizers whose step needs a closure, such as LBFGS."""
        closure = inspect.signature(self.optimizer.step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            raise ValueError(
                f"Expected net_params to name an optimizer whose step needs no closure, "
                f"got optimizer={type(self.optimizer).__name__}, which computes the loss "
                f"several times. Use one such as torch.optim.AdamW, SGD or RMSprop."
            )

    def __call__(
        self, batch: Batch, on_gradient: Callable[[], None] = lambda: None
    ) -> tuple[Tensor, LossStats]:
        """Update on a batch; return the loss before the update.

        `on_gradient` is called between gradient and update.
        """
        self.optimizer.zero_grad()
        objective = batch_objective(
            self.loss, self.views.n_views, batch, has_members=self.module.has_members
        )
        views = self.views(*batch)
        value, stats = self.differentiate(self.module, objective, views)
        if self.clip_norm is not None:
            for weights in self.module.weights_by_model():
                nn.utils.clip_grad_norm_(weights, self.clip_norm)
        on_gradient()
        self.optimizer.step()
        return value, stats
