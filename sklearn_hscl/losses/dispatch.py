"""The choice of the kernel that computes a loss, and the kernels by autograd.

A loss with a closed form gets its kernel. Autograd computes every other loss, in blocks of
anchors if the batch is large.
"""

from collections.abc import Callable
from functools import partial
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
from sklearn_hscl.losses.pair_sets import BatchPairs
from sklearn_hscl.losses.presets import LossOptions
from sklearn_hscl.runtime.random_state import (
    RandomState,
    preserved_torch_random_state,
    set_torch_random_state,
    torch_random_state,
)

ClosedFormKernel = Callable[[Tensor, Tensor, ClosedFormOptions], tuple[Tensor, LossStats]]
KERNELS = ("dense", "tiled", "streaming", "triton")


def choose_kernel(z: Tensor, pairs: BatchPairs, options: LossOptions) -> str:
    """Return the name of the fastest kernel that can compute this loss of this batch.

    Parameters
    ----------
    z : Tensor of shape (..., B, D)
        Unit embeddings.
    pairs : BatchPairs
        Positives and negatives of each anchor.
    options : LossOptions
        The loss configuration.

    Returns
    -------
    {"dense", "tiled", "streaming"}
        The closed form if there is one. Otherwise autograd, in tiles if the (..., B, B)
        temporaries would be larger than a tile. ``"triton"`` has to be requested: it was
        tested in Triton's interpreter, but not yet timed on a GPU.
    """
    on_cpu = z.device.type == "cpu" and z.dtype in (torch.float32, torch.float64)
    if on_cpu and z.shape[-2] > 1 and closed_form_groups(z, pairs, options) is not None:
        return "streaming"
    n_pairs = z[..., 0].numel() * z.shape[-2]
    return "dense" if n_pairs <= BLOCK_PAIRS else "tiled"


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
) -> tuple[Tensor, LossStats]:
    """Run a kernel by name.

    Raises
    ------
    ValueError
        If the kernel cannot compute this loss.
    """
    if kernel in ("dense", "tiled"):
        return {"dense": dense_loss, "tiled": tiled_loss}[kernel](z, pairs, options)
    groups = closed_form_groups(z, pairs, options)
    if groups is None or (kernel == "triton" and z.ndim > 2):
        raise ValueError(
            f"kernel={kernel!r} computes losses with exponential hardening or none, with "
            f"beta and temperature that require no gradient, and with classes or views "
            f"that all batches share; 'triton' takes one batch. Use kernel='auto'."
        )
    closed_form = ClosedFormOptions(
        beta=options.beta if options.hardened else 0.0,
        temperature=options.temperature,
        negative_mass=options.negative_mass,
        reduction=options.reduction,
        detach_weights=options.detach_weights,
        effective_negatives=effective_negatives,
    )
    return _closed_form_kernel(kernel)(z, groups, closed_form)


def _closed_form_kernel(kernel: str) -> ClosedFormKernel:
    if kernel == "streaming":
        return streaming_loss
    from sklearn_hscl.losses.kernels.triton.launch import triton_loss  # an extra

    return triton_loss


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
    block = partial(block_losses, pairs=pairs, options=options)
    if _can_recompute():
        block = partial(
            checkpoint,
            _repeatable(block, z.device),
            use_reentrant=False,
            preserve_rng_state=False,  # torch forgets that of devices such as mps
        )
    blocks = [
        block(z, start, min(start + height, n_rows)) for start in range(0, n_rows, height)
    ]
    joined = AnchorLosses(*(torch.cat(parts, -1) for parts in zip(*blocks, strict=True)))
    return reduced_loss(joined, options)


def _repeatable(
    block: Callable[[Tensor, int, int], AnchorLosses], device: torch.device
) -> Callable[[Tensor, int, int], AnchorLosses]:
    """Return a function that draws the same synthetic negatives in every call."""
    states: list[RandomState] = []

    def call(*args: Any) -> AnchorLosses:
        if not states:
            states.append(torch_random_state(device))
            return block(*args)
        with preserved_torch_random_state(device):
            set_torch_random_state(device, states[0])
            return block(*args)

    return call


def _can_recompute() -> bool:
    """Return whether blocks can be recomputed: not under the transforms of torch.func."""
    try:
        with saved_tensors_hooks(lambda saved: saved, lambda saved: saved):
            return True
    except RuntimeError:
        return False
