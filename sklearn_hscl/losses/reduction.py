"""How the losses of all anchors become one number."""

import torch
from torch import Tensor

REDUCTIONS = ("anchors", "pairs", "classes")


def anchor_weights(reduction: str, positive_mass: Tensor, usable: Tensor) -> Tensor:
    """Weights over anchors that sum to 1 (to 0 where no anchor is usable).

    Parameters
    ----------
    reduction : {"anchors", "pairs", "classes"}
        Every usable anchor, every positive pair, or every class weighs the same.
    positive_mass : Tensor of shape (..., B)
        Number (or total weight) of each anchor's positives.
    usable : Tensor of bool, shape (..., B)
        Anchors that have a positive and a negative.

    Returns
    -------
    Tensor of shape (..., B)
    """
    weight = usable.to(positive_mass.dtype)
    if reduction == "pairs":
        weight = weight * positive_mass
    if reduction == "classes":
        weight = weight / (1 + positive_mass)  # the anchor belongs to its class, too
    tiny = torch.finfo(weight.dtype).tiny
    return weight / weight.sum(-1, keepdim=True).clamp_min(tiny)
