"""Schedules of the hardening: beta as a function of the progress of training."""

from dataclasses import dataclass
from math import cos, floor, pi
from typing import Protocol, runtime_checkable


@runtime_checkable
class BetaSchedule(Protocol):
    """Anything that maps the completed fraction of training, in [0, 1], to a beta."""

    def beta_at(self, progress: float) -> float:
        """Return beta, at least 0."""


@dataclass(frozen=True)
class WarmUpBeta:
    """Rise linearly from 0 to `beta` during a first fraction of training, then stay.

    Parameters
    ----------
    beta : float, default=1.0
        Final beta.
    share : float in (0, 1], default=0.25
        Fraction of training that the rise takes.

    Examples
    --------
    >>> WarmUpBeta(beta=2.0, share=0.5).beta_at(0.25)
    1.0
    """

    beta: float = 1.0
    share: float = 0.25

    def beta_at(self, progress: float) -> float:
        """Return beta after the given fraction of training."""
        return self.beta * min(1.0, progress / self.share)


@dataclass(frozen=True)
class LinearBeta:
    """Move linearly from `start` to `end`.

    Parameters
    ----------
    start : float, default=0.0
        Beta of the first epoch.
    end : float, default=1.0
        Beta of the last epoch.

    Examples
    --------
    >>> LinearBeta(start=2.0, end=0.0).beta_at(0.75)
    0.5
    """

    start: float = 0.0
    end: float = 1.0

    def beta_at(self, progress: float) -> float:
        """Return beta after the given fraction of training."""
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class CosineBeta:
    """Move from `start` to `end` along half a cosine: slowly at both ends.

    Parameters
    ----------
    start : float, default=0.0
        Beta of the first epoch.
    end : float, default=1.0
        Beta of the last epoch.

    Examples
    --------
    >>> round(CosineBeta(start=0.0, end=2.0).beta_at(0.5), 6)
    1.0
    """

    start: float = 0.0
    end: float = 1.0

    def beta_at(self, progress: float) -> float:
        """Return beta after the given fraction of training."""
        return self.start + (self.end - self.start) * (1 - cos(pi * progress)) / 2


@dataclass(frozen=True)
class StepBeta:
    """Anneal from `start` to `end` in equal steps.

    ``start=beta, end=0, n_steps=9`` is the annealing in the code of Robinson et al.
    (arXiv 2010.04592), in which beta takes nine values from beta to 0.

    Parameters
    ----------
    start : float, default=1.0
        Beta of the first epochs.
    end : float, default=0.0
        Beta of the last epochs.
    n_steps : int, default=9
        Number of values of beta, each for the same fraction of training.

    Examples
    --------
    >>> [StepBeta(start=2.0, end=0.0, n_steps=3).beta_at(p) for p in (0, 0.4, 0.9)]
    [2.0, 1.0, 0.0]
    """

    start: float = 1.0
    end: float = 0.0
    n_steps: int = 9

    def beta_at(self, progress: float) -> float:
        """Return beta after the given fraction of training."""
        step = min(floor(progress * self.n_steps), self.n_steps - 1)
        return self.start + (self.end - self.start) * step / max(1, self.n_steps - 1)
