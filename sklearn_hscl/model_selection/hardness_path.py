"""What the strength of the tilt does: quality and geometry of embeddings along beta."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.metrics import check_scoring
from sklearn.model_selection import check_cv
from sklearn.pipeline import Pipeline

from sklearn_hscl.metrics import alignment, knn_accuracy, uniformity
from sklearn_hscl.model_selection.evaluator import Batched
from sklearn_hscl.model_selection.grouping import find_embedder, place_of, steps_of
from sklearn_hscl.model_selection.search import BatchedGridSearchCV

# From no tilt to one that leaves few of a batch's negatives.
BETAS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
MEASURES = ("scores", "effective_negatives", "alignment", "uniformity")
# Neighbours that vote where there is no classifier to score.
_N_NEIGHBORS = 5


@dataclass(frozen=True)
class HardnessPath:
    """Measures of held-out rows along beta, on each fold.

    Attributes
    ----------
    betas : ndarray of shape (n_betas,)
        Strengths of the tilt.
    scores : ndarray of shape (n_betas, n_folds)
        Held-out score: accuracy, unless another was asked for.
    effective_negatives : ndarray of shape (n_betas, n_folds)
        (Σ η)² / Σ η² over an anchor's negatives in a training batch, averaged over the
        epoch whose weights were kept: how many negatives really count.
    alignment, uniformity : ndarray of shape (n_betas, n_folds)
        Of the embedding of held-out rows; see :func:`sklearn_hscl.metrics.alignment` and
        :func:`sklearn_hscl.metrics.uniformity`. Lower is better for both.
    batched : list of Batched
        For each beta whether it was trained together with the others, and why not.
    """

    betas: NDArray[np.float64]
    scores: NDArray[np.float64]
    effective_negatives: NDArray[np.float64]
    alignment: NDArray[np.float64]
    uniformity: NDArray[np.float64]
    batched: list[Batched]


def hardness_path(
    estimator: BaseEstimator,
    X: ArrayLike,
    y: ArrayLike,
    betas: Sequence[float] = BETAS,
    *,
    cv: Any = 5,
    scoring: str | Callable[..., float] | None = None,
    n_jobs: int | None = None,
) -> HardnessPath:
    """Measure what the strength of the tilt does, in one stacked training run.

    Parameters
    ----------
    estimator : HSCLEmbedder or Pipeline
        A bare embedder, or a pipeline with one among its steps.
    X : array-like of shape (n_samples, ...)
        Rows.
    y : array-like of shape (n_samples,)
        Class labels.
    betas : sequence of float, default=(0, 0.25, 0.5, 1, 2, 4, 8)
        Strengths of the tilt to try.
    cv : int, splitter or iterable, default=5
        How to hold rows out; an int makes stratified folds.
    scoring : str or callable, default=None
        Score of held-out rows; None takes the estimator's own, and for an embedder
        that no classifier follows the share of rows whose 5 nearest other held-out rows
        vote for their class.
    n_jobs : int, default=None
        Worker processes.

    Returns
    -------
    HardnessPath

    Raises
    ------
    ValueError
        If the estimator holds no embedder, or `betas` is empty or holds what is no beta.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_hscl import HSCLEmbedder
    >>> from sklearn_hscl.model_selection import hardness_path
    >>> X, y = load_wine(return_X_y=True)
    >>> embedder = HSCLEmbedder(encoder="mlp", max_epochs=5, random_state=0)
    >>> pipe = make_pipeline(embedder, LogisticRegression())
    >>> path = hardness_path(pipe, X, y, betas=[0, 1, 4], cv=3)
    >>> path.scores.shape
    (3, 3)
    >>> bool(path.effective_negatives[0].mean() > path.effective_negatives[2].mean())
    True
    """
    place = find_embedder(estimator)
    if isinstance(place, str):
        raise ValueError(f"hardness_path needs an HSCLEmbedder, but {place}.")
    name = steps_of(estimator)[place][0]
    search = BatchedGridSearchCV(
        estimator,
        {f"{name}__beta" if name else "beta": [float(beta) for beta in betas]},
        scoring=_Measures(scoring),
        cv=check_cv(cv, y, classifier=True),
        n_jobs=n_jobs,
        refit=False,
        error_score="raise",
    ).fit(X, y)
    return HardnessPath(
        betas=np.array(betas, dtype=np.float64),
        batched=search.batched_,
        **{measure: _by_fold(search, measure) for measure in MEASURES},
    )


def _by_fold(search: BatchedGridSearchCV, measure: str) -> NDArray[np.float64]:
    folds = range(search.n_splits_)
    columns = [search.cv_results_[f"split{k}_test_{measure}"] for k in folds]
    return np.stack(columns, axis=1)


class _Measures:
    """All measures of one fitted candidate, for scikit-learn's ``scoring``."""

    def __init__(self, scoring: str | Callable[..., float] | None) -> None:
        self.scoring = scoring

    def __call__(self, estimator: BaseEstimator, X: Any, y: Any) -> dict[str, float]:
        place = place_of(estimator)
        embedder = steps_of(estimator)[place][1]
        until = estimator[: place + 1] if isinstance(estimator, Pipeline) else embedder
        embedding = until.transform(X)
        kept = embedder.history_[embedder.best_epoch_ - 1]
        return {
            "scores": self._score(estimator, X, y, embedding),
            "effective_negatives": kept["effective_negatives"],
            "alignment": alignment(embedding, y),
            "uniformity": uniformity(embedding),
        }

    def _score(
        self, estimator: BaseEstimator, X: Any, y: Any, embedding: NDArray[Any]
    ) -> float:
        if self.scoring is None and not hasattr(estimator, "score"):
            n_neighbors = min(_N_NEIGHBORS, len(embedding) - 1)
            return knn_accuracy(embedding, y, n_neighbors=n_neighbors, weights="uniform")
        return check_scoring(estimator, self.scoring)(estimator, X, y)
