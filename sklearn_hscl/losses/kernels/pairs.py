"""The closed form for a block of pairs, whichever way the pairs are laid out.

With E0 = e^{βs}, E1 = e^{(1+β)s} and their sums S0, S1 over the negatives of an anchor,
the mass against anchor i is D_i = Q_i S1_i / S0_i. With pair weight c_i the loss is
Σ c_i log(1 + D_i e^{-s_ip}). Its gradient is M z / T for one symmetric matrix M:

- for positives, M_ij = -(c_i σ_ij + c_j σ_ji) with σ_ip = D_i / (D_i + e^{s_ip});
- for negatives, M_ij = (1+β)(a_i + a_j) E1_ij - β(b_i + b_j) E0_ij with a = G/S1,
  b = G/S0 and G_i = c_i Σ_p σ_ip; or (a_i + a_j) E1_ij if the tilt is held constant.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sklearn_hscl.losses.kernels.closed_form import Settings


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
