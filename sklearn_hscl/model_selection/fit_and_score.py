"""Fitting and scoring the candidates of one stack on one fold."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline

from sklearn_hscl._sklearn_compat import _fit_and_score, _safe_split
from sklearn_hscl.embedder import HSCLEmbedder
from sklearn_hscl.model_selection.batched_fit import Outcome, fit_together
from sklearn_hscl.model_selection.grouping import (
    EmbedderJob,
    Fold,
    Params,
    embedder_of,
    place_of,
    steps_of,
    with_params,
)


@dataclass
class FittedPrefix:
    """What the steps before the embedder made of the training rows of a fold."""

    steps: list[tuple[str, Any]]
    """Fitted."""
    rows: Any
    """None where there is no such step, and where one failed."""
    failed: bool
    seconds: float


@dataclass
class FoldResult:
    """One candidate on one fold."""

    candidate: int
    fold: int
    result: dict[str, Any]
    """Scores and times, as scikit-learn keeps them."""
    reason: str | None
    """Why it was fitted alone; None: it was fitted together with others."""


def fit_before(
    estimator: BaseEstimator, params: Params, X: Any, y: Any, fold: Fold
) -> FittedPrefix:
    """Fit the steps before the embedder, once for all who share them.

    Parameters
    ----------
    estimator : estimator
        An embedder, or a pipeline.
    params : dict
        Parameters of one of the candidates.
    X, y : array-like
        All rows.
    fold : Fold
        Which of them to take.

    Returns
    -------
    Before
    """
    candidate = with_params(estimator, params)
    steps = steps_of(candidate)[: place_of(candidate)]
    if not steps:
        return FittedPrefix([], None, False, 0.0)
    X_train, y_train = _safe_split(candidate, X, y, fold.train)
    start = time.perf_counter()
    pipeline = Pipeline(steps)
    rows, failed = None, False
    try:
        rows = pipeline.fit_transform(X_train, y_train)
    except Exception:  # each candidate raises it anew, where scikit-learn looks for it
        failed = True
    return FittedPrefix(pipeline.steps, rows, failed, time.perf_counter() - start)


def fit_and_score(
    estimator: BaseEstimator,
    candidates: Sequence[Params],
    embeddings: Sequence[EmbedderJob],
    before: FittedPrefix,
    X: Any,
    y: Any,
    fold: Fold,
    contexts: Sequence[Any],
    settings: dict[str, Any],
) -> list[FoldResult]:
    """Train embedders together; fit what follows, and score, for each candidate.

    Parameters
    ----------
    estimator : estimator
        An embedder, or a pipeline.
    candidates : sequence of dict
        Parameters of all candidates of the search.
    embeddings : sequence of Embedding
        Which of them to fit here.
    before : Before
        What the steps before the embedder made of the training rows.
    X, y : array-like
        All rows.
    fold : Fold
        Which of them to train on and to score.
    contexts : sequence
        scikit-learn's callback contexts of the candidates on this fold.
    settings : dict
        Further arguments of scikit-learn's function that fits and scores.

    Returns
    -------
    list of Fit
    """
    embedders = [
        embedder_of(with_params(estimator, candidates[embedding.candidates[0]]))
        for embedding in embeddings
    ]
    X_train, y_train = _safe_split(estimator, X, y, fold.train)
    rows = before.rows if before.steps else X_train
    outcomes = fit_together(embedders, rows, y_train, fold.seed)
    fits = []
    for embedding, embedder, outcome in zip(embeddings, embedders, outcomes, strict=True):
        for index in embedding.candidates:
            candidate = clone(estimator)
            candidate.fit = _PrefittedFit(candidate, embedder, before, outcome)
            result = fit_and_score_alone(
                candidate, candidates, index, X, y, fold, contexts[index], settings
            )
            seconds = before.seconds + outcome.seconds / len(embedding.candidates)
            result["fit_time"] += seconds
            fits.append(FoldResult(index, fold.index, result, outcome.reason))
    return fits


def fit_and_score_alone(
    candidate: BaseEstimator,
    candidates: Sequence[Params],
    index: int,
    X: Any,
    y: Any,
    fold: Fold,
    context: Any,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Fit and score one candidate as scikit-learn does.

    Parameters
    ----------
    candidate : estimator
        Without the parameters of the candidate, which it gets here.
    candidates, X, y, fold, settings
        As in :func:`fit_and_score`.
    index : int
        Which candidate.
    context : sklearn.callback.CallbackContext or None
        Of this fit.

    Returns
    -------
    dict
        Scores and times, as scikit-learn keeps them.
    """
    return _fit_and_score(
        candidate,
        X,
        y,
        train=fold.train,
        test=fold.test,
        parameters=candidates[index],
        split_progress=(fold.index, settings["n_splits"]),
        candidate_progress=(index, len(candidates)),
        callback_ctx=context,
        **settings["score"],
    )


class _PrefittedFit:
    """Takes the place of a candidate's `fit`: most of it is done already."""

    def __init__(
        self,
        candidate: BaseEstimator,
        embedder: HSCLEmbedder,
        before: FittedPrefix,
        outcome: Outcome,
    ) -> None:
        self.candidate = candidate
        self.embedder = embedder
        self.before = before
        self.outcome = outcome

    def __call__(self, X: Any, y: Any = None) -> BaseEstimator:
        """Fit the steps after the embedder; put the fitted ones before it in place."""
        candidate, before = self.candidate, self.before
        del candidate.fit  # the method comes to light again
        self.outcome.check()
        place = place_of(candidate)
        if not isinstance(candidate, Pipeline):
            params = candidate.get_params(deep=False)
            fitted = vars(self.embedder).items()
            vars(candidate).update({k: v for k, v in fitted if k not in params})
            return candidate
        name, after = candidate.steps[place][0], candidate.steps[place + 1 :]
        if after:
            rest = Pipeline(after, memory=candidate.memory)
            rest.fit(self.embedder.transform(before.rows if before.steps else X), y)
            after = rest.steps
        candidate.steps = [*before.steps, (name, self.embedder), *after]
        return candidate
