"""The training step: batch, views, encode, project, loss, update."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sklearn_hscl.losses import ContrastiveLoss, LossStats
from sklearn_hscl.training.batches.views import Views
from sklearn_hscl.training.ensemble import mixed_members

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
    value.backward(torch.ones_like(value))  # several models have a value each
    return value.detach(), stats


class Batch(NamedTuple):
    """Rows that are compared with each other."""

    rows: Tensor  # (B, ...)
    targets: Tensor | None  # (B,) or (B, K); None for losses without labels
    folds: Tensor | None = None
    """Which member of an ensemble does not see the row, (B,); None: all see it."""


def batch_objective(
    loss: ContrastiveLoss, n_views: int, batch: Batch, *, has_members: bool
) -> Objective:
    """Bind a loss to a batch.

    Parameters
    ----------
    loss : ContrastiveLoss
        The loss.
    n_views : int
        V.
    batch : Batch
        Rows and targets.
    has_members : bool
        Whether an ensemble embeds the rows.

    Returns
    -------
    callable
        From projections (..., V * B, D), or (..., M, V * B, D) of an ensemble of M
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
    """An encoder with head, or several as one."""

    @property
    def has_members(self) -> bool:
        """Whether outputs have the members of an ensemble as an axis before the rows'."""

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map views to projections and class scores."""

    def weights_by_model(self) -> Iterable[Sequence[Tensor]]:
        """Return the weights, with their gradients, of one model after the other."""


class OptimizerLike(Protocol):
    """What a training step asks of an optimizer."""

    def zero_grad(self) -> None:
        """Forget the gradients."""

    def step(self) -> Any:
        """Update the weights."""


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
        :class:`~sklearn_hscl.training.loop.gradient_cache.GradientCache`.
    clip_norm : float or None
        Largest norm of the gradient; longer ones are scaled down.
    """

    module: Trainable
    loss: ContrastiveLoss
    optimizer: OptimizerLike
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
