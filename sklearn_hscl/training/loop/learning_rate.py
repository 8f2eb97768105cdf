"""The learning rate over a training run."""

import math
from collections.abc import Callable
from typing import Any, Protocol

Schedule = Callable[[float], float]

# Fraction of the steps in which the rate rises: adaptive optimizers need some steps to
# estimate the scale of the gradient.
_WARM_UP_FRACTION = 0.05


def constant(progress: float) -> float:
    """Return 1: the rate stays the same."""
    return 1.0


def warm_up(progress: float) -> float:
    """Rise linearly over the first 5 % of the steps, then stay."""
    return min(1.0, progress / _WARM_UP_FRACTION)


def cosine(progress: float) -> float:
    """Rise linearly over the first 5 % of the steps, then fall along a cosine to 0."""
    return warm_up(progress) * (1 + math.cos(math.pi * progress)) / 2


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "warm_up": warm_up,
    "cosine": cosine,
}

ParamGroup = dict[str, Any]  # torch's: the weights, and settings of any type


class HasParamGroups(Protocol):
    """An optimizer, or one that updates several stacked models."""

    @property
    def param_groups(self) -> list[ParamGroup]:
        """Weights with the same settings."""


class LearningRate:
    """Set the rates of an optimizer, step by step.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer or StackedOptimizer
        Each of its groups has its own base rate, the one at the first step.
    schedule : callable
        ``schedule(progress) -> factor`` with progress in (0, 1), the middle of a step.
    n_steps : int
        Number of steps of the whole training.

    Attributes
    ----------
    step : int
        Number of completed steps.
    factor : float
        Multiplier of all rates.
    """

    def __init__(self, optimizer: HasParamGroups, schedule: Schedule, n_steps: int) -> None:
        self.optimizer = optimizer
        self.schedule = schedule
        self.n_steps = n_steps
        self.step = 0
        self.factor = 1.0
        self._base: list[float] | None = None  # until the first step

    def advance(self) -> None:
        """Set the rates of the next step."""
        progress = min((self.step + 0.5) / self.n_steps, 1.0)
        try:
            factor = self.factor * float(self.schedule(progress))
        except Exception as error:
            raise ValueError(
                f"Expected lr_schedule={self.schedule!r} to map the progress of training "
                f"to a factor, but it failed for {progress}: {error}"
            ) from error
        groups = self.optimizer.param_groups
        if self._base is None:
            self._base = [group["lr"] for group in groups]
        for group, base in zip(groups, self._base, strict=True):
            group["lr"] = base * factor
        self.step += 1

    def restore(self) -> None:
        """Reset the optimizer to its base rates."""
        if self._base is None:
            return
        for group, base in zip(self.optimizer.param_groups, self._base, strict=True):
            group["lr"] = base
        self._base = None
