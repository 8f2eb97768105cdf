"""The choice of the kernel that computes a loss, and the kernels by autograd.

A loss with a closed form gets its kernel. Autograd computes every other loss, in blocks of
anchors if the batch is large. A compiled kernel must first agree with autograd.
"""

import threading
import warnings
from collections.abc import Callable, Hashable
from functools import cache, partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd.forward_ad import unpack_dual
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from sklearn_hscl.losses.equation import (
    AnchorLosses,
    LossStats,
    block_losses,
    dense_loss,
    reduced_loss,
)
from sklearn_hscl.losses.kernels.closed_form import ClosedFormOptions
from sklearn_hscl.losses.kernels.streaming import streaming_loss
from sklearn_hscl.losses.pair_sets import BatchPairs, LabelPairs
from sklearn_hscl.losses.presets import LossOptions
from sklearn_hscl.runtime.normalize import l2_normalize
from sklearn_hscl.runtime.processes import Processes, sharers_of_pairs, sharing_pairs
from sklearn_hscl.runtime.random_state import Draws, next_draws, repeated

ClosedFormKernel = Callable[[Tensor, Tensor, ClosedFormOptions], tuple[Tensor, LossStats]]
KERNELS = ("dense", "tiled", "streaming", "triton")
# Triton takes one batch after the other: more small ones are faster at once.
_MAX_BATCHES = 16
_MAX_SQUARED_NORM = 1.01  # of a row whose length is 1 up to rounding in bfloat16


def choose_kernel(
    z: Tensor, pairs: BatchPairs, options: LossOptions, *, unit_rows: bool = True
) -> str:
    """Return the name of the fastest kernel that can compute this loss of this batch.

    Parameters
    ----------
    z : Tensor of shape (..., B, D)
        Unit embeddings.
    pairs : BatchPairs
        Positives and negatives of each anchor.
    options : LossOptions
        The loss configuration.
    unit_rows : bool, default=True
        Whether the rows of z are known to be of unit length.

    Returns
    -------
    {"dense", "tiled", "streaming", "triton"}
        The closed form if there is one: streaming on a CPU, Triton on a GPU where its
        kernel is found right. Otherwise autograd, in tiles if the (..., B, B) temporaries
        would be larger than a tile. Sampled negatives are drawn for all anchors at once,
        so that the draws do not depend on tiles: they are always dense.
    """
    if z.shape[-2] > 1 and closed_form_groups(z, pairs, options) is not None:
        if _runs_streaming(z) and (unit_rows or _has_unit_rows(z)):
            return "streaming"
        first = z.flatten(0, -3)[0] if z.ndim > 2 else z
        if _runs_triton(z, options) and triton_is_right(
            first, options, unit_rows=unit_rows
        ):
            return "triton"
    n_pairs = z[..., 0].numel() * z.shape[-2]
    return "dense" if n_pairs <= BLOCK_PAIRS or options.n_sampled else "tiled"


def _runs_streaming(z: Tensor) -> bool:
    return z.device.type == "cpu" and z.dtype in (torch.float32, torch.float64)


def _has_unit_rows(z: Tensor) -> bool:
    """Return whether no row is longer than rounding explains; waits for a GPU."""
    return bool((z.detach().square().sum(-1) <= _MAX_SQUARED_NORM).all())


def _is_on_gpu(z: Tensor) -> bool:
    return z.device.type == "cuda"


def _runs_triton(z: Tensor, options: LossOptions) -> bool:
    """Return whether the Triton kernel computes this batch as well as autograd would."""
    scales_are_numbers = not any(
        isinstance(scale, Tensor) for scale in (options.beta, options.temperature)
    )  # to read a tensor would wait for the GPU
    return (
        _is_on_gpu(z)
        and not is_functorch_wrapped_tensor(z)  # whose gradient is by autograd
        and z.dtype == torch.float32
        and z.shape[-2] > 2  # with fewer samples there is no loss to check
        and z[..., 0, 0].numel() <= _MAX_BATCHES
        and scales_are_numbers
        and _slope(options) <= _MAX_CHECKED_SLOPE
    )


def closed_form_groups(z: Tensor, pairs: BatchPairs, options: LossOptions) -> Tensor | None:
    """Return the groups of positives, (B,), if the gradient has a closed form, else None.

    The closed form is M z / T with a symmetric matrix M. It requires symmetric pairs that
    all batches on leading axes share, exponential hardening or none, and the denominator
    Q E. Its β and T are numbers, so autograd computes the loss if they are learned.
    """
    has_closed_form = (
        all(
            not isinstance(scale, Tensor)
            or (scale.shape in ((), z.shape[:-2]) and _is_constant(scale))
            for scale in (options.beta, options.temperature)
        )
        and (not options.hardened or options.hardening == "exponential")
        and options.denominator == "negatives"
        and options.pooling == "out"
        and not options.tau_plus
        and not options.n_synthetic
        and not options.n_sampled
        and not options.include_self
        and not options.positive_beta
        and options.tilted_sum == "negatives"
    )
    groups = pairs.groups if has_closed_form else None
    return groups if groups is not None and groups.ndim == 1 else None


def _is_constant(scale: Tensor) -> bool:
    """Return whether a tensor is neither differentiated nor mapped over."""
    return not (
        scale.requires_grad
        or is_functorch_wrapped_tensor(scale)
        or unpack_dual(scale).tangent is not None
    )


def compute(
    kernel: str,
    z: Tensor,
    pairs: BatchPairs,
    options: LossOptions,
    *,
    effective_negatives: bool,
    unit_rows: bool = True,
) -> tuple[Tensor, LossStats]:
    """Run a kernel by name.

    Parameters
    ----------
    kernel : {"dense", "tiled", "streaming", "triton"}
        The implementation.
    z, pairs, options, unit_rows
        As in :func:`choose_kernel`.
    effective_negatives : bool
        Whether this statistic is needed.

    Raises
    ------
    ValueError
        If the kernel cannot compute this loss.
    """
    if kernel == "tiled" and options.n_sampled:
        raise ValueError(
            f"kernel='tiled' computes the loss in blocks of anchors, but n_sampled="
            f"{options.n_sampled} draws negatives for all anchors at once. Pass "
            f"kernel='auto' or 'dense'."
        )
    if kernel in ("dense", "tiled"):
        return {"dense": dense_loss, "tiled": tiled_loss}[kernel](z, pairs, options)
    groups = closed_form_groups(z, pairs, options)
    if groups is None:
        raise ValueError(
            f"kernel={kernel!r} computes losses with exponential hardening or none, in "
            f"which neither the anchor itself nor a weighted positive counts, with "
            f"beta and temperature that require no gradient, and with classes or views "
            f"that all batches share. Use kernel='auto'."
        )
    if kernel == "streaming" and not (unit_rows or _has_unit_rows(z)):
        raise ValueError(
            "kernel='streaming' needs rows of unit length, got longer ones. Pass "
            "normalize=True or kernel='auto'."
        )
    closed_form = _closed_form(
        options, effective_negatives=effective_negatives, unit_rows=unit_rows
    )
    run = _closed_form_kernel(kernel)
    if kernel == "triton" and z.ndim > 2:
        return _one_by_one(run, z, groups, closed_form)
    return run(z, groups, closed_form)


def _one_by_one(
    kernel: ClosedFormKernel, z: Tensor, groups: Tensor, options: ClosedFormOptions
) -> tuple[Tensor, LossStats]:
    """Run a kernel that takes one batch on each of those on leading axes."""
    shape = z.shape[:-2]
    batches = [kernel(rows, groups, options) for rows in z.flatten(0, -3)]
    values, stats = zip(*batches, strict=True)
    fields = (torch.stack(field).view(shape) for field in zip(*stats, strict=True))
    return torch.stack(values).view(shape), LossStats(*fields)


def _closed_form(
    options: LossOptions, *, effective_negatives: bool, unit_rows: bool
) -> ClosedFormOptions:
    return ClosedFormOptions(
        beta=options.beta if options.hardened else 0.0,
        temperature=options.temperature,
        negative_mass=options.negative_mass,
        reduction=options.reduction,
        detach_weights=options.detach_weights,
        effective_negatives=effective_negatives,
        unit_rows=unit_rows,
    )


def _closed_form_kernel(kernel: str) -> ClosedFormKernel:
    if kernel == "streaming":
        return streaming_loss
    from sklearn_hscl.losses.kernels.triton.launch import triton_loss  # an extra

    return triton_loss


# Whether the Triton kernel is right ----------------------------------------------------


# Steeper losses amplify rounding so much that it cannot be told from an error.
_MAX_CHECKED_SLOPE = 1e4
_ROUNDING = 1e-6  # of a similarity, and of sums
# Of the matrix that a gradient is a product of, in TF32; float32 rounds far less.
_ROUNDING_OF_PRODUCTS = {"tf32": 2e-3}
_SMALLEST = 1e-30  # what float32 can hold with all its digits, and some room
_checked: dict[Hashable, bool] = {}  # whether the kernel is right, by class of batches
_checking = threading.Lock()


def triton_is_right(z: Tensor, options: LossOptions, *, unit_rows: bool = True) -> bool:
    """Return whether the Triton kernel agrees with autograd on batches like this one.

    Value and gradient of a random batch of this shape are compared on the device of z, once
    per process and class of shapes. A kernel that disagrees or fails is not used for that
    class, and the first one causes a warning.

    Parameters
    ----------
    z, options, unit_rows
        As in :func:`choose_kernel`.
    """
    launch = _triton_launch()
    if launch is None:
        return False
    closed_form = _closed_form(options, effective_negatives=True, unit_rows=unit_rows)
    shape_class = launch.shape_class(z, closed_form)
    if shape_class in _checked:  # without the lock: a step waits for nothing
        return _checked[shape_class]
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return False  # a comparison cannot be part of a CUDA graph
    with _checking:
        if shape_class not in _checked:
            fault = _fault(launch.triton_loss, z, options, closed_form)
            if fault and all(_checked.values()):
                _warn(z.device, fault)
            _checked[shape_class] = not fault
    return _checked[shape_class]


@cache
def _triton_launch() -> ModuleType | None:
    try:
        from sklearn_hscl.losses.kernels.triton import launch  # an extra
    except ImportError:
        return None
    return launch


def _fault(
    kernel: ClosedFormKernel,
    z: Tensor,
    options: LossOptions,
    closed_form: ClosedFormOptions,
) -> str:
    """Return what is wrong with a kernel, or an empty string."""
    # Other processes may have compared them before.
    with torch.inference_mode(False), torch.enable_grad(), sharing_pairs(False):
        rows, groups = _random_batch(z)
        expected, expected_gradient = _value_and_gradient(
            lambda rows: tiled_loss(rows.double(), LabelPairs(groups), options), rows
        )
        try:
            with warnings.catch_warnings():  # Triton warns of its own settings
                warnings.filterwarnings("ignore", "TRITON", UserWarning)
                value, gradient = _value_and_gradient(
                    lambda rows: kernel(rows, groups, closed_form), rows
                )
        except torch.OutOfMemoryError:
            raise  # the caller may try smaller batches
        except Exception as error:  # compilers and drivers fail in many ways
            return f"it failed with {type(error).__name__}: {error}"
    difference, of_gradient = (
        float((ours - theirs).norm() / theirs.norm().clamp_min(_SMALLEST))
        for ours, theirs in ((value, expected), (gradient, expected_gradient))
    )
    allowed = 10 * _ROUNDING + _ROUNDING * _slope(options)
    precision = torch.backends.cuda.matmul.fp32_precision
    allowed_of_gradient = allowed + _ROUNDING_OF_PRODUCTS.get(precision, 0.0)
    if difference <= allowed and of_gradient <= allowed_of_gradient:
        return ""
    return (
        f"value and gradient of a random batch of shape {tuple(rows.shape)} differ by "
        f"{difference:.1e} and {of_gradient:.1e} of those by autograd"
    )


def _random_batch(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows like those of z, and groups from single samples to large classes."""
    generator = torch.Generator().manual_seed(0)  # the global one stays as it is
    rows = l2_normalize(torch.randn(z.shape, generator=generator, dtype=torch.float32))
    # Values of few bits, so that TF32 products are exact and a small error is visible.
    rows = rows.bfloat16().to(z.device, z.dtype)
    n_rows = len(rows)
    groups = (n_rows * torch.rand(n_rows, generator=generator) ** 3).long()
    groups[:2], groups[-1] = 0, n_rows  # at least one positive and one negative
    return rows, groups.to(z.device)


def _value_and_gradient(
    loss: Callable[[Tensor], tuple[Tensor, LossStats]], rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Return both in float64."""
    rows = rows.clone().requires_grad_()
    value, _ = loss(rows)
    (gradient,) = torch.autograd.grad(value, rows)
    return value.detach().double(), gradient.double()


def _slope(options: LossOptions) -> float:
    """Return how much a similarity is amplified in the logarithm of the gradient."""
    beta = float(options.beta) if options.hardened else 0.0
    return (1 + beta * (1 if options.detach_weights else 2)) / float(options.temperature)


def _warn(device: torch.device, fault: str) -> None:
    warnings.warn(
        f"The Triton kernel of the loss is not used on {str(device)!r}: {fault}. The loss "
        f"is computed by autograd instead, which takes longer. Update torch and Triton, "
        f"and report this message if it stays. kernel='tiled' avoids the check.",
        UserWarning,
        stacklevel=2,
    )


# By autograd -------------------------------------------------------------------------


# Pairs in a block: 16 MB of float32 for each of the equation's temporaries.
BLOCK_PAIRS = 1 << 22


def tiled_loss(
    z: Tensor, pairs: BatchPairs, options: LossOptions
) -> tuple[Tensor, LossStats]:
    """Compute the same in memory that is linear in B, for every configuration.

    Blocks of anchors are computed one after the other, and once more for the gradient.
    Parameters and results are those of :func:`dense_loss`.
    """
    n_rows = z.shape[-2]
    pairs_per_anchor = z[..., 0].numel()  # samples of all batches on the leading axes
    height = max(1, BLOCK_PAIRS // pairs_per_anchor)
    sharers = sharers_of_pairs() if _can_share(options) else None
    anchors = slice(0, n_rows) if sharers is None else sharers.own(n_rows)
    z = z if sharers is None else _SummedGradient.apply(z, sharers)
    block = partial(block_losses, pairs=pairs, options=options)
    if _can_recompute():
        block = partial(
            checkpoint,
            _repeatable(block, z.device),
            use_reentrant=False,
            preserve_rng_state=False,  # torch forgets that of devices such as mps
        )
    starts = range(anchors.start, anchors.stop, height)
    blocks = [block(z, start, min(start + height, anchors.stop)) for start in starts]
    joined = AnchorLosses(*(torch.cat(parts, -1) for parts in zip(*blocks, strict=True)))
    if sharers is not None:
        joined = _gathered(joined, sharers, n_rows)
    return reduced_loss(joined, options)


# By several processes: each one computes its own anchors. ----------------------------


def _can_share(options: LossOptions) -> bool:
    """Return whether all that is random, or learned, is in the embeddings."""
    scales = options.beta, options.temperature, options.threshold
    is_fixed = all(not isinstance(scale, Tensor) or _is_constant(scale) for scale in scales)
    return is_fixed and isinstance(options.hardening, str) and not options.n_synthetic


class _SummedGradient(torch.autograd.Function):
    """Identity, whose gradient is the sum over all processes."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, sharers: Processes) -> Tensor:
        ctx.sharers = sharers
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone()
        ctx.sharers.add_up([total])
        return total, None


def _gathered(own: AnchorLosses, sharers: Processes, n_rows: int) -> AnchorLosses:
    """Join the anchors of all processes; only the losses of own ones are differentiable."""
    joined = AnchorLosses(
        *(sharers.gather(field.detach()[..., None], n_rows)[..., 0] for field in own)
    )
    start, stop = sharers.own(n_rows).start, sharers.own(n_rows).stop
    loss = [joined.loss[..., :start], own.loss, joined.loss[..., stop:]]
    return joined._replace(loss=torch.cat(loss, -1))


# Blocks that are computed twice. ------------------------------------------------------


def _repeatable(
    block: Callable[[Tensor, int, int], AnchorLosses], device: torch.device
) -> Callable[[Tensor, int, int], AnchorLosses]:
    """Return a function that draws the same synthetic negatives in every call."""
    first: list[Draws] = []

    def call(*args: Any) -> AnchorLosses:
        if not first:
            first.append(next_draws(device))
            return block(*args)
        with repeated(first[0], device):
            return block(*args)

    return call


def _can_recompute() -> bool:
    """Return whether blocks can be recomputed: not under the transforms of torch.func."""
    try:
        with saved_tensors_hooks(lambda saved: saved, lambda saved: saved):
            return True
    except RuntimeError:
        return False
