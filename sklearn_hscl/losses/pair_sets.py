"""Which samples are positives and negatives of each anchor, and with what weight."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor


class PairWeights(NamedTuple):
    """Weights over ordered pairs (anchor, sample); an anchor is not paired with itself."""

    positive: Tensor
    """π up to a factor per anchor, >= 0, shape (..., A, B)."""
    log_negative: Tensor
    """log ν, -inf for samples that are not negatives, shape (..., A, B)."""


@dataclass(frozen=True)
class ViewPairs:
    """Views of the same sample are positives, all others negatives."""

    view_ids: Tensor  # (..., B)

    @property
    def identity(self) -> Tensor:
        """Ids of the points to which the loss attracts samples, (..., B)."""
        return self.view_ids

    @property
    def groups(self) -> Tensor:
        """Ids that are equal for positives and different for negatives, (..., B)."""
        return self.view_ids

    def block(self, start: int, stop: int, dtype: torch.dtype) -> PairWeights:
        """Return the pairs of the anchors start, ..., stop - 1."""
        return _by_identity(self.view_ids, None, slice(start, stop), dtype)


@dataclass(frozen=True)
class LabelPairs:
    """Samples of the same label are positives, all others negatives."""

    labels: Tensor  # (..., B)
    view_ids: Tensor | None = None  # (..., B); if given, only views are positives

    @property
    def identity(self) -> Tensor:
        """Ids of the points to which the loss attracts samples, (..., B)."""
        return self.labels

    @property
    def groups(self) -> Tensor | None:
        """Ids that are equal for positives and different for negatives, or None."""
        return self.labels if self.view_ids is None else None

    def block(self, start: int, stop: int, dtype: torch.dtype) -> PairWeights:
        """Return the pairs of the anchors start, ..., stop - 1."""
        return _by_identity(self.labels, self.view_ids, slice(start, stop), dtype)


@dataclass(frozen=True)
class SimilarityPairs:
    """Samples i, j are positives with weight S_ij in [0, 1], negatives with 1 - S_ij."""

    targets: Tensor  # (..., B, K)
    similarity: Callable[[Tensor, slice], Tensor]  # from targets and anchors to S
    view_ids: Tensor | None = None  # (..., B); if given, only views are positives

    identity: ClassVar[None] = None
    groups: ClassVar[None] = None

    def block(self, start: int, stop: int, dtype: torch.dtype) -> PairWeights:
        """Return the pairs of the anchors start, ..., stop - 1."""
        anchors = slice(start, stop)
        similarity = self.similarity(self.targets.to(dtype), anchors)  # (..., A, B)
        log_negative = torch.log1p(-similarity)
        return _without_self(similarity, log_negative, self.view_ids, anchors)


BatchPairs = ViewPairs | LabelPairs | SimilarityPairs


def jaccard(labels: Tensor, anchors: slice) -> Tensor:
    """Jaccard overlap of label sets: shared labels over labels of either.

    Parameters
    ----------
    labels : Tensor of shape (..., B, K)
        Indicator, 1 if the sample has the label. Two empty sets do not overlap.
    anchors : slice
        Anchors of the block.

    Returns
    -------
    Tensor of shape (..., A, B)
    """
    of_anchors = labels[..., anchors, :]
    shared = of_anchors @ labels.mT  # (..., A, B)
    either = of_anchors.sum(-1).unsqueeze(-1) + labels.sum(-1).unsqueeze(-2) - shared
    return shared / either.clamp_min(1)


def gaussian(values: Tensor, anchors: slice) -> Tensor:
    """Gaussian kernel exp(-|y_i - y_j|² / 2) of values in units of the bandwidth.

    Parameters
    ----------
    values : Tensor of shape (..., B, K)
        Continuous targets, divided by the bandwidth.
    anchors : slice
        Anchors of the block.

    Returns
    -------
    Tensor of shape (..., A, B)
    """
    difference = values[..., anchors, None, :] - values[..., None, :, :]
    return torch.exp(-difference.square().sum(-1) / 2)


def separate_unlabeled(y: Tensor, unlabeled: int, view_ids: Tensor | None) -> Tensor:
    """Replace the label of each unlabeled sample by a unique class.

    Parameters
    ----------
    y : Tensor of int, shape (..., B)
        Class labels.
    unlabeled : int
        Label that marks unlabeled samples.
    view_ids : Tensor of int, shape (..., B), or None
        Views of one sample share its class; None for one view per sample.

    Returns
    -------
    Tensor of int, shape (..., B)
    """
    if view_ids is None:
        view_ids = torch.arange(y.shape[-1], device=y.device)
    unique = y.max() + 1 + view_ids - view_ids.min()
    return torch.where(y == unlabeled, unique, y)


def _by_identity(
    identity: Tensor, view_ids: Tensor | None, anchors: slice, dtype: torch.dtype
) -> PairWeights:
    same = _equal(identity, anchors)  # (..., A, B)
    zero = torch.zeros(same.shape, dtype=dtype, device=same.device)
    log_negative = zero.masked_fill(same, -torch.inf)
    return _without_self(same.to(dtype), log_negative, view_ids, anchors)


def _without_self(
    positive: Tensor, log_negative: Tensor, view_ids: Tensor | None, anchors: slice
) -> PairWeights:
    """Restrict positives to views, if these are given, and exclude self-pairs."""
    if view_ids is not None:
        positive = positive * _equal(view_ids, anchors)
    every = torch.arange(positive.shape[-1], device=positive.device)  # (B,)
    itself = every[anchors].unsqueeze(-1) == every  # (A, B)
    return PairWeights(
        positive.masked_fill(itself, 0.0), log_negative.masked_fill(itself, -torch.inf)
    )


def _equal(identity: Tensor, anchors: slice) -> Tensor:
    return identity[..., anchors].unsqueeze(-1) == identity.unsqueeze(-2)
