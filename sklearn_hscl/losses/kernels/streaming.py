"""The loss in closed form on CPU: memory grows linearly with the batch."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sklearn_hscl.losses.kernels.closed_form import Result, Settings
from sklearn_hscl.losses.kernels.hardest import relative_to_hardest
from sklearn_hscl.losses.kernels.label_sorted import (
    SortedRows,
    negative_count,
    pair_weight,
    sort_rows,
)
from sklearn_hscl.losses.kernels.symmetric import symmetric
from sklearn_hscl.losses.stats import LossStats

# Up to this derivative of a logarithm of M, the rounding of float32 similarities leaves
# gradients of generic rows right to 2e-6; beyond, the sums are done in float64.
_SHARPEST_FLOAT32 = 40.0
# Larger exponents overflow, with some room for products.
_LARGEST_FLOAT32 = 80.0
_LARGEST_FLOAT64 = 650.0


def streaming_loss(
    z: Tensor,
    groups: Tensor,
    *,
    beta: float,
    temperature: float,
    negative_mass: str | float,
    reduction: str,
    detach_weights: bool,
    effective_negatives: bool = True,
) -> tuple[Tensor, LossStats]:
    """Contrastive loss with exponentially tilted negatives, in linear memory.

    Value and gradient are those of :class:`~sklearn_hscl.losses.ContrastiveLoss`. The
    gradient is computed together with the value, if `z` requires it, and can be
    differentiated once.

    Parameters
    ----------
    z : Tensor of shape (B, D)
        Rows of unit length, float32 or float64; B at least 2.
    groups : Tensor of shape (B,)
        Integers: rows of the same group are positives of each other, all others are
        negatives.
    beta : float
        Strength of the tilt, at least 0.
    temperature : float
        Scale T of the similarities, positive, in cosine units.
    negative_mass : {"negatives", "batch"} or float
        Q_i: the number of negatives of the anchor, B - 2, or a constant.
    reduction : {"anchors", "pairs", "classes"}
        What weighs the same in the mean.
    detach_weights : bool
        Treat the tilt as a constant in the gradient.
    effective_negatives : bool, default=True
        Also compute this statistic, which can cost one more sum; NaN otherwise.

    Returns
    -------
    Tensor of shape ()
        The loss; 0 with a gradient of zeros if no anchor has a positive and a negative.
    LossStats

    References
    ----------
    Jiang, Nguyen, Ishwar, Aeron, "Supervised Contrastive Learning with Hard Negative
    Samples", arXiv 2209.00078.
    """
    settings = Settings(
        beta=float(beta),
        temperature=float(temperature),
        detach_weights=detach_weights or beta == 0,
        wants_gradient=torch.is_grad_enabled() and z.requires_grad,
        effective_negatives=effective_negatives,
    )
    with torch.no_grad():
        rows = sort_rows(z.detach(), groups)
        mass = negative_count(negative_mass, rows)
        result = _compute(rows, pair_weight(reduction, rows), mass, settings)
        value = result.value.to(z.dtype)
    if result.gradient is not None:
        gradient = torch.empty_like(z.detach())
        gradient.index_copy_(0, rows.order, result.gradient.T.to(z.dtype).contiguous())
        value = _WithGradient.apply(z, value, gradient)
    return value, _stats(rows, result.effective)


def _compute(rows: SortedRows, weight: Tensor, mass: Tensor, settings: Settings) -> Result:
    if not rows.n_usable:
        gradient = torch.zeros_like(rows.z.T) if settings.wants_gradient else None
        return Result(weight.new_zeros(()), gradient, torch.zeros_like(weight))
    slope = 1 + settings.beta * (1 if settings.detach_weights else 2)
    # The largest exponent of the sums, of D/e^s and of the squared weights; the mass
    # is at most B where it differs between anchors.
    exponent = max(1 + settings.beta, 2.0, 2 * settings.beta) / settings.temperature
    exponent += math.log(max(len(weight), float(mass[0])))
    if slope / settings.temperature > _SHARPEST_FLOAT32 or exponent > _LARGEST_FLOAT32:
        rows = rows._replace(z=rows.z.double())
        weight, mass = weight.double(), mass.double()
    if exponent > _LARGEST_FLOAT64:
        return relative_to_hardest(rows, weight, mass, settings)
    return symmetric(rows, weight, mass, settings)


def _stats(rows: SortedRows, effective: Tensor | None) -> LossStats:
    skipped = torch.tensor(rows.bounds[-1] - rows.n_usable, device=rows.z.device)
    count = rows.z.new_tensor(math.nan)
    if effective is not None:
        usable = rows.per_row(rows.usable)  # (B,)
        count = (effective * usable).sum() / max(rows.n_usable, 1)
    return LossStats(skipped, torch.zeros_like(skipped), count.to(rows.z.dtype))


class _WithGradient(torch.autograd.Function):
    """Attach a gradient that is already known to a value."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return outer * gradient, None, None
