"""Choosing beta and temperature by a held-out score, in one stacked training run."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from sklearn_hscl.training.callbacks.early_stopping import BestWeights
from sklearn_hscl.training.run import TrainingRun
from sklearn_hscl.training.stacked.train import train_all, train_one_by_one

# The defaults come first: equal scores keep the first one.
BETAS = (1.0, 0.0, 0.5, 2.0, 4.0)
TEMPERATURES = (0.5, 0.2, 1.0)
DEFAULTS = (BETAS[0], TEMPERATURES[0])


def is_auto(value: Any) -> bool:
    """Whether a value of `beta` or `temperature` is to be chosen."""
    return isinstance(value, str)  # "auto", as the constraints say


def choices(beta: Any, temperature: Any, hardened: bool) -> list[dict[str, Any]]:
    """Return the pairs to try; one where both are given, or beta plays no part."""
    betas = BETAS if hardened else BETAS[:1]
    betas = betas if is_auto(beta) else (beta,)
    temperatures = TEMPERATURES if is_auto(temperature) else (temperature,)
    return [{"beta": b, "temperature": t} for b, t in product(betas, temperatures)]


def train_best(
    prepare: Callable[[dict[str, Any]], TrainingRun], numbers: Sequence[dict[str, Any]]
) -> TrainingRun:
    """Train a run with each pair, and return the one with the best held-out score.

    Parameters
    ----------
    prepare : callable
        Makes a run of a pair, always on the same rows and from the same seeds.
    numbers : sequence of dict
        The pairs.

    Returns
    -------
    TrainingRun
        Trained; of equal scores the first. Runs that fail are passed over.

    Raises
    ------
    ValueError
        If nothing scores held-out rows, or only a loss does, which depends itself on
        what is to be chosen.
    Exception
        What went wrong in the first run, if all fail.
    """
    runs = _prepared(prepare, numbers)
    monitored = any(isinstance(monitor, BestWeights) for monitor in runs[0].monitors)
    if not monitored or runs[0].net.target_kind != "class":
        raise ValueError(
            "beta='auto' and temperature='auto' choose by how well the classes of "
            "held-out rows are told, but no rows or no classes are held out: pass class "
            "labels, and early_stopping=True or X_val; or pass numbers."
        )
    try:
        errors = train_all(runs)
    except Exception:  # a module that cannot be stacked after all
        runs = _prepared(prepare, numbers)
        errors = train_one_by_one(runs)
    trained = [run for run, error in zip(runs, errors, strict=True) if error is None]
    if not trained:
        raise next(error for error in errors if error is not None)
    return max(trained, key=_score)


def _prepared(
    prepare: Callable[[dict[str, Any]], TrainingRun], numbers: Sequence[dict[str, Any]]
) -> list[TrainingRun]:
    runs: list[TrainingRun] = []
    for pair in numbers:
        run = prepare(pair)
        run.train = runs[0].train if runs else run.train  # one copy of the rows
        runs.append(run)
    return runs


def _score(run: TrainingRun) -> float:
    scores = [m.best_score_ for m in run.monitors if isinstance(m, BestWeights)]
    return float(scores[0])
