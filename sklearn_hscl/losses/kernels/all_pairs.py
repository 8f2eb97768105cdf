"""Value and gradient in closed form from the whole matrix of pairs, for small batches.

Few operations on small matrices: below some hundred rows it is their number that takes
the time, not their size, and sorting rows or cutting tiles would only add to it.
"""

import math

import torch
from torch import Tensor

from sklearn_hscl.losses.kernels.closed_form import Settings
from sklearn_hscl.losses.kernels.pairs import (
    Sums,
    harden,
    is_float,
    pull,
    push,
    repulsion,
    tilt,
)
from sklearn_hscl.losses.reduction import anchor_weights
from sklearn_hscl.runtime.matmul import mm, mm_t


class Pairs:
    """Who is positive and negative of whom, as matrices of 0 and 1."""

    def __init__(self, groups: Tensor, dtype: torch.dtype) -> None:
        same = groups.unsqueeze(1) == groups
        self.negative = (~same).to(dtype)  # (B, B)
        self.positive = same.to(dtype).fill_diagonal_(0.0)  # (B, B)
        self.n_negatives = self.negative.sum(1)  # (B,)
        self.n_positives = (len(groups) - 1) - self.n_negatives
        self.usable = (self.n_positives > 0) & (self.n_negatives > 0)
        self.has_negatives = bool(self.n_negatives[0] > 0)  # else there is one group

    def weights(self, reduction: str) -> Tensor:
        """Weight of each pair of an anchor, (B,)."""
        weight = anchor_weights(reduction, self.n_positives, self.usable)
        return weight / self.n_positives.clamp_min(1)


def all_pairs(
    z: Tensor, pairs: Pairs, weight: Tensor, mass: Tensor | float, settings: Settings
) -> tuple[Tensor, Tensor | None, Sums]:
    """Compute the loss with exponentials as they are.

    Parameters
    ----------
    z : Tensor of shape (..., B, D)
        Unit rows; leading axes hold batches of the same rows by several models.
    pairs : Pairs
        Of at least two groups.
    weight : Tensor of shape (B,)
        Weight of each pair of an anchor.
    mass : Tensor of shape (B,), or float
        Q_i.
    settings : Settings
        What is asked for.

    Returns
    -------
    value : Tensor of shape (...)
    gradient : Tensor of shape (..., B, D) or None
    sums : Sums
    """
    scale = math.log2(math.e) / settings.temperature
    exponent = mm_t(z * scale, z)  # (..., B, B), s log2 e
    inverse = exponent.neg().exp2_()
    plain = tilt(exponent, settings.beta, lambda block: block.mul_(pairs.negative))
    soft = _soft_sums(plain, pairs, settings)
    tilted = harden(plain, exponent, settings)
    hard = tilted.hard.sum(-1)
    sums = Sums(soft[0], hard, hard if is_float(settings.beta, 1) else soft[1])
    share = pairs.positive * weight.unsqueeze(1)
    odds = (mass * sums.hard / sums.plain).unsqueeze(-1)
    value, sigma = pull(inverse, odds, share, lambda x: x.sum((-2, -1)))
    if not settings.wants_gradient:
        return value, None, sums
    a, b = repulsion(sums, sigma.sum(-1), settings)
    matrix = push(tilted, lambda x: x.unsqueeze(-1) + x.unsqueeze(-2), a, b)
    matrix = matrix.sub_(sigma).sub_(sigma.mT)
    return value, mm(matrix, z).div_(settings.temperature), sums


def _soft_sums(plain: Tensor, pairs: Pairs, settings: Settings) -> tuple[Tensor, Tensor]:
    """Return S0 and, where it is asked for and not S1, Σ E0²."""
    if is_float(settings.beta, 0):
        return pairs.n_negatives, pairs.n_negatives
    total = plain.sum(-1)
    if is_float(settings.beta, 1) or not settings.effective_negatives:
        return total, total
    return total, plain.square().sum(-1)
