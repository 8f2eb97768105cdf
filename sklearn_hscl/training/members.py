"""Training an ensemble: pairs across members, and a fold of rows that each never sees."""

from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklearn_hscl.losses import ContrastiveLoss, LossStats


def mixed_members(
    loss: ContrastiveLoss,
    z: Tensor,
    logits: Tensor | None,
    targets: Tensor | None,
    view_ids: Tensor,
    folds: Tensor | None,
) -> tuple[Tensor, LossStats]:
    """Compare rows as different members embed them.

    In the m-th of M rounds, all views of row i are embedded by member (i + m) mod M, if
    that member may see it. So members agree on one space, in which their mean is
    meaningful, and all embeddings are used, at the cost of M losses of one batch each.

    Parameters
    ----------
    loss : ContrastiveLoss
        The loss.
    z : Tensor of shape (..., M, B, D)
        Projections by each member.
    logits : Tensor of shape (..., M, B, n_classes) or None
        Class scores by each member.
    targets, view_ids : Tensor of shape (B,)
        As the loss takes them.
    folds : Tensor of shape (B,) or None
        The member that does not see a row.

    Returns
    -------
    value : Tensor of shape (...)
        Mean over the rounds.
    stats : LossStats
        Skipped anchors of the round with the fewest, means of the rest.
    """
    n_members, n_rows = z.shape[-3:-1]
    row = torch.arange(n_rows, device=z.device)
    values, stats = [], []
    for shift in range(n_members):
        member = (view_ids + shift) % n_members
        if folds is None:
            seen, chosen = row, member
        else:
            seen = torch.nonzero(member != folds)[:, 0]
            chosen = member[seen]
            if len(seen) < 2:  # nothing to compare
                continue
        value, stat = loss(
            z[..., chosen, seen, :],
            None if targets is None else targets[seen],
            view_ids=view_ids[seen],
            logits=None if logits is None else logits[..., chosen, seen, :],
            return_stats=True,
        )
        values.append(value)
        stats.append(stat)
    if not values:
        value = 0 * z.sum((-3, -2, -1))
        none = torch.zeros_like(value, dtype=torch.long)
        return value, LossStats(none + n_rows, none, value.detach())
    fields = (torch.stack(field) for field in zip(*stats, strict=True))
    skipped, fallbacks, effective = fields
    together = LossStats(skipped.amin(0), fallbacks.sum(0), effective.mean(0))
    return torch.stack(values).mean(0), together


def draw_folds(codes: NDArray[np.int64], n_members: int, seed: int) -> NDArray[np.int64]:
    """Draw the member that does not see a row, evenly over rows and in each class.

    Parameters
    ----------
    codes : ndarray of int, shape (n_samples,)
        Class codes, -1 for no label.
    n_members : int
        Members M.
    seed : int
        Seed.

    Returns
    -------
    ndarray of int, shape (n_samples,)

    See Also
    --------
    sklearn_hscl.training.group_folds.draw_member_folds : The same for groups of rows.
    """
    shuffled = np.random.default_rng(seed).permutation(len(codes))
    folds = np.empty_like(codes)
    folds[shuffled[np.argsort(codes[shuffled], kind="stable")]] = np.arange(len(codes))
    return folds % n_members


def length_of_means(members: NDArray[Any], unseeing: NDArray[Any]) -> float:
    """Estimate the length that the mean of the members has in new rows.

    It is a mean of M unit vectors. Where pairs of them have the mean cosine c, its squared
    length is (1 + (M - 1) c) / M: the mean cosine of one vector with all, itself included.
    Members that have seen a row agree more with each other than with the one that has not,
    so that the latter is compared with all; 1 / M is the least.

    Parameters
    ----------
    members : ndarray of shape (n_samples, M, D)
        Embeddings by all members, of unit length.
    unseeing : ndarray of shape (n_samples, D)
        Those by the member that has not seen a row.

    Returns
    -------
    float
        Root mean square over rows.
    """
    cosines = np.einsum("nmd,nd->nm", members, unseeing)
    return sqrt(max(float(cosines.mean()), 1 / members.shape[1]))
