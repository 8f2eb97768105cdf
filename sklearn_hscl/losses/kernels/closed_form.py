"""The closed form of value and gradient, and the kernel for few samples.

With u = s log2(e), E0 = 2^(βu) and E1 = 2^((1+β)u) on the negatives of each anchor, and
0 elsewhere. The gradient with respect to unit embeddings is M z / T with symmetric M.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sklearn_hscl.losses.equation import LossStats, anchor_weights, dense_loss
from sklearn_hscl.losses.pair_sets import LabelPairs
from sklearn_hscl.losses.presets import LossOptions
from sklearn_hscl.runtime.matmul import mm, mm_t
from sklearn_hscl.runtime.normalize import refuse_nested_forward_mode


@dataclass(frozen=True, kw_only=True)
class ClosedFormOptions:
    """Configuration of a loss that has a closed form."""

    beta: float | Tensor
    """Strength of the exponential hardening, at least 0; 0 is none."""
    temperature: float | Tensor
    """Scale T of the similarities, positive, in cosine units."""
    negative_mass: str | float
    """Q_i: ``"negatives"`` (their number), ``"batch"`` (B - 2), or a constant."""
    reduction: str
    """Units of equal weight in the mean: ``"anchors"``, ``"pairs"`` or ``"classes"``."""
    detach_weights: bool
    """Whether the gradient treats the hardening weights as constants."""
    effective_negatives: bool = True
    """Whether to compute this statistic, which can cost one more sum; NaN otherwise."""
    unit_rows: bool = True
    """Whether the rows are known to be of unit length, which bounds the exponents."""
    wants_gradient: bool = False
    """Whether the gradient is needed."""

    @property
    def of_equation(self) -> LossOptions:
        """The same as options of the equation."""
        return LossOptions(
            beta=self.beta,
            temperature=self.temperature,
            negative_mass=self.negative_mass,
            reduction=self.reduction,
            detach_weights=self.detach_weights,
        )


class ClosedFormResult(NamedTuple):
    """Value, gradient and statistics, with samples in group order."""

    value: Tensor  # ()
    gradient: Tensor | None  # (D, B)
    effective: Tensor | None  # (B,), effective number of negatives, if requested


class TiltedExponentials(NamedTuple):
    """Exponentials of a block, zero for pairs that are not negatives."""

    plain: Tensor | None  # (t, w), E0; None: not needed
    hard: Tensor  # (t, w), E1


class NegativeSums(NamedTuple):
    """Sums over the negatives of each anchor, (..., B)."""

    plain: Tensor  # S0
    hard: Tensor  # S1
    squared: Tensor  # Σ E0²


def tilt(
    exponent: Tensor, beta: float | Tensor, clear: Callable[[Tensor], object]
) -> Tensor:
    """Return E0 (E1 for β = 0) from u, in place if β is 0 or 1; `clear` zeroes the rest."""
    plain = exponent if is_float(beta, 0, 1) else exponent * beta
    clear(plain.exp2_())
    return plain


def harden(
    plain: Tensor, exponent: Tensor, options: ClosedFormOptions
) -> TiltedExponentials:
    """Complete E0 by E1, which overwrites whatever is not needed any more."""
    if is_float(options.beta, 0):
        return TiltedExponentials(None, plain)
    doubled = is_float(options.beta, 1)
    if options.detach_weights:
        hard = plain.square_() if doubled else plain.mul_(exponent.exp2_())
        return TiltedExponentials(None, hard)
    hard = plain.square() if doubled else exponent.exp2_().mul_(plain)
    return TiltedExponentials(plain, hard)


def is_float(beta: float | Tensor, *values: float) -> bool:
    """Return whether β is one of the values, in all batches that are computed at once."""
    return not isinstance(beta, Tensor) and beta in values


def positive_terms(
    inverse: Tensor,
    mass: Tensor,
    weight: Tensor,
    total: Callable[[Tensor], Tensor] = torch.sum,
) -> tuple[Tensor, Tensor]:
    """Return the loss of each pair, and c σ, from e^{-s}; in place.

    Parameters
    ----------
    inverse : Tensor of shape (..., n, n)
        e^{-s}; overwritten.
    mass, weight : Tensor
        D of the anchors and c of the pairs (0 if they are not positives), to be broadcast.
    total : callable
        Sum over the losses of pairs.

    Returns
    -------
    value : Tensor
        The sum of the losses, or several.
    sigma : Tensor of shape (..., n, n)
    """
    odds = inverse.mul_(mass)
    losses = odds.log1p()
    # A single weight for all pairs is applied after the sum.
    value = total(losses) * weight if weight.ndim == 0 else total(losses.mul_(weight))
    sigma = odds.div_(odds + 1).mul_(weight)
    return value, sigma


def negative_factors(
    sums: NegativeSums, strength: Tensor, options: ClosedFormOptions
) -> tuple[Tensor, Tensor]:
    """Return the factors of E1 and E0 in M, (1+β) a and β b, from G; each (..., B)."""
    beta = options.beta
    beta = beta.squeeze(-1) if isinstance(beta, Tensor) else beta  # (..., 1)
    a, b = strength / sums.hard, beta * strength / sums.plain
    return (a if options.detach_weights else a * (1 + beta)), b


def negative_terms(
    tilted: TiltedExponentials,
    outer_sum: Callable[[Tensor], Tensor],
    a: Tensor,
    b: Tensor,
) -> Tensor:
    """Return M of the negatives of a block, in place.

    `outer_sum` gives x_i + x_j for the pairs of the block.
    """
    result = tilted.hard.mul_(outer_sum(a))
    if tilted.plain is not None:
        result -= tilted.plain.mul_(outer_sum(b))
    return result


# Derivatives --------------------------------------------------------------------------


# From unit embeddings, groups and options to the value, its gradient if options want it,
# and statistics; on plain tensors, without autograd.
Kernel = Callable[
    [Tensor, Tensor, ClosedFormOptions], tuple[Tensor, Tensor | None, LossStats]
]


def differentiable_loss(
    kernel: Kernel, z: Tensor, groups: Tensor, options: ClosedFormOptions
) -> tuple[Tensor, LossStats]:
    """Run a kernel, and make its value differentiable with respect to z.

    First derivatives are the gradient that the kernel computes. Those of higher order, and
    all under the transforms of ``torch.func``, are by autograd, with all pairs in memory.

    Parameters
    ----------
    kernel : callable
        Computes value, gradient and statistics.
    z : Tensor of shape (..., B, D)
        Unit embeddings.
    groups : Tensor of int, shape (B,)
        Samples of the same group are positives of each other, all others negatives.
    options : ClosedFormOptions
        The loss configuration.

    Returns
    -------
    Tensor of shape (...), LossStats
    """
    wants_gradient = torch.is_grad_enabled() and z.requires_grad
    options = replace(options, wants_gradient=wants_gradient)
    value, _, *stats = _ClosedForm.apply(z, groups, kernel, options)
    return value, LossStats(*stats)


class _VmapInfo(Protocol):
    """What ``torch.func.vmap`` tells about the mapped axis."""

    batch_size: int


class _Context(Protocol):
    """Attributes of torch's context that :class:`_ClosedForm` uses."""

    saved_tensors: tuple[Tensor, ...]
    options: ClosedFormOptions
    dtype: torch.dtype

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Mark outputs that have no gradient."""

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Save tensors for the backward pass."""

    def save_for_forward(self, *tensors: Tensor) -> None:
        """Save tensors for derivatives in forward mode."""


_Inputs = tuple[Tensor, Tensor, Kernel, ClosedFormOptions]
_Outputs = tuple[Tensor | None, ...]  # value, gradient, and the fields of LossStats


class _ClosedForm(torch.autograd.Function):
    """The value of a kernel, with derivatives of any order."""

    @staticmethod
    def forward(
        z: Tensor, groups: Tensor, kernel: Kernel, options: ClosedFormOptions
    ) -> _Outputs:
        value, gradient, stats = kernel(z, groups, options)
        return value, gradient, *stats

    @staticmethod
    def setup_context(ctx: _Context, inputs: _Inputs, output: tuple[Tensor, ...]) -> None:
        z, groups, _, ctx.options = inputs
        ctx.dtype = output[0].dtype
        known = [each for each in output[1:] if each is not None]
        ctx.mark_non_differentiable(*known)
        gradient = [] if output[1] is None else [output[1]]
        ctx.save_for_backward(z, groups, *gradient)
        ctx.save_for_forward(z, groups)

    @staticmethod
    def backward(
        ctx: _Context, outer: Tensor, *_: Tensor
    ) -> tuple[Tensor, None, None, None]:
        z, groups, *known = ctx.saved_tensors
        # With gradients enabled, somebody may differentiate the gradient.
        if known and not torch.is_grad_enabled():
            gradient = (outer[..., None, None] * known[0]).to(z.dtype)
        else:
            (gradient,) = _pullback(ctx.options, z, groups)(outer)
        return gradient, None, None, None

    @staticmethod
    def jvp(ctx: _Context, tangent: Tensor | None, *_: None) -> _Outputs:
        refuse_nested_forward_mode()
        z, groups = ctx.saved_tensors
        none = (None,) * (1 + len(LossStats._fields))
        if tangent is None:
            return None, *none
        ones = torch.ones_like(z[..., 0, 0], dtype=ctx.dtype)
        (gradient,) = _pullback(ctx.options, z, groups)(ones)
        return (gradient * tangent).sum((-2, -1)).to(ctx.dtype), *none

    @staticmethod
    def vmap(
        info: _VmapInfo, in_dims: tuple[int | None, ...], *inputs: Any
    ) -> tuple[_Outputs, tuple[int | None, ...]]:
        """Compute one batch after the other."""
        z, groups = (
            [each] * info.batch_size if axis is None else each.unbind(axis)
            for each, axis in zip(inputs[:2], in_dims[:2], strict=True)
        )
        results = [
            _ClosedForm.apply(*each, *inputs[2:]) for each in zip(z, groups, strict=True)
        ]
        joined = [
            None if parts[0] is None else torch.stack(parts)
            for parts in zip(*results, strict=True)
        ]
        return tuple(joined), tuple(None if each is None else 0 for each in joined)


def _pullback(
    options: ClosedFormOptions, z: Tensor, groups: Tensor
) -> Callable[[Tensor], tuple[Tensor]]:
    """Return the map from a gradient of the value to that of z, by autograd."""

    def value(z: Tensor) -> Tensor:
        rows = z.to(torch.promote_types(z.dtype, torch.float32))
        return dense_loss(rows, LabelPairs(groups), options.of_equation)[0]

    return torch.func.vjp(value, z)[1]


# Few samples: the whole matrix of pairs at once ----------------------------------------


class PairLists:
    """Negatives of each anchor as a matrix of 0 and 1, positives as a list of pairs."""

    def __init__(self, groups: Tensor, dtype: torch.dtype) -> None:
        same = groups.unsqueeze(1) == groups
        self.negative = (~same).to(dtype)  # (B, B)
        self.n_negatives = self.negative.sum(1)  # (B,)
        self.n_positives = (len(groups) - 1) - self.n_negatives
        self.usable = (self.n_positives > 0) & (self.n_negatives > 0)
        self.has_negatives = bool(self.n_negatives[0] > 0)  # else there is one group
        # The index of each positive pair in the matrix, and that of its anchor: (P,).
        self.index = same.fill_diagonal_(False).flatten().nonzero()[:, 0]
        self.anchor = self.index // len(groups)

    def weights(self, reduction: str) -> Tensor:
        """Return the weight of each positive pair, (P,)."""
        weight = anchor_weights(reduction, self.n_positives, self.usable)
        return (weight / self.n_positives.clamp_min(1))[self.anchor]

    def of_positives(self, matrix: Tensor) -> Tensor:
        """Take the positive pairs of matrices (..., B, B): (..., P)."""
        flat = matrix.flatten(-2)
        return flat.gather(-1, self.index.expand(*flat.shape[:-1], -1))

    def as_matrix(self, values: Tensor) -> Tensor:
        """Place values of the positive pairs (..., P) in matrices of zeros, (..., B, B)."""
        n_rows = len(self.n_negatives)
        flat = values.new_zeros(*values.shape[:-1], n_rows * n_rows)
        flat.scatter_(-1, self.index.expand(values.shape), values)
        return flat.unflatten(-1, (n_rows, n_rows))


def dense_closed_form(
    z: Tensor, pairs: PairLists, mass: Tensor | float, options: ClosedFormOptions
) -> tuple[Tensor, Tensor | None, NegativeSums]:
    """Compute value and gradient without a shift of the exponents.

    Parameters
    ----------
    z : Tensor of shape (..., B, D)
        Unit embeddings; leading axes hold those of the same samples by several models.
    pairs : PairLists
        Pairs of at least two groups.
    mass : Tensor of shape (B,), or float
        Q_i.
    options : ClosedFormOptions
        The loss configuration.

    Returns
    -------
    value : Tensor of shape (...)
    gradient : Tensor of shape (..., B, D) or None
    sums : NegativeSums
    """
    scale = math.log2(math.e) / options.temperature
    exponent = mm_t(z * scale, z)  # (..., B, B), u
    inverse = pairs.of_positives(exponent).neg_().exp2_()  # (..., P)
    plain = tilt(exponent, options.beta, lambda block: block.mul_(pairs.negative))
    soft = _soft_sums(plain, pairs, options)
    tilted = harden(plain, exponent, options)
    hard = tilted.hard.sum(-1)
    sums = NegativeSums(soft[0], hard, hard if is_float(options.beta, 1) else soft[1])
    odds = (mass * sums.hard / sums.plain).index_select(-1, pairs.anchor)  # (..., P)
    weight = pairs.weights(options.reduction)
    value, sigma = positive_terms(inverse, odds, weight, lambda x: x.sum(-1))
    if not options.wants_gradient:
        return value, None, sums
    attraction = pairs.as_matrix(sigma)
    a, b = negative_factors(sums, attraction.sum(-1), options)
    matrix = negative_terms(tilted, lambda x: x.unsqueeze(-1) + x.unsqueeze(-2), a, b)
    matrix = matrix.sub_(attraction).sub_(attraction.mT)
    return value, mm(matrix, z).div_(options.temperature), sums


def _soft_sums(
    plain: Tensor, pairs: PairLists, options: ClosedFormOptions
) -> tuple[Tensor, Tensor]:
    """Return S0 and, if it is requested and not S1, Σ E0²."""
    if is_float(options.beta, 0):
        return pairs.n_negatives, pairs.n_negatives
    total = plain.sum(-1)
    if is_float(options.beta, 1) or not options.effective_negatives:
        return total, total
    return total, plain.square().sum(-1)
