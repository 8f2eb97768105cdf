"""What the closed-form kernels take and give."""

from typing import NamedTuple

from torch import Tensor


class Settings(NamedTuple):
    """What is asked for."""

    beta: float | Tensor  # (..., 1, 1) where several batches are computed at once
    temperature: float | Tensor
    detach_weights: bool
    wants_gradient: bool
    effective_negatives: bool


class Result(NamedTuple):
    """What a kernel gives, rows in group order."""

    value: Tensor  # ()
    gradient: Tensor | None  # (D, B)
    effective: Tensor | None  # (B,), effective number of negatives, if asked
