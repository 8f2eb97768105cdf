"""Gradients of a large batch on a small device, by caching those of the embeddings.

The contrastive loss needs all rows of a batch at once, but only their embeddings. A
batch is therefore embedded chunk by chunk without a graph. The gradient of the loss with
respect to the embeddings is computed and cached. Each chunk is then embedded again to
propagate that gradient to the weights (GradCache: Gao, Zhang, Han, Callan,
arXiv 2101.06983).
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import _BatchNorm

from sklearn_hscl.encoders.preprocessing import as_float
from sklearn_hscl.encoders.text.tokens import costly_rows
from sklearn_hscl.losses import LossStats
from sklearn_hscl.runtime.device import accelerator
from sklearn_hscl.runtime.random_state import (
    next_draws,
    repeated,
    set_torch_random_state,
    torch_random_state,
)
from sklearn_hscl.training.batches.tensors import LazyRows
from sklearn_hscl.training.loop.step import Objective, whole_batch

# Memory for the activations of one chunk: a fraction of what is free on a GPU. On CPU it
# is a constant, so that a machine cuts the same chunks whatever else runs on it.
_GPU_MEMORY_FRACTION = 0.5
_CPU_BYTES = 2**31
_N_SAMPLE_ROWS = 4  # rows on which the memory of a forward pass is measured


class GradientCache:
    """Compute the loss of a batch and its gradient in chunks of rows.

    Value and gradient equal those of the whole batch. The module draws the same random
    numbers (dropout) both times that a chunk is embedded. Its running statistics see
    each row once, also if memory runs out and the batch is retried.

    Parameters
    ----------
    chunk_rows : int
        Number of views embedded at a time; batches up to this size are not split.
    can_halve : bool
        Whether to retry with smaller chunks when memory runs out. It must be False if
        the chunk is part of the model, as with batch statistics.
    """

    def __init__(self, chunk_rows: int, *, can_halve: bool) -> None:
        self.chunk_rows = chunk_rows
        self.can_halve = can_halve

    def __call__(
        self, module: nn.Module, objective: Objective, views: Tensor
    ) -> tuple[Tensor, LossStats]:
        """Replace :func:`~sklearn_hscl.training.loop.step.whole_batch`."""
        chunk_rows = self.chunk_rows
        result = self._attempt(module, objective, views)
        while result is None:
            self._halve(len(views))
            result = self._attempt(module, objective, views)
        if self.chunk_rows < chunk_rows:
            warnings.warn(
                f"Memory ran out: training continues with {self.chunk_rows} rows at a "
                f"time, which gives the same gradient. Pass "
                f"device_batch_size={self.chunk_rows} to start with this size.",
                UserWarning,
                stacklevel=2,
            )
        return result

    def _attempt(
        self, module: nn.Module, objective: Objective, views: Tensor
    ) -> tuple[Tensor, LossStats] | None:
        """Compute loss and gradient; undo all and return None if memory runs out."""
        device = views.device
        buffers, random_state = _copy_buffers(module), torch_random_state(device)
        try:
            if len(views) <= self.chunk_rows:
                return whole_batch(module, objective, views)
            # Chunks of nearly equal size: a short last chunk has poor statistics.
            n_chunks = -(-len(views) // self.chunk_rows)
            return in_chunks(module, objective, views.tensor_split(n_chunks))
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        # The error is gone, and with it the tensors of the frames that it passed.
        module.zero_grad()
        accelerator(device).release_memory()
        _restore_buffers(module, buffers)
        set_torch_random_state(device, random_state)
        return None

    def _halve(self, n_views: int) -> None:
        tried = min(self.chunk_rows, n_views)
        if tried == 1 or not self.can_halve:
            raise MemoryError(
                f"Memory ran out with {tried} rows at a time. Pass a smaller "
                f"device_batch_size, or use a smaller encoder."
            )
        self.chunk_rows = tried // 2


def gradient_cache(
    device_batch_size: int | str,
    module: nn.Module,
    rows: Tensor | LazyRows,
    dtype: torch.dtype,
) -> GradientCache:
    """Return the gradient cache of a training.

    Parameters
    ----------
    device_batch_size, module
        As in :func:`choose_chunk_rows`.
    rows : Tensor or LazyRows of shape (n_samples, ...)
        Training rows.
    dtype : torch.dtype
        Type of numbers that the module takes.
    """
    sample = as_float(costly_rows(rows, _N_SAMPLE_ROWS), dtype)
    chunk_rows, can_halve = choose_chunk_rows(device_batch_size, module, sample)
    return GradientCache(chunk_rows, can_halve=can_halve)


def in_chunks(
    module: nn.Module, objective: Objective, chunks: tuple[Tensor, ...]
) -> tuple[Tensor, LossStats]:
    """Compute the loss of all chunks together; leave its gradient in the module."""
    device = chunks[0].device
    with torch.no_grad(), _preserve_buffers(module):
        draws, outputs = [], []
        for chunk in chunks:
            draws.append(next_draws(device))
            outputs.append(module(chunk))
    z, logits = (_join_as_leaf(parts) for parts in zip(*outputs, strict=True))
    assert z is not None
    value, stats = objective(z, logits)
    value.backward()
    sizes = [len(chunk) for chunk in chunks]
    gradients_by_chunk = zip(
        _split_gradient(z, sizes), _split_gradient(logits, sizes), strict=True
    )
    for chunk, drawn, gradients in zip(chunks, draws, gradients_by_chunk, strict=True):
        with repeated(drawn, device):
            output = module(chunk)
        used = [k for k, gradient in enumerate(gradients) if gradient is not None]
        torch.autograd.backward([output[k] for k in used], [gradients[k] for k in used])
    return value.detach(), stats


def choose_chunk_rows(
    device_batch_size: int | str, module: nn.Module, sample: Tensor
) -> tuple[int, bool]:
    """Choose how many views are embedded at a time, and whether that may be lowered.

    Parameters
    ----------
    device_batch_size : int or "auto"
        As given by the user. ``"auto"`` estimates what fits into memory, and halves it
        when memory runs out. With batch statistics it is the whole batch.
    module : nn.Module
        Encoder with head, on its device.
    sample : Tensor of shape (B, ...)
        A few rows as the module takes them.

    Returns
    -------
    chunk_rows : int
    can_halve : bool
    """
    if has_batch_statistics(module):
        whole = device_batch_size == "auto"
        return (2**62 if whole else int(device_batch_size)), False
    if device_batch_size != "auto":
        return int(device_batch_size), True
    free = accelerator(sample.device).free_memory()
    budget = _CPU_BYTES if free is None else int(_GPU_MEMORY_FRACTION * free)
    return max(1, budget // _activation_bytes(module, sample)), True


def has_batch_statistics(module: nn.Module) -> bool:
    """Return whether rows of a batch interact, as in a BatchNorm layer in training mode."""
    return any(isinstance(part, _BatchNorm) and part.training for part in module.modules())


def _activation_bytes(module: nn.Module, sample: Tensor) -> int:
    """Count the bytes per row that a forward pass saves for the backward pass."""
    saved = {}

    def record(tensor: Tensor) -> None:
        # Returning the tensor would create a reference cycle with the operation that
        # saved it. The value is never needed, as there is no backward pass.
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()

    sample = sample.clone()  # a view would count the storage of all rows
    with saved_tensors_hooks(record, lambda nothing: nothing):
        output = module(sample)
    for parameter in module.parameters():
        saved.pop(parameter.untyped_storage().data_ptr(), None)
    del output
    return max(1, sum(saved.values()) // len(sample))


def _join_as_leaf(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    """Concatenate the outputs of all chunks into one tensor that collects a gradient."""
    if parts[0] is None:
        return None
    # Rows are the second to last axis: ensembles have a member axis before it.
    return torch.cat([part for part in parts if part is not None], -2).requires_grad_()


def _split_gradient(leaf: Tensor | None, sizes: list[int]) -> Sequence[Tensor | None]:
    if leaf is None or leaf.grad is None:
        return [None] * len(sizes)
    return leaf.grad.split(sizes, -2)


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(
        error
    )


def _copy_buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


@torch.no_grad()
def _restore_buffers(module: nn.Module, buffers: dict[str, Tensor]) -> None:
    for name, buffer in module.named_buffers():
        buffer.copy_(buffers[name])


@contextmanager
def _preserve_buffers(module: nn.Module) -> Iterator[None]:
    """Undo what the block does to running statistics, also after an error."""
    buffers = _copy_buffers(module)
    try:
        yield
    finally:
        _restore_buffers(module, buffers)
