"""Hardening functions: how much more a hard negative counts than an easy one.

Each maps the similarities of an anchor to ``log η``, up to a constant per anchor
(η is normalised over the anchor's negatives, so a constant cancels).
"""

import torch
from torch import Tensor

HARDENINGS = ("exponential", "threshold")


def log_exponential(excess: Tensor, beta: Tensor) -> Tensor:
    """η(s) = e^{βs}: ``excess`` is s minus the anchor's hardest negative."""
    return beta * excess


def log_threshold(cosine: Tensor, threshold: Tensor) -> Tensor:
    """η = 1 where the cosine reaches the threshold, else 0."""
    zero = torch.zeros_like(cosine)
    return zero.masked_fill(cosine < threshold, -torch.inf)
