"""Fits and scores the candidates of a search on one fold, in stacks where possible.

The steps before the embedder are fitted once, the embedders are trained in stacks, and
scikit-learn's fit-and-score completes and scores each candidate.
"""

import copy
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, ParamSpec, Protocol, Self, TypedDict, TypeVar, cast

from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone
from sklearn.callback import CallbackContext, CallbackSupportMixin
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags

from sklearn_hscl._sklearn_compat import (
    BaseSearchCV,
    _fit_and_score,
    _MultimetricScorer,
    _safe_split,
)
from sklearn_hscl.data.validation import FitInput
from sklearn_hscl.embedder import HSCLEmbedder
from sklearn_hscl.model_selection.grouping import EmbedderJob, Fold, Params, with_params
from sklearn_hscl.model_selection.pipeline_split import Step, split_pipeline
from sklearn_hscl.runtime.global_setting import default_settings
from sklearn_hscl.runtime.random_state import draw_seeds
from sklearn_hscl.training.build_run import FitStart
from sklearn_hscl.training.fitting import (
    given_scales,
    prepare_run,
    read_data,
    reading_key,
    take_over,
)
from sklearn_hscl.training.loop.callback import TrainingCallback
from sklearn_hscl.training.param_constraints import announced
from sklearn_hscl.training.prepared_data import PreparedData
from sklearn_hscl.training.run import TrainingRun
from sklearn_hscl.training.stacked.train import (
    reason_not_stackable,
    stack_key,
    train_stacked,
)

Score = float | dict[str, float]


class Scorer(Protocol):
    """Scores a fitted estimator on samples, as scikit-learn's scorers do."""

    def __call__(
        self, estimator: BaseEstimator, *data: ArrayLike, **params: object
    ) -> Score:
        """Return the score, or several by name."""


class ScoringOptions(TypedDict):
    """Arguments of scikit-learn's fit-and-score that a search sets once."""

    scorer: Scorer
    fit_params: Mapping[str, object]
    score_params: Mapping[str, object]
    return_train_score: bool
    return_n_test_samples: bool
    return_times: bool
    error_score: float | str
    verbose: int
    caller: BaseSearchCV


class FitResult(TypedDict, total=False):
    """Scores and times of one candidate on one fold, from scikit-learn's fit-and-score."""

    test_scores: Score
    train_scores: Score
    n_test_samples: int
    fit_time: float
    score_time: float
    fit_error: str | None


@dataclass(frozen=True)
class SearchRound:
    """Data and options that all fits of a round of candidates have in common."""

    estimator: BaseEstimator
    """The estimator that is searched, without the parameters of a candidate."""
    X: ArrayLike
    y: ArrayLike | None
    candidates: list[Params]
    n_splits: int
    options: ScoringOptions


@dataclass
class FittedPrefix:
    """Steps before the embedder, fitted on the training samples of a fold."""

    steps: list[Step]
    rows: ArrayLike | None
    """The transformed samples; None if there is no step, or one failed."""
    failed: bool
    seconds: float

    def transformed(self, X: ArrayLike) -> ArrayLike:
        """Return the transformed training samples; X itself if there is no step."""
        return cast("ArrayLike", self.rows) if self.steps else X


@dataclass
class FoldResult:
    """The result of one candidate on one fold."""

    candidate: int
    fold: int
    result: FitResult
    reason: str | None
    """The reason if it was fitted by itself; None if it was fitted in a stack."""


class StackPart(NamedTuple):
    """Embedders that are trained together on a fold, and the steps before them."""

    jobs: list[EmbedderJob]
    prefix: FittedPrefix


def fit_prefix(search: SearchRound, index: int, fold: Fold) -> FittedPrefix:
    """Fit the steps before the embedder, once for all candidates that share them.

    Parameters
    ----------
    search : SearchRound
        The candidates and the data.
    index : int
        Index of one of these candidates.
    fold : Fold
        The training samples.

    Returns
    -------
    FittedPrefix
    """
    candidate = with_params(search.estimator, search.candidates[index])
    steps = split_pipeline(candidate).before
    if not steps:
        return FittedPrefix([], None, False, 0.0)
    X_train, y_train = _safe_split(candidate, search.X, search.y, fold.train)
    start = time.perf_counter()
    pipeline = Pipeline(steps)
    rows, failed = None, False
    try:
        rows = pipeline.fit_transform(X_train, y_train)
    except Exception:  # each candidate raises it anew, where scikit-learn handles it
        failed = True
    return FittedPrefix(pipeline.steps, rows, failed, time.perf_counter() - start)


def fit_and_score_fold(
    search: SearchRound,
    parts: Sequence[StackPart],
    fold: Fold,
    contexts: Sequence[CallbackContext | None],
) -> list[FoldResult]:
    """Train embedders on a fold; complete and score each candidate that uses them.

    Samples are validated and prepared once for all parts with the same steps before.

    Parameters
    ----------
    search : SearchRound
        The candidates and the data.
    parts : sequence of StackPart
        The embedders to train.
    fold : Fold
        Training and test samples.
    contexts : sequence of sklearn.callback.CallbackContext or None
        Callback contexts of all candidates on this fold.

    Returns
    -------
    list of FoldResult
    """
    X_train, y_train = _safe_split(search.estimator, search.X, search.y, fold.train)
    samples: dict[int, TrainingSamples] = {}
    results: list[FoldResult] = []
    for part in parts:
        if id(part.prefix) not in samples:
            rows = part.prefix.transformed(X_train)
            samples[id(part.prefix)] = TrainingSamples(rows, y_train, fold.seed)
        embedders = [_embedder_of(search, job) for job in part.jobs]
        outcomes = fit_batched(embedders, samples[id(part.prefix)])
        for job, embedder, outcome in zip(part.jobs, embedders, outcomes, strict=True):
            for index in job.candidates:
                candidate = _PrefittedCandidate(
                    clone(search.estimator), embedder, part.prefix, outcome
                )
                result = _score(search, candidate, index, fold, contexts[index])
                seconds = part.prefix.seconds + outcome.seconds / len(job.candidates)
                result["fit_time"] += seconds
                results.append(FoldResult(index, fold.index, result, outcome.reason))
    return results


def _embedder_of(search: SearchRound, job: EmbedderJob) -> HSCLEmbedder:
    params = search.candidates[job.candidates[0]]
    return split_pipeline(with_params(search.estimator, params)).embedder


def fit_and_score_single(
    search: SearchRound,
    index: int,
    fold: Fold,
    context: CallbackContext | None,
    reason: str,
) -> list[FoldResult]:
    """Fit and score one candidate as scikit-learn does.

    Parameters
    ----------
    search : SearchRound
        The candidates and the data.
    index : int
        Index of the candidate.
    fold : Fold
        Training and test samples.
    context : sklearn.callback.CallbackContext or None
        Callback context of this fit.
    reason : str
        Why the candidate is not fitted in a stack.

    Returns
    -------
    list of one FoldResult
    """
    with announced():
        result = _score(search, clone(search.estimator), index, fold, context)
    return [FoldResult(index, fold.index, result, reason)]


def _score(
    search: SearchRound,
    candidate: "BaseEstimator | _PrefittedCandidate",
    index: int,
    fold: Fold,
    context: CallbackContext | None,
) -> FitResult:
    options = search.options
    if isinstance(candidate, _PrefittedCandidate):
        options = options | {"scorer": _on_candidate(options["scorer"])}
    return _fit_and_score(
        candidate,
        search.X,
        search.y,
        train=fold.train,
        test=fold.test,
        parameters=search.candidates[index],
        split_progress=(fold.index, search.n_splits),
        candidate_progress=(index, len(search.candidates)),
        callback_ctx=context,
        **options,
    )


# Training in stacks ------------------------------------------------------------------


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
        key = reading_key(embedder, self.given)
        if key not in self._read:
            self._read[key] = read_data(embedder, self.given)
        # A copy: each embedder starts from the state that a fit by itself would start from.
        random_state = copy.deepcopy(embedder.random_state)
        seeds = draw_seeds(self.seed if random_state is None else random_state)
        start = FitStart(seeds)
        return prepare_run(embedder, self._read[key], start, given_scales(embedder))


class _Member(NamedTuple):
    """An embedder and what its training needs."""

    embedder: HSCLEmbedder
    run: TrainingRun
    outcome: FitOutcome


@default_settings()
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
            take_over(member.embedder, member.run)
        else:
            member.outcome.fail(failure)


def _train(embedder: HSCLEmbedder, run: TrainingRun) -> None:
    run.train_with(TrainingCallback())
    take_over(embedder, run)


def _train_again(embedder: HSCLEmbedder, samples: TrainingSamples) -> None:
    _train(embedder, samples.prepare(embedder))


def _fit_by_itself(embedder: HSCLEmbedder, samples: TrainingSamples) -> None:
    with announced():
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


# Candidates of a stack ---------------------------------------------------------------


class _PrefittedCandidate(CallbackSupportMixin):
    """Wraps a candidate whose embedder has been trained in a stack.

    scikit-learn's fit-and-score sets the parameters of an estimator, fits it, measures the
    time, handles errors by `error_score`, notifies callbacks and scores. Candidates of a
    stack need all of that, but their embedder is trained with others before. Therefore
    fit-and-score gets this object in place of the candidate: its `fit` only puts the
    fitted steps in place and fits those that follow, or raises the error of the training.
    Scorers get the completed candidate itself, see :func:`_on_candidate`.

    Parameters
    ----------
    candidate : HSCLEmbedder or Pipeline
        Unfitted.
    embedder : HSCLEmbedder
        Its embedder, fitted unless `outcome` has an error.
    prefix : FittedPrefix
        Its steps before the embedder.
    outcome : FitOutcome
        The outcome of the training.
    """

    def __init__(
        self,
        candidate: BaseEstimator,
        embedder: HSCLEmbedder,
        prefix: FittedPrefix,
        outcome: FitOutcome,
    ) -> None:
        self.candidate = candidate
        self.embedder = embedder
        self.prefix = prefix
        self.outcome = outcome

    def set_params(self, **params: object) -> Self:
        """Set the parameters of the candidate."""
        self.candidate.set_params(**params)
        return self

    def __sklearn_tags__(self) -> Tags:
        return self.candidate.__sklearn_tags__()

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Complete the candidate on the training samples of the fold."""
        self.outcome.raise_error()
        if isinstance(self.candidate, Pipeline):
            self._complete_pipeline(self.candidate, X, y)
        else:
            params = self.candidate.get_params(deep=False)
            fitted = vars(self.embedder).items()
            vars(self.candidate).update({k: v for k, v in fitted if k not in params})
        return self

    def _complete_pipeline(
        self, pipeline: Pipeline, X: ArrayLike, y: ArrayLike | None
    ) -> None:
        split, prefix = split_pipeline(pipeline), self.prefix
        after = split.after
        if after:
            rest = Pipeline(after, memory=pipeline.memory)
            rest.fit(self.embedder.transform(prefix.transformed(X)), y)
            after = rest.steps
        pipeline.steps = [*prefix.steps, (split.name, self.embedder), *after]


def _on_candidate(scorer: Scorer) -> Scorer:
    """Return a scorer of prefitted candidates that scores the candidates in them."""
    if isinstance(scorer, _MultimetricScorer):
        return _MultimetricCandidateScorer(
            scorers=scorer._scorers, raise_exc=scorer._raise_exc
        )
    return _CandidateScorer(scorer)


class _CandidateScorer:
    def __init__(self, scorer: Callable[..., Score]) -> None:
        self.scorer = scorer

    def __call__(
        self, estimator: _PrefittedCandidate, *data: ArrayLike, **params: object
    ) -> Score:
        return self.scorer(estimator.candidate, *data, **params)

    def __repr__(self) -> str:
        return repr(self.scorer)  # scikit-learn's messages name the scorer


class _MultimetricCandidateScorer(_MultimetricScorer):
    # A subclass, as fit-and-score tests for the class to handle failed scores by name.
    def __call__(
        self, estimator: _PrefittedCandidate, *data: ArrayLike, **params: object
    ) -> Score:
        return super().__call__(estimator.candidate, *data, **params)
