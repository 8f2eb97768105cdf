"""The loss of rows that are not trained on."""

from typing import Any

import torch
from torch import Tensor

from sklearn_hscl.training.step import Batch, batch_objective


def held_out_loss(net: Any, rows: Tensor, targets: Tensor) -> float:
    """Mean loss of rows that are not trained on, with the same views every time.

    Rows are compared in batches of the training's size, as the loss of a larger batch
    is larger.

    Parameters
    ----------
    net : ContrastiveNet
        In training; module and loss are left in evaluation mode.
    rows : Tensor of shape (n_samples, ...)
        Prepared.
    targets : Tensor of shape (n_samples,) or (n_samples, K)
        Theirs.

    Returns
    -------
    float
    """
    module = net.module_.eval()
    net.criterion_.eval()
    views = net.seeded_views(rows.device)
    n_batches = max(1, len(rows) // net.batch_size)
    total = 0.0
    with torch.inference_mode():
        for first in range(n_batches):  # every n-th row, whatever their order
            batch = net.without_dummies(
                Batch(rows[first::n_batches], targets[first::n_batches])
            )
            objective = batch_objective(
                net.criterion_, net.n_views, batch, has_members=module.has_members
            )
            value, _ = objective(*module(views(*batch)))
            total += value.item() * len(batch.rows)
    return total / len(rows)
