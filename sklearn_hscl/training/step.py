"""The training step: batch, views, encode, project, loss, update."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sklearn_hscl.losses import ContrastiveLoss, LossStats
from sklearn_hscl.training.views import Views


def contrast(
    module: nn.Module,
    loss: ContrastiveLoss,
    views: Views,
    rows: Tensor,
    targets: Tensor | None,
) -> tuple[Tensor, LossStats]:
    """Compute the loss of one batch.

    Parameters
    ----------
    module : nn.Module
        Encoder with head: (B, ...) to (B, D).
    loss : ContrastiveLoss
        The loss.
    views : Views
        Makes the views of the batch.
    rows : Tensor of shape (B, ...)
        The batch.
    targets : Tensor of shape (B,) or (B, K), or None
        What the loss compares rows by; None for losses without labels.

    Returns
    -------
    value : Tensor, scalar
    stats : LossStats
    """
    z, logits = module(views(rows))  # (V * B, D), (V * B, n_classes)
    view_ids = torch.arange(len(rows), device=rows.device)
    return loss(
        z,
        None if targets is None else torch.cat([targets] * views.n_views),
        view_ids=view_ids.repeat(views.n_views),
        logits=logits,
        return_stats=True,
    )


def training_step(
    module: nn.Module,
    loss: ContrastiveLoss,
    optimizer: torch.optim.Optimizer,
    views: Views,
    rows: Tensor,
    targets: Tensor | None,
    on_gradient: Callable[[], None] = lambda: None,
) -> tuple[Tensor, LossStats]:
    """Update the module on one batch; return the loss before the update.

    The parameters are those of :func:`contrast`, and the optimizer; `on_gradient` is
    called between gradient and update.
    """
    optimizer.zero_grad()
    value, stats = contrast(module, loss, views, rows, targets)
    value.backward()
    on_gradient()
    optimizer.step()
    return value.detach(), stats
