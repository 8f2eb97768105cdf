"""Fits embedders that differ in stackable parameters on the same samples, at once.

:func:`fit_batched` is the one entry: it takes embedders and the
:class:`TrainingSamples` of a fold.
"""

import copy
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, ParamSpec, TypeVar

from numpy.typing import ArrayLike

from sklearn_hscl.data.validation import FitInput
from sklearn_hscl.embedder import HSCLEmbedder
from sklearn_hscl.runtime.random_state import draw_seeds
from sklearn_hscl.training.loop.callback import TrainingCallback
from sklearn_hscl.training.prepared_data import PreparedData
from sklearn_hscl.training.run import TrainingRun
from sklearn_hscl.training.stacked.compatibility import reason_not_stackable, stack_key
from sklearn_hscl.training.stacked.train import train_stacked

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


@dataclass
class FitOutcome:
    """The outcome of the fit of one embedder."""

    error: Exception | None = None
    """The error of the fit; None if the embedder is fitted."""
    traceback: TracebackType | None = None
    """Traceback of the error."""
    reason: str | None = None
    """The reason if it was fitted by itself; None if it was fitted in a stack."""
    seconds: float = 0.0
    """Duration of its fit; for a stack, an equal fraction of its duration."""

    def fail(self, error: Exception) -> None:
        """Record an error."""
        self.error, self.traceback = error, error.__traceback__

    def raise_error(self) -> None:
        """Re-raise the same error, if any; scikit-learn counts errors by message."""
        if self.error is not None:
            raise self.error.with_traceback(self.traceback)


class TrainingSamples:
    """Training samples of a fold, validated and prepared once for all embedders.

    Parameters
    ----------
    X, y : array-like
        Samples and targets, as for :meth:`HSCLEmbedder.fit`.
    seed : int
        Seed of embedders with ``random_state=None``.
    """

    def __init__(self, X: ArrayLike, y: ArrayLike | None, seed: int) -> None:
        self.given = FitInput(X, y)
        self.seed = seed
        self._read: dict[Hashable, PreparedData] = {}

    def prepare(self, embedder: HSCLEmbedder) -> TrainingRun:
        """Build what the training of an embedder needs."""
        embedder._validate_params()
        key = embedder._reading_key(self.given.X)
        if key not in self._read:
            self._read[key] = embedder._read(self.given)
        # A copy: each embedder starts from the state that a fit by itself would start from.
        random_state = copy.deepcopy(embedder.random_state)
        seeds = draw_seeds(self.seed if random_state is None else random_state)
        return embedder._prepare_run(self._read[key], seeds, embedder._given_scales())


class _Member(NamedTuple):
    """An embedder and what its training needs."""

    embedder: HSCLEmbedder
    run: TrainingRun
    outcome: FitOutcome


def fit_batched(
    embedders: Sequence[HSCLEmbedder], samples: TrainingSamples
) -> list[FitOutcome]:
    """Fit embedders on the same samples, in stacks as far as that is possible.

    Parameters
    ----------
    embedders : sequence of HSCLEmbedder
        Unfitted; they are fitted in place. Those that differ in
        :data:`~sklearn_hscl.model_selection.grouping.STACKABLE_PARAMS` only are stacked.
    samples : TrainingSamples
        What they are trained on.

    Returns
    -------
    list of FitOutcome
        One for each embedder, in order. Errors of single embedders are recorded there.
    """
    outcomes = [FitOutcome() for _ in embedders]
    stacks: dict[Hashable, list[_Member]] = {}
    for embedder, outcome in zip(embedders, outcomes, strict=True):
        if embedder.checkpoint_dir is not None:
            outcome.reason = "checkpoint_dir stores the state of one model"
            _timed(outcome, _fit_by_itself, embedder, samples)
            continue
        run = _timed(outcome, samples.prepare, embedder)
        if run is not None:
            member = _Member(embedder, run, outcome)
            outcome.reason = reason_not_stackable(run)
            key = id(run) if outcome.reason else stack_key(run)
            stacks.setdefault(key, []).append(member)
    for stack in stacks.values():
        _fit_stack(stack, samples)
    return outcomes


def _fit_stack(stack: list[_Member], samples: TrainingSamples) -> None:
    """Train the embedders of a stack; one by one if they cannot be stacked."""
    if len(stack) == 1:
        [member] = stack
        member.outcome.reason = (
            member.outcome.reason or "no other candidate can be stacked with it"
        )
        _timed(member.outcome, _train, member.embedder, member.run)
        return
    start = time.perf_counter()
    try:
        errors = train_stacked([member.run for member in stack])
    except Exception as error:  # such as of a module that torch.func cannot map
        reason = f"stacked training failed: {type(error).__name__}: {error}"
        for embedder, _, outcome in stack:
            outcome.reason = reason
            _timed(outcome, _train_again, embedder, samples)
        return
    seconds = (time.perf_counter() - start) / len(stack)
    for member, failure in zip(stack, errors, strict=True):
        member.outcome.seconds += seconds
        if failure is None:
            member.embedder._take_over(member.run)
        else:
            member.outcome.fail(failure)


def _train(embedder: HSCLEmbedder, run: TrainingRun) -> None:
    run.train_with(TrainingCallback())
    embedder._take_over(run)


def _train_again(embedder: HSCLEmbedder, samples: TrainingSamples) -> None:
    _train(embedder, samples.prepare(embedder))


def _fit_by_itself(embedder: HSCLEmbedder, samples: TrainingSamples) -> None:
    embedder.fit(samples.given.X, samples.given.y)


def _timed(
    outcome: FitOutcome,
    function: Callable[_Args, _Result],
    *args: _Args.args,
    **kwargs: _Args.kwargs,
) -> _Result | None:
    """Return the result of a function; record its duration, and its error if it fails."""
    start = time.perf_counter()
    try:
        return function(*args, **kwargs)
    except Exception as error:
        outcome.fail(error)
        return None
    finally:
        outcome.seconds += time.perf_counter() - start
