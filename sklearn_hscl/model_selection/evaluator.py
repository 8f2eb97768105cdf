"""One search: its folds, its fits, its table of results."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from joblib import effective_n_jobs
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.model_selection import check_cv
from sklearn.utils.parallel import Parallel, delayed

from sklearn_hscl._sklearn_compat import (
    _insert_error_scores,
    _warn_or_raise_about_fit_failures,
)
from sklearn_hscl.embedder import HSCLEmbedder
from sklearn_hscl.model_selection.fit_and_score import (
    FittedPrefix,
    FoldResult,
    fit_and_score,
    fit_and_score_alone,
    fit_before,
)
from sklearn_hscl.model_selection.grouping import (
    EmbedderJob,
    Fold,
    Params,
    Plan,
    Stack,
    embedder_of,
    make_plan,
    warn_about_missing_classes,
    with_params,
)
from sklearn_hscl.runtime.random_state import MAX_SEED
from sklearn_hscl.training.config import BATCH_SIZE

# Pairs of rows that a stack compares in a step: up to here their temporaries stay in the
# caches of a CPU. A GPU holds more, and has the more to do at a time the better.
_PAIRS_ON_CPU, _PAIRS_ON_GPU = 2**20, 2**28


@dataclass(frozen=True)
class Work:
    """Some candidates, each to be fitted and scored on all folds."""

    estimator: BaseEstimator
    X: Any
    y: Any
    candidates: list[Params]
    folds: list[Fold]
    contexts: list[list[Any]]
    """Callback contexts of the fits, fold by fold."""
    settings: dict[str, Any]
    """Number of splits, and how to score."""

    def prepare(self, plan: Plan, parallel: Parallel) -> None:
        """Fit the steps before embedders, once for all stacks that share them."""
        prepared: dict[Hashable, list[FittedPrefix]] = {}
        for stack in list(plan.stacks):
            if stack.preparation not in prepared:
                params = self.candidates[stack.first]
                prepared[stack.preparation] = parallel(
                    delayed(fit_before)(self.estimator, params, self.X, self.y, fold)
                    for fold in self.folds
                )
            stack.before = prepared[stack.preparation]
            if any(before.failed for before in stack.before):
                plan.give_up(stack, "a step before the embedder failed")

    def tasks(self, plan: Plan, n_jobs: int) -> list[Any]:
        """Return the tasks for the workers; each gives a list of Fit."""
        return [*self._stacked_tasks(plan, n_jobs), *self._single_tasks(plan)]

    def _stacked_tasks(self, plan: Plan, n_jobs: int) -> Iterator[Any]:
        for stack in plan.stacks:
            params = self.candidates[stack.first]
            embedder = embedder_of(with_params(self.estimator, params))
            for part in _parts(stack, embedder, len(self.folds), n_jobs):
                for fold in self.folds:
                    yield delayed(fit_and_score)(
                        self.estimator,
                        self.candidates,
                        part,
                        stack.before[fold.index],
                        self.X,
                        self.y,
                        fold,
                        self.contexts[fold.index],
                        self.settings,
                    )

    def _single_tasks(self, plan: Plan) -> Iterator[Any]:
        for index, reason in plan.alone.items():
            for fold in self.folds:
                yield delayed(_alone)(
                    reason,
                    clone(self.estimator),
                    self.candidates,
                    index,
                    self.X,
                    self.y,
                    fold,
                    self.contexts[fold.index][index],
                    self.settings,
                )


def _alone(
    reason: str, candidate: Any, candidates: Any, index: int, *rest: Any
) -> list[FoldResult]:
    result = fit_and_score_alone(candidate, candidates, index, *rest)
    fold = rest[2]
    return [FoldResult(index, fold.index, result, reason)]


def _parts(
    stack: Stack, embedder: HSCLEmbedder, n_folds: int, n_jobs: int
) -> list[list[EmbedderJob]]:
    """Cut a stack into parts that fit the caches, and that the workers can share."""
    embeddings = list(stack.embeddings.values())
    on_gpu = str(embedder.device).startswith("cuda")
    pairs = _PAIRS_ON_GPU if on_gpu else _PAIRS_ON_CPU
    n_rows = BATCH_SIZE if embedder.batch_size is None else embedder.batch_size
    if not isinstance(n_rows, Integral) or n_rows < 1:
        n_rows = 1  # the fits will refuse what was given
    most = max(2, pairs // int(n_rows) ** 2)
    fewest = ceil(len(embeddings) / most)
    limit = max(fewest, len(embeddings) // 2)
    shared = [n for n in range(fewest, limit + 1) if n * n_folds % n_jobs == 0]
    n_parts = shared[0] if shared else fewest
    return [list(part) for part in np.array_split(np.array(embeddings), n_parts)]


class Batched(NamedTuple):
    """How a candidate was trained."""

    together: bool
    """Whether in one stack with others, on all folds."""
    reason: str
    """Why not; empty if it was."""


class Evaluator:
    """What `fit` of a search works on.

    Parameters
    ----------
    search : estimator
        The search, with the parameters of scikit-learn's.
    X, y : array-like
        All rows.
    routed : Bunch
        Parameters of `fit`, by who gets them.
    scorers : callable
        As scikit-learn made it of the search's `scoring`.

    Attributes
    ----------
    results : list of dict
        Of all fits so far: the folds of the first candidate, of the second, ...
    table : dict
        All results so far, as ``cv_results_``.
    batched : list of Batched
        How each candidate was trained.
    """

    def __init__(self, search: Any, X: Any, y: Any, routed: Any, scorers: Any) -> None:
        self.search = search
        self.X = X
        self.y = y
        self.routed = routed
        self.scorers = scorers
        self.estimator = clone(search.estimator)
        self.parallel: Parallel | None = None
        self.candidates: list[Params] = []
        self.results: list[dict[str, Any]] = []
        self.more: dict[str, list[Any]] = defaultdict(list)
        self.table: dict[str, Any] = {}
        self.batched: list[Batched] = []

    def split(self) -> None:
        """Settle the splitter."""
        search, params = self.search, self.routed.splitter.split
        is_classified = is_classifier(search.estimator)
        search._checked_cv_orig = check_cv(search.cv, self.y, classifier=is_classified)
        search._check_input_parameters(X=self.X, y=self.y, split_params=params)
        splitter = search._checked_cv_orig
        search.n_splits_ = splitter.get_n_splits(self.X, self.y, **params)

    def evaluate(
        self,
        candidate_params: Iterable[Params],
        cv: Any = None,
        more_results: dict[str, Sequence[Any]] | None = None,
        callback_ctx: Any = None,
    ) -> dict[str, Any]:
        """Fit and score some candidates, as scikit-learn's searches call it.

        Parameters
        ----------
        candidate_params : iterable of dict
            Their parameters.
        cv : splitter or None
            None for that of the search.
        more_results : dict of sequences or None
            Further columns of the table.
        callback_ctx : sklearn.callback.CallbackContext or None
            Of the search.

        Returns
        -------
        dict
            The table of all results so far.
        """
        candidates = list(candidate_params)
        folds = self._folds(cv or self.search._checked_cv_orig)
        self._announce(len(candidates), len(folds))
        contexts = _contexts(callback_ctx, len(candidates), len(folds))
        fits = self._fit(candidates, folds, contexts)
        if not fits:
            raise ValueError(
                "No fits were performed: the grid holds no candidates, or cv no folds."
            )
        self.batched += _how_batched(fits, len(candidates))
        results = [fit.result for fit in fits]
        _warn_or_raise_about_fit_failures(results, self.search.error_score)
        if callable(self.search.scoring):
            _insert_error_scores(results, self.search.error_score)
        self.candidates += candidates
        self.results += results
        for name, values in (more_results or {}).items():
            self.more[name].extend(values)
        self.table = self.search._format_results(
            self.candidates, self.search.n_splits_, self.results, self.more
        )
        return self.table

    def _folds(self, splitter: Any) -> list[Fold]:
        params = self.routed.splitter.split
        splits = list(splitter.split(self.X, self.y, **params))
        if len(splits) != self.search.n_splits_:
            raise ValueError(
                f"cv announced {self.search.n_splits_} splits, but made {len(splits)}."
            )
        # From the operating system, as numpy's global generator has to stay as it is.
        seeds = np.random.default_rng().integers(MAX_SEED, size=len(splits)).tolist()
        folds = [
            Fold(index, np.asarray(train), np.asarray(test), seed)
            for index, ((train, test), seed) in enumerate(zip(splits, seeds, strict=True))
        ]
        warn_about_missing_classes(self.estimator, self.y, folds)
        return folds

    def _announce(self, n_candidates: int, n_folds: int) -> None:
        if self.search.verbose > 0:
            print(
                f"Fitting {n_folds} folds for each of {n_candidates} candidates, "
                f"totalling {n_folds * n_candidates} fits"
            )

    def _fit(
        self, candidates: list[Params], folds: list[Fold], contexts: list[list[Any]]
    ) -> list[FoldResult]:
        """Return all fits: the folds of the first candidate, of the second, ..."""
        assert self.parallel is not None
        work = Work(
            estimator=self.estimator,
            X=self.X,
            y=self.y,
            candidates=candidates,
            folds=folds,
            contexts=contexts,
            settings=self._settings(),
        )
        plan = self._plan(candidates)
        work.prepare(plan, self.parallel)
        tasks = work.tasks(plan, effective_n_jobs(self.search.n_jobs))
        fits = [fit for part in self.parallel(tasks) for fit in part]
        return sorted(fits, key=lambda fit: (fit.candidate, fit.fold))

    def _plan(self, candidates: list[Params]) -> Plan:
        fit_params = sorted(self.routed.estimator.fit)
        if fit_params:
            reason = f"fit got parameters: {fit_params}"
            return Plan([], dict.fromkeys(range(len(candidates)), reason))
        return make_plan(self.estimator, candidates)

    def _settings(self) -> dict[str, Any]:
        search = self.search
        return {
            "n_splits": search.n_splits_,
            "score": {
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
        }


def _contexts(context: Any, n_candidates: int, n_folds: int) -> list[list[Any]]:
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
