"""Choosing beta and temperature by a held-out score, in one stacked training run."""

from collections.abc import Sequence
from itertools import product
from typing import Any

from sklearn_hscl.training.run import TrainingRun
from sklearn_hscl.training.stacked import train_all
from sklearn_hscl.training.validation import BestWeights

# The defaults come first: equal scores keep the first one.
BETAS = (1.0, 0.0, 0.5, 2.0, 4.0)
TEMPERATURES = (0.5, 0.2, 1.0)


def is_open(value: Any) -> bool:
    """Whether a value of `beta` or `temperature` is to be chosen."""
    return isinstance(value, str)  # "auto", as the constraints say


def choices(beta: Any, temperature: Any) -> list[dict[str, Any]]:
    """Return the pairs to try; one where both are given."""
    betas = BETAS if is_open(beta) else (beta,)
    temperatures = TEMPERATURES if is_open(temperature) else (temperature,)
    return [{"beta": b, "temperature": t} for b, t in product(betas, temperatures)]


def train_best(runs: Sequence[TrainingRun]) -> TrainingRun:
    """Train all runs, and return the one with the best held-out score.

    Parameters
    ----------
    runs : sequence of TrainingRun
        Prepared on the same rows.

    Returns
    -------
    TrainingRun
        Trained; of equal scores the first. Runs that fail are passed over.

    Raises
    ------
    ValueError
        If nothing scores held-out rows.
    Exception
        What went wrong in the first run, if all fail.
    """
    if not any(isinstance(monitor, BestWeights) for monitor in runs[0].monitors):
        raise ValueError(
            "beta='auto' and temperature='auto' choose by the score of held-out rows, but "
            "none are held out: set early_stopping=True, pass X_val, or pass numbers."
        )
    errors = train_all(runs)
    trained = [run for run, error in zip(runs, errors, strict=True) if error is None]
    if not trained:
        raise next(error for error in errors if error is not None)
    return max(trained, key=_score)


def _score(run: TrainingRun) -> float:
    scores = [m.best_score_ for m in run.monitors if isinstance(m, BestWeights)]
    return float(scores[0])
