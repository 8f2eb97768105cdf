"""The contrastive loss on CUDA: value and gradient in two Triton kernels.

Memory is linear in the batch. The gradient comes with the value, since the loss is a
scalar: six B²D floating-point operations in all, and nothing of size B × B is stored.
Import this module only if Triton is installed.
"""

import math
from functools import partial
from typing import NamedTuple, TypedDict

import torch
import triton
from torch import Tensor

from sklearn_hscl.losses.equation import LossStats, anchor_weights, constant_mass
from sklearn_hscl.losses.kernels.closed_form import ClosedFormOptions, differentiable_loss
from sklearn_hscl.losses.kernels.triton.backward import backward_kernel
from sklearn_hscl.losses.kernels.triton.forward import (
    ROWS_MULTIPLE,
    Interpreted,
    forward_kernel,
)

PRECISIONS = ("tf32", "bf16", "tf32x3", "ieee")
# Up to this (1+β)/T no exponential or sum of them leaves float32 with the row's
# maximum left in: e^{2·32} times the batch stays below e^{88}.
_MAX_UNSHIFTED = 32.0
_MAX_BLOCK_WIDTH = 256  # columns of a block whose gradient still fits in registers


def triton_loss(
    z: Tensor, groups: Tensor, options: ClosedFormOptions, *, precision: str = "tf32"
) -> tuple[Tensor, LossStats]:
    """Contrastive loss with exponentially weighted negatives (arXiv 2209.00078).

    Same value and gradient as the dense :class:`~sklearn_hscl.losses.ContrastiveLoss`
    with exponential hardening, up to the rounding of `precision`.

    Parameters
    ----------
    z : Tensor of shape (B, D), float32, float16 or bfloat16, on a CUDA device
        Unit embeddings.
    groups : Tensor of shape (B,), int64
        Samples of the same group are positives of each other, all others negatives.
    options : ClosedFormOptions
        The loss configuration, with one `beta` and one `temperature`.
    precision : {"tf32", "bf16", "tf32x3", "ieee"}, default="tf32"
        Inputs of the matrix products, which accumulate in float32. The first two cut them
        to 10 or 7 bits for the tensor cores. ``"tf32x3"`` splits them into three TF32
        products that keep about float32's digits. ``"ieee"`` is float32 without tensor
        cores, by far the slowest.

    Returns
    -------
    loss : Tensor of shape (), float32
        Differentiable with respect to `z`; second derivatives are by autograd.
    stats : LossStats
        Skipped anchors, no fallbacks, effective negatives; each of shape ().

    Raises
    ------
    TypeError
        If z is float64, which the tensor cores would silently round.
    ValueError
        If z is not on a CUDA device, or `precision` is not one of those listed.
    """
    _check(z, precision)
    kernel = partial(_value_and_gradient, precision=precision)
    return differentiable_loss(kernel, z, groups, options)


def _value_and_gradient(
    z: Tensor, groups: Tensor, options: ClosedFormOptions, *, precision: str
) -> tuple[Tensor, Tensor | None, LossStats]:
    batch = _sort_batch(groups, options.negative_mass, options.reduction)
    settings = _TritonSettings(
        float(options.beta), float(options.temperature), options.detach_weights, precision
    )
    with torch.cuda.device_of(z):  # Triton launches on the current device
        loss, effective, dz = _run_kernels(z, batch, settings, options.wants_gradient)
    count = _mean_over(batch.usable, effective)
    return (
        loss,
        dz,
        LossStats(
            skipped_anchors=(~batch.usable).sum(),
            hardest_fallbacks=torch.zeros((), dtype=torch.int64, device=z.device),
            effective_negatives=count
            if options.effective_negatives
            else torch.full_like(count, math.nan),
        ),
    )


class _Constants(TypedDict):
    """Constants of the kernels, explained in ``forward.py``."""

    TILT: int
    DETACHED: bool
    SHIFTED: bool
    PRECISION: str
    WIDTH: int
    BLOCK_D: int


class _TritonSettings(NamedTuple):
    beta: float
    temperature: float
    detach_weights: bool
    precision: str

    def constants(self, n_columns: int) -> _Constants:
        """Return the values that a kernel is compiled for."""
        block = min(max(triton.next_power_of_2(n_columns), 16), _MAX_BLOCK_WIDTH)
        return {
            # Without hardening, or with β = 1, a pair takes one exp2 instead of two.
            "TILT": {0.0: 0, 1.0: 1}.get(self.beta, 2),
            "DETACHED": self.detach_weights or self.beta == 0,
            "SHIFTED": (1 + self.beta) / self.temperature > _MAX_UNSHIFTED,
            "PRECISION": "tf32" if self.precision == "bf16" else self.precision,
            "WIDTH": triton.cdiv(n_columns, block) * block,
            "BLOCK_D": block,
        }


class _TritonBatch(NamedTuple):
    """The batch sorted by group, padded to full blocks with rows of weight 0."""

    order: Tensor  # (B,) index of each sorted row in the batch
    usable: Tensor  # (B,) whether the anchor has a positive and a negative
    start: Tensor  # (padded,) int32, first row of the row's group
    end: Tensor  # (padded,) int32, one past its last row
    log_mass: Tensor  # (padded,) log2 Q
    weight: Tensor  # (padded,) of each of the anchor's pairs in the loss


def _check(z: Tensor, precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {list(PRECISIONS)}, got {precision!r}.")
    if z.dtype == torch.float64:
        raise TypeError(
            "Expected float32 for the CUDA kernel, got float64. Use kernel='dense'."
        )
    if not (z.is_cuda or isinstance(forward_kernel, Interpreted)):
        raise ValueError(
            f"Expected a tensor on a GPU for the CUDA kernel, got one on {z.device}. Move "
            f"it to the GPU, or use kernel='auto'."
        )


def _sort_batch(groups: Tensor, negative_mass: str | float, reduction: str) -> _TritonBatch:
    """Sort by group and weigh the pairs, without waiting for the device."""
    n_rows = len(groups)
    ordered, order = torch.sort(groups)
    start = torch.searchsorted(ordered, ordered)  # (B,)
    end = torch.searchsorted(ordered, ordered, right=True)
    n_positives, n_negatives = end - start - 1, n_rows - (end - start)
    usable = (n_positives > 0) & (n_negatives > 0)
    n_pairs = n_positives.clamp_min(1).double()
    weight = anchor_weights(reduction, n_pairs, usable) / n_pairs  # of each pair, (B,)
    if negative_mass == "negatives":
        mass = n_negatives.clamp_min(1).double()
    else:
        mass = torch.full_like(weight, constant_mass(negative_mass, n_rows))
    return _TritonBatch(
        order,
        usable,
        _padded(start, torch.int32, fill=2**30),  # an empty group, after every row
        _padded(end, torch.int32),
        _padded(mass.log2(), torch.float32),
        _padded(weight, torch.float32),
    )


def _padded(values: Tensor, dtype: torch.dtype, fill: int = 0) -> Tensor:
    length = triton.cdiv(len(values), ROWS_MULTIPLE) * ROWS_MULTIPLE
    padded = values.new_full((length,), fill, dtype=dtype)
    padded[: len(values)] = values
    return padded


def _mean_over(usable: Tensor, values: Tensor) -> Tensor:
    return torch.where(usable, values, 0.0).sum() / usable.sum().clamp_min(1)


def _padded_rows(
    rows: Tensor, length: int, width: int, settings: _TritonSettings
) -> Tensor:
    """Return rows in the precision of the products, zero-padded to whole blocks."""
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    padded = rows.new_zeros((length, width), dtype=dtype)
    padded[: rows.shape[0], : rows.shape[1]] = rows
    # Triton's interpreter multiplies the bit patterns of bfloat16.
    return padded.float() if isinstance(forward_kernel, Interpreted) else padded


def _run_kernels(
    z: Tensor, batch: _TritonBatch, settings: _TritonSettings, wants_gradient: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the loss, the effective negatives of each anchor, and the gradient or None."""
    n_rows, n_columns = z.shape
    constants = settings.constants(n_columns)
    rows = _padded_rows(z[batch.order], len(batch.weight), constants["WIDTH"], settings)
    per_row = z.new_zeros((6, len(rows)), dtype=torch.float32)
    log_denominator, largest, repulsion_1, repulsion_0, loss, effective = per_row
    saved = (log_denominator, largest, repulsion_1, repulsion_0)
    sharpness = math.log2(math.e) / settings.temperature
    size = triton.next_power_of_2(n_rows)
    forward_kernel[lambda meta: (triton.cdiv(n_rows, meta["BLOCK_M"]),)](
        *(rows, batch.start, batch.end, batch.log_mass, batch.weight),
        *(*saved, loss, effective, n_rows, settings.beta, sharpness, size),
        **constants,
    )
    dz = None
    if wants_gradient:
        dz = z.new_empty((n_rows, n_columns), dtype=torch.float32)
        transposed = settings.precision in ("tf32", "tf32x3")
        columns = rows.T.contiguous() if transposed else rows
        chunks = constants["WIDTH"] // constants["BLOCK_D"]
        backward_kernel[lambda meta: (triton.cdiv(n_rows, meta["BLOCK_M"]), chunks)](
            *(rows, columns, batch.start, batch.end),
            *(batch.weight, *saved, batch.order, dz, n_rows, n_columns, len(rows)),
            *(settings.beta, sharpness, 1 / settings.temperature, size),
            TRANSPOSED=transposed,
            **constants,
        )
    return loss.sum(), effective[:n_rows], dz
