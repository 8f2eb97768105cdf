"""The closed form of value and gradient, and the kernel of few rows."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sklearn_hscl.losses.equation import anchor_weights
from sklearn_hscl.runtime.matmul import mm, mm_t


class Settings(NamedTuple):
    """What is asked for."""

    beta: float | Tensor  # (..., 1, 1) where several batches are computed at once
    temperature: float | Tensor
    detach_weights: bool
    wants_gradient: bool
    effective_negatives: bool


class Result(NamedTuple):
    """What a kernel gives, rows in group order."""

    value: Tensor  # ()
    gradient: Tensor | None  # (D, B)
    effective: Tensor | None  # (B,), effective number of negatives, if asked


class Tilted(NamedTuple):
    """Exponentials of a block, zero outside of the negatives."""

    plain: Tensor | None  # (t, w), E0; None: not needed
    hard: Tensor  # (t, w), E1


class Sums(NamedTuple):
    """Sums over the negatives of each anchor, (..., B)."""

    plain: Tensor  # S0
    hard: Tensor  # S1
    squared: Tensor  # Σ E0²


def tilt(
    exponent: Tensor, beta: float | Tensor, clear: Callable[[Tensor], object]
) -> Tensor:
    """E0 (E1 for β = 0) from s log2(e), in place if β is 0 or 1; positives cleared."""
    plain = exponent if is_float(beta, 0, 1) else exponent * beta
    clear(plain.exp2_())
    return plain


def harden(plain: Tensor, exponent: Tensor, settings: Settings) -> Tilted:
    """Complete E0 by E1, which takes the place of what is not needed any more."""
    if is_float(settings.beta, 0):
        return Tilted(None, plain)
    doubled = is_float(settings.beta, 1)
    if settings.detach_weights:
        hard = plain.square_() if doubled else plain.mul_(exponent.exp2_())
        return Tilted(None, hard)
    hard = plain.square() if doubled else exponent.exp2_().mul_(plain)
    return Tilted(plain, hard)


def is_float(beta: float | Tensor, *values: float) -> bool:
    """Whether β is one of the values, for all batches that are computed at once."""
    return not isinstance(beta, Tensor) and beta in values


def pull(
    inverse: Tensor,
    mass: Tensor,
    share: Tensor,
    total: Callable[[Tensor], Tensor] = torch.sum,
) -> tuple[Tensor, Tensor]:
    """Loss of each pair, and c σ, from e^{-s}; in place.

    Parameters
    ----------
    inverse : Tensor of shape (..., n, n)
        e^{-s}; overwritten.
    mass, share : Tensor
        D of the anchors and c of the pairs (0 where there is none), to be broadcast.
    total : callable
        Which losses to sum.

    Returns
    -------
    value : Tensor
        The sum of the losses, or several.
    sigma : Tensor of shape (..., n, n)
    """
    odds = inverse.mul_(mass)
    losses = odds.log1p()
    # One weight for all pairs comes after the sum.
    value = total(losses) * share if share.ndim == 0 else total(losses.mul_(share))
    sigma = odds.div_(odds + 1).mul_(share)
    return value, sigma


def repulsion(sums: Sums, strength: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Return the factors of E1 and E0 in M, (1+β) a and β b, from G; each (..., B)."""
    beta = settings.beta
    beta = beta.squeeze(-1) if isinstance(beta, Tensor) else beta  # (..., 1)
    a, b = strength / sums.hard, beta * strength / sums.plain
    return (a if settings.detach_weights else a * (1 + beta)), b


def push(
    tilted: Tilted, outer_sum: Callable[[Tensor], Tensor], a: Tensor, b: Tensor
) -> Tensor:
    """Return M of the negatives of a block, in place.

    `outer_sum` gives x_i + x_j for the pairs of the block.
    """
    result = tilted.hard.mul_(outer_sum(a))
    if tilted.plain is not None:
        result -= tilted.plain.mul_(outer_sum(b))
    return result


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
