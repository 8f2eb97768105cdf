"""Hardening functions η: how much more a hard negative counts than an easy one.

To add one, write a function from :class:`HardeningInput` to ``log η`` and list it in
``HARDENINGS``. A constant per anchor cancels, because η is normalized over its negatives.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LogHardening = Callable[[Tensor], Tensor]


class HardeningInput(NamedTuple):
    """A block of anchors against all samples, and the parameters of the hardening."""

    similarity: Tensor  # (..., A, B), s = cosine / T
    excess: Tensor  # (..., A, B), s minus that of the anchor's hardest negative
    cosine: Tensor  # (..., A, B)
    log_negative: Tensor  # (..., A, B), log ν, -inf for samples that are not negatives
    beta: Tensor  # (..., 1, 1)
    threshold: Tensor  # (..., 1, 1)
    top_k: int


def exponential(block: HardeningInput) -> Tensor:
    """η(s) = e^{βs}."""
    return block.beta * block.excess


def threshold(block: HardeningInput) -> Tensor:
    """η = 1 if the cosine reaches the threshold, else 0."""
    zero = torch.zeros_like(block.cosine)
    return zero.masked_fill(block.cosine < block.threshold, -torch.inf)


def polynomial(block: HardeningInput) -> Tensor:
    """η = ((1 + cos) / 2)^β: a gentler tilt, independent of the temperature."""
    tiny = torch.finfo(block.cosine.dtype).tiny
    half = ((1 + block.cosine) / 2).clamp_min(tiny)
    return block.beta * half.log()


def top_k(block: HardeningInput) -> Tensor:
    """η = 1 for the k hardest negatives (and those as hard as the k-th), else 0."""
    absent = block.log_negative.isneginf()
    hardness = torch.where(absent, -torch.inf, block.excess.detach())
    k = min(block.top_k, hardness.shape[-1])
    last = hardness.topk(k).values[..., -1:]  # (..., A, 1)
    return torch.zeros_like(block.excess).masked_fill(hardness < last, -torch.inf)


HARDENINGS: dict[str, Callable[[HardeningInput], Tensor]] = {
    "exponential": exponential,
    "threshold": threshold,
    "polynomial": polynomial,
    "top_k": top_k,
}


def log_eta(hardening: str | LogHardening, block: HardeningInput) -> Tensor:
    """Return log η of all pairs, up to a constant per anchor, (..., A, B).

    Raises
    ------
    ValueError
        If the user's function fails or returns a tensor of another shape.
    """
    if callable(hardening):
        return _custom(hardening, block.similarity)
    return HARDENINGS[hardening](block)


def _custom(hardening: LogHardening, similarity: Tensor) -> Tensor:
    shape = tuple(similarity.shape)
    try:
        values = hardening(similarity)
    except Exception as error:
        if "memory" in str(error) or isinstance(error, MemoryError):
            raise  # the caller may try smaller batches
        raise ValueError(
            f"hardening={hardening!r} failed on a tensor of shape {shape}: {error}"
        ) from error
    if not isinstance(values, Tensor) or values.shape != similarity.shape:
        raise ValueError(
            f"hardening={hardening!r} must map a tensor of shape {shape} to one "
            f"of that shape, got {getattr(values, 'shape', type(values))}."
        )
    return values
