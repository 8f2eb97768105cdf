"""Fitting embedders that differ in numbers, at once."""

import copy
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from sklearn_hscl.data.validation import FitInput
from sklearn_hscl.embedder import HSCLEmbedder
from sklearn_hscl.runtime.random_state import draw_seeds
from sklearn_hscl.training.prepared_data import PreparedData
from sklearn_hscl.training.run import TrainingRun
from sklearn_hscl.training.stacked.compatibility import reason_not_stackable, stack_key
from sklearn_hscl.training.stacked.train import train_stacked


@dataclass
class Outcome:
    """How the fit of one embedder went."""

    error: Exception | None = None
    """Why it failed; None: it is fitted."""
    traceback: TracebackType | None = None
    """Where it failed."""
    reason: str | None = None
    """Why it was fitted alone; None: it was fitted together with others."""
    seconds: float = 0.0
    """Its share of the time."""

    def fail(self, error: Exception) -> None:
        """Take note of an error."""
        self.error, self.traceback = error, error.__traceback__

    def check(self) -> None:
        """Raise the error, if there is one: each time the same, for who counts them."""
        if self.error is not None:
            raise self.error.with_traceback(self.traceback)


def fit_together(
    embedders: Sequence[HSCLEmbedder], X: Any, y: Any, seed: int
) -> list[Outcome]:
    """Fit embedders on the same data, as one stack as far as that is possible.

    Parameters
    ----------
    embedders : sequence of HSCLEmbedder
        Not fitted; they differ in no other parameters than
        :data:`~sklearn_hscl.model_selection.grouping.NUMBERS`.
    X, y : array-like
        As for :meth:`HSCLEmbedder.fit`.
    seed : int
        For those with ``random_state=None``.

    Returns
    -------
    list of Outcome
    """
    outcomes = [Outcome() for _ in embedders]
    data = _SharedData(X, y)
    stacks: dict[Any, list[tuple[HSCLEmbedder, TrainingRun, Outcome]]] = {}
    alone = []
    for embedder, outcome in zip(embedders, outcomes, strict=True):
        start = time.perf_counter()
        try:
            run = _prepared(embedder, data, seed)
        except Exception as error:
            outcome.fail(error)
            continue
        finally:
            outcome.seconds = time.perf_counter() - start
        outcome.reason = reason_not_stackable(run)
        if embedder.checkpoint_dir is not None:
            outcome.reason = "checkpoint_dir keeps the state of one model"
        if outcome.reason is None:
            stacks.setdefault(stack_key(run), []).append((embedder, run, outcome))
        else:
            alone.append((embedder, outcome))
    for stack in stacks.values():
        alone += _fit_stack(stack)
    for embedder, outcome in alone:
        _fit_alone(embedder, outcome, X, y)
    return outcomes


def _fit_stack(
    stack: list[tuple[HSCLEmbedder, TrainingRun, Outcome]],
) -> list[tuple[HSCLEmbedder, Outcome]]:
    """Fit the embedders of a stack; return those that have to be fitted alone."""
    reason = "no other candidate has its form"
    if len(stack) > 1:
        start = time.perf_counter()
        try:
            errors = train_stacked([run for _, run, _ in stack])
        except Exception as error:  # a module that torch.func cannot map, for one
            reason = f"as a stack it failed: {type(error).__name__}: {error}"
        else:
            seconds = (time.perf_counter() - start) / len(stack)
            for (embedder, run, outcome), failure in zip(stack, errors, strict=True):
                outcome.seconds += seconds
                if failure is None:
                    embedder._take_over(run)
                else:
                    outcome.fail(failure)
            return []
    for _, _, outcome in stack:
        outcome.reason = reason
    return [(embedder, outcome) for embedder, _, outcome in stack]


class _SharedData:
    """Training data that are read once for all embedders that read them alike."""

    def __init__(self, X: Any, y: Any) -> None:
        self.given = FitInput(X, y)
        self._read: dict[Hashable, PreparedData] = {}

    def of(self, embedder: HSCLEmbedder) -> PreparedData:
        """Return the data as an embedder reads them."""
        key = embedder._reading_key(self.given.X)
        if key not in self._read:
            self._read[key] = embedder._read(self.given)
        return self._read[key]


def _prepared(embedder: HSCLEmbedder, data: _SharedData, seed: int) -> TrainingRun:
    embedder._validate_params()
    # A copy, as a fit of its own would begin with the same random numbers.
    own = copy.deepcopy(embedder.random_state)
    seeds = draw_seeds(seed if own is None else own)
    scales = embedder._given_scales()
    return embedder._prepare_run(data.of(embedder), seeds, scales)


def _fit_alone(embedder: HSCLEmbedder, outcome: Outcome, X: Any, y: Any) -> None:
    start = time.perf_counter()
    try:
        embedder.fit(X, y)
    except Exception as error:
        outcome.fail(error)
    outcome.seconds += time.perf_counter() - start
