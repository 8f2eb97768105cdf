"""What the workers of a search are given: steps before embedders, stacks, single fits."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from math import ceil
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils.parallel import Parallel, delayed

from sklearn_hscl.embedder import HSCLEmbedder
from sklearn_hscl.model_selection.evaluation import (
    Before,
    Fit,
    fit_and_score,
    fit_and_score_alone,
    fit_before,
)
from sklearn_hscl.model_selection.folds import Fold
from sklearn_hscl.model_selection.plan import (
    Embedding,
    Params,
    Plan,
    Stack,
    embedder_of,
    with_params,
)
from sklearn_hscl.training.recipe import BATCH_SIZE

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
        prepared: dict[Hashable, list[Before]] = {}
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
) -> list[Fit]:
    result = fit_and_score_alone(candidate, candidates, index, *rest)
    fold = rest[2]
    return [Fit(index, fold.index, result, reason)]


def _parts(
    stack: Stack, embedder: HSCLEmbedder, n_folds: int, n_jobs: int
) -> list[list[Embedding]]:
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
