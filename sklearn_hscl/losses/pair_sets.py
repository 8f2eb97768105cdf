"""Which rows are positives and which are negatives of each anchor, and how much."""

from typing import NamedTuple

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """Weights over ordered pairs (anchor, row); an anchor and itself are no pair."""

    positive: Tensor
    """π up to a factor per anchor, >= 0, shape (..., A, B)."""
    log_negative: Tensor
    """log ν, -inf where the row is no negative, shape (..., A, B)."""


class Targets(NamedTuple):
    """What decides on pairs; blocks of anchors are made when they are needed.

    Either `identity`, or `similarity_of`, is what rows of one kind share: rows with the
    same identity are positives, all others negatives; or rows i, j are positives with
    weight S_ij in [0, 1] and negatives with weight 1 - S_ij.
    """

    identity: Tensor | None  # (..., B)
    vectors: Tensor | None  # (..., B, K)
    kernel: str  # "overlap" or "gaussian", of the vectors
    twins: Tensor | None  # (..., B): if given, only rows of one view id are positives

    def block(self, start: int, stop: int, dtype: torch.dtype) -> Pairs:
        """Return the pairs of the anchors start, ..., stop - 1."""
        if self.identity is not None:
            same = _equal(self.identity, start, stop)  # (..., A, B)
            positive, log_negative = same.to(dtype), _log_absent(same, dtype)
        else:
            assert self.vectors is not None
            similarity = SIMILARITIES[self.kernel](self.vectors.to(dtype), start, stop)
            positive, log_negative = similarity, torch.log1p(-similarity)
        if self.twins is not None:
            positive = positive * _equal(self.twins, start, stop)
        itself = torch.arange(start, stop, device=positive.device).unsqueeze(-1)  # (A, 1)
        itself = itself == torch.arange(positive.shape[-1], device=positive.device)
        return Pairs(
            positive.masked_fill(itself, 0.0), log_negative.masked_fill(itself, -torch.inf)
        )


def overlap(labels: Tensor, start: int, stop: int) -> Tensor:
    """Jaccard overlap of label sets: shared labels over labels of either.

    Parameters
    ----------
    labels : Tensor of shape (..., B, K)
        Indicator, 1 where the row has the label. Two rows without labels do not overlap.
    start, stop : int
        Anchors of the block.

    Returns
    -------
    Tensor of shape (..., A, B)
    """
    anchors = labels[..., start:stop, :]
    shared = anchors @ labels.mT  # (..., A, B)
    either = anchors.sum(-1).unsqueeze(-1) + labels.sum(-1).unsqueeze(-2) - shared
    return shared / either.clamp_min(1)


def gaussian(values: Tensor, start: int, stop: int) -> Tensor:
    """Gaussian kernel exp(-|y_i - y_j|² / 2) of values in units of the bandwidth.

    Parameters
    ----------
    values : Tensor of shape (..., B, K)
        Continuous targets, divided by the bandwidth.
    start, stop : int
        Anchors of the block.

    Returns
    -------
    Tensor of shape (..., A, B)
    """
    difference = values[..., start:stop, None, :] - values[..., None, :, :]
    return torch.exp(-difference.square().sum(-1) / 2)


SIMILARITIES = {"overlap": overlap, "gaussian": gaussian}


def unlabelled_as_own(y: Tensor, unlabelled: int, view_ids: Tensor | None) -> Tensor:
    """Give each row whose label is `unlabelled` a class of its own.

    Parameters
    ----------
    y : Tensor of int, shape (..., B)
        Class labels.
    unlabelled : int
        Mark of rows without label.
    view_ids : Tensor of int, shape (..., B), or None
        Views of one row stay together; None for one view per row.

    Returns
    -------
    Tensor of int, shape (..., B)
    """
    if view_ids is None:
        view_ids = torch.arange(y.shape[-1], device=y.device)
    own = y.max() + 1 + view_ids - view_ids.min()
    return torch.where(y == unlabelled, own, y)


def _equal(identity: Tensor, start: int, stop: int) -> Tensor:
    return identity[..., start:stop].unsqueeze(-1) == identity.unsqueeze(-2)


def _log_absent(same: Tensor, dtype: torch.dtype) -> Tensor:
    zero = torch.zeros(same.shape, dtype=dtype, device=same.device)
    return zero.masked_fill(same, -torch.inf)
