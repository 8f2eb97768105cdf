"""Select beta and temperature by a held-out score, in one stacked training run."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from sklearn_hscl.encoders.registry import is_pretrained
from sklearn_hscl.losses.beta_schedules import BetaSchedule
from sklearn_hscl.runtime.processes import processes_of_fit
from sklearn_hscl.training.callbacks.early_stopping import BestWeights
from sklearn_hscl.training.run import TrainingRun
from sklearn_hscl.training.stacked.train import (
    are_stackable,
    train_one_by_one,
    train_stacked,
)

# The defaults come first: of equal scores the first is retained.
BETAS = (1.0, 0.0, 0.5, 2.0, 4.0)
_TEMPERATURES = (0.5, 0.2, 1.0)
# Pretrained embeddings lie close together (benchmarks/results/finetune.md).
_PRETRAINED_TEMPERATURES = (0.1, 0.05, 0.2)


def is_auto(value: object) -> bool:
    """Return whether a value of `beta` or `temperature` is to be selected."""
    return isinstance(value, str)  # "auto", as the constraints say


class LossScales(NamedTuple):
    """A strength of the tilt and a temperature."""

    beta: float | BetaSchedule
    temperature: float


DEFAULT_SCALES = LossScales(BETAS[0], _TEMPERATURES[0])


def default_temperatures(encoder: object) -> tuple[float, ...]:
    """Return the temperatures that ``"auto"`` tries for an encoder, the default first."""
    return _PRETRAINED_TEMPERATURES if is_pretrained(encoder) else _TEMPERATURES


def loss_scales(
    beta: float | str | BetaSchedule,
    temperature: float | str,
    *,
    uses_beta: bool,
    temperatures: Sequence[float] = _TEMPERATURES,
) -> list[LossScales]:
    """Return the pairs to try; one if both are given, or `beta` has no effect."""
    betas = BETAS if uses_beta else BETAS[:1]
    return [
        LossScales(b, t)
        for b in ((beta,) if not isinstance(beta, str) else betas)
        for t in ((temperature,) if not isinstance(temperature, str) else temperatures)
    ]


def train_best(
    prepare: Callable[[LossScales], TrainingRun], scales: Sequence[LossScales]
) -> TrainingRun:
    """Train a run with each pair, and return the one with the best held-out score.

    Parameters
    ----------
    prepare : callable
        Builds a run with a pair, always on the same samples and from the same seeds.
    scales : sequence of LossScales
        The pairs.

    Returns
    -------
    TrainingRun
        Trained; of equal scores the first. Runs that fail are skipped.

    Raises
    ------
    ValueError
        If nothing scores held-out rows, or only a loss does, which depends itself on
        what is to be chosen.
    Exception
        What went wrong in the first run, if all fail.
    """
    runs = [prepare(pair) for pair in scales]
    monitored = any(isinstance(monitor, BestWeights) for monitor in runs[0].monitors)
    if not monitored or runs[0].net.target_kind != "class":
        raise ValueError(
            "beta='auto' and temperature='auto' are selected by held-out classification "
            "accuracy, which requires class labels and held-out samples. Pass class "
            "labels, and early_stopping=True or X_val; or pass numbers."
        )
    errors = None
    if are_stackable(runs):
        errors = _errors_of_stack(runs)
        if errors is None:  # which has changed the runs
            runs = [prepare(pair) for pair in scales]
    if errors is None:
        errors = train_one_by_one(runs)
    trained = [run for run, error in zip(runs, errors, strict=True) if error is None]
    if not trained:
        raise next(error for error in errors if error is not None)
    return max(trained, key=_score)


def _errors_of_stack(runs: Sequence[TrainingRun]) -> list[Exception | None] | None:
    """Train a stack; return the errors of its runs, or None if it fails.

    Each process of the fit trains all of it. It counts as failed in all if it fails in one.
    """
    errors = None
    with suppress(Exception):  # such as of a module that torch.func cannot map
        errors = train_stacked(runs)
    processes = processes_of_fit()
    if processes is not None and processes.any(errors is None):
        return None
    return errors


def _score(run: TrainingRun) -> float:
    scores = [m.best_score_ for m in run.monitors if isinstance(m, BestWeights)]
    return float(scores[0])
