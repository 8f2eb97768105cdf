"""Which kernel computes a loss, by what the loss and the batch declare."""

from collections.abc import Callable

import torch
from torch import Tensor

from sklearn_hscl.losses.equation import LossStats
from sklearn_hscl.losses.kernels.autograd import BLOCK_PAIRS, dense_loss, tiled_loss
from sklearn_hscl.losses.kernels.streaming import streaming_loss
from sklearn_hscl.losses.pair_sets import Targets
from sklearn_hscl.losses.presets import LossOptions

Kernel = Callable[..., tuple[Tensor, LossStats]]
KERNELS = ("dense", "tiled", "streaming", "triton")


def choose_kernel(z: Tensor, targets: Targets, options: LossOptions) -> str:
    """Name the fastest kernel that can compute this loss of this batch.

    Parameters
    ----------
    z : Tensor of shape (..., B, D)
        Unit embeddings.
    targets : Targets
        Who is positive, who is negative.
    options : LossOptions
        The point in the family.

    Returns
    -------
    {"dense", "tiled", "streaming"}
        The closed form where it holds; else autograd, in tiles where the (..., B, B)
        temporaries would be larger than a tile. ``"triton"`` has to be asked for: it was
        tested in Triton's interpreter, but not yet timed on a GPU.
    """
    on_cpu = z.device.type == "cpu" and z.dtype in (torch.float32, torch.float64)
    if on_cpu and z.shape[-2] > 1 and has_closed_form(z, targets, options):
        return "streaming"
    n_pairs = z[..., 0].numel() * z.shape[-2]
    return "dense" if n_pairs <= BLOCK_PAIRS else "tiled"


def has_closed_form(z: Tensor, targets: Targets, options: LossOptions) -> bool:
    """Whether the gradient has the symmetric closed form: M z / T with symmetric M.

    It needs symmetric pairs, which are the same in all batches on leading axes, an
    exponential tilt (or none), and the denominator Q E.
    """
    numbers = (options.beta, options.temperature)
    return (
        all(
            not isinstance(number, Tensor) or number.shape in ((), z.shape[:-2])
            for number in numbers
        )
        and targets.identity is not None
        and targets.identity.ndim == 1
        and targets.twins is None
        and (not options.hardened or options.hardening == "exponential")
        and options.denominator == "negatives"
        and options.pooling == "out"
        and not options.tau_plus
        and not options.n_synthetic
    )


def compute(
    kernel: str,
    z: Tensor,
    targets: Targets,
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
        return {"dense": dense_loss, "tiled": tiled_loss}[kernel](z, targets, options)
    several = kernel == "triton" and z.ndim > 2
    if several or not has_closed_form(z, targets, options):
        raise ValueError(
            f"kernel={kernel!r} computes losses with exponential hardening or none, "
            f"classes or views that all batches share, 'triton' one batch: use "
            f"kernel='auto'."
        )
    return _closed_form_kernel(kernel)(
        z,
        targets.identity,
        beta=options.beta if options.hardened else 0.0,
        temperature=options.temperature,
        negative_mass=options.negative_mass,
        reduction=options.reduction,
        detach_weights=options.detach_weights,
        effective_negatives=effective_negatives,
    )


def _closed_form_kernel(kernel: str) -> Kernel:
    if kernel == "streaming":
        return streaming_loss
    from sklearn_hscl.losses.kernels.triton.launch import triton_loss  # an extra

    return triton_loss
