"""Gradients of a large batch on a small device, by caching those of the embeddings.

The contrastive loss needs all rows of a batch at once, but only their embeddings. So
a batch is embedded chunk by chunk without a graph, the gradient of the loss with
respect to the embeddings is computed and kept, and every chunk is embedded once more
to carry it on to the weights (GradCache: Gao, Zhang, Han, Callan, arXiv 2101.06983).
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import _BatchNorm

from sklearn_hscl.losses import LossStats
from sklearn_hscl.runtime.random_state import (
    RandomState,
    set_torch_random_state,
    torch_random_state,
)
from sklearn_hscl.training.loop.step import Objective, whole_batch

# What the activations of one chunk may take: of a GPU's memory this share, on CPU a fixed
# size, as the same machine should cut the same chunks whatever else runs on it.
_SHARE_OF_GPU = 0.5
_BYTES_ON_CPU = 2**31


class GradientCache:
    """Compute the loss of a batch and its gradient in chunks of rows.

    Value and gradient are those of the whole batch. The module draws the same random
    numbers (dropout) both times that a chunk is embedded, and its running statistics
    see every row once.

    Parameters
    ----------
    chunk_rows : int
        Views that are embedded at a time; batches up to this size stay whole.
    can_halve : bool
        Whether to go on with smaller chunks when memory runs out. Not where the chunk
        is part of the model, as with batch statistics.
    """

    def __init__(self, chunk_rows: int, *, can_halve: bool) -> None:
        self.chunk_rows = chunk_rows
        self.can_halve = can_halve

    def __call__(
        self, module: nn.Module, objective: Objective, views: Tensor
    ) -> tuple[Tensor, LossStats]:
        """Take the place of :func:`~sklearn_hscl.training.loop.step.whole_batch`."""
        chunk_rows = self.chunk_rows
        result = self._attempt(module, objective, views)
        while result is None:
            self._halve(len(views))
            module.zero_grad()  # what the failed attempt left
            result = self._attempt(module, objective, views)
        if self.chunk_rows < chunk_rows:
            warnings.warn(
                f"Memory ran out: going on with {self.chunk_rows} rows at a time, which "
                f"gives the same gradient. Pass device_batch_size={self.chunk_rows} to "
                f"start there.",
                UserWarning,
                stacklevel=2,
            )
        return result

    def _attempt(
        self, module: nn.Module, objective: Objective, views: Tensor
    ) -> tuple[Tensor, LossStats] | None:
        """Compute loss and gradient; None if memory runs out."""
        try:
            if len(views) <= self.chunk_rows:
                return whole_batch(module, objective, views)
            # Of nearly equal size: a short last chunk would have poor statistics.
            n_chunks = -(-len(views) // self.chunk_rows)
            return in_chunks(module, objective, views.tensor_split(n_chunks))
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            return None

    def _halve(self, n_views: int) -> None:
        tried = min(self.chunk_rows, n_views)
        if tried == 1 or not self.can_halve:
            raise MemoryError(
                f"Memory ran out with {tried} rows at a time: pass a smaller "
                f"device_batch_size, or use a smaller encoder."
            )
        self.chunk_rows = tried // 2


def in_chunks(
    module: nn.Module, objective: Objective, chunks: tuple[Tensor, ...]
) -> tuple[Tensor, LossStats]:
    """Compute the loss of all chunks together; leave its gradient in the module."""
    device = chunks[0].device
    with torch.no_grad(), _kept_buffers(module):
        states, outputs = [], []
        for chunk in chunks:
            states.append(torch_random_state(device))
            outputs.append(module(chunk))
    z, scores = (_leaf(parts) for parts in zip(*outputs, strict=True))
    assert z is not None
    value, stats = objective(z, scores)
    value.backward()
    sizes = [len(chunk) for chunk in chunks]
    pulls = zip(_split_gradient(z, sizes), _split_gradient(scores, sizes), strict=True)
    for chunk, state, gradients in zip(chunks, states, pulls, strict=True):
        with _random_state_of(device, state):
            output = module(chunk)
        used = [k for k, gradient in enumerate(gradients) if gradient is not None]
        torch.autograd.backward([output[k] for k in used], [gradients[k] for k in used])
    return value.detach(), stats


def choose_chunk_rows(
    device_batch_size: int | str, module: nn.Module, sample: Tensor
) -> tuple[int, bool]:
    """Settle how many views are embedded at a time, and whether that may be lowered.

    Parameters
    ----------
    device_batch_size : int or "auto"
        As given by the user. ``"auto"``: what is expected to fit, and half of it when
        memory runs out; with batch statistics the whole batch, whatever it takes.
    module : nn.Module
        Encoder with head, on its device.
    sample : Tensor of shape (B, ...)
        A few rows as the module takes them.
    """
    if has_batch_statistics(module):
        whole = device_batch_size == "auto"
        return (2**62 if whole else int(device_batch_size)), False
    if device_batch_size != "auto":
        return int(device_batch_size), True
    budget = _BYTES_ON_CPU
    if sample.device.type == "cuda":
        properties = torch.cuda.get_device_properties(sample.device)
        budget = int(_SHARE_OF_GPU * properties.total_memory)
    return max(1, budget // _activation_bytes(module, sample)), True


def has_batch_statistics(module: nn.Module) -> bool:
    """Whether rows of a batch see each other, as in BatchNorm that is in training mode."""
    return any(isinstance(part, _BatchNorm) and part.training for part in module.modules())


def _activation_bytes(module: nn.Module, sample: Tensor) -> int:
    """Count the bytes that a forward pass keeps for the backward pass, per row."""
    kept = {}

    def remember(tensor: Tensor) -> None:
        # A tensor that is returned here and was made by the operation that keeps it would
        # keep that operation, too, for ever. No backward pass comes to ask for it.
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()

    sample = sample.clone()  # not a view, whose storage would be that of all rows
    with saved_tensors_hooks(remember, lambda nothing: nothing):
        output = module(sample)
    for parameter in module.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    del output
    return max(1, sum(kept.values()) // len(sample))


def _leaf(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    """Join the outputs of all chunks into one tensor that collects a gradient."""
    if parts[0] is None:
        return None
    # Rows are the last axis but one: an ensemble has its members in front.
    return torch.cat([part for part in parts if part is not None], -2).requires_grad_()


def _split_gradient(leaf: Tensor | None, sizes: list[int]) -> Sequence[Tensor | None]:
    if leaf is None or leaf.grad is None:
        return [None] * len(sizes)
    return leaf.grad.split(sizes, -2)


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(
        error
    )


@contextmanager
def _kept_buffers(module: nn.Module) -> Iterator[None]:
    """Undo what the block does to running statistics."""
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    yield
    for name, buffer in module.named_buffers():
        buffer.copy_(before[name])


@contextmanager
def _random_state_of(device: torch.device, state: RandomState) -> Iterator[None]:
    """Draw in the block what was drawn from `state` on; go on afterwards as before."""
    present = torch_random_state(device)
    set_torch_random_state(device, state)
    yield
    set_torch_random_state(device, present)
