"""The learning rate over a training run."""

import math
from collections.abc import Callable
from typing import Any, Protocol

Schedule = Callable[[float], float]

# Share of the steps in which the rate rises: adaptive optimizers need some steps to know
# the scale of the gradient.
WARM_UP = 0.05


def constant(progress: float) -> float:
    """Keep the rate as it is."""
    return 1.0


def warm_up(progress: float) -> float:
    """Rise linearly over the first 5 % of the steps, then stay."""
    return min(1.0, progress / WARM_UP)


def cosine(progress: float) -> float:
    """Rise linearly over the first 5 % of the steps, then fall along a cosine to 0."""
    return warm_up(progress) * (1 + math.cos(math.pi * progress)) / 2


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "warm_up": warm_up,
    "cosine": cosine,
}


class HasParamGroups(Protocol):
    """An optimizer, or what updates several models as one."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Weights with the same settings."""


class LearningRate:
    """Set the rates of an optimizer, step by step.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer, or several as one
        Each of its groups keeps its own base rate.
    schedule : callable
        ``schedule(progress) -> factor`` with progress in (0, 1), the middle of a step.
    n_steps : int
        Steps of the whole training.
    step : int, default=0
        Steps that are done already.
    factor : float, default=1.0
        What all rates are multiplied by.
    """

    def __init__(
        self,
        optimizer: HasParamGroups,
        schedule: Schedule,
        n_steps: int,
        *,
        step: int = 0,
        factor: float = 1.0,
    ) -> None:
        self.groups = optimizer.param_groups
        self.base = [group["lr"] for group in self.groups]
        self.schedule = schedule
        self.n_steps = n_steps
        self.step = step
        self.factor = factor

    def advance(self) -> None:
        """Set the rates of the next step."""
        progress = min((self.step + 0.5) / self.n_steps, 1.0)
        try:
            factor = self.factor * float(self.schedule(progress))
        except Exception as error:
            raise ValueError(
                f"lr_schedule={self.schedule!r} must map the progress of training "
                f"to a factor, but failed for {progress}: {error}"
            ) from error
        for group, base in zip(self.groups, self.base, strict=True):
            group["lr"] = base * factor
        self.step += 1

    def restore(self) -> None:
        """Give the optimizer its base rates back."""
        for group, base in zip(self.groups, self.base, strict=True):
            group["lr"] = base
