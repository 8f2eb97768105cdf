"""Evaluates the candidates of a search on all folds.

:class:`Evaluator` keeps the state of one search. For each round of candidates it makes the
folds, lets :class:`_Tasks` cut the work into tasks for the workers, and adds the results to
the table of the search.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, gcd
from numbers import Integral
from typing import NamedTuple, TypeVar

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.callback import CallbackContext
from sklearn.model_selection import BaseCrossValidator, check_cv
from sklearn.utils import Bunch
from sklearn.utils.parallel import Parallel, delayed

from sklearn_hscl._sklearn_compat import (
    BaseSearchCV,
    _insert_error_scores,
    _warn_or_raise_about_fit_failures,
)
from sklearn_hscl.model_selection.fit_and_score import (
    FitResult,
    FittedPrefix,
    FoldResult,
    Scorer,
    SearchRound,
    StackPart,
    fit_and_score_fold,
    fit_and_score_single,
    fit_prefix,
)
from sklearn_hscl.model_selection.grouping import (
    CandidateStack,
    EmbedderJob,
    Fold,
    Grouping,
    Params,
    group_candidates,
    warn_about_missing_classes,
    warn_about_params,
    with_params,
)
from sklearn_hscl.model_selection.pipeline_split import NoEmbedderError, split_pipeline
from sklearn_hscl.runtime.device import runs_on_cpu
from sklearn_hscl.runtime.random_state import MAX_SEED
from sklearn_hscl.training.config import BATCH_SIZE

ResultsTable = dict[str, Sequence[object]]
"""Columns by name, as ``cv_results_``."""
# Contexts of scikit-learn's callbacks, by fold and candidate.
_Contexts = list[list[CallbackContext | None]]
# A function and its arguments, as joblib's `delayed` makes it.
_Task = tuple[Callable[..., list[FoldResult]], tuple[object, ...], dict[str, object]]


class Batched(NamedTuple):
    """The way in which a candidate was trained."""

    stacked: bool
    """True if it was trained in one stack with others, on all folds."""
    reason: str
    """The reason if it was not stacked; empty otherwise."""


class Evaluator:
    """State of one `fit` of a search.

    Parameters
    ----------
    search : BaseSearchCV
        The search, with the parameters of scikit-learn's.
    X, y : array-like
        All samples, and their targets.
    routed : Bunch
        Parameters of `fit` for the splitter, the scorer and the estimator.
    scorers : callable
        Scorer that scikit-learn made of the search's `scoring`.

    Attributes
    ----------
    results : list of dict
        Results of all fits so far: the folds of the first candidate, of the second, ...
    table : dict
        All results so far, as ``cv_results_``.
    batched : list of Batched
        How each candidate was trained.
    """

    def __init__(
        self,
        search: BaseSearchCV,
        X: ArrayLike,
        y: ArrayLike | None,
        routed: Bunch,
        scorers: Scorer,
    ) -> None:
        self.search = search
        self.X = X
        self.y = y
        self.routed = routed
        self.scorers = scorers
        self.estimator = clone(search.estimator)
        self.no_embedder = _reason_without_embedder(self.estimator)
        self.parallel: Parallel | None = None
        self.candidates: list[Params] = []
        self.results: list[FitResult] = []
        self.more_results: dict[str, list[object]] = defaultdict(list)
        self.table: ResultsTable = {}
        self.batched: list[Batched] = []

    def check_splitter(self) -> None:
        """Validate `cv`, and set the attributes of the search that describe it."""
        search, params = self.search, self.routed.splitter.split
        is_classified = is_classifier(search.estimator)
        search._checked_cv_orig = check_cv(search.cv, self.y, classifier=is_classified)
        search._check_input_parameters(X=self.X, y=self.y, split_params=params)
        splitter = search._checked_cv_orig
        search.n_splits_ = splitter.get_n_splits(self.X, self.y, **params)

    def evaluate(
        self,
        candidate_params: Iterable[Params],
        cv: BaseCrossValidator | None = None,
        more_results: dict[str, Sequence[object]] | None = None,
        callback_ctx: CallbackContext | None = None,
    ) -> ResultsTable:
        """Fit and score a round of candidates, as scikit-learn's searches call it.

        Parameters
        ----------
        candidate_params : iterable of dict
            Parameters of the candidates.
        cv : splitter or None
            None uses that of the search.
        more_results : dict of sequences or None
            Further columns of the table.
        callback_ctx : sklearn.callback.CallbackContext or None
            Callback context of the search.

        Returns
        -------
        dict
            The table of all results so far.
        """
        candidates = list(candidate_params)
        folds = self._folds(cv or self.search._checked_cv_orig)
        self._announce(len(candidates), len(folds))
        contexts = _open_contexts(callback_ctx, len(candidates), len(folds))
        fits = self._fit(candidates, folds, contexts)
        if not fits:
            raise ValueError(
                "No fits were performed. "
                "Was the CV iterator empty? "
                "Were there no candidates?"
            )
        self.batched += _how_batched(fits, len(candidates))
        results = [fit.result for fit in fits]
        _warn_or_raise_about_fit_failures(results, self.search.error_score)
        if self.no_embedder is None:
            trained = {fit.candidate for fit in fits if fit.result["fit_error"] is None}
            warn_about_params(self.estimator, [candidates[k] for k in sorted(trained)])
        if callable(self.search.scoring):
            _insert_error_scores(results, self.search.error_score)
        self.candidates += candidates
        self.results += results
        for name, values in (more_results or {}).items():
            self.more_results[name].extend(values)
        self.table = self.search._format_results(
            self.candidates, self.search.n_splits_, self.results, self.more_results
        )
        return self.table

    def _folds(self, splitter: BaseCrossValidator) -> list[Fold]:
        params = self.routed.splitter.split
        splits = list(splitter.split(self.X, self.y, **params))
        n_splits = self.search.n_splits_
        if len(splits) != n_splits:
            raise ValueError(
                f"cv.split and cv.get_n_splits return inconsistent results. Expected "
                f"{n_splits} splits, got {len(splits)}"
            )
        # Drawn from the operating system, as numpy's global generator must not change.
        seeds = np.random.default_rng().integers(MAX_SEED, size=len(splits)).tolist()
        folds = [
            Fold(index, np.asarray(train), np.asarray(test), seed)
            for index, ((train, test), seed) in enumerate(zip(splits, seeds, strict=True))
        ]
        if self.no_embedder is None:
            warn_about_missing_classes(self.estimator, self.y, folds)
        return folds

    def _announce(self, n_candidates: int, n_folds: int) -> None:
        if self.search.verbose > 0:
            print(
                f"Fitting {n_folds} folds for each of {n_candidates} candidates, "
                f"totalling {n_folds * n_candidates} fits"
            )

    def _fit(
        self, candidates: list[Params], folds: list[Fold], contexts: _Contexts
    ) -> list[FoldResult]:
        """Return all fits: the folds of the first candidate, of the second, ..."""
        assert self.parallel is not None
        tasks = _Tasks(self._round(candidates), folds, contexts)
        grouping = self._group(candidates)
        prefixes = tasks.fit_prefixes(grouping, self.parallel)
        n_jobs = effective_n_jobs(self.search.n_jobs)
        parts = self.parallel(tasks.build(grouping, prefixes, n_jobs))
        fits = [fit for part in parts for fit in part]
        return sorted(fits, key=lambda fit: (fit.candidate, fit.fold))

    def _group(self, candidates: list[Params]) -> Grouping:
        fit_params = sorted(self.routed.estimator.fit)
        if fit_params:
            reason = f"fit got parameters: {fit_params}"
            return Grouping.of_single(len(candidates), reason)
        if self.no_embedder is not None:
            return Grouping.of_single(len(candidates), self.no_embedder)
        return group_candidates(self.estimator, candidates)

    def _round(self, candidates: list[Params]) -> SearchRound:
        search = self.search
        return SearchRound(
            self.estimator,
            self.X,
            self.y,
            candidates,
            n_splits=search.n_splits_,
            options={
                "scorer": self.scorers,
                "fit_params": self.routed.estimator.fit,
                "score_params": self.routed.scorer.score,
                "return_train_score": search.return_train_score,
                "return_n_test_samples": True,
                "return_times": True,
                "error_score": search.error_score,
                "verbose": search.verbose,
                "caller": search,
            },
        )


def _reason_without_embedder(estimator: BaseEstimator) -> str | None:
    """Return why no candidate of a search can be stacked; None if there is an embedder."""
    try:
        split_pipeline(estimator)
    except NoEmbedderError as error:
        return str(error)
    return None


def _open_contexts(
    context: CallbackContext | None, n_candidates: int, n_folds: int
) -> _Contexts:
    """Open scikit-learn's callback contexts of all fits, fold by fold.

    They are made before the workers get them, in the order of scikit-learn's tasks.
    """
    if context is None:
        return [[None] * n_candidates for _ in range(n_folds)]
    opened = [
        context.subcontext("candidate-split-evaluation", task_id=task)
        for task in range(n_candidates * n_folds)
    ]
    return [opened[fold::n_folds] for fold in range(n_folds)]


def _how_batched(fits: list[FoldResult], n_candidates: int) -> list[Batched]:
    reasons: list[str] = [""] * n_candidates
    for fit in fits:
        reasons[fit.candidate] = reasons[fit.candidate] or fit.reason or ""
    return [Batched(not reason, reason) for reason in reasons]


# Tasks for the workers ---------------------------------------------------------------

# Pairs of samples that a stack compares in a step: up to here their temporaries stay in
# the caches of a CPU. A GPU holds more, and is the faster the more it has to do at a time.
_MAX_PAIRS_ON_CPU, _MAX_PAIRS_ON_GPU = 2**20, 2**28

_Item = TypeVar("_Item")
# Fitted steps before the embedder, fold by fold, by the stack's key for these steps.
_Prefixes = dict[Hashable, list[FittedPrefix]]


@dataclass(frozen=True)
class _Tasks:
    """The fits of a round of candidates on all folds, as tasks for the workers."""

    search: SearchRound
    folds: list[Fold]
    contexts: _Contexts

    def fit_prefixes(self, grouping: Grouping, parallel: Parallel) -> _Prefixes:
        """Fit the steps before embedders, once for all stacks that share them.

        Stacks for which a step fails are dissolved.
        """
        prefixes: _Prefixes = {}
        for stack in list(grouping.stacks):
            if stack.prefix_key not in prefixes:
                prefixes[stack.prefix_key] = parallel(
                    delayed(fit_prefix)(self.search, stack.first_candidate, fold)
                    for fold in self.folds
                )
            if any(prefix.failed for prefix in prefixes[stack.prefix_key]):
                grouping.dissolve(stack, "a step before the embedder failed")
        return prefixes

    def build(
        self, grouping: Grouping, prefixes: _Prefixes, n_jobs: int
    ) -> Iterator[_Task]:
        """Yield the tasks; each returns a list of FoldResult.

        A worker gets whole folds, whose samples are then prepared once. Folds that do not
        divide evenly among the workers are cut by candidates.
        """
        n_whole = len(self.folds) - len(self.folds) % n_jobs
        n_cut = len(self.folds) - n_whole
        n_parts = n_jobs // gcd(n_cut, n_jobs)
        for fold in self.folds:
            is_whole = fold.index < n_whole
            for stacks in [grouping.stacks] if is_whole else _cut(grouping, n_parts):
                parts = [
                    StackPart(jobs, prefixes[stack.prefix_key][fold.index])
                    for stack in stacks
                    for jobs in self._fitting_caches(stack)
                ]
                if parts:
                    contexts = self.contexts[fold.index]
                    yield delayed(fit_and_score_fold)(self.search, parts, fold, contexts)
        for index, reason in grouping.single.items():
            for fold in self.folds:
                context = self.contexts[fold.index][index]
                yield delayed(fit_and_score_single)(
                    self.search, index, fold, context, reason
                )

    def _fitting_caches(self, stack: CandidateStack) -> list[list[EmbedderJob]]:
        """Divide a stack into parts whose temporaries fit the caches."""
        params = self.search.candidates[stack.first_candidate]
        embedder = split_pipeline(with_params(self.search.estimator, params)).embedder
        max_pairs = _MAX_PAIRS_ON_CPU if runs_on_cpu(embedder.device) else _MAX_PAIRS_ON_GPU
        batch_size = BATCH_SIZE if embedder.batch_size is None else embedder.batch_size
        if not isinstance(batch_size, Integral) or batch_size < 1:
            batch_size = 1  # the fits will refuse the given value
        max_jobs = max(2, max_pairs // int(batch_size) ** 2)
        jobs = list(stack.jobs.values())
        return _split_evenly(jobs, ceil(len(jobs) / max_jobs))


def _cut(grouping: Grouping, n_parts: int) -> list[list[CandidateStack]]:
    """Divide stacks among the workers that share a fold, evenly by embedders."""
    parts: list[list[CandidateStack]] = [[] for _ in range(n_parts)]
    sizes = [0] * n_parts
    for stack in sorted(grouping.stacks, key=lambda stack: -len(stack.jobs)):
        keys = list(stack.jobs)
        n_pieces = max(1, min(n_parts, len(keys) // 2))  # one embedder is no stack
        for piece in _split_evenly(keys, n_pieces):
            smallest = sizes.index(min(sizes))
            jobs = {key: stack.jobs[key] for key in piece}
            parts[smallest].append(CandidateStack(stack.prefix_key, jobs))
            sizes[smallest] += len(piece)
    return parts


def _split_evenly(items: list[_Item], n_parts: int) -> list[list[_Item]]:
    bounds = [len(items) * i // n_parts for i in range(n_parts + 1)]
    return [items[start:stop] for start, stop in pairwise(bounds)]
