"""How the losses of all (anchor, positive) pairs become one number."""

import torch
from torch import Tensor

REDUCTIONS = ("anchors", "pairs", "classes")


def pair_weights(
    reduction: str, positives: Tensor, usable: Tensor, dtype: torch.dtype
) -> Tensor:
    """Weights over ordered pairs that sum to 1 (to 0 where no anchor is usable).

    Parameters
    ----------
    reduction : {"anchors", "pairs", "classes"}
        Every usable anchor, every positive pair, or every class weighs the same.
    positives : Tensor of bool, shape (..., B, B)
        Pairs (anchor, positive).
    usable : Tensor of bool, shape (..., B)
        Anchors that have a positive and a negative.
    dtype : torch.dtype
        Type of the weights.

    Returns
    -------
    Tensor of shape (..., B, B)
    """
    pairs = (positives & usable.unsqueeze(-1)).to(dtype)  # (..., B, B)
    if reduction == "pairs":
        return pairs / pairs.sum((-1, -2), keepdim=True).clamp_min(1)
    anchors = pairs / pairs.sum(-1, keepdim=True).clamp_min(1)  # rows sum to 1 or 0
    if reduction == "classes":
        class_size = 1 + pairs.sum(-1, keepdim=True)  # positives of i, and i itself
        anchors = anchors / class_size
    return anchors / anchors.sum((-1, -2), keepdim=True).clamp_min(torch.finfo(dtype).tiny)
