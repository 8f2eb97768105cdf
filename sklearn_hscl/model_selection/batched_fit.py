"""Fits embedders that differ in stackable parameters on the same samples, at once.

:func:`fit_batched` is the one entry: it takes embedders and the training samples of a fold.
"""

import copy
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

from numpy.typing import ArrayLike

from sklearn_hscl.data.validation import FitInput
from sklearn_hscl.embedder import HSCLEmbedder
from sklearn_hscl.runtime.random_state import draw_seeds
from sklearn_hscl.training.prepared_data import PreparedData
from sklearn_hscl.training.run import TrainingRun
from sklearn_hscl.training.stacked.compatibility import reason_not_stackable, stack_key
from sklearn_hscl.training.stacked.train import train_stacked


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


class _Member(NamedTuple):
    """An embedder of a stack, ready to be trained."""

    embedder: HSCLEmbedder
    run: TrainingRun
    outcome: FitOutcome


def fit_batched(
    embedders: Sequence[HSCLEmbedder], X: ArrayLike, y: ArrayLike | None, seed: int
) -> list[FitOutcome]:
    """Fit embedders on the same samples, in stacks as far as that is possible.

    Parameters
    ----------
    embedders : sequence of HSCLEmbedder
        Unfitted. They are fitted in place and may differ in
        :data:`~sklearn_hscl.model_selection.grouping.STACKABLE_PARAMS` only.
    X, y : array-like
        Training samples and targets, as for :meth:`HSCLEmbedder.fit`.
    seed : int
        Seed of embedders with ``random_state=None``.

    Returns
    -------
    list of FitOutcome
        One for each embedder, in order. Errors of single embedders are recorded there.
    """
    outcomes = [FitOutcome() for _ in embedders]
    data = _SharedData(X, y)
    stacks: dict[Hashable, list[_Member]] = {}
    single = []
    for embedder, outcome in zip(embedders, outcomes, strict=True):
        start = time.perf_counter()
        try:
            run = _prepare(embedder, data, seed)
        except Exception as error:
            outcome.fail(error)
            continue
        finally:
            outcome.seconds = time.perf_counter() - start
        outcome.reason = reason_not_stackable(run)
        if embedder.checkpoint_dir is not None:
            outcome.reason = "checkpoint_dir stores the state of one model"
        if outcome.reason is None:
            stacks.setdefault(stack_key(run), []).append(_Member(embedder, run, outcome))
        else:
            single.append((embedder, outcome))
    for stack in stacks.values():
        reason = _fit_stack(stack)
        if reason is not None:
            for member in stack:
                member.outcome.reason = reason
                single.append((member.embedder, member.outcome))
    for embedder, outcome in single:
        _fit_single(embedder, outcome, X, y)
    return outcomes


class _SharedData:
    """Training data that are validated once for all embedders that read them alike."""

    def __init__(self, X: ArrayLike, y: ArrayLike | None) -> None:
        self.given = FitInput(X, y)
        self._read: dict[Hashable, PreparedData] = {}

    def of(self, embedder: HSCLEmbedder) -> PreparedData:
        """Return the data as an embedder reads them."""
        key = embedder._reading_key(self.given.X)
        if key not in self._read:
            self._read[key] = embedder._read(self.given)
        return self._read[key]


def _prepare(embedder: HSCLEmbedder, data: _SharedData, seed: int) -> TrainingRun:
    embedder._validate_params()
    # A copy: each embedder starts from the state that a fit by itself would start from.
    random_state = copy.deepcopy(embedder.random_state)
    seeds = draw_seeds(seed if random_state is None else random_state)
    scales = embedder._given_scales()
    return embedder._prepare_run(data.of(embedder), seeds, scales)


def _fit_stack(stack: list[_Member]) -> str | None:
    """Train the embedders of a stack; return why they must be fitted one by one."""
    if len(stack) == 1:
        return "no other candidate can be stacked with it"
    start = time.perf_counter()
    try:
        errors = train_stacked([member.run for member in stack])
    except Exception as error:  # such as of a module that torch.func cannot map
        return f"stacked training failed: {type(error).__name__}: {error}"
    seconds = (time.perf_counter() - start) / len(stack)
    for member, failure in zip(stack, errors, strict=True):
        member.outcome.seconds += seconds
        if failure is None:
            member.embedder._take_over(member.run)
        else:
            member.outcome.fail(failure)
    return None


def _fit_single(
    embedder: HSCLEmbedder, outcome: FitOutcome, X: ArrayLike, y: ArrayLike | None
) -> None:
    start = time.perf_counter()
    try:
        embedder.fit(X, y)
    except Exception as error:
        outcome.fail(error)
    outcome.seconds += time.perf_counter() - start
