"""The loss in closed form on CPU: memory grows linearly with the batch."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sklearn_hscl.losses.equation import LossStats
from sklearn_hscl.losses.kernels.closed_form import Pairs, Result, Settings, all_pairs
from sklearn_hscl.losses.kernels.label_sorted import (
    SortedRows,
    negative_count,
    pair_weight,
    sort_rows,
)
from sklearn_hscl.losses.kernels.tiled_closed_form import relative_to_hardest, symmetric

# Up to this many rows the whole matrix of pairs is faster than sorted rows and tiles.
_FEW_ROWS = 384
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
    beta: float | Tensor,
    temperature: float | Tensor,
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
    z : Tensor of shape (..., B, D)
        Rows of unit length, float32 or float64; B at least 2. Leading axes hold batches
        of the same rows, as several models embed them.
    groups : Tensor of shape (B,)
        Integers: rows of the same group are positives of each other, all others are
        negatives.
    beta : float or Tensor of shape (...)
        Strength of the tilt, at least 0.
    temperature : float or Tensor of shape (...)
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
    Tensor of shape (...)
        The loss; 0 with a gradient of zeros if no anchor has a positive and a negative.
    LossStats

    References
    ----------
    Jiang, Nguyen, Ishwar, Aeron, "Supervised Contrastive Learning with Hard Negative
    Samples", arXiv 2209.00078.
    """
    wants_gradient = torch.is_grad_enabled() and z.requires_grad
    batches = [
        Settings(b, t, detach_weights or b == 0, wants_gradient, effective_negatives)
        for b, t in zip(_each(beta, z), _each(temperature, z), strict=True)
    ]
    with torch.no_grad():
        n_rows = z.shape[-2]
        wide = max(n_rows, 0 if isinstance(negative_mass, str) else negative_mass)
        few = n_rows <= _FEW_ROWS and not any(map(_is_sharp, batches))
        few = few and max(_largest_exponent(s, wide) for s in batches) <= _LARGEST_FLOAT32
        if few or z.ndim == 2:
            settings = batches[0] if z.ndim == 2 else _at_once(batches, z)
            compute = _few_rows if few else _many_rows
            value, gradient, stats = compute(
                z.detach(), groups, negative_mass, reduction, settings
            )
        else:
            value, gradient, stats = _one_by_one(
                z.detach(), groups, negative_mass, reduction, batches
            )
    if gradient is not None:
        value = _WithGradient.apply(z, value, gradient)
    return value, stats


def _each(number: float | Tensor, z: Tensor) -> list[float]:
    """Return the number of each batch on the leading axes."""
    if isinstance(number, Tensor):
        return number.expand(z.shape[:-2]).flatten().tolist()
    return [float(number)] * z[..., 0, 0].numel()


def _at_once(batches: list[Settings], z: Tensor) -> Settings:
    """Join settings: floats where the batches agree, else tensors (..., 1, 1)."""

    def together(*numbers: float | Tensor) -> float | Tensor:
        if len(set(numbers)) == 1:
            return numbers[0]
        return z.new_tensor(numbers).view(*z.shape[:-2], 1, 1)

    beta, temperature, detached, *_ = zip(*batches, strict=True)
    return batches[0]._replace(
        beta=together(*beta),
        temperature=together(*temperature),
        detach_weights=all(detached),
    )


def _one_by_one(
    z: Tensor,
    groups: Tensor,
    negative_mass: str | float,
    reduction: str,
    batches: list[Settings],
) -> tuple[Tensor, Tensor | None, LossStats]:
    parts = [
        _many_rows(rows, groups, negative_mass, reduction, settings)
        for rows, settings in zip(z.flatten(0, -3), batches, strict=True)
    ]
    shape = z.shape[:-2]
    stats = zip(*(part[2] for part in parts), strict=True)
    gradients = [part[1] for part in parts if part[1] is not None]
    gradient = torch.stack(gradients).view(z.shape) if gradients else None
    value = torch.stack([part[0] for part in parts]).view(shape)
    return value, gradient, LossStats(*(torch.stack(field).view(shape) for field in stats))


def _few_rows(
    z: Tensor,
    groups: Tensor,
    negative_mass: str | float,
    reduction: str,
    settings: Settings,
) -> tuple[Tensor, Tensor | None, LossStats]:
    pairs = Pairs(groups, z.dtype)
    if not pairs.has_negatives:
        gradient = torch.zeros_like(z) if settings.wants_gradient else None
        value = z.new_zeros(z.shape[:-2])
        return value, gradient, _stats(pairs.usable, pairs.n_negatives, value)
    mass: Tensor | float = pairs.n_negatives
    if negative_mass != "negatives":
        mass = max(z.shape[-2] - 2, 1) if negative_mass == "batch" else float(negative_mass)
    value, gradient, sums = all_pairs(z, pairs, pairs.weights(reduction), mass, settings)
    asked = settings.effective_negatives
    effective = sums.plain.square() / sums.squared if asked else None
    return value, gradient, _stats(pairs.usable, effective, value)


def _many_rows(
    z: Tensor,
    groups: Tensor,
    negative_mass: str | float,
    reduction: str,
    settings: Settings,
) -> tuple[Tensor, Tensor | None, LossStats]:
    rows = sort_rows(z, groups)
    mass = negative_count(negative_mass, rows)
    result = _compute(rows, pair_weight(reduction, rows), mass, settings)
    usable = rows.per_row(rows.usable) > 0  # (B,)
    effective = result.effective
    effective = None if effective is None else effective.to(z.dtype)
    stats = _stats(usable, effective, result.value)
    gradient = None
    if result.gradient is not None:
        gradient = rows.unsorted(result.gradient.T.to(z.dtype).contiguous())
    return result.value.to(z.dtype), gradient, stats


def _compute(rows: SortedRows, weight: Tensor, mass: Tensor, settings: Settings) -> Result:
    if not rows.n_usable:
        gradient = torch.zeros_like(rows.z.T) if settings.wants_gradient else None
        return Result(weight.new_zeros(()), gradient, torch.zeros_like(weight))
    # The mass is at most B where it differs between anchors.
    exponent = _largest_exponent(settings, max(len(weight), float(mass[0])))
    if _is_sharp(settings) or exponent > _LARGEST_FLOAT32:
        rows = rows._replace(z=rows.z.double())
        weight, mass = weight.double(), mass.double()
    if exponent > _LARGEST_FLOAT64:
        return relative_to_hardest(rows, weight, mass, settings)
    return symmetric(rows, weight, mass, settings)


def _is_sharp(settings: Settings) -> bool:
    """Whether M changes too fast with a similarity for the rounding of float32."""
    slope = 1 + float(settings.beta) * (1 if settings.detach_weights else 2)
    return slope / float(settings.temperature) > _SHARPEST_FLOAT32


def _largest_exponent(settings: Settings, mass: float) -> float:
    """Largest exponent of the sums, of D/e^s and of the squared weights."""
    beta, temperature = float(settings.beta), float(settings.temperature)
    return max(1 + beta, 2.0, 2 * beta) / temperature + math.log(max(mass, 1.0))


def _stats(usable: Tensor, effective: Tensor | None, value: Tensor) -> LossStats:
    n_usable = usable.sum()
    skipped = (len(usable) - n_usable).expand(value.shape)
    count = torch.full_like(value, math.nan)
    if effective is not None:
        count = torch.where(usable, effective, 0.0).sum(-1) / n_usable.clamp_min(1)
        count = count.expand(value.shape)  # without a tilt it is the same for all
    return LossStats(skipped, torch.zeros_like(skipped), count)


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
        return outer[..., None, None] * gradient, None, None
