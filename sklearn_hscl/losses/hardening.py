"""Hardening functions: how much more a hard negative counts than an easy one.

Each maps the similarities of an anchor to ``log η``, up to a constant per anchor
(η is normalised over the anchor's negatives, so a constant cancels).
"""

from collections.abc import Callable

import torch
from torch import Tensor

HARDENINGS = ("exponential", "threshold", "polynomial", "top_k")
LogHardening = Callable[[Tensor], Tensor]


def log_exponential(excess: Tensor, beta: Tensor) -> Tensor:
    """η(s) = e^{βs}: ``excess`` is s minus the anchor's hardest negative."""
    return beta * excess


def log_threshold(cosine: Tensor, threshold: Tensor) -> Tensor:
    """η = 1 where the cosine reaches the threshold, else 0."""
    zero = torch.zeros_like(cosine)
    return zero.masked_fill(cosine < threshold, -torch.inf)


def log_polynomial(cosine: Tensor, beta: Tensor) -> Tensor:
    """η = ((1 + cos) / 2)^β: a gentler tilt that no temperature sharpens (ours)."""
    half = ((1 + cosine) / 2).clamp_min(torch.finfo(cosine.dtype).tiny)
    return beta * half.log()


def log_top_k(excess: Tensor, log_negative: Tensor, k: int) -> Tensor:
    """η = 1 for the k hardest negatives (and those as hard as the k-th), else 0."""
    hardness = torch.where(log_negative.isneginf(), -torch.inf, excess.detach())
    last = hardness.topk(min(k, hardness.shape[-1])).values[..., -1:]  # (..., A, 1)
    return torch.zeros_like(excess).masked_fill(hardness < last, -torch.inf)
