"""Rows of unit length."""

from typing import Any

import torch
from torch import Tensor


def l2_normalize(z: Tensor) -> Tensor:
    """Scale rows to unit length; rows of zeros stay zero, with a finite gradient.

    Parameters
    ----------
    z : Tensor of shape (..., D)
        Finite rows of any length.

    Returns
    -------
    Tensor of shape (..., D)
    """
    return _UnitRows.apply(z)[0]


def _fitting(length: Tensor) -> Tensor:
    """Return which rows are neither too short nor too long for their squares."""
    limits = torch.finfo(length.dtype)
    return (length > limits.tiny**0.5 * 1e4) & (length < limits.max**0.5)


class _UnitRows(torch.autograd.Function):
    """z / |z|, whose derivative along g is (g - (g·u) u) / |z| with u = z / |z|."""

    @staticmethod
    def forward(z: Tensor) -> tuple[Tensor, Tensor]:
        length = torch.linalg.vector_norm(z, dim=-1, keepdim=True)  # (..., 1)
        # The squares of very long or very short rows leave the range of the type. On a
        # GPU the question alone would cost more than always asking for the largest, and
        # an exported network cannot ask.
        ask = not (z.is_cuda or torch.compiler.is_exporting())
        if not (ask and bool(_fitting(length).all())):
            direct = length
            largest = z.abs().amax(-1, keepdim=True)
            largest = torch.where(largest > 0, largest, 1.0)
            shape = z / largest
            length = torch.linalg.vector_norm(shape, dim=-1, keepdim=True)
            length = torch.where(length > 0, length, 1.0)
            unit = shape / length
            length = length * largest
            if ask:  # a row keeps its bits, whatever the others are like
                fits = _fitting(direct)
                unit = torch.where(fits, z / direct, unit)
                length = torch.where(fits, direct, length)
        else:
            unit = z / length
        return unit, length

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output)

    @staticmethod
    def vmap(info: Any, in_dims: Any, z: Tensor) -> Any:
        """Take the axis that torch.func.vmap maps over as one more leading axis."""
        return _UnitRows.apply(z.movedim(in_dims[0], 0)), (0, 0)

    @staticmethod
    def backward(ctx: Any, outer: Tensor, _: Tensor) -> Tensor:
        unit, length = ctx.saved_tensors
        along = (outer * unit).sum(-1, keepdim=True)  # (..., 1)
        return (outer - along * unit) / length
