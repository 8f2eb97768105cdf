"""A batch whose rows are embedded by several processes, for one loss and one gradient.

Each process embeds its own part of the views, and gets the projections of all. The
gradient with respect to its own ones goes on to the weights, and the gradients of the
weights are summed over the processes: value and gradient are those of one process.
"""

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from sklearn_hscl.encoders.contrastive_module import ContrastiveModule
from sklearn_hscl.losses import LossStats
from sklearn_hscl.runtime.processes import Processes, processes_of_fit, sharing_pairs
from sklearn_hscl.runtime.random_state import apart, draws_of_rows
from sklearn_hscl.training.loop.gradient_cache import GradientCache
from sklearn_hscl.training.loop.step import Objective


class SharedBatch:
    """Compute the loss of a batch and its gradient in several processes.

    Parameters
    ----------
    cache : GradientCache
        Embeds the part of this process.
    processes : Processes
        The processes of the fit.
    """

    def __init__(self, cache: GradientCache, processes: Processes) -> None:
        self.cache = cache
        self.processes = processes
        # Processes have to agree, and one that runs out of memory ends the fit.
        cache.chunk_rows = min(processes.gather_objects(cache.chunk_rows))
        cache.can_halve = False

    def __call__(
        self, module: nn.Module, objective: Objective, views: Tensor
    ) -> tuple[Tensor, LossStats]:
        """Replace :func:`~sklearn_hscl.training.loop.step.whole_batch`."""
        processes, n_views = self.processes, len(views)
        if n_views < 2 * processes.size:
            raise ValueError(
                f"Expected batches of at least {2 * processes.size} views for "
                f"{processes.size} processes, got one of {n_views}. {_remedy(n_views)}"
            )
        own, gather = processes.own(n_views), partial(gathered, processes, n_views)
        is_split = processes.sizes(n_views)[0] > self.cache.chunk_rows
        with apart(processes.rank, views.device, of_fit=is_split) as together:

            def objective_of_all(
                z: Tensor, logits: Tensor | None
            ) -> tuple[Tensor, LossStats]:
                with together(), sharing_pairs():
                    scores = None if logits is None else gather(logits)
                    return objective(gather(z), scores)

            with draws_of_rows(own, n_views):
                value, stats = self.cache(module, objective_of_all, views[own])
        _add_up_gradients(processes, module)
        return value, stats


def _add_up_gradients(processes: Processes, module: nn.Module) -> None:
    """Sum the gradients; a weight has none where no process has used it."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    if not weights:
        return
    is_used = weights[0].new_tensor([weight.grad is not None for weight in weights])
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    processes.add_up([*(cast(Tensor, weight.grad) for weight in weights), is_used])
    for weight, n_users in zip(weights, is_used.tolist(), strict=True):
        if not n_users:
            weight.grad = None


def shared_if_launched(
    cache: GradientCache, module: ContrastiveModule
) -> GradientCache | SharedBatch:
    """Return what computes loss and gradient: in the processes of the fit, or alone.

    Raises
    ------
    ValueError
        If the module has statistics of a batch, which a process would take of its own
        rows.
    """
    processes = processes_of_fit()
    if processes is None:
        return cache
    if any(map(_normalizes_own_rows, module.modules())):
        raise ValueError(
            f"encoder={type(module.encoder).__name__} normalizes by statistics of the "
            f"batch, of which each of {processes.size} processes sees a part. Use an "
            f"encoder with GroupNorm or LayerNorm, such as 'conv', name the normalized "
            f"parts in `freeze`, or, on GPUs, pass a module that was converted by "
            f"torch.nn.SyncBatchNorm.convert_sync_batchnorm."
        )
    return SharedBatch(cache, processes)


def _normalizes_own_rows(part: nn.Module) -> bool:
    if isinstance(part, _InstanceNorm):
        return part.training and part.track_running_stats
    is_batch_norm = isinstance(part, _BatchNorm) and not isinstance(part, nn.SyncBatchNorm)
    return is_batch_norm and part.training


def _remedy(n_views: int) -> str:
    if n_views < 4:
        return "Raise `batch_size`, or start one process."
    return f"Raise `batch_size`, or launch at most {n_views // 2} processes."


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, processes: Processes, n_rows: int) -> Tensor:
        ctx.own = processes.own(n_rows)
        return processes.gather(own, n_rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients  # of the whole loss, which each process computes
        return gradient[..., ctx.own, :], None, None


def gathered(processes: Processes, n_rows: int, own: Tensor) -> Tensor:
    """Join projections of all processes, differentiably in those of this one."""
    joined: Tensor = _Gathered.apply(own, processes, n_rows)
    return joined
