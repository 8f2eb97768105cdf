"""The contrastive loss on CUDA: value and gradient in two Triton kernels.

Memory is linear in the batch. The gradient comes with the value, since the loss is a
scalar: six B²D floating-point operations in all, and nothing of size B × B is stored.
Import this module only if Triton is installed.
"""

import math
from collections.abc import Hashable
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
# The kernels take β in float32. Below its normal numbers it changes no weight, but times
# -inf it could be 0 · -inf.
_MIN_BETA = torch.finfo(torch.float32).tiny
_MAX_BLOCK_WIDTH = 256  # columns of a block whose gradient still fits in registers


def triton_loss(
    z: Tensor,
    groups: Tensor,
    options: ClosedFormOptions,
    *,
    precision: str | None = None,
) -> tuple[Tensor, LossStats]:
    """Contrastive loss with exponentially weighted negatives (arXiv 2209.00078).

    Same value and gradient as the dense :class:`~sklearn_hscl.losses.ContrastiveLoss`
    with exponential hardening, up to the rounding of `precision`.

    Parameters
    ----------
    z : Tensor of shape (B, D), float32, float16 or bfloat16, on a CUDA device
        Unit embeddings.
    groups : Tensor of integers or floats, shape (B,), on the same device
        Samples of the same group are positives of each other, all others negatives.
    options : ClosedFormOptions
        The loss configuration, with one `beta` and one `temperature`. The call waits for
        the GPU only if these are tensors there.
    precision : {"tf32", "bf16", "tf32x3", "ieee"}, optional
        Inputs of the matrix products, which accumulate in float32. The first two cut them
        to 10 or 7 bits for the tensor cores. ``"tf32x3"`` splits them into three TF32
        products that keep about float32's digits. ``"ieee"`` is float32 without tensor
        cores, by far the slowest. By default float32 rows are multiplied as
        ``torch.matmul`` does at the moment, which is ``"ieee"`` unless
        ``torch.backends.cuda.matmul.fp32_precision`` is ``"tf32"``; bfloat16 rows as they
        are; and float16 rows in TF32, which holds all their digits.

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
        If z is not on a CUDA device, `groups` is on another one, or `precision` is not
        one of those listed.
    """
    precision = _products(z.dtype) if precision is None else precision
    _check(z, groups, precision)
    kernel = partial(_value_and_gradient, precision=precision)
    return differentiable_loss(kernel, z, groups, options)


def _value_and_gradient(
    z: Tensor, groups: Tensor, options: ClosedFormOptions, *, precision: str
) -> tuple[Tensor, Tensor | None, LossStats]:
    batch = _sort_batch(groups, options.negative_mass, options.reduction)
    settings = _TritonSettings.of(options, precision)
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


def shape_class(z: Tensor, options: ClosedFormOptions) -> Hashable:
    """Return what the compiled kernels and their masks depend on, without the numbers.

    Batches of one class run the same machine code along the same paths.

    Parameters
    ----------
    z, options
        As in a call.
    """
    n_rows, n_columns = z.shape
    constants = _TritonSettings.of(options, _products(z.dtype)).constants(n_columns)
    has_full_blocks = n_rows % ROWS_MULTIPLE == 0
    size = triton.next_power_of_2(n_rows)
    deterministic = torch.are_deterministic_algorithms_enabled()  # chooses the blocks
    shape = (n_columns, size, has_full_blocks)
    return (z.device, z.dtype, shape, deterministic, *constants.items())


def _products(dtype: torch.dtype) -> str:
    """Return the precision in which torch itself would multiply such rows."""
    if dtype == torch.bfloat16:
        return "bf16"
    # "none" is torch's default: float32. Bits of float16 fit into TF32.
    follows_tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if dtype == torch.float16 or follows_tf32 else "ieee"


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
    unit_rows: bool
    precision: str

    @classmethod
    def of(cls, options: ClosedFormOptions, precision: str) -> "_TritonSettings":
        """Return the settings of a loss."""
        beta = float(options.beta)
        return cls(
            beta if beta >= _MIN_BETA else 0.0,
            float(options.temperature),
            options.detach_weights,
            options.unit_rows,
            precision,
        )

    def constants(self, n_columns: int) -> _Constants:
        """Return the values that a kernel is compiled for."""
        block = min(max(triton.next_power_of_2(n_columns), 16), _MAX_BLOCK_WIDTH)
        return {
            # Without hardening, or with β = 1, a pair takes one exp2 instead of two.
            "TILT": {0.0: 0, 1.0: 1}.get(self.beta, 2),
            "DETACHED": self.detach_weights or self.beta == 0,
            "SHIFTED": not self.unit_rows
            or (1 + self.beta) / self.temperature > _MAX_UNSHIFTED,
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


def _check(z: Tensor, groups: Tensor, precision: str) -> None:
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
    if groups.device != z.device:
        raise ValueError(
            f"Expected labels or view_ids on the device of the embeddings, {z.device}, got "
            f"{groups.device}. Move them there."
        )


def _sort_batch(groups: Tensor, negative_mass: str | float, reduction: str) -> _TritonBatch:
    """Sort by group and weigh the pairs, without waiting for the device."""
    n_rows = len(groups)
    groups = groups if groups.is_floating_point() else groups.long()
    ordered, order = torch.sort(groups.contiguous(), stable=True)
    start, end = _bounds(ordered)
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


def _bounds(ordered: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first row of each row's group and one past its last row, (B,)."""
    differs = ordered[1:] != ordered[:-1]  # NaN is no group: it differs from itself
    edge = ordered.new_ones(min(len(ordered), 1), dtype=torch.bool)
    index = torch.arange(len(ordered), device=ordered.device)
    start = torch.where(torch.cat([edge, differs]), index, 0).cummax(0).values
    past = torch.where(torch.cat([differs, edge]), index + 1, len(ordered))
    return start, past.flip(0).cummin(0).values.flip(0)


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
        *(*saved, loss, effective, n_rows, settings.beta, sharpness),
        SIZE=size,
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
            *(settings.beta, sharpness, 1 / settings.temperature),
            SIZE=size,
            TRANSPOSED=transposed,
            **constants,
        )
    return loss.sum(), effective[:n_rows], dz
