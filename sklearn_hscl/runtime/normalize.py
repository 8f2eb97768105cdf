"""Rows of unit norm."""

from typing import Protocol

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack


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
    # torch.compile takes no functions that have a derivative in forward mode.
    rows = _UnitRows if torch.compiler.is_compiling() else _UnitRowsOfBothModes
    return rows.apply(z)[0]


def into_unit_ball(z: Tensor) -> Tensor:
    """Scale rows of a norm above 1 to unit norm; others stay as they are.

    Parameters
    ----------
    z : Tensor of shape (..., D)
        Finite rows of any norm.

    Returns
    -------
    Tensor of shape (..., D)
    """
    norm = torch.linalg.vector_norm(z.detach(), dim=-1, keepdim=True)  # (..., 1)
    return torch.where(norm > 1, l2_normalize(z), z)


class _Context(Protocol):
    """Attributes of torch's context that :class:`_UnitRows` uses."""

    saved_tensors: tuple[Tensor, ...]

    def set_materialize_grads(self, value: bool) -> None:
        """Set whether gradients that are missing become zeros."""

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Save tensors for the backward pass."""

    def save_for_forward(self, *tensors: Tensor) -> None:
        """Save tensors for derivatives in forward mode."""


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
        # Both outputs are differentiable, so that the backward pass is, too.
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def vmap(
        info: object, in_dims: tuple[int], z: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        """Make the axis that torch.func.vmap maps over one more leading axis."""
        return _UnitRowsOfBothModes.apply(z.movedim(in_dims[0], 0)), (0, 0)

    @staticmethod
    def backward(
        ctx: _Context, outer: Tensor | None, outer_norm: Tensor | None
    ) -> Tensor | None:
        unit, norm = ctx.saved_tensors
        gradient = None
        if outer is not None:
            along = (outer * unit).sum(-1, keepdim=True)  # (..., 1)
            gradient = (outer - along * unit) / norm
            largest = torch.finfo(norm.dtype).max  # exceeded by norms that are denormal
            gradient = gradient.clamp(-largest, largest)
        if outer_norm is not None:  # of the second derivative
            further = outer_norm * unit
            gradient = further if gradient is None else gradient + further
        return gradient


class _UnitRowsOfBothModes(_UnitRows):
    """The same, with a derivative in forward mode."""

    @staticmethod
    def jvp(ctx: _Context, tangent: Tensor) -> tuple[Tensor, Tensor]:
        refuse_nested_forward_mode()
        unit, norm = _UnitRowsOfBothModes.apply(*ctx.saved_tensors)
        along = (tangent * unit).sum(-1, keepdim=True)  # (..., 1)
        return (tangent - along * unit) / norm, along


def refuse_nested_forward_mode() -> None:
    """Raise an error where torch would lose a tangent: call it in each custom `jvp`.

    torch turns forward mode off while a custom `jvp` runs, so a second forward-mode
    derivative of its result is 0, without an error.

    Raises
    ------
    NotImplementedError
        If transforms of forward mode are nested.
    """
    modes = [each.key() for each in get_interpreter_stack() or ()]
    if modes.count(TransformType.Jvp) > 1:
        raise NotImplementedError(
            "Expected one transform of forward mode (torch.func.jvp or jacfwd) at most, "
            "got one inside of another, which torch differentiates wrongly here. Use "
            "torch.func.hessian, or jacrev or grad for one of the two."
        )
