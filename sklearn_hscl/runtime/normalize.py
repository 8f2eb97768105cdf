"""Rows of unit norm."""

from typing import Protocol

import torch
from torch import Tensor


def l2_normalize(z: Tensor) -> Tensor:
    """Scale rows to unit norm; rows of zeros stay zero, with a finite gradient.

    Parameters
    ----------
    z : Tensor of shape (..., D)
        Finite rows of any norm.

    Returns
    -------
    Tensor of shape (..., D)
    """
    return _UnitRows.apply(z)[0]


class _Context(Protocol):
    """Attributes of torch's context that :class:`_UnitRows` uses."""

    saved_tensors: tuple[Tensor, ...]

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Mark outputs that have no gradient."""

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Save tensors for the backward pass."""


def _squares_fit(norm: Tensor) -> Tensor:
    """Return for which rows the squares are in the range of the dtype."""
    limits = torch.finfo(norm.dtype)
    return (norm > limits.tiny**0.5 * 1e4) & (norm < limits.max**0.5)


class _UnitRows(torch.autograd.Function):
    """z / |z|, whose derivative along g is (g - (g·u) u) / |z| with u = z / |z|."""

    @staticmethod
    def forward(z: Tensor) -> tuple[Tensor, Tensor]:
        norm = torch.linalg.vector_norm(z, dim=-1, keepdim=True)  # (..., 1)
        # The squares of rows with a very large or small norm leave the range of the dtype.
        # An accelerator would have to be waited for, which costs more than always scaling;
        # a compiled or exported network cannot branch.
        can_check = z.device.type == "cpu" and not torch.compiler.is_compiling()
        if not (can_check and bool(_squares_fit(norm).all())):
            direct = norm
            largest = z.abs().amax(-1, keepdim=True)
            largest = torch.where(largest > 0, largest, 1.0)
            shape = z / largest
            norm = torch.linalg.vector_norm(shape, dim=-1, keepdim=True)
            norm = torch.where(norm > 0, norm, 1.0)
            unit = shape / norm
            norm = norm * largest
            if can_check:  # a row keeps its bits, whatever the other rows
                fits = _squares_fit(direct)
                unit = torch.where(fits, z / direct, unit)
                norm = torch.where(fits, direct, norm)
        else:
            unit = z / norm
        return unit, norm

    @staticmethod
    def setup_context(
        ctx: _Context, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]
    ) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output)

    @staticmethod
    def vmap(
        info: object, in_dims: tuple[int], z: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        """Make the axis that torch.func.vmap maps over one more leading axis."""
        return _UnitRows.apply(z.movedim(in_dims[0], 0)), (0, 0)

    @staticmethod
    def backward(ctx: _Context, outer: Tensor, _: Tensor) -> Tensor:
        unit, norm = ctx.saved_tensors
        along = (outer * unit).sum(-1, keepdim=True)  # (..., 1)
        return (outer - along * unit) / norm
