"""The loss in closed form on CPU: memory grows linearly with the batch."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from sklearn_hscl.losses.equation import LossStats, constant_mass
from sklearn_hscl.losses.kernels.closed_form import (
    AttachGradient,
    ClosedFormOptions,
    ClosedFormResult,
    PairMasks,
    dense_closed_form,
)
from sklearn_hscl.losses.kernels.label_sorted import (
    AnchorFactors,
    SortedRows,
    negative_count,
    pair_weight,
    sort_rows,
)
from sklearn_hscl.losses.kernels.tiled_closed_form import (
    relative_to_hardest,
    tiled_closed_form,
)

# Up to this many samples the whole matrix of pairs is faster than sorted rows and tiles.
_MAX_DENSE_ROWS = 384
# Up to this derivative of a logarithm of M, the rounding of float32 similarities leaves
# gradients of generic rows correct to 2e-6; beyond, the sums are done in float64.
_MAX_SLOPE_FLOAT32 = 40.0
# Larger exponents overflow, with some room for products.
_MAX_EXPONENT_FLOAT32 = 80.0
_MAX_EXPONENT_FLOAT64 = 650.0


def streaming_loss(
    z: Tensor, groups: Tensor, options: ClosedFormOptions
) -> tuple[Tensor, LossStats]:
    """Contrastive loss with exponentially weighted negatives, in linear memory.

    Value and gradient are those of :class:`~sklearn_hscl.losses.ContrastiveLoss`. The
    gradient is computed together with the value, if `z` requires it, and can be
    differentiated once.

    Parameters
    ----------
    z : Tensor of shape (..., B, D)
        Unit embeddings, float32 or float64; B at least 2. Leading axes hold those of the
        same samples by several models.
    groups : Tensor of int, shape (B,)
        Samples of the same group are positives of each other, all others negatives.
    options : ClosedFormOptions
        The loss configuration; `beta` and `temperature` may have shape (...).

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
    options = replace(options, wants_gradient=torch.is_grad_enabled() and z.requires_grad)
    batches = [
        replace(
            options,
            beta=beta,
            temperature=temperature,
            detach_weights=options.detach_weights or beta == 0,
        )
        for beta, temperature in zip(
            _per_batch(options.beta, z), _per_batch(options.temperature, z), strict=True
        )
    ]
    with torch.no_grad():
        if _fits_dense(z, batches):
            joined = batches[0] if z.ndim == 2 else _joined(batches, z)
            value, gradient, stats = _few_rows(z.detach(), groups, joined)
        elif z.ndim == 2:
            value, gradient, stats = _many_rows(z.detach(), groups, batches[0])
        else:
            value, gradient, stats = _one_by_one(z.detach(), groups, batches)
    if gradient is not None:
        value = AttachGradient.apply(z, value, gradient)
    return value, stats


def _fits_dense(z: Tensor, batches: list[ClosedFormOptions]) -> bool:
    """Return whether the batches are small, and safe in float32 without a shift."""
    n_rows, negative_mass = z.shape[-2], batches[0].negative_mass
    mass = max(n_rows, 0 if isinstance(negative_mass, str) else negative_mass)
    return (
        n_rows <= _MAX_DENSE_ROWS
        and not any(map(_is_sharp, batches))
        and max(_max_exponent(each, mass) for each in batches) <= _MAX_EXPONENT_FLOAT32
    )


def _per_batch(value: float | Tensor, z: Tensor) -> list[float]:
    """Return the value for each batch on the leading axes."""
    if isinstance(value, Tensor):
        return value.expand(z.shape[:-2]).flatten().tolist()
    return [float(value)] * z[..., 0, 0].numel()


def _joined(batches: list[ClosedFormOptions], z: Tensor) -> ClosedFormOptions:
    """Join options: floats if the batches agree, else tensors (..., 1, 1)."""

    def joined(values: list[float | Tensor]) -> float | Tensor:
        if len(set(values)) == 1:
            return values[0]
        return z.new_tensor(values).view(*z.shape[:-2], 1, 1)

    return replace(
        batches[0],
        beta=joined([each.beta for each in batches]),
        temperature=joined([each.temperature for each in batches]),
        detach_weights=all(each.detach_weights for each in batches),
    )


def _one_by_one(
    z: Tensor, groups: Tensor, batches: list[ClosedFormOptions]
) -> tuple[Tensor, Tensor | None, LossStats]:
    parts = [
        _many_rows(rows, groups, options)
        for rows, options in zip(z.flatten(0, -3), batches, strict=True)
    ]
    shape = z.shape[:-2]
    stats = zip(*(part[2] for part in parts), strict=True)
    gradients = [part[1] for part in parts if part[1] is not None]
    gradient = torch.stack(gradients).view(z.shape) if gradients else None
    value = torch.stack([part[0] for part in parts]).view(shape)
    return value, gradient, LossStats(*(torch.stack(field).view(shape) for field in stats))


def _few_rows(
    z: Tensor, groups: Tensor, options: ClosedFormOptions
) -> tuple[Tensor, Tensor | None, LossStats]:
    pairs = PairMasks(groups, z.dtype)
    if not pairs.has_negatives:
        gradient = torch.zeros_like(z) if options.wants_gradient else None
        value = z.new_zeros(z.shape[:-2])
        return value, gradient, _stats(pairs.usable, pairs.n_negatives, value)
    mass: Tensor | float = pairs.n_negatives
    if options.negative_mass != "negatives":
        mass = constant_mass(options.negative_mass, z.shape[-2])
    value, gradient, sums = dense_closed_form(z, pairs, mass, options)
    requested = options.effective_negatives
    effective = sums.plain.square() / sums.squared if requested else None
    return value, gradient, _stats(pairs.usable, effective, value)


def _many_rows(
    z: Tensor, groups: Tensor, options: ClosedFormOptions
) -> tuple[Tensor, Tensor | None, LossStats]:
    rows = sort_rows(z, groups)
    mass = negative_count(options.negative_mass, rows)
    factors = AnchorFactors(pair_weight(options.reduction, rows), mass)
    result = _in_safe_precision(rows, factors, options)
    usable = rows.per_row(rows.usable) > 0  # (B,)
    effective = result.effective
    effective = None if effective is None else effective.to(z.dtype)
    stats = _stats(usable, effective, result.value)
    gradient = None
    if result.gradient is not None:
        gradient = rows.unsorted(result.gradient.T.to(z.dtype).contiguous())
    return result.value.to(z.dtype), gradient, stats


def _in_safe_precision(
    rows: SortedRows, factors: AnchorFactors, options: ClosedFormOptions
) -> ClosedFormResult:
    weight, mass = factors
    if not rows.n_usable:
        gradient = torch.zeros_like(rows.z.T) if options.wants_gradient else None
        return ClosedFormResult(weight.new_zeros(()), gradient, torch.zeros_like(weight))
    # The mass is at most B if it differs between anchors.
    exponent = _max_exponent(options, max(len(weight), float(mass[0])))
    if _is_sharp(options) or exponent > _MAX_EXPONENT_FLOAT32:
        rows = rows._replace(z=rows.z.double())
        factors = AnchorFactors(weight.double(), mass.double())
    if exponent > _MAX_EXPONENT_FLOAT64:
        return relative_to_hardest(rows, factors, options)
    return tiled_closed_form(rows, factors, options)


def _is_sharp(options: ClosedFormOptions) -> bool:
    """Return whether M changes too fast with a similarity for the rounding of float32."""
    slope = 1 + float(options.beta) * (1 if options.detach_weights else 2)
    return slope / float(options.temperature) > _MAX_SLOPE_FLOAT32


def _max_exponent(options: ClosedFormOptions, mass: float) -> float:
    """Return the largest exponent of the sums, of D/e^s and of the squared weights."""
    beta, temperature = float(options.beta), float(options.temperature)
    return max(1 + beta, 2.0, 2 * beta) / temperature + math.log(max(mass, 1.0))


def _stats(usable: Tensor, effective: Tensor | None, value: Tensor) -> LossStats:
    n_usable = usable.sum()
    skipped = (len(usable) - n_usable).expand(value.shape)
    count = torch.full_like(value, math.nan)
    if effective is not None:
        count = torch.where(usable, effective, 0.0).sum(-1) / n_usable.clamp_min(1)
        count = count.expand(value.shape)  # without a tilt it is the same for all
    return LossStats(skipped, torch.zeros_like(skipped), count)
