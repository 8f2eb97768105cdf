"""Quality and geometry of embeddings along beta, as numbers and as a figure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeAlias, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.metrics import check_scoring
from sklearn.model_selection import BaseCrossValidator, check_cv

from sklearn_hscl.metrics.classification import knn_accuracy
from sklearn_hscl.metrics.geometry import alignment, uniformity
from sklearn_hscl.model_selection.evaluator import Batched
from sklearn_hscl.model_selection.pipeline_split import split_pipeline
from sklearn_hscl.model_selection.search import BatchedGridSearchCV
from sklearn_hscl.plotting.axes import BLUE, GREEN, VERMILION, new_axes_grid
from sklearn_hscl.runtime.global_setting import default_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
# From uniform weights to weights of few negatives of a batch.
BETAS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
# Neighbors that vote if the estimator has no score.
_N_NEIGHBORS = 5
Splitter: TypeAlias = BaseCrossValidator | Iterable[tuple[ArrayLike, ArrayLike]]
Scoring = str | Callable[..., float] | None


@dataclass(frozen=True)
class HardnessPath:
    """Measures of held-out samples along beta, on each fold.

    Attributes
    ----------
    betas : ndarray of shape (n_betas,)
        Values of beta.
    scores : ndarray of shape (n_betas, n_folds)
        Held-out score: accuracy, unless `scoring` was passed.
    effective_negatives : ndarray of shape (n_betas, n_folds)
        Effective number of negatives per anchor, (Σ η)² / Σ η² over the weights η of its
        negatives in a training batch; the mean over the best epoch.
    alignment, uniformity : ndarray of shape (n_betas, n_folds)
        :func:`~sklearn_hscl.metrics.alignment` and
        :func:`~sklearn_hscl.metrics.uniformity` of the embedding of held-out samples.
        Lower is better for both.
    batched : list of Batched
        For each beta whether it was trained in one stack with the others, and why not.
    """

    betas: NDArray[np.float64]
    scores: NDArray[np.float64]
    effective_negatives: NDArray[np.float64]
    alignment: NDArray[np.float64]
    uniformity: NDArray[np.float64]
    batched: list[Batched]


@default_settings(keeps_frames=True)
def hardness_path(
    estimator: BaseEstimator,
    X: ArrayLike,
    y: ArrayLike,
    betas: Sequence[float] = BETAS,
    *,
    cv: int | Splitter = 5,
    scoring: Scoring = None,
    n_jobs: int | None = None,
) -> HardnessPath:
    """Measure score and geometry of the embedding along beta, in one stacked training run.

    Parameters
    ----------
    estimator : HSCLEmbedder or Pipeline
        A bare embedder, or a pipeline with one among its steps.
    X : array-like of shape (n_samples, ...)
        Samples.
    y : array-like of shape (n_samples,)
        Class labels.
    betas : sequence of float, default=(0, 0.25, 0.5, 1, 2, 4, 8)
        Values of beta to try.
    cv : int, splitter or iterable, default=5
        Cross-validation splits; an int makes stratified folds.
    scoring : str or callable, default=None
        Score of held-out samples. None uses the estimator's ``score``. For an estimator
        without one it uses the accuracy of the 5 nearest other held-out samples.
    n_jobs : int, default=None
        Number of worker processes.

    Returns
    -------
    HardnessPath

    Raises
    ------
    ValueError
        If the estimator does not have exactly one embedder, or `betas` is empty or has an
        invalid value.

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
    name = split_pipeline(estimator).name
    search = BatchedGridSearchCV(
        estimator,
        {f"{name}__beta" if name else "beta": [float(beta) for beta in betas]},
        scoring=_MeasureScorer(scoring),
        cv=check_cv(cv, y, classifier=True),
        n_jobs=n_jobs,
        refit=False,
        error_score="raise",
    ).fit(X, y)
    return HardnessPath(
        betas=np.array(betas, dtype=np.float64),
        scores=_by_fold(search, "scores"),
        effective_negatives=_by_fold(search, "effective_negatives"),
        alignment=_by_fold(search, "alignment"),
        uniformity=_by_fold(search, "uniformity"),
        batched=search.batched_,
    )


def _by_fold(search: BatchedGridSearchCV, measure: str) -> NDArray[np.float64]:
    folds = range(search.n_splits_)
    columns = [np.asarray(search.cv_results_[f"split{k}_test_{measure}"]) for k in folds]
    return np.stack(columns, axis=1)


class _Measures(TypedDict):
    scores: float
    effective_negatives: float
    alignment: float
    uniformity: float


class _MeasureScorer:
    """Measures a fitted candidate, as ``scoring`` of a search."""

    def __init__(self, scoring: Scoring) -> None:
        self.scoring = scoring

    def __call__(self, estimator: BaseEstimator, X: ArrayLike, y: ArrayLike) -> _Measures:
        split = split_pipeline(estimator)
        embedder = split.embedder
        embedding = np.asarray(embedder.transform(split.transform_before(X)))
        best_epoch = embedder.history_[embedder.best_epoch_ - 1]
        return {
            "scores": self._score(estimator, X, y, embedding),
            "effective_negatives": best_epoch["effective_negatives"],
            "alignment": alignment(embedding, y),
            "uniformity": uniformity(embedding),
        }

    def _score(
        self,
        estimator: BaseEstimator,
        X: ArrayLike,
        y: ArrayLike,
        embedding: NDArray[np.floating],
    ) -> float:
        if self.scoring is None and not hasattr(estimator, "score"):
            n_neighbors = min(_N_NEIGHBORS, len(embedding) - 1)
            return knn_accuracy(embedding, y, n_neighbors=n_neighbors, weights="uniform")
        return check_scoring(estimator, self.scoring)(estimator, X, y)


# Figure ------------------------------------------------------------------------------


class HardnessPathDisplay:
    """Held-out score and geometry of the embedding along beta.

    The figure has three panels: the held-out score, the effective number of negatives, and
    alignment with uniformity. Bands show one standard error over the folds. Values of beta
    are equally spaced, as they are rarely tried on a linear scale.

    Parameters
    ----------
    path : HardnessPath
        As returned by :func:`hardness_path`.
    score_name : str, default="Held-out score"
        Label of the score.

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : ndarray of 3 matplotlib Axes
    lines_ : list of 4 matplotlib Line2D
        Score, effective negatives, alignment, uniformity.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_hscl import HSCLEmbedder
    >>> from sklearn_hscl.model_selection import HardnessPathDisplay
    >>> X, y = load_wine(return_X_y=True)
    >>> embedder = HSCLEmbedder(encoder="mlp", max_epochs=5, random_state=0)
    >>> pipe = make_pipeline(embedder, LogisticRegression())
    >>> display = HardnessPathDisplay.from_estimator(pipe, X, y, betas=[0, 1, 4], cv=3)
    >>> len(display.axes_)
    3
    """

    def __init__(self, path: HardnessPath, *, score_name: str = "Held-out score") -> None:
        self.path = path
        self.score_name = score_name

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: ArrayLike,
        y: ArrayLike,
        betas: Sequence[float] = BETAS,
        *,
        cv: int | Splitter = 5,
        scoring: Scoring = None,
        n_jobs: int | None = None,
        axes: Sequence["Axes"] | None = None,
    ) -> Self:
        """Measure the path and plot it.

        Parameters
        ----------
        estimator, X, y, betas, cv, scoring, n_jobs
            As for :func:`hardness_path`.
        axes : sequence of 3 matplotlib Axes, default=None
            Axes to plot on; None makes a figure.

        Returns
        -------
        HardnessPathDisplay
        """
        path = hardness_path(estimator, X, y, betas, cv=cv, scoring=scoring, n_jobs=n_jobs)
        name = f"Held-out {scoring}" if isinstance(scoring, str) else "Held-out accuracy"
        if callable(scoring):
            name = "Held-out score"
        return cls(path, score_name=name).plot(axes)

    def plot(self, axes: Sequence["Axes"] | None = None) -> Self:
        """Plot the path.

        Parameters
        ----------
        axes : sequence of 3 matplotlib Axes, default=None
            Axes to plot on; None makes a figure.

        Returns
        -------
        HardnessPathDisplay
        """
        if axes is None:
            axes = new_axes_grid(3, sharex=True, figsize=(6, 7))
        score, count, geometry = self.axes_ = np.asarray(axes)
        self.figure_ = score.figure
        path = self.path
        self.lines_ = [
            self._line(score, path.scores, BLUE, self.score_name),
            self._line(count, path.effective_negatives, BLUE, "Effective negatives"),
            self._line(geometry, path.alignment, VERMILION, "Alignment"),
            self._line(geometry, path.uniformity, GREEN, "Uniformity", marker="s"),
        ]
        score.set_ylabel(self.score_name)
        count.set_ylabel("Effective negatives")
        geometry.set_ylabel("Lower is better")
        geometry.legend()
        geometry.set_xlabel("beta")
        geometry.set_xticks(range(len(path.betas)), [f"{beta:g}" for beta in path.betas])
        return self

    def _line(
        self,
        ax: "Axes",
        values: NDArray[np.float64],
        color: str,
        label: str,
        marker: str = "o",
    ) -> "Line2D":
        """Plot the mean over folds, and one standard error on either side."""
        index = np.arange(len(values))
        mean = values.mean(axis=1)
        error = values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
        ax.fill_between(index, mean - error, mean + error, color=color, alpha=0.2, lw=0)
        (line,) = ax.plot(index, mean, color=color, marker=marker, label=label)
        return line
